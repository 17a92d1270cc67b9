"""Classes that a person should look at are named, with the reason; sound ones are not."""

from __future__ import annotations

from skin.data.suspicious import Suspicion, suspicions

import pandas as pd
import pytest


def found(classes: dict[str, tuple[int, int, int]]) -> list[Suspicion]:
    counts = pd.DataFrame.from_dict(classes, orient="index", columns=["train", "val", "test"])
    return suspicions(counts, counts.sum(axis=1))


def test_sound_classes_are_not_suspicious() -> None:
    names = ("akiec", "bcc", "scc", "mel", "nv", "basal cell carcinoma in situ", "grade 1 lesion", "grade 2 lesion",
             "Tinea", "validated lesion", "acne vulgaris")  # fmt: skip
    assert found(dict.fromkeys(names, (10, 3, 2))) == []


@pytest.mark.parametrize(
    "names",
    [
        ("Melanoma", "melanoma"), ("basal_cell_carcinoma", "Basal cell carcinoma"), ("melanoma", "mel"),
        ("nevus", "nv"), ("melanoma", "melonoma"), ("lentigo", "lentigos"), ("psoriasis", "psorasis"),
        ("na\u0308vus", "n\u00e4vus"),
    ],
)  # fmt: skip
def test_two_names_for_one_class(names: tuple[str, str]) -> None:
    (suspicion,) = found(dict.fromkeys(names, (10, 3, 2)))
    assert suspicion == Suspicion(names, "nearly the same name: one class or several?")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "a piece of a download") for name in (
            "train_set", "ISIC_Test_Data", "part_2", "Fold1", "Augmented Images", "nv - Copy", "TestData", "test",
        )),
        ("unknown", "not known"), ("not specified", "not known"), ("0", "right column"), ("1.0", "right column"),
    ],
)  # fmt: skip
def test_a_name_that_is_no_disease(name: str, reason: str) -> None:
    (suspicion,) = found({name: (10, 3, 2), "melanoma": (10, 3, 2)})
    assert suspicion.classes == (name,)
    assert reason in suspicion.reason


def test_healthy_skin_may_be_a_class() -> None:
    assert found({"No lesion": (10, 3, 2), "melanoma": (10, 3, 2)}) == []


def test_classes_with_too_few_images_or_in_too_few_splits() -> None:
    assert found({"few": (9, 2, 2), "late": (0, 20, 20), "unmeasured": (20, 0, 0), "sound": (10, 1, 1)}) == [
        Suspicion(("few",), "very few images to learn from: fewer than 10"),
        Suspicion(("late",), "no image in train: it cannot be learnt"),
        Suspicion(("unmeasured",), "no image in val and test: it is not measured there"),
    ]


def test_without_a_split_all_images_count_and_none_is_missing_from_one() -> None:
    counts = pd.DataFrame(0, index=["a", "b"], columns=["train", "val", "test"])
    assert [it.classes for it in suspicions(counts, pd.Series({"a": 10, "b": 9}))] == [("b",)]
    assert found({"a": (10, 2, 0), "b": (10, 2, 0)}) == [], "nobody asked for a test split"
