"""The contents of last.pt and best.pt, and the check of a last.pt that may come from a stranger.

train.py fills both and takes last.pt back on --resume.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypedDict

from skin.data.images import PreprocessDict
from skin.model.calibration import Calibration
from skin.model.checkpoint import check_tensors
from skin.training import batch_norm
from skin.training.averaging import AveragedState
from skin.training.options import OPTIMIZERS
from skin.training.progress import ProgressState
from skin.training.trainer import Trainer
from skin.utils.errors import UserError

import torch
from torch import Tensor


class BestPt(TypedDict):
    """best.pt: all that inference needs."""

    format_version: int
    model: dict[str, Tensor]  # state_dict of the unwrapped network
    classes: list[str]  # in the order of the model's outputs
    preprocess: PreprocessDict
    config: dict[str, Any]  # config.json
    metrics: dict[str, int | float]  # row of metrics.csv
    calibration: Calibration  # empty until the run has come to its end


class LastPt(TypedDict):
    """last.pt: all that --resume needs, and with it nothing is lost but the step under way."""

    model: dict[str, Tensor]
    statistics: Tensor  # float32 [processes, S]: BatchNorm's, which each process gathers on its own images
    optimizer: dict[str, Any]
    scaler: dict[str, Any]  # {} if nothing is scaled
    progress: ProgressState
    classes: list[str]
    machine: dict[str, str | int]  # what the last bits depend on
    plan: dict[str, int]  # what decides which images a step takes
    averaged: AveragedState | None  # with --ema


_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


class Restorable(TypedDict):
    """The checked contents of a last.pt, as `load_state_dict` takes them."""

    model: dict[str, Tensor]
    statistics: Tensor | None  # float32 [S], of this process; None in files from before they were kept
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    progress: Any  # `Progress.load_state` checks it
    averaged: AveragedState | None  # its statistics are those of this process


def checked_last(found: dict[str, Any], trainer: Trainer, classes: tuple[str, ...], path: Path) -> Restorable:
    """Return what a last.pt brings back.

    Args:
        found: contents of the file, which may be anything.
        path: of the file, for the message.

    Raises:
        UserError: they are damaged, or of other classes or another model.
    """
    names = found.get("classes")
    if not isinstance(names, list) or [str(name) for name in names] != list(classes):
        raise UserError(f"{path}: the data's classes have changed since; restore the data, or start a new run")
    check_tensors(found.get("model"), trainer.classifier.network.state_dict(), path)
    return {
        "model": found["model"],
        "optimizer": _optimizer_state(found.get("optimizer"), trainer, path),
        "scaler": _scaler_state(found.get("scaler"), path),
        "statistics": _own_statistics(found.get("statistics"), trainer, path),
        "progress": found.get("progress"),
        "averaged": _averaged_state(found.get("averaged"), trainer, path),
    }


def _averaged_state(found: Any, trainer: Trainer, path: Path) -> AveragedState | None:
    if trainer.averaged is None:
        return None
    if not isinstance(found, dict) or type(found.get("steps")) is not int or not 0 <= found["steps"] < 2**63:
        raise UserError(f"{path}: damaged checkpoint: 'averaged' is not the mean of a model's weights")
    check_tensors(found.get("model"), trainer.validated.network.state_dict(), path)
    statistics = _own_statistics(found.get("statistics"), trainer, path)
    if statistics is None:
        raise UserError(f"{path}: damaged checkpoint: 'averaged' lacks the statistics of BatchNorm")
    return {"model": found["model"], "statistics": statistics, "steps": found["steps"]}


def _optimizer_state(found: Any, trainer: Trainer, path: Path) -> dict[str, Any]:
    """Return the optimizer's tensors and the rate of its last step from a file, with the options of this run."""
    own, name = trainer.optimizer.state_dict(), trainer.options.optimizer
    try:
        tensors, lr = found["state"], found["param_groups"][0]["lr"]
        shapes = [parameter.shape for parameter in trainer.classifier.network.parameters()]
        for number, entry in tensors.items():
            like = {key: torch.empty(() if key == "step" else shapes[number], device="meta")
                    for key in OPTIMIZERS[name]}  # fmt: skip
            check_tensors(entry, like, path)
            if any((entry[key] < 0).any() for key in ("step", "exp_avg_sq") if key in entry):
                raise ValueError
        if type(lr) is not float or not math.isfinite(lr):
            raise ValueError
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged checkpoint: 'optimizer' is not this model's {name} state") from error
    return {"state": tensors, "param_groups": [{**group, "lr": lr} for group in own["param_groups"]]}


def _scaler_state(found: Any, path: Path) -> dict[str, Any]:
    if not isinstance(found, dict) or (found and found.keys() != _SCALER):
        raise UserError(f"{path}: damaged checkpoint: 'scaler' is not the state of a GradScaler")
    if not all(type(v) in (int, float) and 0 <= v < math.inf for v in found.values()):
        raise UserError(f"{path}: damaged checkpoint: 'scaler' holds what is no number")
    return found


def _own_statistics(found: Any, trainer: Trainer, path: Path) -> Tensor | None:
    """Return this process's BatchNorm statistics from those of all processes, one row each.

    If there were fewer or more processes, it is their mean.
    """
    if found is None:
        return None
    rows = len(found) if isinstance(found, Tensor) and found.dim() == 2 else 0
    like = batch_norm.read(trainer.classifier.network).expand(max(rows, 1), -1)
    check_tensors({"statistics": found}, {"statistics": like}, path)
    topology = trainer.topology
    own: Tensor = found[topology.rank] if rows == topology.world else found.double().mean(0).float()
    return own
