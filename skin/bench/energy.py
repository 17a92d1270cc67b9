"""Energy by the counters of the hardware: NVML's of each GPU, RAPL's of the processors. Nothing is guessed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from skin.utils.memory import ask_nvml

import torch

RAPL = Path("/sys/class/powercap")  # Linux; most systems let root alone read it
MOST_WATTS = 500  # of a processor: if its counter says more, it did not go over its range, but was set anew


class Reading(NamedTuple):
    """The counter of a device: joules since some time, and those after which it begins anew (None: it never does)."""

    joules: float
    range: float | None = None


def read(devices: list[torch.device], rapl: Path = RAPL) -> list[Reading | None]:
    """Return the counter of each GPU, or without GPUs of each processor; None for one that does not answer."""
    if devices:
        answers = [ask_nvml("nvmlDeviceGetTotalEnergyConsumption", device) for device in devices]
        return [None if millijoules is None else Reading(millijoules / 1000) for millijoules in answers]
    return [_of_package(zone) for zone in sorted(rapl.glob("intel-rapl:*")) if _is_package(zone)]


def _is_package(zone: Path) -> bool:
    """Return True for a whole processor: "psys" counts the whole machine, the processor's energy once more."""
    try:
        return (zone / "name").read_text().startswith("package")
    except OSError:
        return False


def _of_package(zone: Path) -> Reading | None:
    """Return the counter of a processor, by RAPL: its own and its memory controller's energy, not the memory's."""
    try:
        joules, wraps = (int((zone / name).read_text()) / 1e6 for name in ("energy_uj", "max_energy_range_uj"))
    except (OSError, ValueError):
        return None
    return Reading(joules, wraps)


def spent(before: list[Reading | None], after: list[Reading | None], seconds: float) -> float | None:
    """Return the joules between two readings of the same devices, so many seconds apart; None if nobody can tell.

    A counter that went over its range has begun anew at 0. It cannot be read if it may have done so twice, if it went
    backwards otherwise, or if it stood still.
    """
    total, most = 0.0, MOST_WATTS * seconds
    for first, last in zip(before, after, strict=True):
        if first is None or last is None:
            return None
        joules = last.joules - first.joules
        if first.range is not None:
            joules %= first.range
            if most >= first.range or joules > most:
                return None
        if joules <= 0:
            return None
        total += joules
    return total if before else None
