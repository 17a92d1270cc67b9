"""Counts of a run: how far it has come, what its steps measured, which epoch was the best.

The order of the images, their augmentation and the draws of dropout are functions of the seed and the step. So
weights, optimizer, scaler and these counts are all that a run needs to go on as if nothing had happened.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, TypedDict

from skin.model.checkpoint import FORMAT_VERSION, is_version
from skin.training.columns import Row, checked_rows
from skin.training.records import FIELDS, UNKNOWN, StepDone, StepRecord, Totals
from skin.utils.errors import UserError
from skin.utils.parallel import Topology

import torch
from torch import Tensor


class ProgressState(TypedDict):
    """`progress` in last.pt."""

    format_version: int
    epoch: int
    step: int
    steps: int
    skipped: int
    records: Tensor  # float32 [processes, step, FIELDS]
    seconds: float
    wait_seconds: float
    best_value: float
    best_epoch: int
    history: list[Row]


@dataclass
class Progress:
    """Counts and measurements of a run so far."""

    higher_is_better: bool
    epoch: int = 0  # epochs that are done
    step: int = 0  # steps that are done in the epoch under way
    steps: int = 0  # steps of that epoch in total
    skipped: int = 0  # steps that the scaler skipped in the epochs that are done
    records: Tensor = field(default_factory=lambda: torch.zeros(0, FIELDS))  # float32 [steps, FIELDS], see `fields`
    seconds: float = 0.0  # spent on the steps of the epoch under way, without saves
    wait_seconds: float = 0.0  # of those, waiting for the loader
    best_value: float = math.nan
    best_epoch: int = 0  # counted from 1; 0 is none yet
    history: list[Row] = field(default_factory=list)  # one row of metrics.csv per epoch
    _start: float = 0.0

    def begin_epoch(self, steps: int, device: torch.device) -> None:
        """Make room for the records of an epoch, keep those from before an interruption, and start the clock."""
        before, self.steps = self.records, steps
        self.records = torch.zeros(max(steps, len(before)), FIELDS, device=device)
        self.records[: len(before)] = before
        self._start = time.perf_counter() - self.seconds

    def take(self, done: StepDone) -> None:
        """Take in a step. Waits for no GPU."""
        self.records[done.step - 1] = torch.stack(done.record)
        self.step = done.step
        self.wait_seconds += done.wait_seconds

    def elapsed(self) -> float:
        """Return the seconds that this epoch has taken until now."""
        return time.perf_counter() - self._start

    def held_up(self, seconds: float) -> None:
        """Leave out the seconds for which a save has held up the steps: they are no time of this epoch."""
        self._start += seconds

    def tick(self) -> None:
        """Take the time until now as that of the steps."""
        self.seconds = self.elapsed()

    def begin_anew(self) -> bool:
        """Forget the steps of the epoch under way, whose plan has changed; return True if there were any.

        If all steps of the epoch are done, each image has been counted once, and there is nothing to do.
        """
        if self.step in (0, self.steps):
            return False
        self._clear()
        return True

    def _clear(self) -> None:
        self.step, self.seconds, self.wait_seconds = 0, 0.0, 0.0
        self.records = torch.zeros(0, FIELDS)

    def fields(self) -> StepRecord:
        """Return the records of the steps done so far: one tensor, [step], per field."""
        return StepRecord(*self.records[: self.step].unbind(1))

    def first_bad_step(self) -> int | None:
        """Return the first step of this epoch, counted from 0, whose loss is not finite. Waits for the GPU."""
        bad = ~torch.isfinite(self.fields().loss_sum)
        return int(bad.nonzero()[0]) if bad.any() else None

    def totals(self, topology: Topology) -> Totals:
        """Return the measurements of the epoch so far. All processes must call it together."""
        own = StepRecord(*(column.double().cpu() for column in self.fields()))
        sums = torch.stack([column.sum() for column in (own.loss_sum, own.weight, own.correct, own.images)])
        loss_sum, weight, correct, images = topology.sum(sums.numpy())
        # The gradients are those of the whole batch, so every process has the same norms.
        norms = own.grad_norm[own.grad_norm != UNKNOWN]
        taken = norms[torch.isfinite(norms)]
        return Totals(
            loss=float(loss_sum / weight), accuracy=float(correct / images), images=int(images),
            grad_norm=float(taken.mean()), skipped=len(norms) - len(taken),
        )  # fmt: skip

    def end_epoch(self, row: Row, value: float, skipped: int = 0) -> bool:
        """Take in the row and the monitored metric of an epoch; return True if it is the best so far.

        Any number is better than NaN. As long as all are NaN there is nothing to choose by. The newest epoch then
        counts as the best, since it has learnt longest.
        """
        self.history.append(row)
        self.epoch += 1
        self.skipped += skipped
        self._clear()
        better = value > self.best_value if self.higher_is_better else value < self.best_value
        if better or math.isnan(self.best_value):
            self.best_value, self.best_epoch = value, self.epoch
            return True
        return False

    def out_of_patience(self, patience: int) -> bool:
        """Return True if the last `patience` epochs brought nothing better; never if it is 0."""
        return 0 < patience <= self.epoch - self.best_epoch

    def state(self, topology: Topology) -> ProgressState:
        """Return the state that last.pt keeps. All processes must call it together."""
        records = torch.zeros(topology.world, self.step, FIELDS, dtype=torch.float64)
        records[topology.rank] = self.records[: self.step]
        return {
            "format_version": FORMAT_VERSION,
            "epoch": self.epoch,
            "step": self.step,
            "steps": self.steps,
            "skipped": self.skipped,
            # Each process keeps its own: a sum of them would be rounded differently from an undisturbed run's.
            "records": torch.from_numpy(topology.sum(records.numpy())).float(),
            "seconds": self.seconds,
            "wait_seconds": self.wait_seconds,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "history": list(self.history),
        }

    def load_state(self, state: Any, topology: Topology, steps: int) -> None:
        """Take over a `ProgressState` from a file, which need not come from the same number of processes.

        Args:
            state: of the file; it may hold anything.
            steps: of an epoch, now.

        Raises:
            UserError: the state is damaged, or of another version of the format.
        """
        if not isinstance(state, dict) or not is_version(state.get("format_version")):
            raise UserError(f"the checkpoint is not of format version {FORMAT_VERSION}; it cannot be gone on with")
        state = {"skipped": 0, **state}  # earlier versions did not keep it
        for name in ("epoch", "step", "steps", "skipped", "seconds", "wait_seconds", "best_value", "best_epoch"):
            value: Any = state.get(name)
            if type(value) is not type(getattr(self, name)) or (value < 0 and name != "best_value"):
                raise UserError(f"the checkpoint's {name!r} is {value!r}: damaged")
            setattr(self, name, value)
        self.history = checked_rows(state.get("history"), self.epoch)
        if self.step > self.steps or self.best_epoch > self.epoch or (self.best_epoch == 0) != (self.epoch == 0):
            raise UserError("the checkpoint's counts contradict one another: damaged")
        self.records = _own_records(state.get("records"), self.step, topology)
        # With another number of processes the last, short batch may join the one before it, or leave it.
        if self.step == self.steps:
            self.step = self.steps = steps
        self.step = min(self.step, steps)


def _own_records(found: Any, step: int, topology: Topology) -> Tensor:
    """Return this process's records, float32 [step, FIELDS], from those of all processes in a file."""
    if not isinstance(found, Tensor) or found.dtype != torch.float32 or found.dim() != 3:
        raise UserError("the checkpoint's records are no table of numbers: damaged")
    if found.shape[1:] == (step, FIELDS - 1):  # earlier versions did not keep the norm of the gradients
        found = torch.cat([found, torch.full((len(found), step, 1), UNKNOWN)], dim=2)
    if found.shape[1:] != (step, FIELDS) or len(found) == 0:
        raise UserError("the checkpoint's records are not those of its steps: damaged")
    *sums, norms = StepRecord(*found.unbind(2))
    if not all(torch.isfinite(column).all() for column in sums):
        raise UserError("the checkpoint's records are not those of its steps: damaged")
    if len(found) == topology.world:
        own: Tensor = found[topology.rank]
        return own
    columns = [column.sum(0) if topology.is_main else torch.zeros(step) for column in sums]
    return torch.stack([*columns, norms[0]], dim=1)
