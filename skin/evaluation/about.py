"""Tell which model and set a report is about: names, hashes, settings; no paths of the machine that made it."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skin.evaluation.report_types import About, MemberReport, Plain
from skin.evaluation.test_set import TestSet
from skin.model.averaging import Ensemble
from skin.model.checkpoint import Checkpoint, EnsembleCheckpoint
from skin.model.ensemble import source_of

import numpy as np
import torch
import torchvision
from torch import nn

# Options of a run that a reader needs to make the model again, as far as the run has them.
_TRAINING = (
    "recipe", "weights", "epochs", "batch_size", "accumulate", "optimizer", "lr", "weight_decay", "warmup_epochs",
    "freeze_epochs", "augment", "cutout", "mixup", "cutmix", "label_smoothing", "ema", "class_weights", "monitor",
    "patience", "folds", "fold", "split", "amp", "seed", "metadata",
)  # fmt: skip


def of_evaluation(checkpoint: Checkpoint, test: TestSet, model: nn.Module | None = None) -> About:
    """Return what is known of a checkpoint and a set, and the costs of an ensemble's members from `model`."""
    source = source_of(checkpoint.path)
    return About(
        created=time.strftime("%Y-%m-%d %H:%M:%S"),
        checkpoint=source["file"],
        checkpoint_sha256=source["sha256"],
        model=checkpoint.model_name,
        image_size=checkpoint.preprocess.image_size,
        data=test.name,
        data_name=test.name,
        layout=test.layout,
        images_sha256=test.images_sha256,
        own_data=test.own,
        split=test.split,
        training=_training(checkpoint),
        preprocess=dict(checkpoint.preprocess.to_dict()),
        software={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
        },
        members=_members(checkpoint, model),
    )


def _members(checkpoint: Checkpoint, model: nn.Module | None) -> list[MemberReport]:
    """Return the models of an ensemble that has answered; none of a single model."""
    if not isinstance(checkpoint, EnsembleCheckpoint) or not isinstance(model, Ensemble):
        return []
    return [
        MemberReport(source["file"], source["sha256"], member.model_name, *cost)
        for source, member, cost in zip(checkpoint.sources, checkpoint.members, model.costs(), strict=True)
    ]


def settings_of(config: Mapping[str, Any]) -> dict[str, Plain]:
    """Return the options of a run that make its model; a path becomes its last part, a list a phrase."""
    options = {name: config.get(name) for name in _TRAINING}
    plain: dict[str, Plain] = {name: value for name, value in options.items() if isinstance(value, Plain)}
    if columns := list(map(str, options["metadata"] or ())):
        plain["metadata"] = " and ".join(filter(None, (", ".join(columns[:-1]), columns[-1])))
    if "split" in plain:  # only an option: what the data bring, and folds, go before it
        plain["split_if_none_is_brought"] = plain.pop("split")
    if "weights" in plain:
        plain["weights"] = Path(str(plain["weights"])).name
    return plain


def _training(checkpoint: Checkpoint) -> dict[str, Plain]:
    """Return the run's options, and the figures of its best epoch."""
    plain = settings_of(checkpoint.config)
    best = {name: value for name, value in checkpoint.metrics.items() if name == "epoch" or name.startswith("val_")}
    return plain | {f"best_{name}": value for name, value in best.items() if value is not None}
