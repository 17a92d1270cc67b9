"""What breaks under a running training: one clear line, a code that is not 0, and the data intact."""

from __future__ import annotations

import functools
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import train
from skin.model import checkpoint
from skin.utils.errors import UserError
from tests.cli.runs import at_step, call, left_over
from tests.torture import RECIPE, ROOT

import pytest
import torch

pytestmark = pytest.mark.usefixtures("work")


@pytest.fixture
def no_larger_than() -> Iterator[Any]:
    """A function after which no file of this process may grow over so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def progress() -> tuple[int, int]:
    state = checkpoint.load(Path("run/last.pt"))["progress"]
    return state["epoch"], state["step"]


def test_no_room_for_last_pt_is_said_and_the_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, no_larger_than: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """best.pt has a quarter of a MB and last.pt three times as much."""
    at_step(monkeypatch, 1, lambda: no_larger_than(4 * 10**5))
    assert call("--epochs", 1, "--save-minutes", 0) == 0
    said = capsys.readouterr().out
    assert "warning: cannot write run/last.pt: File too large;" in said
    assert "training goes on, the next save tries again" in said
    assert not Path("run/last.pt").exists()
    assert checkpoint.load_best(Path("run/best.pt")).calibration != {}
    assert left_over(Path("run")) == []


def test_no_room_for_best_pt_stops_and_the_run_can_go_on_from_the_last_save(
    monkeypatch: pytest.MonkeyPatch, no_larger_than: Any
) -> None:
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    at_step(monkeypatch, 4, lambda: no_larger_than(10**5))
    with pytest.raises(UserError, match=r"cannot write run/best\.pt: File too large"):
        call("--epochs", 1)
    assert progress() == (0, 2)
    assert left_over(Path("run")) == []


def test_a_run_folder_that_is_removed_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # Renamed, since a removal file by file races with the save that is under way.
    at_step(monkeypatch, 2, lambda: Path("run").rename("elsewhere"))
    with pytest.raises(UserError, match="the run folder run is gone"):
        call("--save-minutes", 0)


@pytest.mark.slow
def test_steps_that_the_scaler_skips_are_counted_over_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """51 images to train on are four steps: of 16, 16, 16 and 3."""
    far_too_large = functools.partial(torch.amp.GradScaler, init_scale=2.0**100)
    monkeypatch.setattr(torch.amp, "GradScaler", far_too_large)
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert call("--epochs", 1, "--amp", "fp16") == 143
    assert call("--resume", "run", "--amp", "fp16") == 0
    assert "  4 steps skipped so far" in capsys.readouterr().out


def test_an_image_that_vanishes_between_epochs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path("data").resolve()
    Path("data").unlink()
    shutil.copytree(source, "data")
    pictures = sorted(Path("data").rglob("*.jpg"))

    def remove() -> None:
        for picture in pictures:
            picture.unlink()

    at_step(monkeypatch, 5, remove)
    with pytest.raises(UserError, match=r"cannot read the image .*ISIC_\d+\.jpg: No such file or directory"):
        call("--cache", "off")
    assert progress() == (1, 0)


def test_a_loss_that_is_not_finite_names_the_images_and_keeps_the_last_good_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cross_entropy = train.weighted_cross_entropy

    def broken(*arguments: Any) -> Any:
        loss, *rest = cross_entropy(*arguments)
        return loss * float("nan"), *rest

    at_step(monkeypatch, 6, lambda: monkeypatch.setattr(train, "weighted_cross_entropy", broken))
    message = r"not finite in epoch 2, step 2 \(images ISIC_\d+\.jpg.*; the last good checkpoint is kept; .*--amp off"
    with pytest.raises(UserError, match=message):
        call("--save-minutes", 0)
    state = checkpoint.load(Path("run/last.pt"))
    assert (state["progress"]["epoch"], state["progress"]["step"]) == (1, 1)
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())


def test_too_little_memory_on_the_gpu_says_which_batch_size_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    at_step(monkeypatch, 1, full)
    with pytest.raises(UserError, match=r"for 16 images at a time: try --batch-size 8 --accumulate 2"):
        call()


@pytest.mark.slow
def test_a_loader_process_that_is_killed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    loaders: list[Any] = []
    make_iterator = torch.utils.data.DataLoader._get_iterator

    def remember(loader: Any) -> Any:
        loaders.append(make_iterator(loader))
        return loaders[-1]

    monkeypatch.setattr(torch.utils.data.DataLoader, "_get_iterator", remember)

    def kill() -> None:
        worker = loaders[0]._workers[0]
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()

    at_step(monkeypatch, 5, kill)
    with pytest.raises(UserError, match=r"loader process \d+ .*fewer --workers; the last good checkpoint is kept"):
        call("--workers", 1)
    assert progress() == (1, 0)


@pytest.mark.slow
def test_a_terminal_that_is_closed_saves_and_ends_with_129(work: Path) -> None:
    """The whole of it: a process that leads a terminal's session, and the terminal goes away."""
    master, terminal = pty.openpty()
    options = ["--data", "data", "--out", "run", "--workers", "1", "--amp", "off", "--epochs", "30"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *RECIPE, *options],
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, env=environment,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(terminal)
    said = b""
    while b"after 1 epoch" not in said:
        said += os.read(master, 4096)
    os.close(master)
    assert child.wait(timeout=120) == 129
    assert progress() >= (1, 0)
    assert "stopped after" in Path("run/train.log").read_text()
    assert left_over(Path("run")) == []


def test_the_scripts_exit_code_is_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def lost() -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")

    at_step(monkeypatch, 1, lost)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as leaving:
        train.cli.run(call)
    signal.signal(signal.SIGTERM, before)
    assert leaving.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: another of the training processes has ended")
