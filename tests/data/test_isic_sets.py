"""The ISIC challenges of 2016 to 2025 and HAM10000 with its test set, as downloaded and with what can be wrong."""

from __future__ import annotations

from pathlib import Path

from skin.data.index import Index
from skin.data.layouts import read_index
from skin.data.split import split_index
from skin.utils.errors import UserError

import numpy as np
import pytest


def write(folder: Path, files: dict[str, str], *images: str) -> Path:
    """Make `folder` with these tables and images; no layout looks inside an image, so its name stands for it."""
    for name, content in {**files, **{image: image for image in images}}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def column(index: Index, name: str) -> dict[str, object]:
    return dict(zip(index.rows["image"], index.rows[name], strict=True))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        read_index(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------------ 2016

TRUTH_2016 = "ISBI2016_ISIC_Part3_Training_GroundTruth.csv"
DATA_2016 = "ISBI2016_ISIC_Part3_Training_Data"


def isic_2016(folder: Path, part: str = "Part3") -> Path:
    return write(
        folder,
        {
            f"ISBI2016_ISIC_{part}_Training_GroundTruth.csv": "ISIC_1,benign\nISIC_2,malignant\n",
            f"ISBI2016_ISIC_{part}_Test_GroundTruth.csv": "ISIC_3,0.0\nISIC_4,1.0\n",
        },
        *(f"ISBI2016_ISIC_{part}_Training_Data/ISIC_{n}.jpg" for n in (1, 2)),
        *(f"ISBI2016_ISIC_{part}_Test_Data/ISIC_{n}.jpg" for n in (3, 4)),
    )


@pytest.mark.parametrize("part", ["Part3", "Part3B"])
def test_isic_2016_has_no_header_and_two_names_for_each_class(tmp_path: Path, part: str) -> None:
    isic_2016(tmp_path, part)
    write(tmp_path, {}, f"ISBI2016_ISIC_{part}_Training_Data/ISIC_1_Segmentation.png")
    index = read_index(tmp_path)
    assert (index.layout, index.classes) == ("ISIC 2016", ("benign", "malignant"))
    expected = {"ISIC_1": "benign", "ISIC_2": "malignant", "ISIC_3": "benign", "ISIC_4": "malignant"}
    assert column(index, "label") == expected
    assert column(index, "split") == {"ISIC_1": "train", "ISIC_2": "train", "ISIC_3": "test", "ISIC_4": "test"}
    assert index.unnamed == (f"ISBI2016_ISIC_{part}_Training_Data/ISIC_1_Segmentation.png",)


def test_both_parts_of_isic_2016_are_one_set_and_must_agree(tmp_path: Path) -> None:
    of_3b = "ISBI2016_ISIC_Part3B_Training_GroundTruth.csv"
    write(isic_2016(tmp_path), {of_3b: "ISIC_2,malignant\r\nISIC_1,benign\r\n"})
    index = read_index(tmp_path)
    assert len(index.rows) == 4
    assert index.notes == ()
    write(tmp_path, {of_3b: "ISIC_2,benign\nISIC_1,benign\n"})
    assert f"the image {DATA_2016}/ISIC_2.jpg two values of label, 'benign' and 'malignant'" in refusal(tmp_path)


def test_of_a_table_of_isic_2016_and_its_later_download_the_first_counts(tmp_path: Path) -> None:
    again = TRUTH_2016.replace(".csv", " (1).csv")
    write(isic_2016(tmp_path), {again: "ISIC_1,malignant\nISIC_2,benign\n"})
    index = read_index(tmp_path)
    assert column(index, "label")["ISIC_1"] == "benign"
    assert again not in index.source
    (tmp_path / TRUTH_2016).unlink()
    assert column(read_index(tmp_path), "label")["ISIC_1"] == "malignant"


def test_a_header_that_somebody_gave_isic_2016_is_no_row(tmp_path: Path) -> None:
    index = read_index(write(isic_2016(tmp_path), {TRUTH_2016: "image_id,label\nISIC_1,benign\nISIC_2,malignant\n"}))
    assert len(index.rows) == 4


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("ISIC_1,benign\nISIC_2,unsure\n", "class of the image 'ISIC_2' is 'unsure', and neither benign"),
        ("ISIC_1,unsure\nISIC_2,benign\n", "class of the image 'ISIC_1' is 'unsure', and neither benign"),
        (",img,seg\n0,a/ISIC_1.jpg,a/ISIC_1.png\n", "neither benign (0) nor malignant (1)"),  # of a segmentation
        ("ISIC_1\nISIC_2\n", "not a table of ISIC 2016"),
    ],
)
def test_tables_of_isic_2016_that_are_refused(tmp_path: Path, table: str, message: str) -> None:
    said = refusal(write(isic_2016(tmp_path), {TRUTH_2016: table}))
    assert message in said
    assert TRUTH_2016 in said


# ------------------------------------------------------------------------------------------------ 2017

HEAD_2017 = "image_id,melanoma,seborrheic_keratosis\n"


def isic_2017(folder: Path, test: str = "Test_v2") -> Path:
    tables = {
        f"ISIC-2017_{word}_Part3_GroundTruth.csv": f"{HEAD_2017}ISIC_{n}1,1.0,0\nISIC_{n}2,0.0,1.0\nISIC_{n}3,0.0,0\n"
        for n, word in enumerate(("Training", "Validation", test), start=1)
    }
    ages = {
        "ISIC-2017_Training_Data/ISIC-2017_Training_Data_metadata.csv": "image_id,age_approximate,sex\n"
        "ISIC_11,55,male\nISIC_12,unknown,unknown\nISIC_13,20,female\n"
    }
    images = [
        f"ISIC-2017_{word}_Data/ISIC_{n}{row}.jpg"
        for n, word in enumerate(("Training", "Validation", test), start=1)
        for row in (1, 2, 3)
    ]
    return write(folder, {**tables, **ages}, *images, "ISIC-2017_Training_Data/ISIC_11_superpixels.png")


@pytest.mark.parametrize("test", ["Test_v2", "Test"])
def test_isic_2017_takes_neither_for_nevus_and_unknown_for_missing(tmp_path: Path, test: str) -> None:
    index = read_index(isic_2017(tmp_path, test))
    assert (index.layout, index.classes) == ("ISIC 2017", ("melanoma", "nevus", "seborrheic keratosis"))
    labels = {"1": "melanoma", "2": "seborrheic keratosis", "3": "nevus"}
    assert column(index, "label") == {f"ISIC_{n}{row}": labels[row] for n in "123" for row in "123"}
    splits = {"1": "train", "2": "val", "3": "test"}
    assert column(index, "split") == {f"ISIC_{n}{row}": splits[n] for n in "123" for row in "123"}
    ages = column(index, "age_approximate")
    assert (ages["ISIC_11"], ages["ISIC_13"]) == (55.0, 20.0)
    assert np.isnan(ages["ISIC_12"])  # type: ignore[call-overload]
    assert [column(index, "sex")[name] for name in ("ISIC_11", "ISIC_12", "ISIC_21")] == ["male", "", ""]
    assert index.unnamed == ("ISIC-2017_Training_Data/ISIC_11_superpixels.png",)


def test_a_row_of_isic_2017_with_empty_cells_or_both_marks_is_no_nevus(tmp_path: Path) -> None:
    table = f"{HEAD_2017}ISIC_11,,\nISIC_12,1,1\nISIC_13,0,0\n"
    write(isic_2017(tmp_path), {"ISIC-2017_Training_Part3_GroundTruth.csv": table})
    assert "rows that mark no class: 1, several: 1 (first: ISIC_11): over 1 %" in refusal(tmp_path)
    assert "ISIC_11" not in column(read_index(tmp_path, allow_missing=True), "label")


def test_a_split_that_was_not_downloaded_is_said_and_not_missing(tmp_path: Path) -> None:
    isic_2017(tmp_path)
    for path in (tmp_path / "ISIC-2017_Validation_Data").iterdir():
        path.unlink()
    (tmp_path / "ISIC-2017_Test_v2_Part3_GroundTruth.csv").unlink()
    index = read_index(tmp_path)
    assert set(index.rows["split"]) == {"train"}
    assert index.notes == (
        "ISIC-2017_Validation_Part3_GroundTruth.csv names 3 images, and the folder has none of them: left out",
        "the folder holds 4 images not named in ISIC-2017_Training_Part3_GroundTruth.csv: left out",
    )
    for path in (tmp_path / "ISIC-2017_Training_Data").glob("*.jpg"):
        path.unlink()
    assert "names 6 images that the folder lacks" in refusal(tmp_path)


def test_two_versions_of_the_test_truth_of_isic_2017_disagree(tmp_path: Path) -> None:
    write(isic_2017(tmp_path), {"ISIC-2017_Test_Part3_GroundTruth.csv": f"{HEAD_2017}ISIC_31,0,0\n"})
    said = refusal(tmp_path)
    assert "ISIC-2017_Test_Part3_GroundTruth.csv and ISIC-2017_Test_v2_Part3_GroundTruth.csv" in said
    assert "keep one" in said


# ---------------------------------------------------------------------------------- HAM10000 with its test set

HAM_HEAD = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset\n"
HAM = {
    "HAM10000_metadata": HAM_HEAD + "H1,ISIC_1,mel,histo,80,male,scalp,x\nH1,ISIC_2,mel,histo,80,male,scalp,x\n"
    "H2,ISIC_3,nv,histo,50,female,back,x\nH3,ISIC_4,nv,histo,50,female,back,x\n"
    "H4,ISIC_5,mel,histo,50,female,back,x\nH5,ISIC_6,nv,histo,50,female,back,x\n"
}
HAM_IMAGES = [f"HAM10000_images_part_1/ISIC_{n}.jpg" for n in range(1, 7)]
TEST_ROWS = "H2,ISIC_8,nv,histo,50,female,back,x\nH9,ISIC_9,bcc,histo,70,male,back,x\n"
IN_ITS_COLUMNS = (HAM_HEAD + TEST_ROWS).replace(",", "\t")
ONE_HOT = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_8,0,1,0,0,0,0,0\nISIC_9,0,0,1.0,0,0,0,0\n"


@pytest.mark.parametrize(("name", "table"), [("tab", IN_ITS_COLUMNS), ("csv", ONE_HOT)])
def test_the_test_set_of_ham10000_is_its_split_test(tmp_path: Path, name: str, table: str) -> None:
    test = [f"ISIC2018_Task3_Test_Images/ISIC2018_Task3_Test_Images/ISIC_{n}.jpg" for n in (8, 9)]
    write(tmp_path, {**HAM, f"ISIC2018_Task3_Test_GroundTruth.{name}": table}, *HAM_IMAGES, *test)
    index = read_index(tmp_path)
    assert (index.layout, index.classes) == ("HAM10000", ("bcc", "mel", "nv"))
    alone = ("no lesion or patient is known of 2 images: each is on its own",)
    assert index.notes == (() if name == "tab" else alone)
    assert column(index, "split") == {**{f"ISIC_{n}": "" for n in range(1, 7)}, "ISIC_8": "test", "ISIC_9": "test"}
    assert column(index, "label")["ISIC_8"] == "nv"
    assert column(index, "group")["ISIC_2"] == "H1"
    assert column(index, "group")["ISIC_9"] == ("H9" if name == "tab" else "ISIC_9")
    if name == "tab":  # a lesion of the test set is in no other split, and no lesion in two
        split = split_index(index, (0.7, 0.2, 0.1), seed=0).set_index("image")["split"]
        assert split["ISIC_3"] == "test"
        assert split["ISIC_1"] == split["ISIC_2"]
        assert set(split) == {"train", "val", "test"}


def test_ham10000_with_the_table_of_its_test_set_alone(tmp_path: Path) -> None:
    write(tmp_path, {**HAM, "ISIC2018_Task3_Test_GroundTruth.csv": ONE_HOT}, *HAM_IMAGES)
    index = read_index(tmp_path)
    assert len(index.rows) == 6
    assert index.notes == (
        "ISIC2018_Task3_Test_GroundTruth.csv names 2 images, and the folder has none of them: left out",
    )


# ------------------------------------------------------------------------------------------------ 2020

HEAD_2020 = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target\n"
ROWS_2020 = (
    "ISIC_1,IP_1,male,45.0,torso,nevus,benign,0\nISIC_2,IP_1,male,45.0,torso,unknown,benign,0\n"
    "ISIC_3,IP_2,female,,,melanoma,malignant,1\nISIC_4,IP_3,female,30.0,torso,melanoma,malignant,1\n"
)


def isic_2020(folder: Path, name: str = "train.csv", images: str = "jpeg/train") -> Path:
    return write(folder, {name: HEAD_2020 + ROWS_2020}, *(f"{images}/ISIC_{n}.jpg" for n in (1, 2, 3, 4)))


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("train.csv", "jpeg/train"),
        ("train.csv", "train"),  # Kaggle's resized copies
        ("ISIC_2020_Training_GroundTruth.csv", "ISIC_2020_Training_JPEG/train"),
        ("ISIC_2020_Training_GroundTruth_v2.csv", "ISIC_2020_Training_Input/train"),
    ],
)
def test_isic_2020_of_the_challenge_and_of_kaggle(tmp_path: Path, name: str, images: str) -> None:
    index = read_index(isic_2020(tmp_path, name, images))
    assert (index.layout, index.classes, index.notes) == ("ISIC 2020", ("benign", "malignant"), ())
    assert index.rows["label"].tolist() == ["benign", "benign", "malignant", "malignant"]
    assert index.rows["group"].tolist() == ["IP_1", "IP_1", "IP_2", "IP_3"]
    assert set(index.rows["split"]) == {""}
    assert column(index, "age_approx")["ISIC_1"] == 45.0
    assert column(index, "diagnosis")["ISIC_3"] == "melanoma"


def test_the_pictures_of_kaggle_are_taken_where_their_dicom_files_lie_beside_them(tmp_path: Path) -> None:
    write(isic_2020(tmp_path), {}, *(f"train/ISIC_{n}.dcm" for n in (1, 2, 3, 4)))
    index = read_index(tmp_path)
    assert {Path(str(path)).suffix for path in index.rows["path"]} == {".jpg"}
    assert index.unnamed == ()


def test_tables_of_isic_2020_without_classes_are_no_labels(tmp_path: Path) -> None:
    write(
        isic_2020(tmp_path),
        {
            "test.csv": "image_name,patient_id,sex,age_approx\nISIC_9,IP_9,male,70\n",
            "sample_submission.csv": "image_name,target\nISIC_9,0\n",
        },
        *("jpeg/test/ISIC_8.jpg", "jpeg/test/ISIC_9.jpg"),
    )
    index = read_index(tmp_path)
    assert "ISIC_9" not in column(index, "label")
    assert index.notes == (
        "sample_submission.csv and test.csv give no class of 1 image: left out",
        "the folder holds 1 image not named in train.csv: left out",
    )
    assert index.unnamed == ("jpeg/test/ISIC_8.jpg",)


def test_the_copies_that_isic_2020_names_are_one_group(tmp_path: Path) -> None:
    pairs = "image_name_1,image_name_2\nISIC_2,ISIC_4\nISIC_1,ISIC_elsewhere\n"
    index = read_index(write(isic_2020(tmp_path), {"ISIC_2020_Training_Duplicates.csv": pairs}))
    assert index.rows["group"].tolist() == ["IP_1", "IP_1", "IP_2", "IP_1"]
    assert index.notes == ("ISIC_2020_Training_Duplicates.csv joins 1 pair of copies: each pair stays in one split",)


def test_a_copy_of_an_unknown_patients_image_joins_the_known_patient(tmp_path: Path) -> None:
    """Not the other way round: -1 would take the known patient's images with it, and all would be on their own."""
    patients = ["-1", "-1", "-1", "2", "2", "-1", "-1", "3"]
    classes = ["melanoma,malignant,1", *["nevus,benign,0"] * 7]
    rows = "".join(
        f"ISIC_{n},{name},male,45,torso,{classes[n]}\n" for n, name in enumerate(patients)
    )
    pairs = "image_name_1,image_name_2\nISIC_0,ISIC_3\nISIC_1,ISIC_2\n"
    images = [f"train/ISIC_{n}.jpg" for n in range(8)]
    write(tmp_path, {"train.csv": HEAD_2020 + rows, "2020_dup.csv": pairs}, *images)
    index = read_index(tmp_path)
    assert index.rows["group"].tolist() == ["2", "ISIC_1", "ISIC_1", "2", "2", "ISIC_5", "ISIC_6", "3"]
    assert index.notes == ("2020_dup.csv joins 2 pairs of copies: each pair stays in one split",)
    assert "'-1' is the lesion or patient of 2 of 8 images: treated as unknown" in index.warnings[0]


@pytest.mark.parametrize("spelling", ["{}.jpg", "images/{}.JPG", "{}_downsampled", "isic{}"])
@pytest.mark.parametrize("year", [2018, 2019, 2020, 2024])
def test_a_second_table_of_a_challenge_may_spell_the_names_of_images_otherwise(
    tmp_path: Path, year: int, spelling: str
) -> None:
    one, other = (spelling.format(name if "isic" not in spelling else name[4:]) for name in ("ISIC_1", "ISIC_2"))
    head = {2018: "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC", 2019: "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC"}.get(year, "")
    marks = ",0" * (head.count(",") - 2) + "\n"
    if year == 2020:
        isic_2020(tmp_path)
        write(tmp_path, {"ISIC_2020_Training_Duplicates.csv": f"image_name_1,image_name_2\n{one},{other}\n"})
    elif year == 2024:
        official_2024(tmp_path, f"{one},IP_1,60\n{other},IP_1,60\nISIC_3,IP_2,\n")
        (tmp_path / "ISIC_2024_Training_Supplement.csv").unlink()
    else:
        truth = f"{head}\nISIC_1,1,0{marks}ISIC_2,1,0{marks}ISIC_3,0,1{marks}"
        lead = {2018: "ISIC2018_Task3_Training", 2019: "ISIC_2019_Training"}[year]
        beside = {2018: f"{lead}_LesionGroupings.csv", 2019: f"{lead}_Metadata.csv"}[year]
        lesions = f"image,lesion_id\n{one},L1\n{other},L1\nISIC_3,L2\n"
        tables = {f"{lead}_GroundTruth.csv": truth, beside: lesions}
        write(tmp_path, tables, *(f"{lead}_Input/ISIC_{n}.jpg" for n in (1, 2, 3)))
    index = read_index(tmp_path)
    groups = column(index, "group")
    assert groups["ISIC_1"] == groups["ISIC_2"] != groups["ISIC_3"]
    assert not [note for note in index.notes if "no class of" in note or "0 pairs" in note]
    assert not [line for line in index.warnings if "hardly anything" in line]


def test_a_second_table_that_names_none_of_the_images_is_warned_of(tmp_path: Path) -> None:
    pairs = "image_name_1,image_name_2\nphoto 1,photo 2\n"
    assert read_index(write(isic_2020(tmp_path / "a"), {"dup.csv": pairs})).warnings[0] == (
        "dup.csv names 0 of 4 images ('photo 1' in it, 'ISIC_1' where the classes are), so that hardly anything it "
        "tells is known of them: if it should, write the names in one way"
    )
    official_2024(tmp_path / "b", "photo 1,IP_1,60\nphoto 2,IP_1,60\n")
    (tmp_path / "b" / "ISIC_2024_Training_Supplement.csv").unlink()
    assert read_index(tmp_path / "b").warnings[0].startswith("metadata.csv names 0 of 3 images ('photo 1' in it")


def test_the_second_version_of_isic_2020_adds_the_lesions(tmp_path: Path) -> None:
    isic_2020(tmp_path, "ISIC_2020_Training_GroundTruth.csv")
    lesions = {"ISIC_1": "IL_1", "ISIC_2": "IL_2", "ISIC_3": "IL_3", "ISIC_4": "IL_3"}
    rows = "".join(f"{row},{lesions[row[:6]]}\n" for row in ROWS_2020.splitlines())
    second = "ISIC_2020_Training_GroundTruth_v2.csv"
    write(tmp_path, {second: HEAD_2020.strip() + ",lesion_id\n" + rows})
    assert read_index(tmp_path).rows["group"].tolist() == ["IP_1", "IP_1", "IP_2", "IP_2"]
    write(tmp_path, {second: HEAD_2020 + "ISIC_4,IP_3,,,,,benign,0\n"})
    assert f"and {second} disagree on benign_malignant of the image 'ISIC_4': correct one" in refusal(tmp_path)


def test_parts_of_the_table_of_isic_2020_are_one_table(tmp_path: Path) -> None:
    rows = ROWS_2020.splitlines(keepends=True)
    parts = {"train.csv": HEAD_2020 + "".join(rows[:3]), "more.csv": HEAD_2020 + "".join(rows[2:])}
    write(isic_2020(tmp_path), parts)
    assert len(read_index(tmp_path).rows) == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("malignant,1\nISIC_4", "malignant,0\nISIC_4", "benign_malignant and target of the image 'ISIC_3' disagree"),
        ("benign,0\nISIC_2", "suspicious,0\nISIC_2", "of the image 'ISIC_1' is 'suspicious', and neither benign"),
        ("patient_id", "person", "has no column 'patient_id'"),
        ("benign_malignant,target", "verdict,aim", "has no column 'benign_malignant'"),
    ],
)
def test_tables_of_isic_2020_that_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    name = "ISIC_2020_Training_GroundTruth.csv"
    write(isic_2020(tmp_path, name), {name: (HEAD_2020 + ROWS_2020).replace(old, new)})
    said = refusal(tmp_path)
    assert message in said
    assert name in said


# ------------------------------------------------------------------------------------------------ 2024

HEAD_2024 = "isic_id,target,patient_id,age_approx,sex,anatom_site_general,clin_size_long_diam_mm,tbp_tile_type,"
HEAD_2024 += "lesion_id\n"
ROWS_2024 = (
    "ISIC_1,0,IP_1,60.0,male,torso,3.04,3D: white,IL_1\nISIC_2,0,IP_1,60.0,male,torso,3.0,3D: white,\n"
    "ISIC_3,1,IP_2,,,torso,7.5,3D: XP,\n"
)


def test_isic_2024_of_kaggle(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "train-metadata.csv": HEAD_2024 + ROWS_2024,
            "test-metadata.csv": "isic_id,patient_id,age_approx\nISIC_9,IP_9,45.0\n",
            "sample_submission.csv": "isic_id,target\nISIC_9,0.3\n",
        },
        *(f"train-image/image/ISIC_{n}.jpg" for n in (1, 2, 3)),
    )
    index = read_index(tmp_path)
    assert (index.layout, index.classes) == ("ISIC 2024", ("benign", "malignant"))
    assert index.rows["label"].tolist() == ["benign", "benign", "malignant"]
    assert index.rows["group"].tolist() == ["IP_1", "IP_1", "IP_2"]
    assert column(index, "clin_size_long_diam_mm") == {"ISIC_1": 3.04, "ISIC_2": 3.0, "ISIC_3": 7.5}
    assert index.notes == ("sample_submission.csv and test-metadata.csv give no class of 1 image: left out",)


def official_2024(folder: Path, people: str = "ISIC_1,IP_1,60\nISIC_2,IP_1,60\nISIC_3,IP_2,\n") -> Path:
    return write(
        folder,
        {
            "ISIC_2024_Training_GroundTruth.csv": "isic_id,malignant\nISIC_1,0.0\nISIC_2,0.0\nISIC_3,1.0\n",
            "ISIC_2024_Training_Input/metadata.csv": f"isic_id,patient_id,age_approx\n{people}",
            "ISIC_2024_Training_Supplement.csv": "isic_id,lesion_id,iddx_full\nISIC_2,IL_7,x\nISIC_3,IL_7,y\n",
        },
        *(f"ISIC_2024_Training_Input/ISIC_{n}.jpg" for n in (1, 2, 3)),
    )


def test_isic_2024_of_the_challenge_has_patients_and_lesions_in_tables_of_their_own(tmp_path: Path) -> None:
    index = read_index(official_2024(tmp_path))
    assert (index.layout, index.notes) == ("ISIC 2024", ())
    assert column(index, "label") == {"ISIC_1": "benign", "ISIC_2": "benign", "ISIC_3": "malignant"}
    assert set(index.rows["group"]) == {"IP_1"}  # the lesion IL_7 joins the two patients
    assert column(index, "age_approx")["ISIC_1"] == 60.0


def test_isic_2024_with_its_truth_alone_has_no_groups(tmp_path: Path) -> None:
    official_2024(tmp_path)
    (tmp_path / "ISIC_2024_Training_Supplement.csv").unlink()
    (tmp_path / "ISIC_2024_Training_Input/metadata.csv").unlink()
    assert read_index(tmp_path).rows["group"].tolist() == ["ISIC_1", "ISIC_2", "ISIC_3"]


def test_tables_of_isic_2024_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    official_2024(tmp_path / "twice", "ISIC_1,IP_1,60\nISIC_1,IP_2,60\n")
    assert "metadata.csv has two rows for 'ISIC_1'" in refusal(tmp_path / "twice")
    write(official_2024(tmp_path / "both"), {"train-metadata.csv": HEAD_2024 + ROWS_2024.replace("IP_2", "IP_5")})
    assert "gives the image 'ISIC_3' of ISIC 2024 another patient_id" in refusal(tmp_path / "both")
    other = HEAD_2024 + ROWS_2024.replace("ISIC_3,1", "ISIC_3,0")
    write(official_2024(tmp_path / "label"), {"train-metadata.csv": other})
    assert "malignant and target of the image 'ISIC_3' disagree" in refusal(tmp_path / "label")
    write(official_2024(tmp_path / "column"), {"ISIC_2024_Training_GroundTruth.csv": "isic_id,x\nISIC_1,0\n"})
    assert "ISIC_2024_Training_GroundTruth.csv has no column 'malignant'" in refusal(tmp_path / "column")
    write(official_2024(tmp_path / "code"), {"ISIC_2024_Training_GroundTruth.csv": "isic_id,malignant\nISIC_1,0.3\n"})
    assert "malignant of the image 'ISIC_1' is '0.3'" in refusal(tmp_path / "code")


# --------------------------------------------------------------------------------------------- MILK10k

MILK_HEAD = "lesion_id,AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,SCCKA,VASC\n"
MILK_TRUTH = "MILK10k_Training_GroundTruth.csv"
MILK_ROWS = "IL_1,0,0,0,0,0,0,0,1.0,0,0,0\nIL_2,0,0,0,0,0,1,0,0,0,0,0\nIL_3,0,0,0,0,0,0,0,1,0,0,0\n"
MILK_IMAGES = (
    "lesion_id,image_type,isic_id,age_approx,sex,skin_tone_class,site,MONET_hair\n"
    "IL_1,clinical: close-up,ISIC_1,65,male,3,trunk,0.3\nIL_1,dermoscopic,ISIC_2,65,male,3,trunk,0.3\n"
    "IL_2,clinical: close-up,ISIC_3,,female,2,head,0.3\nIL_2,dermoscopic,ISIC_4,,female,2,head,0.3\n"
    "IL_3,clinical: close-up,ISIC_5,40,male,4,trunk,0.3\nIL_3,dermoscopic,ISIC_6,40,male,4,trunk,0.3\n"
)


def milk10k(folder: Path) -> Path:
    return write(
        folder,
        {
            MILK_TRUTH: MILK_HEAD + MILK_ROWS,
            "MILK10k_Training_Metadata.csv": MILK_IMAGES,
            "MILK10k_Training_Supplement.csv": "isic_id,diagnosis_full\nISIC_1,Melanoma\n",
        },
        *(f"MILK10k_Training_Input/IL_{n}/ISIC_{i}.jpg" for n, i in ((1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6))),
    )


def test_milk10k_has_two_images_of_a_lesion_in_one_group(tmp_path: Path) -> None:
    index = read_index(milk10k(tmp_path))
    assert (index.layout, index.classes) == ("MILK10k", ("INF", "MEL"))
    assert index.rows["label"].tolist() == ["MEL", "MEL", "INF", "INF", "MEL", "MEL"]
    assert index.rows["group"].tolist() == ["IL_1", "IL_1", "IL_2", "IL_2", "IL_3", "IL_3"]
    assert index.rows["lesion_id"].equals(index.rows["group"])
    assert index.columns == {"image": "isic_id", "group": "lesion_id"}
    assert index.rows["image_type"].tolist() == ["clinical: close-up", "dermoscopic"] * 3
    assert column(index, "skin_tone_class")["ISIC_1"] == 3
    assert index.notes == (f"{MILK_TRUTH} has no image of AKIEC, BCC, BEN_OTH, BKL, DF, MAL_OTH, NV, SCCKA, VASC",)


def test_the_test_images_of_milk10k_have_no_class(tmp_path: Path) -> None:
    rows = "lesion_id,image_type,isic_id\nIL_9,dermoscopic,ISIC_9\n"
    write(milk10k(tmp_path), {"MILK10k_Test_Metadata.csv": rows}, "MILK10k_Test_Input/IL_9/ISIC_9.jpg")
    index = read_index(tmp_path)
    assert "ISIC_9" not in column(index, "label")
    assert index.left_out == {"MILK10k_Test_Metadata.csv gives no class of 1 image: left out": 1}
    assert set(index.left_out) < set(index.notes)
    (tmp_path / "MILK10k_Test_Input/IL_9/ISIC_9.jpg").unlink()
    assert read_index(tmp_path).left_out == {}  # it was not downloaded
    write(tmp_path, {}, "MILK10k_Test_Input/IL_9/ISIC_9.jpg")
    write(tmp_path, {"MILK10k_Test_Metadata.csv": f"{rows}IL_9,clinical: close-up,ISIC_8\n"})
    said = "MILK10k_Test_Metadata.csv gives no class of 2 images: left out (1 of them in the folder)"
    assert read_index(tmp_path).left_out == {said: 1}
    truth = MILK_HEAD + "IL_9,0,1,0,0,0,0,0,0,0,0,0\n"
    write(tmp_path, {"MILK10k_Test_Metadata.csv": rows, "MILK10k_Test_GroundTruth.csv": truth})
    splits = column(read_index(tmp_path), "split")
    assert (splits["ISIC_1"], splits["ISIC_9"]) == ("", "test")


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        (MILK_TRUTH, MILK_HEAD + MILK_ROWS + "IL_1,1,0,0,0,0,0,0,0,0,0,0\n", "gives the lesion 'IL_1' two classes"),
        (MILK_TRUTH, MILK_HEAD + MILK_ROWS.replace("1.0", "0.4"), "row 2, column MEL: '0.4' is neither 1 nor 0"),
        (MILK_TRUTH, MILK_HEAD.replace("VASC", "X") + MILK_ROWS, "has no column 'vasc'"),
        (MILK_TRUTH, MILK_HEAD + MILK_ROWS.splitlines()[0], "has 4 rows without a class (first: ISIC_3)"),
        (MILK_TRUTH, MILK_HEAD + MILK_ROWS.replace("1.0", "0"), "rows that mark no class: 2, several: 0"),
        (MILK_TRUTH, MILK_HEAD + MILK_ROWS + "IL_5,1,0,0,0,0,0,0,0,0,0,0\n", "has no image of 1 lesion"),
        ("MILK10k_Training_Metadata.csv", MILK_IMAGES.replace("isic_id", "picture"), "has no column 'isic_id'"),
        ("MILK10k_Training_Metadata.csv", MILK_IMAGES + "IL_2,dermoscopic,ISIC_1,,,,,\n", "two values of label"),
    ],
)
def test_tables_of_milk10k_that_are_refused(tmp_path: Path, name: str, table: str, message: str) -> None:
    said = refusal(write(milk10k(tmp_path), {name: table}))
    assert message in said
    assert "MILK10k_Training" in said or "image MILK10k" in said


def test_milk10k_without_its_table_of_images_says_which_to_download(tmp_path: Path) -> None:
    (milk10k(tmp_path) / "MILK10k_Training_Metadata.csv").unlink()
    assert "MILK10k_Training_Metadata.csv, which tells their images, is not in" in refusal(tmp_path)
