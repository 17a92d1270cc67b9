"""Class weights and the weighted cross entropy, against scikit-learn, PyTorch and numbers worked out by hand."""

from __future__ import annotations

import math

from skin.training.losses import class_weights, logit_offsets
from train import weighted_cross_entropy

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn


def test_balanced_weights_by_hand() -> None:
    labels = np.array([0, 0, 0, 1])  # 4 / (2 * 3) and 4 / (2 * 1)
    assert class_weights(labels, 2).tolist() == pytest.approx([2 / 3, 2.0])


def test_balanced_weights_are_scikit_learns() -> None:
    labels = np.random.default_rng(0).choice(7, 500, p=[0.67, 0.11, 0.11, 0.05, 0.03, 0.02, 0.01])
    expected = compute_class_weight("balanced", classes=np.arange(7), y=labels)
    weights = class_weights(labels, 7)
    assert weights.dtype == torch.float32
    assert weights.numpy() == pytest.approx(expected)
    assert weights.numpy()[labels].mean() == pytest.approx(1, rel=1e-6)


def test_a_class_without_images_weighs_nothing_and_breaks_nothing() -> None:
    assert class_weights(np.array([0, 2, 2]), 3).tolist() == pytest.approx([1.0, 0.0, 0.5])


@pytest.mark.parametrize("kind", ["none", "logits"])
def test_no_weights_are_ones(kind: str) -> None:
    assert class_weights(np.array([0, 0, 1]), 2, kind).tolist() == [1.0, 1.0]


def test_offsets_are_the_logs_of_the_shares_and_finite_for_a_class_without_images() -> None:
    offsets = logit_offsets(np.array([0, 0, 2, 2, 2, 2, 2, 2]), 3, "logits")
    assert offsets.dtype == torch.float32
    assert offsets.tolist() == pytest.approx([math.log(1 / 4), math.log(1 / 8), math.log(3 / 4)])


@pytest.mark.parametrize("kind", ["none", "balanced"])
def test_weights_need_no_offsets(kind: str) -> None:
    assert logit_offsets(np.array([0, 0, 1]), 2, kind).tolist() == [0.0, 0.0]


def learnt(kind: str, counts: tuple[int, int]) -> float:
    """Return logit 1 less logit 0 where the loss of these numbers of images that look all the same is least."""
    labels = np.repeat([0, 1], counts)
    weights, offsets = class_weights(labels, 2, kind), logit_offsets(labels, 2, kind)
    logits = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], lr=0.5, max_iter=200, tolerance_change=1e-12)

    def loss() -> float:
        optimizer.zero_grad()
        mean, _ = weighted_cross_entropy(logits.expand(len(labels), 2) + offsets, torch.from_numpy(labels), weights)
        mean.backward()
        return float(mean.detach())

    optimizer.step(loss)
    return float((logits[1] - logits[0]).detach())


def test_offsets_and_weights_learn_the_logits_of_equally_common_classes() -> None:
    assert learnt("balanced", (90, 10)) == pytest.approx(0, abs=1e-3)
    assert learnt("logits", (90, 10)) == pytest.approx(0, abs=1e-3)
    assert learnt("none", (90, 10)) == pytest.approx(math.log(1 / 9), abs=1e-3)


def test_the_weighted_mean_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])  # p of the true class: 1/2, and 1/4
    mean, weight = weighted_cross_entropy(logits, torch.tensor([0, 1]), torch.tensor([2.0, 5.0]))
    assert float(mean) == pytest.approx((2 * math.log(2) + 5 * math.log(4)) / 7)
    assert float(weight) == 7


@pytest.fixture
def epoch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and labels of 96 images of 7 classes, and the classes' weights."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (96,), generator=draw)
    return torch.randn(96, 7, generator=draw), labels, class_weights(labels.numpy(), 7)


def test_the_mean_is_torchs_to_the_last_bit(epoch: tuple[torch.Tensor, ...]) -> None:
    logits, labels, weights = epoch
    mean, _ = weighted_cross_entropy(logits, labels, weights)
    assert torch.equal(mean, nn.CrossEntropyLoss(weights)(logits, labels))


def test_two_halves_add_up_where_the_mean_of_their_means_does_not(epoch: tuple[torch.Tensor, ...]) -> None:
    logits, labels, weights = epoch
    order = labels.argsort()  # unlike halves
    halves = [weighted_cross_entropy(logits[half], labels[half], weights) for half in (order[:48], order[48:])]
    whole, weight = weighted_cross_entropy(logits, labels, weights)
    assert float(sum(w for _, w in halves)) == pytest.approx(float(weight))
    assert float(sum(m * w for m, w in halves) / weight) == pytest.approx(float(whole))

    of_means = sum(m for m, _ in halves) / 2
    assert abs(float(of_means - whole)) > 1e-3


# ---- mixed and smoothed labels --------------------------------------------------------------------------


def test_a_mixed_image_counts_each_class_by_its_share_and_weight() -> None:
    """p = (1/4, 3/4), weights 2 and 5, shares 0.6 and 0.4: 1.2 ln 4 + 2 ln(4/3), over 1.2 + 2."""
    logits, shares = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.6, 0.4]])
    mean, weight = weighted_cross_entropy(logits, shares, torch.tensor([2.0, 5.0]))
    assert float(weight) == pytest.approx(3.2)
    assert float(mean) == pytest.approx((1.2 * math.log(4) + 2 * math.log(4 / 3)) / 3.2)


def test_unmixed_shares_are_labels(epoch: tuple[torch.Tensor, ...]) -> None:
    logits, labels, weights = epoch
    shares = torch.nn.functional.one_hot(labels, 7).float()
    for smoothing in (0.0, 0.1):
        of_shares = weighted_cross_entropy(logits, shares, weights, smoothing)
        of_labels = weighted_cross_entropy(logits, labels, weights, smoothing)
        assert [float(x) for x in of_shares] == pytest.approx([float(x) for x in of_labels], rel=1e-5)


def test_without_class_weights_smoothing_is_that_of_torch(epoch: tuple[torch.Tensor, ...]) -> None:
    logits, labels, _ = epoch
    mean, weight = weighted_cross_entropy(logits, labels, torch.ones(7), 0.1)
    assert float(weight) == 96
    assert float(mean) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)))


def test_the_smoothed_share_goes_to_all_classes_alike() -> None:
    """torch's would pull the rare class up nine times as hard as the common ones."""
    logits = torch.zeros(1, 3, requires_grad=True)
    mean, weight = weighted_cross_entropy(logits, torch.tensor([0]), torch.tensor([1.0, 1.0, 9.0]), 0.3)
    mean.backward()
    assert float(weight) == 1
    # softmax minus the smoothed label: 1/3 - (0.7 + 0.1), 1/3 - 0.1, 1/3 - 0.1
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([1 / 3 - 0.8, 1 / 3 - 0.1, 1 / 3 - 0.1])
