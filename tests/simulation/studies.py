"""The studies of `make simulate`: each draws sets with a known truth and says which of its promises hold.

A new kind of interval is one more entry of `STUDIES`, or one more key of a study's answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from skin.evaluation import metrics, report, subgroups
from skin.evaluation.answers import Answers
from skin.evaluation.intervals import Column as MeanColumn
from skin.evaluation.intervals import Estimates, Resampler, means_of
from skin.evaluation.lesions import Owners
from skin.evaluation.malignant import malignant_classes
from skin.evaluation.metrics import Percentiles
from skin.evaluation.reliability import BINS, reliability
from skin.model import calibration
from tests.simulation import points
from tests.simulation.draws import ROUNDS, TRUTH, drawn, holds

import numpy as np
import pandas as pd

SIZES = (80, 200, 750)  # lesions in the test split
HAM = ("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df")
HAM_SHARES = np.array([0.67, 0.11, 0.11, 0.05, 0.033, 0.014, 0.013])
FOUR = ("nv", "mel", "bkl", "bcc")
FOUR_SHARES = np.array([0.4, 0.25, 0.2, 0.15])


# ---- the metrics of METRICS -----------------------------------------------------------------------------------


THREE = np.array([3, 2, 1]) / 6


@cache
def _metrics_truth() -> dict[str, np.ndarray]:
    return metrics.values(*drawn(10**6, TRUTH, THREE, 1.3, 1.4)[:2])


def of_metrics(size: int, seed: int) -> dict[str, float]:
    """Every metric of a set of three classes, and of its commonest and its scarcest class."""
    truth = _metrics_truth()
    labels, probabilities, lesions = drawn(seed, size, THREE, 1.3, 1.4)
    resampler = Resampler(lesions, ROUNDS, seed)
    estimates = Estimates(labels, probabilities, resampler)
    size_of_set = means_of({"mean": MeanColumn(probabilities.max(1), Percentiles())}, resampler)
    found = {"mean over images (size of a prediction set)": holds(size_of_set()["mean"], _mean_truth())}
    for metric in metrics.METRICS:
        if not metric.of_class:
            found[metric.title] = holds(estimates.estimate(metric.name), float(truth[metric.name]))
            continue
        for c, which in ((0, "commonest"), (2, "scarcest")):
            expected = float(truth[metric.name][c])
            found[f"{metric.title}, {which} of 3 classes"] = holds(estimates.estimate(metric.name, c), expected)
    return found


def _sure(seed: int, lesions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw answers that give their label a probability of 1, and are right for 97 % of the images."""
    labels, probabilities, lesion = drawn(seed, lesions, THREE, 2.9)
    return labels, np.eye(3)[probabilities.argmax(1)], lesion


@cache
def _sure_truth() -> dict[str, np.ndarray]:
    return metrics.values(*_sure(10**6, TRUTH)[:2], [m for m in metrics.NOT_RANKED if not m.of_class])


def of_few_mistakes(size: int, seed: int) -> dict[str, float]:
    """Metrics of a set with few mistakes, or none; a metric without an interval does not count."""
    truth = _sure_truth()
    labels, probabilities, lesions = _sure(seed, size)
    estimates = Estimates(labels, probabilities, Resampler(lesions, ROUNDS, seed), ranked=())
    return {
        metric.title: holds(estimates.estimate(metric.name), float(truth[metric.name]))
        for metric in metrics.NOT_RANKED
        if not metric.of_class
    }


@cache
def _mean_truth() -> float:
    return float(drawn(10**6, TRUTH, THREE, 1.3, 1.4)[1].max(1).mean())


# ---- calibration ----------------------------------------------------------------------------------------------


@cache
def _calibration_truth(sharpened: float) -> dict[str, float]:
    labels, probabilities, lesions = drawn(10**6, TRUTH, HAM_SHARES, 1.5, sharpened)
    error = float(metrics.value("expected_calibration_error", labels, probabilities))
    found = {"error": 0.0 if sharpened == 1 else error}
    for name, event, said in _events(labels, probabilities):
        of_event = reliability(event, said, Resampler(lesions, 1))
        found |= {f"slope, {name}": of_event.slope.value, f"intercept, {name}": of_event.intercept.value}
        for of_bin in of_event.bins:
            if of_bin.images > 500:
                found[f"bin {of_bin.above:.1f}, {name}"] = of_bin.observed.value
    return found


def _events(labels: np.ndarray, probabilities: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
    malignant = [HAM.index(name) for name in ("mel", "bcc", "akiec")]
    return [
        ("right answer", probabilities.argmax(1) == labels, probabilities.max(1)),
        ("malignant", np.isin(labels, malignant), probabilities[:, malignant].sum(1)),
        ("class of 11 %", labels == 1, probabilities[:, 1]),
    ]


def of_calibration(size: int, seed: int, sharpened: float, model: str) -> dict[str, float]:
    """Calibration error, slope, intercept and the bins of a reliability diagram."""
    truth = _calibration_truth(sharpened)
    labels, probabilities, lesions = drawn(seed, size, HAM_SHARES, 1.5, sharpened)
    resampler = Resampler(lesions, 1)
    error = Estimates(labels, probabilities, resampler, ranked=()).estimate("expected_calibration_error")
    found = {f"Expected calibration error, {model}": holds(error, truth["error"])}
    for name, event, said in _events(labels, probabilities):
        of_event = reliability(event, said, resampler)
        found[f"Calibration slope of {name}, {model}"] = holds(of_event.slope, truth[f"slope, {name}"])
        found[f"Calibration intercept of {name}, {model}"] = holds(of_event.intercept, truth[f"intercept, {name}"])
        held = [holds(b.observed, truth.get(f"bin {b.above:.1f}, {name}", np.nan)) for b in of_event.bins]
        if not np.isnan(held).all():
            found[f"Reliability bins (of {BINS}) of {name}, {model}"] = float(np.nanmean(held))
    return found


# ---- subgroups ------------------------------------------------------------------------------------------------


OF_GROUP = 120  # lesions


def _strengths(groups: int, apart: float) -> np.ndarray:
    return 1.5 + apart * np.linspace(-0.5, 0.5, groups)


@cache
def _group_truth(strength: float) -> dict[str, float]:
    labels, probabilities, lesions = drawn(10**6, TRUTH // 2, FOUR_SHARES, strength)
    every = np.ones(len(labels), bool)
    answers = _answers(labels, probabilities, lesions, rounds=2)
    found = answers.metrics_of(every, answers.resampler)
    return {name: estimate.value for name, estimate in found.items()}


def _answers(
    labels: np.ndarray, probabilities: np.ndarray, lesions: np.ndarray, rounds: int = ROUNDS, seed: int = 0
) -> Answers:
    draw = partial(Resampler, rounds=rounds, seed=seed)
    resampler = draw(lesions)
    return Answers(
        FOUR, labels, probabilities, probabilities.argmax(1), probabilities, malignant_classes(FOUR),
        Owners(lesions), draw, resampler, Estimates(labels, probabilities, resampler),
    )  # fmt: skip


def of_gaps(groups: int, seed: int, apart: float, kind: str) -> dict[str, float]:
    """The largest gap by each metric, and the tests of heterogeneity, of groups of 120 lesions."""
    strengths = _strengths(groups, apart)
    parts = [drawn(seed * 100 + g, OF_GROUP, FOUR_SHARES, strengths[g]) for g in range(groups)]
    labels, probabilities = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    lesions = np.concatenate([part[2] + g * OF_GROUP for g, part in enumerate(parts)])
    names = pd.Series(np.repeat([f"group {g}" for g in range(groups)], [len(part[0]) for part in parts]))
    answers = _answers(labels, probabilities, lesions, seed=seed)
    made = report._subgroups(subgroups.bins(names), answers)
    found = {}
    for entry in subgroups.METRICS:
        gap = made.largest_gap[entry.name]
        if gap is not None:
            best, worst = (_group_truth(float(strengths[int(name.split()[1])])) for name in (gap.best, gap.worst))
            found[f"{entry.title}, {kind}"] = holds(gap.difference, best[entry.name] - worst[entry.name])
        test = made.heterogeneity.get(entry.name)
        if test is not None and apart == 0:
            found[f"Test of heterogeneity not rejected: {entry.title}"] = float(test.p_value >= 0.05)
    return found


# ---- prediction sets ------------------------------------------------------------------------------------------


@cache
def _sets_truth() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, probabilities, _ = drawn(10**6, TRUTH // 2, HAM_SHARES, most=1)
    return labels, probabilities.argmax(1) == labels, np.take_along_axis(probabilities, labels[:, None], 1)[:, 0]


def of_sets(size: int, seed: int, level: str, most: int) -> dict[str, float]:
    """The share of new images whose prediction set holds the truth."""
    labels, right, own = _sets_truth()
    fitted_on, said, lesions = drawn(seed, size, HAM_SHARES, most=most)
    made = calibration._fit_sets(said, fitted_on, calibration.COVERAGES[level], lesions)
    thresholds = np.array(made["thresholds"])
    covered = right | (own >= thresholds[labels])
    sharing = [c for c in made["shared"] if thresholds[c] > 0]
    alone = [c for c in range(len(HAM)) if c not in made["shared"]]
    what = f"{level} % sets, {'one image' if most == 1 else '1 to 3 images'} a lesion"
    found = {f"{what}: all images": float(covered.mean())}
    for name, classes in (("classes with a threshold of their own", alone), ("classes that share one", sharing)):
        by_class = [covered[labels == c].mean() for c in classes]
        found[f"{what}: {name}"] = float(np.mean(by_class)) if by_class else np.nan
    for c in (1, 6):
        found[f"{what}: class of {100 * HAM_SHARES[c]:g} %"] = float(covered[labels == c].mean())
    return found


# ---- the list -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """A table: its title, its columns (sizes), the number of sets drawn per size, and what a set says.

    Attributes:
        run: from the size and a seed to named numbers, 0 .. 1, whose mean is the coverage; nan does not count.
        unit: of the sizes.
        least: the coverage that is promised, from the size `promised_from` on.
    """

    title: str
    sizes: tuple[int, ...]
    draws: int
    run: Callable[[int, int], dict[str, float]]
    unit: str = "lesions"
    least: float = 0.93
    promised_from: int = 200


STUDIES = (
    Study("Metrics: 95 % intervals", SIZES, 1000, of_metrics),
    Study("Few mistakes, or none, by answers of probability 1: 95 % intervals", (20, 40, 80, 200), 1000,
          of_few_mistakes, promised_from=20),
    Study("A calibrated model: 95 % intervals", SIZES, 1000,
          partial(of_calibration, sharpened=1.0, model="calibrated")),
    Study("A model a little too sure: 95 % intervals", SIZES, 1000,
          partial(of_calibration, sharpened=1.15, model="a little too sure")),
    Study("A model much too sure: 95 % intervals", SIZES, 1000,
          partial(of_calibration, sharpened=1.5, model="much too sure")),
    Study("Largest gap, no true gap: 95 % intervals", (2, 4, 8), 600,
          partial(of_gaps, apart=0.0, kind="no gap"), "groups", promised_from=2),
    Study("Largest gap, true gaps: 95 % intervals", (2, 4, 8), 600,
          partial(of_gaps, apart=0.5, kind="true gaps"), "groups", promised_from=2),
    *(
        Study(f"Prediction sets of {level} %, {'one image' if most == 1 else '1 to 3 images'} a lesion",
              (60, 120, 250, 700), 1000, partial(of_sets, level=level, most=most), "validation lesions",
              least=calibration.COVERAGES[level] - 0.01, promised_from=60)
        for level in calibration.COVERAGES
        for most in (1, 3)
    ),
    Study("Paired differences between two answers to the same images: 95 % intervals", SIZES, 300, points.of_pairs),
    Study("Deferral and decision curve: 95 % intervals", SIZES, 300, points.of_decisions),
    Study("Operating points chosen on one set and measured on another: 95 % intervals", SIZES, 300, points.of_points),
    *(
        Study(f"Sensitivity on new images of the threshold for {level} %", SIZES, 300,
              partial(points.of_sensitivity, level=level), least=level / 100 - 0.01)
        for level in (90, 95)
    ),
    Study("Per lesion and per patient: 95 % intervals", SIZES, 300, points.of_people, "patients"),
    Study("Calibration with biases against a temperature alone", SIZES, 400, points.of_biases, least=0),
)  # fmt: skip
