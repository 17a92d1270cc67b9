"""A warning if the class follows from metadata alone."""

from __future__ import annotations

from dataclasses import replace

from skin.evaluation import pages, report
from skin.evaluation.answers import Predictions, Without
from skin.evaluation.metadata_alone import is_shortcut, measure, said
from skin.model.calibration import MetadataAlone

import numpy as np
import pytest

LABELS = np.arange(300) % 3
HALF = np.repeat([True, False], 150)  # of the images, for which the metadata tell the class


def shares(told: np.ndarray) -> np.ndarray:
    """One place per class, which is the image's own if it is told."""
    rows = np.eye(3, dtype=np.float32)[LABELS]
    rows[~told] = 0
    return rows


def test_metadata_that_tell_the_class_of_all_are_a_shortcut() -> None:
    rows = shares(np.ones(300, bool))
    found = measure((rows, LABELS), (rows, LABELS), np.arange(300), np.eye(3)[LABELS])
    assert found is not None
    assert (found["balanced_accuracy"], found["model"]) == (1, 1)
    assert found["chance"] == pytest.approx(1 / 3)
    assert is_shortcut(found)
    assert "answer by who is photographed and where" in said(found)


def test_metadata_that_tell_nothing_are_none() -> None:
    rows = shares(np.zeros(300, bool))
    found = measure((rows, LABELS), (rows, LABELS), np.arange(300), np.eye(3)[LABELS])
    assert found is not None
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)  # one class for all
    assert not is_shortcut(found)
    assert said(found).endswith("in validation; chance 0.333, the model 1.000")


def test_metadata_that_tell_half_of_the_images_their_class() -> None:
    rows = shares(HALF)
    found = measure((rows, LABELS), (rows, LABELS), np.arange(300), np.eye(3)[LABELS])
    assert found is not None
    # All others are called one class, which is right for a third of them.
    assert found["balanced_accuracy"] == pytest.approx(1 / 2 + 1 / 6)
    assert found["low"] < 2 / 3 < found["high"]
    assert not is_shortcut(found)  # its lower end is below the middle of 1/3 and 1


@pytest.mark.parametrize(
    ("low", "model", "expected"), [(0.46, 0.75, True), (0.44, 0.75, False), (0.16, 0.15, True), (0.1, 0.15, False)]
)
def test_the_limit_is_half_of_the_way_from_chance_to_the_model(low: float, model: float, expected: bool) -> None:
    found: MetadataAlone = {"balanced_accuracy": 0.5, "low": low, "high": 0.6, "model": model, "chance": 1 / 7}
    assert is_shortcut(found) is expected  # the limits are 0.446 and 0.146


def test_a_report_compares_with_the_pixels_alone() -> None:
    """With metadata 270 of 300 images are answered rightly, by the pixels alone 200, which are among them."""
    wrong = (LABELS + 1) % 3
    with_metadata, alone = np.arange(300) < 270, np.arange(300) < 200
    logits, of_pixels = (np.log(0.8 * np.eye(3)[np.where(right, LABELS, wrong)] + 0.1)
                         for right in (with_metadata, alone))  # fmt: skip
    found: MetadataAlone = {"balanced_accuracy": 0.7, "low": 0.65, "high": 0.75, "model": 0.8, "chance": 1 / 3}
    made = report.build(
        Predictions(
            classes=("a", "b", "c"), labels=LABELS, logits=logits, distance=np.zeros(300), groups=np.arange(300),
            calibration={}, without=Without(of_pixels, {"age": 0.9}),
        ),
        rounds=50,
    )  # fmt: skip
    assert made.metadata is not None
    assert made.metadata.overall.before["accuracy"].value == pytest.approx(200 / 300)
    assert made.metadata.overall.after["accuracy"] == made.metrics["accuracy"]
    assert made.metadata.overall.difference["accuracy"].value == pytest.approx(70 / 300)
    assert made.metadata.known == {"age": 0.9}
    assert (made.metadata.alone, made.metadata.shortcut) == ("", False)  # not measured
    text = pages.markdown(replace(made, metadata=replace(made.metadata, alone=said(found), shortcut=True)))
    assert "known: age of 90 % of the images" in text
    assert "WARNING: Metadata alone, without the picture: balanced accuracy 0.700 (0.650 to 0.750)" in text


def test_a_split_without_images_or_with_one_class_tells_nothing() -> None:
    rows = shares(HALF)
    none = rows[:0], LABELS[:0]
    assert measure((rows, LABELS), none, np.arange(0), np.zeros((0, 3))) is None
    assert measure((rows, 0 * LABELS), (rows, LABELS), np.arange(300), np.eye(3)[LABELS]) is None
