"""The moving average of the weights, against one written out by hand."""

from __future__ import annotations

import copy

from skin.model.network import Classifier, build, preprocess_for
from skin.model.precision import Precision
from skin.training import ema
from skin.utils.parallel import Topology

import pytest
import torch

CPU = Topology(torch.device("cpu"))


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(
        build("efficientnet_b0", 3), preprocess_for("efficientnet_b0", 32), Precision("cpu", None)
    )  # fmt: skip


def move(classifier: Classifier) -> None:
    """What a step does: other weights, other statistics, one more batch counted."""
    with torch.no_grad():
        for tensor in classifier.network.state_dict().values():
            tensor += torch.randn(tensor.shape) * 0.1 if tensor.is_floating_point() else 1


def test_a_decay_of_zero_is_no_average(classifier: Classifier) -> None:
    assert ema.averaged(classifier, 0.0) is None


def test_short_runs_have_a_short_memory() -> None:
    assert ema.decay_at(1, 0.998) == pytest.approx(2 / 11)
    assert ema.decay_at(90, 0.998) == pytest.approx(0.91)
    assert ema.decay_at(10**6, 0.998) == 0.998
    assert ema.decay_at(10**6, 0.1) == 0.1


def test_weights_and_statistics_are_averaged_and_counts_are_copied(classifier: Classifier) -> None:
    model = ema.averaged(classifier, 0.5)
    assert model is not None
    names = ("classifier.1.bias", "features.0.1.running_var", "features.0.1.num_batches_tracked")
    by_hand: list[torch.Tensor] = []
    for step in range(4):
        move(classifier)
        model.update(classifier)
        now = [classifier.network.state_dict()[name].clone() for name in names]
        decay = min(0.5, (1 + step) / (10 + step))
        if step == 0:
            by_hand = now[:2]
        by_hand = [mean * decay + new * (1 - decay) for mean, new in zip(by_hand, now[:2], strict=True)]
        found = model.classifier.network.state_dict()
        assert torch.allclose(found[names[0]], by_hand[0], atol=1e-6)
        assert torch.allclose(found[names[1]], by_hand[1], atol=1e-6)
        assert torch.equal(found[names[2]], now[2])
    assert not any(parameter.requires_grad for parameter in model.classifier.parameters())


def test_no_step_looks_at_the_value_of_a_tensor(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would have to wait until a GPU has come to it."""
    model = ema.averaged(classifier, 0.9)
    assert model is not None

    def looked(*arguments: object) -> None:
        raise AssertionError

    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, looked)
    for _ in range(3):
        model.update(classifier)
    assert model.steps == 3


def test_a_state_goes_on_to_the_same_bits(classifier: Classifier) -> None:
    model, other = ema.averaged(classifier, 0.9), ema.averaged(classifier, 0.9)
    assert model is not None
    assert other is not None
    for _ in range(3):
        move(classifier)
        model.update(classifier)
    state = copy.deepcopy(ema.state(model, CPU))
    assert state is not None
    ema.restore(other, {**state, "statistics": state["statistics"][0]})
    move(classifier)
    for each in (model, other):
        each.update(classifier)
    after, expected = other.classifier.state_dict(), model.classifier.state_dict()
    assert all(torch.equal(after[name], expected[name]) for name in expected)
