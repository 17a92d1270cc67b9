"""The report as plain data: every figure of an evaluation with its interval, ready for JSON.

`build` computes it from what the model said of a set; `pages` and `plots` show it. A figure is
`{"value", "low", "high"}`, with None where the set cannot give it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from skin.data.class_names import match_classes, readable_name
from skin.evaluation import metrics, subgroups
from skin.evaluation.intervals import LEVEL, Estimate, Figures, Resampler, difference, rates
from skin.evaluation.metrics import Floats
from skin.model import calibration
from skin.model.calibration import Calibrated

import numpy as np
import numpy.typing as npt
import pandas as pd

FORMAT_VERSION = 1

OVERALL = (
    "accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "macro_auc", "macro_average_precision",
    "cohen_kappa", "log_loss", "brier_score", "expected_calibration_error", "top_2_accuracy", "top_3_accuracy",
)  # fmt: skip
PER_CLASS = (
    "sensitivity", "specificity", "ppv", "npv", "f1", "auc", "average_precision", *metrics.SPECIFICITIES,
)  # fmt: skip
AT_THRESHOLD = ("sensitivity", "specificity", "ppv", "npv")
BINARY = ("auc", "average_precision", "sensitivity", "specificity", "ppv", "npv", *metrics.SPECIFICITIES)
OF_PROBABILITIES = ("log_loss", "brier_score", "expected_calibration_error")
OF_SUBGROUPS = ("accuracy", "balanced_accuracy", "macro_auc")

# Cancers and what becomes cancer; actinic keratosis is in HAM10000 one class with Bowen's disease, which is
# squamous cell carcinoma in situ. The report says which classes it took for malignant.
MALIGNANT = (
    "actinic keratosis", "basal cell carcinoma", "melanoma", "squamous cell carcinoma", "malignant",
)  # fmt: skip
BENIGN = (
    "benign keratosis", "dermatofibroma", "melanocytic nevus", "seborrhoeic keratosis", "vascular lesion", "benign",
)  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """What a model said of N images, and what is true.

    Attributes:
        classes: the model's, in the order of its outputs.
        labels: int64 [N]; -1 where the model lacks the class: such images count in no figure but one, how
            many of them are flagged as unlike the training set.
        logits: float [N, C].
        distance: float64 [N], from `calibration.distance`.
        groups: [N], lesion or patient, or the image's name.
    """

    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    logits: Floats
    distance: Floats
    groups: npt.NDArray[Any]
    calibration: dict[str, Any]

    @property
    def calibrated(self) -> Calibrated:
        return calibration.calibrated(self.calibration, self.logits, self.distance)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """bool [N]: the images whose class the model has."""
        return self.labels >= 0


def build(
    answers: Answers,
    by: dict[str, pd.Series] | None = None,
    rounds: int = 1000,
    seed: int = 0,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Every figure of `answers`, with its 95 % interval.

    Args:
        by: attribute -> the subgroup of each of the N images, from `subgroups.bins`.
        rounds, seed: of the bootstrap.
        threshold: also ask each class's sensitivity, specificity, PPV and NPV of "its probability is above
            this", which does not ask which class is the most probable.
    """
    known, said = answers.known, answers.calibrated
    labels, probabilities = answers.labels[known], said.probabilities[known]
    groups = answers.groups[known]

    def resampler_of(rows: npt.NDArray[np.bool_], number: int) -> Resampler:
        return Resampler(groups[rows], rounds, seed, number)

    resampler = Resampler(groups, rounds, seed)
    malignant = malignant_classes(answers.classes)
    # All is asked before the first answer is read, so that the rounds are drawn once for all.
    figures = Figures(labels, probabilities, resampler)
    raw = Figures(labels, calibration.softmax(answers.logits[known]), resampler, ranked=False)
    two = None if malignant is None else Figures(*_two_sides(malignant, labels, probabilities), resampler)
    of_sets = _ask_prediction_sets(said, known, labels, resampler)
    of_threshold = None if threshold is None else _ask_threshold(labels, probabilities, resampler, threshold)
    report: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "images": len(labels),
        "groups": resampler.num_groups,
        "intervals": {
            "level": LEVEL,
            "rounds": rounds,
            "seed": seed,
            "resampled": "images" if resampler.num_groups == len(labels) else "lesions or patients",
        },
        **{name: entry(figures.estimate(name)) for name in OVERALL},
        "per_class": _per_class(answers.classes, figures),
        "confusion_matrix": {"classes": list(answers.classes), "counts": figures.confusion.tolist()},
        "malignant": None if malignant is None or two is None else _malignant(answers.classes, malignant, two),
        "calibration": _calibration(answers, said, figures, raw, of_sets),
        "subgroups": {
            name: _subgroups(binned[known], labels, probabilities, resampler_of, malignant)
            for name, binned in (by or {}).items()
        },
    }
    if of_threshold is not None:
        for of_class in report["per_class"].values():
            entries = {figure: entry(next(of_threshold)) for figure in AT_THRESHOLD}
            of_class["at_threshold"] = {"threshold": threshold, **entries}
    return report


def entry(estimate: Estimate) -> dict[str, float | None]:
    """A figure as JSON has it: nan becomes None."""
    values = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {key: float(value) if math.isfinite(value) else None for key, value in values.items()}


def _per_class(classes: tuple[str, ...], figures: Figures) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "name": readable_name(name),
            "support": int((figures.labels == c).sum()),
            "groups": figures.resampler.size(figures.labels == c).groups,
            "predicted": int((figures.predicted == c).sum()),
            **{figure: entry(figures.estimate(figure, c)) for figure in PER_CLASS},
        }
        for c, name in enumerate(classes)
    }


def _ask_threshold(
    labels: npt.NDArray[np.int64], probabilities: Floats, resampler: Resampler, threshold: float
) -> Iterator[Estimate]:
    """Of each class, what `AT_THRESHOLD` names, where a class is called when its probability is above `threshold`."""
    columns = []
    for c in range(probabilities.shape[1]):
        called, true = probabilities[:, c] > threshold, labels == c
        columns += [
            np.where(true, called, np.nan),
            np.where(~true, ~called, np.nan),
            np.where(called, true, np.nan),
            np.where(~called, ~true, np.nan),
        ]
    return rates(np.stack(columns, 1), resampler)


# ---- malignant against benign ---------------------------------------------------------------------------------


def malignant_classes(classes: tuple[str, ...]) -> npt.NDArray[np.bool_] | None:
    """bool [C]: which classes are malignant; None unless every class is known to be one or the other."""
    match = match_classes((*MALIGNANT, *BENIGN), classes)
    if match.unmatched_data:
        return None
    malignant = np.array([match.to_model[name] in MALIGNANT for name in classes])
    return malignant if malignant.any() and not malignant.all() else None


def _two_sides(
    malignant: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64], probabilities: Floats
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Labels int [N] and probabilities [N, 2] of benign (0) and malignant (1): the classes' own, added up."""
    risk = probabilities[:, malignant].sum(1)
    return malignant[labels].astype(np.int64), np.stack([1 - risk, risk], 1)


def _malignant(classes: tuple[str, ...], malignant: npt.NDArray[np.bool_], figures: Figures) -> dict[str, Any]:
    return {
        "malignant": [name for name, m in zip(classes, malignant, strict=True) if m],
        "benign": [name for name, m in zip(classes, malignant, strict=True) if not m],
        "support": int(figures.labels.sum()),
        **{name: entry(figures.estimate(name, 1)) for name in BINARY},
    }


# ---- what the probabilities are worth -----------------------------------------------------------------------


def _ask_prediction_sets(
    said: Calibrated, known: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64], resampler: Resampler
) -> Iterator[Estimate]:
    """The share of flagged images; then of the 90 % and 95 % sets: coverage, mean size, coverage by class."""
    columns, kinds = [said.unlike[known].astype(float)[:, None]], ["rate"]
    for sets in (said.sets, said.sets_95):
        members = sets[known]
        classes = members.shape[1]
        covered = np.take_along_axis(members, labels[:, None], 1).astype(float)
        of_class = np.where(labels[:, None] == np.arange(classes), covered, np.nan)
        columns += [covered, members.sum(1).astype(float)[:, None], of_class]
        kinds += ["rate", "mean", *["rate"] * classes]
    return rates(np.hstack(columns), resampler, kinds)


def _calibration(
    answers: Answers, said: Calibrated, figures: Figures, raw: Figures, of_sets: Iterator[Estimate]
) -> dict[str, Any]:
    """`raw` are the figures before calibration, `of_sets` what `_ask_prediction_sets` gave."""
    known = answers.known
    unknown = ~known
    return {
        "temperature": answers.calibration.get("temperature"),
        "validation_images": answers.calibration.get("images", 0),
        "before": {name: entry(raw.estimate(name)) for name in OF_PROBABILITIES},
        "after": {name: entry(figures.estimate(name)) for name in OF_PROBABILITIES},
        "unlike_training": {
            "flagged": entry(next(of_sets)),
            "unknown_class_images": int(unknown.sum()),
            "unknown_class_flagged": float(said.unlike[unknown].mean()) if unknown.any() else None,
        },
        "prediction_sets": {
            name: _prediction_sets(answers, name, members[known], of_sets)
            for name, members in (("90", said.sets), ("95", said.sets_95))
        },
    }


def _prediction_sets(
    answers: Answers, level: str, members: npt.NDArray[np.bool_], estimates: Iterator[Estimate]
) -> dict[str, Any]:
    """Coverage and size of the sets bool [N, C], whose estimates come next: coverage, size, coverage by class."""
    shared = answers.calibration.get("sets", {}).get(level, {}).get("shared", [])
    return {
        "coverage": entry(next(estimates)),
        "mean_size": entry(next(estimates)),
        "coverage_by_class": {name: entry(next(estimates)) for name in answers.classes},
        "single_class": float((members.sum(1) == 1).mean()),
        "shared_threshold": [answers.classes[c] for c in shared],
    }


# ---- subgroups ------------------------------------------------------------------------------------------------


def _subgroups(
    binned: pd.Series, labels: npt.NDArray[np.int64], probabilities: Floats,
    resampler_of: Callable[[npt.NDArray[np.bool_], int], Resampler], malignant: npt.NDArray[np.bool_] | None,
) -> dict[str, Any]:  # fmt: skip
    """`resampler_of` gives the resampler of some rows, bool [N]; those of two numbers draw independently."""
    binned = binned.cat.remove_unused_categories()  # a group may hold none but images of unknown classes
    result: dict[str, Any] = {}
    compared: dict[str, dict[str, Figures]] = {}
    for number, name in enumerate(binned.cat.categories, start=1):
        rows = (binned == name).to_numpy()
        resampler = resampler_of(rows, number)
        figures = Figures(labels[rows], probabilities[rows], resampler)
        two = None
        if malignant is not None:
            two = Figures(*_two_sides(malignant, labels[rows], probabilities[rows]), resampler)
        small = int(rows.sum()) < subgroups.SMALL
        entries = {figure: entry(figures.estimate(figure)) for figure in OF_SUBGROUPS}
        if two is not None:
            entries |= {f"malignant_{f}": entry(two.estimate(f, 1)) for f in ("sensitivity", "specificity")}
        result[str(name)] = {"images": int(rows.sum()), "groups": resampler.num_groups, "small": small, **entries}
        if not small and str(name) != subgroups.NOT_RECORDED:
            for figure in OF_SUBGROUPS:
                compared.setdefault(figure, {})[str(name)] = figures
    return {"groups": result, "largest_gap": {name: _gap(name, sides) for name, sides in compared.items()}}


def _gap(name: str, subgroups: dict[str, Figures]) -> dict[str, Any] | None:
    """The best against the worst of several subgroups by a figure: their difference, with its interval."""
    values = {group: float(f.values[name]) for group, f in subgroups.items() if not np.isnan(f.values[name])}
    if len(values) < 2:
        return None
    best = max(values, key=values.__getitem__)
    # Of equals, too, two different ones.
    worst = min(values.keys() - {best}, key=lambda group: (values[group], group))
    gap = difference(*(subgroups[side].estimate(name) for side in (best, worst)))
    return {"best": best, "worst": worst, **entry(gap)}
