"""Pictures inside HDF5, tar and parquet files: the same as the files that they were made of, from any process."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from skin.data import cache, containers, contents, duplicates, npz
from skin.data.containers import container_of, is_member, member_bytes, read_member
from skin.data.dataset import EpochBatches, SkinDiseaseDataset, make_loader
from skin.data.folder import Folder
from skin.data.images import FILE_LIMIT, ImageError, Preprocess, read_header, read_image
from skin.data.index import Index
from skin.data.layouts import read_index
from skin.data.readers.records import rows_of_records, split_of
from skin.utils.errors import UserError
from tests.dicoms import dicom

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

WHOLE = Preprocess(16, 16, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
COUNT = 12


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (16, 20, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


PICTURES = {f"ISIC_{number:07}": picture(number) for number in range(COUNT)}
LABELS = ["mel" if number % 3 == 0 else "nv" for number in range(COUNT)]


@pytest.fixture(autouse=True)
def _own_unpacked(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(npz._FOLDER, str(tmp_path_factory.mktemp("unpacked")))
    containers._known.clear()
    yield
    containers._known.clear()


def hdf5(path: Path, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, data in PICTURES.items():
            file.create_dataset(name, data=np.void(data), **options)
    return path


def tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def samples(ending: str = "cls", first: int = 0, count: int = COUNT) -> dict[str, bytes]:
    files = {}
    for number, (name, data) in list(enumerate(PICTURES.items()))[first : first + count]:
        record = {"label": LABELS[number], "patient_id": f"p{number // 2}", "age": 30 + number, "more": [1]}
        beside = {"cls": str(int(LABELS[number] == "mel")), "txt": LABELS[number], "json": json.dumps(record)}
        files |= {f"{name}.png": data, f"{name}.{ending}": beside[ending].encode()}
    return files


def parquet(path: Path, rows: Sequence[int] = range(COUNT), struct: bool = True, **columns: Any) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    data = [list(PICTURES.values())[row] for row in rows]
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"names": ["nv", "mel"], "_type": "ClassLabel"}}
    table: dict[str, Any] = {
        "image": pa.array([{"bytes": each, "path": None} for each in data]) if struct else pa.array(data),
        "label": pa.array([int(LABELS[row] == "mel") for row in rows], pa.int64()),
        **columns,
    }
    schema = {"huggingface": json.dumps({"info": {"features": features}})}
    made = pa.table({name: values for name, values in table.items() if values is not None})
    pyarrow.parquet.write_table(made.replace_schema_metadata(schema), path, row_group_size=5)
    return path


def pixels(path: str) -> np.ndarray:
    return read_image(path, WHOLE)


def expected(name: str) -> np.ndarray:
    return read_image(io.BytesIO(PICTURES[name]), WHOLE)


# --- HDF5 ---


def test_the_images_of_an_hdf5_file_are_images_of_the_folder(tmp_path: Path) -> None:
    hdf5(tmp_path / "train-image.hdf5")
    folder = Folder(tmp_path)
    assert folder.images == {f"train-image.hdf5::{name}" for name in PICTURES}
    for name in ("ISIC_0000003", "ISIC_0000003.jpg"):
        assert folder.find(name) == "train-image.hdf5::ISIC_0000003"
    assert folder.find("ISIC_0000099") is None
    assert folder.others == ["train-image.hdf5"]
    assert folder.unread == []


@pytest.mark.parametrize("form", ["void", "string", "bytes", "variable", "compressed", "grouped", "one of one"])
def test_each_form_of_bytes_in_hdf5_is_read(form: str, tmp_path: Path) -> None:
    name, data = next(iter(PICTURES.items()))
    row = np.frombuffer(data, np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if form == "variable":
            file.create_dataset(name, (1,), h5py.vlen_dtype(np.uint8))[0] = row
        elif form == "compressed":
            file.create_dataset(name, data=row, compression="gzip")
        elif form == "one of one":
            file.create_dataset(name, data=np.array([np.void(data)]))
        else:
            value = {"void": np.void(data), "string": np.bytes_(data)}.get(form, row)
            file.create_dataset(f"images/{name}" if form == "grouped" else name, data=value)
    member = f"images/{name}" if form == "grouped" else name
    assert Folder(tmp_path).find(name) == f"a.h5::{member}"
    path = f"{tmp_path}/a.h5::{member}"
    assert read_member(path, FILE_LIMIT) == data
    assert read_member(path, 40) == data[:40]
    np.testing.assert_array_equal(pixels(path), expected(name))
    assert read_header(path) == (20, 16, "PNG")


def test_a_picture_that_is_there_as_a_file_too_is_read_from_the_file(tmp_path: Path) -> None:
    hdf5(tmp_path / "train-image.hdf5")
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "ISIC_0000003.png").write_bytes(PICTURES["ISIC_0000003"])
    folder = Folder(tmp_path)
    assert folder.find("ISIC_0000003") == "image/ISIC_0000003.png"
    assert folder.copies == {"train-image.hdf5::ISIC_0000003": "image/ISIC_0000003.png"}


def test_two_files_that_disagree_on_a_picture_are_refused(tmp_path: Path) -> None:
    hdf5(tmp_path / "a.hdf5")
    shutil.copy(tmp_path / "a.hdf5", tmp_path / "b.hdf5")
    assert Folder(tmp_path).find("ISIC_0000003") == "a.hdf5::ISIC_0000003"
    with h5py.File(tmp_path / "b.hdf5", "r+") as file:
        del file["ISIC_0000003"]
        file["ISIC_0000003"] = np.void(PICTURES["ISIC_0000004"])
    with pytest.raises(UserError, match=r"could be a\.hdf5::ISIC_0000003 or b\.hdf5::ISIC_0000003, which differ"):
        Folder(tmp_path).find("ISIC_0000003")


@pytest.mark.parametrize("content", ["array", "numbers", "none", "text", "cut"])
def test_an_hdf5_file_without_pictures_is_named_where_images_are_missing(content: str, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        if content == "array":
            file["images"] = np.zeros((4, 8, 8, 3), np.uint8)
        elif content == "numbers":
            file["labels"] = np.arange(9, dtype=np.uint8)
        elif content == "text":
            file["note"] = "not a picture"
    if content == "cut":
        path.write_bytes(hdf5(path).read_bytes()[:3000])
    folder = Folder(tmp_path)
    assert folder.images == set()
    assert len(folder.unread) == 1
    assert "model.h5" in folder.unread[0]
    (tmp_path / "labels.csv").write_text("image,label\nISIC_0000001,a\nISIC_0000002,b\n")
    with pytest.raises(UserError, match=r"names 2 images that the folder lacks; .*model\.h5"):
        read_index(tmp_path, labels=tmp_path / "labels.csv")


def test_a_set_beside_such_a_file_is_read_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_bytes(b"no hdf5 at all")
    for number, name in enumerate(PICTURES):
        (tmp_path / LABELS[number]).mkdir(exist_ok=True)
        (tmp_path / LABELS[number] / f"{name}.png").write_bytes(PICTURES[name])
    assert read_index(tmp_path).layout == "class folders"


def test_hdf5_links_lead_nowhere(tmp_path: Path) -> None:
    """A table cannot lead out of the data folder, and neither can a file in it."""
    hdf5(tmp_path / "outside.h5")
    (tmp_path / "data").mkdir()
    with h5py.File(tmp_path / "data" / "a.h5", "w") as file:
        file["inside"] = np.void(PICTURES["ISIC_0000001"])
        file["soft"] = h5py.SoftLink("/inside")
        file["out"] = h5py.ExternalLink("../outside.h5", "/ISIC_0000002")
        size = len(PICTURES["ISIC_0000002"])
        file.create_dataset("raw", shape=(size,), dtype=np.uint8, external=[("/etc/hostname", 0, size)])
        layout = h5py.VirtualLayout(shape=(size,), dtype=np.uint8)
        layout[:] = h5py.VirtualSource("../outside.h5", "ISIC_0000002", shape=(size,), dtype=np.uint8)
        file.create_virtual_dataset("virtual", layout)
        file["round"] = file["/"]
    found = Folder(tmp_path / "data").images
    assert "a.h5::inside" in found
    assert not [name for name in found if name.endswith(("soft", "out", "raw", "virtual"))]


def test_a_damaged_picture_in_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["good"] = np.void(PICTURES["ISIC_0000001"])
        file["bad"] = np.void(b"no picture at all")
    for name, reason in (("bad", "not an image of a format"), ("gone", "has no member gone")):
        with pytest.raises(ImageError, match=rf"a\.h5::{name}: .*{reason}"):
            pixels(f"{tmp_path}/a.h5::{name}")


def test_dicom_within_a_container_is_read(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.void(dicom(colours))
    np.testing.assert_array_equal(pixels(f"{tmp_path}/a.h5::x"), colours)
    assert read_header(f"{tmp_path}/a.h5::x") == (20, 16, "DICOM")


# --- what the rest of the house asks of a path ---


def test_the_cache_knows_a_picture_by_its_name_and_its_file(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.hdf5")
    names = [f"{path}::{name}" for name in PICTURES]
    kept = cache.PixelCache.open(names, WHOLE, tmp_path / "cache")
    for row, name in enumerate(PICTURES):
        np.testing.assert_array_equal(kept.read(row), expected(name))
    assert cache.list_caches(tmp_path / "cache")[0].files == COUNT
    os.utime(path, ns=(1, 1))
    assert kept._store is not None
    assert kept._store.load(names[0], cache._stamp(names[0])) is None
    assert cache._stamp(f"{tmp_path}/none.hdf5::x") == b""


def test_a_moved_container_is_known_again_by_its_pictures(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.hdf5")
    rows = pd.DataFrame({"image": list(PICTURES), "path": [f"{path}::{n}" for n in PICTURES], "split": "train"})
    contents.write(rows, tmp_path / "contents.csv")
    with h5py.File(path, "w") as file:  # the same pictures in another order
        for name in reversed(PICTURES):
            file[name] = np.void(PICTURES[name] if name != "ISIC_0000005" else PICTURES["ISIC_0000006"])
    assert contents.changed(rows, tmp_path / "contents.csv") == ["ISIC_0000005"]
    assert contents.file_bytes(rows["path"][0]) == len(PICTURES["ISIC_0000000"])


def test_equal_pictures_are_found_across_containers_and_files(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.hdf5")
    (tmp_path / "b.png").write_bytes(PICTURES["ISIC_0000004"])
    members = [f"{path}::{name}" for name in PICTURES]
    assert duplicates.same_files([str(tmp_path / "b.png")], members) == [4]
    assert duplicates.perceptual_hashes(members, duplicates.HashCache(tmp_path, tmp_path)).mask.sum() == 0
    assert duplicates.HashCache(tmp_path, tmp_path).get(members[0]) is not None


def test_paths_of_members_are_told_from_others() -> None:
    assert is_member("/a/b.HDF5::x")
    assert not is_member("/a/b.npz::x/0")
    assert not is_member("/a::b/c.jpg")
    assert container_of("/a/b.tar::c/d.jpg") == "/a/b.tar"
    assert container_of("/a/b.npz::x/0") == "/a/b.npz"
    assert container_of("/a/b.jpg") == "/a/b.jpg"
    assert member_bytes("/nowhere/a.h5::x") == -1


def _sum_of(path: str) -> int:
    return int(pixels(path).sum())


def test_a_forked_process_reads_a_container_that_its_parent_has_read(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.hdf5")
    names = [f"{path}::{name}" for name in PICTURES]
    sums = [_sum_of(name) for name in names]
    with get_context("fork").Pool(2) as pool:
        assert pool.map(_sum_of, names) == sums


def test_no_file_stays_open(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.hdf5")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in PICTURES:
        pixels(f"{path}::{name}")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_container_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"a.png": PICTURES["ISIC_0000001"]})
    pixels(f"{path}::a.png")
    tar(path, {"b.png": PICTURES["ISIC_0000003"], "a.png": PICTURES["ISIC_0000002"]})
    os.utime(path, ns=(5, 5))
    np.testing.assert_array_equal(pixels(f"{path}::a.png"), expected("ISIC_0000002"))


# --- WebDataset ---


def check_rows(index: Index, image: str = "") -> None:
    """Compare an index with `PICTURES` and `LABELS`; `image` is what stands before their names."""
    assert len(index.rows) == COUNT
    for row, (number, name) in zip(index.rows.itertuples(), enumerate(PICTURES), strict=True):
        if image:
            assert row.image == f"{image}/{name}"
        np.testing.assert_array_equal(pixels(row.path), expected(name))
        assert row.label in (LABELS[number], str(int(LABELS[number] == "mel")))


@pytest.mark.parametrize("ending", ["cls", "txt", "json"])
def test_a_webdataset_is_read(ending: str, tmp_path: Path) -> None:
    tar(tmp_path / "train-000000.tar", samples(ending))
    index = read_index(tmp_path)
    assert (index.layout, index.classes) == ("WebDataset", ("0", "1") if ending == "cls" else ("mel", "nv"))
    check_rows(index, "train-000000")
    assert set(index.rows["split"]) == {"train"}
    if ending == "json":
        assert index.rows["group"].tolist() == [f"p{number // 2}" for number in range(COUNT)]
        assert index.rows["age"].tolist() == [30 + number for number in range(COUNT)]
        assert "more" not in index.rows


def test_the_splits_of_a_webdataset_are_in_its_names(tmp_path: Path) -> None:
    tar(tmp_path / "derm-train-000000.tar", samples("txt", 0, 5))
    tar(tmp_path / "derm-train-000001.tar", samples("txt", 5, 3))
    tar(tmp_path / "val" / "000000.tar", samples("txt", 8, 2))
    tar(tmp_path / "derm-test-000000.tar", samples("txt", 10, 2))
    index = read_index(tmp_path)
    assert index.rows["split"].value_counts().to_dict() == {"train": 8, "val": 2, "test": 2}


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("trainval.tar", "train"),
        ("test/train_test-0.parquet", "test"),
        ("holdout-000.tar", "test"),
        ("x/eval/0.tar", "test"),
        ("a/train/b/0.parquet", "train"),
        ("train/val/0.parquet", "val"),
        ("test of lesions/0.parquet", ""),
        ("test/train-0.parquet", "train"),
    ],
)
def test_a_file_is_of_the_split_that_its_name_or_a_folder_tells(path: str, split: str) -> None:
    assert split_of(path) == split


def test_one_tar_is_a_data_folder_of_its_own(tmp_path: Path) -> None:
    check_rows(read_index(tar(tmp_path / "a.tar", samples("txt"))))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({f"{n}.png": d for n, d in PICTURES.items()}, "pictures without labels"),
        ({"a.png": b"", "a.jpg": b"", "a.cls": b"0"}, "two pictures of one sample, a.png and a.jpg"),
        ({"a.png": b"", "a.json": b"{"}, r"a\.json is no JSON record"),
        ({"a.png": b"", "a.json": b"[]"}, r"a\.json is no JSON record"),
        ({"a.txt": b"1"}, "of no known layout"),
        ({"a.v1.png": b"", "a.v1.cls": b"0"}, r"sample ends at the first dot, and a\.v1\.png has more"),
    ],
)
def test_a_tar_that_cannot_be_used_says_what_it_lacks(files: dict[str, bytes], reason: str, tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", files)
    with pytest.raises(UserError, match=reason):
        read_index(tmp_path)


def test_a_tar_that_is_cut_off_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", samples("txt"))
    whole = path.read_bytes()
    ends = range(512, len(whole) - 10240 + 512, 512)
    for end in [*ends[::7], 300, 700]:
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"a\.tar cannot be read: .*download it again"):
            read_index(tmp_path)


# --- parquet ---


def test_a_parquet_export_tells_its_patients_by_any_usual_name(tmp_path: Path) -> None:
    people = {"subject_id": [f"S{n // 4}" for n in range(COUNT)], "lesion_id": [f"L{n // 2}" for n in range(COUNT)]}
    parquet(tmp_path / "train.parquet", **{name: pa.array(values) for name, values in people.items()})
    index = read_index(tmp_path)
    assert index.rows["group"].nunique() == len(set(people["subject_id"]))
    assert "subject_id" not in index.rows
    people["lesion_id"] = [str(n % 4) for n in range(COUNT)]  # anew for each
    parquet(tmp_path / "train.parquet", **{name: pa.array(values) for name, values in people.items()})
    assert read_index(tmp_path).rows["group"].equals(index.rows["group"])


@pytest.mark.parametrize("struct", [True, False])
def test_a_parquet_export_is_read(struct: bool, tmp_path: Path) -> None:
    ids = pa.array([f"L{number // 2}" for number in range(COUNT)])
    parquet(tmp_path / "train-00000-of-00001.parquet", struct=struct, lesion_id=ids, age=pa.array([5.5] * COUNT))
    index = read_index(tmp_path)
    assert (index.layout, index.classes) == ("parquet", ("mel", "nv"))
    assert index.rows["age"].tolist() == [5.5] * COUNT
    found = index.rows.set_index("image")
    for number, name in enumerate(PICTURES):
        row = found.loc[f"train-00000-of-00001/{number}"]
        assert (row["label"], row["group"], row["split"]) == (LABELS[number], f"L{number // 2}", "train")
        assert row["path"].endswith(f"train-00000-of-00001.parquet::{number}")
        np.testing.assert_array_equal(pixels(row["path"]), expected(name))


@pytest.mark.parametrize("label", ["dx", "disease"])
def test_text_labels_and_splits_of_folders(label: str, tmp_path: Path) -> None:
    text = pa.array([LABELS[row] for row in range(6)])
    parquet(tmp_path / "data" / "train" / "0000.parquet", range(6), label=None, **{label: text})
    parquet(tmp_path / "data" / "validation" / "0000.parquet", range(6), label=None, **{label: text})
    index = read_index(tmp_path)
    assert index.classes == ("mel", "nv")
    assert index.rows["split"].value_counts().to_dict() == {"train": 6, "val": 6}


def test_a_row_without_a_class_or_a_picture_is_left_out_and_counted(tmp_path: Path) -> None:
    data = [None, *list(PICTURES.values())[1:]]
    labels = [0, -1, *[int(LABELS[row] == "mel") for row in range(2, COUNT)]]
    parquet(tmp_path / "a.parquet", image=pa.array(data), label=pa.array(labels))
    with pytest.raises(UserError, match="over 1 % of 12 rows"):
        read_index(tmp_path)
    index = read_index(tmp_path, allow_missing=True)
    assert len(index.rows) == 10
    for what in ("picture", "class (first: a/1)"):
        assert f"a.parquet has 1 row without a {what}" in index.notes


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"label": None}, "no column of labels, such as 'label'; its columns are image"),
        ({"image": pa.array(["a"] * COUNT)}, r"no column of pictures \(bytes\); its columns are image, label"),
        ({"label": pa.array([7] * COUNT)}, "row 0: the label 7 is not between 0 and 1"),
    ],
)
def test_a_parquet_file_that_cannot_be_used_says_what_it_lacks(
    columns: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    parquet(tmp_path / "a.parquet", **columns)
    with pytest.raises(UserError, match=reason):
        read_index(tmp_path)


@pytest.mark.parametrize("kind", ["parquet", "json", "txt"])
@pytest.mark.parametrize("word", ["nan", "N/A"])
def test_nan_is_no_class_and_other_words_for_a_missing_one_are_said(kind: str, word: str, tmp_path: Path) -> None:
    labels: list[Any] = [word, *LABELS[1:]]
    if kind == "parquet":
        if word == "nan":
            labels = [float("nan"), *(float(label == "mel") for label in LABELS[1:])]
        parquet(tmp_path / "a.parquet", label=None, dx=pa.array(labels))
    else:
        files = samples(kind)
        text = files["ISIC_0000000." + kind].decode().replace('"mel"', "NaN" if word == "nan" else f'"{word}"')
        tar(tmp_path / "a.tar", files | {"ISIC_0000000." + kind: (text if kind == "json" else word).encode()})
    index = read_index(tmp_path, allow_missing=True)
    said = [note for note in index.notes if "without a class" in note or "is the class of" in note]
    source = "a.parquet" if kind == "parquet" else "a.tar"
    assert len(index.rows) == COUNT - (word == "nan")
    if word == "nan":
        assert word not in index.classes
        assert said[0].startswith(f"{source} has 1 row without a class")
    else:
        remedy = "where none is known, --ignore-class N/A leaves them out"
        assert said == [f"{source}: 'N/A' is the class of 1 row; {remedy}"]
        assert "N/A" not in read_index(tmp_path, ignore_class=["N/A"]).classes


@pytest.mark.parametrize("form", ["lists", "lists of fixed size", "bytes", "bytes of fixed size"])
def test_classes_in_lists_of_one_or_as_bytes_are_classes(form: str, tmp_path: Path) -> None:
    kinds = {"lists of fixed size": pa.list_(pa.int64(), 1), "bytes of fixed size": pa.binary(3)}
    cells = [[int(label == "mel")] if "lists" in form else label.ljust(3).encode() for label in LABELS]
    column = {"label" if "lists" in form else "dx": pa.array(cells, kinds.get(form))}
    path = parquet(tmp_path / "a.parquet", **{"label": None, **column})
    if form == "lists":  # as Hugging Face writes a list of class numbers
        names = {"label": {"feature": {"names": ["nv", "mel"], "_type": "ClassLabel"}, "_type": "List"}}
        schema = {"huggingface": json.dumps({"info": {"features": names}})}
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).replace_schema_metadata(schema), path)
    index = read_index(tmp_path)
    assert (index.classes, len(index.rows)) == (("mel", "nv"), COUNT)
    assert index.rows.set_index("image").loc["a/3", "label"] == "mel"


@pytest.mark.parametrize(
    ("cell", "what"),
    [([0, 1], "lists of several classes"), (b"\xff", "bytes that are no text"), ({"id": 1}, "records")],
)
def test_labels_that_are_no_class_each_are_refused(cell: object, what: str, tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", label=None, labels=pa.array([cell] * COUNT))
    with pytest.raises(UserError, match=rf"a\.parquet: the column 'labels' holds {what}.*, and one class per"):
        read_index(tmp_path)


def test_a_parquet_table_of_the_pictures_beside_it_is_read_as_hugging_face_does(tmp_path: Path) -> None:
    names = pa.array([f"{name}.png" for name in PICTURES])
    beside = {"image": None, "file_name": names, "patient_id": pa.array([n // 2 for n in range(COUNT)])}
    parquet(tmp_path / "train" / "metadata.parquet", **beside)
    for name, data in PICTURES.items():
        (tmp_path / "train" / f"{name}.png").write_bytes(data)
    index = read_index(tmp_path)
    assert (index.layout, index.classes) == ("Hugging Face image folder", ("mel", "nv"))
    assert set(index.rows["split"]) == {"train"}
    check_rows(index)
    assert index.rows["group"].tolist() == [str(n // 2) for n in range(COUNT)]


def test_a_parquet_table_without_pictures_can_be_made_one_for_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path / "info.parquet", image=pa.array(list(PICTURES)), label=pa.array(LABELS))
    for name, data in PICTURES.items():
        (tmp_path / f"{name}.png").write_bytes(data)
    with pytest.raises(UserError, match=r"info\.parquet has no column of pictures") as error:
        read_index(tmp_path)
    advice = re.search(r"pandas\.read_parquet\(.*index=False\)", str(error.value))
    assert advice is not None
    monkeypatch.chdir(tmp_path)
    eval(advice[0], {"pandas": pd})
    check_rows(read_index(tmp_path, labels=tmp_path / "info.csv"))


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_other_columns_that_may_be_the_classes_are_said_of_records(kind: str, tmp_path: Path) -> None:
    names = ["melanoma" if label == "mel" else "nevus" for label in LABELS]
    if kind == "parquet":
        parquet(tmp_path / "a.parquet", dx=pa.array(names), age=pa.array([50] * COUNT))
    else:
        files = samples("json")
        for file, label, name in zip(PICTURES, LABELS, names, strict=True):
            files[f"{file}.json"] = json.dumps({"label": label, "dx": name}).encode()
        tar(tmp_path / "a.tar", files)
    index = read_index(tmp_path)
    assert index.classes == ("mel", "nv")
    note = f"labels are the column label of a.{kind}; others: dx; --label-column NAME takes another"
    assert index.notes[0] == note
    assert read_index(tmp_path, label_column="dx").classes == ("melanoma", "nevus")


def test_arrow_files_are_named_with_what_makes_them_parquet(tmp_path: Path) -> None:
    for split in ("train", "test"):
        made = parquet(tmp_path / split / "a.parquet")
        with pa.OSFile(str(tmp_path / split / "data-00000-of-00001.arrow"), "wb") as file:
            table = pyarrow.parquet.read_table(made)
            with pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
        made.unlink()
    with pytest.raises(UserError, match=r"\.arrow files are not read") as error:
        read_index(tmp_path)

    class SavedToDisk:  # as the library datasets reads them
        def __init__(self, path: str) -> None:
            (file,) = Path(path).glob("*.arrow")
            self.table = pa.ipc.open_stream(file.read_bytes()).read_all()

        def to_parquet(self, path: str) -> None:
            pyarrow.parquet.write_table(self.table, path)

    advice = str(error.value).partition("in Python, ")[2].partition(" saves them")[0]
    exec(advice, {"datasets": SimpleNamespace(load_from_disk=SavedToDisk)})
    index = read_index(tmp_path)
    assert index.rows["split"].value_counts().to_dict() == {"train": COUNT, "test": COUNT}


def test_a_piece_that_was_not_downloaded_is_named(tmp_path: Path) -> None:
    parquet(tmp_path / "data" / "train-00000-of-00002.parquet")
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet is missing"):
        read_index(tmp_path)


def test_a_damaged_parquet_file_and_a_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as a parquet file: .*; download it again"):
        read_index(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"a\.parquet is a parquet file: pip install pyarrow"):
        read_index(tmp_path)


def test_a_faulty_container_beside_a_set_does_not_stop_it(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"none")
    (tmp_path / "b.tar").write_bytes(b"none")
    for number, name in enumerate(PICTURES):
        (tmp_path / LABELS[number]).mkdir(exist_ok=True)
        (tmp_path / LABELS[number] / f"{name}.png").write_bytes(PICTURES[name])
    assert read_index(tmp_path).layout == "class folders"


def test_rows_are_unpacked_once_and_again_if_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "a.parquet")
    np.testing.assert_array_equal(pixels(f"{path}::3"), expected("ISIC_0000003"))
    folder = Path(os.environ[npz._FOLDER])
    unpacked = [file for file in folder.iterdir() if file.suffix == ".bytes"]
    assert len(unpacked) == 1
    assert npz.UNPACKED.fullmatch(unpacked[0].name)
    monkeypatch.setattr(containers, "_unpack_rows", None)
    containers._known.clear()  # as another process
    np.testing.assert_array_equal(pixels(f"{path}::4"), expected("ISIC_0000004"))
    monkeypatch.undo()
    monkeypatch.setenv(npz._FOLDER, str(folder))
    cache.clear(folder)
    np.testing.assert_array_equal(pixels(f"{path}::5"), expected("ISIC_0000005"))


@pytest.mark.parametrize("cut", [1, 8, 20])
def test_an_unpacked_file_that_is_not_whole_is_made_again(cut: int, tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet")
    pixels(f"{path}::3")
    (unpacked,) = Path(os.environ[npz._FOLDER]).glob("*.bytes")
    os.truncate(unpacked, unpacked.stat().st_size - cut)
    containers._known.clear()
    np.testing.assert_array_equal(pixels(f"{path}::3"), expected("ISIC_0000003"))


# --- training reads them ---


@pytest.mark.parametrize("kind", ["hdf5", "tar", "parquet"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set_of_a_container_gives_the_batches_of_the_files(kind: str, workers: int, tmp_path: Path) -> None:
    if kind == "hdf5":
        hdf5(tmp_path / "train-image.hdf5")
        table = "".join(f"{name},{label}\n" for name, label in zip(PICTURES, LABELS, strict=True))
        (tmp_path / "labels.csv").write_text("image,label\n" + table)
    elif kind == "tar":
        tar(tmp_path / "train-000000.tar", samples("txt"))
    else:
        parquet(tmp_path / "train.parquet")
    index = read_index(tmp_path, labels=tmp_path / "labels.csv" if kind == "hdf5" else None)
    rows = index.rows
    if kind == "parquet":  # sorted as text
        rows = rows.assign(number=rows["image"].str.rpartition("/")[2].astype(int)).sort_values("number")
    (tmp_path / "files").mkdir()
    for name, data in PICTURES.items():
        (tmp_path / "files" / f"{name}.png").write_bytes(data)
    labels = np.array([int(label == "mel") for label in LABELS])
    assert [int(label == "mel") for label in rows["label"]] == labels.tolist()
    batches = []
    for paths in (rows["path"].tolist(), [f"{tmp_path}/files/{name}.png" for name in PICTURES]):
        kept = cache.PixelCache.open(paths, WHOLE, tmp_path / "cache")
        data_set = SkinDiseaseDataset(paths, labels, WHOLE, cache=kept)
        batches.append([*make_loader(data_set, EpochBatches(labels, 4, 0), workers)])
    assert len(batches[0]) == 3
    for one, other in zip(*batches, strict=True):
        assert one.error == ""
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_patients_and_lesions_of_records_stay_beside_the_group_that_joins_them() -> None:
    records = pd.DataFrame({"dx": ["nv", "nv"], "patient": ["01", "1"], "lesion_id": ["L1", ""]}, dtype="str")
    rows = rows_of_records(pd.Series(["a", "b"]), records, "dx", "train")
    assert rows[["patient_id", "lesion_id"]].to_numpy().tolist() == [["01", "L1"], ["1", ""]]
