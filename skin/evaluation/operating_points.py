"""Operating points: thresholds chosen on the validation split, and what they do on the set.

A class, or malignant, is called where its probability is the threshold or more. The threshold is chosen on the
answers that the checkpoint keeps of its validation images, never on the set of the report. There a lesion or patient
counts once, whatever its images: otherwise one with many images would choose for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from skin.evaluation.called import CalledAt
from skin.evaluation.intervals import Estimate, Resampler, interval
from skin.evaluation.metrics import (
    OF_CALLED,
    Array,
    Bools,
    Floats,
    Metric,
    OfConfusion,
    ShareOfClass,
    margins_of,
)
from skin.evaluation.report_types import OnValidation, OperatingPoint, OperatingPoints
from skin.model import calibration
from skin.model.calibration import Calibration

import numpy as np
from sklearn.metrics import roc_curve

LEAST = 10  # lesions or patients with the class, and as many without it
NO_ANSWERS = "the checkpoint keeps no answers to validation images on which thresholds could be chosen"


@dataclass(frozen=True)
class Rule:
    """A way to choose a threshold.

    Attributes:
        name: its key in report.json.
        title: its name for people.
        choose: from positives bool [N], scores float [N] and groups [N] to the threshold.
        needed: lesions or patients with the class that it takes.
    """

    name: str
    title: str
    choose: Callable[[Bools, Floats, Array], float]
    needed: int = LEAST


def rules(cost_ratio: float | None) -> tuple[Rule, ...]:
    """Return every rule; that of the costs only if the user gives their ratio."""
    found = [_sensitivity(90), _sensitivity(95), Rule("youden", "Youden", best_by(1.0, 1.0))]
    if cost_ratio is not None:
        title = f"A miss costs {cost_ratio:g} false alarms"
        found.append(Rule("cost_ratio", title, partial(least_cost, cost_ratio=cost_ratio)))
    return tuple(found)


def _sensitivity(percent: int) -> Rule:
    needed = math.ceil(100 / (100 - percent)) - 1  # the fewest for which the threshold below exists
    choose = partial(at_sensitivity, sensitivity=percent / 100)
    return Rule(f"sensitivity_{percent}", f"Sensitivity {percent} %", choose, max(LEAST, needed))


def at_sensitivity(positives: Bools, scores: Floats, groups: Array, sensitivity: float) -> float:
    """Return the largest threshold that images of a new lesion reach with at least this probability.

    It is the highest score with no more than (K + 1)(1 - sensitivity) - 1 of the K lesions below it, as in split
    conformal prediction: the mean sensitivity on new lesions like these is `sensitivity` or a little more. The
    threshold that just keeps the sensitivity on the validation images would fall short on new ones.

    Raises:
        ValueError: there are too few lesions with positives.
    """
    rising, below, allowed = calibration.groups_below(scores[positives], groups[positives], sensitivity)
    if allowed < 0:
        there = len(np.unique(groups[positives]))
        raise ValueError(f"{there} lesions or patients are too few for a sensitivity of {sensitivity}")
    return float(rising[np.searchsorted(below, allowed + 1e-9, "right") - 1])


def best_by(worth: float, cost: float) -> Callable[[Bools, Floats, Array], float]:
    """Return the rule for the largest worth * sensitivity - cost * false positive rate; Youden (1950) has 1 and 1.

    Of equally good thresholds it takes the lowest, which misses fewest.
    """

    def choose(positives: Bools, scores: Floats, groups: Array) -> float:
        false_positive_rate, true_positive_rate, thresholds = roc_curve(
            positives, scores, sample_weight=_shares(positives, groups), drop_intermediate=False
        )
        merit = worth * true_positive_rate - cost * false_positive_rate
        best = np.flatnonzero(merit >= merit.max() - 1e-12)[-1]
        # Above every score nothing is called; 1 may be a score.
        return float(thresholds[best]) if best else float(np.nextafter(max(scores.max(), 1.0), 2.0))

    return choose


def _shares(positives: Bools, groups: Array) -> Floats:
    """Return 1 / the number of images that are of the same group and, like it, positive or not, [N]."""
    _, number, images = np.unique(2 * groups + positives, return_inverse=True, return_counts=True)
    shares: Floats = 1 / images[number]
    return shares


def least_cost(positives: Bools, scores: Floats, groups: Array, cost_ratio: float) -> float:
    """Return the threshold with the least cost: `cost_ratio` for each positive that is missed, 1 for a false alarm.

    Positives and negatives count by the numbers of their lesions, so the choice is for sets with as large a share of
    positives.
    """
    with_it, without = (float(len(np.unique(groups[rows]))) for rows in (positives, ~positives))
    return best_by(cost_ratio * with_it, without)(positives, scores, groups)


@dataclass(frozen=True)
class Target:
    """Something that is called or not: a class, or malignant.

    Attributes:
        name: its key in report.json.
        members: bool [C], its classes.
    """

    name: str
    members: Bools

    def scores(self, probabilities: Floats) -> Floats:
        """Return the probability of the target, [N], from those of the classes [N, C]."""
        scores: Floats = probabilities[:, self.members].sum(1)
        return scores

    def positives(self, labels: Array) -> Bools:
        """Return the images that are the target, bool [N]."""
        found: Bools = self.members[labels]
        return found


@dataclass(frozen=True)
class Choice:
    """The threshold of a rule for a target; None with the reason if there is none."""

    threshold: float | None
    validation: OnValidation | None = None
    reason: str | None = None


def choose(fitted: Calibration, targets: list[Target], cost_ratio: float | None) -> dict[tuple[str, str], Choice]:
    """Choose the threshold of each target by each rule, on the validation answers in the checkpoint.

    Returns:
        By the names of target and rule; {} if the checkpoint keeps no answers.
    """
    if "answers" not in fitted:
        return {}
    answers = fitted["answers"]
    labels, groups = answers["labels"].numpy(), answers["groups"].numpy()
    probabilities = calibration.probabilities_of(fitted, answers["logits"].numpy())
    return {
        (target.name, rule.name): _choice(rule, target.positives(labels), target.scores(probabilities), groups)
        for target in targets
        for rule in rules(cost_ratio)
    }


def _choice(rule: Rule, positives: Bools, scores: Floats, groups: Array) -> Choice:
    for side, rows, needed in (("with", positives, rule.needed), ("without", ~positives, LEAST)):
        there = len(np.unique(groups[rows]))
        if there < needed:
            return Choice(None, reason=f"{there} lesions or patients {side} it in validation, {needed} are needed")
    threshold = rule.choose(positives, scores, groups)
    called = scores >= threshold
    return Choice(
        threshold,
        OnValidation(
            sensitivity=float(called[positives].mean()),
            specificity=float((~called[~positives]).mean()),
            positives=int(positives.sum()),
            negatives=int((~positives).sum()),
        ),
    )


def apply(
    choices: dict[tuple[str, str], Choice], targets: list[Target], labels: Array, probabilities: Floats,
    resampler: Resampler,
) -> Callable[[], OperatingPoints]:  # fmt: skip
    """Ask for the metrics at each threshold; return a function that gives them once the rounds are drawn.

    Returns:
        By target and rule.
    """
    thresholds = {
        target.name: {rule: c.threshold for (name, rule), c in choices.items()
                      if name == target.name and c.threshold is not None}
        for target in targets
    }  # fmt: skip
    sides = {target.name: (target.positives(labels), target.scores(probabilities)) for target in targets}
    measured = _at_thresholds(thresholds, sides, resampler)

    def points() -> OperatingPoints:
        found: OperatingPoints = {target.name: {} for target in targets}
        estimates = measured()
        for (target, rule), choice in choices.items():
            of_metrics = estimates.get((target, rule), {})
            found[target][rule] = OperatingPoint(choice.threshold, of_metrics, choice.validation, choice.reason)
        return found

    return points


def _at_thresholds(
    thresholds: dict[str, dict[str, float]], sides: dict[str, tuple[Bools, Floats]], resampler: Resampler
) -> Callable[[], dict[tuple[str, str], dict[str, Estimate]]]:
    """Ask for the metrics `OF_CALLED` of each target at each threshold; return a function that gives them.

    Args:
        thresholds: by target and rule. sides: positives bool [N] and scores [N] by target.
    """
    rising = {name: sorted(of_rules.items(), key=lambda item: item[1]) for name, of_rules in thresholds.items()}
    keys = [(name, rule) for name, of_rules in rising.items() for rule, _ in of_rules]
    if not keys:
        return dict
    called = [
        CalledAt(np.array([threshold for _, threshold in of_rules]), *sides[name], resampler)
        for name, of_rules in rising.items()
    ]

    def figures(weights: Array) -> dict[str, Floats]:
        margins = margins_of(np.concatenate([of_target.tables(weights) for of_target in called], 1))
        return {m.name: m.source.compute(margins)[..., 1] for m in OF_CALLED if isinstance(m.source, OfConfusion)}

    rounds = resampler.ask(figures)

    def estimate(metric: Metric, k: int, value: float, drawn: Floats) -> Estimate:
        name, rule = keys[k]
        positives, scores = sides[name]
        assert isinstance(metric.interval, ShareOfClass)
        basis = metric.interval.basis(positives, scores >= thresholds[name][rule])
        return interval(metric.interval, value, drawn, resampler.size(basis))

    def estimates() -> dict[tuple[str, str], dict[str, Estimate]]:
        values, drawn = figures(np.ones((resampler.num_groups, 1))), rounds()
        return {
            key: {m.name: estimate(m, k, float(values[m.name][0, k]), drawn[m.name][:, k]) for m in OF_CALLED}
            for k, key in enumerate(keys)
        }

    return estimates
