"""benchmark.py from the command line, on a small network and few images."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import benchmark
from skin.bench import bench_report, cells, input_path
from skin.bench.bench_settings import BenchSettings
from skin.bench.measure import Cell, Recipe
from skin.data.split import SPLITS
from skin.model.model import preprocess_for
from skin.training.parts import read_parts
from skin.training.settings import Settings
from skin.utils.errors import UserError
from skin.utils.parallel import Topology
from tests.conftest import ROOT

import numpy as np
import pytest
import torch

RunScript = Callable[..., "CompletedProcess[str]"]
SMALL = (
    "--model", "efficientnet_b0", "--image-size", "32", "--batch-size", "4", "--steps", "1", "--warmup", "1",
    "--rounds", "1", "--workers", "0", "--cache", "off",
)  # fmt: skip


KEY = {"gpus": 0, "parallel": "single", "amp": "off", "recipe": "ours", "model": "efficientnet_b0", "image_size": 32,
       "batch_size": 4}  # fmt: skip
REST = {
    "memory": {"gpus": [], "rss_mib": 1.0}, "precision": "float32", "whole_epoch": False, "workers": 0,
    "cached": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread_in_the_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_the_matrix_is_measured_shown_written_and_compared(
    demo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"bench.{name}" for name in ("json", "csv", "png")}
    options = [*SMALL, "--data", str(demo_folder), "--amp", "off"]
    old = {**benchmark.new_report("training", BenchSettings()), "train_images": 1}
    here = {**KEY, "device": old["environment"]["cpu"]}
    old["cells"] = [bench_report.row_of(here, [{**dict.fromkeys(bench_report.FIGURES, 0.001), **REST}])]
    (tmp_path / "old.json").write_text(json.dumps(old))
    options += ["--compare", str(tmp_path / "old.json")]
    outputs = ["--json", str(files["json"]), "--csv", str(files["csv"]), "--plot", str(files["png"])]
    assert benchmark.main([*options, "--gpus", "0,64", "--parallel", "ddp", *outputs]) == 0
    report = json.loads(files["json"].read_text())
    assert bench_report.problems(report) == []
    assert report["complete"]
    assert [(c["gpus"], c["recipe"], c["status"]) for c in report["cells"]] == [
        (0, "ours", "ok"), (0, "plain", "ok"), (64, "ours", "skipped"), (64, "plain", "skipped"),
    ]  # fmt: skip
    ours, plain = report["cells"][:2]
    assert ours["images_per_second"] > 0
    assert ours["memory"]["rss_mib"] > 100
    assert ours["speedup_over_plain"] == pytest.approx(ours["images_per_second"] / plain["images_per_second"])
    assert len(files["csv"].read_text().splitlines()) == 5
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    shown, compared = capsys.readouterr().out.split("compared with")
    assert "64 GPUs ddp" in shown
    assert "FASTER" in compared


def test_the_input_path_is_measured(demo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, sheet = tmp_path / "input.json", tmp_path / "input.csv"
    outputs = ["--json", str(out), "--csv", str(sheet)]
    assert benchmark.main([*SMALL, "--data", str(demo_folder), "--input", *outputs]) == 0
    rows = json.loads(out.read_text())["cells"]
    assert {(row["path"], row["workers"]) for row in rows} == {(p, w) for p in input_path.PATHS for w in (0, 2)}
    assert all(row["images_per_second"] > 0 for row in rows)
    assert "ours, cached" in capsys.readouterr().out
    assert sheet.read_text().splitlines()[0].startswith("path,workers,images_per_second,low,high,speedup_over_plain,")
    assert len(sheet.read_text().splitlines()) == 1 + len(rows)


def test_input_paths_are_compared_round_by_round() -> None:
    """The third round's machine was ten times slower, for both: no gain comes of it."""
    row = input_path._row("ours", 0, [30.0, 20.0, 4.0], [10.0, 10.0, 1.0])
    assert (row["images_per_second"], row["low"], row["high"]) == (20.0, 4.0, 30.0)
    assert (row["speedup_over_plain"], row["speedup_low"], row["speedup_high"]) == (3.0, 2.0, 4.0)


def test_a_training_part_smaller_than_a_batch_is_refused(demo_folder: Path) -> None:
    """112 of the 160 images are its share."""
    with pytest.raises(UserError, match=r"images in the training part do not fill a batch of 128; use a smaller"):
        benchmark.main(["--input", "--data", str(demo_folder), "--batch-size", "128"])


def test_a_training_part_of_one_batch_and_a_bit_is_enough(demo_folder: Path) -> None:
    """Our loader lets the last image join the batch before it."""
    settings = Settings(data=demo_folder, keep_duplicates=True)
    parts = read_parts(settings)
    batch_size = len(parts.of("train")) - 1
    rows = input_path.measure(
        parts, preprocess_for("efficientnet_b0", 32), batch_size, batches=1, rounds=1, device=torch.device("cpu")
    )
    assert len(rows) == len(input_path.PATHS) * len(input_path.WORKERS)


def test_arrays_have_no_input_path(tmp_path: Path) -> None:
    images, labels = np.zeros((20, 28, 28, 3), np.uint8), np.arange(20).reshape(-1, 1) % 2
    arrays = {f"{part}_{name}": a for part in SPLITS for name, a in (("images", images), ("labels", labels))}
    np.savez(tmp_path / "dermamnist.npz", **arrays)
    with pytest.raises(UserError, match="holds arrays of pixels, so --input has no JPEG to decode"):
        benchmark.main(["--input", "--data", str(tmp_path), "--batch-size", "4"])


def test_the_largest_batch_is_looked_for_among_each_replicas_share_of_the_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 100 images two GPUs can have 50 each."""
    tried: list[int] = []

    def run(cell: Cell, script: Path) -> dict[str, Any]:
        tried.append(cell.batch_size)
        return {"status": "oom", "reason": ""} if not cell.probe else {"status": "ok"}

    monkeypatch.setattr(cells, "run", run)
    settings = BenchSettings(gpus="2", amp="off", recipes="ours", parallel="dp", find_batch=True, rounds=1)
    matrix, said = matrix_of(settings), []
    matrix.measure(said.append)
    assert tried == [32, 50, 50]  # the last is the measurement
    assert said[1] == "2 GPUs dp, ours, amp off: 50 images a step, all that there are"
    (row,) = matrix.report["cells"]
    assert (row["batch_size"], row["largest_batch_size"], row["status"]) == (50, 50, "oom")


def matrix_of(settings: BenchSettings) -> benchmark.Matrix:
    """The matrix on a machine of two GPUs with 100 images."""
    planned = cells.plan(settings, present=2)
    rows = [bench_report.empty_row(cells.key_of(cell, "GPU"), "skipped", "not reached") for cell, _ in planned]
    environment: dict[str, Any] = {"gpu_devices": []}
    return benchmark.Matrix(settings, planned, {"train_images": 100, "cells": rows, "environment": environment})


def test_a_search_that_fails_is_a_row_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(cell: Cell, script: Path) -> dict[str, Any]:
        return {"status": "ok" if cell.amp and cell.probe else "failed", "reason": "no luck"}

    monkeypatch.setattr(cells, "run", run)
    matrix = matrix_of(BenchSettings(gpus="1", recipes="ours", find_batch=True, rounds=1))
    matrix.measure(lambda line: None)
    on, off = matrix.report["cells"]
    assert (on["largest_batch_size"], on["reason"]) == (100, "no luck")
    assert off["reason"] == "--find-batch: 1 GPU, ours, amp off fails at 32 images a step: no luck"


def test_a_round_that_fails_leaves_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"status": "ok", **dict.fromkeys(bench_report.FIGURES, 1.0), **REST}
    rounds = iter([figures, {"status": "oom", "reason": "out of memory"}])
    monkeypatch.setattr(cells, "run", lambda cell, script: next(rounds))
    matrix = matrix_of(BenchSettings(gpus="1", amp="off", recipes="ours", rounds=2))
    matrix.measure(lambda line: None)
    (row,) = matrix.report["cells"]
    assert (row["status"], row["rounds"], row["reason"]) == ("ok", 1, "failed rounds: 1 (out of memory)")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "0"], "--steps 0"),
        (["--input", "--plot", "plot.png"], "--plot is for training"),
        (["--input", "--compare", "old.json"], "--compare is for training"),
        (["--amp", "maybe"], "'maybe' is none of on, off"),
        (["--recipes", "ours,theirs"], "'theirs' is none of"),
        (["--model", "resnet50"], "resnet50"),
        (["--data", "nowhere"], "nowhere"),
        (["--plot", "plot.txt"], r"\.png, \.svg or \.pdf"),
        (["--json", "no/such/folder.json"], "there is no folder"),
    ],
)
def test_a_wrong_option_is_refused(options: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        benchmark.main(options)


def test_a_report_that_is_not_there_is_refused_before_anything_is_measured(demo_folder: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json"):
        benchmark.main(["--data", str(demo_folder), "--compare", "nowhere.json"])


def test_a_wrong_list_of_gpus_is_one_line_and_code_2(run_script: RunScript) -> None:
    done = run_script("benchmark.py", "--gpus", "3,x")
    assert done.returncode == 2
    assert done.stderr == "error: --gpus 3,x: write numbers with commas, such as 1,2,4; 0 is the CPU\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="its two processes would take two GPUs")
def test_a_ddp_cell_is_measured_by_two_processes(demo_folder: Path) -> None:
    """Without GPUs they train on the CPU together, by the way that GPUs would take."""
    settings = BenchSettings(
        data=demo_folder, model="efficientnet_b0", image_size=32, batch_size=4, workers=0, cache="off",
        recipes="ours", amp="off", gpus="2", parallel="ddp", steps=2, warmup=0,
    )  # fmt: skip
    cell = next(cell for cell, _ in cells.plan(settings, present=0) if cell.gpus == 2)
    found = cells.run(cell, ROOT / "benchmark.py")
    assert found["status"] == "ok", found
    assert found["images_per_second"] > 0
    assert found["memory"]["gpus"] == found["devices"] == []


def cell_without_memory(folder: Path, data: Path, world: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The task of a cell whose recipe finds no memory, in the first of `world` processes."""

    def no_memory(*arguments: object) -> Recipe:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    @contextlib.contextmanager
    def setup(gpus: int | None) -> Iterator[Topology]:
        yield Topology(torch.device("cpu"), world=world)

    monkeypatch.setattr(Topology, "gather", lambda self, value: [value] * world)
    monkeypatch.setattr("skin.utils.parallel.setup", setup)
    monkeypatch.setitem(benchmark.RECIPES, "ours", no_memory)
    settings = BenchSettings(data=data, model="efficientnet_b0", image_size=32, batch_size=4, recipes="ours")
    cell, _ = cells.plan(settings, present=0)[0]
    task = folder / "cell.json"
    task.write_text(json.dumps(dataclasses.asdict(cell)))
    return task


def test_a_process_that_runs_out_of_memory_alone_is_a_row(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert benchmark.run_cell(cell_without_memory(tmp_path, demo_folder, 1, monkeypatch)) == 0
    found = json.loads((tmp_path / "cell.result").read_text())
    assert found == {"devices": [], "status": "oom", "reason": "out of memory at 4 images a replica"}


def test_a_process_of_several_that_runs_out_of_memory_does_not_go_quietly(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others would wait for it; torchrun ends them when it fails."""
    with pytest.raises(torch.OutOfMemoryError):
        benchmark.run_cell(cell_without_memory(tmp_path, demo_folder, 2, monkeypatch))


@pytest.mark.skipif(torch.cuda.is_available(), reason="its two processes would take two GPUs")
def test_two_processes_that_run_out_of_memory_are_a_row(demo_folder: Path, tmp_path: Path) -> None:
    """As they are started, and by what they really write."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys, torch\nsys.path.insert(0, {str(ROOT)!r})\nimport benchmark\n"
        "def no_memory(*arguments):\n    raise torch.OutOfMemoryError('CUDA out of memory.')\n"
        "benchmark.RECIPES['ours'] = no_memory\nbenchmark.start()\n"
    )
    settings = BenchSettings(data=demo_folder, model="efficientnet_b0", recipes="ours", gpus="2", parallel="ddp")
    cell = next(cell for cell, _ in cells.plan(settings, present=0) if cell.gpus == 2)
    assert cells.run(cell, script) == {"status": "oom", "reason": "out of memory"}


def test_help_fits_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        benchmark.main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


def test_ctrl_c_keeps_the_rows_so_far_and_leaves_no_process(demo_folder: Path, tmp_path: Path) -> None:
    """Rounds without end; it is interrupted once the first row is in the file."""
    out = tmp_path / "bench.json"
    command = [sys.executable, str(ROOT / "benchmark.py"), *SMALL, "--data", str(demo_folder), "--recipes", "ours",
               "--gpus", "0", "--amp", "off", "--rounds", "1000", "--json", str(out)]  # fmt: skip
    environment = {**os.environ, "BENCHMARK_TEST": str(tmp_path)}  # by which its processes are known
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("round 1 of"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait() == 130
    report = json.loads(out.read_text())
    assert not report["complete"]
    assert bench_report.problems(report) == []
    assert report["cells"][0]["status"] == "ok"
    assert "CPU" in rest
    mark = str(tmp_path).encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            alone = b"--cell" not in (entry / "cmdline").read_bytes().split(b"\0")
            assert alone or mark not in (entry / "environ").read_bytes()
