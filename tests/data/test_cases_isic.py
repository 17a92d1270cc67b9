"""The replicas of the ISIC challenges' downloads; what is expected was counted in their tables."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from skin.data.index import Index
from skin.data.layouts import read_index
from skin.data.split import split_index

import pytest

pytestmark = pytest.mark.real


def counts(index: Index) -> dict[tuple[str, str], int]:
    """Return the number of images of each split and label."""
    return dict(Counter(zip(index.rows["split"], index.rows["label"], strict=True)))


def test_isic_2016(cases: Path) -> None:
    index = read_index(cases / "layouts/isic2016")
    assert index.layout == "ISIC 2016"
    assert counts(index) == {
        ("train", "benign"): 10, ("train", "malignant"): 10, ("test", "benign"): 6, ("test", "malignant"): 6,
    }  # fmt: skip
    assert index.notes == ()


def test_isic_2017(cases: Path) -> None:
    index = read_index(cases / "layouts/isic2017")
    assert index.layout == "ISIC 2017"
    classes = ("melanoma", "nevus", "seborrheic keratosis")
    assert counts(index) == {
        (split, cls): number for split, number in (("train", 10), ("val", 5), ("test", 5)) for cls in classes
    }
    assert set(index.rows["age_approximate"]) == {55.0}
    assert len(index.unnamed) == 60
    assert all(path.endswith("_superpixels.png") for path in index.unnamed)


def test_isic_2018(cases: Path) -> None:
    index = read_index(cases / "layouts/isic2018")
    assert index.layout == "ISIC 2018"
    splits = {"train": 8, "val": 3, "test": 3}
    classes = ("AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC")
    assert counts(index) == {(split, cls): number for split, number in splits.items() for cls in classes}
    train = index.rows[index.rows["split"] == "train"]
    assert train["group"].str.startswith("HAM_").all()


def test_isic_2019_without_its_metadata(cases: Path) -> None:
    index = read_index(cases / "layouts/isic2019_nometa")
    assert index.layout == "ISIC 2019"
    assert counts(index) == {("train", cls): 8 for cls in ("AK", "BCC", "BKL", "MEL", "NV")}
    assert index.rows["group"].equals(index.rows["image"])


def test_isic_2020_of_kaggle(cases: Path) -> None:
    index = read_index(cases / "layouts/isic2020_kaggle")
    assert index.layout == "ISIC 2020"
    assert counts(index) == {("", "benign"): 12, ("", "malignant"): 12}
    assert index.rows["group"].value_counts().to_dict() == {f"IP_000000{n}": 3 for n in range(8)}
    assert index.notes == ("sample_submission.csv and test.csv give no class of 6 images: left out",)


def test_isic_2020_of_the_challenge_keeps_its_copies_on_one_side(cases: Path) -> None:
    index = read_index(cases / "layouts/isic2020_official")
    assert counts(index) == {("", "benign"): 12, ("", "malignant"): 12}
    sizes = {"IP_0000000": 6, **{f"IP_000000{n}": 3 for n in range(2, 8)}}  # the copies join patients 0 and 1
    assert index.rows["group"].value_counts().to_dict() == sizes
    for seed in range(5):
        split = split_index(index, (0.5, 0.25, 0.25), seed).set_index("image")["split"]
        assert split["ISIC_2637011"] == split["ISIC_2637015"]


def test_isic_2024_of_kaggle(cases: Path) -> None:
    index = read_index(cases / "layouts/isic2024_kaggle")
    assert index.layout == "ISIC 2024"
    assert counts(index) == {("", "benign"): 12, ("", "malignant"): 12}
    assert index.rows["group"].value_counts().to_dict() == {f"IP_000000{n}": 3 for n in range(8)}


def test_milk10k(cases: Path) -> None:
    index = read_index(cases / "layouts/milk10k")
    assert index.layout == "MILK10k"
    assert counts(index) == {("", cls): 20 for cls in ("BCC", "BKL", "MEL", "NV")}
    assert index.rows["group"].nunique() == 40
    assert set(index.rows.groupby("group")["image_type"].nunique()) == {2}
    folders = index.rows["path"].map(lambda path: Path(path).parent.name)
    assert list(folders) == list(index.rows["group"])
