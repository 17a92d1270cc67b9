"""What is shown while the data of a run are read; what the parts hold is tested in test_split and test_trainer."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from skin.model.network import preprocess_for
from skin.training.options import Options
from skin.training.splits import read_splits
from skin.utils.console import Log
from tests.tiny import picture

import pytest
from PIL import Image


class Bars(Log):
    """Notes each bar: its title, how many images it waits for, and how many came."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.seen: list[tuple[str, int, int]] = []

    @contextlib.contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        came: list[int] = []
        yield came.append
        self.seen.append((title, total, sum(came)))


@pytest.mark.parametrize("skip_bad_images", [False, True])
def test_reading_a_data_folder_shows_how_far_it_has_come(demo_folder: Path, skip_bad_images: bool) -> None:
    settings = Options(data=demo_folder, cache="off", image_size=64, skip_bad_images=skip_bad_images)
    bars = Bars()
    parts = read_splits(settings, log=bars)
    assert bars.seen == [("reading images", 160, 160), ("comparing images", 160, 160)]
    assert read_splits(settings).rows.equals(parts.rows)  # in silence


def test_images_of_one_patient_by_their_paths_stand_in_one_split(tmp_path: Path) -> None:
    for number in range(24):
        image = tmp_path / ("mel" if number < 12 else "nv") / f"P{number // 3}_{number}.png"
        image.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(number, 16, 16)).save(image)
    settings = Options(data=tmp_path, cache="off", image_size=32, keep_duplicates=True, group_by=r"(P\d+)_")
    rows = read_splits(settings).rows
    assert rows["group"].nunique() == 8
    assert rows.groupby("group")["split"].nunique().max() == 1
    assert read_splits(replace(settings, group_by=None)).rows["group"].nunique() == 24


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    (tmp_path / "disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", tmp_path / "disk"]).returncode:
        pytest.skip("no right to mount a file system")
    yield tmp_path / "disk"
    subprocess.run(["umount", tmp_path / "disk"], check=True)


@pytest.mark.parametrize(("run", "kept"), [("disk/cache/run", 0), ("elsewhere/run", 24)])
def test_the_cache_leaves_the_room_of_checkpoints_on_a_disk_that_both_are_on(
    run: str, kept: int, demo_folder: Path, small_disk: Path, tmp_path: Path
) -> None:
    settings = Options(
        data=demo_folder, cache=str(small_disk / "cache"), image_size=64, keep_duplicates=True, out=tmp_path / run
    )
    parts = read_splits(settings)
    cache = parts.open_cache(preprocess_for(settings.model, 64), settings, checkpoint_bytes=8 * 2**20)
    assert cache is not None
    for index in range(24):
        cache.read(index)
    assert len(list(small_disk.rglob("*.pixels"))) == kept


@pytest.mark.parametrize("limit", [1e300, float("inf")])
def test_a_limit_beyond_all_measure_is_none(limit: float, demo_folder: Path, tmp_path: Path) -> None:
    settings = Options(data=demo_folder, cache=str(tmp_path), image_size=32, keep_duplicates=True, cache_limit=limit)
    cache = read_splits(settings).open_cache(preprocess_for(settings.model, 32), settings)
    assert cache is not None
    cache.read(0)
    assert len(list(tmp_path.rglob("*.pixels"))) == 1


def test_images_that_are_not_compared_are_not_waited_for(demo_folder: Path) -> None:
    bars = Bars()
    read_splits(Options(data=demo_folder, cache="off", keep_duplicates=True), log=bars)
    assert [title for title, *_ in bars.seen] == ["reading images"]
