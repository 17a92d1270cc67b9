"""Signals: held until a step is done, ignored where they were, and no concern of a loader's process."""

from __future__ import annotations

import os
import pty
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from skin.data.dataset import PlainBatches, SkinDiseaseDataset, make_loader
from skin.model.network import preprocess_for
from skin.utils import signals
from skin.utils.console import Log
from skin.utils.signals import Interrupts

import numpy as np
import pytest
from PIL import Image

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ALL}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_stop_is_kept_for_the_end_of_the_step(number: int) -> None:
    with Interrupts() as held:
        held.hold()
        assert not held.stopping()
        send(number)
        assert held.stopping()
        assert held.stop == number


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_before_training_there_is_nothing_to_wait_for(number: int, code: int) -> None:
    with Interrupts(), pytest.raises(SystemExit) as leaving:
        send(number)
    assert leaving.value.code == code
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


def test_a_signal_to_save_saves_whenever_it_comes() -> None:
    with Interrupts() as held:
        send(signal.SIGUSR1)
        assert held.save
        assert not held.stopping()


def test_the_ctrl_c_that_torchrun_passes_on_is_not_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(signals.time, "monotonic", lambda: now)
    with Interrupts() as held:
        held.hold()
        send(signal.SIGINT)
        now += 0.1
        send(signal.SIGINT)
        now += 2.0
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_the_first_signal_gives_the_exit_code() -> None:
    with Interrupts() as held:
        held.hold()
        send(signal.SIGHUP)
        send(signal.SIGTERM)
        assert held.stop == signal.SIGHUP


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupts() as held:
        send(signal.SIGHUP)
        assert held.stop is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_the_handlers_are_those_from_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in ALL]
    with Interrupts():
        pass
    assert [signal.getsignal(number) for number in ALL] == before


def test_a_loaders_process_leaves_signals_to_the_main_process(tmp_path: Path) -> None:
    """Ctrl-C goes to all processes of a terminal, torchrun's SIGTERM to all of a group; a loader's process that
    dies of it would take the run with it before its save."""
    for number in range(8):
        Image.fromarray(np.full((80, 80, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(8)]
    dataset = SkinDiseaseDataset(paths, np.arange(8), preprocess_for("efficientnet_b0", 32))
    with Interrupts() as held:
        held.hold()
        batches = iter(make_loader(dataset, PlainBatches(8, 2), workers=1))
        first = next(batches)
        for worker in batches._workers:  # type: ignore[attr-defined]
            for number in ALL:
                os.kill(worker.pid, number)
        labels = [*first.labels.tolist(), *(label for batch in batches for label in batch.labels.tolist())]
    assert labels == list(range(8))


def test_a_terminal_that_goes_away_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    master, terminal = pty.openpty()
    with open(terminal, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        log = Log(tmp_path / "train.log")
        log.say("one")
        os.close(master)
        with log.progress("epoch", 2) as advance:
            advance(1)
        log.say("two")
    assert [line.split()[-1] for line in (tmp_path / "train.log").read_text().splitlines()] == ["one", "two"]


def test_a_run_whose_output_is_closed_has_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the shell's `>&-` leaves it."""
    monkeypatch.setattr(sys, "stdout", None)
    log = Log(tmp_path / "train.log")
    log.say("one")
    with log.progress("epoch", 2) as advance:
        advance(1)
    log.say("two")
    assert [line.split()[-1] for line in (tmp_path / "train.log").read_text().splitlines()] == ["one", "two"]


def test_a_full_disk_costs_the_log_a_line_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    Log(Path("/dev/full")).say("said")
    assert capsys.readouterr().out == "said\n"
