"""A run that was stopped, killed or moved goes on: to the same bits where that can be, and says where it cannot."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import train
from skin.model import checkpoint
from skin.training import run_folder
from skin.training.options import read_options
from skin.training.run import Run, open_run
from skin.training.states import checked_last
from skin.utils import files, parallel, run_folders
from skin.utils.errors import UserError
from tests import warm
from tests.cli.runs import SHORT, at_step, call, changes_from, left_over
from tests.conftest import slow
from tests.torture import RECIPE, ROOT

import pytest
import torch

pytestmark = pytest.mark.usefixtures("work")


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def stopped_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that got SIGTERM in its `step`-th step."""
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: send(signal.SIGTERM))
        assert call(*SHORT) == 143


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped after two steps."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("stopped")
        (folder / "data").symlink_to(data)
        patch.chdir(folder)
        stopped_at(2, patch)
    return folder / "run"


@pytest.fixture(scope="module")
def prepared(stopped: Path) -> Run:
    """The run that was stopped, restored."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(stopped.parent)
        options = read_options(None, ["--resume", "run"])
        with parallel.setup(0) as topology, open_run(options, topology) as opened:
            return train.begin(opened)


# ---- to the same bits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), slow(signal.SIGHUP, 129)])
def test_a_signal_stops_at_the_end_of_the_step(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_step(monkeypatch, 1, lambda: send(number))
    assert call(*SHORT) == code
    assert "stopped after epoch 0, step 1; saved" in capsys.readouterr().out
    assert checkpoint.load(Path("run/last.pt"))["progress"]["step"] == 1


@pytest.mark.slow
def test_the_run_goes_on_to_the_same_bits_with_other_workers_too(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_at(2, monkeypatch)
    assert call("--resume", "run", "--workers", 1) == 0
    said = capsys.readouterr().out
    assert "0 epochs and 2 steps are done" in said
    assert "note: " not in said
    assert re.search(r"goodput \d+%: .* in 2 starts went into steps and validations that count", said)
    assert changes_from(undisturbed) == []
    assert left_over(Path("run")) == []


@pytest.mark.slow
def test_the_fast_recipe_goes_on_to_the_same_bits_in_views_of_the_same_size(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = ("--recipe", "fast", "--epochs", 3, "--image-size", 48, "--save-minutes", 0)
    with monkeypatch.context() as patch:
        patch.chdir(data.parent)
        assert call(*fast, "--out", "fast") == 0
    at_step(monkeypatch, 6, lambda: send(signal.SIGTERM))
    assert call(*fast) == 143
    assert call("--resume", "run") == 0
    assert changes_from(data.parent / "fast") == []


@pytest.mark.slow
def test_a_signal_in_validation_waits_for_no_more_than_a_batch(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        collect = train.collect
        patch.setattr(train, "collect", lambda *a, **k: (send(signal.SIGTERM), collect(*a, **k))[1])
        assert call(*SHORT) == 143
    assert "stopped after epoch 0, step 3; saved" in capsys.readouterr().out
    assert not Path("run/best.pt").exists()
    assert call("--resume", "run") == 0
    assert changes_from(undisturbed) == []


@pytest.mark.slow
def test_a_signal_in_the_last_calibration_leaves_the_run_as_it_was(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        finish = train.finish
        patch.setattr(train, "finish", lambda *a: (send(signal.SIGTERM), finish(*a))[1])
        assert call(*SHORT) == 143
    assert checkpoint.load_best(Path("run/best.pt")).calibration == {}
    assert call("--resume", "run") == 0
    assert changes_from(undisturbed) == []


def test_a_signal_to_save_saves_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[int, int]] = []

    def look() -> None:
        for thread in threading.enumerate():
            if thread.name == "saver":
                thread.join()
        progress = checkpoint.load(Path("run/last.pt"))["progress"]
        saved.append((progress["epoch"], progress["step"]))

    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: send(signal.SIGUSR1))
        at_step(patch, 3, look)
        assert call(*SHORT) == 0
    assert saved == [(0, 2)]


@pytest.mark.slow
def test_last_pt_that_is_broken_gives_way_to_the_one_before(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: send(signal.SIGTERM))
        assert call(*SHORT, "--save-minutes", 0) == 143
    Path("run/last.pt").write_bytes(Path("run/last.pt").read_bytes()[:-100])
    Path("run/.best.pt.1.tmp").write_bytes(b"left by a kill")
    assert call("--resume", "run") == 0
    said = capsys.readouterr().out
    assert "going on from last-previous.pt" in said
    assert "0 epochs and 2 steps are done" in said
    assert changes_from(undisturbed) == []
    assert left_over(Path("run")) == []


def test_a_signal_to_the_whole_group_of_processes_stops_and_saves_too() -> None:
    """As torchrun, `timeout` and systemd send it: to the loader's processes as well."""
    command = [sys.executable, str(ROOT / "train.py"), *RECIPE, "--epochs", "500", "--data", "data", "--out", "run",
               "--workers", "1", "--amp", "off"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = warm.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        assert run.stdout is not None
        begun = any(line.startswith("epoch  1/") for line in run.stdout)
        os.killpg(run.pid, signal.SIGTERM)
        said, _ = run.communicate(timeout=60)
        with pytest.raises(ProcessLookupError):  # nothing is left of the group
            os.killpg(run.pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    assert (begun, run.returncode) == (True, 143), said
    assert "; saved. Go on with:" in said
    assert checkpoint.load(Path("run/last.pt"))["progress"]["epoch"] >= 1


def test_a_run_that_is_done_is_done_and_gets_the_row_that_a_kill_kept_from_metrics_csv(undisturbed: Path) -> None:
    shutil.copytree(undisturbed, "run")
    whole = Path("run/metrics.csv").read_text()
    Path("run/metrics.csv").write_text(whole.splitlines(keepends=True)[0])
    card = Path("run/model_card.md")
    card.write_text(card.read_text() + "What we have seen of it ourselves.\n")
    assert call("--resume", "run") == 0
    assert Path("run/metrics.csv").read_text() == whole
    assert card.read_text().endswith("What we have seen of it ourselves.\n")
    assert changes_from(undisturbed) == []


def test_a_run_that_is_done_keeps_the_options_that_it_was_trained_with(
    undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(undisturbed, "run")
    assert call("--resume", "run", "--lr", "0.5", "--batch-size", "64") == 0
    assert "note: no step is left to take, so nothing comes of --batch-size, --lr" in capsys.readouterr().out
    before = run_folders.read_config(undisturbed)
    for now in (run_folders.read_config(Path("run")), checkpoint.load(Path("run/best.pt"))["config"]):
        assert all(now[name] == before[name] for name in ("lr", "batch_size", "resolved"))


def test_a_run_stopped_before_its_first_save_begins_again(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stopped, "run")
    Path("run/last.pt").unlink()
    config = run_folders.read_config(Path("run"))
    config["resolved"]["processes"] = 2
    Path("run/config.json").write_text(json.dumps(config))
    at_step(monkeypatch, 1, lambda: send(signal.SIGTERM))
    assert call("--resume", "run") == 143
    said = capsys.readouterr().out
    assert "nothing was saved yet: from the beginning" in said
    assert "note: processes 1 (was 2): the results will not be the same to the last bit" in said
    assert "stopped after epoch 0, step 1" in said


@pytest.mark.parametrize("setup", ["alone-1-off", slow("ranks2-0-off-parts")])
def test_runs_killed_at_random_points_come_to_the_same_bits(setup: str) -> None:
    """The short form of `make torture`: real processes, alone or two together, and real SIGKILLs."""
    done = warm.run(
        [sys.executable, str(ROOT / "tests" / "torture.py"), "--kills", "2", "--counted", "--commands", "0",
         "--endings", "0", "--fuzz", "0", "--setups", setup, "--seed", "3"],
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 bits differ, 0 files left over" in done.stdout


# ---- on another machine, or with other data -------------------------------------------------------------


def test_another_precision_is_allowed_and_said(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stopped, "run")
    at_step(monkeypatch, 1, lambda: send(signal.SIGTERM))
    assert call("--resume", "run", "--amp", "bf16") == 143
    note = "note: precision bfloat16 (autocast) (was float32): the results will not be the same to the last bit"
    assert note in capsys.readouterr().out
    (resumed,) = run_folders.read_config(Path("run"))["resumed"]
    assert (resumed["epoch"], resumed["step"], resumed["resolved"]["precision"]) == (0, 2, "bfloat16 (autocast)")
    assert resumed["environment"]["torch"] == str(torch.__version__)


def metadata(change: Any) -> None:
    """Let the data be a copy whose table is changed: `change` gets and returns its rows."""
    source = Path("data").resolve()
    Path("data").unlink()
    shutil.copytree(source, "data")
    with open("data/HAM10000_metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open("data/HAM10000_metadata.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(change(rows))


def test_an_image_with_another_label_is_refused(stopped: Path) -> None:
    shutil.copytree(stopped, "run")
    config = json.loads(Path("run/config.json").read_text())
    metadata(lambda rows: [{**rows[0], "dx": "vasc" if rows[0]["dx"] != "vasc" else "nv"}, *rows[1:]])
    config["data"] = str(Path("data").resolve())
    Path("run/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"ISIC_\d+ is labelled \w+ now and was \w+ when the run began"):
        call("--resume", "run")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.update(classes=["a", "b"]), "classes have changed"),
        (lambda state: state["model"].pop("classifier.1.bias"), "classifier.1.bias is missing"),
        (lambda state: state["model"].update({"classifier.1.bias": torch.zeros(9)}), r"not torch.float32 \(7,\)"),
        (lambda state: state["optimizer"]["state"][3].pop("exp_avg"), "exp_avg is missing"),
        (lambda state: state["optimizer"]["state"].update({9999: {}}), "not this model's adam state"),
        (lambda state: state["optimizer"]["param_groups"][0].update(lr="fast"), "not this model's adam state"),
        (lambda state: state.update(scaler={"scale": 1.0}), "not the state of a GradScaler"),
        (lambda state: state.pop("progress"), "format version"),
        (lambda state: state.update(averaged={"steps": -1}), "'averaged' is not the mean of a model's weights"),
        (lambda state: state["averaged"]["model"].pop("classifier.1.bias"), "classifier.1.bias is missing"),
        (lambda state: state["averaged"].update(statistics=None), "'averaged' lacks the statistics"),
        (lambda state: state["progress"].update(epoch=-1), "'epoch' is -1"),
        (lambda state: state["progress"].update(step=10**6), "contradict"),
        (lambda state: state["progress"].update(records=torch.zeros(1, 9, 5)), "not those of its steps"),
        (lambda state: state["progress"].update(history=[{}]), "history"),
    ],
)  # fmt: skip
def test_a_state_that_does_not_fit_the_run_is_refused(change: Any, reason: str, stopped: Path, prepared: Run) -> None:
    state = checkpoint.load(stopped / "last.pt")
    change(state)
    with pytest.raises(UserError, match=reason):
        train.load_last(
            checked_last(state, prepared.trainer, prepared.splits.classes, Path("last.pt")), prepared.trainer,
            prepared.progress,
        )  # fmt: skip


def test_data_in_a_folder_whose_name_is_no_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree("data", "caf\udce9")
    for arguments in (("--data", "caf\udce9"), ("--resume", "run")):
        with monkeypatch.context() as patch:
            at_step(patch, 1, lambda: send(signal.SIGTERM))
            assert call(*arguments) == 143
    assert checkpoint.load(Path("run/last.pt"))["progress"]["step"] == 2


# ---- who was sooner -------------------------------------------------------------------------------------


def test_two_processes_do_not_train_in_one_folder(stopped: Path) -> None:
    shutil.copytree(stopped, "run")
    Path("run", run_folder.LOCK).touch()
    before = {file.name: file.read_bytes() for file in Path("run").iterdir() if file.is_file()}
    with run_folder.hold(Path("run")), pytest.raises(UserError, match="another process is training in"):
        call("--resume", "run")
    assert before == {file.name: file.read_bytes() for file in Path("run").iterdir() if file.is_file()}


def while_preparing(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have `act` called when a run has chosen its folder and has not written into it."""
    build = train.build_trainer
    monkeypatch.setattr(train, "build_trainer", lambda *a, **k: (act(), build(*a, **k))[1])


def test_a_run_that_took_the_folder_meanwhile_keeps_it_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def sooner() -> None:
        files.write_json(run_folder.create(Path("run")) / "config.json", {"of": "another run"})

    while_preparing(monkeypatch, sooner)
    with pytest.raises(UserError, match="already holds a run; go on with it by --resume"):
        call(*SHORT)
    assert json.loads(Path("run/config.json").read_text()) == {"of": "another run"}
    assert {file.name for file in Path("run").iterdir()} == {"config.json", run_folder.LOCK}


def test_a_run_that_is_being_written_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as other:
        while_preparing(monkeypatch, lambda: other.enter_context(run_folder.hold(run_folder.create(Path("run")))))
        with pytest.raises(UserError, match="another process is training in run"):
            call(*SHORT)
    assert [file.name for file in Path("run").iterdir()] == [run_folder.LOCK]


def test_two_runs_of_the_same_second_have_each_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder.time, "strftime", lambda form: "20240101-000000")
    first = Path("runs/20240101-000000-efficientnet_b0")
    while_preparing(monkeypatch, lambda: run_folder.create(first, own=True))
    at_step(monkeypatch, 1, lambda: send(signal.SIGTERM))
    assert train.main([*RECIPE, "--data", "data", "--workers", "0"]) == 143
    assert list(first.iterdir()) == []
    second = first.with_name(first.name + "-2")
    assert checkpoint.load(second / "last.pt")["progress"]["step"] == 1
    assert not Path("runs/latest").is_symlink()  # it has no model yet
    assert train.main(["--resume"]) == 0  # the newest run all the same
    assert Path("runs/latest").readlink() == Path(second.name)
