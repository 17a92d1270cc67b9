"""What people are told of a model before they rely on it."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import date
from typing import Any

from skin.model.checkpoint import Checkpoint, load_best
from skin.model.facts import Found, facts_of
from tests import tiny

import pytest
import torch

MEL, NV = tiny.CLASSES.index("mel"), tiny.CLASSES.index("nv")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tiny.write_checkpoint(tmp_path_factory.mktemp("run") / "best.pt")
    os.utime(path, (1_700_000_000, 1_700_000_000))  # 14 November 2023
    return load_best(path)


def with_answers(checkpoint: Checkpoint, labels: list[int], chosen: list[int], groups: list[int]) -> Checkpoint:
    """A checkpoint that called its validation images `chosen`."""
    logits = torch.nn.functional.one_hot(torch.tensor(chosen), len(checkpoint.classes)).float()
    answers = {"logits": logits, "labels": torch.tensor(labels), "groups": torch.tensor(groups)}
    calibration: Any = tiny.calibration(temperature=1.0, threshold=0.2, unlike_threshold=1e9) | {"answers": answers}
    return replace(checkpoint, calibration=calibration)


def test_a_bare_checkpoint_says_so(checkpoint: Checkpoint) -> None:
    facts = facts_of(checkpoint)
    assert (facts.data, facts.demo, facts.calibration_images, facts.found) == (None, False, 0, None)
    assert abs((facts.saved - date(2023, 11, 14)).days) <= 1, "wherever the clock is set"


def test_the_data_is_named_by_its_folder(checkpoint: Checkpoint) -> None:
    facts = facts_of(replace(checkpoint, config={"data": "/home/me/HAM10000", "demo": True}))
    assert (facts.data, facts.demo) == ("HAM10000", True)
    assert facts_of(replace(checkpoint, config={"data": "drawn", "resolved": {"drawn": True}})).demo


def test_the_melanomas_that_its_most_probable_class_finds_are_counted(checkpoint: Checkpoint) -> None:
    labels = [MEL] * 12 + [NV] * 8
    chosen = [MEL] * 9 + [NV] * 3 + [MEL] + [NV] * 7
    made = facts_of(with_answers(checkpoint, labels, chosen, list(range(20))))
    assert made.found == Found(melanoma=True, images=12, share=0.75)
    assert made.calibration_images == 100


@pytest.mark.parametrize(("config", "so"), [({"folds": 3}, True), ({"folds": 3, "fold": 1}, False), ({}, False)])
def test_images_of_an_ensemble_of_folds_are_answered_over_the_folds(
    checkpoint: Checkpoint, config: dict[str, int], so: bool
) -> None:
    answered = with_answers(checkpoint, [MEL] * 12, [MEL] * 12, list(range(12)))
    found = facts_of(replace(answered, config=config)).found
    assert found is not None
    assert found.over_folds == so


def test_few_lesions_say_nothing_however_many_pictures_of_them_there_are(checkpoint: Checkpoint) -> None:
    made = facts_of(with_answers(checkpoint, [MEL] * 12, [MEL] * 12, [0, 1, 2] * 4))
    assert made.found == Found(melanoma=True, images=12, share=None)


def test_without_melanoma_the_malignant_classes_count_as_one(checkpoint: Checkpoint) -> None:
    other = replace(checkpoint, classes=("bcc", "scc", "nv"))
    made = facts_of(with_answers(other, [0] * 6 + [1] * 6, [1] * 6 + [2] * 6, list(range(12))))
    assert made.found == Found(melanoma=False, images=12, share=0.5)
    benign = replace(checkpoint, classes=("df", "bkl", "nv"))
    made = facts_of(with_answers(benign, [0, 1], [0, 1], [0, 1]))
    assert (made.malignant, made.found) == (False, None)
