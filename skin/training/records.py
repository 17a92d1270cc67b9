"""Measurements of one training step, and their totals over an epoch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class StepRecord(NamedTuple):
    """Measurements of one optimizer step, scalars on the device; reading one waits for the GPU."""

    loss_sum: Tensor  # sum of weight * cross entropy over this process's images
    weight: Tensor  # sum of their class weights
    correct: Tensor  # images whose most probable class is their own
    images: Tensor
    grad_norm: Tensor  # 2-norm of all gradients before the step, unscaled; not finite if the scaler skipped the step

    @property
    def loss(self) -> Tensor:
        """The weighted mean of the cross entropy."""
        return self.loss_sum / self.weight


FIELDS = len(StepRecord._fields)
UNKNOWN = -1.0  # the gradient norm of a step that an earlier version of the program took


class Totals(NamedTuple):
    """Measurements of an epoch, over all processes."""

    loss: float  # weighted mean of the cross entropy over all images
    accuracy: float
    images: int
    grad_norm: float  # mean over the steps that were not skipped; NaN if there are none
    skipped: int  # steps that the scaler skipped


class StepDone(NamedTuple):
    """One step that the loop has taken."""

    step: int  # counted from 1 in its epoch
    record: StepRecord
    rows: Tensor  # int64 [B]: rows of the images in the training split
    wait_seconds: float  # for the batch
