"""Each public layout as downloaded, and everything a table or a folder can have wrong with it."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

from skin.data.class_names import match_classes, readable_name
from skin.data.groups import join_groups, join_pairs
from skin.data.image_files import IMAGE_SUFFIXES
from skin.data.index import Index
from skin.data.layouts import read_index
from skin.data.npz import is_npz_image, npz_image_size, read_npz_image
from skin.data.tables import read_table
from skin.utils.errors import UserError

import numpy as np
import pandas as pd
import pytest


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Make `folder` with these files; no layout looks inside an image, so any bytes stand for one."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def images(*names: str) -> dict[str, str | bytes]:
    return {name: name for name in names}


def column(index: Index, name: str) -> dict[str, object]:
    return dict(zip(index.rows["image"], index.rows[name], strict=True))


HAM = "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
HAM_ROWS = (
    "HAM_0,ISIC_1,mel,histo,80.0,male,scalp\nHAM_0,ISIC_2,mel,histo,80.0,male,scalp\nHAM_1,ISIC_3,nv,histo,,female,\n"
)
HAM_IMAGES = images("HAM10000_images_part_1/ISIC_1.jpg", "HAM10000_images_part_1/ISIC_2.jpg", "part_2/ISIC_3.jpg")


# ---------------------------------------------------------------------------------- layouts as downloaded


def test_ham10000(tmp_path: Path) -> None:
    index = read_index(write(tmp_path, {"HAM10000_metadata.csv": HAM + HAM_ROWS, **HAM_IMAGES}))

    assert (index.layout, index.classes, index.notes) == ("HAM10000", ("mel", "nv"), ())
    assert column(index, "label") == {"ISIC_1": "mel", "ISIC_2": "mel", "ISIC_3": "nv"}
    assert column(index, "group") == {"ISIC_1": "HAM_0", "ISIC_2": "HAM_0", "ISIC_3": "HAM_1"}
    assert column(index, "path")["ISIC_3"] == str(tmp_path.resolve() / "part_2/ISIC_3.jpg")
    assert index.rows["age"].tolist()[:2] == [80.0, 80.0]
    assert np.isnan(index.rows["age"][2])
    assert column(index, "localization") == {"ISIC_1": "scalp", "ISIC_2": "scalp", "ISIC_3": ""}
    assert set(index.rows["split"]) == {""}


def test_ham10000_with_its_image_folders_twice_under_two_spellings(tmp_path: Path) -> None:
    twice = {name.replace("HAM10000_images", "ham10000_images"): data for name, data in HAM_IMAGES.items()}
    index = read_index(write(tmp_path, {"HAM10000_metadata.csv": HAM + HAM_ROWS, **HAM_IMAGES, **twice}))

    assert len(index.rows) == 3
    assert index.notes == ("the folder holds 2 images twice: one copy of each is used",)


def test_class_folders(tmp_path: Path) -> None:
    files = images("mel/1.jpg", "mel/deeper/2.PNG", "nv ü/1.jpg", "nv ü/.hidden.jpg", "loose.jpg", "nv ü/notes.doc")
    (tmp_path / "bcc").mkdir()
    index = read_index(write(tmp_path, {**files, "README.csv": "a,b\n1,2\n"}))

    assert (index.layout, index.classes) == ("class folders", ("mel", "nv ü"))
    assert column(index, "label") == {"mel/1.jpg": "mel", "mel/deeper/2.PNG": "mel", "nv ü/1.jpg": "nv ü"}
    assert index.rows["group"].equals(index.rows["image"])
    assert index.notes == (
        "the folder holds 1 image outside the class folders: left out",
        "the table README.csv is not used (--labels names one)",
        "the folder bcc holds no images of a class: left out",
    )


def test_classes_may_be_named_like_folders_of_images(tmp_path: Path) -> None:
    index = read_index(write(tmp_path, images("benign_images/1.jpg", "melanoma_imgs/2.jpg", "nv/3.jpg")))
    assert (index.layout, index.classes) == ("class folders", ("benign_images", "melanoma_imgs", "nv"))


@pytest.mark.parametrize(
    "name",
    ["images", "imgs_2", "test_images", "Validation-images", "HAM10000_images_part_1", "ISIC2018_Training_Input"],
)
def test_what_merely_holds_images_is_no_class(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"holds {name} beside class folders, .* move it out of the data folder"):
        read_index(write(tmp_path, images(f"{name}/1.jpg", "nv/2.jpg", "mel/3.jpg")))


def test_class_folders_inside_the_one_folder_that_an_archive_made(tmp_path: Path) -> None:
    index = read_index(write(tmp_path, images("set-v1/mel/1.jpg", "set-v1/nv/1.jpg")))
    assert column(index, "label") == {"set-v1/mel/1.jpg": "mel", "set-v1/nv/1.jpg": "nv"}


@pytest.mark.parametrize("validation", ["val", "valid", "Validation"])
def test_split_folders(tmp_path: Path, validation: str) -> None:
    index = read_index(
        write(tmp_path, images("Train/mel/1.jpg", "Train/nv/2.jpg", f"{validation}/nv/3.jpg", "test/mel/4.jpg"))
    )
    assert index.layout == "split folders"
    assert index.classes == ("mel", "nv")
    assert sorted(zip(index.rows["label"], index.rows["split"], strict=True)) == [
        ("mel", "test"), ("mel", "train"), ("nv", "train"), ("nv", "val"),
    ]  # fmt: skip


def test_isic_2018_takes_its_three_parts_as_splits_and_its_lesion_table_as_groups(tmp_path: Path) -> None:
    head = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n"
    train = head + "I1,1.0,0.0,0.0,0.0,0.0,0.0,0.0\nI2,0,1,0,0,0,0,0\n"
    lesions = "image,lesion_id,diagnosis_confirm_type\nI1,H7,histo\nI2,H7,x\n"
    index = read_index(
        write(
            tmp_path,
            {
                "gt/ISIC2018_Task3_Training_GroundTruth.csv": train,
                "gt/ISIC2018_Task3_Validation_GroundTruth.csv": head + "I3,0,0,0,0,0,0,1\n",
                "gt/ISIC2018_Task3_Test_GroundTruth.csv": head + "I4,False,False,False,True,False,False,False\n",
                "ISIC2018_Task3_Training_LesionGroupings.csv": lesions,
                **images(
                    "ISIC2018_Task3_Training_Input/I1.jpg", "ISIC2018_Task3_Training_Input/I2.jpg",
                    "ISIC2018_Task3_Validation_Input/I3.jpg", "ISIC2018_Task3_Test_Input/I4.jpg",
                ),
            },
        )
    )  # fmt: skip
    assert index.layout == "ISIC 2018"
    assert column(index, "label") == {"I1": "MEL", "I2": "NV", "I3": "VASC", "I4": "AKIEC"}
    assert column(index, "split") == {"I1": "train", "I2": "train", "I3": "val", "I4": "test"}
    assert column(index, "group") == {"I1": "H7", "I2": "H7", "I3": "I3", "I4": "I4"}
    assert index.notes[-1].endswith("has no image of BCC, BKL, DF")


def test_isic_2019(tmp_path: Path) -> None:
    index = read_index(
        write(
            tmp_path,
            {
                "ISIC_2019_Training_GroundTruth.csv": "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\n"
                "I1,1.0,0,0,0,0,0,0,0,0\nI2,0,0,0,0,0,0,0,1.0,0\nI3,0,0,0,0,0,0,0,0,1\nI4,0,0,0,1,0,0,0,0,0\n",
                "ISIC_2019_Training_Metadata.csv": "image,age_approx,anatom_site_general,lesion_id,sex\n"
                "I1,55.0,anterior torso,MSK_1,female\nI2,,,MSK_1,male\nI9,1,x,y,z\n",
                **images(*(f"ISIC_2019_Training_Input/I{n}.jpg" for n in (1, 2, 3, 4))),
            },
        )
    )
    assert index.layout == "ISIC 2019"
    assert column(index, "label") == {"I1": "MEL", "I2": "SCC", "I4": "AK"}
    assert column(index, "group") == {"I1": "MSK_1", "I2": "MSK_1", "I4": "I4"}
    assert column(index, "sex") == {"I1": "female", "I2": "male", "I4": ""}
    assert column(index, "age_approx")["I1"] == 55.0
    assert any("1 image UNK" in note for note in index.notes)


@pytest.mark.parametrize(
    ("head", "labels"),
    [
        ("isic_id,diagnosis,patient_id,lesion_id,sex", ["melanoma", "nevus", "nevus"]),
        ("isic_id,diagnosis_3,patient_id,lesion_id,sex", ["melanoma", "nevus", "nevus"]),
        ("isic_id,diagnosis_1,patient_id,lesion_id,sex", ["melanoma", "nevus", "nevus"]),
        (
            "isic_id,metadata.clinical.diagnosis_3,metadata.clinical.patient_id,metadata.clinical.lesion_id,"
            "metadata.clinical.sex", ["melanoma", "nevus", "nevus"],
        ),
    ],
)  # fmt: skip
def test_isic_archive_groups_by_patient_and_lesion_together(tmp_path: Path, head: str, labels: list[str]) -> None:
    rows = "I1,melanoma,P1,L1,male\nI2,nevus,,L1,\nI3,nevus,P1,L2,male\nI4,nevus,,,\nI5,,,,\n"
    write(tmp_path, {"metadata.csv": f"{head}\n{rows}", **images(*(f"I{n}.jpg" for n in range(1, 6)))})
    index = read_index(tmp_path)

    assert index.layout == "ISIC Archive"
    assert index.rows["label"].tolist() == [*labels, "nevus"]
    # I2 names no patient, but its lesion is one of P1's.
    assert column(index, "group") == {"I1": "P1", "I2": "P1", "I3": "P1", "I4": "I4"}
    assert "metadata.csv gives 1 image no diagnosis (first: I5): left out" in index.notes
    assert (index.unnamed, len(index.notes)) == ((), 3)
    assert "no lesion or patient is known of 1 image: each is on its own" in index.notes


def test_isic_archive_reads_the_disease_among_five_levels(tmp_path: Path) -> None:
    table = (
        "isic_id,diagnosis_1,diagnosis_2,diagnosis_3,diagnosis_4,diagnosis_5\n"
        "I1,Malignant,Malignant melanocytic proliferations (Melanoma),Melanoma Invasive,,\n"
        "I2,Benign,Benign melanocytic proliferations,Nevus,Nevus of special anatomic site,\n"
    )
    index = read_index(write(tmp_path, {"metadata.csv": table, **images("I1.jpg", "I2.jpg")}))
    assert index.rows["label"].tolist() == ["Melanoma Invasive", "Nevus"]
    assert index.notes == (
        "labels are the column diagnosis_3 of metadata.csv, filled in 2 rows; others: diagnosis_4 (1), "
        "diagnosis_2 (2), diagnosis_1 (2); --label-column NAME takes another",
    )


def levels(folder: Path, head: str, *rows: tuple[int, str]) -> Path:
    """A download from the Archive: the columns `head` after isic_id, and so many rows of each kind."""
    lines = [line for count, line in rows for _ in range(count)]
    table = "".join(f"I{n},{line}\n" for n, line in enumerate(lines))
    names = images(*(f"I{n}.jpg" for n in range(len(lines))))
    return write(folder, {"metadata.csv": f"isic_id,{head}\n{table}", **names})


def test_a_level_that_few_rows_of_the_archive_fill_is_not_the_classes(tmp_path: Path) -> None:
    head = "diagnosis_1,diagnosis_2,diagnosis_3"
    few = levels(tmp_path / "few", head, (6, "Malignant,,Melanoma"), (194, "Benign,,"))
    index = read_index(few)
    assert index.rows["label"].value_counts().to_dict() == {"Benign": 194, "Malignant": 6}
    assert index.notes[0].startswith(
        "labels are the column diagnosis_1 of metadata.csv, filled in 200 rows; others: diagnosis_3 (6);"
    )

    nearly = levels(tmp_path / "nearly", head, (100, "Malignant,,Melanoma"), (98, "Benign,,Nevus"), (2, "Benign,,"))
    index = read_index(nearly)
    assert index.rows["label"].value_counts().to_dict() == {"Melanoma": 100, "Nevus": 98, "Benign": 2}
    assert index.notes[1] == (
        "diagnosis_3 is empty in 2 rows with a diagnosis: they have the level above as their class: Benign (2)"
    )


def test_a_class_of_the_archive_that_has_no_third_level_keeps_its_second(tmp_path: Path) -> None:
    """As BCN20000's vascular lesions, whatever their share; rows without a diagnosis are left out."""
    rows = (
        (20, "Malignant,Melanocytic (Melanoma),Melanoma"), (20, "Benign,Melanocytic,Nevus"), (10, "Benign,Vascular,"),
        (30, ",,"),
    )  # fmt: skip
    index = read_index(levels(tmp_path, "diagnosis_1,diagnosis_2,diagnosis_3", *rows))
    assert index.rows["label"].value_counts().to_dict() == {"Melanoma": 20, "Nevus": 20, "Vascular": 10}
    assert index.notes[1:] == (
        "diagnosis_3 is empty in 10 rows with a diagnosis: they have the level above as their class: Vascular (10)",
        "metadata.csv gives 30 images no diagnosis (first: I50): left out",
    )


def test_a_class_of_the_archive_that_only_some_rows_divide_is_no_class_beside_its_parts(tmp_path: Path) -> None:
    rows = (30, "Malignant,Melanoma"), (30, "Benign,Nevus"), (30, "Benign,")
    index = read_index(levels(tmp_path, "diagnosis_1,diagnosis_3", *rows))
    assert index.classes == ("Benign", "Malignant")


@pytest.mark.parametrize("other", ["test-metadata.csv", "supplement/metadata.csv"])
def test_a_table_of_the_archive_without_diagnosis_is_left_to_others(tmp_path: Path, other: str) -> None:
    write(tmp_path, {other: "isic_id,sex\nI9,male\n"})
    levels(tmp_path, "diagnosis", (2, "melanoma"), (2, "nevus"))
    assert read_index(tmp_path).classes == ("melanoma", "nevus")
    (tmp_path / "metadata.csv").unlink()
    with pytest.raises(UserError, match="is of no known layout"):
        read_index(tmp_path)

def test_where_no_level_is_whole_the_one_that_most_rows_fill_is_taken_and_the_rest_counts(tmp_path: Path) -> None:
    levels(tmp_path, "diagnosis,diagnosis_1", (60, "nevus,"), (70, ",Benign"), (70, ",Malignant"))
    with pytest.raises(UserError, match=r"60 rows without a class \(first: I0\): over 1 % of 200 rows; --allow"):
        read_index(tmp_path)
    assert read_index(tmp_path, allow_missing=True).classes == ("Benign", "Malignant")


def archive(*rows: str, head: str = "isic_id,diagnosis_3,patient_id") -> str:
    return "\n".join([head, *rows, ""])


def test_several_tables_of_the_archive_are_one(tmp_path: Path) -> None:
    files = {
        "a/metadata.csv": archive("I1,Nevus,P1", "I2,Melanoma,P2"),
        "b/metadata.csv": archive("I3,P1,Nevus", "I2,P2,", head="isic_id,patient_id,diagnosis_3"),
        **images("a/I1.jpg", "a/I2.jpg", "b/I3.jpg"),
    }
    index = read_index(write(tmp_path, files))
    assert index.layout == "ISIC Archive"
    assert column(index, "label") == {"I1": "Nevus", "I2": "Melanoma", "I3": "Nevus"}
    assert column(index, "group") == {"I1": "P1", "I2": "P2", "I3": "P1"}
    assert index.notes == ("labels are the column diagnosis_3 of a/metadata.csv and b/metadata.csv",)

    write(tmp_path, {"b/metadata.csv": archive("I3,Nevus,P1", "I2,Nevus,P2")})
    with pytest.raises(UserError, match=r"metadata.csv and b/metadata.csv disagree on diagnosis_3 of the image 'I2'"):
        read_index(tmp_path)


@pytest.mark.parametrize("head", ["isic_id,diagnosis_3,patient_id", "isic_id,site,patient_id", "id,x,y"])
@pytest.mark.parametrize("above", ["", "set-v1/"])
def test_class_folders_downloaded_one_by_one_are_class_folders(tmp_path: Path, above: str, head: str) -> None:
    files = {
        f"{above}mel/metadata.csv": archive("I1,Melanoma in situ,P1", "I2,Melanoma Invasive,", head=head),
        f"{above}nv/metadata.csv": archive("I3,Nevus,P1", "I4,Nevus,P2", head=head),
        **images(*(f"{above}{name}" for name in ("mel/I1.jpg", "mel/I2.jpg", "nv/I3.jpg", "nv/I4.jpg", "nv/I5.jpg"))),
    }
    index = read_index(write(tmp_path, files))
    assert (index.layout, index.classes) == ("class folders", ("mel", "nv"))
    if head.startswith("id"):  # tables that we do not know
        assert index.rows["group"].equals(index.rows["image"])
        return
    groups = {Path(str(image)).stem: group for image, group in column(index, "group").items()}
    unknown = {name: f"{above}{folder}/{name}.jpg" for name, folder in (("I2", "mel"), ("I5", "nv"))}
    assert groups == {"I1": "P1", "I3": "P1", "I4": "P2", **unknown}
    assert index.notes == (
        f"{above}mel/metadata.csv and {above}nv/metadata.csv tell lesions and patients; the classes are the folders'",
        "no lesion or patient is known of 2 images: each is on its own",
    )


def test_split_folders_with_a_table_of_the_archive_in_each_class_folder_stay_split_folders(tmp_path: Path) -> None:
    folders = {"train/mel": "Melanoma", "train/nv": "Nevus", "test/mel": "Melanoma", "test/nv": "Nevus"}
    files: dict[str, str | bytes] = {}
    for number, (folder, diagnosis) in enumerate(folders.items()):
        files[f"{folder}/metadata.csv"] = archive(f"I{number},{diagnosis},P{number}")
        files[f"{folder}/I{number}.jpg"] = b"x"
    index = read_index(write(tmp_path, files))
    assert index.layout == "split folders"
    assert index.rows["group"].tolist() == ["P2", "P3", "P0", "P1"]


def test_pad_ufes_20(tmp_path: Path) -> None:
    table = (
        "patient_id,lesion_id,smoke,age,region,diagnostic,fitspatrick,gender,img_id,biopsed\n"
        "PAT_1,7,True,8,ARM,NEV,,FEMALE,PAT_1_7_1.png,False\nPAT_1,8,,55,NECK,BCC,3.0,,PAT_1_8_2.png,True\n"
    )
    index = read_index(
        write(tmp_path, {"metadata.csv": table, **images("imgs_part_1/PAT_1_7_1.png", "imgs_part_2/PAT_1_8_2.png")})
    )
    assert index.layout == "PAD-UFES-20"
    assert index.rows["label"].tolist() == ["NEV", "BCC"]
    assert index.rows["group"].tolist() == ["PAT_1", "PAT_1"]
    assert index.rows["age"].tolist() == [8.0, 55.0]


@pytest.mark.parametrize(
    ("rows", "groups"),
    [
        (["P1,880", ",880", ",881", "P2,882"], ["P1", "P1", "881", "P2"]),
        (["P1,1", "P1,2", "P2,1", "P2,2"], ["P1", "P1", "P2", "P2"]),
        (["P1,7", "P2,7", ",8", ",8"], ["P1", "P1", "8", "8"]),  # a slip joins two patients, and loses no lesion
        (["P1,1", "P1,2", "P2,1", "P3,1", ",2"], ["P1", "P1", "P2", "P3", "P1"]),  # only P1 has a lesion 2
    ],
)
def test_patients_and_lesions_are_joined_unless_lesions_are_numbered_within_patients(
    tmp_path: Path, rows: list[str], groups: list[str]
) -> None:
    for name, head in (("metadata.csv", "img_id,diagnostic"), ("HAM10000_metadata.csv", "image_id,dx")):
        lines = [f"i{n},{('mel', 'nv')[n % 2]},{row}" for n, row in enumerate(rows)]
        folder = tmp_path / name.partition(".")[0]
        content = "\n".join([f"{head},patient_id,lesion_id", *lines])
        write(folder, {name: content, **images(*(f"i{n}.png" for n in range(len(rows))))})
        assert read_index(folder).rows["group"].tolist() == groups


@pytest.mark.parametrize("layout", ["labels", "class folders", "Hugging Face"])
@pytest.mark.parametrize(
    ("patients", "lesions"),
    [
        *((("P{0}", word), ("L{0}", "L{0}")) for word in ("unknown", "NA", "n/a", "not recorded")),
        (("P{0}", ""), ("L{0}", "L{0}")),
        (("P{0}", "p{0}"), ("L{0}", "L{0}")),
    ],
)
def test_a_patient_who_is_unknown_or_spelled_otherwise_parts_no_lesion(
    tmp_path: Path, layout: str, patients: tuple[str, str], lesions: tuple[str, str]
) -> None:
    people = [f"{patients[n % 2]},{lesions[n % 2]}".format(n // 2) for n in range(24)]
    labels = [("mel", "nv")[n // 2 % 2] for n in range(24)]
    index = read_people(tmp_path, layout, people, labels)
    assert index.rows.groupby(index.rows["image"].map(number_of) // 2)["group"].nunique().tolist() == [1] * 12
    assert index.rows["group"].nunique() == 12


@pytest.mark.parametrize("layout", ["labels", "class folders", "Hugging Face"])
def test_lesions_that_are_unknown_do_not_number_the_others_within_patients(tmp_path: Path, layout: str) -> None:
    people = [
        f"{'' if n % 2 else f'P{n // 2}'},{'unknown' if n % 2 == 0 and n < 14 else f'L{n // 2}'}" for n in range(24)
    ]
    index = read_people(tmp_path, layout, people, [("mel", "nv")[n // 2 % 2] for n in range(24)])
    of_lesion = index.rows.groupby(index.rows["image"].map(number_of) // 2)["group"].nunique()
    assert of_lesion.tolist() == [2] * 7 + [1] * 5  # nothing links the first seven


@pytest.mark.parametrize(
    ("head", "row", "groups"),
    [
        ("CaseID,patient_id", "{0},P{1}", 4), ("patient_id,case_id,lesion_id", "P{1},{0},L{2}", 4),
        ("case_id,patient_id", "C{2},", 12), ("case_id", "{0}", 6), ("case_id,lesion_id", "C{1},L{2}", 4),
    ],
)  # fmt: skip
def test_cases_that_are_numbered_within_patients_join_none(
    tmp_path: Path, head: str, row: str, groups: int
) -> None:
    rows = [f"i{n},{('mel', 'nv')[n // 2 % 2]},{row.format(n % 6 + 1, n // 6, n // 2)}" for n in range(24)]
    write(tmp_path, {"t.csv": "\n".join([f"image,label,{head}", *rows]), **images(*(f"i{n}.jpg" for n in range(24)))})
    assert read_index(tmp_path, labels=tmp_path / "t.csv").rows["group"].nunique() == groups


def read_people(folder: Path, layout: str, people: list[str], labels: list[str]) -> Index:
    """Write a set of one image per line of `people`, `patient,lesion`, and read it."""
    above = {"labels": "images/", "Hugging Face": ""}
    names = [f"{above.get(layout, f'{label}/')}im{n}.jpg" for n, label in enumerate(labels)]
    rows = [
        ",".join([name, *([] if layout == "class folders" else [label]), who])
        for name, label, who in zip(names, labels, people, strict=True)
    ]
    head = {"labels": "image,label", "class folders": "image", "Hugging Face": "file_name,label"}[layout]
    table = "metadata.csv" if layout == "Hugging Face" else "t.csv"
    write(folder, {table: "\n".join([f"{head},patient_id,lesion_id", *rows]), **images(*names)})
    return read_index(folder, labels=folder / table if layout == "labels" else None)


def number_of(image: str) -> int:
    return int("".join(filter(str.isdigit, image)))


def test_fitzpatrick17k(tmp_path: Path) -> None:
    table = "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,three_partition_label,qc,url\n"
    table += "aa,3,3,psoriasis,inflammatory,non-neoplastic,,http://x\nbb,-1,1,lupus erythematosus,inflammatory,n,,y\n"
    index = read_index(write(tmp_path, {"fitzpatrick17k.csv": table, **images("data/aa.jpg", "data/bb.jpg")}))

    assert (index.layout, index.classes) == ("Fitzpatrick17k", ("lupus erythematosus", "psoriasis"))
    assert index.rows["fitzpatrick_scale"][0] == 3
    assert np.isnan(index.rows["fitzpatrick_scale"][1])


# --------------------------------------------------------------------------------------------- MedMNIST


def medmnist(path: Path, *, compressed: bool = True, **changed: object) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 7), ("val", 2), ("test", 3)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % 7)[:, None]
    for name, value in changed.items():
        arrays.pop(name) if value is None else arrays.__setitem__(name, value)  # type: ignore[call-overload]
    (np.savez_compressed if compressed else np.savez)(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("compressed", [True, False])
def test_dermamnist(tmp_path: Path, compressed: bool) -> None:
    archive = medmnist(tmp_path / "dermamnist.npz", compressed=compressed)
    index = read_index(tmp_path)

    assert index.layout == "MedMNIST"
    assert index.classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert index.rows["split"].value_counts().to_dict() == {"train": 7, "test": 3, "val": 2}
    row = index.rows.set_index("image").loc["train_images/4"]
    assert row["label"] == "mel"
    assert row["path"] == f"{tmp_path.resolve()}/dermamnist.npz::train_images/4"
    assert is_npz_image(row["path"])
    assert npz_image_size(row["path"]) == (5, 4)
    assert np.array_equal(read_npz_image(row["path"]), np.load(archive)["train_images"][4])
    assert read_index(archive).rows.equals(index.rows), "the archive itself may be named, too"


def test_dermamnist_in_capitals(tmp_path: Path) -> None:
    assert len(read_index(medmnist(tmp_path / "DermaMNIST.npz")).rows) == 12
    (tmp_path / "DermaMNIST.npz").rename(tmp_path / "DERMAMNIST.NPZ")
    with pytest.raises(UserError, match=r"must be called \.npz, in small letters: rename it"):
        read_index(tmp_path)


def test_files_that_may_hold_the_labels_are_named_where_no_layout_fits(tmp_path: Path) -> None:
    write(tmp_path, {"labels.xlsx": "PK", "notes.txt": "seen twice", **images("a.jpg", "b.jpg")})
    with pytest.raises(UserError, match=r"the files labels\.xlsx, notes\.txt; save labels\.xlsx as CSV \(UTF-8\)"):
        read_index(tmp_path)
    write(tmp_path, {"labels.txt": "image\tlabel\na\tmel\nb\tnv\nc\tnv\n", **images("c.jpg")})
    with pytest.raises(UserError, match=re.escape(f"--labels {tmp_path / 'labels.txt'} reads its table")):
        read_index(tmp_path)
    assert column(read_index(tmp_path, labels=tmp_path / "labels.txt"), "label") == EXPECTED


def test_rows_of_an_array_are_read_in_any_order(tmp_path: Path) -> None:
    archive = medmnist(tmp_path / "dermamnist_big.npz")
    expected = np.load(archive)["train_images"]
    for row in (0, 3, 4, 1, 6, 6):
        assert np.array_equal(read_npz_image(f"{archive}::train_images/{row}"), expected[row])


def test_grey_images_of_an_archive_become_rgb(tmp_path: Path) -> None:
    np.savez(tmp_path / "grey.npz", train_images=np.array([[[0, 9]]], dtype=np.uint8))
    assert read_npz_image(f"{tmp_path}/grey.npz::train_images/0").tolist() == [[[0, 0, 0], [9, 9, 9]]]


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle in an archive was opened",))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_images": None}, "lacks the array train_images"),
        ({"train_labels": None}, "lacks the array train_labels"),
        ({"test_labels": None}, "lacks the array test_labels"),
        ({"train_labels": np.zeros((6, 1), np.uint8)}, "not 7 class numbers"),
        ({"train_labels": np.zeros((7, 1))}, "not 7 class numbers"),
        ({"train_labels": np.full((7, 1), 7)}, "outside 0 to 6"),
        ({"train_images": np.zeros((7, 4, 5, 3))}, "float64 [7, 4, 5, 3], not images"),
        ({"train_images": np.zeros((7, 12), np.uint8)}, "not images"),
        ({"train_labels": np.array([_Trap()], dtype=object)}, "pickled"),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    medmnist(tmp_path / "dermamnist.npz", **changed)
    with pytest.raises(UserError, match=r"dermamnist\.npz") as error:
        read_index(tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK not a zip", pickle.dumps({"train_images": [1]})])
def test_files_that_only_claim_to_be_archives_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"cannot be read as an \.npz"):
        read_index(write(tmp_path, {"dermamnist.npz": content}))


def test_a_cut_off_archive_is_refused(tmp_path: Path) -> None:
    archive = medmnist(tmp_path / "dermamnist.npz")
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(UserError, match="download it again"):
        read_index(tmp_path)


@pytest.mark.parametrize("member", ["train_images/7", "train_images/x", "other/0"])
def test_images_that_an_archive_lacks_are_named(tmp_path: Path, member: str) -> None:
    archive = medmnist(tmp_path / "dermamnist.npz")
    with pytest.raises(UserError, match=member):
        read_npz_image(f"{archive}::{member}")


def test_two_archives_ask_for_one_by_name(tmp_path: Path) -> None:
    medmnist(tmp_path / "dermamnist.npz")
    medmnist(tmp_path / "dermamnist_64.npz")
    with pytest.raises(UserError, match=r"--data .*dermamnist.npz"):
        read_index(tmp_path)


# ----------------------------------------------------------------------------------------- labels tables


def labelled(folder: Path, content: str | bytes, *names: str) -> Path:
    write(folder, {"labels.csv": content, **images(*(names or ("a.jpg", "b.jpg", "sub/c.png")))})
    return folder / "labels.csv"


EXPECTED = {"a": "mel", "b": "nv", "c": "nv"}
PLAIN = "image,label\na,mel\nb,nv\nc,nv\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        "\ufeff" + PLAIN,
        ("\ufeff" + PLAIN.replace("\n", "\r\n")).encode("utf-16-le"),
        PLAIN.encode("utf-16"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace("image,label", " Image , LABEL "),
        PLAIN.replace("image,label", "image_id,dx"),
        PLAIN.replace("image,label", "filename,diagnosis"),
        PLAIN.replace("image,label", "isic_id,class"),
        '"image","label"\n"a","mel"\n"b","nv"\n"c","nv"\n',
        "label,image\nmel,a\nnv,b\nnv,c",
        PLAIN + "\n\n",
        "image,mel,nv\na,1,0\nb,0,1\nc,0,1\n",
        "image,mel,nv\na,1.0,0.0\nb,0.0,1.0\nc,0.0,1.0\n",
        "image,mel,nv\na,True,False\nb,FALSE,TRUE\nc,false,true\n",
        "image,mel,nv\na,1,\nb,,1\nc,,1\n",
    ],
)
def test_one_table_in_many_spellings(tmp_path: Path, content: str | bytes) -> None:
    index = read_index(tmp_path, labels=labelled(tmp_path, content))
    assert column(index, "label") == EXPECTED
    assert index.layout == "labels table"


@pytest.mark.parametrize(
    "names",
    [
        ("a", "sub/c"),
        ("a.jpg", "c.png"),
        ("a.JPG", "sub\\c.png"),
        ("./a.jpg", "sub/../sub/c.png"),
        ("a", "c.PNG"),
    ],
)
def test_image_names_with_or_without_extension_or_folder(tmp_path: Path, names: tuple[str, str]) -> None:
    index = read_index(tmp_path, labels=labelled(tmp_path, f"image,label\n{names[0]},mel\n{names[1]},nv\nb,nv\n"))
    found = {row.image: Path(row.path).name for row in index.rows.itertuples()}
    assert found == {names[0]: "a.jpg", names[1]: "c.png", "b": "b.jpg"}


def test_the_mask_of_a_missing_image_is_not_that_image(tmp_path: Path) -> None:
    table = "image,label\n" + "".join(f"i{n}.jpg,{'mel' if n % 2 else 'nv'}\n" for n in range(5))
    labels = labelled(tmp_path, table, *(f"i{n}.JPG" for n in range(4)), *(f"masks/i{n}.png" for n in range(5)))
    with pytest.raises(UserError, match=r"names 1 image that the folder lacks \(first: i4.jpg\)"):
        read_index(tmp_path, labels=labels)
    index = read_index(tmp_path, labels=labels, allow_missing=True)
    assert [Path(str(path)).name for path in index.rows["path"]] == ["i0.JPG", "i1.JPG", "i2.JPG", "i3.JPG"]
    assert (index.missing, len(index.unnamed)) == (("i4.jpg",), 5)


def test_a_set_that_was_converted_as_a_whole_is_found_and_said(tmp_path: Path) -> None:
    index = read_index(tmp_path, labels=labelled(tmp_path, "image,label\na.tif,mel\nsub/c.tif,nv\nb,nv\n"))
    assert [Path(str(path)).name for path in index.rows["path"]] == ["a.jpg", "b.jpg", "c.png"]
    assert index.notes[0] == (
        "no image has the extension that labels.csv gives it; taken instead: "
        "1 .jpg (first: a.jpg), 1 .png (first: sub/c.png)"
    )


def test_names_without_extension_that_are_found_with_several_are_said(tmp_path: Path) -> None:
    index = read_index(tmp_path, labels=labelled(tmp_path, PLAIN))
    assert index.notes == (
        "labels.csv names images without extension; found: 2 .jpg (first: a.jpg), 1 .png (first: sub/c.png)",
    )


def test_accented_names_in_another_encoding_and_another_unicode_form(tmp_path: Path) -> None:
    table = "image,label\ntést,naïve\nb,nv\nc,nv\n".encode("cp1252")
    index = read_index(tmp_path, labels=labelled(tmp_path, table, "te\u0301st.jpg", "b.jpg", "c.jpg"))
    assert column(index, "label")["tést"] == "naïve"


def test_group_split_and_further_columns_of_a_labels_table(tmp_path: Path) -> None:
    table = "image,label,group,split,age,camera,path\na,mel,g1,Training,61,x,p\nb,nv,g1,valid,,y,q\nc,nv,,test,7,,r\n"
    index = read_index(tmp_path, labels=labelled(tmp_path, table))

    assert column(index, "group") == {"a": "g1", "b": "g1", "c": "c"}
    assert column(index, "split") == {"a": "train", "b": "val", "c": "test"}
    assert list(index.rows.columns) == ["image", "path", "label", "group", "split", "age", "camera", "table_path"]
    assert index.rows["age"].dtype == np.float64
    assert index.rows["camera"].tolist() == ["x", "y", ""]


def test_patient_and_lesion_columns_of_a_labels_table_are_both_kept_apart(tmp_path: Path) -> None:
    table = "image,label,patient_id,lesion_id\na,mel,p1,l1\nb,nv,,l1\nc,nv,p2,l2\n"
    index = read_index(tmp_path, labels=labelled(tmp_path, table))
    assert column(index, "group") == {"a": "p1", "b": "p1", "c": "p2"}


def test_a_file_that_is_named_like_no_text_can_be_indexed(tmp_path: Path) -> None:
    write(tmp_path, images("mel/1.jpg", "nv/two\nlines.jpg"))
    (tmp_path / "nv" / b"\xff.jpg".decode("utf-8", "surrogateescape")).write_bytes(b"x")
    index = read_index(tmp_path)
    assert index.rows["image"].tolist() == ["mel/1.jpg", "nv/\\udcff.jpg", "nv/two\nlines.jpg"]
    assert all(Path(path).is_file() for path in index.rows["path"])


# ------------------------------------------------------------------------------- what is counted and said


def test_repeated_rows_count_once(tmp_path: Path) -> None:
    index = read_index(tmp_path, labels=labelled(tmp_path, PLAIN + "a,mel\na.jpg,mel\n", "a.jpg", "b.jpg", "c.jpg"))
    assert column(index, "label") == EXPECTED
    assert index.notes == ("labels.csv repeats 2 rows: counted once",)


def test_repeated_rows_that_do_not_agree_in_another_column_are_told(tmp_path: Path) -> None:
    table = "image,label,age,sex\na,mel,40,male\na,mel,77,male\nb,nv,50,female\n"
    index = read_index(tmp_path, labels=labelled(tmp_path, table))
    assert column(index, "age") == {"a": 40.0, "b": 50.0}
    assert index.notes[-1] == "labels.csv gives 1 image two values of age, such as a.jpg: the first counts"


@pytest.mark.parametrize("name", ["labels.csv", "HAM10000_metadata.csv", "fitzpatrick17k.csv", "metadata.csv"])
def test_rows_without_a_class_count_as_unusable_in_every_table(tmp_path: Path, name: str) -> None:
    head = {
        "labels.csv": "image,label,x", "HAM10000_metadata.csv": "image_id,dx,lesion_id",
        "fitzpatrick17k.csv": "md5hash,label,x", "metadata.csv": "img_id,diagnostic,patient_id",
    }[name]  # fmt: skip
    for rows, empty in ((200, 2), (199, 2)):
        folder = tmp_path / str(rows)
        table = "".join(f"i{n},{'' if n < empty else 'mel' if n % 2 else 'nv'},g{n}\n" for n in range(rows))
        write(folder, {name: f"{head}\n{table}", **images(*(f"i{n}.jpg" for n in range(rows)))})
    labels = "labels.csv" if name == "labels.csv" else None
    few, more = ((tmp_path / part, labels and tmp_path / part / labels) for part in ("200", "199"))
    assert f"{name} has 2 rows without a class (first: i0)" in read_index(few[0], labels=few[1]).notes
    with pytest.raises(UserError, match=r"2 rows without a class .*: over 1 % of 199 rows; --allow-missing"):
        read_index(more[0], labels=more[1])
    assert len(read_index(more[0], labels=more[1], allow_missing=True).rows) == 197


def test_a_class_may_be_called_none_and_an_attribute_not(tmp_path: Path) -> None:
    table = "image,label,group,split,age,site\nnull,none,NA,train,NA,n/a\nb,nv,g,None,7,arm\nc,nan,,test,,\n"
    labels = labelled(tmp_path, table, "null.jpg", "b.jpg", "c.jpg")
    index = read_index(tmp_path, labels=labels, allow_missing=True)
    assert column(index, "label") == {"null": "none", "b": "nv"}
    assert column(index, "group") == {"null": "NA", "b": "g"}
    assert column(index, "split") == {"null": "train", "b": ""}
    assert column(index, "site") == {"null": "", "b": "arm"}
    assert index.rows["age"].isna().tolist() == [False, True]
    assert "labels.csv: 'none' is the class of 1 row; where none is known, leave the cell empty" in index.notes
    assert "labels.csv: 'NA' is the group of 1 row; where none is known, leave the cell empty" in index.notes


def test_a_table_of_labels_without_lesions_takes_those_of_another_table(tmp_path: Path) -> None:
    """The table that the advice names is one-hot, and the lesions are in a table beside it."""
    names = [f"i{n}" for n in range(8)]
    marks = "".join(f"{name},{n // 4},{1 - n // 4}\n" for n, name in enumerate(names))
    lesions = "".join(f"{name}.jpg,{n},L{n // 2}\n" for n, name in enumerate(names))
    tables = {"train.csv": f"image,mel,nv\n{marks}", "meta.csv": f"image,age,lesion_id\n{lesions}"}
    write(tmp_path, {**tables, **images(*(f"train/{name}.jpg" for name in names))})
    advised = f"--labels {tmp_path / 'train.csv'} reads its table"
    with pytest.raises(UserError, match=re.escape(advised)):
        read_index(tmp_path)
    index = read_index(tmp_path, labels=tmp_path / "train.csv")
    assert index.rows["group"].tolist() == [f"L{n // 2}" for n in range(8)]
    assert index.notes == ("meta.csv (images by its column image) tells lesions and patients",)
    write(tmp_path, {"train.csv": "image,group,label\ni0,a,mel\ni1,a,nv\n"})
    assert read_index(tmp_path, labels=tmp_path / "train.csv").rows["group"].tolist() == ["a", "a"]


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("visit,patient_id,diameter", "V{0},P{1},{2}"), ("patient_id,age,sex", "P{1},{2},m"),
        ("lesion_id,patient_id,age", "{0},P{1},{2}"),
    ],
)  # fmt: skip
def test_measures_and_numbers_of_lesions_name_no_images_of_a_table_of_labels(
    tmp_path: Path, head: str, row: str
) -> None:
    labels = "".join(f"{n}.jpg,{('mel', 'nv')[n % 2]}\n" for n in range(1, 101))
    clinic = "".join(row.format(n, n % 30, n % 90 + 1) + "\n" for n in range(1, 201))
    tables = {"labels.csv": f"image,label\n{labels}", "clinic.csv": f"{head}\n{clinic}"}
    write(tmp_path, {**tables, **images(*(f"images/{n}.jpg" for n in range(1, 101)))})
    index = read_index(tmp_path, labels=tmp_path / "labels.csv")
    assert index.rows["group"].equals(index.rows["image"])
    assert index.warnings[0].startswith("no lesion or patient is known")
    assert not index.notes


def test_a_table_that_a_browser_numbered_is_that_table(tmp_path: Path) -> None:
    truth = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC\nI1,1,0,0,0,0,0,0,0\nI2,1,0,0,0,0,0,0,0\nI3,0,1,0,0,0,0,0,0\n"
    lesions = "image,age_approx,lesion_id\nI1,50,L1\nI2,50,L1\nI3,60,L2\n"
    tables = {"ISIC_2019_Training_GroundTruth (1).csv": truth, "ISIC_2019_Training_Metadata(2).csv": lesions}
    write(tmp_path, {**tables, **images("I1.jpg", "I2.jpg", "I3.jpg")})
    index = read_index(tmp_path)
    assert index.layout == "ISIC 2019"
    assert column(index, "group") == {"I1": "L1", "I2": "L1", "I3": "L2"}
    write(tmp_path, {"ISIC_2019_Training_GroundTruth.csv": truth.replace("I3,0,1,0", "I3,0,0,1")})
    assert column(read_index(tmp_path), "label")["I3"] == "BCC"  # the first download, where both are there


@pytest.mark.parametrize(("head", "source"), [("image,label", "labels.csv"), ("file_name,label", "metadata.csv")])
def test_columns_that_mark_a_split_are_not_passed_over_in_silence(tmp_path: Path, head: str, source: str) -> None:
    write(tmp_path, {source: f"{head},is_test,Is Train\na.jpg,mel,1,0\nb.jpg,nv,0,1\n", **images("a.jpg", "b.jpg")})
    index = read_index(tmp_path, labels=tmp_path / source if source == "labels.csv" else None)
    assert index.notes == (
        f"{source}: is_test and Is Train not read; splits are the words train, val and test in a column 'split'",
    )


def test_words_for_a_gap_are_no_mark_in_a_one_hot_table(tmp_path: Path) -> None:
    labels = labelled(tmp_path, "image,mel,nv\na,1,NA\nb,none,1\nc,null,1\n")
    assert column(read_index(tmp_path, labels=labels), "label") == EXPECTED


def many(count: int, *, missing: int = 0, unmarked: int = 0) -> dict[str, str | bytes]:
    rows = "".join(f"i{n},{int(n >= unmarked)},0\n" for n in range(count - 1)) + f"i{count - 1},0,1\n"
    return {
        "labels.csv": "image,mel,nv\n" + rows,
        **images(*(f"i{n}.jpg" for n in range(missing, count)), "extra.jpg"),
    }


@pytest.mark.parametrize(
    ("missing", "unmarked", "note", "unnamed"),
    [
        (2, 0, "labels.csv names 2 images that the folder lacks (first: i0)", "1 image"),
        (0, 2, "labels.csv: rows that mark no class: 2, several: 0 (first: i0)", "1 image"),
    ],
)
def test_one_percent_of_unusable_rows_is_said_and_more_is_an_error(
    tmp_path: Path, missing: int, unmarked: int, note: str, unnamed: str
) -> None:
    few = write(tmp_path / "few", many(200, missing=missing, unmarked=unmarked))
    index = read_index(few, labels=few / "labels.csv")
    assert len(index.rows) == 198
    assert index.notes == (note, f"the folder holds {unnamed} not named in labels.csv: left out")

    more = write(tmp_path / "more", many(199, missing=missing, unmarked=unmarked))
    with pytest.raises(UserError, match="--allow-missing"):
        read_index(more, labels=more / "labels.csv")
    assert len(read_index(more, labels=more / "labels.csv", allow_missing=True).rows) == 197


def test_the_audit_keeps_faults_that_would_stop_a_run(tmp_path: Path) -> None:
    labels = labelled(tmp_path, PLAIN + "a,nv\ngone,nv\n")
    index = read_index(tmp_path, labels=labels, keep_going=True)
    assert column(index, "label") == EXPECTED
    assert len(index.faults) == 2
    assert "a.jpg two values of label, 'mel' and 'nv'" in index.faults[0]
    assert "gone" in index.faults[1]


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PLAIN + "a,nv\n", "the image a.jpg two values of label, 'mel' and 'nv'"),
        (PLAIN + "a.jpg,nv\n", "two values of label"),
        ("image,label,group\na,mel,1\nb,nv,2\nc,nv,3\na,mel,2\n", "two values of group"),
        ("image,label,split\na,mel,train\nb,nv,val\nc,nv,val\na,mel,test\n", "two values of split"),
        ("image,label,split\na,mel,train\nb,nv,holdout\nc,nv,val\n", "row 3: the split 'holdout'"),
        (PLAIN + "../../x,mel\n", "'../../x', which is outside"),
        (PLAIN + "sub/../../x.jpg,mel\n", "which is outside"),
        (PLAIN + "..\\x.jpg,mel\n", "which is outside"),
        (PLAIN + "/etc/passwd,mel\n", "'/etc/passwd', which is outside"),
        (PLAIN + "C:\\x.jpg,mel\n", "which is outside"),
        (PLAIN + ",mel\n", "without an image name"),
        (PLAIN + "gone,nv\n", "labels.csv names 1 image that the folder lacks (first: gone)"),
        ("image,kind\na,mel\n", "no column 'label'; its columns are: image, kind"),
        ("picture,label\na,mel\n", "no column 'image'"),
        ("image,label,label\na,mel,nv\n", "names the column 'label' twice"),
        ("image,label\n", "no rows"),
        ("", "No columns to parse"),
        ("image,label\na,mel,more\nb,nv\nc,nv\n", "cannot be read as a table"),
        ("image,label\na,mel\nb,NV\nc,nv\n", "'NV' and 'nv', alike but for case"),
        ("image,label\na,mel\nb,b_k\nc,b k\n", "'b k' and 'b_k', alike but for case, spaces or signs: make them one"),
        ("image,label\na,n\u200bv\nb,mel\nc,nv\n", r"'nv' and 'n\u200bv', alike but for"),
        ("image,label\na,01\nb,mel\nc,1\n", "'01' and '1', alike but for"),
        ("image,label\na,\nb,nan\nc,\n", "no row of labels.csv has both"),
        ("image,mel,nv\na,1,0\nb,0,1\nc,0,0.5\n", "no column 'label'"),
        (b"\x00\x01\x02\x03", "labels.csv"),
        ('image,label\na,"mel\nb,nv\n', "labels.csv"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        read_index(tmp_path, labels=labelled(tmp_path, content))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_one_hot_value_of_a_known_layout_that_is_no_number_is_named(tmp_path: Path) -> None:
    table = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nI1,0.4,0,0,0,0,0,0\n"
    with pytest.raises(UserError, match=r"row 2, column MEL: '0.4' is neither 1 nor 0"):
        read_index(write(tmp_path, {"ISIC2018_Task3_Training_GroundTruth.csv": table, **images("I1.jpg")}))


@pytest.mark.parametrize(
    ("name", "table", "lacking"),
    [
        ("HAM10000_metadata.csv", "lesion_id,image_id\nH,I\n", "'dx'"),
        ("HAM10000_metadata.csv", "image_id,dx\nI,mel\n", "'lesion_id'"),
        ("ISIC2018_Task3_Training_GroundTruth.csv", "image,MEL,NV\nI,1,0\n", "'bcc'"),
        ("ISIC_2019_Training_GroundTruth.csv", "image,MEL\nI,1\n", "'nv'"),
        ("fitzpatrick17k.csv", "md5hash\nI\n", "'label'"),
        ("metadata.csv", "img_id,patient_id\nI,P\n", "'diagnostic'"),
    ],
)
def test_a_known_table_without_its_columns_is_named(tmp_path: Path, name: str, table: str, lacking: str) -> None:
    with pytest.raises(UserError, match=f"{name} has no column {lacking}"):
        read_index(write(tmp_path, {name: table, **images("I.jpg")}))


def test_two_layouts_ask_for_one(tmp_path: Path) -> None:
    truth = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_1,1,0,0,0,0,0,0\n"
    write(tmp_path, {"HAM10000_metadata.csv": HAM + HAM_ROWS, **HAM_IMAGES})
    write(tmp_path, {"ISIC2018_Task3_Training_GroundTruth.csv": truth})
    with pytest.raises(UserError, match=r"HAM10000 \(HAM10000_metadata.csv\) and ISIC 2018 .*--labels"):
        read_index(tmp_path)


def test_two_pictures_of_one_name_and_size_are_not_copies(tmp_path: Path) -> None:
    """As uncompressed pictures of the same width and height are."""
    write(tmp_path, {"site_a/1.bmp": b"BM one", "site_b/1.bmp": b"BM two", "site_b/2.bmp": b"BM three"})
    labels = tmp_path / "labels.csv"
    labels.write_text("image,label\n1,mel\n2,nv\n")
    with pytest.raises(UserError, match=r"'1' could be site_a/1\.bmp or site_b/1\.bmp, which differ"):
        read_index(tmp_path, labels=labels)
    labels.write_text("image,label\nsite_a/1,mel\nsite_b/1,nv\nsite_b/2,nv\n")
    index = read_index(tmp_path, labels=labels)
    assert column(index, "path")["site_b/1"] == str(tmp_path.resolve() / "site_b/1.bmp")


def test_two_copies_of_a_table_are_one_and_two_versions_disagree(tmp_path: Path) -> None:
    write(
        tmp_path, {"HAM10000_metadata.csv": HAM + HAM_ROWS, "old/HAM10000_metadata.csv": HAM + HAM_ROWS, **HAM_IMAGES}
    )
    assert len(read_index(tmp_path).rows) == 3
    write(tmp_path, {"old/HAM10000_metadata.csv": HAM + HAM_ROWS.replace("ISIC_3,nv", "ISIC_3,bcc")})
    with pytest.raises(UserError, match=r"disagree.*--labels"):
        read_index(tmp_path)


def test_metadata_that_says_two_things_of_one_image(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "ISIC_2019_Training_GroundTruth.csv": "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC\nI1,1,0,0,0,0,0,0,0\n",
        "ISIC_2019_Training_Metadata.csv": "image,lesion_id\nI1,L1\nI1,L2\n",
        "I1.jpg": b"x",
    }
    with pytest.raises(UserError, match=r"Metadata.csv has two rows for 'I1'"):
        read_index(write(tmp_path, files))


def test_metadata_may_say_two_things_of_images_that_nobody_asks_for(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "ISIC_2019_Training_GroundTruth.csv": "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC\nI1,1,0,0,0,0,0,0,0\n",
        "ISIC_2019_Training_Metadata.csv": "image,lesion_id\nI9,L1\nI9,L2\nI1,L3\n",
        "I1.jpg": b"x",
    }
    assert column(read_index(write(tmp_path, files)), "group") == {"I1": "L3"}


def test_one_name_for_two_different_files(tmp_path: Path) -> None:
    files = {"HAM10000_metadata.csv": HAM + HAM_ROWS, **HAM_IMAGES, "other/ISIC_1.jpg": "longer than the first one"}
    with pytest.raises(UserError, match=r"'ISIC_1' could be HAM10000_images_part_1/ISIC_1.jpg or other/ISIC_1.jpg"):
        read_index(write(tmp_path, files))


def test_folders_without_a_layout_say_what_was_found_and_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, {"metadata.csv": "picture,verdict\n1,2\n", "a.jpg": b"x", "HAM10000_images_part_1/b.jpg": b"x"})
    with pytest.raises(UserError) as error:
        read_index(tmp_path)
    assert (
        "2 images, the folders HAM10000_images_part_1, the table metadata.csv with the columns picture, verdict"
        in str(error.value)
    )
    assert "give each class a folder of its own, or name a table image,label[,group] with --l" in str(error.value)
    assert "ISIC Archive has metadata.csv with isic_id and diagnosis" in str(error.value)
    assert "HAM10000 has" not in str(error.value)


def test_folders_that_are_none_or_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist: check --data"):
        read_index(tmp_path / "nowhere")
    with pytest.raises(UserError, match="it is empty"):
        read_index(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        read_index(write(tmp_path, {"a.txt": "x"}) / "a.txt")
    with pytest.raises(UserError, match="check --labels"):
        read_index(tmp_path, labels=tmp_path / "none.csv")


# ------------------------------------------------------------------------------------------------- links


def test_a_link_that_leads_out_is_refused_by_name(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", images("secret.jpg"))
    data = write(tmp_path / "data", images("mel/1.jpg", "nv/2.jpg"))
    (data / "nv/3.jpg").symlink_to(outside / "secret.jpg")
    with pytest.raises(UserError, match=r"nv/3.jpg is a link that leads out"):
        read_index(data)
    with pytest.raises(UserError, match=r"nv/3.jpg is a link that leads out"):
        read_index(data, labels=labelled(data, "image,label\n1,mel\n2,nv\n3,nv\n", "mel/1.jpg"))
    (data / "nv/3.jpg").unlink()
    (data / "more").symlink_to(outside)
    with pytest.raises(UserError, match="more is a link that leads out"):
        read_index(data)


@pytest.mark.parametrize(
    ("name", "content", "beside"),
    [
        ("HAM10000_metadata.csv", HAM + HAM_ROWS, HAM_IMAGES),
        ("metadata.csv", "isic_id,diagnosis\nISIC_1,mel\nISIC_2,nv\nISIC_3,nv\n", HAM_IMAGES),
        ("anything.csv", "patient,secret\n1,2\n", {}),  # its columns would be in the message
        ("dermamnist.npz", b"an archive", {}),
    ],
)
def test_a_table_or_archive_that_is_a_link_out_is_not_read(
    tmp_path: Path, name: str, content: str | bytes, beside: dict[str, str | bytes]
) -> None:
    outside = write(tmp_path / "outside", {name: content})
    data = write(tmp_path / "data", {"readme.txt": "", **beside})
    (data / name).symlink_to(outside / name)
    with pytest.raises(UserError, match=f"{name} is a link that leads out of the data folder"):
        read_index(data)


def test_links_inside_the_folder_are_files_and_circles_end(tmp_path: Path) -> None:
    data = write(tmp_path / "data", images("mel/1.jpg", "nv/2.jpg"))
    (data / "nv/3.jpg").symlink_to("../mel/1.jpg")
    (data / "nv/4.jpg").symlink_to("4.jpg")
    (data / "nv/up").symlink_to("..")
    with pytest.raises(UserError, match=r"1 link to images that are not there \(first: nv/4.jpg\): over 1 %"):
        read_index(data)
    index = read_index(data, allow_missing=True)
    assert index.rows["image"].tolist() == ["mel/1.jpg", "nv/2.jpg", "nv/3.jpg"]
    assert index.notes[0] == "the folder holds 1 link to images that are not there (first: nv/4.jpg)"


def test_a_class_folder_may_be_a_link_to_a_hidden_one(tmp_path: Path) -> None:
    data = write(tmp_path / "data", images("mel/1.jpg", "nv/2.jpg", ".store/a/3.jpg", ".store/b/4.jpg"))
    (data / "bkl").symlink_to(".store/a")
    (data / "df").symlink_to(data / ".store/b")
    (data / ".store/b/round").symlink_to("..")
    (data / "vasc").symlink_to("nowhere")
    index = read_index(data)
    assert index.rows["image"].tolist() == ["bkl/3.jpg", "df/4.jpg", "mel/1.jpg", "nv/2.jpg"]
    assert "the link vasc leads nowhere" in index.notes


def test_of_links_to_hidden_folders_the_widest_is_read_in_any_order(tmp_path: Path) -> None:
    table = {"labels.csv": "image,label\n1,mel\n2,nv\n3,df\n"}
    data = write(tmp_path / "data", {**table, **images(".s/mel/1.jpg", ".s/nv/2.jpg", ".v/df/3.jpg")})
    for link, target in (("a_mel", ".s/mel"), ("z_all", ".s"), ("v1", ".v"), ("latest", ".v")):
        (data / link).symlink_to(target)
    index = read_index(data, labels=data / "labels.csv")
    assert [Path(path).relative_to(data).as_posix() for path in index.rows["path"]] == [
        "z_all/mel/1.jpg", "z_all/nv/2.jpg", "latest/df/3.jpg",
    ]  # fmt: skip
    assert [note for note in index.notes if "link" in note] == [
        "the link v1 leads to .v, which is read by another name",
        "the link a_mel leads to .s/mel, which is read by another name",
    ]


def test_a_link_to_a_folder_with_another_name_is_said(tmp_path: Path) -> None:
    data = write(tmp_path / "data", images("mel/1.jpg", "seborrheic/2.jpg"))
    (data / "bkl").symlink_to("seborrheic")
    index = read_index(data)
    assert index.classes == ("mel", "seborrheic")
    assert "the link bkl leads to seborrheic, which is read by another name" in index.notes


def test_the_data_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    write(tmp_path / "disk", images("mel/1.jpg", "nv/2.jpg"))
    (tmp_path / "data").symlink_to("disk")
    assert len(read_index(tmp_path / "data").rows) == 2


# ----------------------------------------------------------------------------------------- class names


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        ("mel", "melanoma (mel)"),
        ("MEL", "melanoma (MEL)"),
        ("akiec", "actinic keratosis (akiec)"),
        ("ACK", "actinic keratosis (ACK)"),
        ("NEV", "melanocytic nevus (NEV)"),
        ("SEK", "seborrhoeic keratosis (SEK)"),
        ("melanoma", "melanoma"),
        ("Psoriasis", "Psoriasis"),
    ],
)
def test_readable_names(cls: str, expected: str) -> None:
    assert readable_name(cls) == expected


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        (["mel", "nv"], ["nv", "mel"], {"nv": "nv", "mel": "mel"}),
        (["mel", "nv"], ["MEL", "NEV"], {"MEL": "mel", "NEV": "nv"}),
        (["akiec"], ["AK"], {"AK": "akiec"}),
        (["akiec"], ["ACK"], {"ACK": "akiec"}),
        (["Melanoma"], ["mel"], {"mel": "Melanoma"}),
        (["basal_cell_carcinoma"], ["BCC"], {"BCC": "basal_cell_carcinoma"}),
        (["bkl"], ["SEK", "SCC"], {}),  # a part of benign keratosis, and no part of it
        (["AK", "akiec"], ["ACK"], {}),  # either would do: not guessed
        (["AK", "akiec"], ["ak"], {"ak": "AK"}),
        (["melanoma"], ["melanoma of the eye"], {}),
    ],
)
def test_classes_are_matched_by_name_and_never_guessed(
    model: list[str], data: list[str], expected: dict[str, str]
) -> None:
    match = match_classes(model, data)
    assert match.to_model == expected
    assert match.unmatched_data == tuple(cls for cls in data if cls not in expected)
    assert match.unmatched_model == tuple(cls for cls in model if cls not in expected.values())


# ------------------------------------------------------------------------------------------------ groups


def test_groups_that_share_a_value_of_any_column_are_one() -> None:
    patients = pd.Series(["p2", "", "p1", "", ""])
    lesions = pd.Series(["l1", "l1", "l1", "l2", ""])
    assert join_groups(patients, lesions).tolist() == ["p1", "p1", "p1", "l2", ""]
    none = pd.Series([""] * 5)
    assert join_groups(none, patients).tolist() == patients.tolist()
    assert join_groups(none, none).tolist() == none.tolist()


def test_pairs_join_the_groups_of_their_rows() -> None:
    groups = pd.Series(["c", "a", "b", "b", "d"])
    assert join_pairs(groups, np.array([[0, 2], [3, 4]])).tolist() == ["b", "a", "b", "b", "b"]
    assert join_pairs(groups, np.empty((0, 2))).tolist() == groups.tolist()


def test_tables_keep_names_that_look_like_numbers(tmp_path: Path) -> None:
    write(tmp_path, {"t.csv": "image,label\n007,NaN\n1e5, x \nNA,\n"})
    assert read_table(tmp_path / "t.csv").to_dict("list") == {"image": ["007", "1e5", "NA"], "label": ["", "x", ""]}


def test_every_suffix_is_lower_case() -> None:
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)


@pytest.mark.real
def test_ham10000_itself(real_data: Path) -> None:
    index = read_index(real_data / "ham10000")
    assert index.layout == "HAM10000"
    assert index.rows["label"].value_counts().to_dict() == {
        "nv": 6705, "mel": 1113, "bkl": 1099, "bcc": 514, "akiec": 327, "vasc": 142, "df": 115,
    }  # fmt: skip
    assert index.rows["group"].nunique() == 7470
    assert index.notes == ()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"HAM10000_metadata.csv": HAM + "HAM_7,I1,mel,histo,50,male,back\nHAM_9,I2,nv,histo,,,\n"},
            {"lesion_id": ["HAM_7", "HAM_9"]},
        ),
        (
            {"metadata.csv": "isic_id,diagnosis,patient_id,lesion_id\nI1,melanoma,007,IL_1\nI2,nevus,7,none\n"},
            {"patient_id": ["007", "7"], "lesion_id": ["IL_1", ""]},  # texts, of which none is another
        ),
        (
            {"metadata.csv": "patient_id,lesion_id,region,diagnostic,img_id\nP1,880,arm,MEL,I1\nP1,881,arm,NEV,I2\n"},
            {"patient_id": ["P1", "P1"], "lesion_id": ["880", "881"]},
        ),
    ],
)
def test_lesions_and_patients_stay_beside_the_group(
    files: dict[str, str], expected: dict[str, list[str]], tmp_path: Path
) -> None:
    rows = read_index(write(tmp_path, {**files, **images("I1.jpg", "I2.jpg")})).rows
    assert {name: rows[name].tolist() for name in ("patient_id", "lesion_id") if name in rows} == expected
