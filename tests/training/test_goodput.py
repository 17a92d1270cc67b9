"""Goodput: what counts of the time since a run began, and when nobody can know it."""

from __future__ import annotations

import json
from pathlib import Path

from skin.training import goodput
from skin.training.columns import Row
from skin.training.progress import Progress
from skin.training.saver import Saver
from skin.utils import files

import pytest
import torch

ROWS: list[Row] = [{"epoch": 1, "seconds": 200.0}, {"epoch": 2, "seconds": 100.0}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that began at 1,000 s, started again once after a kill, and ends at 1,400."""
    files.write_json(tmp_path / goodput.NAME, {"torch": "2", **goodput.first_start(1000.0)})
    goodput.note_start(tmp_path)
    monkeypatch.setattr(goodput.time, "time", lambda: 1400.0)
    return tmp_path


def test_it_is_the_seconds_of_the_epochs_over_those_since_the_first_start(folder: Path) -> None:
    found = goodput.note_end(folder, ROWS)
    assert found == goodput.Goodput(0.75, 300.0, 400.0, 2)
    assert str(found) == "goodput 75%: 5 min of 7 min in 2 starts went into steps and validations that count"
    assert json.loads((folder / goodput.NAME).read_text()) == {
        "torch": "2",
        "goodput": {"began": 1000.0, "goodput": 0.75, "useful_seconds": 300.0, "seconds": 400.0, "starts": 2},
    }


def test_a_start_after_the_end_that_trains_nothing_changes_nothing_but_the_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goodput.note_end(folder, ROWS)
    monkeypatch.setattr(goodput.time, "time", lambda: 90000.0)  # the next day
    goodput.note_start(folder)
    assert goodput.note_end(folder, ROWS) == goodput.Goodput(0.75, 300.0, 400.0, 3)
    more = goodput.note_end(folder, [*ROWS, {"epoch": 3, "seconds": 590.0}])
    assert more == goodput.Goodput(0.01, 890.0, 89000.0, 3)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"goodput": 3}', '{"goodput": {"began": "x", "starts": 1}}'])
def test_a_run_of_an_earlier_version_has_none(folder: Path, content: str) -> None:
    (folder / goodput.NAME).write_text(content)
    goodput.note_start(folder)
    assert goodput.note_end(folder, ROWS) is None
    assert (folder / goodput.NAME).read_text() == content


def test_a_clock_that_was_set_back_gives_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goodput.time, "time", lambda: 1200.0)
    assert goodput.note_end(folder, ROWS) is None


def test_a_save_is_no_time_of_an_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The steps take 10 s, and a save in their midst holds them up for 3."""
    now = 100.0
    monkeypatch.setattr("skin.training.progress.time.perf_counter", lambda: now)
    progress = Progress(higher_is_better=True)
    progress.begin_epoch(4, torch.device("cpu"))
    now += 6
    progress.tick()
    assert progress.seconds == 6
    now += 3
    progress.held_up(3.0)
    now += 4
    progress.tick()
    assert progress.seconds == 10


def test_the_saver_says_how_long_it_held_up_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[float] = []
    times = iter([5.0, 7.5])
    saver = Saver(tmp_path, print, held.append)
    monkeypatch.setattr(saver, "_write", lambda *contents: None)
    monkeypatch.setattr("skin.training.saver.time", type("Clock", (), {"perf_counter": lambda: next(times)}))
    with saver:
        saver.save({"model": {}}, None, [])  # type: ignore[typeddict-item]
    assert held == [2.5]
