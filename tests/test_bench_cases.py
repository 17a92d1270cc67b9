"""Which cells a machine runs, what becomes of their processes, and the search for the largest batch."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from skin.bench import cases as cells
from skin.bench import measurement as measure
from skin.bench.measurement import Cell
from skin.bench.options import BenchSettings, read_bench_settings
from skin.model.precision import Precision
from skin.utils.errors import UserError
from skin.utils.parallel import Topology
from tests import nvml

import pytest
import torch

CELL = Cell(
    gpus=0, parallel="single", amp=True, recipe="ours", data="", labels=None, model="efficientnet_b0",
    image_size=32, batch_size=8, workers=0, cache="off", steps=1, warmup=1,
)  # fmt: skip


def names(settings: BenchSettings, present: int) -> list[tuple[str, bool]]:
    return [(cell.title, reason is None) for cell, reason in cells.plan(settings, present)]


def test_without_a_gpu_the_cpu_is_measured_and_what_was_asked_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    settings = BenchSettings(gpus="1,2", recipes="ours", parallel="ddp")
    assert names(settings, present=0) == [
        ("CPU, ours, amp on", True),
        ("CPU, ours, amp off", True),
        ("1 GPU, ours, amp on", False),
        ("1 GPU, ours, amp off", False),
        ("2 GPUs ddp, ours, amp on", False),
        ("2 GPUs ddp, ours, amp off", False),
    ]


def test_a_cpu_without_bfloat16_units_skips_amp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    planned = cells.plan(BenchSettings(recipes="ours"), present=0)
    assert [reason for _, reason in planned] == ["this CPU has no bfloat16 units, so AMP is off on it", None]


def test_gpus_are_planned_as_far_as_they_go() -> None:
    settings = BenchSettings(gpus="2,4", amp="on", recipes="ours,plain")
    planned = cells.plan(settings, present=2)
    assert [(c.gpus, c.parallel, c.recipe, reason) for c, reason in planned] == [
        (2, "dp", "ours", None),
        (2, "dp", "plain", None),
        (2, "ddp", "ours", None),
        (2, "ddp", "plain", "the plain recipe knows DataParallel only"),
        (4, "dp", "ours", "this machine has 2 visible GPUs"),
        (4, "dp", "plain", "this machine has 2 visible GPUs"),
        (4, "ddp", "ours", "this machine has 2 visible GPUs"),
        (4, "ddp", "plain", "this machine has 2 visible GPUs"),
    ]


def test_the_compiled_step_is_for_gpus_that_have_a_process_each() -> None:
    settings = BenchSettings(gpus="0,1,2", amp="off", recipes="ours-compiled")
    assert [(c.gpus, c.parallel, reason) for c, reason in cells.plan(settings, present=2)] == [
        (0, "single", "only on a GPU is the step compiled: the CPU has layers of its own"),
        (1, "single", None),
        (2, "dp", "torch.compile does not work with DataParallel's replicas"),
        (2, "ddp", None),
    ]


def test_a_step_of_more_images_than_there_are_is_skipped() -> None:
    settings = BenchSettings(gpus="1,4", amp="off", recipes="ours", parallel="ddp", batch_size=32)
    reasons = [reason for _, reason in cells.plan(settings, present=4, images=112)]
    words = "112 images to train on are fewer than the 128 of a step: use a smaller --batch-size"
    assert reasons == [None, words]


def test_unasked_the_matrix_has_powers_of_two_of_the_gpus_there_are() -> None:
    assert BenchSettings().gpu_counts(present=5) == [1, 2, 4]
    assert BenchSettings().gpu_counts(present=0) == [0]


@pytest.mark.parametrize("gpus", ["", "3,x", "-1", "1.5", "1,,2", "²", "99999"])
def test_gpus_that_are_no_numbers_are_refused(gpus: str) -> None:
    with pytest.raises(UserError, match="--gpus"):
        read_bench_settings(None, [f"--gpus={gpus}"])


def test_zero_gpus_is_the_cpu() -> None:
    assert BenchSettings(gpus="0,0,1").gpu_counts(present=1) == [0, 1]


@pytest.mark.parametrize(
    ("code", "stderr", "status", "reason"),
    [
        (-signal.SIGKILL, "", "oom", "killed by the system, most likely for lack of memory"),
        (1, "Traceback\ntorch.OutOfMemoryError: CUDA out of memory\n", "oom", "out of memory"),
        (2, "warning\nerror: no such model\n\n", "failed", "no such model"),
        (3, "", "failed", "exit code 3"),
        (1, "RuntimeError: CUDA error: lost\nCompile with TORCH\n", "failed", "RuntimeError: CUDA error: lost"),
        (1, "RuntimeError: std::bad_alloc\n", "oom", "out of memory"),
        (1, "    raise torch.OutOfMemoryError\nValueError: no\n", "failed", "ValueError: no"),
        (-6, "Fatal Python error: Aborted\n", "failed", "Fatal Python error: Aborted"),
        (-6, "terminate called after throwing\n  what():  std::bad_alloc\n", "oom", "out of memory"),
    ],
)
def test_a_process_that_ends_badly_is_a_row_with_a_reason(code: int, stderr: str, status: str, reason: str) -> None:
    assert cells.explain(code, stderr) == {"status": status, "reason": reason}


# What torchrun of torch 2.14 writes when the second of two processes ends by itself, by an error, by a signal.
KILLED = "Signal 9 (SIGKILL) received by PID 7684"
LOST_PEER = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "/work/benchmark.py", line 117, in run_cell
[rank0]:     work.wait()
[rank0]: RuntimeError: [/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by \
peer [127.0.0.1]:54979. This is typically caused by a remote worker crashing.
"""
TORCHRUN = """\
W1125 09:34:05.688000 7675 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 7683 closing signal
E1125 09:34:05.706000 7675 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1) local_rank: 1
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError: 
======================================================
benchmark.py FAILED
------------------------------------------------------
Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : {other} (pid: 7683)
  traceback : {other_words}
------------------------------------------------------
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : 1 (pid: 7684)
  error_file: <N/A>
  traceback : {cause}
======================================================
"""  # noqa: W291  torchrun's own blank


def torchruns(own: str, cause: str = "To enable traceback see: https://pytorch.org/docs", other: str = "") -> str:
    """What stands on stderr after `own`, the last words of the process that ended first."""
    return own + LOST_PEER + TORCHRUN.format(other=-15, other_words=other or "Signal 15 (SIGTERM)", cause=cause)


@pytest.mark.parametrize(
    ("stderr", "status", "reason"),
    [
        (torchruns("", KILLED), "oom", "killed by the system, most likely for lack of memory"),
        (torchruns("[rank1]: torch.OutOfMemoryError: CUDA out of memory.\n"), "oom", "out of memory"),
        (torchruns("error: no such model: x\n"), "failed", "no such model: x"),
        (torchruns("[rank1]: RuntimeError: mat1 and mat2\n"), "failed", "RuntimeError: mat1 and mat2"),
        (torchruns("[rank1]: AssertionError\n", other=KILLED), "failed", "AssertionError"),
    ],
)
def test_under_torchrun_the_process_that_ended_first_gives_the_reason(stderr: str, status: str, reason: str) -> None:
    assert cells.explain(1, stderr) == {"status": status, "reason": reason}


def script(folder: Path, body: str) -> Path:
    path = folder / "script.py"
    path.write_text("import json, os, pathlib, sys, time\ntask = pathlib.Path(sys.argv[2])\n" + body)
    return path


def test_a_cell_is_measured_by_a_process_of_its_own(tmp_path: Path) -> None:
    body = "cell = json.loads(task.read_text())\n"
    body += "task.with_suffix('.result').write_text(json.dumps({'status': 'ok', 'size': cell['image_size']}))\n"
    assert cells.run(CELL, script(tmp_path, body)) == {"status": "ok", "size": 32}


def test_a_cell_that_dies_is_a_row(tmp_path: Path) -> None:
    assert cells.run(CELL, script(tmp_path, "sys.exit('error: no luck')"))["reason"] == "no luck"
    assert cells.run(CELL, script(tmp_path, "os.kill(os.getpid(), 9)"))["status"] == "oom"


def test_what_a_cell_has_started_does_not_outlive_it(tmp_path: Path) -> None:
    """A loader's process ignores SIGTERM, and lives on for seconds after its parent was killed."""
    body = (
        "import signal, subprocess\n"
        "ignore = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); '\n"
        "child = subprocess.Popen([sys.executable, '-c', ignore + 'time.sleep(600)'], stdout=subprocess.PIPE)\n"
        "child.stdout.read(1)\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(child.pid))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert cells.run(CELL, script(tmp_path, body))["status"] == "oom"
    assert ended(int((tmp_path / "pid").read_text()))


def test_ctrl_c_ends_the_cells_processes(tmp_path: Path) -> None:
    """The cell and its own child are gone when Ctrl-C has been handled."""
    body = (
        "import signal, subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pids').write_text(f'{{os.getpid()}} {{child.pid}}')\n"
        f"os.kill({os.getpid()}, signal.SIGINT)\n"
        "child.wait()\n"
    )
    with pytest.raises(KeyboardInterrupt):
        cells.run(CELL, script(tmp_path, body))
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        assert ended(pid)


def test_ctrl_c_waits_while_a_process_is_being_started() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), cells.signals_held():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done.append("started")
    assert done == ["started"]


def test_torchrun_has_time_to_end_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes have groups of their own, out of our reach: who is killed at once leaves them behind."""
    monkeypatch.setattr(cells, "SECONDS_TO_END", 0)
    body = (
        "import signal, subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "def end(number, frame):\n"
        "    child.kill()\n"
        "    sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(child.pid))\n"
        f"os.kill({os.getpid()}, signal.SIGINT)\n"
        "child.wait()\n"
    )
    start, launcher = subprocess.Popen, script(tmp_path, body)
    monkeypatch.setattr(
        "subprocess.Popen", lambda command, **how: start([sys.executable, str(launcher), *command[-2:]], **how)
    )
    with pytest.raises(KeyboardInterrupt):
        cells.run(dataclasses.replace(CELL, gpus=2, parallel="ddp"), launcher)
    assert ended(int((tmp_path / "pid").read_text()))


def ended(pid: int) -> bool:
    """Whether a process is gone, or goes within 20 seconds: what was killed needs a moment to die."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 20)[0])
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("limit", [1, 5, 8, 13, 100, 1000])
def test_the_largest_batch_is_found_to_an_eighth(limit: int) -> None:
    sizes = []

    def attempt(cell: Cell) -> dict[str, Any]:
        assert cell.probe
        sizes.append(cell.batch_size)
        return {"status": "ok" if cell.batch_size <= limit else "oom"}

    found = cells.largest_batch(CELL, attempt, most=5000)
    assert found <= limit < found + max(2, found / 8 + 1)
    assert len(sizes) == len(set(sizes)) <= 14


def test_no_batch_larger_than_the_data_is_tried_and_none_may_fit() -> None:
    assert cells.largest_batch(CELL, lambda cell: {"status": "ok"}, most=24) == 24
    assert cells.largest_batch(CELL, lambda cell: {"status": "oom"}, most=24) == 0


def test_a_search_that_fails_otherwise_stops() -> None:
    with pytest.raises(UserError, match="no such file"):
        cells.largest_batch(CELL, lambda cell: {"status": "failed", "reason": "no such file"}, most=24)


# ---- GPUs, by stand-ins for what torch.cuda and NVML say --------------------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Topology:
    """Two GPUs as far as questions about them go: no kernel runs."""
    busy = {f"GPU-{n}": nvml.Gpu(used=3 * 2**30, percent=80 + n, milliwatts=250_000) for n in range(2)}
    nvml.install(monkeypatch, busy, ["0", "1"])
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 1 * 2**30)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda device: 2 * 2**30)
    return Topology(torch.device("cuda", 0), gpus=2)


def test_gpus_are_sampled_while_steps_are_timed(two_gpus: Topology) -> None:
    with measure.GpuSampler(two_gpus.cuda_devices) as sampler:
        pass
    assert sampler.means() == [
        {"utilisation_percent": 80.0, "power_watts": 250.0},
        {"utilisation_percent": 81.0, "power_watts": 250.0},
    ]


def test_what_nvml_does_not_say_is_unknown(two_gpus: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.install(monkeypatch, {"GPU-0": nvml.Gpu(percent=RuntimeError("Not Supported"), milliwatts=250_000)}, ["0"])
    with measure.GpuSampler([two_gpus.device]) as sampler:
        pass
    assert sampler.means() == [{"utilisation_percent": None, "power_watts": 250.0}]


def test_a_ddp_cell_reports_the_gpus_of_all_its_processes(
    two_gpus: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process's answers stand beside the first's."""
    topology = Topology(torch.device("cuda", 0), gpus=2, rank=0, world=2)
    monkeypatch.setattr(Topology, "gather", lambda self, value: [value, value])
    found = measure._memory(topology, [{"utilisation_percent": 80.0, "power_watts": 250.0}])
    gpu = {"allocated_mib": 1024.0, "reserved_mib": 2048.0, "nvml_used_mib": 3072.0}
    assert found["gpus"] == 2 * [{**gpu, "utilisation_percent": 80.0, "power_watts": 250.0}]


def test_steps_on_a_gpu_are_timed_by_its_events(two_gpus: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second, third and fourth event come 10, 20 and 30 ms after the one before them."""
    calls: list[str] = []
    times = iter([0.0, 10.0, 30.0, 60.0])

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.ms = next(times)

        def record(self, stream: object) -> None:
            calls.append("record")

        def elapsed_time(self, end: Event) -> float:
            return end.ms - self.ms

    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: None)
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: calls.append(f"wait {device.index}"))
    steps = iter([measure.Step(4, 0.5, 1.0), measure.Step(4, 0.5, 2.0), measure.Step(2, 0.5, 3.0)])
    window = measure.time_steps(steps, 3, two_gpus)
    assert window.step_ms == (10.0, 20.0, 30.0)
    assert (window.images, window.wait_seconds, window.loss) == (10.0, 1.5, 3.0)
    edges = ["wait 0", "wait 1"]
    assert calls == [*edges, *["record"] * 4, *edges]


def test_gpus_in_use_by_others_are_named(two_gpus: Topology) -> None:
    assert cells.busy_gpus(1) == ["GPU 0 is in use by others (3,072 MiB, 80 % busy): figures will suffer"]


def test_what_a_gpu_is_comes_from_its_properties(two_gpus: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="A GPU", uuid="1-2", total_memory=2**30, major=9, minor=0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)
    found = measure.devices(two_gpus)
    assert found == 2 * [{"name": "A GPU", "uuid": "1-2", "memory_mib": 1024, "compute_capability": "9.0"}]
    assert cells.device_label(found) == "A GPU"
    assert cells.device_label([]) == ""


def test_ddp_cells_are_started_by_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def popen(command: list[str], **keywords: object) -> Any:
        commands.append(command)
        raise FileNotFoundError

    monkeypatch.setattr("subprocess.Popen", popen)
    with pytest.raises(FileNotFoundError):
        cells.run(dataclasses.replace(CELL, gpus=2, parallel="ddp"), tmp_path / "benchmark.py")
    assert commands[0][:5] == [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert commands[0][6] == "--cell"


@pytest.mark.parametrize(
    ("device", "dtype", "tf32", "name"),
    [
        ("cuda", torch.float16, True, "float16"),
        ("cuda", None, True, "tf32"),
        ("cuda", None, False, "float32"),
        ("cpu", None, True, "float32"),
        ("cpu", torch.bfloat16, True, "bfloat16"),
    ],
)
def test_amp_off_says_whether_it_was_tf32(
    device: str, dtype: torch.dtype | None, tf32: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "convolutions_use_tf32", lambda: tf32)
    assert measure.arithmetic(Precision(device, dtype)) == name


# ---- what is timed, by a recipe that only counts ----------------------------------------------------------------


class Counting:
    """A recipe of three steps an epoch that notes what was asked of it."""

    topology = Topology(torch.device("cpu"))
    precision = Precision("cpu", None)
    train_images = 12
    steps_per_epoch = 3
    feeding: dict[str, Any] = {"workers": 0, "cached": False}  # noqa: RUF012

    def __init__(self) -> None:
        self.taken: list[str] = []

    def ready_step(self) -> measure.Step:
        self.taken.append("ready")
        return measure.Step(4, 0.0, 1.0)

    def last_step(self) -> None:
        self.taken.append("last")

    def epoch_steps(self, epoch: int) -> Iterator[measure.Step]:
        for _ in range(self.steps_per_epoch):
            self.taken.append(f"epoch {epoch}")
            yield measure.Step(4, 0.0, 1.0)


def test_without_warm_up_a_cell_takes_only_the_steps_that_are_timed() -> None:
    recipe = Counting()
    found = measure.measure(dataclasses.replace(CELL, warmup=0, steps=2), recipe)
    assert recipe.taken == [*3 * ["ready"], *2 * ["epoch 0"]]  # the first ready step is timed by itself
    assert found["epoch_seconds"] == pytest.approx(12 / found["images_per_second"])
    assert not found["whole_epoch"]


def test_an_epoch_is_timed_whole_after_one_that_has_ended() -> None:
    """An epoch left halfway has batches in the loader's hands, which the next would wait for."""
    recipe = Counting()
    found = measure.measure(dataclasses.replace(CELL, warmup=1, whole_epoch=True), recipe)
    assert recipe.taken == [*2 * ["ready"], "last", "ready", *3 * ["epoch 0"], *3 * ["epoch 1"]]
    assert found["whole_epoch"]


def test_a_cell_goes_through_json() -> None:
    assert Cell(**json.loads(json.dumps(dataclasses.asdict(CELL)))) == CELL
