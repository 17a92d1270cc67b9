"""Times on the device that computes: events in a GPU's own stream, or the clock of a CPU."""

from __future__ import annotations

import itertools
import time
from typing import Any

from skin.utils.parallel import Topology

import torch


class StepClock:
    """Marks moments between steps: by events in the GPU's own stream, which wait for nothing, or by the clock."""

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
        """Return the milliseconds between marks. Call it after `synchronise`."""
        pairs = itertools.pairwise(self.marks)
        if self.devices:
            return tuple(a.elapsed_time(b) for a, b in pairs)
        return tuple(1000 * (b - a) for a, b in pairs)
