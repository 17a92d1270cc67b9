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
from skin.bench import cases, columns, input_path, plan, process, report
from skin.bench.cases import Case, Key
from skin.bench.columns import Row
from skin.bench.forecast import Trace
from skin.bench.matrix import Matrix
from skin.bench.options import BenchmarkOptions
from skin.bench.process import Result
from skin.data.split import SPLITS
from skin.model.network import preprocess_for
from skin.training.options import Options
from skin.training.splits import read_splits
from skin.utils.errors import UserError
from tests import warm
from tests.conftest import ROOT

import numpy as np
import pytest
import torch

RunScript = Callable[..., "CompletedProcess[str]"]
SMALLEST = (
    "--model", "efficientnet_b0", "--image-size", "32", "--batch-size", "4", "--steps", "1", "--rounds", "1",
)  # fmt: skip
SMALL = (*SMALLEST, "--warmup", "1", "--workers", "0", "--cache", "off")


KEY = Key(
    gpus=0, parallel="single", amp="off", recipe="ours", model="efficientnet_b0", image_size=32, batch_size=4
)  # fmt: skip


def measured(speed: float) -> Result:
    values: dict[str, columns.Value] = {column.name: speed for column in columns.COLUMNS if column.metric}
    values |= {"precision": "float32", "whole_epoch": False, "workers": 0, "cached": False}
    return Result("ok", None, columns.Round(values, {"gpus": [], "rss_mib": 1.0}))


@pytest.fixture(autouse=True)
def warm_cases_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cold = subprocess.Popen

    def start(command: list[str], **how: Any) -> subprocess.Popen[Any]:
        return (warm.Popen if command[0] == sys.executable else cold)(command, **how)

    monkeypatch.setattr(process.subprocess, "Popen", start)


def test_the_matrix_is_measured_shown_written_and_compared(
    demo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"bench.{name}" for name in ("json", "csv", "png")}
    options = [*SMALL, "--data", str(demo_folder), "--amp", "off"]
    heading, found = report.new_heading("training", BenchmarkOptions()), measured(0.001).round
    assert found is not None
    old = report.Report(heading, 1, [Row(KEY, heading.environment["cpu"], "ok", rounds=[found])], True)
    (tmp_path / "old.json").write_text(json.dumps(old.to_json()))
    options += ["--compare", str(tmp_path / "old.json")]
    outputs = ["--json", str(files["json"]), "--csv", str(files["csv"]), "--plot", str(files["png"])]
    assert benchmark.main([*options, "--gpus", "0,64", "--parallel", "ddp", *outputs]) == 0
    content = json.loads(files["json"].read_text())
    assert content["complete"]
    assert [(c["gpus"], c["recipe"], c["status"]) for c in content["cells"]] == [
        (0, "ours", "ok"), (0, "plain", "ok"), (64, "ours", "skipped"), (64, "plain", "skipped"),
    ]  # fmt: skip
    ours, plain = content["cells"][:2]
    assert ours["images_per_second"] > 0
    assert ours["memory"]["rss_mib"] > 100
    assert ours["speedup_over_plain"] == pytest.approx(ours["images_per_second"] / plain["images_per_second"])
    assert len(files["csv"].read_text().splitlines()) == 5
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    shown, compared = capsys.readouterr().out.split("compared with")
    assert "64 GPUs ddp" in shown
    assert "FASTER" in compared


@pytest.mark.slow
def test_the_input_path_is_measured(demo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, sheet = tmp_path / "input.json", tmp_path / "input.csv"
    outputs = ["--json", str(out), "--csv", str(sheet)]
    assert benchmark.main([*SMALLEST, "--data", str(demo_folder), "--input", *outputs]) == 0
    rows = json.loads(out.read_text())["cells"]
    assert {(row["path"], row["workers"]) for row in rows} == {(p, w) for p in input_path.PATHS for w in (0, 2)}
    assert all(row["images_per_second"] > 0 for row in rows)
    assert "ours, cached" in capsys.readouterr().out
    assert sheet.read_text().splitlines()[0].startswith("path,workers,images_per_second,low,high,speedup_over_plain,")
    assert len(sheet.read_text().splitlines()) == 1 + len(rows)


def test_input_paths_are_compared_round_by_round() -> None:
    """The third round's machine was ten times slower, for both: no gain comes of it."""
    row = input_path.Row("ours", 0, [30.0, 20.0, 4.0], [10.0, 10.0, 1.0]).to_json()
    assert (row["images_per_second"], row["low"], row["high"]) == (20.0, 4.0, 30.0)
    assert (row["speedup_over_plain"], row["speedup_low"], row["speedup_high"]) == (3.0, 2.0, 4.0)


@pytest.mark.parametrize(("kind", "module"), [("--plan", plan), ("--input", input_path)])
def test_an_image_that_is_damaged_can_be_left_out_as_the_error_advises(
    kind: str, module: Any, demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "benchmark", lambda options, splits, *others: len(splits.rows))
    for number, image in enumerate(sorted(demo_folder.rglob("*.jpg"))[:12]):
        folder = tmp_path / ("nv" if number % 2 else "mel")
        folder.mkdir(exist_ok=True)
        (folder / image.name).write_bytes(image.read_bytes())
    (folder / "bad.jpg").touch()
    with pytest.raises(UserError, match=r"bad\.jpg: an empty file.*--skip-bad-images"):
        benchmark.main([kind, "--data", str(tmp_path)])
    assert benchmark.main([kind, "--data", str(tmp_path), "--skip-bad-images"]) == 12
    assert "left out, cannot be read" in capsys.readouterr().out


def test_a_case_leaves_out_damaged_images_if_that_is_asked_for() -> None:
    for asked in (True, False):
        [planned, *_] = cases.plan(BenchmarkOptions(gpus="0", skip_bad_images=asked), present=0)
        assert planned.case.training_settings().skip_bad_images is asked


def test_a_training_part_smaller_than_a_batch_is_refused(demo_folder: Path) -> None:
    """112 of the 160 images are its share."""
    with pytest.raises(UserError, match=r"images in the training split do not fill a batch of 128; use a smaller"):
        benchmark.main(["--input", "--data", str(demo_folder), "--batch-size", "128"])


@pytest.mark.slow
def test_a_training_part_of_one_batch_and_a_bit_is_enough(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our loader lets the last image join the batch before it."""
    monkeypatch.setattr(input_path, "WORKERS", (0,))  # the batches are those of any number
    settings = Options(data=demo_folder, keep_duplicates=True)
    parts = read_splits(settings)
    batch_size = len(parts.of("train")) - 1
    measured = input_path.measure(
        parts, preprocess_for("efficientnet_b0", 32), batch_size, batches=1, rounds=1, device=torch.device("cpu")
    )
    assert len(list(measured)) == len(input_path.PATHS) * len(input_path.WORKERS)


def test_ctrl_c_keeps_the_rounds_of_the_input_path(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes in the second round, after its plain path; the speed with two loader processes was not measured."""

    def measure(*given: object) -> Iterator[tuple[tuple[str, int], float]]:
        yield from [(("plain", 0), 10.0), (("ours", 0), 20.0), (("ours", 2), 30.0), (("plain", 0), 11.0)]
        raise KeyboardInterrupt

    monkeypatch.setattr(input_path, "measure", measure)
    out = tmp_path / "input.json"
    with pytest.raises(KeyboardInterrupt):
        benchmark.main([*SMALLEST, "--data", str(demo_folder), "--input", "--json", str(out)])
    content = json.loads(out.read_text())
    assert not content["complete"]
    found = [(cell["path"], cell["workers"], cell["samples"]) for cell in content["cells"]]
    assert found == [("plain", 0, [10.0, 11.0]), ("ours", 0, [20.0])]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU could be measured")
def test_a_matrix_without_a_case_is_refused(demo_folder: Path) -> None:
    with pytest.raises(UserError, match="nothing can be measured: only on a GPU is the step compiled"):
        benchmark.main(["--data", str(demo_folder), "--recipes", "ours-compiled", "--gpus", "0"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_answers_on_a_gpu_that_is_not_there_are_refused() -> None:
    with pytest.raises(UserError, match="--gpus 3: answers are measured on one device; 0 is the CPU, this machine"):
        benchmark.main(["--infer", "--gpus", "3"])


def test_arrays_have_no_input_path(tmp_path: Path) -> None:
    images, labels = np.zeros((20, 28, 28, 3), np.uint8), np.arange(20).reshape(-1, 1) % 2
    arrays = {f"{part}_{name}": a for part in SPLITS for name, a in (("images", images), ("labels", labels))}
    np.savez(tmp_path / "dermamnist.npz", **arrays)
    with pytest.raises(UserError, match="holds arrays of pixels, so --input has no JPEG to decode"):
        benchmark.main(["--input", "--data", str(tmp_path), "--batch-size", "4"])


def test_the_largest_batch_is_looked_for_among_each_replicas_share_of_the_images() -> None:
    """Of 100 images two GPUs can have 50 each."""
    tried: list[int] = []

    def run(case: Case) -> Result:
        tried.append(case.key.batch_size)
        return Result("ok") if case.probe else Result("oom", "")

    said: list[str] = []
    options = BenchmarkOptions(gpus="2", amp="off", recipes="ours", parallel="dp", find_batch=True, rounds=1)
    (row,) = rows_of(options, run, said)
    assert tried == [32, 50, 50]  # the last is the measurement
    assert said[1] == "2 GPUs dp ours amp off: 50 images a step, all that there are"
    assert (row.key.batch_size, row.largest_batch_size, row.status) == (50, 50, "oom")


def rows_of(options: BenchmarkOptions, run: Callable[[Case], Result], said: list[str] | None = None) -> list[Row]:
    """Measure the matrix on a machine of two GPUs with 100 images, by a stand-in for the processes."""
    heading = report.Heading("training", "", "", {}, {"cpu": "CPU", "gpu_devices": []})
    say = [].append if said is None else said.append
    matrix = Matrix(options, cases.plan(options, present=2), heading, 100, run, say)
    matrix.measure()
    return matrix.report.rows


def test_a_search_that_fails_is_a_row_and_the_others_go_on() -> None:
    def run(case: Case) -> Result:
        return Result("ok") if case.key.amp == "on" and case.probe else Result("failed", "no luck")

    on, off = rows_of(BenchmarkOptions(gpus="1", recipes="ours", find_batch=True, rounds=1), run)
    assert (on.largest_batch_size, on.reason) == (100, "no luck")
    assert off.reason == "--find-batch: 1 GPU ours amp off fails at 32 images a step: no luck"


def test_a_round_that_fails_leaves_its_trace() -> None:
    rounds = iter([measured(1.0), Result("oom", "out of memory")])
    options = BenchmarkOptions(gpus="1", amp="off", recipes="ours", rounds=2)
    (row,) = rows_of(options, lambda case: next(rounds))
    assert (row.status, len(row.rounds), row.reason) == ("ok", 1, "failed rounds: 1 (out of memory)")


def test_what_was_not_reached_says_so(tmp_path: Path) -> None:
    """The first case is measured; Ctrl-C comes in the second."""
    results = iter([measured(1.0)])

    def run(case: Case) -> Result:
        for result in results:
            return result
        raise KeyboardInterrupt

    options = BenchmarkOptions(gpus="1", recipes="ours", json=tmp_path / "b.json")
    with pytest.raises(KeyboardInterrupt):
        rows_of(options, run)
    content = json.loads((tmp_path / "b.json").read_text())
    assert not content["complete"]
    reasons = [(cell["status"], cell["reason"]) for cell in content["cells"]]
    assert reasons == [("ok", None), ("skipped", "not reached: interrupted")]


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
def test_a_ddp_case_is_measured_by_two_processes(demo_folder: Path) -> None:
    """Without GPUs they train on the CPU together, by the way that GPUs would take."""
    found = process.run(ddp_case(demo_folder), ROOT / "benchmark.py")
    assert (found.status, found.reason) == ("ok", None)
    assert found.round is not None
    speed = found.round.values["images_per_second"]
    assert isinstance(speed, float)
    assert speed > 0
    assert found.round.memory["gpus"] == []


def ddp_case(data: Path) -> Case:
    options = BenchmarkOptions(
        data=data, model="efficientnet_b0", image_size=32, batch_size=4, workers=0, cache="off", recipes="ours",
        amp="off", gpus="2", parallel="ddp", steps=2, warmup=0,
    )  # fmt: skip
    return next(case for case, _ in cases.plan(options, present=0) if case.key.gpus == 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="its two processes would take two GPUs")
@pytest.mark.parametrize("failing", ["1", *(pytest.param(ranks, marks=pytest.mark.slow) for ranks in ("0, 1", "0"))])
def test_processes_that_run_out_of_memory_are_a_row(demo_folder: Path, tmp_path: Path, failing: str) -> None:
    """As they are started, and by what they really report; a peer's lost connection is not the reason."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, sys, torch\nsys.path.insert(0, {str(ROOT)!r})\nimport benchmark\n"
        "class Loop(benchmark.OurLoop):\n"
        "    def ready_step(self):\n"
        f"        if self.topology.rank in [{failing}]:\n"
        "            raise torch.OutOfMemoryError('CUDA out of memory.')\n"
        "        return super().ready_step()\n"
        "benchmark.LOOPS['ours'] = Loop\nbenchmark.start()\n"
    )
    assert process.run(ddp_case(demo_folder), script) == Result("oom", "out of memory at 4 images a replica")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="its two processes would take two GPUs")
def test_one_process_of_several_that_is_killed_is_a_row(demo_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\nimport benchmark\n"
        "def make(settings, topology, parts):\n"
        "    if topology.rank == 1:\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return benchmark.OurLoop(settings, topology, parts)\n"
        "benchmark.LOOPS['ours'] = make\nbenchmark.start()\n"
    )
    reason = "killed by the system, most likely for lack of memory"
    assert process.run(ddp_case(demo_folder), script) == Result("oom", reason)


@pytest.fixture
def short_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of a few steps, and of one model beside the chosen one."""
    for name in ("LOADER_SECONDS", "STEP_SECONDS", "FED_SECONDS", "OTHER_SECONDS"):
        monkeypatch.setattr(plan, name, 0.01)
    monkeypatch.setattr(plan, "MODELS", ("efficientnet_b0", "efficientnet_b1"))
    monkeypatch.setattr(plan, "PIXELS", 2)


PLAN = ("--plan", "--model", "efficientnet_b1", "--image-size", "32", "--workers", "0", "--amp", "off")
TRACE = Trace(
    on_gpu=False, cores=2, threads=2, workers=1, image_size=32, batch_size=32, train_images=700, val_images=200,
    decode=0.01, cached=0.001, cache="on", kept_now=0.0, kept_later=1.0, cache_gib=1.0, step=0.1, forward=0.03,
    larger_step=None, slowdown=1.0, could_use_amp=False, peak_mib=1000.0, memory_mib=8000.0,
)  # fmt: skip


@pytest.mark.usefixtures("short_plan")
def test_a_plan_is_measured_shown_and_written(
    demo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet, cache = tmp_path / "plan.json", tmp_path / "plan.csv", tmp_path / "cache"
    where = ["--data", str(demo_folder), "--cache", str(cache), "--json", str(out), "--csv", str(sheet)]
    assert benchmark.main([*PLAN, "--batch-size", "4", "--epochs", "3", "--price-per-hour", "2", *where]) == 0
    content = json.loads(out.read_text())
    assert (content["schema"], content["kind"], content["complete"]) == (6, "plan", True)
    trace = content["trace"]
    counts = (trace["train_images"], trace["val_images"], trace["batch_size"], trace["workers"])
    assert counts == (113, 32, 4, 0)
    assert (trace["cache"], trace["kept_now"], trace["kept_later"]) == ("on", 0.0, 1.0)
    assert trace["larger_step"] > 0
    assert content["verdict"]["limit"] in ("data", "compute", "threads")
    assert content["forecast"]["run"] > content["forecast"]["epoch"] > 0
    cells = [(cell["model"], cell["image_size"], cell["status"]) for cell in content["cells"]]
    assert cells == [("efficientnet_b0", 224, "measured"), ("efficientnet_b1", 32, "measured")]
    assert content["cells"][1]["cost"] == pytest.approx(2 * content["forecast"]["run"] / 3600)
    assert len(sheet.read_text().splitlines()) == 3
    assert "limited by" in capsys.readouterr().out
    assert not cache.exists()  # the user's cache is looked at, and nothing is put there


def test_a_planned_step_has_no_more_images_than_there_are(demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(settings: Options, *others: object) -> Trace:
        sizes.append(settings.batch_size)
        return TRACE

    sizes: list[int] = []
    monkeypatch.setattr(plan, "measure", measured)
    monkeypatch.setattr(plan, "MODELS", ())
    for asked in ("112", "4096"):
        assert benchmark.main([*PLAN, "--batch-size", asked, "--data", str(demo_folder)]) == 0
    assert sizes == [112, 113]


def test_ctrl_c_keeps_the_plan_of_the_chosen_model(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*anything: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "measure", lambda *anything: TRACE)
    monkeypatch.setattr(plan, "_cost_of", interrupted)
    out = tmp_path / "plan.json"
    with pytest.raises(KeyboardInterrupt):
        benchmark.main([*PLAN, "--data", str(demo_folder), "--json", str(out)])
    content = json.loads(out.read_text())
    assert not content["complete"]
    assert [cell["model"] for cell in content["cells"]] == ["efficientnet_b1"]
    assert content["trace"] == dataclasses.asdict(TRACE)


def test_a_model_that_does_not_fit_is_said_and_no_larger_one_is_tried(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the larger ones, those are told that need more than the 8000 MiB that there are."""
    tried = []

    def too_large(settings: Options, *anything: object) -> None:
        tried.append(settings.model)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(plan, "measure", lambda *anything: TRACE)
    monkeypatch.setattr(plan, "_cost_of", too_large)
    monkeypatch.setattr(plan, "MODELS", ("efficientnet_b0", "efficientnet_b1", "efficientnet_b2"))
    monkeypatch.setattr(plan, "BASE_MIB", 1000)  # the trace's step takes next to nothing beside it
    out = tmp_path / "plan.json"
    assert benchmark.main([*PLAN, "--data", str(demo_folder), "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["cells"]
    assert [row["status"] for row in rows] == ["does not fit", "measured", "estimated"]
    assert tried == ["efficientnet_b0"]


def test_a_plan_without_data_is_for_a_set_of_ten_thousand_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measure(*given: object) -> Trace:
        asked.append(given[-1])
        return TRACE

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(plan, "measure", measure)
    monkeypatch.setattr(plan, "GENERATED", 70)
    monkeypatch.setattr(plan, "MODELS", ())
    assert benchmark.main([*PLAN]) == 0
    assert asked == [10_000]
    assert len(list(tmp_path.rglob("*.jpg"))) == 70


def test_help_fits_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        benchmark.main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


@pytest.mark.slow
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
    content = json.loads(out.read_text())
    assert not content["complete"]
    assert report.Report.from_json(content).rows[0].status == "ok"
    assert "CPU" in rest
    mark = str(tmp_path).encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            alone = b"--case" not in (entry / "cmdline").read_bytes().split(b"\0")
            assert alone or mark not in (entry / "environ").read_bytes()
