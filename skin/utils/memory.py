"""Measure the memory that a run takes: per GPU torch's allocated and reserved and NVML's used; the process's RSS."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skin.utils.parallel import Topology

import torch

MIB = 1024**2


@dataclass(frozen=True)
class GpuMemory:
    """Peaks since `reset_peaks`; only `nvml_used_mib` is the memory in use on the GPU now, by anyone."""

    allocated_mib: float
    reserved_mib: float
    nvml_used_mib: float | None  # None if NVML is missing or does not answer


@dataclass(frozen=True)
class Memory:
    """One reading. `gpus` has an entry per GPU in use; `peak_rss_mib` is the process's, or the largest of several."""

    gpus: tuple[GpuMemory, ...]
    peak_rss_mib: float

    @property
    def peak_mib(self) -> float:
        """The number by which runs are compared: the fullest GPU's peak allocation, or the RSS on a CPU."""
        return max((g.allocated_mib for g in self.gpus), default=self.peak_rss_mib)

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        if not self.gpus:
            return f"{self.peak_rss_mib:,.0f} MiB RSS"
        return "; ".join(
            f"GPU {i}: {g.allocated_mib:,.0f} MiB allocated, {g.reserved_mib:,.0f} reserved"
            + (f", {g.nvml_used_mib:,.0f} NVML" if g.nvml_used_mib is not None else "")
            for i, g in enumerate(self.gpus)
        )


def reset_peaks(devices: list[torch.device]) -> None:
    """Start a new measurement: peaks are counted from here."""
    if devices:
        torch.cuda.init()  # otherwise a process that has not used a GPU yet has no counters to reset
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # without /proc the peak is that of the whole run
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM


def read(devices: list[torch.device]) -> Memory:
    """Return the peaks since `reset_peaks`. `devices` are the CUDA devices in use; none is the CPU."""
    gpus = tuple(
        GpuMemory(
            allocated_mib=torch.cuda.max_memory_allocated(device) / MIB,
            reserved_mib=torch.cuda.max_memory_reserved(device) / MIB,
            nvml_used_mib=nvml_used_mib(device),
        )
        for device in devices
    )
    return Memory(gpus, peak_rss_mib())


def read_all(topology: Topology) -> Memory:
    """Return the reading over all processes and their GPUs. All processes must call it, and get the same."""
    readings = topology.gather(read(topology.cuda_devices))
    return Memory(tuple(gpu for r in readings for gpu in r.gpus), max(r.peak_rss_mib for r in readings))


def peak_rss_mib() -> float:
    """Return the largest RSS of this process since `reset_peaks` (Linux) or since its start; 0 on Windows."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        try:
            import resource
        except ImportError:  # Windows has none
            return 0.0
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, other systems KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def free_mib() -> float | None:
    """Return the memory that processes of this machine could still get without swapping; None if nobody says it."""
    try:
        meminfo = Path("/proc/meminfo").read_text()
        return int(meminfo.split("MemAvailable:")[1].split()[0]) / 1024
    except (OSError, IndexError):  # not Linux
        return None


def nvml_used_mib(device: torch.device) -> float | None:
    """Return the memory in use on a GPU, by anyone; None if NVML is missing or does not answer."""
    info = ask_nvml("nvmlDeviceGetMemoryInfo", device)
    return None if info is None else info.used / MIB


def ask_nvml(question: str, device: torch.device) -> Any:
    """Ask NVML's function `question` about a CUDA device; None if NVML is missing or does not answer.

    NVML counts GPUs in the order of their slots, CUDA counts the fastest first. torch asks NVML by CUDA's numbers.
    Only by its UUID do both mean the same GPU.
    """
    try:
        import pynvml

        pynvml.nvmlInit()  # NVML counts these calls: all but the first are cheap
        uuid = torch.cuda.get_device_properties(device).uuid
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except pynvml.NVMLError:  # a slice of a GPU has a prefix of its own
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")
        return getattr(pynvml, question)(handle)
    except Exception:  # no library, no driver, or NVML has failed in one of its many ways: only a number is missing
        return None


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors for the next ones, if the C library is glibc.

    By default glibc returns each block of more than 32 MiB to the kernel. The next tensor's pages are then
    handed out and zeroed again. For large activations this costs more than the arithmetic on them.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)


def return_freed_memory() -> None:
    """Give the memory of freed tensors back to the system now, if the C library is glibc."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
