"""What is shown while the data of a run are read; what the parts hold is tested in test_split and test_trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from skin.console import Log
from skin.parts import read_parts
from skin.settings import Settings

import pytest


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
    settings = Settings(data=demo_folder, cache="off", image_size=64, skip_bad_images=skip_bad_images)
    bars = Bars()
    parts = read_parts(settings, log=bars)
    assert bars.seen == [("reading images", 160, 160), ("comparing images", 160, 160)]
    assert read_parts(settings).rows.equals(parts.rows)  # in silence


def test_images_that_are_not_compared_are_not_waited_for(demo_folder: Path) -> None:
    bars = Bars()
    read_parts(Settings(data=demo_folder, cache="off", keep_duplicates=True), log=bars)
    assert [title for title, *_ in bars.seen] == ["reading images"]
