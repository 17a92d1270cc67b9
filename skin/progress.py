"""How far a run has come: what `last.pt` holds, so that a run goes on as if nothing had happened.

The order of the images, their augmentation and dropout's draws are functions of the seed and the step, so
the state of a run is only this: weights, optimizer, scaler, and the counts kept here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skin.checkpoint import FORMAT_VERSION
from skin.errors import UserError


@dataclass
class Progress:
    """Counts and figures of a run so far."""

    higher_is_better: bool
    epoch: int = 0  # epochs that are done
    step: int = 0  # steps done in the epoch under way
    records: Tensor = field(default_factory=lambda: torch.zeros(0, 4))  # float32 [steps, 4], see train_step
    seconds: float = 0.0  # of the epoch under way, before the last interruption
    wait_seconds: float = 0.0  # likewise
    best_value: float = math.nan
    best_epoch: int = 0  # counted from 1; 0 is none yet
    history: list[dict[str, Any]] = field(default_factory=list)  # a row an epoch, as in metrics.csv

    def begin_epoch(self, steps: int, device: torch.device) -> None:
        """Make room for the records of an epoch, keeping those from before an interruption."""
        done = self.records[: self.step]
        self.records = torch.zeros(steps, 4, device=device)
        self.records[: self.step] = done

    def first_bad_step(self) -> int | None:
        """The first step of this epoch whose loss is not finite; a sync point on a GPU."""
        bad = ~torch.isfinite(self.records[: self.step, 0])
        return int(bad.nonzero()[0]) if bad.any() else None

    def totals(self) -> np.ndarray:
        """float64 [4]: loss numerator, weight, correct and images of the epoch so far, in this process."""
        return self.records[: self.step].double().sum(0).cpu().numpy()

    def end_epoch(self, row: dict[str, Any], value: float) -> bool:
        """Take in an epoch's row and its monitored figure; whether it is the best so far."""
        self.history.append(row)
        self.epoch += 1
        self.step, self.seconds, self.wait_seconds = 0, 0.0, 0.0
        better = value > self.best_value if self.higher_is_better else value < self.best_value
        if better or self.best_epoch == 0:
            self.best_value, self.best_epoch = value, self.epoch
            return True
        return False

    def out_of_patience(self, patience: int) -> bool:
        """Whether the last `patience` epochs (0: never mind) brought nothing better."""
        return 0 < patience <= self.epoch - self.best_epoch

    def state(self) -> dict[str, Any]:
        """As plain tensors, numbers, strings, lists and dicts."""
        return {
            "format_version": FORMAT_VERSION,
            "epoch": self.epoch,
            "step": self.step,
            "records": self.records[: self.step].cpu(),
            "seconds": self.seconds,
            "wait_seconds": self.wait_seconds,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "history": self.history,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`. Raises `UserError` where a part is missing or of another version."""
        if state.get("format_version") != FORMAT_VERSION:
            raise UserError(f"the checkpoint is not of format version {FORMAT_VERSION}; it cannot be gone on with")
        names = ("epoch", "step", "records", "seconds", "wait_seconds", "best_value", "best_epoch", "history")
        for name in names:
            if name not in state:
                raise UserError(f"the checkpoint lacks {name!r}; it cannot be gone on with")
            setattr(self, name, state[name])
