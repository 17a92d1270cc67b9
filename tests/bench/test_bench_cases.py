"""Which cases a machine runs, what becomes of their processes, and the search for the largest batch."""

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

from skin.bench import cases, columns, machine, matrix, measurement, process, roofline
from skin.bench.cases import Case, Key
from skin.bench.clock import StepClock
from skin.bench.options import BenchmarkOptions, read_options
from skin.bench.phases import time_phases
from skin.bench.process import Result
from skin.model.precision import Precision
from skin.training.options import Options
from skin.training.splits import Splits
from skin.utils.errors import UserError
from skin.utils.parallel import Topology
from tests import nvml

import pytest
import torch

CASE = Case(
    Key(gpus=0, parallel="single", amp="on", recipe="ours", model="efficientnet_b0", image_size=32, batch_size=8),
    data="", labels=None, workers=0, cache="off", steps=1, warmup=1,
)  # fmt: skip
DDP = dataclasses.replace(CASE, key=dataclasses.replace(CASE.key, gpus=2, parallel="ddp"))


def names(options: BenchmarkOptions, present: int) -> list[tuple[str, bool]]:
    return [(case.key.title, skipped is None) for case, skipped in cases.plan(options, present)]


def test_without_a_gpu_the_cpu_is_measured_and_what_was_asked_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    options = BenchmarkOptions(gpus="1,2", recipes="ours", parallel="ddp")
    assert names(options, present=0) == [
        ("CPU ours amp on", True),
        ("CPU ours amp off", True),
        ("1 GPU ours amp on", False),
        ("1 GPU ours amp off", False),
        ("2 GPUs ddp ours amp on", False),
        ("2 GPUs ddp ours amp off", False),
    ]


def test_a_cpu_without_bfloat16_units_skips_amp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    planned = cases.plan(BenchmarkOptions(recipes="ours"), present=0)
    assert [reason for _, reason in planned] == ["this CPU has no bfloat16 units, so AMP is off on it", None]


def test_gpus_are_planned_as_far_as_they_go() -> None:
    options = BenchmarkOptions(gpus="2,4", amp="on", recipes="ours,plain")
    planned = cases.plan(options, present=2)
    assert [(c.key.gpus, c.key.parallel, c.key.recipe, skipped) for c, skipped in planned] == [
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
    options = BenchmarkOptions(gpus="0,1,2", amp="off", recipes="ours-compiled")
    assert [(c.key.gpus, c.key.parallel, skipped) for c, skipped in cases.plan(options, present=2)] == [
        (0, "single", "only on a GPU is the step compiled: the CPU has layers of its own"),
        (1, "single", None),
        (2, "dp", "torch.compile does not work with DataParallel's replicas"),
        (2, "ddp", None),
    ]


def test_a_step_of_more_images_than_there_are_is_skipped() -> None:
    options = BenchmarkOptions(gpus="1,4", amp="off", recipes="ours", parallel="ddp", batch_size=32)
    reasons = [reason for _, reason in cases.plan(options, present=4, images=112)]
    words = "112 images to train on are fewer than the 128 of a step: use a smaller --batch-size"
    assert reasons == [None, words]


def test_unasked_the_matrix_has_powers_of_two_of_the_gpus_there_are() -> None:
    assert BenchmarkOptions().gpu_counts(present=5) == [1, 2, 4]
    assert BenchmarkOptions().gpu_counts(present=0) == [0]


@pytest.mark.parametrize("gpus", ["", "3,x", "-1", "1.5", "1,,2", "²", "99999"])
def test_gpus_that_are_no_numbers_are_refused(gpus: str) -> None:
    with pytest.raises(UserError, match="--gpus"):
        read_options(None, [f"--gpus={gpus}"])


def test_zero_gpus_is_the_cpu() -> None:
    assert BenchmarkOptions(gpus="0,0,1").gpu_counts(present=1) == [0, 1]


# ---- how a case ends ----------------------------------------------------------------------------------------------


def task(folder: Path, *results: Result | None) -> Path:
    """Return the task of a case whose ranks have written these results."""
    for rank, result in enumerate(results):
        if result is not None:
            (folder / f"case.{rank}.result").write_text(json.dumps(result.to_json()))
    return folder / "case.json"


OK = Result("ok", None, columns.Round({"images_per_second": 1.0}, {"gpus": [], "rss_mib": 1.0}))
LOST_PEER = Result("failed", "RuntimeError: [/pytorch/gloo/transport/tcp/pair.cc:561] Connection closed by peer")
NO_MEMORY = Result("oom", "out of memory at 8 images a replica")


@pytest.mark.parametrize(
    ("code", "results", "expected"),
    [
        (0, [OK], OK),
        (1, [NO_MEMORY], NO_MEMORY),
        (1, [OK, NO_MEMORY], NO_MEMORY),
        (1, [None, NO_MEMORY], NO_MEMORY),
        (1, [LOST_PEER, NO_MEMORY], NO_MEMORY),
        (1, [LOST_PEER, LOST_PEER], LOST_PEER),
        (1, [OK, None], Result("failed", "ended with code 1")),
    ],
)
def test_the_rank_that_failed_says_why(tmp_path: Path, code: int, results: list[Result], expected: Result) -> None:
    assert process.result_of(task(tmp_path, *results), code, "Signal 7", len(results)) == expected


@pytest.mark.parametrize(
    ("code", "said", "status", "reason"),
    [
        (-signal.SIGKILL, "", "oom", "killed by the system, most likely for lack of memory"),
        (1, "  traceback : Signal 9 (SIGKILL) received by PID 7684\n", "oom",
         "killed by the system, most likely for lack of memory"),
        (-6, "terminate called after throwing\n  what():  std::bad_alloc\n", "oom", "out of memory"),
        (-11, "Fatal Python error: Segmentation fault\n", "failed", "ended with code -11"),
        (0, "", "failed", "ended with code 0"),
    ],
)  # fmt: skip
def test_a_process_that_could_not_say_why_is_a_row_all_the_same(
    tmp_path: Path, code: int, said: str, status: str, reason: str
) -> None:
    found = process.result_of(task(tmp_path), code, said, ranks=2)
    assert (found.status, found.reason) == (status, reason)


def run_case(folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Path]:
    """Return the exit code of a case that fails with `error`, and where its result would be."""

    def read(settings: Options) -> Splits:
        raise error

    monkeypatch.setattr(process, "read_splits", read)
    (folder / "case.json").write_text(json.dumps(CASE.to_json()))
    return process.run_case(folder / "case.json", {}), folder / "case.0.result"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (UserError("no such model: x"), "failed", "no such model: x"),
        (RuntimeError("CUDA error: lost\nCompile with TORCH"), "failed", "RuntimeError: CUDA error: lost"),
        (AssertionError(), "failed", "AssertionError"),
        (torch.OutOfMemoryError("CUDA out of memory."), "oom", "out of memory at 8 images a replica"),
        (RuntimeError("std::bad_alloc"), "oom", "out of memory at 8 images a replica"),
        (MemoryError(), "oom", "out of memory at 8 images a replica"),
    ],
)
def test_a_case_reports_its_own_error(
    tmp_path: Path, error: Exception, status: str, reason: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    code, file = run_case(tmp_path, error, monkeypatch)
    assert code == 1
    assert json.loads(file.read_text()) == {"status": status, "reason": reason, "round": None}
    assert ("Traceback" in capsys.readouterr().err) != isinstance(error, UserError)


def test_a_killed_process_is_the_reason_for_the_end_of_its_peers(tmp_path: Path) -> None:
    found = process.result_of(task(tmp_path, LOST_PEER, None), 1, "Signal 9 (SIGKILL)", ranks=2)
    assert found.reason == "killed by the system, most likely for lack of memory"


def script(folder: Path, body: str) -> Path:
    path = folder / "script.py"
    path.write_text("import json, os, pathlib, sys, time\ntask = pathlib.Path(sys.argv[2])\n" + body)
    return path


def test_a_case_is_measured_by_a_process_of_its_own(tmp_path: Path) -> None:
    body = (
        "size = json.loads(task.read_text())['key']['image_size']\n"
        "found = {'values': {'size': size}, 'memory': {'gpus': [], 'rss_mib': 1.0}}\n"
        "result = {'status': 'ok', 'reason': None, 'round': found}\n"
        "task.with_suffix('.0.result').write_text(json.dumps(result))\n"
    )
    found = columns.Round({"size": 32}, {"gpus": [], "rss_mib": 1.0})
    assert process.run(CASE, script(tmp_path, body)) == Result("ok", None, found)


def test_a_case_that_dies_is_a_row_and_its_last_words_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert process.run(CASE, script(tmp_path, "sys.exit('no luck')")).reason == "ended with code 1"
    assert capsys.readouterr().err == "no luck\n"
    assert process.run(CASE, script(tmp_path, "os.kill(os.getpid(), 9)")).status == "oom"


def test_what_a_case_has_started_does_not_outlive_it(tmp_path: Path) -> None:
    """A loader's process ignores SIGTERM, and lives on for seconds after its parent was killed."""
    body = (
        "import signal, subprocess\n"
        "ignore = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); '\n"
        "child = subprocess.Popen([sys.executable, '-c', ignore + 'time.sleep(600)'], stdout=subprocess.PIPE)\n"
        "child.stdout.read(1)\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(child.pid))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert process.run(CASE, script(tmp_path, body)).status == "oom"
    assert ended(int((tmp_path / "pid").read_text()))


def test_ctrl_c_ends_the_cases_processes(tmp_path: Path) -> None:
    """The case and its own child are gone when Ctrl-C has been handled."""
    body = (
        "import signal, subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pids').write_text(f'{{os.getpid()}} {{child.pid}}')\n"
        f"os.kill({os.getpid()}, signal.SIGINT)\n"
        "child.wait()\n"
    )
    with pytest.raises(KeyboardInterrupt):
        process.run(CASE, script(tmp_path, body))
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        assert ended(pid)


def test_ctrl_c_waits_while_a_process_is_being_started() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), process.signals_held():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done.append("started")
    assert done == ["started"]


def test_torchrun_has_time_to_end_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes have groups of their own, out of our reach: who is killed at once leaves them behind."""
    monkeypatch.setattr(process, "SECONDS_TO_END", 0)
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
        process.run(DDP, launcher)
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

    def attempt(case: Case) -> Result:
        assert case.probe
        sizes.append(case.key.batch_size)
        return Result("ok" if case.key.batch_size <= limit else "oom")

    found = matrix.largest_batch(CASE, attempt, most=5000)
    assert found <= limit < found + max(2, found / 8 + 1)
    assert len(sizes) == len(set(sizes)) <= 14


def test_no_batch_larger_than_the_data_is_tried_and_none_may_fit() -> None:
    assert matrix.largest_batch(CASE, lambda case: Result("ok"), most=24) == 24
    assert matrix.largest_batch(CASE, lambda case: Result("oom"), most=24) == 0


def test_a_search_that_fails_otherwise_stops() -> None:
    with pytest.raises(UserError, match="no such file"):
        matrix.largest_batch(CASE, lambda case: Result("failed", "no such file"), most=24)


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
    with measurement.GpuSampler(two_gpus.cuda_devices) as sampler:
        pass
    assert sampler.means() == [
        {"utilisation_percent": 80.0, "power_watts": 250.0},
        {"utilisation_percent": 81.0, "power_watts": 250.0},
    ]


def test_what_nvml_does_not_say_is_unknown(two_gpus: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.install(monkeypatch, {"GPU-0": nvml.Gpu(percent=RuntimeError("Not Supported"), milliwatts=250_000)}, ["0"])
    with measurement.GpuSampler([two_gpus.device]) as sampler:
        pass
    assert sampler.means() == [{"utilisation_percent": None, "power_watts": 250.0}]


def test_a_ddp_case_reports_the_gpus_of_all_its_processes(
    two_gpus: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process's answers stand beside the first's."""
    topology = Topology(torch.device("cuda", 0), gpus=2, rank=0, world=2)
    monkeypatch.setattr(Topology, "gather", lambda self, value: [value, value])
    found = measurement._memory(topology, [{"utilisation_percent": 80.0, "power_watts": 250.0}])
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
    steps = iter([measurement.Step(4, 0.5, 1.0), measurement.Step(4, 0.5, 2.0), measurement.Step(2, 0.5, 3.0)])
    window = measurement.time_steps(steps, 3, two_gpus)
    assert window.step_ms == (10.0, 20.0, 30.0)
    assert (window.images, window.wait_seconds, window.loss) == (10.0, 1.5, 3.0)
    edges = ["wait 0", "wait 1"]
    assert calls == [*edges, *["record"] * 4, *edges]


def test_gpus_in_use_by_others_are_named(two_gpus: Topology) -> None:
    assert machine.busy_gpus(1) == ["GPU 0 is in use by others (3,072 MiB, 80 % busy): speed and memory will suffer"]


def test_what_a_gpu_is_comes_from_its_properties(two_gpus: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="A GPU", uuid="1-2", total_memory=2**30, major=9, minor=0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)
    found = machine.gpus(2)
    assert found == 2 * [{"name": "A GPU", "uuid": "1-2", "memory_mib": 1024, "compute_capability": "9.0"}]
    here = {"cpu": "A CPU", "gpu_devices": [*found, {**found[0], "name": "B GPU"}]}
    names = ["A CPU", "A GPU", "A GPU", "A GPU / B GPU"]
    assert [machine.device_name(here, count) for count in range(4)] == names
    assert machine.device_name({"cpu": "A CPU", "gpu_devices": []}, 1) == "GPU"


def test_ddp_cases_are_started_by_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def popen(command: list[str], **keywords: object) -> Any:
        commands.append(command)
        raise FileNotFoundError

    monkeypatch.setattr("subprocess.Popen", popen)
    with pytest.raises(FileNotFoundError):
        process.run(DDP, tmp_path / "benchmark.py")
    assert commands[0][:5] == [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert commands[0][6] == "--case"


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
    monkeypatch.setattr(measurement, "convolutions_use_tf32", lambda: tf32)
    assert measurement.arithmetic(Precision(device, dtype)) == name


# ---- what is timed, by a loop that only counts ----------------------------------------------------------------


class Counting:
    """A loop of three steps an epoch that notes what was asked of it."""

    topology = Topology(torch.device("cpu"))
    precision = Precision("cpu", None)
    train_images = 12
    steps_per_epoch = 3
    workers = 0
    cached = False

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.model = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters())

    def prepare(self, steps: int) -> None:
        self.taken.append(f"prepare {steps}")

    def ready_step(self) -> measurement.Step:
        self.taken.append("ready")
        return measurement.Step(4, 0.0, 1.0)

    def last_step(self) -> None:
        self.taken.append("last")

    def epoch_steps(self, epoch: int) -> Iterator[measurement.Step]:
        for _ in range(self.steps_per_epoch):
            self.taken.append(f"epoch {epoch}")
            yield measurement.Step(4, 0.0, 1.0)


def test_without_warm_up_a_case_takes_only_the_steps_that_are_timed() -> None:
    loop = Counting()
    found = measurement.measure(dataclasses.replace(CASE, warmup=0, steps=2), loop)
    timed = ["prepare 10", *3 * ["ready"], *2 * ["epoch 0"]]  # the first ready step is timed by itself
    assert loop.taken == [*timed, *2 * ["ready"]]  # and then come those with marks
    assert found.phases is None  # this loop's steps have no parts
    assert found.epoch_seconds == pytest.approx(12 / found.fed.images_per_second)


def test_an_epoch_is_timed_whole_after_one_that_has_ended() -> None:
    """An epoch left halfway has batches in the loader's hands, which the next would wait for."""
    loop = Counting()
    found = measurement.measure(dataclasses.replace(CASE, warmup=1, whole_epoch=True), loop)
    assert loop.taken == ["prepare 6", *2 * ["ready"], "last", "ready", *3 * ["epoch 0"], *3 * ["epoch 1"], "ready"]
    assert found.epoch_seconds == found.fed.seconds


class Ticking(StepClock):
    """A clock that goes on when it is told to."""

    now = 0.0

    def mark(self) -> None:
        self.marks.append(self.now)


def test_the_parts_of_a_step_are_told_apart() -> None:
    """2 ms to the logits, 3 to the optimizer, 1 to the end; one step of three is slow on its way back."""
    clock, model = Ticking(Topology(torch.device("cpu"))), torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    back = iter([0.003, 0.3, 0.003])

    def step() -> None:
        clock.now += 0.002
        loss = model(torch.ones(1, 1)).sum()
        clock.now += next(back)
        loss.backward()
        optimizer.step()
        clock.now += 0.001

    found = time_phases(step, model, optimizer, clock, 3)
    assert found is not None
    assert (found.forward, found.backward, found.optimizer) == pytest.approx((2.0, 3.0, 1.0))
    step_without_hooks = len(clock.marks)
    model(torch.ones(1, 1))
    assert len(clock.marks) == step_without_hooks


def test_a_step_whose_optimizer_was_skipped_has_no_parts() -> None:
    clock, model = Ticking(Topology(torch.device("cpu"))), torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    assert time_phases(lambda: model(torch.ones(1, 1)), model, optimizer, clock, 2) is None


def test_the_best_of_some_tries_is_a_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of 512 and 1024 a side take 10 and 40 ms; the larger one ends the search. A copy takes 50 ms."""
    times = iter([0.010, 0.040, 0.050])
    monkeypatch.setattr(roofline, "_best_seconds", lambda work, device: next(times))
    found = roofline.measure(torch.device("cpu"), Precision("cpu", None))
    assert found.flops == pytest.approx(2 * 1024**3 / 0.040)
    assert found.bytes == pytest.approx(2 * 2**26 / 0.050)


def test_a_device_that_is_full_has_no_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(work: object, device: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(roofline, "_best_seconds", full)
    assert roofline.measure(torch.device("cpu"), Precision("cpu", None)) == roofline.Peaks(None, None)


def test_the_peaks_of_this_machine_are_numbers_above_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_SIDES", (64,))
    monkeypatch.setattr(roofline, "_COPIED", {"cpu": 1000})
    found = roofline.measure(torch.device("cpu"), Precision("cpu", torch.bfloat16))
    assert found.flops is not None
    assert found.bytes is not None
    assert min(found.flops, found.bytes) > 0


def test_a_probe_takes_its_steps_and_measures_nothing() -> None:
    loop = Counting()
    measurement.fits(dataclasses.replace(CASE, warmup=1, probe=True), loop)
    assert loop.taken == ["prepare 1", "ready", "ready"]


def test_a_case_goes_through_json() -> None:
    assert Case.from_json(json.loads(json.dumps(CASE.to_json()))) == CASE
