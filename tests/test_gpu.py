"""What only a GPU can show. Runs by itself wherever there is one: `python -m pytest tests/test_gpu.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from skin.bench.report import Report
from skin.data.images import Preprocess
from skin.model.cpu_kernels import accelerate
from skin.model.network import Classifier, build, preprocess_for
from skin.model.precision import choose
from skin.training import ema
from skin.utils import memory

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.gpu
RunScript = Callable[..., "CompletedProcess[str]"]

MEASURE = (
    "--model", "efficientnet_b0", "--image-size", "64", "--batch-size", "8", "--steps", "3", "--warmup", "1",
    "--rounds", "1",
)  # fmt: skip


def classifier(amp: str) -> Classifier:
    torch.manual_seed(0)
    preprocess: Preprocess = preprocess_for("efficientnet_b0", 64)
    device = torch.device("cuda")
    network = build("efficientnet_b0", 3)
    return Classifier(network, preprocess, choose(amp, device)).to(device).eval()


def test_amp_gives_nearly_the_logits_of_float32() -> None:
    images = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, device="cuda")
    with torch.no_grad():
        exact, half = classifier("off")(images), classifier("auto")(images)
    assert half.dtype is torch.float32
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0.05)


def test_the_cpus_layers_stay_off_the_gpu() -> None:
    network = build("efficientnet_b0", 3)
    kinds = [type(m) for m in network.modules()]
    accelerate(network, torch.device("cuda"))
    assert [type(m) for m in network.modules()] == kinds


def test_the_mean_of_the_weights_waits_for_no_gpu() -> None:
    model = classifier("auto")
    average = ema.Average(model, 0.9)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            average.update(model)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_is_read_for_each_gpu() -> None:
    device = torch.device("cuda", 0)
    memory.reset_peaks([device])
    block = torch.empty(64 * 2**20, dtype=torch.uint8, device=device)
    reading = memory.read([device])
    assert reading.gpus[0].allocated_mib >= block.numel() / 2**20
    assert reading.gpus[0].reserved_mib >= reading.gpus[0].allocated_mib


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_data_parallel_replicas_compute_in_the_precision_that_was_chosen() -> None:
    model = nn.DataParallel(classifier("bf16"))
    images = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, device="cuda")
    with torch.no_grad():
        torch.testing.assert_close(model(images), model.module(images), rtol=0.05, atol=0.05)


def run_benchmark(run_script: RunScript, folder: Path, *options: str) -> dict[str, Any]:
    done = run_script("benchmark.py", *MEASURE, *options, "--json", folder / "b.json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((folder / "b.json").read_text())
    assert Report.from_json(report).to_json()["cells"] == report["cells"]
    return report


def test_every_case_of_one_gpu_is_measured(run_script: RunScript, tmp_path: Path) -> None:
    report = run_benchmark(run_script, tmp_path, "--gpus", "1")
    assert [cell["status"] for cell in report["cells"]] == ["ok"] * 4
    assert report["environment"]["gpu_devices"][0]["name"] == torch.cuda.get_device_name(0)
    ours = report["cells"][0]
    assert ours["precision"] == "float16"
    assert ours["memory"]["gpus"][0]["allocated_mib"] > 0


def test_the_compiled_step_is_measured(run_script: RunScript, tmp_path: Path) -> None:
    report = run_benchmark(run_script, tmp_path, "--gpus", "1", "--amp", "on", "--recipes", "ours-compiled")
    assert [cell["status"] for cell in report["cells"]] == ["ok"]


def test_the_largest_batch_is_found(run_script: RunScript, demo_folder: Path, tmp_path: Path) -> None:
    """Of the demo set's few images, which all fit."""
    options = ("--gpus", "1", "--amp", "on", "--recipes", "ours", "--find-batch", "--data", str(demo_folder))
    (cell,) = run_benchmark(run_script, tmp_path, *options)["cells"]
    assert cell["status"] == "ok"
    assert cell["batch_size"] == cell["largest_batch_size"] > 32


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_both_ways_of_using_two_gpus_are_measured(run_script: RunScript, tmp_path: Path) -> None:
    report = run_benchmark(run_script, tmp_path, "--gpus", "2", "--amp", "on", "--recipes", "ours")
    assert [(c["parallel"], c["status"]) for c in report["cells"]] == [("dp", "ok"), ("ddp", "ok")]
    assert [len(c["memory"]["gpus"]) for c in report["cells"]] == [2, 2]
    assert all(gpu["allocated_mib"] > 0 for c in report["cells"] for gpu in c["memory"]["gpus"])
    assert len({gpu["uuid"] for gpu in report["environment"]["gpu_devices"]}) == torch.cuda.device_count()
