"""What an error advises works when it is followed: the option is taken from its text, and the run goes on."""

from __future__ import annotations

import itertools
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import train
from skin.data import demo
from skin.data.split import read_manifest
from skin.evaluation import test_set
from skin.model import checkpoint
from skin.training.run import Run
from skin.utils import files, run_folders
from skin.utils.errors import UserError
from tests.cli.runs import at_step, call
from tests.cli.test_resume import send
from tests.conftest import slow

import pytest
import torch


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped and saved after two steps of its four: 51 images to train on, 16 a step."""
    folder = tmp_path_factory.mktemp("advice")
    demo.write(folder / "data", images=70)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        at_step(patch, 2, lambda: send(signal.SIGTERM))
        assert call("--epochs", 1) == 143
    return folder / "run"


@pytest.fixture(autouse=True)
def work(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with that run, and `moved`: a copy of its data in another place."""
    shutil.copytree(stopped, tmp_path / "run")
    shutil.copytree(stopped.parent / "data", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(*options: object) -> str:
    """What a start that goes on with the run ends with."""
    with pytest.raises(UserError) as caught:
        call("--resume", "run", *options)
    return str(caught.value)


def advised(error: str, pattern: str) -> list[str]:
    """The words of `pattern`'s first group in an error."""
    found = re.search(pattern, error)
    assert found, error
    return found[1].split()


def config() -> dict[str, Any]:
    return run_folders.read_config(Path("run"))


def pictures(part: str) -> list[Path]:
    """The files of a part in `moved`."""
    names = read_manifest(Path("run/split.csv")).query("split == @part")["image"]
    return [next(Path("moved").rglob(f"{name}.*")) for name in names]


def cut_off(picture: Path) -> str:
    """Damage a file such that its header can be read and its pixels cannot; the image's name."""
    picture.write_bytes(picture.read_bytes()[: picture.stat().st_size // 2])
    return picture.stem


def raising(error: Exception) -> Callable[[pytest.MonkeyPatch], None]:
    def act() -> None:
        raise error

    return lambda patch: at_step(patch, 1, act)


def broken_loss(patch: pytest.MonkeyPatch) -> None:
    cross_entropy = train.weighted_cross_entropy

    def broken(*arguments: Any) -> Any:
        loss, *rest = cross_entropy(*arguments)
        return loss * float("nan"), *rest

    patch.setattr(train, "weighted_cross_entropy", broken)


GPU_FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
SHM_FULL = RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")
KILLED = RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed. ")


@pytest.mark.parametrize(
    ("fault", "pattern", "value", "said"),
    [
        (raising(GPU_FULL), r"for 16 images at a time: try (--batch-size 8 --accumulate 2); the last good", [],
         "note: accumulate 2 (was 1), steps an epoch 3 (was 4): the results will not be those of the undisturbed "
         "run\n"),
        slow(raising(MemoryError()), r"try (--batch-size 8) --accumulate 2, or fewer", [],
             "note: images a step 8 (was 16), steps an epoch 7 (was 4): the results will not be those of the "
             "undisturbed run; epoch 1 begins anew"),
        slow(raising(MemoryError()), r"or fewer (--workers)", [0], "0 epochs and 2 steps are done"),
        slow(raising(SHM_FULL), r"or use (--workers 0)", [], "0 epochs and 2 steps are done"),
        slow(raising(KILLED), r"try fewer (--workers)", [0], "0 epochs and 2 steps are done"),
        slow(broken_loss, r"last good checkpoint is kept; try a smaller (--lr)", [0.0002],
             "note: lr 0.0002 (was 0.002): the results will not be those of the undisturbed run"),
        (broken_loss, r"last good checkpoint is kept; .* or (--amp off)", [], "0 epochs and 2 steps are done"),
    ],
)  # fmt: skip
def test_after_a_fault_under_training(
    fault: Any, pattern: str, value: list[Any], said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    counted: list[float] = []
    end_epoch = train.end_epoch
    with monkeypatch.context() as patch:
        fault(patch)
        options = [*advised(error_of(), pattern), *value]

    def counting(run: Run, *rest: Any) -> None:
        counted.append(run.progress.totals(run.trainer.topology).images)
        end_epoch(run, *rest)

    monkeypatch.setattr(train, "end_epoch", counting)
    capsys.readouterr()
    assert call("--resume", "run", *options) == 0
    assert said in capsys.readouterr().out
    assert counted == [51]  # each image once, by whatever plan


def test_the_command_that_an_error_shows_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        raising(GPU_FULL)(patch)
        options = advised(error_of(), r"go on with: python train\.py (.*)$")
    assert options == ["--resume", str(Path("run").resolve())]
    assert call(*options, "--batch-size", 8) == 0
    (resumed,) = config()["resumed"]
    assert (resumed["epoch"], resumed["step"], resumed["changed"]) == (0, 0, {"batch_size": 8})
    resolved = config()["resolved"]
    assert (config()["batch_size"], resolved["images_per_step"], resolved["steps_per_epoch"]) == (8, 8, 7)


@pytest.mark.parametrize("fault", [broken_loss, raising(KILLED)])
def test_before_the_first_save_no_checkpoint_is_promised(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("run/last.pt").unlink()
    fault(monkeypatch)
    error = error_of()
    assert "nothing was saved yet" in error
    assert "is kept" not in error


# ---- the data -------------------------------------------------------------------------------------------


def test_data_that_moved(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = config()
    files.write_json(Path("run/config.json"), {**found, "data": str(Path("gone").resolve())})
    error = error_of()
    assert "the run's data folder" in error
    Path("link").symlink_to("moved")
    assert call(*advised(error, r"say where it is now: python train\.py (--resume \S+ --data) DIR$"), "link") == 0
    said = capsys.readouterr().out
    assert f"data moved from {Path('gone').resolve()}: names, labels and contents are as they were" in said
    assert "note: " not in said  # the same bits
    assert config()["data"] == str(Path("moved").resolve())
    best = checkpoint.load_best(Path("run/best.pt"))
    assert best.config["data"] == str(Path("moved").resolve())
    assert test_set.read(best, None, None, "test").root == Path("moved").resolve()
    Path("moved").rename("again")
    with pytest.raises(UserError, match=r"moved is gone; say where it is now: --data DIR$"):
        test_set.read(best, None, None, "test")
    assert test_set.read(best, Path("again"), None, "test").own


def test_a_slip_in_where_the_data_are_now() -> None:
    for flag in ("--data", "--labels"):
        assert error_of(flag, "slip").startswith(f"{flag} {Path('slip').resolve()}: there is nothing of that name")


@pytest.mark.parametrize("part", ["train", slow("val")])
def test_images_that_are_no_longer_there(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    gone = pictures(part)[0]
    gone.unlink()
    error = error_of("--data", "moved")
    assert gone.stem in error
    assert call("--resume", "run", "--data", "moved", *advised(error, r"(--allow-missing)")) == 0
    said = capsys.readouterr().out
    assert f"1 image left out (first: {gone.stem})" in said
    assert ("epoch 1 begins anew" in said) == (part == "train")
    assert gone.stem not in read_manifest(Path("run/split.csv"))["image"].tolist()


@pytest.mark.parametrize(("part", "recorded"), [slow("train", True), ("val", True), slow("val", False)])
def test_an_image_that_is_damaged(part: str, recorded: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """It is found before the first step by its length, or else when it is needed."""
    name = cut_off(pictures(part)[0])
    if not recorded:  # a run of an earlier version
        Path("run/contents.csv").unlink()
    moved = ("--data", "moved", "--cache", "off")
    error = error_of(*moved)
    assert f"cannot read the image {Path('moved').resolve()}" in error
    assert call("--resume", "run", *moved, *advised(error, r"(--skip-bad-images)")) == 0
    assert f"1 image left out (first: {name})" in capsys.readouterr().out
    assert name not in read_manifest(Path("run/split.csv"))["image"].tolist()
    assert config()["skip_bad_images"] is True


@pytest.mark.slow
def test_an_image_that_was_mended_where_it_lies(capsys: pytest.CaptureFixture[str]) -> None:
    """`mend or remove it`: one other file is taken, and is known from then on."""
    files.write_json(Path("run/config.json"), {**config(), "data": str(Path("moved").resolve())})
    one, other = pictures("train")[:2]
    one.write_bytes(other.read_bytes())
    assert call("--resume", "run") == 0
    assert f"1 image another file than before (first: {one.stem})" in capsys.readouterr().out
    assert call("--resume", "run") == 0
    assert "another file" not in capsys.readouterr().out


@pytest.mark.slow
def test_other_pictures_under_the_same_names(stopped: Path) -> None:
    files = sorted(Path("moved").rglob("*.jpg"))
    first = files[0].read_bytes()
    for picture, following in itertools.pairwise(files):
        picture.write_bytes(following.read_bytes())
    files[-1].write_bytes(first)
    before = {file.name: file.read_bytes() for file in Path("run").iterdir() if file.is_file()}
    error = error_of("--data", "moved")
    assert re.search(r"moved has other files for \d+ images of the run \(first: ISIC_\d+\)", error)
    assert {file.name: file.read_bytes() for file in Path("run").iterdir() if file.is_file()} == before
    record = Path(advised(error, r"remove (\S+) to go on")[0])
    assert call("--resume", "run", *advised(error, r"own \((--data) DIR\)"), stopped.parent / "data") == 0
    record.unlink()
    assert call("--resume", "run", "--data", "moved") == 0


# ---- the machine, and what cannot change ----------------------------------------------------------------


def test_fewer_gpus_than_before() -> None:
    found = config()
    files.write_json(Path("run/config.json"), {**found, "gpus": 99})
    assert call("--resume", "run", *advised(error_of("--gpus", 99), r"use (?:--gpus \d+, or 0|(--gpus 0))")) == 0


def test_a_run_begun_with_compile_goes_on_where_nothing_is_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    files.write_json(Path("run/config.json"), {**config(), "compile": True})
    assert call("--resume", "run") == 0


@pytest.mark.parametrize("option", ["--image-size 48", slow("--model efficientnet_b1")])
def test_what_would_be_another_run_is_one(option: str) -> None:
    with pytest.raises(UserError) as caught:
        call("--resume", "run", *option.split())
    options = advised(str(caught.value), r"start a new run with (.*)$")
    assert " ".join(options) == option
    shutil.move("moved", "data")
    assert call("--epochs", 1, "--out", "new", *options) == 0


# ---- --resume auto --------------------------------------------------------------------------------------


def test_auto_begins_goes_on_and_is_done(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move("moved", "data")
    command = ("--data", "data", "--epochs", 1, "--out", "new", "--resume", "auto", "--model", "efficientnet_b0",
               "--weights", "none", "--image-size", 32, "--batch-size", 16, "--lr", 0.002, "--gpus", 0)  # fmt: skip
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: send(signal.SIGTERM))
        assert call(*command) == 143
    assert call(*command) == 0
    assert "0 epochs and 2 steps are done" in capsys.readouterr().out
    assert not Path("new/attempts.json").exists()
    shutil.rmtree("data")  # a run that is done looks at nothing
    before = {file.name: file.stat().st_mtime_ns for file in Path("new").iterdir()}
    assert call(*command) == 0
    assert "new is done: there is nothing to go on with" in capsys.readouterr().out
    assert {file.name: file.stat().st_mtime_ns for file in Path("new").iterdir()} == before
