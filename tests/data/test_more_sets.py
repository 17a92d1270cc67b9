"""DDI, BCN20000, DERM12345, Derm7pt, SCIN, MSLD, SD-198, Hugging Face, PH2, MIDAS; what is still in its archive."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from skin.data.folder import Folder
from skin.data.index import Index
from skin.data.layouts import LAYOUTS, read_index
from skin.data.readers import monkeypox
from skin.data.split import leaks, split_index
from skin.utils.errors import UserError

import openpyxl
import pytest


def write(folder: Path, files: dict[str, str], *images: str) -> Path:
    """Make `folder` with these tables and images; no layout looks inside an image, so its name stands for it."""
    for name, content in {**files, **{image: image for image in images}}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


def column(index: Index, name: str) -> dict[str, object]:
    return {Path(str(image)).stem: value for image, value in zip(index.rows["image"], index.rows[name], strict=True)}


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        read_index(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def workbook(path: Path, *rows: list[object]) -> None:
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    book.close()


# ------------------------------------------------------------------------------------------------- DDI

DDI = ",DDI_ID,DDI_file,skin_tone,malignant,disease\n0,1,000001.png,12,True,melanoma\n1,2,000002.png,56,False,nevus\n"


def test_ddi(tmp_path: Path) -> None:
    index = read_index(write(tmp_path, {"ddi_metadata.csv": DDI}, "000001.png", "000002.png"))
    assert index.layout == "DDI"
    assert column(index, "label") == {"000001": "melanoma", "000002": "nevus"}
    assert column(index, "skin_tone") == {"000001": 12.0, "000002": 56.0}
    assert column(index, "malignant") == {"000001": "True", "000002": "False"}
    assert index.notes == (
        "ddi_metadata.csv names 2 diseases, 2 of them in fewer than 10 images; "
        "--label-column malignant takes two classes instead",
    )


def test_ddi_without_its_column_of_diseases_is_named(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, {"ddi_metadata.csv": DDI.replace("disease", "x")}, "000001.png", "000002.png"))
    columns = "DDI_ID, DDI_file, skin_tone, malignant, x"
    assert f"has no column 'disease'; its columns are: {columns}; rename one of them" in message


# ------------------------------------------------------------------------------------------- BCN20000

BCN = "bcn_filename,age_approx,anatom_site_general,diagnosis,lesion_id,capture_date,sex,split\n"
BCN_TRAIN = BCN + (
    "B1.jpg,55.0,head/neck,MEL,L1,2012-05-16,male,train\nB2.jpg,,,MEL,L1,,,train\nB3.jpg,1,,NV,L2,,,train\n"
)
BCN_TEST = BCN.replace("diagnosis,", "") + "B9.jpg,40.0,,L9,2012-05-16,female,test\n"
BCN_IMAGES = (*(f"BCN_20k_train/bcn_20k_train/B{n}.jpg" for n in (1, 2, 3)), "BCN_20k_test/bcn_20k_test/B9.jpg")


def test_bcn20000_leaves_out_the_test_images_that_have_no_diagnosis(tmp_path: Path) -> None:
    write(tmp_path, {"bcn_20k_train.csv": BCN_TRAIN, "bcn_20k_test.csv": BCN_TEST}, *BCN_IMAGES)
    index = read_index(tmp_path)
    assert (index.layout, index.classes) == ("BCN20000", ("MEL", "NV"))
    assert column(index, "group") == {"B1": "L1", "B2": "L1", "B3": "L2"}
    assert set(index.rows["split"]) == {"train"}
    assert column(index, "age_approx")["B1"] == 55.0
    assert index.notes == ("bcn_20k_test.csv gives no diagnosis of its 1 image: left out",)
    assert index.unnamed == ()


def test_a_test_table_with_diagnoses_is_the_test_split(tmp_path: Path) -> None:
    test = BCN + "B9.jpg,40.0,,NV,L9,2012-05-16,female,test\n"
    write(tmp_path, {"bcn_20k_train.csv": BCN_TRAIN, "BCN_20k_test.csv": test}, *BCN_IMAGES)
    assert column(read_index(tmp_path), "split") == {"B1": "train", "B2": "train", "B3": "train", "B9": "test"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"bcn_20k_train.csv": BCN_TRAIN.replace("diagnosis", "dx")}, "has no column 'diagnosis'"),
        ({"bcn_20k_train.csv": BCN_TRAIN.replace("bcn_filename", "x")}, "has no column 'bcn_filename'"),
        ({"bcn_20k_train.csv": BCN_TRAIN.replace(",train\n", ",hold\n")}, "the split 'hold' is none of train"),
        ({"bcn_20k_train.csv": BCN_TRAIN, "old/bcn_20k_train.csv": BCN_TRAIN + "\n" + BCN_TRAIN}, "which disagree"),
        ({"bcn_20k_test.csv": BCN_TEST}, "no diagnosis of its 1 image: left out: download BCN20000's training table"),
        ({"bcn_20k_train.csv": BCN_TRAIN + "B1.jpg,,,NV,L1,,,train\n"}, "B1.jpg two values of label, 'MEL' and 'NV'"),
    ],
)
def test_tables_of_bcn20000_that_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    assert message in refusal(write(tmp_path, files, *BCN_IMAGES))


# ------------------------------------------------------------------------------------------ DERM12345

DERM = "image_id,patient_id,split,label,super_class,malignancy,main_class_1,main_class_2,sub_class\n"
DERM_TRAIN = DERM + "D1,P1,train,mel,melanocytic,malignant,melanoma,melanoma,melanoma\nD2,P1,train,bcc,n,m,k,k,bcc\n"
DERM_TEST = DERM + "D3,P2,test,bcc,non_melanocytic,malignant,keratinocytic,basal,basal_cell_carcinoma\n"


@pytest.mark.parametrize("end", ["csv", "tab"])
def test_derm12345(tmp_path: Path, end: str) -> None:
    tables = {f"derm12345_metadata_{word}.{end}": text for word, text in (("train", DERM_TRAIN), ("test", DERM_TEST))}
    if end == "tab":  # as the Dataverse turns it
        tables = {name: text.replace(",", "\t") for name, text in tables.items()}
    images = ("derm12345_train_part_1/mel/D1.jpg", "derm12345_train_part_2/bcc/D2.jpg", "derm12345_test/bcc/D3.jpg")
    index = read_index(write(tmp_path / end, tables, *images))
    assert index.layout == "DERM12345"
    assert column(index, "label") == {"D1": "mel", "D2": "bcc", "D3": "bcc"}
    assert column(index, "group") == {"D1": "P1", "D2": "P1", "D3": "P2"}
    assert column(index, "split") == {"D1": "train", "D2": "train", "D3": "test"}
    assert column(index, "malignancy")["D3"] == "malignant"
    assert index.notes == ()


# -------------------------------------------------------------------------------------------- Derm7pt

META = (
    "case_num,diagnosis,seven_point_score,elevation,sex,location,clinic,derm,case_id,notes\n"
    "1,clark nevus,0,flat,male,back,NEL/N0.jpg,NEL/N5.jpg,,\n"
    "2,melanoma (in situ),4,palpable,female,arm,NEL/N1.jpg,NEL/N6.jpg,,\n"
    "3,clark nevus,1,flat,male,back,NEL/N7.jpg,NEL/N7.jpg,,\n"
)
DERM7PT = {
    "release_v0/meta/meta.csv": META,
    "release_v0/meta/train_indexes.csv": "indexes\n1\n",
    "release_v0/meta/valid_indexes.csv": "indexes\n0\n",
    "release_v0/meta/test_indexes.csv": "indexes\n2\n",
}
DERM7PT_IMAGES = tuple(f"release_v0/images/NEL/N{n}.JPG" for n in (0, 5, 1, 6, 7))


def test_derm7pt_takes_both_pictures_of_a_case_and_keeps_them_together(tmp_path: Path) -> None:
    index = read_index(write(tmp_path, DERM7PT, *DERM7PT_IMAGES))
    assert index.layout == "Derm7pt"
    assert column(index, "split") == {"N0": "val", "N5": "val", "N1": "train", "N6": "train", "N7": "test"}
    assert column(index, "group") == {"N0": "1", "N5": "1", "N1": "2", "N6": "2", "N7": "3"}
    assert column(index, "label")["N6"] == "melanoma (in situ)"
    assert column(index, "image_type") == {
        "N0": "clinical", "N5": "dermoscopic", "N1": "clinical", "N6": "dermoscopic", "N7": "dermoscopic",
    }  # fmt: skip
    assert column(index, "elevation")["N1"] == "palpable"
    assert index.notes == (  # a case of one picture names it twice
        "meta.csv repeats 1 row: counted once",
        "meta.csv gives 1 image two values of image_type, such as release_v0/images/NEL/N7.JPG: the first counts",
    )


def test_derm7pt_without_tables_of_row_numbers_has_no_split(tmp_path: Path) -> None:
    index = read_index(write(tmp_path, {"meta/meta.csv": META}, *(f"images/NEL/N{n}.jpg" for n in (0, 5, 1, 6, 7))))
    assert set(index.rows["split"]) == {""}


def test_row_numbers_of_derm7pt_may_have_a_point(tmp_path: Path) -> None:
    files = {name: text if name.endswith("meta.csv") else text[:-1] + ".0\n" for name, text in DERM7PT.items()}
    index = read_index(write(tmp_path, files, *DERM7PT_IMAGES))
    assert column(index, "split") == {"N0": "val", "N5": "val", "N1": "train", "N6": "train", "N7": "test"}


def test_cases_that_share_a_picture_are_one_group(tmp_path: Path) -> None:
    files = {"meta/meta.csv": META.replace("NEL/N7.jpg,NEL/N7.jpg", "NEL/N0.jpg,NEL/N7.jpg")}
    index = read_index(write(tmp_path, files, *(f"images/NEL/N{n}.jpg" for n in (0, 5, 1, 6, 7))))
    assert column(index, "group") == {"N0": "1", "N5": "1", "N7": "1", "N1": "2", "N6": "2"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test_indexes.csv", "indexes\n3\n", "row 2: '3' is no row of meta.csv (0 to 2)"),
        ("test_indexes.csv", "indexes\n-1\n", "row 2: '-1' is no row of meta.csv (0 to 2)"),
        ("test_indexes.csv", "indexes\n1\n", "names row 1 of meta.csv, as another split does"),
        ("test_indexes.csv", "rows\n1\n", "has no column 'indexes'"),
        ("meta.csv", META.replace("diagnosis", "x"), "has no column 'diagnosis'"),
    ],
)
def test_tables_of_derm7pt_that_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    write(tmp_path, {**DERM7PT, f"release_v0/meta/{name}": content}, *DERM7PT_IMAGES)
    assert message in refusal(tmp_path)


def test_meta_tables_of_another_set_are_not_derm7pts(tmp_path: Path) -> None:
    tables = {"mel/meta.csv": "id,x\n1,2\n", "nv/meta.csv": "id,x\n1,3\n"}
    assert read_index(write(tmp_path, tables, "mel/1.jpg", "nv/2.jpg")).layout == "class folders"


# ----------------------------------------------------------------------------------------------- SCIN

CASES = (
    "case_id,age_group,sex_at_birth,fitzpatrick_skin_type,image_1_path,image_2_path,image_3_path\n"
    "10,AGE_30_TO_39,FEMALE,FST3,dataset/images/-1.png,dataset/images/-2.png,\n"
    "11,AGE_UNKNOWN,MALE,NONE_IDENTIFIED,dataset/images/-3.png,,\n"
    "12,AGE_30_TO_39,MALE,FST1,dataset/images/-4.png,,dataset/images/-5.png\n"
    "13,AGE_30_TO_39,MALE,FST1,dataset/images/-6.png,,\n"
)
WEIGHTS = (
    "case_id,dermatologist_skin_condition_on_label_name,weighted_skin_condition_label\n"
    "10,\"['Acne', 'Eczema']\",\"{'Acne': 0.41, 'Eczema': 0.59}\"\n"
    "11,,{}\n12,,\"{'Acne': 0.5, 'Tinea': 0.5}\"\n"
)
SCIN_IMAGES = tuple(f"scin/dataset/images/-{n}.png" for n in range(1, 7))


def scin(folder: Path, cases: str = CASES, weights: str = WEIGHTS) -> Path:
    return write(folder, {"scin/scin_cases.csv": cases, "scin/scin_labels.csv": weights}, *SCIN_IMAGES)


def test_scin_takes_the_condition_of_the_largest_weight_and_all_pictures_of_a_case(tmp_path: Path) -> None:
    index = read_index(scin(tmp_path))
    assert index.layout == "SCIN"
    assert column(index, "label") == {"-1": "Eczema", "-2": "Eczema", "-4": "Acne", "-5": "Acne"}
    assert column(index, "group") == {"-1": "10", "-2": "10", "-4": "12", "-5": "12"}
    assert column(index, "fitzpatrick_skin_type") == {"-1": "FST3", "-2": "FST3", "-4": "FST1", "-5": "FST1"}
    assert index.notes == (
        "the classes are the conditions of the largest weight in scin_labels.csv",
        "two largest weights, of which the first is taken: 1 case of scin_labels.csv",
        "2 cases (2 images) without a condition in scin_labels.csv: left out",
    )
    assert index.left_out == {index.notes[2]: 2}
    assert index.unnamed == ()


@pytest.mark.parametrize(
    "weights",
    ["['Acne']", "{'Acne': 'much'}", "{1: 0.5}", "__import__('os')", "(" * 3000, "-" * 9000 + "1", "[" * 20_000],
)
def test_weights_that_are_none_are_refused_and_nothing_is_run(tmp_path: Path, weights: str) -> None:
    assert "case 11: '" in refusal(scin(tmp_path, weights=WEIGHTS.replace("{}", f'"{weights}"')))


@pytest.mark.parametrize(
    ("cases", "weights", "message"),
    [
        (CASES, WEIGHTS + '10,,"{\'Acne\': 1.0}"\n', "has two rows for the case '10', which disagree"),
        (CASES, WEIGHTS.replace("weighted_", "w_"), "has no column 'weighted_skin_condition_label'"),
        (CASES.replace("case_id", "id"), WEIGHTS, "has no column 'case_id'"),
        (CASES.replace("image_1_path", "x"), WEIGHTS, "has no column 'image_1_path'"),
    ],
)
def test_tables_of_scin_that_are_refused(tmp_path: Path, cases: str, weights: str, message: str) -> None:
    assert message in refusal(scin(tmp_path, cases, weights))


@pytest.mark.parametrize(("of_cases", "of_labels"), [("10", "10.0"), ("10.0", "10"), ("10.00", "10.0")])
def test_a_case_of_scin_may_have_a_point_in_one_table(tmp_path: Path, of_cases: str, of_labels: str) -> None:
    index = read_index(scin(tmp_path, CASES.replace("10,", f"{of_cases},"), WEIGHTS.replace("10,", f"{of_labels},")))
    assert (column(index, "label")["-1"], column(index, "group")["-1"]) == ("Eczema", "10")


def test_scin_with_labels_of_other_cases_says_so(tmp_path: Path) -> None:
    message = refusal(scin(tmp_path, CASES.replace("\n1", "\nc1")))
    assert "scin_labels.csv tells the condition of no case of scin_cases.csv, the first of which is 'c10'" in message


def test_scin_without_its_labels_says_what_to_download(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, {"scin_cases.csv": CASES}, "-1.png"))
    assert f"download scin_labels.csv into {tmp_path.resolve()}" in message


# ----------------------------------------------------------------------------------------------- MSLD

ORIGINALS = "Original Images/Original Images"
V1 = (
    *(f"{ORIGINALS}/Monkey Pox/M{n:02}_0{k}.jpg" for n in (1, 2, 3) for k in (1, 2)),
    *(f"{ORIGINALS}/Others/NM{n:02}_0{k}.jpg" for n in (1, 2, 3) for k in (1, 2)),
)
V1_COPIES = (
    *(f"Augmented Images/Augmented Images/{cls}_augmented/{name}_01_0{k}.jpg"
      for cls, name in (("Monkeypox", "M01"), ("Others", "NM01")) for k in range(3)),
    *(f"Fold1/Fold1/Fold1/{split}/{cls}/{name}0{n}_01.jpg"
      for n, split in enumerate(("Train", "Val", "Test"), start=1)
      for cls, name in (("Monkeypox", "M"), ("Others", "NM"))),
)  # fmt: skip
V1_LABELS = "ImageID,Label\n" + "".join(
    f"{Path(name).name},{'Non Monkeypox' if 'Others' in name else 'Monkeypox'}\n" for name in V1
)


def test_msld_v1_reads_each_original_once_and_keeps_patients_together(tmp_path: Path) -> None:
    write(tmp_path, {"Monkeypox_Dataset_metadata.csv": V1_LABELS}, *V1, *V1_COPIES)
    index = read_index(tmp_path)
    assert (index.layout, index.classes) == ("Monkeypox (MSLD)", ("Monkey Pox", "Others"))
    assert index.rows["image"].tolist() == sorted(V1)
    assert column(index, "group")["M01_02"] == "M01"
    assert column(index, "group")["NM03_01"] == "NM03"
    assert index.rows["group"].nunique() == 6
    assert not leaks(split_index(index, (0.34, 0.33, 0.33), seed=0))
    (note,) = index.notes
    assert note.startswith(f"{ORIGINALS} is read, and 12 images of other parts (copies of the same images) left out")

    advised = Path(shlex.split(note.partition("--data ")[2])[0])
    fold = read_index(advised)
    assert advised == tmp_path / "Fold1/Fold1/Fold1"
    assert fold.rows["split"].value_counts().to_dict() == {"train": 2, "val": 2, "test": 2}
    assert set(fold.rows["group"]) == {"M01", "M02", "M03", "NM01", "NM02", "NM03"}


@pytest.mark.parametrize("inside", ["", "Original Images", ORIGINALS])
def test_the_originals_alone_are_grouped_by_patient_too(tmp_path: Path, inside: str) -> None:
    index = read_index(write(tmp_path, {}, *V1) / inside)
    assert (len(index.rows), index.rows["group"].nunique(), index.notes) == (12, 6, ())


def test_msld_v2_reads_its_first_fold_with_its_split(tmp_path: Path) -> None:
    codes = {"Monkeypox": "MKP", "Chickenpox": "CHP", "Healthy": "HEALTHY"}
    places = {  # patients 1 to 3 take turns in the splits of the folds
        1: {"Train": 1, "Valid": 2, "Test": 3}, 2: {"Train": 2, "Valid": 3, "Test": 1},
    }  # fmt: skip
    images = [
        f"{ORIGINALS}/FOLDS/fold{fold}/{split}/{cls}/{code}_0{patient}_0{k}.jpg"
        for fold, splits in places.items() for split, patient in splits.items()
        for cls, code in codes.items() for k in (1, 2)
    ]  # fmt: skip
    copies = [f"Augmented Images/Augmented Images/FOLDS_AUG/fold1_AUG/Train/{cls}/{code}_01_01_{k}.jpg"
              for cls, code in codes.items() for k in range(4)]  # fmt: skip
    index = read_index(write(tmp_path, {}, *images, *copies))
    assert (index.layout, index.classes) == ("Monkeypox (MSLD)", ("Chickenpox", "Healthy", "Monkeypox"))
    assert index.rows["image"].str.contains("/fold1/").all()
    assert index.rows["split"].value_counts().to_dict() == {"train": 6, "val": 6, "test": 6}
    assert column(index, "group")["HEALTHY_02_01"] == "HEALTHY_02"
    assert "--data" in index.notes[0]
    assert index.notes[0].endswith("FOLDS/fold2'")


@pytest.mark.parametrize("inside", ["", "Augmented Images", "Augmented Images/FOLDS_AUG/fold1_AUG"])
def test_the_altered_copies_of_msld_alone_keep_their_patients_and_are_said(tmp_path: Path, inside: str) -> None:
    copies = [f"Augmented Images/FOLDS_AUG/fold{fold}_AUG/Train/{cls}/{code}_0{n}_01_{k}.jpg"
              for cls, code in (("Monkeypox", "MKP"), ("Healthy", "HEALTHY"))
              for fold in (1, 2) for n in (1, 2) for k in (0, 1)]  # fmt: skip
    index = read_index(write(tmp_path, {}, *copies) / inside)
    assert (index.layout, len(index.rows), index.rows["group"].nunique()) == ("Monkeypox (MSLD)", 8, 4)
    name = inside.rpartition("/")[2] or "Augmented Images"
    assert index.notes[-1] == f"the folder {name} is named like altered copies, and holds all images that are read"


def test_the_altered_copies_of_msld_v1_alone_keep_their_patients(tmp_path: Path) -> None:
    index = read_index(write(tmp_path, {}, *(name for name in V1_COPIES if name.startswith("Augmented"))))
    assert set(index.rows["group"]) == {"M01", "NM01"}


def test_msld_whose_table_contradicts_its_folders_is_refused(tmp_path: Path) -> None:
    wrong = V1_LABELS.replace("M01_01.jpg,Monkeypox", "M01_01.jpg,Non Monkeypox", 1)
    message = refusal(write(tmp_path, {"Monkeypox_Dataset_metadata.csv": wrong}, *V1, *V1_COPIES))
    assert "calls M01_01.jpg 'Non Monkeypox', and it lies in the folder 'Monkey Pox' of 'Monkeypox'" in message


def test_originals_outside_of_class_folders_are_not_msld(tmp_path: Path) -> None:
    write(tmp_path, {}, "Original Images/M01_01.jpg", "Augmented Images/M01_01_01.jpg")
    assert monkeypox.read(Folder(tmp_path)) is None


def test_file_names_without_a_patient_are_counted(tmp_path: Path) -> None:
    index = read_index(write(tmp_path, {}, *V1, *V1_COPIES, f"{ORIGINALS}/Others/photo.jpg"))
    assert index.notes[-2] == "names without a patient (M01_02.jpg is of M01), each a group of its own: 1"


# --------------------------------------------------------------------------------------------- SD-198

SD = {
    "sd-198/8_2_split/train_1.txt": "Acne/A1.jpg 0\nAcne/A2.jpg 0\nPsoriasis/P1.jpg 1\nPsoriasis/P2.jpg 1",
    "sd-198/8_2_split/val_1.txt": "Acne/A3.jpg 0\nPsoriasis/P3.jpg 1\n",
    "sd-198/8_2_split/train_2.txt": "Acne/A3.jpg 0\n",
    "sd-198/5_5_split/train_1.txt": "Acne/A3.jpg 0\n",
}
SD_IMAGES = tuple(f"sd-198/images/{cls}/{cls[0]}{n}.jpg" for cls in ("Acne", "Psoriasis") for n in (1, 2, 3))


def test_sd_198_takes_the_first_list_of_its_8_2_split(tmp_path: Path) -> None:
    index = read_index(write(tmp_path, SD, *SD_IMAGES))
    assert (index.layout, index.classes) == ("SD-198", ("Acne", "Psoriasis"))
    assert column(index, "split") == {
        "A1": "train", "A2": "train", "A3": "val", "P1": "train", "P2": "train", "P3": "val",
    }  # fmt: skip
    assert set(zip(column(index, "label").values(), "AAAPPP", strict=True)) == {("Acne", "A"), ("Psoriasis", "P")}
    assert index.notes == (
        "the split is that of 8_2_split/train_1.txt and 8_2_split/val_1.txt; 2 other lists not used: "
        "for another split, a table image,label,split for --labels",
    )


@pytest.mark.parametrize("line", ["images/Acne/A{n}.jpg 0", "0 Acne/A{n}.jpg", "Acne/A{n}.jpg", "Acne\\A{n}.jpg\t0"])
def test_lists_of_sd_198_in_other_forms(tmp_path: Path, line: str) -> None:
    train = "\n".join(line.format(n=n) for n in (1, 2))
    test = (line.format(n=3) + "\n").replace("Acne", "Psoriasis").replace("A3", "P3").replace("0", "1")
    index = read_index(write(tmp_path, {"8_2_split/train.txt": train, "8_2_split/test.txt": test},
                             "images/Acne/A1.jpg", "images/Acne/A2.jpg", "images/Psoriasis/P3.jpg"))  # fmt: skip
    assert column(index, "label") == {"A1": "Acne", "A2": "Acne", "P3": "Psoriasis"}
    assert column(index, "split") == {"A1": "train", "A2": "train", "P3": "test"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Acne/A3.jpg 1\n", "or one class two numbers"),
        ("Acne/A1.jpg 0\n", "gives the image sd-198/images/Acne/A1.jpg two values of split"),
        ("A3.jpg 0\n", "lists 'A3.jpg' without the folder of its class"),
        ("\n", "lists no image"),
    ],
)
def test_lists_of_sd_198_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    assert message in refusal(write(tmp_path, {**SD, "sd-198/8_2_split/val_1.txt": content}, *SD_IMAGES))


# --------------------------------------------------------------------------------------- Hugging Face


def test_a_hugging_face_folder_with_a_table_in_each_split(tmp_path: Path) -> None:
    files = {
        "train/metadata.csv": "file_name,label,patient_id,age\n0.jpg,mel,P1,50\nsub/1.jpg,nv,P1,51\n",
        "validation/metadata.csv": "file_name,label,patient_id,age\n0.jpg,nv,P2,52\n",
    }
    index = read_index(write(tmp_path, files, "train/0.jpg", "train/sub/1.jpg", "validation/0.jpg"))
    assert index.layout == "Hugging Face image folder"
    assert index.rows["image"].tolist() == ["train/0.jpg", "train/sub/1.jpg", "validation/0.jpg"]
    assert index.rows["label"].tolist() == ["mel", "nv", "nv"]
    assert index.rows["group"].tolist() == ["P1", "P1", "P2"]
    assert index.rows["split"].tolist() == ["train", "train", "val"]
    assert index.rows["age"].tolist() == [50, 51, 52]


def test_a_hugging_face_table_tells_its_patients_by_any_usual_name(tmp_path: Path) -> None:
    rows = "0.jpg,mel,S1,1\n1.jpg,nv,S1,2\n2.jpg,nv,S2,3\n"
    table = {"metadata.csv": f"file_name,label,subject_id,lesion_id\n{rows}"}
    index = read_index(write(tmp_path, table, "0.jpg", "1.jpg", "2.jpg"))
    assert index.rows["group"].tolist() == ["S1", "S1", "S2"]
    assert index.rows["patient_id"].tolist() == ["S1", "S1", "S2"]
    assert "subject_id" not in index.rows


def test_a_hugging_face_table_of_json_lines_names_the_split_by_folder(tmp_path: Path) -> None:
    lines = (
        '{"file_name": "train/0.jpg", "diagnosis": "mel", "note": null, "box": [1, 2]}\n\n'
        '{"file_name": "test/0.jpg", "diagnosis": "nv", "note": "é", "box": []}\n'
    )
    index = read_index(write(tmp_path, {"metadata.jsonl": lines}, "train/0.jpg", "test/0.jpg"))
    assert index.rows["image"].tolist() == ["test/0.jpg", "train/0.jpg"]
    assert index.rows["split"].tolist() == ["test", "train"]
    assert index.rows["label"].tolist() == ["nv", "mel"]
    assert index.rows["note"].tolist() == ["é", ""]
    assert "box" not in index.rows


@pytest.mark.parametrize(("path", "split"), [("test/val", "test"), ("train/val", "val"), ("train/part_1", "train")])
def test_an_image_in_folders_of_two_splits_is_not_trained_on(tmp_path: Path, path: str, split: str) -> None:
    lines = [f"{path}/{n}.jpg,{'mn'[n]}" for n in range(2)]
    table = "\n".join(["file_name,label", *lines])
    index = read_index(write(tmp_path, {"metadata.csv": table}, *(line[:-2] for line in lines)))
    assert index.rows["split"].tolist() == [split] * 2


def test_a_hugging_face_table_with_a_column_of_splits(tmp_path: Path) -> None:
    table = "file_name,label,split\n0.jpg,mel,train\n1.jpg,nv,Validation\n"
    index = read_index(write(tmp_path, {"metadata.csv": table}, "0.jpg", "1.jpg"))
    assert column(index, "split") == {"0": "train", "1": "val"}


def test_numbers_as_classes_are_said_and_images_without_label_left_out(tmp_path: Path) -> None:
    files = {
        "train/metadata.jsonl": '{"file_name": "0.jpg", "label": 0}\n{"file_name": "1.jpg", "label": 1}\n',
        "test/metadata.csv": "file_name\n2.jpg\n",
    }
    index = read_index(write(tmp_path, files, "train/0.jpg", "train/1.jpg", "test/2.jpg"))
    assert index.classes == ("0", "1")
    assert index.notes == (
        "the classes of train/metadata.jsonl are numbers without names",
        "test/metadata.csv has no column label: 1 image left out",
    )
    assert index.left_out == {index.notes[1]: 1}
    assert index.unnamed == ()


@pytest.mark.parametrize("labels", [("0", "-1", "1"), ("0.0", "-1.0", "1.0"), ("0", "-1", "1", "")])
def test_minus_one_is_no_class(tmp_path: Path, labels: tuple[str, ...]) -> None:
    table = "file_name,label\n" + "".join(f"{n}.jpg,{label}\n" for n, label in enumerate(labels))
    write(tmp_path, {"metadata.csv": table}, *(f"{n}.jpg" for n in range(len(labels))))
    index = read_index(tmp_path, allow_missing=True)
    assert index.classes == (labels[0], labels[2])
    assert "metadata.csv marks 1 image -1 (no label): left out" in index.notes
    assert index.unnamed == ()


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_names_beside_class_numbers_are_offered(tmp_path: Path, name: str) -> None:
    rows = ({"file_name": f"{n}.jpg", "label": n, "Label name": word} for n, word in enumerate(("nv", "mel")))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    table = lines if name.endswith("l") else "file_name,label,Label name\n0.jpg,0,nv\n1.jpg,1,mel\n"
    index = read_index(write(tmp_path, {name: table}, "0.jpg", "1.jpg"))
    assert f"the classes of {name} are numbers; --label-column 'Label name' takes the names" in index.notes
    assert column(read_index(tmp_path, label_column="Label name"), "label") == {"0": "nv", "1": "mel"}


def test_nan_in_json_lines_is_no_class(tmp_path: Path) -> None:
    lines = "".join(f'{{"file_name": "{n}.jpg", "label": {label}}}\n' for n, label in enumerate(("NaN", 0, 1)))
    write(tmp_path, {"metadata.jsonl": lines}, "0.jpg", "1.jpg", "2.jpg")
    assert "metadata.jsonl has 1 row without a class (first: 0.jpg)" in refusal(tmp_path)
    assert read_index(tmp_path, allow_missing=True).classes == ("0", "1")


def test_several_columns_that_may_be_the_classes_are_said(tmp_path: Path) -> None:
    table = "file_name,diagnosis,target\n0.jpg,mel,1\n1.jpg,nv,0\n"
    index = read_index(write(tmp_path, {"metadata.csv": table}, "0.jpg", "1.jpg"))
    assert index.notes == ("labels are the column diagnosis of metadata.csv; others: target",)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"metadata.jsonl": '{"file_name": "0.jpg", "label": "a"}\n{"file_name": \n'}, "line 2: not one JSON object"),
        ({"metadata.jsonl": '["0.jpg"]\n'}, "line 1: not one JSON object"),
        ({"metadata.jsonl": "[" * 100_000}, "line 1: not one JSON object"),
        (
            {"metadata.jsonl": '{"file_name": "0.jpg", "label": "a"}', "metadata.csv": "file_name,label\n0.jpg,b\n"},
            "holds metadata.csv and metadata.jsonl, two tables of the same images: keep one",
        ),
        ({"metadata.csv": "file_name,label\n0.jpg,a\n../1.jpg,b\n"}, "outside the data folder"),
        ({"metadata.csv": "file_name,label,split\n0.jpg,a,train\n1.jpg,b,holdout\n"}, "row 3: the split 'holdout'"),
        (
            {"metadata.jsonl": '{"file_name": "0.jpg", "label": "a", "split": "holdout"}\n'},
            "row 1: the split 'holdout' is none of train, val, test",
        ),
    ],
)
def test_hugging_face_tables_that_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    assert message in refusal(write(tmp_path / "data", files, "0.jpg"))


def test_captions_beside_class_folders_are_no_labels(tmp_path: Path) -> None:
    files = {"train/metadata.csv": "file_name,text\nmel/0.jpg,a mole\nnv/1.jpg,another\n"}
    assert read_index(write(tmp_path, files, "train/mel/0.jpg", "train/nv/1.jpg")).layout == "split folders"


# --------------------------------------------------------------------------------------- PH2 and MIDAS

PH2_HEAD = [
    "Image Name", "Histological Diagnosis", "Common Nevus", "Atypical Nevus", "Melanoma", "Asymmetry\n(0/1/2)",
]  # fmt: skip
PH2_IMAGES = tuple(
    name for n in ("003", "009", "406") for name in (
        f"PH2 Dataset images/IMD{n}/IMD{n}_Dermoscopic_Image/IMD{n}.bmp",
        f"PH2 Dataset images/IMD{n}/IMD{n}_lesion/IMD{n}_lesion.bmp",
        f"PH2 Dataset images/IMD{n}/IMD{n}_roi/IMD{n}_R1_Label4.bmp",
    )
)  # fmt: skip


def ph2(folder: Path, *marks: list[object]) -> Path:
    legend: list[list[object]] = [["Legends", None, "0 - Common Nevus"], *([[None]] * 11)]
    workbook(folder / "PH2_dataset.xlsx", *legend, PH2_HEAD, *marks)
    return write(folder, {"PH2_dataset.txt": "|| Name ||"}, *PH2_IMAGES)


def test_ph2(tmp_path: Path) -> None:
    index = read_index(ph2(
        tmp_path, ["IMD003", "Compound Nevus", "X", None, None, 0], ["IMD009", None, None, "X", None, 1.0],
        ["IMD406", "Melanoma", None, None, "x", 2],
    ))  # fmt: skip
    assert index.layout == "PH2"
    assert column(index, "label") == {"IMD003": "Common Nevus", "IMD009": "Atypical Nevus", "IMD406": "Melanoma"}
    assert column(index, "asymmetry") == {"IMD003": 0, "IMD009": 1, "IMD406": 2}
    assert Path(str(index.rows["path"][0])).name == "IMD003.bmp"
    assert index.notes == ("the folder holds 6 images not named in PH2_dataset.xlsx: left out",)  # the masks


def test_second_downloads_of_a_workbook_are_one_table_unless_they_differ(tmp_path: Path) -> None:
    book = ph2(tmp_path, ["IMD003", None, "X", None, None, 0]) / "PH2_dataset.xlsx"
    first = book.rename(tmp_path / "PH2_dataset (1).xlsx")
    second = tmp_path / "more" / "PH2_dataset (2).xlsx"
    second.parent.mkdir()
    second.write_bytes(first.read_bytes())
    assert column(read_index(tmp_path), "label") == {"IMD003": "Common Nevus"}
    workbook(second, PH2_HEAD, ["IMD003", None, None, "X", None, 0])
    assert "PH2_dataset (1).xlsx and more/PH2_dataset (2).xlsx, which disagree: keep one" in refusal(tmp_path)
    workbook(book, PH2_HEAD, ["IMD003", None, None, None, "X", 0])
    assert column(read_index(tmp_path), "label") == {"IMD003": "Melanoma"}, "the first download counts"


def test_a_ph2_row_with_two_marks_is_counted_and_an_unknown_mark_named(tmp_path: Path) -> None:
    two = ph2(tmp_path / "two", ["IMD003", None, "X", "X", None, 0], ["IMD009", None, None, "X", None, 1])
    assert "rows that mark no class: 0, several: 1 (first: IMD003)" in refusal(two)
    unknown = ph2(tmp_path / "unknown", ["IMD003", None, "maybe", None, None, 0])
    assert "row 14, column Common Nevus: 'maybe' is neither 1 nor 0" in refusal(unknown)  # below legend and header


PH2_TEXT = """
||   Name   ||  Histological Diagnosis  ||  Clinical Diagnosis  ||   Asymmetry   |  Pigment Network  ||  Colors  ||
||  IMD003  ||  Compound Nevus          ||           0          ||       0       |        T          ||  4       ||
||  IMD009  ||                          ||           1          ||       1       |        AT         ||  4  6    ||
||  IMD406  ||  Melanoma                ||           2          ||       2       |        AT         ||  1  3  5 ||

Legends
Clinical Diagnosis:
    0 - Common Nevus;
    1 - Atypical Nevus;
    2 - Melanoma.
"""


def test_ph2_without_its_workbook_is_read_by_its_text(tmp_path: Path) -> None:
    index = read_index(write(tmp_path, {"PH2Dataset/PH2_dataset.txt": PH2_TEXT}, *PH2_IMAGES))
    assert index.layout == "PH2"
    assert column(index, "label") == {"IMD003": "Common Nevus", "IMD009": "Atypical Nevus", "IMD406": "Melanoma"}
    assert column(index, "asymmetry") == {"IMD003": 0, "IMD009": 1, "IMD406": 2}
    assert {Path(str(path)).name for path in index.rows["path"]} == {"IMD003.bmp", "IMD009.bmp", "IMD406.bmp"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PH2_TEXT.replace(" 1          ||", " 3          ||"), "line 4: the Clinical Diagnosis '3' is none of 0"),
        ("nothing", "PH2_dataset.txt"),
        (PH2_TEXT.replace("Clinical Diagnosis  ||", "Diagnosis ||"), "clinical_diagnosis"),
    ],
)
def test_a_text_of_ph2_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(write(tmp_path, {"PH2_dataset.txt": text}, *PH2_IMAGES))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_a_workbook_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, {}, "a.bmp")
    (tmp_path / "PH2_dataset.xlsx").write_bytes(content)
    assert "PH2_dataset.xlsx cannot be read as an Excel workbook" in refusal(tmp_path)


def test_a_workbook_of_other_columns_or_of_too_many_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workbook(tmp_path / "a/PH2_dataset.xlsx", ["Name", "Melanoma"], ["IMD003", "X"])
    assert "has no sheet with the columns image_name, common_nevus" in refusal(tmp_path / "a")
    monkeypatch.setattr("skin.data.workbook._MOST_BYTES", 1 << 20)
    (tmp_path / "b").mkdir()
    with zipfile.ZipFile(tmp_path / "b/PH2_dataset.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", bytes(2 << 20))
    assert "holds 2 MiB of tables, over 1: download it again" in refusal(tmp_path / "b")


def test_without_openpyxl_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ph2(tmp_path, ["IMD003", None, "X", None, None, 0])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert refusal(tmp_path).endswith("is not installed: pip install openpyxl")


MIDAS = [
    ["", "midas_record_id", "midas_file_name", "midas_iscontrol", "midas_distance", "midas_path", "midas_melanoma"],
    [0, 101, "s-prd-1.jpeg", "no", "dscope", "malignant- bcc", "no"],
    [1, 101, "s-prd-2.jpg", "no", "6in", "malignant- bcc", "no"],
    [2, 102, "s-prd-3.jpg", "no", "1ft", "benign-melanocytic nevus", "no"],
    [3, 103, "s-prd-4.jpg", "yes", "1ft", None, None],
]


@pytest.mark.parametrize("end", ["xlsx", "csv"])
def test_midas(tmp_path: Path, end: str) -> None:
    if end == "xlsx":
        workbook(tmp_path / "release_midas.xlsx", *MIDAS)
    else:
        text = "\n".join(",".join("" if cell is None else str(cell) for cell in row) for row in MIDAS)
        write(tmp_path, {"release_midas.csv": text})
    index = read_index(write(tmp_path, {}, *(f"images/s-prd-{n}.jpg" for n in (1, 2, 3, 4))))
    assert index.layout == "MIDAS"
    assert column(index, "label") == {
        "s-prd-1": "malignant- bcc", "s-prd-2": "malignant- bcc", "s-prd-3": "benign-melanocytic nevus",
    }  # fmt: skip
    assert column(index, "group") == {"s-prd-1": "101", "s-prd-2": "101", "s-prd-3": "102"}
    assert column(index, "midas_distance")["s-prd-2"] == "6in"
    assert index.left_out == {f"release_midas.{end} gives no midas_path of 1 image (controls): left out": 1}
    assert set(index.left_out) < set(index.notes)
    assert index.unnamed == ()


# -------------------------------------------------------------------------------- still in its archive

HAM = "lesion_id,image_id,dx,dx_type,age,sex,localization\nL1,I1,mel,h,1,male,arm\nL2,I2,nv,h,1,male,arm\n"


def packed(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


def follow(advice: str) -> None:
    """Do what the message says to a shell; Python unpacks where the machine has no unzip."""
    for command in advice.split(" && "):
        words = shlex.split(command)
        if words[0] == "unzip":
            assert words[1] == "-d"
            with zipfile.ZipFile(words[3]) as archive:
                archive.extractall(words[2])
        else:
            assert words[:2] == ["tar", "-xzf"]
            subprocess.run(words, check=True)


def test_images_that_are_still_in_a_zip_are_named_with_the_command(tmp_path: Path) -> None:
    data = write(tmp_path / "my data", {"HAM10000_metadata.csv": HAM})
    packed(data / "HAM10000_images_part_1.zip", "I1.jpg")
    packed(data / "HAM10000_images_part_2.zip", "I2.jpg")
    message = refusal(data)
    archives = "HAM10000_images_part_1.zip, HAM10000_images_part_2.zip are still packed"
    assert f"names 2 images that the folder lacks (first: I1); {archives}" in message
    follow(message.partition("unpack with: ")[2])
    assert column(read_index(data), "label") == {"I1": "mel", "I2": "nv"}
    assert read_index(data).notes == (), "an archive that was unpacked is no longer named"


def test_a_part_that_is_still_packed_is_named_beside_those_that_are_not(tmp_path: Path) -> None:
    write(tmp_path, {"HAM10000_metadata.csv": HAM}, "I1.jpg")
    packed(tmp_path / "part_2.zip", "part_2/I2.jpg")
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path.resolve()}: HAM10000_metadata.csv names 1 image that the folder lacks")
    assert "over 1 % of 2 rows; part_2.zip is still packed; unpack with: unzip -d " in message


def test_a_zip_within_a_zip_is_found_step_by_step(tmp_path: Path) -> None:
    """As the Harvard Dataverse packs HAM10000, of which one part was unpacked."""
    write(tmp_path, {"HAM10000_metadata.csv": HAM}, "HAM10000_images_part_1/I1.jpg")
    parts = [packed(tmp_path / f"HAM10000_images_part_{n}.zip", f"I{n}.jpg") for n in (1, 2)]
    with zipfile.ZipFile(tmp_path / "dataverse_files.zip", "w") as archive:
        archive.writestr("HAM10000_metadata.csv", HAM)
        for part in parts:
            archive.write(part, part.name)
            part.unlink()
    for name in ("dataverse_files.zip", "dataverse_files/HAM10000_images_part_2.zip"):
        message = refusal(tmp_path)
        assert f"; {name} is still packed; unpack with: " in message
        follow(message.partition("unpack with: ")[2])
    index = read_index(tmp_path)
    assert (len(index.rows), index.notes) == (2, ())


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("a.tar.gz", "tar -xzf {root}/a.tar.gz -C {root}"),
        ("a.tgz", "tar -xzf {root}/a.tgz -C {root}"),
        ("a.7z", "7z x -o{root}/a {root}/a.7z"),
        ("a.rar", "unrar x {root}/a.rar {root}/"),
        ("broken.zip", "unzip -d {root}/broken {root}/broken.zip"),
    ],
)
def test_other_archives_beside_missing_images_are_named(tmp_path: Path, name: str, command: str) -> None:
    message = refusal(write(tmp_path, {"HAM10000_metadata.csv": HAM, name: "?"}))
    assert message.endswith(f"{name} is still packed; unpack with: {command.format(root=tmp_path.resolve())}")


def test_a_tar_is_unpacked_by_the_command(tmp_path: Path) -> None:
    write(tmp_path, {"HAM10000_metadata.csv": HAM}, "in/I1.jpg", "in/I2.jpg")
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as archive:
        for name in ("I1.jpg", "I2.jpg"):
            archive.add(tmp_path / "in" / name, f"images/{name}")
            (tmp_path / "in" / name).unlink()
    follow(refusal(tmp_path).partition("unpack with: ")[2])
    assert len(read_index(tmp_path).rows) == 2


def test_a_folder_of_nothing_but_archives_says_so(tmp_path: Path) -> None:
    packed(tmp_path / "archive.zip", "mel/1.jpg", "nv/2.jpg")
    message = refusal(tmp_path)
    assert "it holds 0 images; archive.zip is still packed; unpack with: " in message
    follow(message.partition("unpack with: ")[2])
    assert read_index(tmp_path).classes == ("mel", "nv")


def test_a_class_that_is_still_in_its_archive_is_said(tmp_path: Path) -> None:
    write(tmp_path, {}, "mel/1.jpg", "bcc/2.jpg")
    packed(tmp_path / "nv.zip", "3.jpg", "4.jpg")
    (note,) = read_index(tmp_path).notes
    assert note.startswith("images are missing that an archive holds: nv.zip is still packed; unpack with: unzip -d ")
    follow(note.partition("unpack with: ")[2])
    index = read_index(tmp_path)
    assert (index.classes, index.notes) == (("bcc", "mel", "nv"), ())


def test_an_archive_of_what_is_there_and_one_without_images_are_no_news(tmp_path: Path) -> None:
    write(tmp_path, {}, "mel/1.png", "nv/2.png")
    packed(tmp_path / "all.zip", "set/mel/1.jpg", "set/nv/2.jpg")  # the images may have been converted since
    packed(tmp_path / "code.zip", "train.py", "readme.md")
    assert read_index(tmp_path).notes == ()


# ---------------------------------------------------------------------------------------------- all


def test_no_two_layouts_have_one_name() -> None:
    names = [layout.name for layout in LAYOUTS]
    assert len(names) == len(set(names))
