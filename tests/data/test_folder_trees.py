"""Folders as people and downloads have them: class folders are read, and nothing else becomes a class."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

from skin.data import folder_names, naming
from skin.data.folder import Folder
from skin.data.index import Index
from skin.data.layouts import read_index
from skin.data.naming import changed_names
from skin.data.split import leaks
from skin.utils.errors import UserError

import numpy as np
import pytest
from PIL import Image


def tree(root: Path, *folders: str, images: int = 3, files: dict[str, str] | None = None) -> Path:
    """Make folders with so many images each, all of different names, and files; no layout looks inside an image."""
    number = 0
    for folder in folders:
        name, _, own = folder.partition(":")  # `mel:7` has seven
        (root / name).mkdir(parents=True, exist_ok=True)
        for _ in range(int(own or images)):
            (root / name / f"i{number}.jpg").write_text(f"image {number}")
            number += 1
    for name, content in (files or {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def sizes(index: Index) -> dict[str, int]:
    """The number of images per class and split: `train/mel`, or `mel` if there is no split."""
    names = (index.rows["split"] + "/" + index.rows["label"]).str.removeprefix("/")
    return {str(name): int(number) for name, number in names.value_counts().items()}


def advised(error: UserError) -> dict[str, Path]:
    """The options that an error tells the user to type."""
    words = shlex.split(str(error)[str(error).index("--") :].split("; otherwise")[0].split(" tells")[0])
    return {words[at][2:]: Path(words[at + 1]) for at in range(0, len(words), 2)}


# --------------------------------------------------------------------------------------------- good sets


@pytest.mark.parametrize(
    "names",
    [
        ("mel", "nv"),
        ("benign_images", "malignant_images"),
        ("test positive", "test negative"),
        ("Basal cell", "Squamous cell", "Actinic"),
        ("0", "1", "2"),
        ("class_1", "class_2", "class_3"),
        ("1. Eczema 1677", "2. Melanoma 15.75k", "10. Warts Molluscum and other Viral Infections - 2103"),
        ("Acne and Rosacea Photos", "Melanoma Skin Cancer Nevi and Moles", "Poison Ivy Photos and other"),
        ("痣", "黑色素瘤"),
        ("contest", "latest", "maskne"),
        ("normal", "other"),
        ("AKs", "BCCs", "SCCis"),
        ("TR", "TS"),
        ("Melanom Bilder", "fotos nevus"),
    ],
)
@pytest.mark.parametrize("above", ["", "archive/", "dataset/images/"])
def test_honest_names_of_classes(tmp_path: Path, above: str, names: tuple[str, ...]) -> None:
    index = read_index(tree(tmp_path, *(above + name for name in names)))
    assert (index.layout, sizes(index), index.notes) == ("class folders", dict.fromkeys(names, 3), ())


def test_two_levels_of_classes_have_the_upper_one_as_classes(tmp_path: Path) -> None:
    index = read_index(tree(tmp_path, "benign/nv", "benign/bkl", "malignant/mel", "malignant/bcc"))
    assert sizes(index) == {"benign": 6, "malignant": 6}
    assert index.notes == (
        "the classes are the folders benign, malignant; the folders inside them (bcc, bkl, mel, nv) are merged",
    )


def test_classes_below_are_said_if_images_lie_beside_them(tmp_path: Path) -> None:
    index = read_index(tree(tmp_path, "benign/nv", "benign/bkl", "malignant/mel", "malignant"))
    assert sizes(index) == {"benign": 6, "malignant": 6}
    assert index.notes == (
        "the classes are the folders benign, malignant; the folders inside them (bkl, mel, nv) are merged",
    )


def test_ways_of_imaging_are_said_if_they_are_learnt_as_classes(tmp_path: Path) -> None:
    (note,) = read_index(tree(tmp_path, "dermoscopy", "clinical images")).notes
    assert "clinical images, dermoscopy are named after ways to take images and are learnt as classes" in note
    assert read_index(tree(tmp_path, "nevus")).notes == ()


@pytest.mark.parametrize("inside", ["P1", "dermoscopic", "images", "2019"])
def test_folders_inside_class_folders_do_not_matter(tmp_path: Path, inside: str) -> None:
    index = read_index(tree(tmp_path, f"melanoma/{inside}", f"nevus/{inside}", "nevus/more"))
    assert sizes(index) == {"melanoma": 3, "nevus": 6}


def test_patients_inside_class_folders_are_no_classes(tmp_path: Path) -> None:
    index = read_index(tree(tmp_path, "acne/P1", "acne/P2", "burn/P1", "burn/P2"), group_by="/(P[0-9]+)/")
    assert (sizes(index), index.rows["group"].nunique()) == ({"acne": 6, "burn": 6}, 2)
    assert len(index.notes) == 1


def test_many_folders_of_one_image_each_are_classes_if_their_names_are(tmp_path: Path) -> None:
    names = [f"disease {chr(ord('a') + n)}" for n in range(20)]
    assert sizes(read_index(tree(tmp_path, *names, images=1))) == dict.fromkeys(names, 1)


# -------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train_set", "test_set"),
        ("train_data", "test_data"),
        ("Training", "Testing"),
        ("TRAIN", "TEST"),
        ("trainset", "testset"),
        ("TrainingSet", "TestSet"),
        ("train/train", "test/test"),
        ("Train/images", "Test/images"),
        ("BCN_20k_train", "BCN_20k_test"),
        ("BCN_20k_train/bcn_20k_train", "BCN_20k_test/bcn_20k_test"),
        ("train_sep", "test"),
        ("ISIC_Training_JPEG", "ISIC_Test_JPEG"),
        ("imagesTr", "imagesTs"),
        ("ImagesTr", "ImagesTs"),
        ("TRAINset", "TESTset"),
        ("TRAINdata", "TESTimages"),
        ("Trainingsdaten", "Testdaten"),
        ("entrenamiento", "Prueba"),
        ("Entraînement", "données de test"),
        ("treinamento", "teste"),
    ],
)
@pytest.mark.parametrize("above", ["", "skin-disease-datasaet/", "Train-Test split/", "a/b/c/"])
def test_split_folders_under_many_names(tmp_path: Path, above: str, train: str, test: str) -> None:
    folders = [f"{above}{split}/{cls}" for split in (train, test) for cls in ("acne", "BA- impetigo")]
    index = read_index(tree(tmp_path, *folders))
    assert index.layout == "split folders"
    assert sizes(index) == dict.fromkeys(("train/acne", "train/BA- impetigo", "test/acne", "test/BA- impetigo"), 3)


@pytest.mark.parametrize(
    "val", ["val_dir", "validation_data", "valid", "Val", "VALimages", "dev_set", "Validierung", "validación"]
)
def test_validation_folders_under_many_names(tmp_path: Path, val: str) -> None:
    index = read_index(tree(tmp_path, "base_dir/train_dir/mel", "base_dir/train_dir/nv", f"base_dir/{val}/mel"))
    assert sizes(index) == {"train/mel": 3, "train/nv": 3, "val/mel": 3}


def test_a_split_within_the_training_split(tmp_path: Path) -> None:
    folders = ("train/train/mel", "train/train/nv", "train/val/mel", "train/val/nv", "test/mel", "test/nv")
    index = read_index(tree(tmp_path, *folders))
    assert sizes(index) == {f"{split}/{cls}": 3 for split in ("train", "val", "test") for cls in ("mel", "nv")}


@pytest.mark.parametrize(
    "names", ["{split}", "{split}_set", "{cls}_{split}", "{split}ing images", "{split}/P1"]
)
def test_splits_inside_class_folders(tmp_path: Path, names: str) -> None:
    folders = [f"{cls}/{names.format(cls=cls, split=split)}" for cls in ("mel", "nv") for split in ("train", "test")]
    index = read_index(tree(tmp_path, *folders))
    assert sizes(index) == {"train/mel": 3, "test/mel": 3, "train/nv": 3, "test/nv": 3}


@pytest.mark.parametrize("more", ["mel/extra", "mel", "bkl"])
def test_images_beside_the_splits_in_class_folders_are_not_passed_over(tmp_path: Path, more: str) -> None:
    tree(tmp_path, "mel/Train", "mel/Test", "nv/Train", "nv/Test", more)
    with pytest.raises(UserError, match=r"3 images beside these .*: put each image into the folder of a split"):
        read_index(tmp_path)
    for number, path in enumerate(sorted(tmp_path.glob(f"{more}/*.jpg"))):  # as the advice says
        split = tmp_path / more.removesuffix("/extra") / ("Train" if number else "Test")
        split.mkdir(exist_ok=True)
        path.rename(split / path.name)
    assert sum(sizes(read_index(tmp_path)).values()) == 15


def test_a_word_of_splits_in_a_class_folder_is_no_split_of_it(tmp_path: Path) -> None:
    index = read_index(tree(tmp_path, "allergy/patch test", "allergy/training photos", "nevus/photos"))
    assert sizes(index) == {"allergy": 6, "nevus": 3}


@pytest.mark.parametrize(
    ("name", "split"),
    [("validate", "val"), ("holdout", "test"), ("eval", "test"), ("evaluation_set", "test"), ("tst", "test")],
)
@pytest.mark.parametrize("train", ["train", "trn", "trainval", "TrainVal_set"])
def test_other_words_for_splits(tmp_path: Path, name: str, split: str, train: str) -> None:
    index = read_index(tree(tmp_path, *(f"{it}/{cls}" for it in (train, name) for cls in ("mel", "nv"))))
    assert sizes(index) == {f"{it}/{cls}": 3 for it in ("train", split) for cls in ("mel", "nv")}


@pytest.mark.parametrize("both", ["trainval", "train_val", "TrainVal_set"])
def test_training_and_validation_images_together_are_not_read_beside_each(tmp_path: Path, both: str) -> None:
    folders = [f"{split}/{cls}" for split in ("train", "val", "test", both) for cls in ("mel", "nv")]
    index = read_index(tree(tmp_path, *folders))
    assert sizes(index) == {f"{split}/{cls}": 3 for split in ("train", "val", "test") for cls in ("mel", "nv")}
    assert index.notes == ("the folder holds 6 images outside the class folders: left out",)


@pytest.mark.parametrize("name", ["external", "hold_out", "extra images"])
def test_class_folders_beside_splits_that_are_of_none_are_named(tmp_path: Path, name: str) -> None:
    tree(tmp_path, "set/train/mel", "set/train/nv", "set/val/mel", "set/val/nv", f"set/{name}/mel", f"set/{name}/nv")
    index = read_index(tmp_path)
    assert sizes(index) == {f"{split}/{cls}": 3 for split in ("train", "val") for cls in ("mel", "nv")}
    assert index.notes[0].startswith(f"left out: the folder {name} holds class folders, but its name tells no split")
    advised = index.notes[0].rpartition(" such as ")[2]
    (tmp_path / "set" / name).rename(tmp_path / "set" / advised)
    assert sizes(read_index(tmp_path))["test/mel"] == 3


def test_a_split_with_one_class_keeps_it_whatever_lies_in_it(tmp_path: Path) -> None:
    index = read_index(tree(tmp_path, "train/mel", "train/nv", "test/mel/patient"))
    assert sizes(index) == {"train/mel": 3, "train/nv": 3, "test/mel": 3}


@pytest.mark.parametrize("unlabelled", ["test", "test/test", "test/images", "test_set"])
def test_images_of_a_split_without_class_folders_are_left_out_and_counted(tmp_path: Path, unlabelled: str) -> None:
    index = read_index(tree(tmp_path, "train/mel", "train/nv", unlabelled))
    assert sizes(index) == {"train/mel": 3, "train/nv": 3}
    assert index.notes[0] == "the folder holds 3 images outside the class folders: left out"


def test_a_class_may_be_in_one_split_only(tmp_path: Path) -> None:
    index = read_index(tree(tmp_path, "train/mel", "train/nv", "val/mel", "val/bkl"))
    assert sizes(index)["val/bkl"] == 3


@pytest.mark.parametrize("split", ["train", "val"])
def test_one_class_in_two_unicode_forms_is_one_class(tmp_path: Path, split: str) -> None:
    composed, apart = (unicodedata.normalize(form, "nävus") for form in ("NFC", "NFD"))
    index = read_index(tree(tmp_path, f"train/{composed}", "train/mel", f"{split}/{apart}", f"{split}/mel"))
    assert index.classes == ("mel", composed)
    assert len(index.rows) == 12


# -------------------------------------------------------------------------------- pieces of a download


@pytest.mark.parametrize(
    "folders",
    [
        ("ISBI2016_ISIC_Part3_Training_Data", "ISBI2016_ISIC_Part3_Test_Data"),
        ("BCN_20k_train", "BCN_20k_test"),
        ("derm12345_train_part_1", "derm12345_train_part_2"),
        ("derm12345_train_part_1", "derm12345_train_part_2", "derm12345_test"),
        ("ISIC_2020_Training_JPEG", "ISIC_2020_Test_JPEG"),
        ("Fold1", "Fold2"),
        ("jpeg/train", "jpeg/test"),
        ("train", "test"),
        ("x_images_part_1", "x_images_part_2"),
        ("Augmented Images", "Original Images"),
        ("ISIC-images",),
        ("imagesTr", "imagesTs"),
        ("JPEGImages", "PNGImages"),
        ("Classification/JPEGImages",),
        ("DATAset",),
        ("DCIM100", "DCIM101"),
        ("100APPLE", "101APPLE", "102_PANA"),
        ("entrenamiento", "prueba"),
        ("Bilder 1", "Bilder 2"),
        ("imágenes",),
    ],
)
def test_pieces_of_a_download_with_images_only_are_no_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="is of no known layout"):
        read_index(tree(tmp_path, *folders))
    rows = [f"{path.name},{'mel' if n % 2 else 'nv'}" for n, path in enumerate(sorted(tmp_path.rglob("*.jpg")))]
    tree(tmp_path, files={"truth table.csv": "\n".join(["image,diagnosis", *rows])})
    with pytest.raises(UserError, match="reads its table") as error:  # the advice names the table
        read_index(tmp_path)
    option = re.search(r"--labels '([^']+)' reads its table", str(error.value))
    assert option is not None
    assert read_index(tmp_path, labels=Path(option[1])).classes == ("mel", "nv")


@pytest.mark.parametrize(
    "piece", ["Fold1", "test_set", "derm12345_part_1", "Augmented Images", "BCN_20k_train", "patch test"]
)
def test_a_piece_of_a_download_beside_class_folders_is_refused_by_name(tmp_path: Path, piece: str) -> None:
    tree(tmp_path, "mel", "nv", piece)
    with pytest.raises(UserError, match=f"holds {piece} beside class folders"):
        read_index(tmp_path)
    (tmp_path / piece).rename(tmp_path.parent / f"{tmp_path.name} aside")  # as the advice says
    assert read_index(tmp_path).classes == ("mel", "nv")


def test_class_folders_in_parts_of_a_download_are_read_together(tmp_path: Path) -> None:
    parts = ("images_part_1", "images_part_2")
    index = read_index(tree(tmp_path, *(f"{part}/{cls}" for part in parts for cls in ("mel", "nv"))))
    assert sizes(index) == {"mel": 6, "nv": 6}
    assert "images_part_1, images_part_2 hold class folders each: read together" in index.notes[0]


def test_class_folders_of_two_sites_are_read_together(tmp_path: Path) -> None:
    index = read_index(tree(tmp_path, "vienna/mel", "vienna/nv", "graz/mel", "graz/nv"))
    assert sizes(index) == {"mel": 6, "nv": 6}
    assert "graz, vienna hold class folders each: read together" in index.notes[0]


@pytest.mark.parametrize("names", [("images_224", "images_512"), ("plain", "hair_removed")])
def test_a_set_in_two_sizes_or_forms_is_not_read_twice(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        tree(tmp_path / name, "mel", "nv")  # the same names of images in each
    with pytest.raises(UserError, match="as copies of one set have") as error:
        read_index(tmp_path)
    assert sizes(read_index(advised(error.value)["data"])) == {"mel": 3, "nv": 3}


def test_the_advice_for_folds_reads_one_of_them(tmp_path: Path) -> None:
    tree(tmp_path, *(f"Fold{n}/{split}/{cls}" for n in (1, 2) for split in ("Train", "Val") for cls in ("mel", "nv")))
    with pytest.raises(UserError, match="not like classes") as error:
        read_index(tmp_path)
    index = read_index(advised(error.value)["data"])
    assert sizes(index) == {"train/mel": 3, "train/nv": 3, "val/mel": 3, "val/nv": 3}


@pytest.mark.parametrize(
    "copy",
    [
        "mel - Copy", "mel - Copy (2)", "mel_augmented", "mel_resized", "mel (1)", "mel_2", "mel 2", "mel_224",
        "mel_224x224", "mel_v2", "mel_synthetic", "mel_rotated", "mel_oversampled", "flipped mel",
    ],
)  # fmt: skip
def test_a_copy_of_a_class_folder_is_refused(tmp_path: Path, copy: str) -> None:
    with pytest.raises(UserError, match=f"move {re.escape(copy)} out of the data folder"):
        read_index(tree(tmp_path, "mel", "nv", copy))
    (tmp_path / copy).rename(tmp_path / "third")  # as the advice says, of a class
    assert len(read_index(tmp_path).classes) == 3


@pytest.mark.parametrize(
    "names",
    [
        ("grade 1", "grade 2"), ("type", "type 2"), ("bkl_1", "bkl_2"), ("0", "1", "1 2"), ("mel 1", "nv 1", "nv 2"),
        ("acne", "acne 0", "acne 1"), ("rosacea 1", "rosacea 2", "rosacea"), ("bkl", "bkl_01", "bkl_02"),
        ("T", "T1"), ("T", "T1", "T2"), ("melanoma", "melanoma (0.8)"),
    ],
)  # fmt: skip
def test_classes_that_are_numbered_among_themselves_are_no_copies(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert sizes(read_index(tree(tmp_path, *names))) == dict.fromkeys(names, 3)


@pytest.mark.parametrize("names", [("mel (1)", "mel (2)"), ("mel_224", "mel_512"), ("mel 1", "mel 2 - Copy")])
def test_several_copies_of_a_class_folder_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="named like copies of its images"):
        read_index(tree(tmp_path, "mel", "nv", *names))


@pytest.mark.parametrize(
    "names",
    [
        ("BRAF+", "BRAF-"), ("HIV+", "HIV-"), ("ER+", "ER-", "HER2+"), ("<1mm", ">1mm"), ("nevus", "nevus?"),
        ("p16", "p16+"),
    ],
)  # fmt: skip
def test_classes_that_differ_in_signs_are_no_copies(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert sizes(read_index(tree(tmp_path, *names))) == dict.fromkeys(names, 3)


@pytest.mark.parametrize("of", ["BRAF+", "BRAF-"])
def test_a_copy_of_a_class_with_a_sign_is_told_of_that_class(tmp_path: Path, of: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"holds the folders {of} and {of} - Copy, which is named like")):
        read_index(tree(tmp_path, "BRAF+", "BRAF-", "nv", f"{of} - Copy"))


def test_sites_may_be_numbered(tmp_path: Path) -> None:
    index = read_index(tree(tmp_path, "vienna/mel", "vienna/nv", "vienna 2/mel", "vienna 2/nv"))
    assert sizes(index) == {"mel": 6, "nv": 6}


def test_augmented_classes_are_read_and_said(tmp_path: Path) -> None:
    index = read_index(tree(tmp_path, "mel_augmented", "nv_augmented"))
    assert index.classes == ("mel_augmented", "nv_augmented")
    assert "are named like images made of others" in index.notes[0]


@pytest.mark.parametrize("above", ["Augmented Images", "fold1_AUG/train", "oversampled/images"])
def test_a_folder_of_copies_above_the_classes_is_said(tmp_path: Path, above: str) -> None:
    (note,) = read_index(tree(tmp_path, f"{above}/mel", f"{above}/nv")).notes
    top = above.split("/")[0]
    assert note.startswith(f"the folder {top} is named like altered copies of images: those of one may stand on")
    assert read_index(tmp_path / top).notes == (note,)


@pytest.mark.parametrize("above", ["export aug 2023", "clinic/aug"])
def test_a_folder_of_august_is_none_of_copies(tmp_path: Path, above: str) -> None:
    assert read_index(tree(tmp_path, f"{above}/mel", f"{above}/nv")).notes == ()


def test_copies_of_the_training_images_alone_are_no_matter_for_the_other_splits(tmp_path: Path) -> None:
    folders = [f"{split}/{label}" for split in ("train_augmented", "val", "test") for label in ("mel", "nv")]
    assert read_index(tree(tmp_path, *folders)).notes == ()
    (tmp_path / "test").rename(tmp_path / "test_augmented")
    assert "the folder test_augmented is named like altered copies" in read_index(tmp_path).notes[0]


def test_a_validation_split_cut_from_copies_is_said(tmp_path: Path) -> None:
    folders = [f"{split}/{label}" for split in ("train_augmented", "test") for label in ("mel", "nv")]
    assert "the folder train_augmented is named like altered copies" in read_index(tree(tmp_path, *folders)).notes[0]


@pytest.mark.parametrize(
    "folders", [("dermis/melanoma", "dermquest/nevus"), ("ear/a", "ear/b", "toe/a", "toe/b")]
)
def test_two_levels_that_may_both_be_classes_are_refused(tmp_path: Path, folders: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="either may be the classes: put the class folders side by side"):
        read_index(tree(tmp_path, *folders))


def test_splits_in_words_that_are_not_known_are_read_under_the_advised_names(tmp_path: Path) -> None:
    tree(tmp_path, "koulutus/melanooma", "koulutus/luomi", "testaus/melanooma", "testaus/luomi")
    with pytest.raises(UserError, match="; splits are called train, val and test"):
        read_index(tmp_path)
    (tmp_path / "koulutus").rename(tmp_path / "train")
    (tmp_path / "testaus").rename(tmp_path / "test")
    assert sizes(read_index(tmp_path)) == dict.fromkeys(
        ("train/melanooma", "train/luomi", "test/melanooma", "test/luomi"), 3
    )


@pytest.mark.parametrize("name", ["IMD{:03}", "IL_{:07}", "patient_{}", "{:05}"])
def test_a_folder_per_patient_or_lesion_is_no_class(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="seem to be patients or lesions, not classes: name a table"):
        read_index(tree(tmp_path, *(f"set/{name.format(n)}" for n in range(12))))


def calls(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, run: Callable[..., object], *args: object
) -> int:
    """Return how often a function of a module is called in `run(*args)`."""
    spy = Mock(wraps=getattr(module, name))
    with monkeypatch.context() as patched:
        patched.setattr(module, name, spy)
        run(*args)
    return int(spy.call_count)


@pytest.mark.parametrize("name", ["disease {}", "{} overlay", "{} - Copy"])
def test_the_work_grows_with_the_number_of_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    letters = [one + other for one in "abcdefgh" for other in "abcdefgh"]
    few, many = (
        tree(tmp_path / str(n), *(name.format(it) for it in letters[:n]), images=1) for n in (32, 64)
    )
    first, second = (calls(monkeypatch, folder_names, "words_of", read_index, it) for it in (few, many))
    assert second <= 2 * first


def test_the_work_on_changed_names_grows_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    names, files = ([f"p{n}/{name}" for n in range(64)] for name in ("1.0", "01.jpg"))
    assert changed_names(names, files) == dict(zip(names, files, strict=True))
    assert calls(monkeypatch, naming, "_folder", changed_names, names, files) <= 2 * 2 * 64


@pytest.mark.parametrize("name", ["to sort", "unsorted", "misc", "Others", "new"])
def test_a_folder_of_what_was_put_aside_is_a_class_and_is_said(tmp_path: Path, name: str) -> None:
    index = read_index(tree(tmp_path, "mel:9", "nv:9", f"{name}:2"))
    assert sizes(index)[name] == 2
    assert index.notes == (
        f"the folder '{name}' (2 images) is learnt as a class: if it is not one, move it out of the "
        "data folder",
    )
    assert read_index(tree(tmp_path, f"{name}:9")).notes == ()


# ------------------------------------------------------------------------------- masks, and other people's files


@pytest.mark.parametrize(
    "end",
    [
        "_segmentation.png", "_superpixels.png", "_mask.png", "_lesion.bmp", "-Mask.jpg", "_mask_1.png", ".mask.png",
        "(mask).png", "_segmented.png", "_binary.png", "_overlay.png", "_annotated.png", "_masked.png", "_label.png",
        "_heatmap.png",
    ],
)  # fmt: skip
def test_masks_beside_their_images_are_left_out_and_counted(tmp_path: Path, end: str) -> None:
    tree(tmp_path, "mel", "nv")
    masks = {f"{path.parent.name}/{path.stem}{end}": "mask" for path in tmp_path.rglob("*.jpg")}
    index = read_index(tree(tmp_path, files=masks))
    assert sizes(index) == {"mel": 3, "nv": 3}
    assert index.notes == (f"the folder holds 6 images that are masks of others (first: mel/i0{end}): left out",)
    assert index.unnamed == ()


@pytest.mark.parametrize("start", ["mask_", "Mask-"])
def test_masks_may_be_named_by_how_they_begin(tmp_path: Path, start: str) -> None:
    tree(tmp_path, "mel", "nv")
    masks = {f"{path.parent.name}/{start}{path.name}": "" for path in tmp_path.rglob("*.jpg")}
    index = read_index(tree(tmp_path, files=masks))
    assert sizes(index) == {"mel": 3, "nv": 3}
    assert "6 images that are masks of others" in index.notes[0]


def test_pictures_of_the_lesions_of_an_overview_are_no_masks(tmp_path: Path) -> None:
    files = {f"{cls}/p{n}{end}.jpg": f"{cls}{n}{end}" for cls in ("mel", "nv") for n in range(3)
             for end in ("", "_lesion_1", "_lesion_2")}  # fmt: skip
    assert sizes(read_index(tree(tmp_path, files=files))) == {"mel": 9, "nv": 9}


def pictures(root: Path, kinds: dict[str, bool], count: int = 4) -> Path:
    """Write pictures `i0`, ... of two classes in each format, noise or, if so told, masks of two values."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = root / ("mel" if number % 2 else "nv")
        path.mkdir(exist_ok=True, parents=True)
        for suffix, mask in kinds.items():
            pixels = generator.integers(0, 256, (48, 64, 3), np.uint8)
            if mask:
                pixels[:] = 0
                pixels[10:30, 20:40] = 255
            Image.fromarray(pixels).save(path / f"i{number}{suffix}")
    return root


@pytest.mark.parametrize(("kept", "other"), [(".jpg", ".png"), (".png", ".jpg")])
@pytest.mark.parametrize("more", [0, 4])
def test_masks_of_the_same_name_in_another_format(tmp_path: Path, kept: str, other: str, more: int) -> None:
    pictures(pictures(tmp_path, {kept: False}, 4 + more), {other: True})  # not every image needs a mask
    index = read_index(tmp_path)
    assert {Path(path).suffix for path in index.rows["path"]} == {kept}
    assert sizes(index) == {"mel": 2 + more / 2, "nv": 2 + more / 2}
    assert "4 images that are masks of others" in index.notes[0]


@pytest.mark.parametrize("end", ["mask.png", "Mask.jpg", "GT.png", "seg.jpg"])
@pytest.mark.parametrize("is_mask", [True, False])  # `seg` may be short for seguimiento, a follow-up
def test_a_word_of_masks_glued_to_a_name_is_believed_if_the_picture_is_one(
    tmp_path: Path, end: str, is_mask: bool
) -> None:
    index = read_index(pictures(tmp_path, {".jpg": False, end: is_mask}))
    assert sizes(index) == dict.fromkeys(("mel", "nv"), 2 if is_mask else 4)
    assert len(index.notes) == is_mask


def test_pictures_in_two_formats_are_taken_once_and_said(tmp_path: Path) -> None:
    for path in pictures(tmp_path, {".jpg": False}).rglob("*.jpg"):
        Image.open(path).save(path.with_suffix(".png"))
    index = read_index(tmp_path)
    assert sizes(index) == {"mel": 2, "nv": 2}
    assert index.notes == ("the folder holds 4 images beside one of the same name (first: mel/i1.png): left out",)
    assert index.unnamed == ()


@pytest.mark.parametrize("suffixes", [(".jpg", ".png"), (".jpg", ".jpeg"), (".jpg", ".jpeg", ".png")])
def test_other_pictures_of_the_same_names_in_another_format_are_images(
    tmp_path: Path, suffixes: tuple[str, ...]
) -> None:
    index = read_index(pictures(tmp_path, dict.fromkeys(suffixes, False)))
    assert sizes(index) == dict.fromkeys(("mel", "nv"), 2 * len(suffixes))
    assert index.notes == ()


def test_other_pictures_of_the_same_numbers_in_another_format_are_images(tmp_path: Path) -> None:
    index = read_index(pictures(pictures(tmp_path, {".jpg": False}, 8), {".png": False}))
    assert (sizes(index), index.notes) == ({"mel": 6, "nv": 6}, ())


def test_the_contours_of_dermis(tmp_path: Path) -> None:
    files = {f"melanoma/dermis/D{n}_{kind}": "" for n in range(3) for kind in ("orig.jpg", "contour.png")}
    files |= {f"notmelanoma/dermquest/N{n}_{kind}": "" for n in range(3) for kind in ("orig.jpg", "contour.png")}
    assert sizes(read_index(tree(tmp_path, files=files))) == {"melanoma": 3, "notmelanoma": 3}


def test_images_named_like_masks_without_their_images_are_images(tmp_path: Path) -> None:
    index = read_index(tree(tmp_path, files={"mel/p1_lesion.jpg": "", "nv/p2_lesion.jpg": ""}))
    assert sizes(index) == {"mel": 1, "nv": 1}


def test_a_name_that_ends_in_letters_of_masks_is_none_beside_others(tmp_path: Path) -> None:
    names = ("hu", "humask", *(f"{letter}seg" for letter in "abc"), "unmask", "remask")
    files = {f"{cls}/{cls}{name}.jpg": "" for cls in ("mel", "nv") for name in names}
    index = read_index(tree(tmp_path, files=files))
    assert (sizes(index), index.notes) == ({"mel": 7, "nv": 7}, ())


@pytest.mark.parametrize(
    "masks",
    [
        ("masks",), ("mel/masks", "nv/masks"), ("mel_mask", "nv_mask"), ("ground truth/mel", "ground truth/nv"),
        ("HAM10000_segmentations_lesion_tschandl",),
    ],
)  # fmt: skip
def test_folders_of_masks_are_no_classes(tmp_path: Path, masks: tuple[str, ...]) -> None:
    index = read_index(tree(tmp_path, "mel", "nv", *masks))
    assert sizes(index) == {"mel": 3, "nv": 3}
    assert f"the folder holds {3 * len(masks)} images that are masks of others" in index.notes[0]


@pytest.mark.parametrize(
    "masks", ["segmented", "label", "labels/{cls}", "Grad-CAM", "overlays", "{cls}_segmented", "{cls}/annotated"]
)
@pytest.mark.parametrize("name", ["{}.jpg", "{}.png", "{}_segmented.png", "overlay-{}.png"])
def test_folders_that_may_be_of_masks_are_if_their_files_are_named_like_the_images(
    tmp_path: Path, masks: str, name: str
) -> None:
    images = [(cls, f"{cls}{n}") for cls in ("mel", "nv") for n in range(3)]
    files = {f"{cls}/{image}.jpg": image for cls, image in images}
    files |= {f"{masks.format(cls=cls)}/{name.format(image)}": "mask" for cls, image in images}
    index = read_index(tree(tmp_path, files=files))
    assert sizes(index) == {"mel": 3, "nv": 3}
    assert "the folder holds 6 images that are masks of others" in index.notes[0]


@pytest.mark.parametrize("names", [("annotated", "unannotated"), ("annotated", "other"), ("binary", "multi")])
def test_parts_of_a_set_with_a_word_of_masks_and_images_of_their_own_are_read(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    index = read_index(tree(tmp_path, *(f"{name}/{cls}" for name in names for cls in ("mel", "nv"))))
    assert sizes(index) == {"mel": 6, "nv": 6}
    assert [note for note in index.notes if "masks" in note] == []


def test_one_set_in_two_classes_and_in_many_is_refused(tmp_path: Path) -> None:
    files = {f"{cls}/i{n}.jpg": "" for n in range(4) for cls in ("binary/benign", "multi/bkl", "multi/nv")}
    with pytest.raises(UserError, match="the folders binary, multi, and in them benign, bkl, nv: either may be"):
        read_index(tree(tmp_path, files=files))


@pytest.mark.parametrize(
    "names", [("binary", "multi"), ("masked face", "face"), ("segmented nevus", "nevus"), ("overlay", "mel")]
)
def test_a_class_with_a_word_of_masks_and_images_of_its_own_is_read_and_said(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    index = read_index(tree(tmp_path, *names))
    assert sizes(index) == dict.fromkeys(names, 3)
    assert index.notes[0].startswith(f"the folder '{names[0]}' (3 images) is learnt as a class")


def test_a_folder_that_was_taken_for_masks_is_read_under_the_advised_name(tmp_path: Path) -> None:
    files = {f"{cls}/{n}.jpg": cls for cls in ("masked face", "face") for n in "abc"}
    index = read_index(tree(tmp_path, files=files))
    assert index.notes[0].endswith("left out; if masked face holds others, rename it")
    (tmp_path / "masked face").rename(tmp_path / "covered face")
    assert sizes(read_index(tmp_path)) == {"covered face": 3, "face": 3}


@pytest.mark.parametrize("folder", ["annotated", "binary", "overlay"])
def test_a_table_names_images_in_a_folder_with_a_word_of_masks(tmp_path: Path, folder: str) -> None:
    rows = [f"i{n},{'mel' if n % 2 else 'nv'},L{n}" for n in range(6)]
    files = {f"{folder if n < 3 else 'images'}/i{n}.jpg": "" for n in range(6)}
    index = read_index(tree(tmp_path, files={"HAM10000_metadata.csv": table(HAM, *rows), **files}))
    assert (sizes(index), index.notes) == ({"mel": 3, "nv": 3}, ())


def test_images_that_a_table_names_in_folders_of_masks_are_said_to_be_there(tmp_path: Path) -> None:
    rows = [f"i{n},{'mel' if n % 2 else 'nv'},L{n}" for n in range(6)]
    files = {f"{'roi' if n < 2 else 'images'}/i{n}.jpg": "" for n in range(5)}
    tree(tmp_path, files={"HAM10000_metadata.csv": table(HAM, *rows), **files})
    what = "names 3 images that the folder lacks, 2 of them but for files in folders named like masks, such as roi"
    with pytest.raises(UserError, match=f"{what}: rename it if it holds the images"):
        read_index(tmp_path)
    (tmp_path / "roi").rename(tmp_path / "more")  # as the advice says
    assert len(read_index(tmp_path, allow_missing=True).rows) == 5


@pytest.mark.parametrize("above", ["segmented", "labels", "overlay"])
def test_a_folder_that_may_be_of_masks_holds_the_classes_if_there_is_no_other(tmp_path: Path, above: str) -> None:
    assert sizes(read_index(tree(tmp_path, f"{above}/mel", f"{above}/nv"))) == {"mel": 3, "nv": 3}


@pytest.mark.parametrize("names", [("label_1", "label_2"), ("label 0", "label 1"), ("binary a", "other b")])
def test_classes_with_a_word_of_masks_are_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert sizes(read_index(tree(tmp_path, *names))) == dict.fromkeys(names, 3)


def test_images_and_masks_side_by_side(tmp_path: Path) -> None:
    index = read_index(tree(tmp_path, "images/mel", "images/nv", "masks/mel", "masks/nv"))
    assert sizes(index) == {"mel": 3, "nv": 3}


@pytest.mark.parametrize("masks", ["masks", "HAM10000_segmentations_lesion_tschandl", "images/roi", "truth/a"])
@pytest.mark.parametrize("suffix", ["", ".jpg", ".png"])
def test_a_mask_does_not_stand_in_for_a_missing_picture(tmp_path: Path, masks: str, suffix: str) -> None:
    rows = [f"i{n}{suffix},{'mel' if n % 2 else 'nv'},L{n}" for n in range(6)]
    files = {f"images/i{n}.jpg": f"{n}" for n in range(4)} | {f"{masks}/i{n}.png": f"mask {n}" for n in range(2, 6)}
    tree(tmp_path, files={"HAM10000_metadata.csv": table(HAM, *rows), **files})
    with pytest.raises(UserError, match="names 2 images that the folder lacks"):
        read_index(tmp_path)
    index = read_index(tmp_path, allow_missing=True)
    assert [Path(path).suffix for path in index.rows["path"]] == [".jpg"] * 4


@pytest.mark.parametrize("named", ["{}", "{}.png", "masks/{}.png", "masks/{}"])
def test_a_folder_named_like_one_of_masks_holds_the_images_if_no_other_does(tmp_path: Path, named: str) -> None:
    rows = [f"{named.format(f'i{n}')},{'mel' if n % 2 else 'nv'},L{n}" for n in range(6)]
    files = {f"masks/i{n}.png": f"{n}" for n in range(6)} | {"docs/figure.png": ""}
    index = read_index(tree(tmp_path, files={"HAM10000_metadata.csv": table(HAM, *rows), **files}))
    assert sizes(index) == {"mel": 3, "nv": 3}


@pytest.mark.parametrize(
    "name", ["@eaDir", ".AppleDouble", "$RECYCLE.BIN", "__MACOSX", "lost+found", "Thumbs", "#recycle", ".thumbnails"]
)
def test_folders_of_systems_and_file_servers_are_passed_over(tmp_path: Path, name: str) -> None:
    index = read_index(tree(tmp_path, "mel", "nv", f"{name}/mel", f"mel/{name}", f"mel/{name}/i0.jpg"))
    assert (sizes(index), index.notes) == ({"mel": 3, "nv": 3}, ())


def test_a_hidden_file_or_one_with_two_dots_at_the_end_of_its_name_is_no_image(tmp_path: Path) -> None:
    files = dict.fromkeys(("a.jpg", "b.JPG", "é.png", ".jpg", ".c.jpg", "d..jpg"), "")
    folder = Folder(tree(tmp_path, files=files))
    assert (folder.images, folder.others) == ({"a.jpg", "b.JPG", "é.png"}, ["d..jpg"])


def test_many_names_are_found_as_one_by_one(tmp_path: Path) -> None:
    folder = Folder(tree(tmp_path, files={"one/a.jpg": "a", "one/b.jpg": "b", "two/b.png": "b"}))
    assert folder.find_all(["b", "none", "a"]) == [folder.find("b"), None, "one/a.jpg"]
    assert folder.find_all(["b.png", "one/b", "a"]) == ["two/b.png", "one/b.jpg", "one/a.jpg"]


# --------------------------------------------------------------------------------- tables beside class folders


def table(head: str, *rows: str) -> str:
    return "\n".join([head, *rows, ""])


def test_a_table_that_tells_lesions_groups_the_images_of_class_folders(tmp_path: Path) -> None:
    rows = [f"i{n}.jpg,{30 + n},P{n // 2}" for n in range(5)]
    index = read_index(tree(tmp_path, "mel", "nv", files={"people.csv": table("file,age,patient_id", *rows)}))
    assert index.rows["group"].tolist() == ["P0", "P0", "P1", "P1", "P2", "nv/i5.jpg"]
    assert index.notes[0] == "people.csv tells lesions and patients; the classes are the folders'"


@pytest.mark.parametrize(
    ("diagnosis", "classes"),
    [("dx", "ab"), ("diagnose", "ab"), ("verdict", ["bcc", "nevus"]), ("verdict", ["a", "ffl"])],
)
def test_a_table_that_names_the_images_and_contradicts_their_folders_is_not_passed_over(
    tmp_path: Path, diagnosis: str, classes: Sequence[str]
) -> None:
    rows = [f"i{n},{classes[n % 2]},{30 + n}" for n in range(6)]
    tree(tmp_path, "FFL", "NEL", files={"meta/meta.csv": table(f"image,{diagnosis},age", *rows)})
    with pytest.raises(UserError, match=f"its column {diagnosis} contradicts the folders") as error:
        read_index(tmp_path)
    if diagnosis == "dx":
        assert sizes(read_index(tmp_path, labels=advised(error.value)["labels"])) == {"a": 3, "b": 3}
    (tmp_path / "meta/meta.csv").unlink()  # as the advice says
    assert read_index(tmp_path).classes == ("FFL", "NEL")


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("image,dx", "{i},{mel}"), ("id,malignant", "{i},{one}"), ("image,sex,site", "{i},{odd},{odd}"),
        ("a,b", "x,{one}"), ("image,mel,nv", "{i},{one},{zero}"), ("image,copyright,number", "{i},CC0,{i}"),
        ("image,Geschlecht,body_part,hospital", "{i},{odd},{odd},{odd}"),
    ],
)  # fmt: skip
def test_a_table_that_agrees_or_says_other_things_is_left_alone(tmp_path: Path, head: str, row: str) -> None:
    values = [
        {"i": f"i{n}", "mel": "Melanoma" if n < 3 else "Nevus", "one": int(n < 3), "zero": int(n > 2), "odd": n % 2}
        for n in range(6)
    ]
    rows = [row.format(**it) for it in values]
    index = read_index(tree(tmp_path, "A", "B", files={"t.csv": table(head, *rows)}))
    assert sizes(index) == {"A": 3, "B": 3}
    assert index.notes == ("the table t.csv is not used (--labels names one)",)


def test_a_contradiction_is_shown_by_a_row_that_is_wrong(tmp_path: Path) -> None:
    rows = [f"i{n},{'nv' if n == 2 or n > 4 else 'mel'}" for n in range(10)]
    tree(tmp_path, "mel:5", "nv:5", files={"t.csv": table("image,dx", *rows)})
    with pytest.raises(UserError, match=r"\(mel/i2.jpg is nv and lies in mel\)"):
        read_index(tmp_path)


@pytest.mark.parametrize("diagnosis", ["Diagnose", "diagnosi", "Diagnóstico"])
def test_a_diagnosis_in_another_language_beside_one_folder_is_seen(tmp_path: Path, diagnosis: str) -> None:
    rows = [f"P{n // 2},i{n},{'mel' if n < 4 else 'nv'}" for n in range(8)]
    tree(tmp_path, "haut:8", files={"liste.csv": table(f"Patienten-Nr.,image_id,{diagnosis}", *rows)})
    with pytest.raises(UserError, match=f"column {diagnosis.lower()} gives several classes"):
        read_index(tmp_path)


def test_one_folder_of_images_beside_a_table_of_their_classes_is_no_class(tmp_path: Path) -> None:
    rows = [f"L{n // 2},i{n},{'mel' if n < 4 else 'nv'}" for n in range(8)]
    tree(tmp_path, "p1:8", files={"metadata of p1.csv": table("lesion_id,image_id,dx", *rows)})
    with pytest.raises(UserError, match="column dx gives several classes, but there is one class folder") as error:
        read_index(tmp_path)
    option = re.search(r"--labels '([^']+)' tells", str(error.value))
    assert option is not None
    assert sizes(read_index(tmp_path, labels=Path(option[1]))) == {"mel": 4, "nv": 4}


def test_one_folder_of_images_beside_a_table_without_column_names_is_no_class(tmp_path: Path) -> None:
    rows = [f"{('train', 'val', 'test')[n % 3]},i{n}.jpg,{n // 4}" for n in range(8)]
    with pytest.raises(UserError, match="a table image,label,group named with --labels tells the classes"):
        read_index(tree(tmp_path, "dermamnist:8", files={"dermamnist.csv": table(*rows)}))


@pytest.mark.parametrize("head", ["image,patient_id", "image,age", "image,dx"])
def test_one_class_folder_beside_a_table_of_other_things_is_a_class(tmp_path: Path, head: str) -> None:
    rows = [f"i{n},{'mel' if head.endswith('dx') else n // 2}" for n in range(8)]
    assert sizes(read_index(tree(tmp_path, "mel:8", files={"t.csv": table(head, *rows)}))) == {"mel": 8}


@pytest.mark.parametrize(("train", "name"), [("train", "train.csv"), ("train_images", "train_labels.csv")])
@pytest.mark.parametrize("letters", [("", ""), ("a", "b")])
def test_the_advice_for_a_contest_reads_the_table_of_the_training_images(
    tmp_path: Path, train: str, name: str, letters: tuple[str, str]
) -> None:
    files = {f"{train}/{letters[0]}{n}.jpg": f"train {n}" for n in range(12)}
    files |= {f"test/{letters[1]}{n}.jpg": f"test {n}" for n in range(6)}
    tree(tmp_path, files=files)
    rows = [f"{letters[0]}{n},{'mel' if n % 2 else 'nv'},P{n // 2}" for n in range(12)]
    asked = [f"{letters[1]}{n}" for n in range(6)]
    tables = {name: table("id,label,patient_id", *rows), "test.csv": table("id", *asked)}
    tree(tmp_path, files={**tables, "sample_submission.csv": table("id,label", *(f"{it},mel" for it in asked))})
    with pytest.raises(UserError, match="is of no known layout") as error:
        read_index(tmp_path)
    option = re.search(r"--labels (\S+) reads its table", str(error.value))
    assert option is not None
    index = read_index(tmp_path, labels=Path(option[1]))
    assert {Path(path).parent.name for path in index.rows["path"]} == {train}
    assert sizes(index) == {"mel": 6, "nv": 6}


HAM = "image_id,dx,lesion_id"


def test_a_known_table_with_the_classes_of_the_folders_is_taken_for_its_lesions(tmp_path: Path) -> None:
    rows = [f"i{n},{'mel' if n < 3 else 'nv'},L{n // 2}" for n in range(6)]
    index = read_index(tree(tmp_path, "Melanoma", "Nevus", files={"HAM10000_metadata.csv": table(HAM, *rows)}))
    assert (index.layout, sizes(index)) == ("HAM10000", {"mel": 3, "nv": 3})
    assert index.rows["group"].tolist() == ["L0", "L0", "L1", "L1", "L2", "L2"]


def test_split_folders_beside_a_known_table_keep_their_splits(tmp_path: Path) -> None:
    rows = [f"i{n},{'nv' if n // 3 % 2 else 'mel'},L{n}" for n in range(12)]
    folders = ("train/mel", "train/nv", "test/mel", "test/nv")
    index = read_index(tree(tmp_path, *folders, files={"HAM10000_metadata.csv": table(HAM, *rows)}))
    assert sizes(index) == {"train/mel": 3, "train/nv": 3, "test/mel": 3, "test/nv": 3}
    assert index.rows["group"][0] == "L0"


@pytest.mark.parametrize("left", [12, 10])
def test_split_folders_of_copies_keep_their_splits(tmp_path: Path, left: int) -> None:
    files = {f"HAM10000_images_part_{1 + n % 2}/i{n}.jpg": str(n) for n in range(12)}
    folders = [f"{('train', 'val')[n // 8]}/{('mel', 'nv')[n % 2]}" for n in range(left)]
    files |= {f"{folder}/i{n}.jpg": str(n) for n, folder in enumerate(folders)}
    rows = [f"i{n},{('mel', 'nv')[n % 2]},L{n // 4}" for n in range(12)]
    index = read_index(tree(tmp_path, files={**files, "HAM10000_metadata.csv": table(HAM, *rows)}))
    rest = {"mel": 1, "nv": 1} if left < 12 else {}
    assert sizes(index) == {name: folders.count(name) for name in folders} | rest
    assert index.rows["group"].nunique() == 3
    assert f"the folder holds {left} images twice: one copy of each is used" in index.notes


def test_folders_that_contradict_a_known_table_are_refused_and_the_advice_works(tmp_path: Path) -> None:
    rows = [f"i{n},{'mel' if n < 2 else 'nv'},L{n}" for n in range(6)]
    tree(tmp_path, "mel", "nv", files={"HAM10000_metadata.csv": table(HAM, *rows)})
    with pytest.raises(UserError, match=r"disagree \(mel/i2.jpg is nv in the table\)") as error:
        read_index(tmp_path)
    index = read_index(tmp_path, labels=advised(error.value)["labels"])
    assert (sizes(index), index.rows["group"][0]) == ({"mel": 2, "nv": 4}, "L0")
    (tmp_path / "HAM10000_metadata.csv").unlink()
    assert sizes(read_index(tmp_path)) == {"mel": 3, "nv": 3}


def test_a_known_table_of_few_of_the_images_in_class_folders_is_not_taken_alone(tmp_path: Path) -> None:
    files = {"HAM10000_metadata.csv": table(HAM, "i0,mel,L0", "i3,nv,L1")}
    with pytest.raises(UserError, match="names only 2 of the 6 images"):
        read_index(tree(tmp_path, "mel", "nv", files=files))


def test_folders_that_merely_hold_the_images_of_a_table_do_not_matter(tmp_path: Path) -> None:
    rows = [f"i{n},{'mel' if n % 2 else 'nv'},L{n}" for n in range(6)]
    index = read_index(tree(tmp_path, "vienna", "graz", files={"HAM10000_metadata.csv": table(HAM, *rows)}))
    assert (sizes(index), index.notes) == ({"mel": 3, "nv": 3}, ())


def test_folders_of_fewer_classes_than_the_table_are_said(tmp_path: Path) -> None:
    rows = [f"i{n},{('nv', 'bkl', 'mel', 'bcc')[n // 3]},L{n}" for n in range(12)]
    files = {"HAM10000_metadata.csv": table(HAM, *rows)}
    index = read_index(tree(tmp_path, "benign:6", "malignant:6", files=files))
    assert index.classes == ("bcc", "bkl", "mel", "nv")
    assert index.notes[0].startswith("the folders benign, malignant tell fewer classes than HAM10000_metadata.csv")


# ------------------------------------------------------------------------------------------------ --group-by


def photos(root: Path) -> Path:
    names = ("mel/P1_a", "mel/P1_b", "mel/P2_a", "nv/P2_b", "nv/P3_a", "nv/scan")
    return tree(root, files={f"{name}.jpg": "" for name in names})


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        (r"(P\d+)_", ["P1", "P1", "P2", "P2", "P3", "nv/scan.jpg"]),
        (r"P\d+", ["P1", "P1", "P2", "P2", "P3", "nv/scan.jpg"]),
        (r"^(\w+)/(P\d+)", ["mel/P1", "mel/P1", "mel/P2", "nv/P2", "nv/P3", "nv/scan.jpg"]),
        (r"/(P\d+)?", ["P1", "P1", "P2", "P2", "P3", "nv/scan.jpg"]),
    ],
)
def test_group_by_finds_the_patient_in_the_path(tmp_path: Path, pattern: str, groups: list[str]) -> None:
    index = read_index(photos(tmp_path), group_by=pattern)
    assert index.rows["group"].tolist() == groups
    found = len(set(groups)) - 1
    assert index.notes[-1] == (
        f"--group-by finds {found} lesions or patients; 1 image without a match (first: nv/scan.jpg) keep the group "
        "that they had"
    )


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(P", "is no regular expression"), ("X9", "matches no path of an image, such as mel/P1_a.jpg"),
     ("()", "matches no path"), (r"jpg$", "finds 'jpg' in the path of every image")],
)  # fmt: skip
def test_expressions_that_tell_nothing_are_refused(tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_index(photos(tmp_path), group_by=pattern)
    assert "\n" not in str(error.value)


def test_group_by_keeps_the_lesions_of_a_table_together(tmp_path: Path) -> None:
    rows = [f"i{n},{'mel' if n % 2 else 'nv'},{lesion}" for n, lesion in enumerate(("L1", "", "L1", "", ""))]
    tree(tmp_path, files={"HAM10000_metadata.csv": table(HAM, *rows)})
    tree(tmp_path, files={f"{day}/i{n}.jpg": "" for n, day in enumerate(("d1", "d1", "d2", "d2", "d3"))})
    index = read_index(tmp_path, group_by=r"^(d[12])/")
    assert index.rows["group"].tolist() == ["d1", "d1", "d1", "d1", "i4"]


# ------------------------------------------------------------------------------------------- altered copies


def copies_of(root: Path, *names: str, folder: str = "") -> Index:
    """Make class folders with `name0.jpg`, ... under each of some patterns (`{}_flip.jpg`), and read them."""
    files = {f"{folder}{cls}/{name.format(f'{cls}{n}')}": f"{cls}{n}{name}"
             for cls in ("mel", "nv") for n in range(8) for name in names}  # fmt: skip
    return read_index(tree(root, files=files))


ROBOFLOW = "{}_jpg.rf.0123456789abcdef0123456789abcde"
UUID = "01234567-89ab-cdef-0123-456789abcde"


@pytest.mark.parametrize(
    "names",
    [
        ("{}.jpg", "{}_flip.jpg", "{}_rot90.jpg", "{}_rot15.jpg", "{}_crop.jpg", "{}_bright.jpg"),
        ("{}.jpg", "{}_aug1.jpg", "{}_aug2.jpg"),
        ("{}.jpg", "aug_0_{}.jpg", "Flipped-{}.jpg"),
        ("{}.jpg", "{}_rotated_90.jpg"),
        ("{}.jpg", "{}_thumb.jpg", "{}_resized.jpg"),
        ("{}.jpg", "{}_horizontal_flip_bright1.5.jpg", "{}(mirrored).jpg", "{} blur.jpg", "{}_zoom2.jpg"),
        ("{}_hflip.jpg", "{}_vflip.jpg"),
        ("{}.jpg", "{}_hue.jpg", "{}_gamma_1.5.jpg", "{}_sharpened.jpg", "{}_elastic.jpg", "{}_gaussian_noise.jpg"),
        ("{}.jpg", "{}_color_jitter.jpg", "{}_cutout.jpg", "{}-transformed_1.jpg", "{}_saturation.jpg"),
        ("{}_translated.jpg", "{}_scaled.jpg", "{}_sp_noise.jpg"),
        ("{}.JPG", f"output/a_original_{{}}.JPG_{UUID}0.jpg", f"output/a_original_{{}}.JPG_{UUID}1.jpg"),
        (f"_b_original_{{}}.png_{UUID}0.png", f"_b_original_{{}}.png_{UUID}1.png"),
        (f"{ROBOFLOW}0.jpg", f"{ROBOFLOW}1.jpg", f"{ROBOFLOW}2.jpg"),
    ],
)
def test_altered_copies_stay_with_their_original_and_are_said(tmp_path: Path, names: tuple[str, ...]) -> None:
    index = copies_of(tmp_path, *names)
    groups = index.rows.groupby("group")["image"].agg(list)
    assert groups.map(len).tolist() == [len(names)] * 16
    assert all(len({re.findall("(?:mel|nv)[0-9]", image)[0] for image in images}) == 1 for images in groups)
    (note,) = index.notes
    assert note.startswith(f"{16 * (len(names) - 1)} images are named like altered copies of others (first: mel/")
    assert index.warnings[0].startswith("no lesion or patient is known")


@pytest.mark.parametrize(
    "names",
    [
        ("{} (1).jpg", "{} - Copy.jpg", "{}_1.jpg", "{}.jpg"),
        ("{}_carrot.jpg", "{}_rotten.jpg"),
        ("{}.jpg", "{}_scale.jpg", "{}_sharp.jpg", "{}_original.jpg"),
        ("face_crop_{}.jpg", "crop_{}.jpg"),  # each with a number of its own
    ],
)
def test_images_that_are_merely_numbered_or_described_stay_apart(tmp_path: Path, names: tuple[str, ...]) -> None:
    index = copies_of(tmp_path, *names)
    assert index.rows["group"].nunique() == len(index.rows)
    assert index.notes == ()


@pytest.mark.parametrize(
    "names",
    [
        [f"cropped_{patient}_{n}" for patient in range(12) for n in (1, 2, 3)],
        [f"crop_{patient}_{n}" for patient in range(12) for n in (1, 2, 3)] + [str(n) for n in range(1, 20)],
        [f"crop_{patient}_i{n}" for patient in range(30) for n in (1, 2)] + ["i1", "i2"],
        [f"P{patient}_crop_{n}" for patient in range(12) for n in (1, 2, 3)],
        [f"P{n}" for n in range(20)] + [f"site{site}_crop_{n:03}" for site in (1, 2) for n in range(4)],
        [f"{year}-mel-crop-{n}" for year in (2019, 2020, 2021) for n in range(8)],
        [f"site{site}_zoom{n}" for site in (1, 2) for n in range(8)],
        [f"site{site}_aug_{n}" for site in (1, 2) for n in range(40)],
        [f"aug_{day}_2021" for day in range(1, 9)],
        [f"{day:02}-aug-{year}" for day in range(1, 9) for year in (2019, 2020, 2021)] + ["01", "02"],
        [f"{day}_{month}_2021_{n}" for month in ("jul", "aug") for day in (1, 2, 3) for n in range(3)],
        [f"{day}_aug_{n}" for day in (1, 2, 3) for n in range(3)],
        [f"2021-aug-{day:02}" for day in range(1, 9)],
        [f"aug2021_{n}" for n in range(4)] + [f"aug2020_{n}" for n in range(4)] + [str(n) for n in range(4)],
    ],
    ids=lambda names: names[0],
)
def test_words_with_numbers_of_patients_sites_and_days_join_none(tmp_path: Path, names: list[str]) -> None:
    files = {f"{cls}/{name}.jpg": f"{cls}{name}" for cls in ("mel", "nv") for name in names}
    index = read_index(tree(tmp_path, files=files))
    assert index.rows["group"].nunique() == len(index.rows) == 2 * len(names)
    assert not any("stay together" in note for note in index.notes)
    many = names[0] in ("crop_0_i1", "site1_aug_0")  # 30 and 40 of one name
    assert any("more than 20 images are named like copies of one" in note for note in index.notes) == many


def test_altered_copies_of_one_original_are_together_where_others_have_none(tmp_path: Path) -> None:
    names = [f"a1_aug_{n}" for n in range(30)] + [f"a2_aug_{n}" for n in range(5)]
    names += ["a1", "a3_flip_rot90", "a3_flip"]
    index = read_index(tree(tmp_path, files={f"{cls}/{name}.jpg": f"{cls}{name}" for cls in "bm" for name in names}))
    assert index.rows.groupby("group").size().tolist() == [31, 5, 2] * 2


@pytest.mark.parametrize(
    ("lesions", "groups"),
    [
        (("L1", "L2", ""), ["L1", "L2", "L1"]),
        (("L1", "", "L2"), ["L1", "L1", "L2"]),
        (("", "L1", "L2"), ["i0", "L1", "L2"]),
        (("", "L1", "L1"), ["L1", "L1", "L1"]),
    ],
)
def test_altered_copies_join_no_two_known_lesions(
    tmp_path: Path, lesions: tuple[str, ...], groups: list[str]
) -> None:
    names = ("i0", "i0_flip", "i0_rot90", "i1", "i2")
    rows = [f"{name},mel,{lesion}" for name, lesion in zip(names, (*lesions, "L1", "L2"), strict=True)]
    tree(tmp_path, files={"HAM10000_metadata.csv": table(HAM, *rows), **{f"{name}.jpg": "" for name in names}})
    assert read_index(tmp_path).rows["group"].tolist() == [*groups, "L1", "L2"]


def test_one_name_in_two_folders_is_of_two_images(tmp_path: Path) -> None:
    files = {f"{cls}/{patient}/1{kind}.jpg": f"{cls}{patient}{kind}"
             for cls in ("mel", "nv") for patient in "ab" for kind in ("", "_flip")}  # fmt: skip
    groups = read_index(tree(tmp_path, files=files)).rows.groupby("group")["image"].agg(list)
    assert groups.tolist() == [[f"{it}/1.jpg", f"{it}/1_flip.jpg"] for it in ("mel/a", "mel/b", "nv/a", "nv/b")]


def test_copies_that_augmentor_wrote_are_of_the_image_in_the_folder_above(tmp_path: Path) -> None:
    files = {f"{split}/{cls}/{name}": f"{split}{cls}{name}" for split in ("train", "test") for cls in ("mel", "nv")
             for name in ("1.jpg", "2.jpg", f"output/{cls}_original_1.jpg_{UUID}0.jpg")}  # fmt: skip
    groups = read_index(tree(tmp_path, files=files)).rows.groupby("group")["image"].agg(list)
    assert sorted(map(len, groups)) == [1] * 4 + [2] * 4
    assert ["test/mel/1.jpg", f"test/mel/output/mel_original_1.jpg_{UUID}0.jpg"] in groups.tolist()


def test_altered_copies_in_another_split_are_a_leak(tmp_path: Path) -> None:
    files = {f"{split}/{cls}/{cls}{n}{end}.jpg": f"{split}{cls}{n}" for cls in ("mel", "nv") for n in range(3)
             for split, end in (("train", ""), ("test", "_rot90"))}  # fmt: skip
    found = leaks(read_index(tree(tmp_path, files=files)).rows)
    assert len(found) == 6
    assert found[0].images == ("test/mel/mel0_rot90.jpg", "train/mel/mel0.jpg")


def test_altered_copies_join_the_lesion_that_a_table_tells(tmp_path: Path) -> None:
    rows = [f"i{n},{'mel' if n < 3 else 'nv'},{lesion}" for n, lesion in enumerate(("L1", "L1", "", "L2", "L3", ""))]
    rows += ["i0_flip,mel,", "i2_flip,mel,", "i3_flip,nv,L2"]
    images = {f"{row.split(',')[0]}.jpg": "" for row in rows}
    index = read_index(tree(tmp_path, files={"HAM10000_metadata.csv": table(HAM, *rows), **images}))
    groups = dict(zip(index.rows["image"], index.rows["group"], strict=True))
    assert groups["i0"] == groups["i1"] == groups["i0_flip"]
    assert groups["i2"] == groups["i2_flip"]
    assert groups["i3"] == groups["i3_flip"] == "L2"
    assert index.rows["group"].nunique() == 5


def test_a_folder_of_one_class_names_the_folder_above(tmp_path: Path) -> None:
    root = tree(tmp_path, "my set/mel:9", "my set/nv:9")
    with pytest.raises(UserError, match="if 'mel' is itself a class, name the folder above it") as error:
        read_index(root / "my set" / "mel")
    advised = re.search(r"--data '([^']*)'", str(error.value))
    assert advised is not None
    assert read_index(Path(advised[1])).classes == ("mel", "nv")
