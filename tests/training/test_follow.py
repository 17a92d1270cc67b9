"""What is told of a run as it goes on: the page costs little, and nothing that fails in it ends the run."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from skin.training import follow, run_page, tracking
from skin.training.columns import NAMES
from skin.training.follow import Follower
from skin.training.options import Options, read_options
from skin.training.progress import Progress
from skin.utils import files
from skin.utils.console import Log
from skin.utils.errors import UserError
from skin.utils.memory import Memory
from skin.utils.parallel import Topology
from tests.training import test_run_page
from tests.training.test_standing import recorded

import numpy as np
import pytest
import torch
from rich.console import Console

USAGE = Memory((), 100.0)
splits = test_run_page.splits  # a fixture


class Followed:
    """A run whose epochs come from a recorded history and whose clock is set by hand."""

    def __init__(self, folder: Path, found: Any, **options: Any) -> None:
        self.now = 0.0
        self.held = ExitStack()
        trainer: Any = SimpleNamespace(
            options=replace(Options(data=found.index.root, epochs=12), **options), class_weights=torch.ones(4),
            topology=Topology(torch.device("cpu")), loader=SimpleNamespace(num_workers=1), dataset=range(28),
            classifier=SimpleNamespace(preprocess=SimpleNamespace(image_size=32)),
        )  # fmt: skip
        self.folder = folder
        self.progress = Progress(higher_is_better=True)
        self._said = io.StringIO()
        log = Log(folder / "train.log")
        log.console = Console(file=self._said, soft_wrap=True)
        self.follower = Follower(folder, found, trainer, log, self.held)

    def said(self) -> str:
        return self._said.getvalue()

    def epochs(self, number: int, seconds: float) -> list[str]:
        """Let so many epochs pass, of so many seconds each; return the epochs whose page was written."""
        written = []
        for row in recorded("demo")[self.progress.epoch :][:number]:
            self.now += seconds
            page = self.folder / run_page.NAME
            page.unlink(missing_ok=True)
            best = self.progress.end_epoch(row, row["val_accuracy"])
            self.follower.epoch(self.progress, row, USAGE, best)
            written += [f"{row['epoch']}"] if page.exists() else []
        return written


@pytest.fixture
def followed(tmp_path: Path, splits: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Followed]:
    made = Followed(tmp_path, splits)
    monkeypatch.setattr(follow, "time", SimpleNamespace(perf_counter=lambda: made.now))
    monkeypatch.setattr(follow, "draw_curves", lambda *a: b"")
    yield made
    made.held.close()


def test_the_page_is_there_from_the_first_epoch_and_renewed_with_each(followed: Followed) -> None:
    assert followed.epochs(3, seconds=60.0) == ["1", "2", "3"]


def test_short_epochs_share_a_renewal_so_that_it_takes_a_twentieth_of_the_time_at_most(followed: Followed) -> None:
    assert followed.epochs(1, seconds=4.0) == ["1"]
    assert followed.epochs(6, seconds=4.0) == ["4", "5", "6", "7"], "half a second each, until it is measured"


def test_a_renewal_that_takes_long_waits_for_longer(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(*_: Any) -> bytes:
        followed.now += 3.0
        return b""

    monkeypatch.setattr(follow, "draw_curves", draw)
    assert followed.epochs(8, seconds=20.0) == ["1", "2", "5", "8"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("no such font"), MemoryError()]
)
def test_whatever_goes_wrong_with_the_page_is_said_once_and_the_run_goes_on(
    followed: Followed, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    if isinstance(error, OSError):
        monkeypatch.setattr(files.os, "fsync", fail)
    else:
        monkeypatch.setattr(run_page, "html", fail)
    assert followed.epochs(3, seconds=60.0) == []
    followed.follower.stopped(followed.progress)
    followed.follower.ended(followed.progress, np.full((8, 4), 0.25), np.zeros(8, int), b"")
    said = followed.said()
    assert said.count("warning: report.html is not renewed: ") == 1
    assert ("the disk, or your share of it, is full" in said) == isinstance(error, OSError)
    assert [path.name for path in followed.folder.iterdir()] == ["train.log"]


def test_a_verdict_is_said_when_it_changes(followed: Followed) -> None:
    followed.epochs(5, seconds=60.0)
    said = [line for line in followed.said().splitlines() if not line.startswith("epoch")]
    assert said == [
        "too early to say after 1 epoch",
        "below the baseline after 3 epochs: try --lr 1e-3 (now 1e-4)",
        "learning: balanced accuracy 0.284 in epoch 5, where a guess has 0.250",
    ]


def test_a_run_that_was_stopped_says_so_on_its_page(followed: Followed) -> None:
    followed.epochs(2, seconds=60.0)
    followed.follower.stopped(followed.progress)
    assert "the run was stopped" in (followed.folder / run_page.NAME).read_text()


def test_how_long_the_run_goes_on(followed: Followed) -> None:
    assert followed.follower.left(followed.progress) == ""
    followed.epochs(1, seconds=1.0)
    followed.progress.begin_epoch(4, torch.device("cpu"))
    # Eleven epochs of the first one's 11.6 s are left.
    assert followed.follower.left(followed.progress).startswith("run: 2 min left, until about ")


# ---- --track ------------------------------------------------------------------------------------------------


class Writer:
    """Stands for tensorboard's, which is not installed here."""

    made: list[Writer]

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.added, self.closed = Path(folder), purge_step, {}, False
        self.broken = False
        Writer.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        if self.broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.added[tag, step] = value

    def flush(self) -> None:
        assert self.added

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    module: Any = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    Writer.made = []
    return Writer.made


def test_a_tracker_gets_every_column_of_every_epoch(
    tmp_path: Path, splits: Any, writers: list[Writer]
) -> None:
    followed = Followed(tmp_path, splits, track="tensorboard")
    followed.follower.begin(followed.progress)
    followed.epochs(2, seconds=60.0)
    followed.held.close()
    (writer,) = writers
    assert (writer.folder, writer.purge_step, writer.closed) == (tmp_path / tracking.FOLDER, 1, True)
    assert {step for _, step in writer.added} == {1, 2}
    assert {tag for tag, _ in writer.added} >= {"loss/train", "loss/val", "balanced_accuracy/val", "lr", "seconds"}
    assert len(writer.added) == 2 * (len(NAMES) - 1)
    assert writer.added["accuracy/val", 2] == recorded("demo")[1]["val_accuracy"]


def test_a_run_that_goes_on_hides_what_comes_again(
    tmp_path: Path, splits: Any, writers: list[Writer]
) -> None:
    followed = Followed(tmp_path, splits, track="tensorboard")
    followed.epochs(2, seconds=1.0)
    followed.follower.begin(followed.progress)
    assert writers[0].purge_step == 3
    followed.held.close()


def test_a_tracker_that_cannot_write_ends_no_run(
    tmp_path: Path, splits: Any, writers: list[Writer]
) -> None:
    followed = Followed(tmp_path, splits, track="tensorboard")
    followed.follower.begin(followed.progress)
    writers[0].broken = True
    followed.epochs(2, seconds=60.0)
    followed.held.close()
    assert followed.said().count("--track tensorboard: No space left on device; training goes on") == 1


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skin.training.options.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--track tensorboard needs a package that is not here: pip install "):
        read_options(None, ["--data", "no/such/folder", "--track", "tensorboard"])
    assert read_options(None, ["--data", "d", "--track", "none"]).track == "none"
    monkeypatch.setattr("skin.training.options.find_spec", lambda name: object())
    assert read_options(None, ["--data", "d", "--track", "tensorboard"]).track == "tensorboard"
