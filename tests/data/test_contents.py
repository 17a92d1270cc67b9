"""What a run knows of its images' contents: other files under the same names are found, a move is not one."""

from __future__ import annotations

from pathlib import Path

from skin.data import contents
from skin.utils.errors import UserError

import numpy as np
import pandas as pd
import pytest


def rows_of(folder: Path, names: list[str], split: str = "train") -> pd.DataFrame:
    return pd.DataFrame({"image": names, "path": [str(folder / name) for name in names], "split": split})


@pytest.fixture
def rows(tmp_path: Path) -> pd.DataFrame:
    """200 files of three bytes each, and their record."""
    folder = tmp_path / "data"
    folder.mkdir()
    names = [f"{number:03}" for number in range(200)]
    for name in names:
        (folder / name).write_text(name)
    rows = rows_of(folder, names)
    contents.write(rows, tmp_path / "contents.csv")
    return rows


def test_the_record_has_every_length_and_64_digests(rows: pd.DataFrame, tmp_path: Path) -> None:
    table = pd.read_csv(tmp_path / "contents.csv", dtype=str, keep_default_na=False)
    assert table.columns.tolist() == ["image", "bytes", "blake2b"]
    assert table["bytes"].tolist() == ["3"] * 200
    assert (table["blake2b"] != "").sum() == 64
    # blake2b of b"000" with 16 bytes, by `b2sum --length 128`
    assert table["blake2b"].iloc[0] == "4ab694b72e4aaa81004c5c189c7fb177"


def test_moved_files_are_the_same(rows: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "data").rename(tmp_path / "moved")
    assert contents.changed(rows_of(tmp_path / "moved", rows["image"].tolist()), tmp_path / "contents.csv") == []
    assert contents.changed(rows, tmp_path / "contents.csv") == rows["image"].tolist()  # none is there


def test_another_length_is_seen_anywhere_and_other_bytes_of_the_same_length_in_the_sample(
    rows: pd.DataFrame, tmp_path: Path
) -> None:
    (tmp_path / "data" / "101").write_text("longer")
    (tmp_path / "data" / "199").write_text("abc")  # the first and the last are always sampled
    assert contents.changed(rows, tmp_path / "contents.csv") == ["101", "199"]


def test_images_that_the_record_does_not_know_have_not_changed(rows: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "data" / "new").write_text("x")
    assert contents.changed(rows_of(tmp_path / "data", ["new"]), tmp_path / "contents.csv") == []


def test_rows_of_an_archive_are_known_by_their_pixels(tmp_path: Path) -> None:
    """The archive may be compressed anew; the test part's array is not read for this."""
    images = np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3)
    rows = rows_of(tmp_path, [f"derma.npz::train_images/{row}" for row in range(5)])
    test = rows_of(tmp_path, ["derma.npz::test_images/0"], "test")
    np.savez(tmp_path / "derma.npz", train_images=images, test_images=images)
    contents.write(pd.concat([rows, test]), tmp_path / "contents.csv")
    table = pd.read_csv(tmp_path / "contents.csv", dtype=str, keep_default_na=False)
    assert table["bytes"].tolist() == [""] * 6
    assert (table["blake2b"] != "").tolist() == [True] * 5 + [False]
    np.savez_compressed(tmp_path / "derma.npz", train_images=images)
    assert contents.changed(rows, tmp_path / "contents.csv") == []
    images[2] += 1
    np.savez(tmp_path / "derma.npz", train_images=images)
    assert contents.changed(rows, tmp_path / "contents.csv") == ["derma.npz::train_images/2"]


@pytest.mark.parametrize("text", ["", "image,bytes\na,1\n", "image,bytes,blake2b\n000,many,\n"])
def test_a_damaged_record_says_what_to_do(rows: pd.DataFrame, tmp_path: Path, text: str) -> None:
    (tmp_path / "contents.csv").write_text(text)
    with pytest.raises(UserError, match=r"contents\.csv cannot be read .*: remove it to go on"):
        contents.changed(rows, tmp_path / "contents.csv")


def test_a_set_is_known_by_its_names_lengths_and_contents(tmp_path: Path) -> None:
    for name, content in {"a": b"one", "b": b"two"}.items():
        (tmp_path / name).write_bytes(content)
    rows = pd.DataFrame({"image": ["a", "b"], "path": [str(tmp_path / "a"), str(tmp_path / "b")]})
    known = contents.sha256_of(rows)
    assert contents.sha256_of(rows.copy()) == known
    assert contents.sha256_of(rows.assign(image=["a", "c"])) != known
    assert contents.sha256_of(rows[:1]) != known
    (tmp_path / "b").write_bytes(b"owt")
    assert contents.sha256_of(rows) != known
