"""Measure one case: how fast it trains, how steadily, and how much memory it takes.

First comes the bare step on a batch that is ready: training cannot be faster. Then comes training itself, with its
loader. Each is warmed up and then timed over a window. GPUs are synchronised only at the window's edges. What would
disturb that comes last: a few steps with marks between their parts, and the peaks of the device.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict

from skin.bench import energy, roofline
from skin.bench.cases import Case
from skin.bench.clock import StepClock
from skin.bench.machine import StolenTime
from skin.bench.phases import Phases, time_phases
from skin.bench.roofline import Peaks
from skin.model.precision import Precision, convolutions_use_tf32
from skin.utils import memory
from skin.utils.memory import ask_nvml
from skin.utils.parallel import Topology

import numpy as np
import torch
from torch import Tensor, nn

MARKED = 5  # steps, at most, in which the parts are timed


class Step(NamedTuple):
    """One training step."""

    images: int  # in this process
    wait_seconds: float  # for the batch
    loss: Tensor | float


class TrainingLoop(Protocol):
    """A way of training that can be measured."""

    topology: Topology
    precision: Precision
    train_images: int  # of an epoch, over all processes
    steps_per_epoch: int
    workers: int  # loader processes
    model: nn.Module  # that a step calls
    optimizer: torch.optim.Optimizer

    @property
    def cached(self) -> bool:
        """True if the loader finds images decoded."""

    def prepare(self, steps: int) -> None:
        """Do the work that is no part of the speed of training, for the loader's first `steps`: fill a cache."""

    def ready_step(self) -> Step:
        """Take a step on a batch that is on the device already, always the same."""

    def last_step(self) -> None:
        """Take a step on the last batch of an epoch, if that is smaller than the others and is trained on."""

    def epoch_steps(self, epoch: int) -> Iterator[Step]:
        """Take the steps of an epoch, fed by the loader."""


@dataclass(frozen=True)
class Window:
    """A timed run of steps."""

    seconds: float
    step_ms: tuple[float, ...]
    images: float  # over all processes
    wait_seconds: float  # mean over the processes, as the loss is
    loss: float  # of the last step

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


GpuReading = dict[str, float | None]  # by the names of columns.GPU_COLUMNS


class MemoryReading(TypedDict):
    """Peaks of memory, and the mean activity of each GPU."""

    gpus: list[GpuReading]
    rss_mib: float  # of the process, or the largest one's


@dataclass(frozen=True)
class Measurement:
    """One round of a case, from which `columns.COLUMNS` computes the reported values."""

    case: Case
    train_images: int  # of an epoch
    precision: str
    workers: int
    cached: bool
    first_step_seconds: float
    bare: Window  # the step on a batch that is ready
    fed: Window  # training with its loader
    memory: MemoryReading
    fed_joules: float | None  # of all devices in use, during `fed`; None if a counter does not say it
    stolen_cores: float | None  # that the host of a virtual machine kept from it during `fed`; None: nobody says it
    phases: Phases | None  # of the bare step
    peaks: Peaks  # of one of its devices

    @property
    def epoch_seconds(self) -> float:
        """Seconds per epoch: timed, or computed from the images per second of some steps."""
        if self.case.whole_epoch:
            return self.fed.seconds
        return self.train_images / self.fed.images_per_second


def time_steps(steps: Iterator[Step], count: int, topology: Topology) -> Window:
    """Take `count` steps, at least one, and time them."""
    clock = StepClock(topology)
    topology.barrier()
    clock.synchronise()
    start = time.perf_counter()
    clock.mark()
    images, wait_seconds, step = 0, 0.0, None
    for step in itertools.islice(steps, count):
        clock.mark()
        images += step.images
        wait_seconds += step.wait_seconds
    clock.synchronise()
    topology.barrier()
    seconds = time.perf_counter() - start
    assert step is not None
    total, wait_seconds, loss = topology.sum(np.array([images, wait_seconds, float(step.loss)])).tolist()
    return Window(seconds, clock.step_ms(), total, wait_seconds / topology.world, loss / topology.world)


class GpuSampler:
    """Asks NVML five times a second how busy this process's GPUs are and what power they draw."""

    PERIOD_SECONDS = 0.2

    def __init__(self, devices: list[torch.device]) -> None:
        self.devices = devices
        self._samples: list[list[tuple[float | None, float | None]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> GpuSampler:
        if self.devices:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        if self.devices:
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._samples.append([_utilisation_and_power(device) for device in self.devices])
            if self._stop.wait(self.PERIOD_SECONDS):
                return

    def means(self) -> list[GpuReading]:
        """Return the utilisation_percent and power_watts of each GPU; None if NVML does not say."""
        columns = list(zip(*self._samples, strict=True)) or [()] * len(self.devices)
        return [
            {"utilisation_percent": _mean([u for u, _ in column]), "power_watts": _mean([w for _, w in column])}
            for column in columns
        ]


def _utilisation_and_power(device: torch.device) -> tuple[float | None, float | None]:
    rates, milliwatts = (ask_nvml(f"nvmlDeviceGet{what}", device) for what in ("UtilizationRates", "PowerUsage"))
    return None if rates is None else float(rates.gpu), None if milliwatts is None else milliwatts / 1000


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def fits(case: Case, loop: TrainingLoop) -> None:
    """Take a few steps: they raise if there is too little memory for the batch."""
    limit_host_memory()
    loop.prepare(1)  # with all cores, where a large batch would take one of them long
    _take(iter(loop.ready_step, None), 1 + case.warmup)


def measure(case: Case, loop: TrainingLoop) -> Measurement:
    """Measure a loop that has been built and has not taken a step yet. All processes must call it together."""
    topology = loop.topology
    loop.prepare(2 * loop.steps_per_epoch if case.whole_epoch else case.warmup + case.steps + 8)
    memory.reset_peaks(topology.cuda_devices)
    ready = iter(loop.ready_step, None)
    first_step_seconds = time_steps(ready, 1, topology).seconds  # builds kernels, Adam's state, the batch itself
    _take(ready, case.warmup)
    if case.warmup:
        loop.last_step()  # a window must not pay for the kernels of its size
    bare = time_steps(ready, case.steps, topology)

    stream: Iterator[Step] = itertools.chain.from_iterable(map(loop.epoch_steps, itertools.count()))
    count = case.steps
    if case.whole_epoch:
        if case.warmup:
            # To its end: if an epoch is left halfway, the next one has to clear away the loader's ready batches.
            _take(loop.epoch_steps(0), loop.steps_per_epoch)
        stream, count = loop.epoch_steps(1), loop.steps_per_epoch
    else:
        _take(stream, case.warmup)
    before, stolen = energy.read(topology.cuda_devices), StolenTime()
    with GpuSampler(topology.cuda_devices) as sampler:
        fed = time_steps(stream, count, topology)
    stolen_cores = stolen.cores()
    joules = energy.spent(before, energy.read(topology.cuda_devices), fed.seconds)
    used = _memory(topology, sampler.means())  # read before matrices that are no part of training take some
    phases = time_phases(
        loop.ready_step, loop.model, loop.optimizer, StepClock(topology), min(MARKED, case.steps)
    )
    topology.barrier()  # a device that still trains would slow down the others' peaks
    return Measurement(
        case, loop.train_images, arithmetic(loop.precision), loop.workers, loop.cached, first_step_seconds,
        bare, fed, used, _of_all(topology, joules), stolen_cores, phases,
        roofline.measure(topology.device, loop.precision),
    )  # fmt: skip


def _take(steps: Iterator[Step], count: int) -> None:
    """Take `count` steps untimed, to warm up."""
    deque(itertools.islice(steps, count), maxlen=0)


def _memory(topology: Topology, activity: list[GpuReading]) -> MemoryReading:
    """Return memory and activity of every GPU of the case, whichever process uses it."""
    reading = memory.read_all(topology)
    gpus: list[GpuReading] = [asdict(gpu) for gpu in reading.gpus]
    for gpu, means in zip(gpus, itertools.chain.from_iterable(topology.gather(activity)), strict=False):
        gpu.update(means)
    return {"gpus": gpus, "rss_mib": reading.peak_rss_mib}


def _of_all(topology: Topology, joules: float | None) -> float | None:
    """Return the energy of all processes' GPUs; processes on the CPU read the same counter."""
    known = [each for each in topology.gather(joules) if each is not None]
    if len(known) < topology.world:
        return None
    return float(sum(known)) if topology.cuda_devices else known[0]


def arithmetic(policy: Precision) -> str:
    """Return the number format of the convolutions. On CUDA, "AMP off" is TF32 unless it has been switched off."""
    if policy.dtype is not None:
        return str(policy.dtype).removeprefix("torch.")
    return "tf32" if policy.device_type == "cuda" and convolutions_use_tf32() else "float32"


@contextlib.contextmanager
def limited_host_memory() -> Iterator[None]:
    """Let allocations of this process fail before the system swaps or kills it, until the block ends (Linux only)."""
    try:
        import resource
    except ImportError:  # Windows has none
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit_host_memory()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def limit_host_memory() -> None:
    """Let allocations of this process fail from now on before the system swaps or kills it (Linux only)."""
    try:
        import resource

        data_pages = int(Path("/proc/self/statm").read_text().split()[5])
    except (ImportError, OSError):
        return
    free = memory.free_mib()
    if free is None:
        return
    limit = data_pages * resource.getpagesize() + int(0.9 * free * memory.MIB)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:  # a queue may have set one
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
