"""Checkpoints: a killed process never leaves half a file, and loading a stranger's file runs no code.

A checkpoint holds only tensors, numbers, strings, lists and dicts, so `weights_only=True` always loads it.
Inference needs `best.pt`; `--resume` needs `last.pt`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from skin.data.images import Preprocess
from skin.model.calibration import COVERAGES, DECISION, Calibration
from skin.model.choices import MODELS
from skin.model.network import build
from skin.model.tensorfile import load
from skin.model.unlike import passing
from skin.utils.errors import UserError, printable
from skin.utils.files import atomic

import torch
from torch import Tensor
from torchvision.models import EfficientNet

__all__ = ["FORMAT_VERSION", "Checkpoint", "check_tensors", "load", "load_best", "save"]

FORMAT_VERSION = 1


# ---- writing --------------------------------------------------------------------------------------------


def save(state: Mapping[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write `state` to `path` atomically: a reader sees the whole old file or the whole new one.

    Args:
        previous: a name under which the file that was at `path` is kept.

    Raises:
        WriteError: the disk is full or the folder cannot be written; the old file stays.
    """
    with atomic(path, previous) as file:
        sink = _Sink(file)
        torch.save(state, sink)  # type: ignore[arg-type]
        if sink.error is not None:
            raise sink.error


class _Sink:
    """A file for `torch.save` that keeps its error until the end.

    Torch's writer is C++. When it closes an archive that cannot be written, it takes the whole process down.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        pass


# ---- reading best.pt ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A validated `best.pt`: the network with its weights, on the CPU in eval mode, and its settings."""

    path: Path
    network: EfficientNet
    model_name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    config: dict[str, Any]  # the run's config.json: every option by its name, and `resolved`
    metrics: dict[str, float | None]  # the best epoch's row of metrics.csv; None if a metric is not defined
    calibration: Calibration  # empty until the run has come to its end

    def describe(self) -> str:
        """Return one line that tells models apart: the file, the training data and the validation score."""
        monitor = str(self.config.get("monitor"))
        value = self.metrics.get(f"val_{monitor}")
        said = [f"{self.path}: {self.model_name}"]
        if self.config.get("data"):
            said.append(f"trained on {self.config['data']}")
        if value is not None:
            said.append(f"validation {monitor.replace('_', ' ')} {value:.4f}")
        if not self.calibration:
            said.append("uncalibrated (its run has not come to its end)")
        elif weak := passing(self.calibration["unlike"]):
            said.append(f"cannot tell {', '.join(weak)} from its training images")
        return printable(", ".join(said), limit=1000)


_KEYS = {"model": dict, "classes": list, "preprocess": dict, "config": dict, "metrics": dict, "calibration": dict}
_TEXT_OR_NONE = (str, type(None))
_CONFIG: dict[str, Any] = {  # the types of the options that others read; each may be missing
    "data": _TEXT_OR_NONE, "labels": _TEXT_OR_NONE, "group_by": _TEXT_OR_NONE, "demo": bool, "split": str,
    "allow_missing": bool,
    "skip_bad_images": bool, "keep_duplicates": bool, "model": str, "weights": str, "monitor": str,
    "epochs": int, "batch_size": int, "seed": int, "amp": str, "out": _TEXT_OR_NONE, "resolved": dict,
}  # fmt: skip


def load_best(path: Path) -> Checkpoint:
    """Read and validate a `best.pt`.

    Raises:
        UserError: no such file, another format version, or contents that do not fit the declared model.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no checkpoint at {path}; train one first: python train.py --data DIR (or --demo)")
    state = load(path)
    if not is_version(state.get("format_version")):
        raise UserError(f"{path}: not a best.pt of format version {FORMAT_VERSION}; was it written by train.py?")
    for key, kind in _KEYS.items():
        if not isinstance(state.get(key), kind):
            raise UserError(f"{path}: damaged checkpoint: {key!r} is not a {kind.__name__}")
    _check_config(state["config"], path)
    name, classes = state["config"]["model"], state["classes"]
    _check_classes(classes, path)
    if not all(_is_number(value) or value is None for value in state["metrics"].values()):
        raise UserError(f"{path}: damaged checkpoint: 'metrics' holds values that are not numbers")
    with torch.device("meta"):
        network = build(name, len(classes))
    check_tensors(state["model"], network.state_dict(), path)
    _check_calibration(state["calibration"], len(classes), network.classifier[1].in_features, path)
    network.load_state_dict(state["model"], assign=True)
    return Checkpoint(
        path=path,
        network=network.eval(),
        model_name=name,
        classes=tuple(classes),
        preprocess=Preprocess.from_dict(state["preprocess"]),
        config=state["config"],
        metrics=state["metrics"],
        calibration=cast(Calibration, state["calibration"]),
    )


def is_version(value: Any) -> bool:
    """Return True if a file's format version is the one that is written here."""
    return type(value) is int and value == FORMAT_VERSION


def check_tensors(state: Any, expected: dict[str, Tensor], path: Path) -> None:
    """Check that `state` has the names, shapes and dtypes of `expected`, and finite numbers.

    Raises:
        UserError: naming the first tensor that does not fit.
    """
    if not isinstance(state, dict):
        raise UserError(f"{path}: damaged checkpoint: its weights are no state_dict")
    for key in sorted(map(str, state.keys() ^ expected.keys())):
        raise UserError(f"{path}: damaged checkpoint: tensor {key} is {'missing' if key in expected else 'unknown'}")
    for key, value in expected.items():
        tensor = state[key]
        if not isinstance(tensor, Tensor) or tensor.shape != value.shape or tensor.dtype != value.dtype:
            raise UserError(f"{path}: damaged checkpoint: tensor {key} is not {value.dtype} {tuple(value.shape)}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: damaged checkpoint: tensor {key} holds numbers that are not finite")


def _check_classes(classes: list[Any], path: Path) -> None:
    try:
        sound = all(isinstance(name, str) and 0 < len(name.encode()) <= 1000 for name in classes)
    except UnicodeEncodeError:  # half a character (a lone surrogate), which no terminal and no file can take
        sound = False
    if not sound or not classes or len(set(classes)) < len(classes):
        raise UserError(f"{path}: damaged checkpoint: 'classes' is not a list of different names")


def _check_config(config: dict[str, Any], path: Path) -> None:
    for key, kind in _CONFIG.items():
        if key in config and (not isinstance(config[key], kind) or (kind is int and isinstance(config[key], bool))):
            raise UserError(f"{path}: damaged checkpoint: the config's {key!r} is a {type(config[key]).__name__}")
    name = config.get("model")
    if name not in MODELS:
        raise UserError(f"{path}: unknown model {name!r}; known are {MODELS[0]} to {MODELS[-1]}")


def _check_calibration(calibration: dict[str, Any], classes: int, features: int, path: Path) -> None:
    """Check that `skin.model.calibration.apply` can use it for `classes` classes; an empty one is fine."""
    if not calibration:
        return
    try:
        for coverage in COVERAGES:
            thresholds = calibration["sets"][coverage]["thresholds"]
            shared = calibration["sets"][coverage]["shared"]
            sound = len(thresholds) == classes and all(map(_is_finite, thresholds))
            if not sound or not all(type(c) is int and 0 <= c < classes for c in shared):
                raise ValueError("sets")
        unlike = calibration["unlike"]
        means, directions, variances = unlike["means"], unlike["directions"], unlike["variances"]
        shapes = {1 <= len(means) <= classes, means.shape[1:] == directions.shape[1:] == (features,)}
        shapes |= {len(directions) == len(variances), means.dtype == directions.dtype == torch.float32}
        positive = [calibration["temperature"], unlike["rest"], *variances]
        if shapes != {True} or not all(_is_finite(value) and value > 0 for value in positive):
            raise ValueError("unlike")
        if not (_is_number(unlike["threshold"]) and unlike["threshold"] > 0 and type(calibration["images"]) is int):
            raise ValueError("threshold")
        if not (torch.isfinite(means).all() and torch.isfinite(directions).all()):
            raise ValueError("means")
        _check_stages(unlike)
        _check_probabilities(calibration, classes)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged checkpoint: its calibration does not fit its model") from error


def _check_stages(unlike: dict[str, Any]) -> None:
    """Check what checkpoints of earlier versions lack: the stages, their scales, and the pictures that are caught."""
    stages, scales = unlike.get("stages", []), unlike.get("scales", [[0.0, 1.0]])
    if len(scales) != len(stages) + 1:
        raise ValueError("scales")
    for centre, spread in scales:
        if not (_is_finite(centre) and _is_finite(spread) and spread > 0):
            raise ValueError("scales")
    for stage in stages:
        mean, whitening = stage["mean"], stage["whitening"]
        sound = mean.ndim == 1 and whitening.shape == (len(mean), len(mean))
        if not sound or not mean.dtype == whitening.dtype == torch.float32:
            raise ValueError("stages")
        if not (torch.isfinite(mean).all() and torch.isfinite(whitening).all()):
            raise ValueError("stages")
    for kind, caught in unlike.get("caught", {}).items():
        if type(kind) is not str or type(caught["images"]) is not int or not _is_finite(caught["flagged"]):
            raise ValueError("caught")


def _check_probabilities(calibration: dict[str, Any], classes: int) -> None:
    """Raise `ValueError` or the like for what older files lack and newer ones need not have, if it is not sound."""
    biases, means = calibration.get("biases", [0.0] * classes), calibration.get("mean_probabilities", [1.0] * classes)
    if not (len(biases) == len(means) == classes and all(map(_is_finite, [*biases, *means])) and min(means) > 0):
        raise ValueError("biases")
    losses = calibration.get("cross_validation", {"temperature": 0.0, "biases": 0.0})
    if calibration.get("decision", DECISION) != DECISION or not all(
        _is_finite(losses[name]) for name in ("temperature", "biases")
    ):
        raise ValueError("decision")
    if "answers" not in calibration:
        return
    logits, labels, groups = (calibration["answers"][name] for name in ("logits", "labels", "groups"))
    if logits.shape != (len(labels), classes) or labels.shape != groups.shape or labels.ndim != 1:
        raise ValueError("answers")
    dtypes = [logits.dtype, labels.dtype, groups.dtype]
    if dtypes != [torch.float32, torch.int64, torch.int64] or not torch.isfinite(logits).all():
        raise ValueError("answers")
    distance = calibration["answers"].get("distance", labels.to(torch.float64))
    if distance.dtype != torch.float64 or distance.shape != labels.shape or distance.isnan().any():
        raise ValueError("distance")
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise ValueError("labels")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)
