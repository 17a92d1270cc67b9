"""Replicas of public downloads, and of faults that people's folders have: each is read right.

One function per folder. What it expects was counted by hand in the folder's tree and table.
"""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

from skin.data.index import Index
from skin.data.layouts import read_index

import pytest

pytestmark = pytest.mark.real


def sizes(index: Index) -> dict[str, int]:
    """The number of images per class and split: `train/mel`, or `mel` if there is no split."""
    names = (index.rows["split"] + "/" + index.rows["label"]).str.removeprefix("/")
    return {str(name): int(number) for name, number in names.value_counts().items()}


def groups(index: Index) -> dict[str, str]:
    """The lesion or patient of each image, by its file name without extension."""
    return {Path(path).stem: group for path, group in zip(index.rows["path"], index.rows["group"], strict=True)}


def each_its_own(index: Index) -> bool:
    return bool((index.rows["group"] == index.rows["image"]).all())


def test_bcn20000_isic(cases: Path) -> None:
    index = read_index(cases / "layouts/bcn20000_isic")
    assert index.layout == "ISIC Archive"
    assert sizes(index) == {"Melanoma, NOS": 20, "Nevus": 20, "Basal cell carcinoma": 20, "Seborrheic keratosis": 20}
    assert groups(index)["ISIC_0050001"] == groups(index)["ISIC_0050000"] == "IL_0000000"
    assert index.rows["group"].nunique() == 40
    assert len(index.notes) == 1


def test_bcn20000_isic_with_a_class_that_has_no_third_level(cases: Path, tmp_path: Path) -> None:
    """As the real table has it: 151 vascular lesions of 18,946 rows, and images without a diagnosis."""
    given = cases / "layouts/bcn20000_isic"
    shutil.copytree(given / "ISIC-images", tmp_path / "ISIC-images")
    name = "bcn20000_metadata_2025-10-21.csv"
    lines = (given / name).read_text().splitlines()
    keratosis = "Benign,Benign epidermal proliferations,Seborrheic keratosis"
    vascular = "Benign,Benign soft tissue proliferations - Vascular,"
    lines = [line.replace(keratosis, vascular) for line in lines]
    melanoma = 'Malignant,Malignant melanocytic proliferations (Melanoma),"Melanoma, NOS"'
    lines = [*(line.replace(melanoma, ",,") for line in lines[:4]), *lines[4:]]
    (tmp_path / name).write_text("\n".join(lines))
    index = read_index(tmp_path)
    assert sizes(index) == {
        "Melanoma, NOS": 17, "Nevus": 20, "Basal cell carcinoma": 20,
        "Benign soft tissue proliferations - Vascular": 20,
    }  # fmt: skip
    assert any("gives 3 images no diagnosis" in note for note in index.notes)
    assert any("diagnosis_3 is empty in 20 rows" in note for note in index.notes)


def test_class_folders_masks(cases: Path) -> None:
    index = read_index(cases / "layouts/class_folders_masks")
    assert sizes(index) == {"mel": 12, "nv": 12}
    assert not index.rows["image"].str.contains("segmentation").any()
    assert "24 images that are masks of others" in index.notes[0]


def test_folders_plus_isic_meta(cases: Path) -> None:
    index = read_index(cases / "layouts/folders_plus_isic_meta")
    assert sizes(index) == {"benign": 12, "malignant": 12}
    found = groups(index)
    assert [found[f"ISIC_{n:07}"] for n in (0, 2, 3, 23)] == ["IP_00000", "IP_00000", "IP_00001", "IP_00007"]
    assert index.rows["group"].nunique() == 8


def test_isic2019_kaggle_folders(cases: Path) -> None:
    index = read_index(cases / "layouts/isic2019_kaggle_folders")
    assert index.layout == "ISIC 2019"
    assert sizes(index) == {f"train/{cls}": 8 for cls in ("MEL", "NV", "BCC", "AK", "BKL")}
    assert groups(index)["ISIC_0000003"] == groups(index)["ISIC_0000002"] == "MSK4_0000001"
    assert index.rows["group"].nunique() == 20


def test_kaggle_skindisease_set(cases: Path) -> None:
    index = read_index(cases / "layouts/kaggle_skindisease_set")
    names = ("BA- cellulitis", "BA-impetigo", "FU-ringworm", "VI-shingles")
    assert sizes(index) == {f"train/{cls}": 11 for cls in names} | {f"test/{cls}": 4 for cls in names}
    assert each_its_own(index)


def test_mednode(cases: Path) -> None:
    index = read_index(cases / "layouts/mednode")
    assert (index.layout, sizes(index), index.notes) == ("class folders", {"melanoma": 14, "naevus": 14}, ())


def test_train_dir_val_dir(cases: Path) -> None:
    index = read_index(cases / "layouts/train_dir_val_dir")
    names = ("mel", "nv", "bcc", "bkl")
    assert sizes(index) == {f"train/{cls}": 11 for cls in names} | {f"val/{cls}": 4 for cls in names}


def test_train_test_nested(cases: Path) -> None:
    index = read_index(cases / "layouts/train_test_nested")
    names = ("mel", "nv", "bcc", "bkl")
    assert sizes(index) == {f"train/{cls}": 11 for cls in names} | {f"test/{cls}": 4 for cls in names}


def test_two_levels(cases: Path) -> None:
    index = read_index(cases / "layouts/two_levels")
    assert (index.layout, sizes(index)) == ("class folders", {"benign": 24, "malignant": 24})


def test_nfd_nfc(cases: Path) -> None:
    index = read_index(cases / "faults/nfd_nfc/data")
    nevus = unicodedata.normalize("NFC", "nävus")
    expected = {f"{split}/{cls}": number for split, number in (("train", 10), ("val", 4), ("test", 4))
                for cls in ("melanom", nevus)}  # fmt: skip
    assert sizes(index) == expected


def test_runs_in_data(cases: Path) -> None:
    assert sizes(read_index(cases / "faults/runs_in_data/data")) == {"mel": 10, "nv": 10}


def test_synology_eadir(cases: Path) -> None:
    index = read_index(cases / "faults/synology_eadir/data")
    assert sizes(index) == {"mel": 8, "nv": 8}
    assert not index.rows["path"].str.contains("@eaDir").any()


def test_class_only_in_val(cases: Path) -> None:
    assert sizes(read_index(cases / "faults/class_only_in_val/data")) == {
        "train/mel": 10, "train/nv": 10, "val/mel": 4, "val/nv": 4, "val/bkl": 4, "test/mel": 4, "test/nv": 4,
    }  # fmt: skip
