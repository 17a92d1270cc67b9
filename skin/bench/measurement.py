"""One cell of the benchmark, measured in a process of its own: how fast, how much memory, how steady.

First the bare step on a batch that is ready, the ceiling of what training can reach; then training itself,
loader and all. Each is warmed up and then timed over a window with the GPUs synchronised at its edges only.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from skin.model.precision import Precision, convolutions_use_tf32
from skin.utils import memory
from skin.utils.memory import ask_nvml
from skin.utils.parallel import Topology

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Cell:
    """What to measure."""

    gpus: int  # 0 is the CPU
    parallel: str  # "single", "dp" or "ddp"
    amp: bool
    recipe: str  # a key of benchmark.RECIPES
    data: str
    labels: str | None
    model: str
    image_size: int
    batch_size: int  # for each GPU
    workers: int | None
    cache: str  # of decoded images: "auto", "off" or a folder
    steps: int  # in a timed window
    warmup: int
    whole_epoch: bool = False  # time the loader's window over an epoch from its first step to its last
    probe: bool = False  # only see whether a batch of this size fits

    @property
    def title(self) -> str:
        """For a line of text: "2 GPUs ddp, ours, amp on"."""
        where = "CPU" if self.gpus == 0 else f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}"
        mode = f" {self.parallel}" if self.parallel != "single" else ""
        return f"{where}{mode}, {self.recipe}, amp {'on' if self.amp else 'off'}"


class Step(NamedTuple):
    """One training step."""

    images: int  # in this process
    wait_seconds: float  # for the batch
    loss: Tensor | float


class Recipe(Protocol):
    """A way of training that can be measured."""

    topology: Topology
    precision: Precision

    @property
    def train_images(self) -> int:
        """Images of an epoch, over all processes."""

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def feeding(self) -> dict[str, Any]:
        """How the loader works: `workers`, its processes, and `cached`, whether it finds images decoded."""

    def ready_step(self) -> Step:
        """A step on a batch that is on the device already, always the same."""

    def last_step(self) -> None:
        """A step on the last batch of an epoch, where that is smaller than the others and is trained on."""

    def epoch_steps(self, epoch: int) -> Iterator[Step]:
        """The steps of an epoch, fed by the loader."""


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


class StepClock:
    """Marks the ends of steps: by events in the GPU's own stream, which wait for nothing, or by the clock."""

    def __init__(self, topology: Topology) -> None:
        self.devices = topology.cuda_devices
        self.marks: list[Any] = []

    def synchronise(self) -> None:
        for device in self.devices:
            torch.cuda.synchronize(device)

    def mark(self) -> None:
        if self.devices:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.devices[0]))
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def step_ms(self) -> tuple[float, ...]:
        """Milliseconds between marks. Call it after `synchronise`."""
        pairs = itertools.pairwise(self.marks)
        if self.devices:
            return tuple(a.elapsed_time(b) for a, b in pairs)
        return tuple(1000 * (b - a) for a, b in pairs)


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
    """Asks NVML now and then how busy this process's GPUs are and what power they draw, None where it is silent."""

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

    def means(self) -> list[dict[str, float | None]]:
        """For each GPU: utilisation_percent and power_watts."""
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


def measure(cell: Cell, recipe: Recipe) -> dict[str, Any]:
    """Measure a recipe that has been built and has not taken a step yet.

    Returns:
        The figures of one round, under the names that INTERFACE and `skin.bench.report` use.
    """
    topology = recipe.topology
    memory.reset_peaks(topology.cuda_devices)
    ready = iter(recipe.ready_step, None)
    first_step_seconds = time_steps(ready, 1, topology).seconds  # builds kernels, Adam's state, the batch itself
    _take(ready, cell.warmup)
    if cell.probe:
        return {"memory": _memory(topology, [])}
    if cell.warmup:
        recipe.last_step()  # what is searched or compiled for its size is none of a window's business
    if cell.warmup and topology.cuda_devices:  # nor is the memory in which cuDNN has tried its kernels
        torch.cuda.empty_cache()
        memory.reset_peaks(topology.cuda_devices)
        _take(ready, 1)
    bare = time_steps(ready, cell.steps, topology)

    stream: Iterator[Step] = itertools.chain.from_iterable(map(recipe.epoch_steps, itertools.count()))
    count = cell.steps
    if cell.whole_epoch:
        if cell.warmup:
            # To its end: what the loader has ready when an epoch is left halfway, the next one has to clear away.
            _take(recipe.epoch_steps(0), recipe.steps_per_epoch)
        stream, count = recipe.epoch_steps(1), recipe.steps_per_epoch
    else:
        _take(stream, cell.warmup)
    with GpuSampler(topology.cuda_devices) as sampler:
        window = time_steps(stream, count, topology)
    return {
        "epoch_seconds": window.seconds if cell.whole_epoch else recipe.train_images / window.images_per_second,
        "whole_epoch": cell.whole_epoch,
        "images_per_second": window.images_per_second,
        "step_images_per_second": bare.images_per_second,
        "end_to_end_share": window.images_per_second / bare.images_per_second,
        "data_wait_share": window.wait_seconds / window.seconds,
        "step_ms_median": float(np.median(window.step_ms)),
        "step_ms_p95": float(np.percentile(window.step_ms, 95)),
        "first_step_seconds": first_step_seconds,
        "loss": window.loss,
        **recipe.feeding,
        "memory": _memory(topology, sampler.means()),
    }


def _take(steps: Iterator[Step], count: int) -> None:
    """Take `count` steps to warm up, untimed."""
    deque(itertools.islice(steps, count), maxlen=0)


def _memory(topology: Topology, activity: list[dict[str, float | None]]) -> dict[str, Any]:
    """Memory and activity of every GPU of the cell, whichever process uses it."""
    reading = memory.read_all(topology)
    gpus = [asdict(gpu) for gpu in reading.gpus]
    for gpu, figures in zip(gpus, itertools.chain.from_iterable(topology.gather(activity)), strict=False):
        gpu.update(figures)
    return {"gpus": gpus, "rss_mib": reading.peak_rss_mib}


def devices(topology: Topology) -> list[dict[str, Any]]:
    """What the GPUs of the cell are: name, UUID, memory, compute capability. All processes must call it."""
    found = []
    for device in topology.cuda_devices:
        properties = torch.cuda.get_device_properties(device)
        found.append({
            "name": properties.name,
            "uuid": str(getattr(properties, "uuid", "")) or None,
            "memory_mib": round(properties.total_memory / memory.MIB),
            "compute_capability": f"{properties.major}.{properties.minor}",
        })  # fmt: skip
    return list(itertools.chain.from_iterable(topology.gather(found)))


def arithmetic(policy: Precision) -> str:
    """What the convolutions are computed in. On CUDA "AMP off" is TF32 unless someone has switched that off."""
    if policy.dtype is not None:
        return str(policy.dtype).removeprefix("torch.")
    return "tf32" if policy.device_type == "cuda" and convolutions_use_tf32() else "float32"


def limit_host_memory() -> None:
    """From now on let this process fail to allocate what is not free, before the system swaps or kills (Linux)."""
    try:
        import resource

        meminfo = Path("/proc/meminfo").read_text()
        data_pages = int(Path("/proc/self/statm").read_text().split()[5])
    except (ImportError, OSError):
        return
    free = 1024 * int(meminfo.split("MemAvailable:")[1].split()[0])
    limit = data_pages * resource.getpagesize() + int(0.9 * free)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
