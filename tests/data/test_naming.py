"""A table's row is the row of the image that it names, and of no other that is called alike."""

from __future__ import annotations

from pathlib import Path

from skin.data.index import Index
from skin.data.layouts import read_index
from skin.data.naming import Images
from skin.utils.errors import UserError

import pandas as pd
import pytest


def touched(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def groups_of(index: Index) -> dict[str, str]:
    return dict(zip(index.rows["image"], index.rows["group"], strict=True))


def table(root: Path, text: str, name: str = "clinic.csv") -> Path:
    (root / name).write_text(text.replace(" ", "\n"))
    return root


def test_files_that_are_called_alike_in_each_class_have_their_own_patients(tmp_path: Path) -> None:
    touched(tmp_path, "mel/001.jpg", "mel/002.jpg", "nv/001.jpg", "nv/002.jpg")
    table(tmp_path, "image,patient_id mel/001.jpg,a nv/001.jpg,b mel/002.jpg,a nv/002.jpg,c")
    index = read_index(tmp_path)
    assert groups_of(index) == {"mel/001.jpg": "a", "mel/002.jpg": "a", "nv/001.jpg": "b", "nv/002.jpg": "c"}
    assert read_index(tmp_path, group_column="patient_id").rows["group"].equals(index.rows["group"])


@pytest.mark.parametrize("before", ["train/", "C:\\\\photos\\\\train\\\\", "/home/me/set/train/"])
def test_a_row_is_that_of_the_file_whose_folders_agree_the_most(tmp_path: Path, before: str) -> None:
    names = [f"{split}/{cls}/1.jpg" for split in ("train", "test") for cls in ("mel", "nv")]
    touched(tmp_path, *names)
    rows = [f"{name.replace('train/', before)},p{n}" for n, name in enumerate(names)]
    table(tmp_path, " ".join(["file,person", *rows]))
    assert groups_of(read_index(tmp_path, group_column="person")) == {name: f"p{n}" for n, name in enumerate(names)}


def test_a_name_that_several_files_have_tells_nothing_of_them(tmp_path: Path) -> None:
    touched(tmp_path, "mel/001.jpg", "nv/001.jpg", "mel/2.jpg", "nv/3.jpg")
    table(tmp_path, "image,patient_id 001,a 2,b 3,b")
    index = read_index(tmp_path)
    assert list(groups_of(index).items()) == [
        ("mel/001.jpg", "mel/001.jpg"), ("mel/2.jpg", "b"), ("nv/001.jpg", "nv/001.jpg"), ("nv/3.jpg", "b"),
    ]  # fmt: skip
    said = "clinic.csv names '001', which may be mel/001.jpg or nv/001.jpg: it tells no lesion or patient"
    assert index.warnings[0].startswith(said)
    said = r"--group-column patient_id: clinic.csv names '001', .* write the path of each image into the table"
    with pytest.raises(UserError, match=said):
        read_index(tmp_path, group_column="patient_id")


def test_copies_of_one_class_in_two_splits_have_the_row_of_their_name(tmp_path: Path) -> None:
    touched(tmp_path, "train/mel/m1.jpg", "test/mel/m1.jpg", "train/nv/n1.jpg", "test/nv/n2.jpg")
    table(tmp_path, "image,patient_id m1,a n1,b n2,b")
    index = read_index(tmp_path)
    assert index.rows["group"].tolist() == ["a", "b", "a", "b"]
    assert read_index(tmp_path, group_column="patient_id").rows["group"].tolist() == ["a", "b", "a", "b"]
    assert not any("which may be" in warning for warning in index.warnings)


def test_a_table_of_patients_alone_is_no_table_of_images(tmp_path: Path) -> None:
    touched(tmp_path, *(f"{cls}/{n}.jpg" for cls in ("mel", "nv") for n in range(40)))
    table(tmp_path, " ".join(["patient_id,age,visits", *(f"P{n},{20 + n},{n % 3}" for n in range(9))]))
    (warning,) = read_index(tmp_path).warnings
    assert warning.startswith("no lesion or patient is known")


def test_images_may_be_called_by_their_lesion(tmp_path: Path) -> None:
    touched(tmp_path, "mel/L1.jpg", "mel/L2.jpg", "nv/L3.jpg")
    table(tmp_path, "lesion_id,patient_id L1,a L2,a L3,b")
    assert list(groups_of(read_index(tmp_path)).values()) == ["a", "a", "b"]


def test_two_columns_of_numbers_may_name_two_pictures_of_one_lesion(tmp_path: Path) -> None:
    names = [f"{('mel', 'nv')[n % 2]}/{n}.jpg" for n in range(1, 21)]
    touched(tmp_path, *names)
    table(tmp_path, " ".join(["lesion_id,clinic,derm", *(f"L{n},{n},{n + 10}" for n in range(1, 11))]))
    known = groups_of(read_index(tmp_path))
    assert known == {name: f"L{(n - 1) % 10 + 1}" for n, name in enumerate(names, start=1)}


@pytest.mark.parametrize("names", ["1 2 3", "1.0 2.0 3.0"])
def test_numbers_that_a_spreadsheet_has_changed_name_the_images_of_class_folders(tmp_path: Path, names: str) -> None:
    touched(tmp_path, "mel/0001.jpg", "mel/0002.jpg", "nv/0003.jpg")
    one, two, three = names.split()
    table(tmp_path, f"image,age,patient_id {one},1,a {two},2,a {three},3,b")
    index = read_index(tmp_path)
    assert list(groups_of(index).values()) == ["a", "a", "b"]
    said = f"clinic.csv names images otherwise than their files are called: '{one}' is taken for mel/0001.jpg"
    assert said in index.warnings
    named = read_index(tmp_path, group_column="age")
    assert list(groups_of(named).values()) == ["1", "2", "3"]
    assert "is taken for mel/0001.jpg" in named.notes[-1]


def test_a_word_for_an_unknown_patient_is_said(tmp_path: Path) -> None:
    touched(tmp_path, *(f"{cls}/{cls}{n}.jpg" for cls in ("mel", "nv") for n in range(3)))
    table(tmp_path, "image,patient_id mel0,p mel1,unknown mel2,unknown nv0,q nv1,unknown nv2,r")
    index = read_index(tmp_path)
    assert index.rows["group"].nunique() == 6
    assert "'unknown' is the lesion or patient of 3 of 6 images" in index.warnings[0]


def test_two_tables_and_two_rows_join_what_they_tell(tmp_path: Path) -> None:
    touched(tmp_path, *(f"{cls}/{cls}{n}.jpg" for cls in ("mel", "nv") for n in range(3)))
    table(tmp_path, "image,patient_id mel0,p mel1,p mel2,q nv0,r nv1,s nv2,t nv2,s", "patients.csv")
    table(tmp_path, "image,lesion_id mel1,x mel2,x nv0,y nv1,z", "lesions.csv")
    groups = read_index(tmp_path).rows["group"]
    assert groups[:3].nunique() == 1
    assert groups[4] == groups[5] != groups[3]
    assert groups.nunique() == 3


def test_many_folders_of_the_same_names_are_looked_up_at_once() -> None:
    paths = [f"{folder}/{n}.jpg" for folder in range(10_000) for n in range(3)]
    images = Images(paths)
    about = images.rows_of(pd.DataFrame({"image": [f"elsewhere/{path}" for path in paths]}), "t.csv")
    assert about is not None
    assert about.rows["_image"].tolist() == paths


def test_a_path_beside_the_name_makes_it_clear(tmp_path: Path) -> None:
    touched(tmp_path, "mel/I1.jpg", "nv/I1.jpg")
    table(tmp_path, "image,path,person I1,mel/I1.jpg,a I1,nv/I1.jpg,b")
    assert groups_of(read_index(tmp_path, group_column="person")) == {"mel/I1.jpg": "a", "nv/I1.jpg": "b"}


def test_ages_are_no_names_of_images(tmp_path: Path) -> None:
    names = [f"{('mel', 'nv')[n % 2]}/{n}.jpg" for n in range(1, 41)]
    touched(tmp_path, *names)
    rows = [f"{n},P{n // 4},{20 + 7 * n % 30}" for n in range(1, 41)]
    table(tmp_path, " ".join(["image,patient_id,age", *rows]))
    known = groups_of(read_index(tmp_path))
    assert known == {name: f"P{n // 4}" for n, name in enumerate(names, start=1)}


@pytest.mark.parametrize("image", ["image", "photo"])
def test_the_row_numbers_of_pandas_are_no_names_of_images(tmp_path: Path, image: str) -> None:
    names = [f"{('mel', 'nv')[n % 2]}/{n}.jpg" for n in range(20)]
    touched(tmp_path, *names)
    shuffled = [7 * n % 20 for n in range(20)]
    rows = [f"{row},{n},{('mel', 'nv')[n % 2]},P{n // 4}" for row, n in enumerate(shuffled)]
    table(tmp_path, " ".join([f",{image},dx2,patient_id", *rows]))
    index = read_index(tmp_path, label_column="dx2", group_column="patient_id")
    assert groups_of(index) == {name: f"P{n // 4}" for n, name in enumerate(names)}
    assert [name.split("/")[0] for name in index.rows["image"]] == index.rows["label"].tolist()


def test_a_row_may_name_two_pictures_of_one_lesion(tmp_path: Path) -> None:
    touched(tmp_path, "mel/a1.jpg", "mel/a2.jpg", "nv/b1.jpg", "nv/b2.jpg")
    table(tmp_path, "clinic,derm,lesion_id a1,a2,x b1,b2,y")
    assert list(groups_of(read_index(tmp_path)).values()) == ["x", "x", "y", "y"]


def test_each_split_has_its_own_table_and_a_blank_is_no_class(tmp_path: Path) -> None:
    names = [f"{split}/{n}.jpg" for split in ("train", "test") for n in range(4)]
    touched(tmp_path, *names)
    for split, blank in (("train", False), ("test", True)):
        classes = [f"c{n % 2}" for n in range(4)]
        rows = [f"{n}.jpg,{cls},{'' if blank else cls},{split}{n // 2}" for n, cls in enumerate(classes)]
        table(tmp_path / split, " ".join(["file_name,label,reviewed,person", *rows]), "metadata.csv")
    with pytest.raises(UserError, match=r"4 rows without a class \(first: test/0.jpg\)"):
        read_index(tmp_path, label_column="reviewed")
    known = groups_of(read_index(tmp_path, group_column="person"))
    assert known == {f"{split}/{n}.jpg": f"{split}{n // 2}" for split in ("train", "test") for n in range(4)}


def test_patients_of_one_split_are_not_those_of_files_called_alike_in_another(tmp_path: Path) -> None:
    for name in (f"{split}/{n}.jpg" for split in ("train", "test") for n in range(12)):
        (touched(tmp_path, name) / name).write_text(name)
    table(tmp_path, " ".join(["image,label", *(f"{n},{('mel', 'nv')[n % 2]}" for n in range(12))]), "train.csv")
    table(tmp_path, " ".join(["image,label,patient_id", *(f"{n},mel,test{n // 4}" for n in range(12))]), "test.csv")
    index = read_index(tmp_path, labels=tmp_path / "train.csv")
    assert index.rows["group"].equals(index.rows["image"])
    assert index.warnings[0].startswith("no lesion or patient is known")
    table(tmp_path, " ".join(["image,patient_id", *(f"{n},train{n // 4}" for n in range(12))]), "train_meta.csv")
    known = groups_of(read_index(tmp_path, labels=tmp_path / "train.csv"))
    assert list(known.values()) == [f"train{int(name) // 4}" for name in known]


@pytest.mark.parametrize(
    ("name", "tells"), [("train_meta.csv", True), ("train/meta.csv", True), ("meta.csv", False), ("val.csv", False)]
)
def test_a_table_of_labels_with_paths_takes_groups_of_the_files_that_another_table_means(
    tmp_path: Path, name: str, tells: bool
) -> None:
    paths = [f"{split}/{n}.jpg" for split in ("train", "test") for n in range(12)]
    touched(tmp_path, *paths)
    rows = [f"{path},{('mel', 'nv')[n // 2 % 2]},{path.split('/')[0]}" for n, path in enumerate(paths)]
    table(tmp_path, " ".join(["image,label,split", *rows]), "labels.csv")
    table(tmp_path, " ".join(["image,patient_id", *(f"{n}.jpg,P{n // 3}" for n in range(12))]), name)
    index = read_index(tmp_path, labels=tmp_path / "labels.csv")
    known = {path: f"P{n // 3}" if tells and n < 12 else path for n, path in enumerate(paths)}
    assert groups_of(index) == known
    said = "meta.csv names '0.jpg', which may be train/0.jpg or test/0.jpg: it tells no lesion or patient"
    assert any(warning.startswith(said) for warning in index.warnings) == (name == "meta.csv")


def test_a_dot_is_part_of_a_name_unless_images_end_so() -> None:
    images = Images(["1.2.840.10.3", "1.2.840.10.4.jpg"])
    about = images.rows_of(pd.DataFrame({"id": ["1.2.840.10.3", "1.2.840.10.4", "1.2.840.10.5"]}), "t.csv")
    assert about is not None
    assert about.rows["_image"].tolist() == ["1.2.840.10.3", "1.2.840.10.4.jpg"]


def test_a_picture_in_two_formats_is_one() -> None:
    images = Images(["a/1.jpg", "a/1.png", "b/2.jpg", "b/2.png"])
    about = images.rows_of(pd.DataFrame({"id": ["1", "2.png"], "x": ["p", "q"]}), "t.csv")
    assert about is not None
    assert about.rows[["_image", "x"]].to_numpy().tolist() == [["a/1.jpg", "p"], ["a/1.png", "p"], ["b/2.png", "q"]]
    assert about.unclear == {}
