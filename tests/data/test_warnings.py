"""What is not known of a data set is said, and nothing is said of a set of which all is known."""

from __future__ import annotations

import json
from pathlib import Path

from skin.data import unknowns
from skin.data.audit import check
from skin.data.groups import is_unknown, join_groups, unknown_names
from skin.data.index import Index
from skin.data.layouts import read_index
from skin.data.unknowns import alike
from skin.evaluation.model_card import write_model_card
from skin.utils.errors import UserError

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ISIC_2019 = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\n"


def labelled(folder: Path, columns: str, rows: list[str], *others: str) -> Index:
    """Write a table of images i0, i1, ... and the rest of its rows, empty images and other files, and read them."""
    for name in (*(f"i{n}.jpg" for n in range(len(rows))), *others):
        (folder / name).touch()
    lines = [f"image,{columns}", *(f"i{n},{row}" for n, row in enumerate(rows))]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return read_index(folder, labels=folder / "labels.csv")


def test_a_set_with_lesions_has_no_warning(tmp_path: Path) -> None:
    rows = [f"{'mel' if n % 2 else 'nv'},g{n // 2}" for n in range(8)]
    assert labelled(tmp_path, "label,group", rows).warnings == ()


def test_unknown_lesions_are_said_with_what_to_do(tmp_path: Path) -> None:
    (warning,) = labelled(tmp_path, "label", ["mel", "nv"]).warnings
    assert warning.startswith("no lesion or patient is known")
    assert all(way in warning for way in ("--group-by REGEX", "--group-column NAME", "folders"))


def test_patients_that_are_written_in_several_ways_are_named(tmp_path: Path) -> None:
    patients = ["P001", "p001", "007", "7", "x", "10", "1000", "100"]
    rows = [f"{'mel' if n % 2 else 'nv'},{patient}" for n, patient in enumerate(patients)]
    (warning,) = labelled(tmp_path, "label,patient_id", rows).warnings
    assert warning.startswith("2 lesions or patients are written in several ways, such as 'P001' and 'p001'")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("seborrheic keratosis", "seborrheic_keratosis"), ("seborrheic-keratosis", "Seborrheic keratosis"),
        ("seborrheic\u2010keratosis", "seborrheic keratosis"), ("ne\u200bvus", "nevus"), ("melanoma.", "melanoma"),
        ("1", "True"), ("01", "1"), ("1.0E+00", "1"), ("P 00", "P00"), ("P_00", "P-00"), ("P07", "p7"),
        ("\uff2d\uff25\uff2c", "mel"), ("nv ", "nv"), ("IMG_007", "img 7"),
    ],
)  # fmt: skip
def test_two_spellings_of_one_name_are_alike(one: str, other: str) -> None:
    assert alike(one) == alike(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1-2", "12"), ("P1_12", "P11_2"), ("-1", "1"), ("ER+", "ER-"), ("HER2-", "HER2"), ("1.5", "15"),
        ("grade 1", "grade 10"), ("nevus", "naevus"), ("1e5", "1"), ("100", "1"), ("c", "c++"), ("a/b", "ab"),
        ("1.5", "1.50"), ("2+", "2"), ("C44.01", "C44.1"), ("L20.08", "L20.8"), ("1.01", "1.1"), ("v1.05", "v1.5"),
        ("1,05", "1,5"), ("1.00", "1.0.0"),
    ],
)  # fmt: skip
def test_two_names_are_not_alike(one: str, other: str) -> None:
    assert alike(one) != alike(other)


def test_signs_that_nobody_sees_are_no_part_of_a_name(tmp_path: Path) -> None:
    index = labelled(tmp_path, "\ufefflabel,patient_id", ["nv\u200b,p", "nv,\ufeffp", "\ufeffmel,q\u00a0"])
    assert (index.classes, index.rows["group"].tolist()) == (("mel", "nv"), ["p", "p", "q"])
    assert not any("several ways" in warning for warning in index.warnings)


def test_patients_that_are_alike_but_for_signs_are_warned_of(tmp_path: Path) -> None:
    patients = ["P 00", "P00", "P_00", "P\u200b1", "P1"]
    rows = [f"{'mel' if n % 2 else 'nv'},{patient}" for n, patient in enumerate(patients)]
    (warning,) = labelled(tmp_path, "label,patient_id", rows).warnings
    assert warning.startswith("2 lesions or patients are written in several ways, such as 'P 00' and 'P00'")


def test_a_decimal_comma_is_a_point_and_a_slip_among_numbers_is_named(tmp_path: Path) -> None:
    rows = [f"{'mel' if n % 2 else 'nv'},{n + 20}.5,{n},x{n}" for n in range(6)]
    index = labelled(tmp_path, "label,age,weight,note", rows)
    assert index.rows["age"].tolist() == [20.5, 21.5, 22.5, 23.5, 24.5, 25.5]
    assert not index.notes
    table = (tmp_path / "labels.csv").read_text().replace(",", ";").replace(".5", ",5").replace(";3;", ";ca. 3;")
    (tmp_path / "labels.csv").write_text(table)
    index = read_index(tmp_path, labels=tmp_path / "labels.csv")
    assert index.rows["age"].tolist() == [20.5, 21.5, 22.5, 23.5, 24.5, 25.5]
    assert index.rows["weight"].tolist() == ["0", "1", "2", "ca. 3", "4", "5"]
    assert index.notes == ("the column weight is read as text, because 'ca. 3' is not a number",)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["1", "2", "1,2", "2,3"], ["1", "2", "1,2", "2,3"]),  # codes
        (["1,200", "15,000", "300"], ["1,200", "15,000", "300"]),  # thousands
        (["0,05", "11,115", "3"], [0.05, 11.115, 3.0]),
        (["2,1", "-0,5", "4"], [2.1, -0.5, 4.0]),
    ],
)
def test_what_a_comma_means_is_told_by_its_column(
    tmp_path: Path, words: list[str], values: list[str] | list[float]
) -> None:
    index = labelled(tmp_path, "label,size", [f'{"mel" if n % 2 else "nv"},"{word}"' for n, word in enumerate(words)])
    assert index.rows["size"].tolist() == values


def test_images_without_lesion_among_others_are_counted(tmp_path: Path) -> None:
    index = labelled(tmp_path, "label,group", ["mel,a", "nv,", "nv,b", "nv,c"])
    assert (index.warnings, index.notes) == ((), ("no lesion or patient is known of 1 image: each is on its own",))


@pytest.mark.parametrize("word", ["unknown", "Unknown", "-1", "0", "nan", "None", "n/a", "?", "missing", "NULL"])
@pytest.mark.parametrize("columns", ["patient_id", "patient_id,lesion_id"])
def test_a_word_for_an_unknown_patient_is_no_patient(tmp_path: Path, word: str, columns: str) -> None:
    patients = [word if n % 3 else f"P{n}" for n in range(12)]
    with_lesions = "lesion_id" in columns
    lesions = [f",L{n}" if with_lesions else "" for n in range(12)]
    rows = [f"{'mel' if n % 2 else 'nv'},{patients[n]}{lesions[n]}" for n in range(12)]
    index = labelled(tmp_path, f"label,{columns}", rows)
    assert index.rows["group"].nunique() == 12
    said = [w for w in index.warnings if f"'{word}' is the lesion or patient of 8 of 12 images" in w]
    # A lesion beside it is known, and an empty cell (nan) was never a patient.
    assert len(said) == (word != "nan" and not with_lesions)


@pytest.mark.parametrize(
    "word",
    [
        "n.a.", "N. A.", "k.A.", "TBD", "not recorded", "not_available", "Not Available", "unlabeled",
        "Unknown patient", "unknown_patient", "patient unknown", "No ID", "no_patient_id", "#", "_", "-9", "-1.0",
    ],
)  # fmt: skip
def test_what_nobody_knows_is_written_in_many_ways(word: str) -> None:
    assert is_unknown(word)
    assert unknown_names(pd.Series([word, word, "a", "b"])) == [word]


@pytest.mark.parametrize("name", ["no", "KA", "known", "other", "naevus", "not a lesion", "1.0", "9", "P.1"])
def test_a_name_is_not_unknown(name: str) -> None:
    assert not is_unknown(name)


@pytest.mark.parametrize("error", ["#N/A", "#REF!", "#DIV/0!", "#NAME?", "#VALUE!"])
def test_the_errors_of_a_spreadsheet_are_missing_values(tmp_path: Path, error: str) -> None:
    index = labelled(tmp_path, "label,patient_id,sex", [f"nv,{error},{error}", "nv,p,f", f"mel,{error},", "mel,#1,f"])
    assert index.rows["sex"].tolist() == ["", "f", "", "f"]
    assert index.rows["group"].tolist() == ["i0", "p", "i2", "#1"]
    (tmp_path / "labels.csv").write_text(f"image,label\ni0,{error}\ni1,nv\ni2,mel\n")
    with pytest.raises(UserError, match=r"1 row without a class \(first: i0\): over 1 %"):
        read_index(tmp_path, labels=tmp_path / "labels.csv")


@pytest.mark.parametrize(("word", "unknown"), [("999", True), ("9999", True), ("P07", False)])
@pytest.mark.parametrize(("many", "images"), [(12, 100), (6, 24)])
def test_a_name_of_many_more_images_than_any_other_is_said(
    tmp_path: Path, word: str, unknown: bool, many: int, images: int
) -> None:
    rows = [f"{'mel' if n % 2 else 'nv'},{word if n < many else n // 2}" for n in range(images)]
    index = labelled(tmp_path, "label,patient_id", rows)
    assert index.rows["group"].nunique() == (images - many) / 2 + (many if unknown else 1)
    said = f"'{word}' is the lesion or patient of {many} of" if unknown else f"the group '{word}' holds {many} of"
    assert [said in warning for warning in index.warnings].count(True) == 1


def test_patient_zero_of_a_numbered_set_is_a_patient() -> None:
    numbered = pd.Series([str(n // 3) for n in range(36)])
    assert unknown_names(numbered) == []
    assert unknown_names(pd.Series(["0"] * 8 + list("123456"))) == ["0"]
    assert unknown_names(pd.Series(["0"] * 4)) == ["0"]
    assert unknown_names(pd.Series(["unknown", "a", "b"])) == []  # of one image: nothing is joined


def test_unknown_patients_do_not_join_lesions() -> None:
    patients, lesions = pd.Series(["unknown", "unknown", "unknown", "p"]), pd.Series(["l1", "l1", "", "l2"])
    assert join_groups(patients, lesions).tolist() == ["l1", "l1", "unknown", "p"]


def test_a_group_of_over_a_third_of_the_images_is_said_and_stays(tmp_path: Path) -> None:
    rows = [f"{'mel' if n % 2 else 'nv'},{'A' if n < 5 else n}" for n in range(12)]
    index = labelled(tmp_path, "label,group", rows)
    assert (index.rows["group"] == "A").sum() == 5
    assert len(index.warnings) == 1
    assert "the group 'A' holds 5 of 12 images" in index.warnings[0]


def test_formats_that_are_not_read_are_counted_and_other_files_are_not(tmp_path: Path) -> None:
    others = ("x.nef", "y.NEF", "film.mov", "readme.txt", "Thumbs.db")
    index = labelled(tmp_path, "label,group", ["mel,a", "nv,b", "nv,c"], *others)
    assert index.warnings == (
        "2 files .nef, 1 file .mov cannot be read in their format: save them as JPEG or PNG",
    )


def test_a_table_of_images_in_such_a_format_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.cr2").touch()
    (tmp_path / "labels.csv").write_text("image,label\na.cr2,mel\n")
    with pytest.raises(UserError, match=r"1 file \.cr2 cannot be read in their format"):
        read_index(tmp_path, labels=tmp_path / "labels.csv")


def test_an_image_of_no_known_class_is_not_one_without_a_row(tmp_path: Path) -> None:
    marks = np.eye(9, dtype=int)[[0, 1, 8, 8, 1]]
    rows = "".join(f"i{n},{','.join(map(str, row))}\n" for n, row in enumerate(marks))
    (tmp_path / "ISIC_2019_Training_GroundTruth.csv").write_text(ISIC_2019 + rows)
    for name in ("i0", "i1", "i2", "i3", "i4", "other"):
        (tmp_path / f"{name}.jpg").touch()
    index = read_index(tmp_path)
    assert index.unnamed == ("other.jpg",)
    notes = " ".join(index.notes)
    assert "2 images UNK" in notes
    assert "holds 1 image not named in" in notes


# --------------------------------------------------------------------------------------------------- after the split


def split_of(counts: dict[str, tuple[int, int]]) -> pd.DataFrame:
    """Rows of classes with so many training and so many validation images."""
    rows = []
    for name, (train, val) in counts.items():
        rows += [(name, "train")] * train + [(name, "val")] * val
    return pd.DataFrame(rows, columns=["label", "split"])


@pytest.mark.parametrize(
    ("counts", "balanced", "expected"),
    [
        ({"mel": (10, 2), "nv": (10, 2)}, True, []),
        ({"mel": (10, 2), "nv": (0, 3)}, True, ["no training image of nv (3 in val and test)"]),
        ({"mel": (10, 2), "nv": (9, 2), "df": (1, 1)}, True, ["fewer than 10 training images of nv (9), df (1)"]),
        # 410 / (2 * 10) = 20.5 and 400 / (2 * 10) = 20
        ({"mel": (10, 2), "nv": (400, 2)}, True, ["in the loss, an image of mel counts 20 times"]),
        ({"mel": (10, 2), "nv": (390, 2)}, True, []),
        ({"mel": (10, 2), "nv": (400, 2)}, False, []),
        (
            {"mel": (4, 1), "nv": (3, 1)}, True,
            ["9 images in total", "fewer than 10 training images of mel (4), nv (3)"],
        ),
    ],
)
def test_classes_that_cannot_be_learnt_are_said(
    counts: dict[str, tuple[int, int]], balanced: bool, expected: list[str]
) -> None:
    found = unknowns.of_split(split_of(counts), list(counts), balanced)
    assert [line[: len(start)] for line, start in zip(found, expected, strict=True)] == expected


def test_the_check_shows_the_warnings(tmp_path: Path) -> None:
    for n in range(6):
        path = tmp_path / ("mel" if n % 2 else "nv") / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        Image.effect_noise((40, 40), 20 * n + 10).save(path)
    report = check(read_index(tmp_path), (0.5, 0.5, 0.0), 0, tmp_path / "out")
    assert [line.split(":")[0] for line in report.warnings] == [
        "no lesion or patient is known, so pictures of one lesion count as several, and a split may part them; tell "
        "which belong together with a table's column (--group-column NAME), or with --group-by REGEX, which finds "
        "them in the names of files and folders",
        "6 images in total",
        "fewer than 10 training images of mel (2), nv (1)",
    ]
    assert json.loads((tmp_path / "out" / "check.json").read_text())["warnings"] == report.warnings
    shown = [line for line in report.lines() if line.startswith("WARNING: ")]
    assert shown == [f"WARNING: {warning}" for warning in report.warnings]


def test_warnings_are_kept_with_the_run_and_shown_on_its_card(tmp_path: Path) -> None:
    assert unknowns.read(tmp_path / "warnings.txt") is None  # a run of an earlier version
    unknowns.write(["one <b>", "two\nlines"], tmp_path / "warnings.txt")
    kept = unknowns.read(tmp_path / "warnings.txt")
    assert kept == ["one <b>", "two\\nlines"]
    write_model_card(tmp_path / "card.md", {"model": "efficientnet_b0", "resolved": {}}, ["mel"], {}, warnings=kept)
    card = (tmp_path / "card.md").read_text()
    assert "**one &lt;b" in card
    assert card.index("## Training data") < card.index("**two") < card.index("## Training\n")
