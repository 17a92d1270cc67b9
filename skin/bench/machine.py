"""The machine that is measured: its processor and GPUs, its software, and who else uses it."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any, TypedDict

from skin.training import run_folder
from skin.utils import memory
from skin.utils.hardware import usable_cores
from skin.utils.memory import ask_nvml, nvml_used_mib
from skin.utils.parallel import usable_gpus

import torch

STOLEN = 0.1  # cores: fewer are not worth a word
_FLAGS = ("avx", "amx", "fma", "sse4", "f16c", "vnni", "asimd", "sve", "bf16", "i8mm")


class Gpu(TypedDict):
    """A GPU that torch can use."""

    name: str
    uuid: str | None
    memory_mib: int
    compute_capability: str  # "9.0"


def environment() -> dict[str, Any]:
    """Return the `environment` of the JSON: this machine, its software, and the GPUs that others use."""
    found = {name: value for name, value in run_folder.environment().items() if name != "gpus"}
    return {
        **found, "cpu_flags": _cpu_flags(), "usable_cores": usable_cores(), "memory_mib": _memory_mib(),
        "driver": _driver(), "gpus_in_use_by_others": busy_gpus(usable_gpus()), "gpu_devices": gpus(usable_gpus()),
    }  # fmt: skip


def gpus(count: int) -> list[Gpu]:
    """Return the first `count` GPUs."""
    found: list[Gpu] = []
    for i in range(count):
        properties = torch.cuda.get_device_properties(i)
        found.append({
            "name": properties.name,
            "uuid": str(getattr(properties, "uuid", "")) or None,
            "memory_mib": round(properties.total_memory / memory.MIB),
            "compute_capability": f"{properties.major}.{properties.minor}",
        })  # fmt: skip
    return found


def device_name(environment: dict[str, Any], count: int) -> str:
    """Return the name of the device that a case with `count` GPUs runs on."""
    if count == 0:
        return str(environment["cpu"])
    return " / ".join(sorted({gpu["name"] for gpu in environment["gpu_devices"][:count]})) or "GPU"


def busy_gpus(present: int) -> list[str]:
    """Return a line for each visible GPU that is in use before we have touched it."""
    lines = []
    for device in (torch.device("cuda", i) for i in range(present)):
        used_mib, rates = nvml_used_mib(device) or 0.0, ask_nvml("nvmlDeviceGetUtilizationRates", device)
        percent = 0 if rates is None else rates.gpu
        if used_mib > 1024 or percent > 10:
            lines.append(f"GPU {device.index} is in use by others ({used_mib:,.0f} MiB, {percent} % busy): "
                         "speed and memory will suffer")  # fmt: skip
    return lines


def busy_cores() -> str | None:
    """Return a line if other programs keep half of the usable cores at work; None if not, or if nobody says it."""
    try:
        load, cores = os.getloadavg()[0], usable_cores()
    except (AttributeError, OSError):  # Windows has none
        return None
    if load < cores / 2:
        return None
    return f"other programs are at work (load {load:.1f} on {cores} cores): times will change as they come and go"


def stolen_seconds(stat: Path = Path("/proc/stat")) -> float | None:
    """Return for how long, in seconds of a core, the host of this virtual machine has run others on its usable cores.

    It counts from the machine's start (the eighth number of a core in proc_stat(5), "steal"). None if no one says.
    """
    try:
        lines = stat.read_text().splitlines()
        usable = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        ticks = [int(line.split()[8]) for line in lines if line.split()[0] in usable]
        return sum(ticks) / os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError, ValueError, IndexError):  # no Linux, or one without
        return None


class StolenTime:
    """Asks how many cores the host of this virtual machine has kept from it, since this was made."""

    def __init__(self) -> None:
        self._before, self._start = stolen_seconds(), time.perf_counter()

    def cores(self) -> float | None:
        """Return the mean number of cores; None if nobody says."""
        now = stolen_seconds()
        if now is None or self._before is None:
            return None
        return max(0.0, now - self._before) / (time.perf_counter() - self._start)


def stolen(cores: float | None) -> str | None:
    """Return a line on the cores that the host of a virtual machine kept from it; None if they are not worth one."""
    if cores is None or cores < STOLEN:
        return None
    return f"the host of this virtual machine took {cores:.2f} cores away meanwhile: times depend on its other guests"


def _cpu_flags() -> list[str]:
    """Return the vector instructions of the processor, as Linux names them."""
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
