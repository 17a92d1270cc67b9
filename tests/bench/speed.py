"""Timings of the parts that a run waits for: `make bench` runs and stores them, `--benchmark-compare` compares."""

from __future__ import annotations

from pathlib import Path

from skin.data.augment import augment
from skin.data.images import Preprocess, read_image
from skin.evaluation import metrics
from skin.model import checkpoint
from skin.model.cpu_kernels import accelerate
from skin.model.network import Classifier, build, preprocess_for
from skin.model.precision import choose
from train import weighted_cross_entropy

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

CPU = torch.device("cpu")


def test_decode_and_resize_one_jpeg(benchmark: BenchmarkFixture, jpegs: list[Path], preprocess: Preprocess) -> None:
    stored = benchmark(read_image, jpegs[0], preprocess)
    assert min(stored.shape[:2]) == preprocess.resize_size


def test_augment_a_batch_of_32(benchmark: BenchmarkFixture, preprocess: Preprocess, rng: np.random.Generator) -> None:
    stored = rng.integers(0, 256, (32, 320, 427, 3), dtype=np.uint8)
    views = np.empty((32, 300, 300, 3), np.uint8)

    def batch() -> None:
        for index, (image, view) in enumerate(zip(stored, views, strict=True)):
            augment(image, 300, (0, 0, index), out=view)

    benchmark(batch)
    assert views.any()


@pytest.mark.parametrize("amp", ["off", "auto"])
@pytest.mark.parametrize("fast", [False, True], ids=["torch", "accelerated"])
def test_a_step_of_b0_at_128_px(benchmark: BenchmarkFixture, fast: bool, amp: str) -> None:
    torch.manual_seed(0)
    network = build("efficientnet_b0", 7)
    if fast:
        accelerate(network, CPU)
    classifier = Classifier(network, preprocess_for("efficientnet_b0", 128), choose(amp, CPU)).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=fast)
    images = torch.randint(0, 256, (16, 128, 128, 3), dtype=torch.uint8)
    labels = torch.arange(16) % 7

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(classifier(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    assert benchmark.pedantic(step, rounds=5, warmup_rounds=1) > 0


def test_the_weighted_loss(benchmark: BenchmarkFixture) -> None:
    logits = torch.randn(128, 7, requires_grad=True)
    labels, weights = torch.arange(128) % 7, torch.rand(7)

    def loss_and_gradient() -> None:
        logits.grad = None
        mean, _ = weighted_cross_entropy(logits, labels, weights)
        mean.backward()

    benchmark(loss_and_gradient)
    assert logits.grad is not None


def test_the_figures_of_a_validation_pass(benchmark: BenchmarkFixture, rng: np.random.Generator) -> None:
    labels = rng.integers(0, 7, 2000)
    probabilities = rng.dirichlet(np.ones(7), 2000)

    def figures() -> tuple[float, float, float, float]:
        return (
            metrics.accuracy(labels, probabilities),
            metrics.balanced_accuracy(labels, probabilities),
            metrics.macro_auc(labels, probabilities),
            metrics.value("log_loss", labels, probabilities),
        )

    assert np.isfinite(benchmark(figures)).all()


def test_saving_a_checkpoint_of_b3(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    state = {"model": build("efficientnet_b3", 7).state_dict()}
    benchmark(checkpoint.save, state, tmp_path / "last.pt")
    assert (tmp_path / "last.pt").stat().st_size > 40e6
