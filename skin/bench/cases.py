"""The cells of the benchmark: which there are, which this machine can run, and each run in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from skin.bench import measurement as measure
from skin.bench import report as bench_report
from skin.bench.measurement import Cell
from skin.bench.options import AMP, PARALLEL, RECIPES, BenchSettings
from skin.model import precision
from skin.model.model import preprocess_for
from skin.training import runs
from skin.utils import faults
from skin.utils.errors import UserError, printable
from skin.utils.hardware import usable_cores
from skin.utils.memory import ask_nvml, nvml_used_mib
from skin.utils.parallel import Topology, usable_gpus

import torch

LARGEST_BATCH = 4096
SECONDS_TO_END, SECONDS_FOR_TORCHRUN = 5, 40  # torchrun gives its own processes 30 s before it kills them
_FLAGS = ("avx", "amx", "fma", "sse4", "f16c", "vnni", "asimd", "sve", "bf16", "i8mm")


def plan(settings: BenchSettings, present: int, images: int | None = None) -> list[tuple[Cell, str | None]]:
    """Every cell of the matrix, and why this machine skips it (None where it does not).

    Args:
        present: visible GPUs.
        images: to train on, where that is known.
    """
    planned = []
    for gpus in settings.gpu_counts(present):
        modes = settings.chosen("parallel", PARALLEL) if gpus > 1 else ["single"]
        for mode in modes:
            for recipe in settings.chosen("recipes", RECIPES):
                for amp in settings.chosen("amp", AMP):
                    cell = _cell(settings, gpus, mode, amp == "on", recipe)
                    planned.append((cell, _why_not(cell, present) or _too_few(settings, cell, images)))
    return planned


def _cell(settings: BenchSettings, gpus: int, mode: str, amp: bool, recipe: str) -> Cell:
    steps, warmup, batch_size = (50, 10, 32) if gpus else (4, 1, 16)
    return Cell(
        gpus=gpus, parallel=mode, amp=amp, recipe=recipe,
        data=str(settings.data or ""), labels=None if settings.labels is None else str(settings.labels),
        model=settings.model, image_size=preprocess_for(settings.model, settings.image_size).image_size,
        batch_size=settings.batch_size or batch_size, workers=settings.workers,
        cache=settings.cache, steps=settings.steps or steps,
        warmup=warmup if settings.warmup is None else settings.warmup, whole_epoch=settings.whole_epoch,
    )  # fmt: skip


def _why_not(cell: Cell, present: int) -> str | None:
    if cell.gpus > present:
        return f"this machine has {present or 'no'} visible GPU{'s' if present != 1 else ''}"
    if cell.parallel == "ddp" and cell.recipe.startswith("plain"):
        return "the plain recipe knows DataParallel only"
    if cell.recipe == "ours-compiled" and cell.parallel == "dp":
        return "torch.compile does not work with DataParallel's replicas"
    if cell.recipe == "ours-compiled" and cell.gpus == 0:
        return "only on a GPU is the step compiled: the CPU has layers of its own"
    if cell.gpus == 0 and cell.amp and precision.choose("auto", torch.device("cpu")).dtype is None:
        return "this CPU has no bfloat16 units, so AMP is off on it"
    return None


def _too_few(settings: BenchSettings, cell: Cell, images: int | None) -> str | None:
    step = cell.batch_size * max(1, cell.gpus)
    if images is None or settings.find_batch or images >= step:
        return None
    return f"{images:,} images to train on are fewer than the {step:,} of a step: use a smaller --batch-size"


def key_of(cell: Cell, device: str) -> dict[str, Any]:
    """What names the cell's row in a report."""
    key = {name: getattr(cell, name) for name in bench_report.KEY}
    return {**key, "amp": "on" if cell.amp else "off", "device": device}


def images_needed(planned: list[tuple[Cell, str | None]], find_batch: bool) -> int:
    """How many images to generate so that no window runs through the set many times."""
    counts = [(c.steps + c.warmup) * c.batch_size * max(1, c.gpus) for c, reason in planned if reason is None]
    return max(300, min(4000, 2 * max(counts, default=0))) if not find_batch else LARGEST_BATCH


# ---- one cell, in a process of its own --------------------------------------------------------------------------


def run(cell: Cell, script: Path) -> dict[str, Any]:
    """Measure a cell once: its figures, or a status with a reason. No process is left behind, come what may."""
    with tempfile.TemporaryDirectory(prefix="skin-benchmark-") as name:
        task, errors = Path(name) / "cell.json", Path(name) / "stderr"
        task.write_text(json.dumps(dataclasses.asdict(cell)), encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={cell.gpus}"]
        command = [sys.executable, *(launcher if cell.parallel == "ddp" else []), str(script), "--cell", str(task)]
        process = None
        try:
            with signals_held(), open(errors, "wb") as stderr:
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True)
            code = process.wait()
        finally:
            if process is not None:
                with signals_held():
                    _end(process, by_torchrun=cell.parallel == "ddp")
        result = task.with_suffix(".result")
        if code == 0 and result.exists():
            found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
            return found
        return explain(code, errors.read_text(encoding="utf-8", errors="replace"))


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP wait until the end: in the midst of starting a process they would lose it."""
    caught: list[int] = []
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows lacks the last
    held = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = [signal.signal(number, lambda n, frame: caught.append(n)) for number in held]
    try:
        yield
    finally:
        for number, handler in zip(held, before, strict=True):
            signal.signal(number, handler)
    if caught:
        signal.raise_signal(caught[0])


def _end(process: subprocess.Popen[bytes], by_torchrun: bool) -> None:
    """End a cell's processes, loader workers and all: a process group of their own, which may outlive its first.

    Not so torchrun's: each has a group of its own, which torchrun alone knows, so it must live to end them.
    Windows has no such groups: a loader's process sees there that its parent is gone, and ends.
    """
    for force, patience in ((False, SECONDS_FOR_TORCHRUN if by_torchrun else SECONDS_TO_END), (True, None)):
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)
            else:
                process.kill() if force else process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            if by_torchrun:
                return


_SIGKILL = 9  # `signal` of Windows does not have it
_RANK = re.compile(r"^\[rank\d+\]: ?", re.MULTILINE)  # stands before each line of a process under torchrun
_ERROR = re.compile(r"^(?:error: .+|[\w.]+(?:Error|Exception)(?:: .+)?)$", re.MULTILINE)
_KILLED = re.compile(r"Root Cause.*Signal 9 \(SIGKILL\)", re.DOTALL)  # torchrun, of the process that ended first


def explain(code: int, stderr: str) -> dict[str, Any]:
    """The row of a process that ended without a result: killed for memory, or failed with its last words.

    Under torchrun several processes have last words, and torchrun has more of its own. An error that only tells of
    another process's end is not the reason.
    """
    if code == -_SIGKILL or _KILLED.search(stderr):
        return {"status": "oom", "reason": "killed by the system, most likely for lack of memory"}
    errors = _ERROR.findall(_RANK.sub("", stderr))
    words = [line.strip() for line in stderr.splitlines() if any(map(str.isalnum, line))]  # not torchrun's rules
    if any(map(faults.is_out_of_memory, [*errors, *words[-1:]])):
        return {"status": "oom", "reason": "out of memory"}
    causes = [line for line in errors if not faults.is_about_peers(line)] or errors or words or [f"exit code {code}"]
    return {"status": "failed", "reason": printable(causes[-1].removeprefix("error: "), limit=300)}


def largest_batch(cell: Cell, attempt: Callable[[Cell], dict[str, Any]], most: int) -> int:
    """The largest batch (for each GPU) that a step of `cell` fits in, to an eighth; 0 where none does.

    Args:
        attempt: `run`, or a stand-in.
        most: images there are for each GPU; no larger batch is tried.
    """

    def fits(size: int) -> bool:
        found = attempt(dataclasses.replace(cell, batch_size=size, steps=1, warmup=1, probe=True))
        if found["status"] == "failed":
            raise UserError(f"--find-batch: {cell.title} fails at {size} images a step: {found['reason']}")
        return bool(found["status"] == "ok")

    most = min(most, LARGEST_BATCH)
    good, bad = 0, most + 1  # fits, does not fit
    size = min(cell.batch_size, most)
    while bad - good > (1 if bad > most else max(1, good // 8)):
        if fits(size):
            good = size
        else:
            bad = size
        size = min(2 * good, most) if bad > most else (good + bad) // 2
    return good


# ---- the machine ------------------------------------------------------------------------------------------------


def environment() -> dict[str, Any]:
    """What the benchmark runs on, and who else does. The GPUs' own lines come from the processes that use them."""
    found = {name: value for name, value in runs.environment().items() if name != "gpus"}
    return {
        **found, "cpu_flags": _cpu_flags(), "usable_cores": usable_cores(), "memory_mib": _memory_mib(),
        "driver": _driver(), "gpus_in_use_by_others": busy_gpus(usable_gpus()),
        "gpu_devices": measure.devices(Topology(torch.device("cuda" if usable_gpus() else "cpu"), usable_gpus())),
    }  # fmt: skip


def _cpu_flags() -> list[str]:
    """The vector instructions of the processor, as Linux names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    flags = next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return sorted(flag for flag in flags if flag.startswith(_FLAGS))


def _memory_mib() -> float | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    return None


def _driver() -> str | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # no driver, no library, or NVML has failed in one of its many ways
        return None


def device_label(devices: list[dict[str, Any]]) -> str:
    """The name of the GPUs that a cell has reported; empty where it has reported none."""
    return " / ".join(sorted({device["name"] for device in devices}))


def busy_gpus(present: int) -> list[str]:
    """A line for each visible GPU that is in use before we have touched it."""
    lines = []
    for device in (torch.device("cuda", i) for i in range(present)):
        used_mib, rates = nvml_used_mib(device) or 0.0, ask_nvml("nvmlDeviceGetUtilizationRates", device)
        percent = 0 if rates is None else rates.gpu
        if used_mib > 1024 or percent > 10:
            lines.append(f"GPU {device.index} is in use by others ({used_mib:,.0f} MiB, {percent} % busy): "
                         "figures will suffer")  # fmt: skip
    return lines
