"""Replicas of public downloads (`SKIN_CASES`): labels, groups, splits and counts as their own tables have them."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import zipfile
from collections import Counter
from pathlib import Path

from skin.data.index import Index
from skin.data.layouts import read_index
from skin.data.split import leaks, split_index
from skin.utils.errors import UserError

import pytest

pytestmark = pytest.mark.real


def records(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def by_name(index: Index, column: str) -> dict[str, str]:
    """Return the values of a column by the file names of the images."""
    return {Path(path).name: value for path, value in zip(index.rows["path"], index.rows[column], strict=True)}


def check_own_split(index: Index) -> None:
    """Check that the split that training makes keeps groups together and has every class in every split."""
    rows = split_index(index, (0.7, 0.2, 0.1), seed=0)
    assert not leaks(rows)
    assert (rows.groupby("split")["label"].nunique() == len(index.classes)).all()


def test_ddi(cases: Path) -> None:
    root = cases / "layouts/ddi"
    index = read_index(root)
    assert index.layout == "DDI"
    assert by_name(index, "label") == {row["DDI_file"]: row["disease"] for row in records(root / "ddi_metadata.csv")}
    assert Counter(index.rows["skin_tone"]) == {12: 14, 34: 13, 56: 13}
    check_own_split(index)


def test_bcn20000_of_figshare(cases: Path) -> None:
    root = cases / "layouts/bcn20000_figshare"
    index = read_index(root)
    train = records(root / "bcn_20k_train.csv")
    assert (index.layout, len(index.rows)) == ("BCN20000", 40)
    assert by_name(index, "label") == {row["bcn_filename"]: row["diagnosis"] for row in train}
    assert by_name(index, "group") == {row["bcn_filename"]: row["lesion_id"] for row in train}
    assert set(index.rows["split"]) == {"train"}
    assert index.notes == ("bcn_20k_test.csv gives no diagnosis of its 8 images: left out",)
    check_own_split(index)


def test_derm7pt(cases: Path) -> None:
    root = cases / "layouts/derm7pt/release_v0"
    index = read_index(cases / "layouts/derm7pt")
    meta = records(root / "meta/meta.csv")
    splits = {
        int(row["indexes"]): split
        for word, split in (("train", "train"), ("valid", "val"), ("test", "test"))
        for row in records(root / f"meta/{word}_indexes.csv")
    }
    assert (index.layout, len(index.rows), index.notes) == ("Derm7pt", 80, ())
    for column, expected in (
        ("label", [row["diagnosis"] for row in meta]),
        ("group", [row["case_num"] for row in meta]),
        ("split", [splits[number] for number in range(len(meta))]),
    ):
        found = by_name(index, column)
        assert [found[Path(row["clinic"]).name] for row in meta] == expected
        assert [found[Path(row["derm"]).name] for row in meta] == expected
    assert Counter(index.rows["split"]) == {"train": 48, "val": 16, "test": 16}
    assert Counter(index.rows["image_type"]) == {"clinical": 40, "dermoscopic": 40}
    assert not leaks(index.rows)


def test_scin(cases: Path) -> None:
    root = cases / "layouts/scin/dataset"
    index = read_index(cases / "layouts/scin")
    first = re.compile(r"\{'(\w+)': 0\.69, 'Other': 0\.31\}")
    condition = {
        row["case_id"]: match[1]
        for row in records(root / "scin_labels.csv")
        if (match := first.fullmatch(row["weighted_skin_condition_label"]))
    }
    expected = {
        Path(row["image_1_path"]).name: condition[row["case_id"]]
        for row in records(root / "scin_cases.csv") if row["case_id"] in condition
    }  # fmt: skip
    assert (index.layout, len(index.rows)) == ("SCIN", 30)
    assert by_name(index, "label") == expected
    assert index.rows["group"].nunique() == 30
    assert "10 cases (10 images) without a condition in scin_labels.csv: left out" in index.notes
    check_own_split(index)


def test_monkeypox_v1(cases: Path) -> None:
    root = cases / "layouts/monkeypox_v1"
    index = read_index(root)
    assert (index.layout, len(index.rows)) == ("Monkeypox (MSLD)", 28)
    table = {row["ImageID"]: row["Label"] for row in records(root / "Monkeypox_Dataset_metadata.csv")}
    folders = {"Monkeypox": "Monkey Pox", "Non Monkeypox": "Others"}
    assert by_name(index, "label") == {name: folders[label] for name, label in table.items()}
    assert by_name(index, "group") == {name: name.split("_")[0] for name in table}
    check_own_split(index)

    fold = read_index(Path(shlex.split(index.notes[0].partition("--data ")[2])[0]))
    assert Counter(fold.rows["split"]) == {"train": 20, "val": 4, "test": 4}
    assert not leaks(fold.rows)


def test_sd_198(cases: Path) -> None:
    root = cases / "layouts/sd198/sd-198"
    index = read_index(cases / "layouts/sd198")
    expected = {}
    for word in ("train", "val"):
        for line in (root / f"8_2_split/{word}_1.txt").read_text().split("\n"):
            path = line.split(" ")[0]
            expected[Path(path).name] = (Path(path).parent.name, word)
    assert (index.layout, len(index.rows)) == ("SD-198", 48)
    found = zip(by_name(index, "label").items(), by_name(index, "split").values(), strict=True)
    assert {name: (label, split) for (name, label), split in found} == expected


def test_hugging_face_with_a_table_for_each_split(cases: Path) -> None:
    root = cases / "layouts/hf_split_csv"
    index = read_index(root)
    assert (index.layout, index.notes) == ("Hugging Face image folder", ())
    expected = {
        (f"{folder}/{row['file_name']}", row["label"], split)
        for folder, split in (("train", "train"), ("validation", "val"), ("test", "test"))
        for row in records(root / folder / "metadata.csv")
    }
    assert set(index.rows[["image", "label", "split"]].itertuples(index=False, name=None)) == expected
    assert len(index.rows) == 60


def test_hugging_face_with_one_table_of_json_lines(cases: Path) -> None:
    root = cases / "layouts/hf_one_jsonl"
    lines = map(json.loads, (root / "metadata.jsonl").read_text().splitlines())
    index = read_index(root)
    assert by_name(index, "label") == {line["file_name"]: line["label"] for line in lines}
    assert len(index.rows) == 36
    check_own_split(index)


def test_ham10000_that_is_still_zipped_is_read_after_the_advice(cases: Path, tmp_path: Path) -> None:
    data = shutil.copytree(cases / "layouts/ham_dv_zipped", tmp_path / "ham")
    with pytest.raises(UserError, match=r"_part_1.zip is still packed; unpack with: unzip -d ") as error:
        read_index(data)
    _, _, target, archive = shlex.split(str(error.value).partition("unpack with: ")[2])
    with zipfile.ZipFile(archive) as file:
        file.extractall(target)
    index = read_index(data)
    assert (index.layout, len(index.rows), index.notes) == ("HAM10000", 40, ())
