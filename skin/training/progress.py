"""How far a run has come: what `last.pt` holds, so that a run goes on as if nothing had happened.

The order of the images, their augmentation and dropout's draws are functions of the seed and the step, so
the state of a run is only this: weights, optimizer, scaler, and the counts kept here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from skin.model.checkpoint import FORMAT_VERSION, is_version
from skin.training.run_folder import COLUMNS
from skin.utils.errors import UserError
from skin.utils.parallel import Topology

import numpy as np
import torch
from torch import Tensor


@dataclass
class Progress:
    """Counts and figures of a run so far."""

    higher_is_better: bool
    epoch: int = 0  # epochs that are done
    step: int = 0  # steps done in the epoch under way
    steps: int = 0  # that it has in all
    taken: int = 0  # steps since the run began, those that the scaler skipped among them
    records: Tensor = field(default_factory=lambda: torch.zeros(0, 4))  # float32 [steps, 4], see train_step
    seconds: float = 0.0  # of the epoch under way, before the last interruption
    wait_seconds: float = 0.0  # likewise
    best_value: float = math.nan
    best_epoch: int = 0  # counted from 1; 0 is none yet
    history: list[dict[str, Any]] = field(default_factory=list)  # a row an epoch, as in metrics.csv

    def begin_epoch(self, steps: int, device: torch.device) -> None:
        """Make room for the records of an epoch, keeping those from before an interruption."""
        before, self.steps = self.records, steps
        self.records = torch.zeros(max(steps, len(before)), 4, device=device)
        self.records[: len(before)] = before

    def begin_anew(self) -> bool:
        """Forget the steps of the epoch under way, whose plan no longer holds; whether there were any.

        The images of an epoch whose steps are all done have been counted, each once: there, nothing is to be done.
        """
        if self.step in (0, self.steps):
            return False
        self.step, self.seconds, self.wait_seconds = 0, 0.0, 0.0
        self.records = torch.zeros(0, 4)
        return True

    def first_bad_step(self) -> int | None:
        """The first step of this epoch whose loss is not finite; a sync point on a GPU."""
        bad = ~torch.isfinite(self.records[: self.step, 0])
        return int(bad.nonzero()[0]) if bad.any() else None

    def totals(self) -> np.ndarray:
        """float64 [4]: loss numerator, weight, correct and images of the epoch so far, in this process."""
        return self.records.double().sum(0).cpu().numpy()

    def end_epoch(self, row: dict[str, Any], value: float) -> bool:
        """Take in an epoch's row and its monitored figure; return True if it is the best so far.

        Any number is better than NaN. As long as all are NaN there is nothing to choose by, and the newest epoch,
        which has learnt longest, counts as the best.
        """
        self.history.append(row)
        self.epoch += 1
        self.step, self.seconds, self.wait_seconds = 0, 0.0, 0.0
        self.records = torch.zeros(0, 4)
        better = value > self.best_value if self.higher_is_better else value < self.best_value
        if better or math.isnan(self.best_value):
            self.best_value, self.best_epoch = value, self.epoch
            return True
        return False

    def out_of_patience(self, patience: int) -> bool:
        """Whether the last `patience` epochs (0: never mind) brought nothing better."""
        return 0 < patience <= self.epoch - self.best_epoch

    def state(self, topology: Topology) -> dict[str, Any]:
        """As plain tensors, numbers, strings, lists and dicts. All processes must call it together."""
        records = np.zeros((topology.world, self.step, 4))
        records[topology.rank] = self.records[: self.step].cpu()
        return {
            "format_version": FORMAT_VERSION,
            "epoch": self.epoch,
            "step": self.step,
            "steps": self.steps,
            "taken": self.taken,
            # Each process's own: a sum would be rounded otherwise than that of an undisturbed run.
            "records": torch.from_numpy(topology.sum(records)).float(),
            "seconds": self.seconds,
            "wait_seconds": self.wait_seconds,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "history": list(self.history),
        }

    def load_state(self, state: Any, topology: Topology, steps: int) -> None:
        """The inverse of `state`, for a file's contents, which need not come from the same number of processes.

        Args:
            steps: in an epoch, now.

        Raises:
            UserError: the state is damaged, or of another version of the format.
        """
        if not isinstance(state, dict) or not is_version(state.get("format_version")):
            raise UserError(f"the checkpoint is not of format version {FORMAT_VERSION}; it cannot be gone on with")
        for name in ("epoch", "step", "steps", "taken", "seconds", "wait_seconds", "best_value", "best_epoch"):
            value: Any = state.get(name)
            if type(value) is not type(getattr(self, name)) or (value < 0 and name != "best_value"):
                raise UserError(f"the checkpoint's {name!r} is {value!r}: damaged")
            setattr(self, name, value)
        self.history = _rows(state.get("history"), self.epoch)
        if self.step > self.steps or self.best_epoch > self.epoch or (self.best_epoch == 0) != (self.epoch == 0):
            raise UserError("the checkpoint's counts contradict one another: damaged")
        records = state.get("records")
        if not isinstance(records, Tensor) or records.dtype != torch.float32 or records.dim() != 3:
            raise UserError("the checkpoint's records are no table of numbers: damaged")
        if records.shape[1:] != (self.step, 4) or not torch.isfinite(records).all():
            raise UserError("the checkpoint's records are not those of its steps: damaged")
        if len(records) == topology.world:
            self.records = records[topology.rank]
        else:
            self.records = records.sum(0) if topology.is_main else torch.zeros(self.step, 4)
        # With another number of processes the last, short batch may join the one before it, or leave it.
        if self.step == self.steps:
            self.step = self.steps = steps
        self.step = min(self.step, steps)


def _rows(history: Any, epochs: int) -> list[dict[str, Any]]:
    """The rows of metrics.csv, a file's contents, if they are that."""
    sound = isinstance(history, list) and len(history) == epochs
    if not sound or not all(isinstance(row, dict) and set(row) == set(COLUMNS) for row in history):
        raise UserError(f"the checkpoint's history is not that of {epochs} epochs: damaged")
    if not all(type(value) in (int, float) for row in history for value in row.values()):
        raise UserError("the checkpoint's history holds what is no number: damaged")
    return history
