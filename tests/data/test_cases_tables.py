"""The tables of the cases: 36 images of bkl, mel and nv, as spreadsheets and other programs left their labels."""

from __future__ import annotations

from pathlib import Path

from skin.data.layouts import read_index

import pytest

pytestmark = pytest.mark.real

ENGLISH = {"bkl": "bkl", "mel": "mel", "nv": "nv"}
RUSSIAN = {"bkl": "кератоз", "mel": "меланома", "nv": "невус"}


@pytest.mark.parametrize(
    ("name", "words", "note"),
    [
        ("excel_blank", ENGLISH, ""),
        ("sep", ENGLISH, ""),
        ("index", ENGLISH, ""),
        ("onehot_index", ENGLISH, ""),
        ("abs_noroot", ENGLISH, "abs_noroot.csv has paths of another place"),
        ("cp1251", RUSSIAN, "cp1251.csv is not UTF-8: read as Windows-1251"),
        ("patient_unknown", ENGLISH, "patient_unknown.csv: the group is the column patient_id"),
    ],
)
def test_a_table_of_the_cases(cases: Path, name: str, words: dict[str, str], note: str) -> None:
    tables = cases / "faults" / "tables"
    index = read_index(tables / "images", labels=tables / f"{name}.csv")
    truth = dict(line.split(",")[1:] for line in (tables / "index.csv").read_text().split()[1:])

    found = {Path(str(row.path)).name: row.label for row in index.rows.itertuples()}
    assert found == {image: words[label] for image, label in truth.items()}
    assert [line[: len(note)] for line in index.notes] == ([note] if note else [])
    people = ["patient_id"] if name == "patient_unknown" else []
    assert list(index.rows.columns) == ["image", "path", "label", "group", "split", *people]


def test_an_unknown_patient_is_none(cases: Path) -> None:
    tables = cases / "faults" / "tables"
    index = read_index(tables / "images", labels=tables / "patient_unknown.csv")
    assert index.rows["group"].nunique() == 36
    assert [line.split(":")[1] for line in index.warnings] == [
        " 'unknown' is the lesion or patient of 24 of 36 images"
    ]
