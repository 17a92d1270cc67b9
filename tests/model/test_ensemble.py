"""Several models as one: their file, their average, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skin import load_classifier
from skin.model import checkpoint
from skin.model.ensemble import save_ensemble
from tests import tiny

import numpy as np
import pytest
import torch

PICTURES = np.stack([tiny.picture(seed, 64, 64) for seed in range(6)])
SWAPPED = ("nv", "mel", *(name for name in tiny.CLASSES if name not in ("nv", "mel")))


def fitted(temperature: float, biases: list[float], seed: int) -> dict[str, Any]:
    """A calibration with answers to twelve images; its flag's distance is 1 for every image."""
    found = tiny.calibration(temperature, threshold=0.2, unlike_threshold=1 / 1280)
    logits = torch.randn(12, 7, generator=torch.Generator().manual_seed(seed))
    answers = {"logits": logits, "labels": torch.arange(12) % 7, "groups": torch.arange(12) // 2}
    return {**found, "biases": biases, "answers": answers}


def other(path: Path, state: dict[str, Any], seed: int, **changes: Any) -> Path:
    """Write another model: the same network with another head."""
    head = state["model"]["classifier.1.weight"]
    noise = torch.randn(head.shape, generator=torch.Generator().manual_seed(seed))
    path.parent.mkdir()
    model = {**state["model"], "classifier.1.weight": head + head.std() * noise}
    checkpoint.save({**state, **changes, "model": model}, path)
    return path


def swapped(state: dict[str, Any]) -> dict[str, Any]:
    """The same model with its classes in the order `SWAPPED`."""
    order = [tiny.CLASSES.index(name) for name in SWAPPED]
    model = dict(state["model"])
    for name in ("classifier.1.weight", "classifier.1.bias"):
        model[name] = model[name][order]
    own = dict(state["calibration"])
    answers = own["answers"]
    labels = torch.tensor([order.index(int(label)) for label in answers["labels"]])
    own |= {"biases": [own["biases"][n] for n in order],
            "answers": {**answers, "logits": answers["logits"][:, order], "labels": labels}}  # fmt: skip
    return {**state, "model": model, "classes": list(SWAPPED), "calibration": own}


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two calibrated models of the same classes, B0 at 64 pixels."""
    folder = tmp_path_factory.mktemp("members")
    (folder / "a").mkdir()
    own = fitted(1.5, [1.0, -1.0, 0.0, 2.0, 0.0, 0.0, -2.0], 1)
    first = tiny.write_checkpoint(folder / "a" / "best.pt", calibration=own)
    state = checkpoint.load(first)
    changed = fitted(0.8, [0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0], 2)
    return [first, other(folder / "b" / "best.pt", state, 1, calibration=changed)]


def probabilities(path: Path, views: int = 1) -> np.ndarray:
    model = load_classifier(path, device="cpu", amp="off")
    return np.stack([p.probabilities for p in model.predict_pixels(PICTURES, views=views)])


@pytest.mark.parametrize("views", [1, 2])
def test_an_ensemble_of_one_model_answers_as_the_model(members: list[Path], tmp_path: Path, views: int) -> None:
    save_ensemble(members[:1], tmp_path / "one.pt")
    np.testing.assert_allclose(probabilities(tmp_path / "one.pt", views), probabilities(members[0], views), atol=2e-6)


def test_of_two_the_calibrated_probabilities_are_averaged(members: list[Path], tmp_path: Path) -> None:
    made = save_ensemble(members, tmp_path / "two.pt")
    assert made.model_name == "2 x efficientnet_b0"
    assert [source["file"] for source in made.sources] == ["a/best.pt", "b/best.pt"]
    expected = (probabilities(members[0]) + probabilities(members[1])) / 2
    assert np.abs(probabilities(members[0]) - probabilities(members[1])).max() > 0.1
    np.testing.assert_allclose(probabilities(tmp_path / "two.pt"), expected, atol=2e-6)
