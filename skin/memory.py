"""How much memory a run takes: per GPU what torch allocated, reserved and NVML sees; the process's RSS."""

from __future__ import annotations

import contextlib
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

MIB = 1024**2


@dataclass(frozen=True)
class GpuMemory:
    """Peaks since `reset_peaks`, but for `nvml_used_mib`: all that is in use on the GPU now, by anyone."""

    allocated_mib: float
    reserved_mib: float
    nvml_used_mib: float | None  # None where NVML is missing or does not answer


@dataclass(frozen=True)
class Memory:
    """One reading. `gpus` has an entry for each GPU in use; `peak_rss_mib` is this process's."""

    gpus: tuple[GpuMemory, ...]
    peak_rss_mib: float

    @property
    def peak_mib(self) -> float:
        """The figure that runs are compared by: the fullest GPU's peak allocation, or the RSS on a CPU."""
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
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # where there is no /proc the peak is that of the whole run
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM


def read(devices: list[torch.device]) -> Memory:
    """Peaks since `reset_peaks`. `devices` are the CUDA devices in use; none is the CPU."""
    gpus = tuple(
        GpuMemory(
            allocated_mib=torch.cuda.max_memory_allocated(device) / MIB,
            reserved_mib=torch.cuda.max_memory_reserved(device) / MIB,
            nvml_used_mib=_nvml_used_mib(device),
        )
        for device in devices
    )
    return Memory(gpus, peak_rss_mib())


def peak_rss_mib() -> float:
    """The largest resident set of this process since `reset_peaks` (Linux) or since it began."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, other systems KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def _nvml_used_mib(device: torch.device) -> float | None:
    """torch asks NVML for the GPU by its UUID, so CUDA's order of GPUs and NVML's need not agree."""
    try:
        return torch.cuda.device_memory_used(device) / MIB
    except Exception:  # pynvml is absent, or NVML has failed in one of its many ways: a figure less, no more
        return None
