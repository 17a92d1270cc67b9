"""Several models that answer as one: the `best.pt` of an ensemble.

Each member's calibrated probabilities, by its own temperature and biases, are averaged with equal weights. The
ensemble's logits are the logarithm of that average, and its own calibration is fitted on top: temperature, biases,
prediction sets, and the limit of the flag for images unlike the training images. Whoever asks the model need not
know that it is one of several (`skin.model.averaging` computes it).

The file holds `members`, a list of dicts, each a whole best.pt, and their `sources`; `classes` (the first member's),
`config`, `metrics` and `calibration` are of the whole. `skin.model.checkpoint` reads it.

A calibration needs answers to images that the ensemble has not seen:

- Members of the same split share their validation images: `kept_answers` averages the answers that their files hold.
- Members of the folds of a cross-validation share none: `out_of_fold` has each image answered by the one member that
  has not seen it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from skin.data.class_names import order_of
from skin.model import calibration, unlike
from skin.model.calibration import Calibration, Doubles, Floats
from skin.model.checkpoint import (
    FORMAT_VERSION,
    EnsembleCheckpoint,
    SingleCheckpoint,
    Source,
    check_together,
    load_best,
    load_single,
    name_of,
    save,
)
from skin.model.tensorfile import FILE_LIMIT, load
from skin.utils.errors import UserError

import numpy as np
import numpy.typing as npt

_OF_DATA = (
    "data", "labels", "demo", "group_by", "label_column", "group_column", "ignore_class", "allow_missing", "split",
    "monitor",
)  # fmt: skip


class Unseen(NamedTuple):
    """Answers to images that were not trained on, to fit an ensemble's calibration on.

    Attributes:
        logits: float [N, C], log probabilities, calibrated by the members' own calibrations (`log_average`), with the
            classes in the order of the first member's.
        labels: int [N]. groups: [N] of any type that sorts, the lesion or patient of each image.
        log_distances: float [N], the mean of the logarithms of the members' distances (the one trait that
            `Ensemble.answers` gives); None if they are not known. The flag's limit is then the mean of the members'.
    """

    logits: Floats
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[Any]
    log_distances: Floats | None = None


def save_ensemble(
    members: Sequence[Path],
    path: Path,
    unseen: Unseen | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    metrics_of: Callable[[Calibration], Mapping[str, float | None]] = lambda fitted: {},
) -> EnsembleCheckpoint:
    """Write the `best.pt` of an ensemble to `path`, atomically, and return it as it is read.

    Args:
        members: the `best.pt` of each model, no two the same. The first gives the order of the classes.
        unseen: to calibrate the average on; None leaves it uncalibrated: `calibration` is then empty.
        config: of the whole, to replace or add to what all members' configs agree on (of the data, the first's):
            plain values, as in config.json. `model` is always the members' names, as `name_of` gives them.
        metrics_of: returns the metrics of the whole from its calibration, such as `val_balanced_accuracy`.

    Raises:
        UserError: a member is not there, damaged, named twice, an ensemble itself, of other classes, or for images of
            another size (each by its path); or the file would be too large to be read, or cannot be written.
    """
    models = joinable(members)
    total = sum(Path(member).stat().st_size for member in members)
    if total > FILE_LIMIT:
        raise UserError(f"{len(members)} models of {total / 2**30:.1f} GiB are more than a file may hold: name fewer")
    fitted = Calibration() if unseen is None else _calibrate(models, unseen)
    state = {
        "format_version": FORMAT_VERSION,
        "members": [load(Path(member)) for member in members],
        "sources": [source_of(Path(member)) for member in members],
        "classes": list(models[0].classes),
        "config": config_of(models, config or {}),
        "metrics": dict(metrics_of(fitted)),
        "calibration": fitted,
    }
    save(state, path)
    found = load_best(path)
    assert isinstance(found, EnsembleCheckpoint)
    return found


def _calibrate(models: Sequence[SingleCheckpoint], unseen: Unseen) -> Calibration:
    """Return the calibration of the average of `models`; empty if there are no images. The rule is the members'."""
    if not len(unseen.labels):
        return {}
    alike = all(calibration.rule_of(model.calibration) == calibration.BALANCED for model in models)
    return calibration.fit_probabilities(
        unseen.logits, unseen.labels, unseen.groups, unlike.fit_of_members(unseen.log_distances),
        calibration.BALANCED if alike else calibration.MOST_PROBABLE,
    )  # fmt: skip


def joinable(members: Sequence[Path]) -> list[SingleCheckpoint]:
    """Return the models in these files, if they can answer as one.

    Raises:
        UserError: see `save_ensemble`.
    """
    if not members:
        raise UserError("an ensemble needs at least one model")
    names, first = [str(member) for member in members], dict[str, str]()
    models = [load_single(Path(member)) for member in members]
    for name, member in zip(names, members, strict=True):
        model = source_of(Path(member))["sha256"]
        if model in first:
            raise UserError(f"{name} is the same model as {first[model]}: name each model once")
        first[model] = name
    check_together(models[0].classes, models, names)
    return models


def source_of(path: Path) -> Source:
    """Return the name and the hash of a member's file."""
    path = path.resolve()
    with path.open("rb") as file:
        return {"file": f"{path.parent.name}/{path.name}", "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def config_of(models: Sequence[SingleCheckpoint], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of an ensemble of `models`; `config` as for `save_ensemble`."""
    first, *others = [model.config for model in models]
    missing = object()
    common = {
        name: value
        for name, value in first.items()
        if name in _OF_DATA or all(other.get(name, missing) == value for other in others)
    }
    return common | dict(config) | {"model": name_of([model.model_name for model in models])}


# ---- answers to images that were not trained on ---------------------------------------------------------


def log_average(logs: Sequence[Floats]) -> Doubles:
    """Return the logarithm of the mean of probabilities whose logarithms, [N, C] of each member, are given."""
    average: Doubles = np.logaddexp.reduce(np.asarray(logs, np.float64), axis=0) - np.log(len(logs))
    return average


def kept_answers(models: Sequence[SingleCheckpoint]) -> Unseen | None:
    """Return the average of the answers that the models' calibrations keep, for members of the same split.

    The caller knows that their validation images are the same.

    Returns:
        None if a model keeps none, or their labels or groups differ: the images may be in another order.
    """
    if not all("answers" in model.calibration for model in models):
        return None
    kept = [_kept(model, models[0].classes) for model in models]
    first = kept[0]
    if not all(np.array_equal(one.labels, first.labels) and np.array_equal(one.groups, first.groups) for one in kept):
        return None
    distances = [one.log_distances for one in kept if one.log_distances is not None]
    log_distances = np.mean(distances, axis=0) if len(distances) == len(kept) else None
    return Unseen(log_average([one.logits for one in kept]), first.labels, first.groups, log_distances)


def out_of_fold(models: Sequence[SingleCheckpoint]) -> Unseen:
    """Return the answers of the models of a cross-validation, each to the validation images that it alone held out.

    They are those that the models' calibrations keep, after each model's own calibration, one fold after another. A
    lesion lies in one fold alone, so the groups of two folds are never the same.

    Raises:
        UserError: a model keeps no answers.
    """
    parts = []
    for model in models:
        if "answers" not in model.calibration:
            raise UserError(f"{model.path}: it keeps no validation answers (its run has not come to its end)")
        parts.append(_kept(model, models[0].classes))
    starts = np.cumsum([0, *(int(part.groups.max(initial=-1)) + 1 for part in parts)])
    return Unseen(
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.groups + start for part, start in zip(parts, starts, strict=False)]),
    )


def _kept(model: SingleCheckpoint, classes: Sequence[str]) -> Unseen:
    """Return the answers that a model's calibration keeps, calibrated, for `classes` in their order.

    Raises:
        UserError: the model has other classes.
    """
    answers, order = model.calibration["answers"], order_of(classes, model.classes)
    if order is None:
        raise UserError(f"{model.path}: its classes are not {', '.join(classes)}")
    probabilities = calibration.probabilities_of(model.calibration, answers["logits"].numpy())[:, order]
    logs = np.log(np.maximum(probabilities, 1e-38))  # the least of float32: -87
    distances = answers["distance"].numpy() if "distance" in answers else None
    with np.errstate(divide="ignore"):
        log_distances = None if distances is None else np.log(distances)
    return Unseen(logs, np.argsort(order)[answers["labels"].numpy()], answers["groups"].numpy(), log_distances)
