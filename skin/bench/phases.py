"""Time the parts of a training step, in steps of their own, so that no timed window pays for the marks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skin.bench.clock import StepClock

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Phases:
    """Milliseconds of the parts of the bare step, the median over some steps.

    Attributes:
        forward: from the step's begin to the logits.
        backward: from there to the optimizer: the loss, its way back, the gradients over all processes, their norm.
        optimizer: from there to the step's end: the update of the weights, and what the loop reads of the step.
    """

    forward: float
    backward: float
    optimizer: float


def time_phases(
    step: Callable[[], object], model: nn.Module, optimizer: torch.optim.Optimizer, clock: StepClock, count: int
) -> Phases | None:
    """Take `count` steps with a mark after each part. All processes must call it together.

    Args:
        step: takes a step on a ready batch; it calls `model` once, then `optimizer.step` once.
        clock: a fresh one.

    Returns:
        The parts; None if a step had others, as where a `GradScaler` has skipped the optimizer.
    """

    def mark(*of_hook: object) -> None:
        clock.mark()

    hooks = [model.register_forward_hook(mark), optimizer.register_step_pre_hook(mark)]
    try:
        clock.synchronise()
        for _ in range(count):
            clock.mark()
            step()
        clock.mark()
        clock.synchronise()
    finally:
        for hook in hooks:
            hook.remove()
    times = clock.step_ms()
    if len(times) != 3 * count:
        return None
    return Phases(*np.median(np.reshape(times, (count, 3)), axis=0).tolist())
