"""The audit finds every planted fault and nothing else, and copies of a picture stay on one side."""

from __future__ import annotations

import json
import os
import shutil
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from skin.data import duplicates
from skin.data.audit import CheckReport, check
from skin.data.duplicates import HashCache, join_near_duplicates, near_pairs, perceptual_hash, perceptual_hashes
from skin.data.layouts import read_index
from skin.data.split import split_index
from skin.utils.errors import UserError

import cv2
import numpy as np
import pandas as pd
import PIL
import pytest
from PIL import Image

RECIPE = (0.7, 0.2, 0.1)


class Planted:
    """A sound labels table of 24 pictures of different lesions, two classes, all three parts; faults are added."""

    def __init__(self, folder: Path, demo: Path) -> None:
        self.folder = folder
        folder.mkdir()
        lesions = read_index(demo).rows.drop_duplicates("group").head(24)
        self.rows: list[list[str]] = []
        for number, path in enumerate(lesions["path"]):
            name = f"p{number:02d}.jpg"
            shutil.copy(path, folder / name)
            split = "train" if number < 12 else "val" if number < 18 else "test"
            self.rows.append([name, "mel" if number % 2 else "nv", f"lesion{number}", split])

    def add(self, name: str, label: str, group: str, split: str) -> Path:
        self.rows.append([name, label, group, split])
        return self.folder / name

    def picture(self, number: int) -> Image.Image:
        with Image.open(self.folder / f"p{number:02d}.jpg") as image:
            return image.convert("RGB")

    def check(self, *, brought: bool = True, keep: bool = False, seed: int = 0, write: bool = True) -> CheckReport:
        table = pd.DataFrame(self.rows, columns=["image", "label", "group", "split"])
        labels = self.folder / "labels.csv"
        (table if brought else table.drop(columns="split")).to_csv(labels, index=False)
        index = read_index(self.folder, labels=labels, keep_going=True)
        return check(index, RECIPE, seed, self.folder / "report" if write else None, keep_duplicates=keep)

    def json(self) -> dict[str, list[dict[str, object]]]:
        found: dict[str, list[dict[str, object]]] = json.loads((self.folder / "report/check.json").read_text())
        return found


@pytest.fixture
def planted(tmp_path: Path, demo_folder: Path) -> Planted:
    return Planted(tmp_path / "set", demo_folder)


def test_a_sound_set_has_no_findings(planted: Planted) -> None:
    report = planted.check()
    assert (report.exit_code, report.pairs, report.group_leaks, report.unreadable) == (0, [], [], [])
    assert report.lines()[-1] == "no leak, no conflict, no unreadable image"
    written = planted.json()
    assert written["ok"] is True
    assert written["classes"] == {
        "mel": {"images": 12, "train": 6, "val": 3, "test": 3},
        "nv": {"images": 12, "train": 6, "val": 3, "test": 3},
    }
    assert (written["sizes"], written["formats"]) == ({"300x225": 24}, {"JPEG": 24})


def test_a_lesion_on_two_sides(planted: Planted) -> None:
    planted.rows[3][2] = "lesion20"
    report = planted.check()
    assert report.exit_code == 1
    assert planted.json()["leaks"] == [
        {"kind": "group", "group": "lesion20", "splits": ["test", "train"], "images": ["p20.jpg", "p03.jpg"]}
    ]
    assert any("lesion20 stands in 2 splits: p20.jpg in test, p03.jpg in train" in line for line in report.lines())


@pytest.mark.parametrize(
    "save",
    [
        lambda image, path: image.save(path, quality=40),
        lambda image, path: image.resize((150, 112)).save(path, quality=70),
        lambda image, path: image.resize((600, 450)).save(path, quality=90),
        lambda image, path: image.resize((224, 224)).save(path, quality=85),
        lambda image, path: image.point(lambda value: int(value * 0.85)).save(path, quality=90),
    ],
    ids=["recompressed", "halved", "doubled", "squeezed", "darkened"],
)
def test_an_altered_copy_in_the_test_part(planted: Planted, save: Callable[[Image.Image, Path], None]) -> None:
    save(planted.picture(2), planted.add("copy.jpg", "nv", "another", "test"))
    report = planted.check()
    assert report.exit_code == 1
    (leak,) = planted.json()["leaks"]
    assert (leak["kind"], leak["images"], leak["splits"]) == (
        "near duplicate",
        ["copy.jpg", "p02.jpg"],
        ["test", "train"],
    )


def test_a_copy_of_the_same_pixels_in_another_format_is_exact(planted: Planted) -> None:
    planted.picture(13).save(planted.add("copy.png", "mel", "another", "val"))
    report = planted.check()
    (pair,) = report.pairs
    assert (pair.exact, pair.images, report.exit_code) == (True, ("copy.png", "p13.jpg"), 0)


def test_one_picture_under_two_labels(planted: Planted) -> None:
    shutil.copy(planted.folder / "p04.jpg", planted.add("again.jpg", "mel", "lesion4", "train"))
    report = planted.check()
    assert report.exit_code == 1
    (conflict,) = planted.json()["conflicts"]
    assert (conflict["images"], conflict["labels"]) == (["again.jpg", "p04.jpg"], ["mel", "nv"])
    assert report.lines()[-1] == "found 1 conflict"


def test_one_name_under_two_labels(planted: Planted) -> None:
    planted.add("p04.jpg", "mel", "lesion4", "train")
    report = planted.check()
    assert report.exit_code == 1
    assert report.faults == [
        "labels.csv gives the image p04.jpg two values of label, 'nv' and 'mel': correct the table"
    ]


def test_unreadable_files_are_named_with_their_reason(planted: Planted) -> None:
    whole = (planted.folder / "p05.jpg").read_bytes()
    (planted.folder / "p05.jpg").write_bytes(whole[: len(whole) // 2])
    (planted.folder / "p06.jpg").write_bytes(b"")
    (planted.folder / "p07.jpg").write_text("no picture")
    report = planted.check()
    assert report.exit_code == 1
    found = {Path(path).name: reason for path, reason in report.unreadable}
    assert list(found) == ["p05.jpg", "p06.jpg", "p07.jpg"]
    assert "cut off" in found["p05.jpg"]
    assert "empty" in found["p06.jpg"]
    assert "format" in found["p07.jpg"]
    assert len(report.rows) == 21


def test_rows_without_image_and_images_without_row(planted: Planted) -> None:
    planted.rows.append(["gone.jpg", "nv", "x", "train"])
    planted.picture(0).transpose(Image.Transpose.ROTATE_90).save(planted.folder / "stray.png")
    report = planted.check()
    written = planted.json()
    assert (written["rows_without_image"], written["images_without_row"]) == (["gone.jpg"], ["stray.png"])
    assert report.exit_code == 1, "1 of 25 rows is over one in a hundred"


def test_a_set_that_cannot_be_split_is_still_audited(planted: Planted) -> None:
    planted.rows = [row for row in planted.rows if row[1] == "nv"]
    report = planted.check(brought=False)
    assert report.exit_code == 1
    assert "one class only" in report.faults[0]


def test_a_set_of_no_readable_image_is_refused(planted: Planted) -> None:
    for file in planted.folder.glob("*.jpg"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 24 images can be read; .*p00.jpg; an empty file"):
        planted.check()


def test_copies_across_groups_never_part_in_our_own_split_unless_kept(planted: Planted) -> None:
    for number in range(6):
        planted.picture(number).save(
            planted.add(f"q{number}.jpg", planted.rows[number][1], f"n{number}", ""), quality=60
        )
    leaking = 0
    for seed in range(3):
        report = planted.check(brought=False, seed=seed, write=False)
        assert (report.exit_code, len(report.pairs)) == (0, 6)
        assert "pairs of near duplicates in two groups: 6" in report.index.notes[-1]
        leaking += planted.check(brought=False, keep=True, seed=seed, write=False).exit_code
    assert leaking > 0, "some of 18 pairs fall apart by chance"


def test_a_report_folder_that_cannot_be_written(planted: Planted) -> None:
    (planted.folder / "report").write_text("a file is in the way")
    with pytest.raises(UserError, match="cannot write the report"):
        planted.check()


def test_images_in_an_archive_are_audited(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 14), ("val", 7), ("test", 7)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 7).astype(np.uint8)[:, None]
    arrays["test_images"][3] = arrays["train_images"][3]
    np.savez_compressed(tmp_path / "dermamnist.npz", **arrays)  # type: ignore[arg-type]
    report = check(read_index(tmp_path), RECIPE, 0)
    assert [pair.images for pair in report.pair_leaks] == [("test_images/3", "train_images/3")]
    assert (report.sizes, report.formats) == ({"28x28": 28}, {"array in an .npz": 28})


# ------------------------------------------------------------------------------------- the search for pairs


def brute_force(hashes: np.ndarray, bits: int) -> list[tuple[int, int]]:
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    return [(int(i), int(j)) for i, j in np.argwhere(distance <= bits) if i < j]


@pytest.mark.parametrize("block", [1, 1 << 22])
def test_near_pairs_are_those_of_a_search_through_all_pairs(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    rng = np.random.default_rng(3)
    originals = rng.integers(0, 2**64, (60, 4), dtype=np.uint64)
    flips = np.packbits(rng.random((240, 256)) < 0.11, axis=1).view(np.uint64)
    hashes = np.concatenate([originals, np.repeat(originals, 4, axis=0) ^ flips])
    for bits in (0, 20, 31):
        pairs, distances = near_pairs(np.ma.array(hashes), bits)
        assert [tuple(pair) for pair in pairs.tolist()] == brute_force(hashes, bits)
        assert distances.tolist() == [int(np.bitwise_count(hashes[i] ^ hashes[j]).sum()) for i, j in pairs]
    assert len(pairs) > 100


@pytest.mark.slow
def test_many_pictures_alike_take_little_more_memory_than_their_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair is found by nearly all of the 16 pieces, and is held but once."""
    monkeypatch.setattr(duplicates, "_BLOCK", 1 << 12)
    flips = np.packbits(np.random.default_rng(0).random((1000, 256)) < 0.04, axis=1).view(np.uint64)
    tracemalloc.start()
    try:
        pairs, distances = near_pairs(np.ma.array(flips))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [tuple(pair) for pair in pairs.tolist()] == brute_force(flips, duplicates.NEAR_BITS)
    assert len(pairs) == len(distances) > 480_000
    assert peak < 4 * pairs.nbytes


def test_rows_of_one_hash_are_chained_and_masked_rows_passed_over() -> None:
    hashes = np.ma.array(np.array([[5] * 4, [9] * 4, [5] * 4, [5] * 4, [5] * 4], dtype=np.uint64))
    hashes[2] = np.ma.masked
    pairs, distances = near_pairs(hashes, 0)
    assert pairs.tolist() == [[0, 3], [3, 4]]
    assert distances.tolist() == [0, 0]
    assert near_pairs(np.ma.masked_all((3, 4), dtype=np.uint64))[0].tolist() == []
    with pytest.raises(ValueError, match="at most 31"):
        near_pairs(hashes, 32)


# ----------------------------------------------------------------------------- what training does by itself


def test_hashes_are_kept_until_a_file_changes(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(map(str, planted.folder.glob("*.jpg")))
    first = perceptual_hashes(paths, HashCache(tmp_path / "cache", planted.folder))
    read: list[str] = []

    def counted(path: str) -> np.ndarray:
        read.append(path)
        return perceptual_hash(path)

    monkeypatch.setattr(duplicates, "perceptual_hash", counted)
    assert (perceptual_hashes(paths, HashCache(tmp_path / "cache", planted.folder)) == first).all()
    assert read == []
    shutil.copy(paths[1], paths[0])
    Path(paths[5]).write_bytes(b"")
    again = perceptual_hashes(paths, HashCache(tmp_path / "cache", planted.folder))
    assert sorted(read) == [paths[0], paths[5]]
    assert (again[0] == first[1]).all()
    assert again.mask[5].all()
    assert not again.mask[:5].any()


def test_hashes_are_kept_only_for_the_very_file_and_what_reads_it(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [planted.folder / "p00.jpg", planted.folder / "p01.jpg"]
    size = max(file.stat().st_size for file in files)
    for file in files:
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))  # a decoder stops where the image ends
        os.utime(file, ns=(0, 10**18))
    paths = [*map(str, files)]
    first = perceptual_hashes(paths, HashCache(tmp_path / "cache", planted.folder))
    assert HashCache(tmp_path / "cache", planted.folder).get(paths[0]) is not None
    for versions, name in ((duplicates, "PIXELS_VERSION"), (PIL, "__version__"), (cv2, "__version__")):
        with monkeypatch.context() as patch:
            patch.setattr(versions, name, "0")
            assert HashCache(tmp_path / "cache", planted.folder).get(paths[0]) is None

    time.sleep(0.02)  # some ticks of the kernel's clock
    files[0].rename(tmp_path / "a.jpg")
    files[1].rename(files[0])
    (tmp_path / "a.jpg").rename(files[1])
    again = perceptual_hashes(paths, HashCache(tmp_path / "cache", planted.folder))
    assert (first[0] != first[1]).any()
    assert (again == first[::-1]).all()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_a_damaged_store_of_hashes_is_made_anew(planted: Planted, tmp_path: Path, content: bytes) -> None:
    paths = sorted(map(str, planted.folder.glob("*.jpg")))[:4]
    cache = tmp_path / "cache"
    first = perceptual_hashes(paths, HashCache(cache, planted.folder))
    (file,) = cache.iterdir()
    file.write_bytes(content)
    assert (perceptual_hashes(paths, HashCache(cache, planted.folder)) == first).all()
    assert [kept.name for kept in cache.iterdir()] == [file.name]


def test_a_cache_folder_that_cannot_be_is_no_matter(planted: Planted, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    paths = sorted(map(str, planted.folder.glob("*.jpg")))[:2]
    assert not perceptual_hashes(paths, HashCache(tmp_path / "file" / "cache", planted.folder)).mask.any()


def test_large_sets_are_joined_only_by_hashes_that_are_kept_already(planted: Planted, tmp_path: Path) -> None:
    planted.picture(0).save(planted.add("copy.jpg", "nv", "another", ""), quality=60)
    planted.check(brought=False, write=False)
    index = read_index(planted.folder, labels=planted.folder / "labels.csv")

    large = join_near_duplicates(index, tmp_path / "cache", limit=10)
    assert large.rows.equals(index.rows)
    assert "not looked for among 25 images" in large.notes[-1]

    small = join_near_duplicates(index, tmp_path / "cache", limit=25)
    groups = small.rows.set_index("image")["group"]
    assert groups["copy.jpg"] == groups["p00.jpg"] == "another"
    assert join_near_duplicates(index, tmp_path / "cache", limit=10).rows.equals(small.rows)


def test_training_names_the_pictures_that_bear_two_labels(planted: Planted) -> None:
    for number in range(4):  # p00 and p02 are nv, p01 and p03 are mel
        planted.picture(number).save(planted.add(f"q{number}.jpg", "mel", f"lesion{number}", ""), quality=60)
    planted.check(brought=False, write=False)
    index = read_index(planted.folder, labels=planted.folder / "labels.csv")
    expected = "near duplicates under two labels: p00.jpg (nv) and q0.jpg (mel); p02.jpg (nv) and q2.jpg (mel)"
    done: list[int] = []
    assert join_near_duplicates(index, progress=done.append).notes[-1] == expected
    assert sum(done) == 28

    labels = index.rows["image"].str.startswith("q").map({True: "mel", False: "nv"})
    four = join_near_duplicates(replace(index, rows=index.rows.assign(label=labels)))
    assert four.notes[-1].startswith(expected.split(";")[0] + "; p01.jpg (nv) and q1.jpg (mel); p02.jpg ")
    assert four.notes[-1].endswith("; --check names all 4")


def test_the_demo_set_holds_no_near_duplicates(demo_folder: Path) -> None:
    index = read_index(demo_folder)
    assert join_near_duplicates(index) is index


@pytest.mark.real
def test_ham10000_itself(real_data: Path, tmp_path: Path) -> None:
    report = check(read_index(real_data / "ham10000", keep_going=True), RECIPE, 0, tmp_path)
    assert report.exit_code == 0
    assert [pair.images for pair in report.pairs if pair.exact] == [
        ("ISIC_0024366", "ISIC_0029861"), ("ISIC_0024777", "ISIC_0029938"),
    ]  # fmt: skip
    across = [pair.images for pair in report.pairs if pair.groups[0] != pair.groups[1]]
    assert across == [("ISIC_0025226", "ISIC_0030074")]
    assert set(split_index(report.index, RECIPE, 0)["split"]) == {"train", "val", "test"}


def test_copies_of_bytes_are_found_and_files_of_a_size_of_their_own_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {"a": b"one", "b": b"two", "c": b"three", "d": b"one", "e": b"one", "f": b"two"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    read: list[str] = []
    digest = duplicates._digest
    monkeypatch.setattr(duplicates, "_digest", lambda path: read.append(Path(path).name) or digest(path))
    found = duplicates.copies_within([str(tmp_path / name) for name in [*contents, "gone"]])
    assert found.tolist() == [[3, 0], [4, 0], [5, 1]]
    assert sorted(read) == ["a", "b", "d", "e", "f"]
    assert duplicates.copies_within([str(tmp_path / "c")]).shape == (0, 2)
