"""PPV and NPV at a prevalence that the user states, by Bayes' rule.

A test set seldom has the prevalence of a clinic, and PPV and NPV follow it. Sensitivity and specificity do not, as
long as each class looks the same: so these are measured on the set, class by class where the prevalence of several
is stated, and PPV and NPV computed from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from skin.data.class_names import match_classes
from skin.evaluation.intervals import Column, Estimate, Resampler, means_of
from skin.evaluation.malignant import malignant_classes
from skin.evaluation.metrics import Array, Bools
from skin.evaluation.operating_points import Target
from skin.evaluation.report_types import AtPrevalence, PredictiveValues
from skin.utils.errors import UserError

import numpy as np

MALIGNANT = "malignant"


@dataclass(frozen=True)
class Part:
    """Classes, bool [C], and their prevalence together. Among themselves they are mixed as in the set."""

    members: Bools
    prevalence: float


def parts(stated: dict[str, float], classes: tuple[str, ...], malignant: Bools | None) -> list[Part]:
    """Return one part per class whose prevalence is stated, and one of the others, or two if `malignant` is stated.

    Args:
        stated: by class, under any name that `match_classes` knows; or of `malignant`, all such classes together.
        malignant: bool [C]; None if there is no such division.

    Raises:
        UserError: a name is no class, or the numbers add up to more than they may.
    """
    of_classes = {name: value for name, value in stated.items() if name.lower() != MALIGNANT or name in classes}
    of_malignant = next((value for name, value in stated.items() if name not in of_classes), None)
    match = match_classes(classes, list(of_classes))
    for name in match.unmatched_data:
        raise UserError(f"--prevalence {name}: the model has no such class; it has {', '.join(classes)}")
    if len(set(match.to_model.values())) < len(match.to_model):
        raise UserError(f"--prevalence names a class twice: {', '.join(of_classes)}")
    if of_malignant is not None and malignant is None:
        raise UserError(
            "--prevalence malignant: not every class is known as malignant or benign; name the classes instead"
        )
    found = [Part(_only(classes, match.to_model[name]), value) for name, value in of_classes.items()]
    everything = np.ones(len(classes), bool)
    if of_malignant is None or malignant is None:
        return found + _rest(found, everything, 1.0, "")
    inside = [part for part in found if (part.members & malignant).any()]
    outside = [part for part in found if part not in inside]
    return [
        *found,
        *_rest(inside, malignant, of_malignant, "of the malignant classes "),
        *_rest(outside, ~malignant, 1 - of_malignant, "of the benign classes "),
    ]


def _only(classes: tuple[str, ...], name: str) -> Bools:
    return np.array([cls == name for cls in classes])


def _rest(found: list[Part], among: Bools, whole: float, what: str) -> list[Part]:
    """Return the part of the classes `among` that are in none of `found`: what these leave of `whole`."""
    left = whole - math.fsum(part.prevalence for part in found)
    rest = among & ~np.logical_or.reduce([np.zeros(len(among), bool), *(part.members for part in found)])
    if left < -1e-9:
        raise UserError(f"--prevalence: the numbers {what}add up to more than {whole:g}")
    if not rest.any() and left > 1e-9:
        raise UserError(f"--prevalence: the numbers {what}add up to less than {whole:g}, and no class is left")
    return [Part(rest, max(left, 0.0))] if rest.any() else []


def of_set(stated: dict[str, float], classes: tuple[str, ...], labels: Array) -> list[Part]:
    """Return `parts` for a set with these labels, int [N], -1 for an unknown class.

    Raises:
        UserError: as `parts`; or the set has no image of a class whose prevalence is stated.
    """
    found = parts(stated, classes, malignant_classes(classes))
    for part in found:
        if part.prevalence > 0 and not part.members[labels[labels >= 0]].any():
            names = ", ".join(name for name, member in zip(classes, part.members, strict=True) if member)
            raise UserError(f"--prevalence: the set has no image of {names}, whose share is {part.prevalence:g}")
    return found


def at_prevalence(
    found: list[Part], targets: list[Target], called: dict[tuple[str, str], Bools], labels: Array,
    resampler: Resampler,
) -> Callable[[], dict[str, AtPrevalence]]:  # fmt: skip
    """Ask for PPV and NPV of each target whose prevalence follows from the parts.

    Args:
        found: from `parts`.
        called: the images that are called, bool [N], by the names of target and rule.
        labels: int [N].

    Returns:
        A function that gives them by target, once the rounds are drawn.
    """
    prevalence = {t.name: p for t in targets if (p := _prevalence_of(t, found)) is not None}
    inside = [part.members[labels] for part in found]
    columns = {
        (*key, k): Column(np.where(rows, hit.astype(float), np.nan))
        for key, hit in called.items()
        if key[0] in prevalence
        for k, rows in enumerate(inside)
    }
    shares = means_of(columns, resampler) if columns else dict

    def values() -> dict[str, AtPrevalence]:
        known = shares()
        result = {}
        for target in targets:
            if target.name not in prevalence:
                continue
            own = [k for k, part in enumerate(found) if (part.members & target.members).any()]
            others = [k for k in range(len(found)) if k not in own]
            of_rules = {}
            for name, rule in called:
                if name == target.name:
                    sensitivity, called_others = (
                        mixed([(found[k].prevalence, known[name, rule, k]) for k in side]) for side in (own, others)
                    )
                    of_rules[rule] = predictive_values(sensitivity, called_others, prevalence[name])
            result[target.name] = AtPrevalence(prevalence[target.name], of_rules)
        return result

    return values


def _prevalence_of(target: Target, found: list[Part]) -> float | None:
    """Return the prevalence of a target that is made of whole parts; None otherwise, and for 0 or 1."""
    touched = [part for part in found if (part.members & target.members).any()]
    if any((part.members & ~target.members).any() for part in touched):
        return None
    total = math.fsum(part.prevalence for part in touched)
    return total if 0 < total < 1 else None


def mixed(rates: list[tuple[float, Estimate]]) -> Estimate:
    """Return the mean of rates, weighted by the prevalence of each, from their intervals (Zou et al. 2009)."""
    total = math.fsum(weight for weight, _ in rates)
    used = [(weight / total, rate) for weight, rate in rates if weight > 0]
    value = math.fsum(weight * rate.value for weight, rate in used)
    down = math.hypot(*(weight * (rate.value - rate.low) for weight, rate in used))
    up = math.hypot(*(weight * (rate.high - rate.value) for weight, rate in used))
    return Estimate(value, value - down, value + up)


def predictive_values(sensitivity: Estimate, called_others: Estimate, prevalence: float) -> PredictiveValues:
    """Return PPV and NPV by Bayes' rule.

    PPV is 1 / (1 + (1 - prevalence) / prevalence * F / S), of the false positive rate F and the sensitivity S; so its
    interval follows from that of the ratio F / S, and that of NPV from (1 - S) / (1 - F).

    Args:
        sensitivity: the share of the positives that are called. called_others: that of the negatives.
        prevalence: above 0 and below 1.
    """
    odds = (1 - prevalence) / prevalence
    ppv = _of_ratio(ratio(called_others, sensitivity), odds)
    npv = _of_ratio(ratio(_complement(sensitivity), _complement(called_others)), 1 / odds)
    return PredictiveValues(
        {"sensitivity": sensitivity, "specificity": _complement(called_others), "ppv": ppv, "npv": npv}
    )


def _complement(rate: Estimate) -> Estimate:
    return Estimate(1 - rate.value, 1 - rate.high, 1 - rate.low)


def _of_ratio(found: Estimate, odds: float) -> Estimate:
    return Estimate(*(1 / (1 + odds * end) for end in (found.value, found.high, found.low)))


def ratio(one: Estimate, other: Estimate) -> Estimate:
    """Return one / other of two independent rates with its interval, from theirs (Donner and Zou 2012, "MOVER-R").

    It is infinite if the other is 0, and nan if both are.
    """
    if one.value == other.value == 0 or math.isnan(one.value + other.value):
        return Estimate(math.nan, math.nan, math.nan)
    product = one.value * other.value
    below = one.low * (2 * one.value - one.low)
    over = other.high * (2 * other.value - other.high)
    low = below / (product + math.sqrt(max(product**2 - below * over, 0.0))) if below > 0 else 0.0
    under = other.low * (2 * other.value - other.low)
    above = one.high * (2 * one.value - one.high)
    high = (product + math.sqrt(max(product**2 - above * under, 0.0))) / under if under > 0 else math.inf
    return Estimate(one.value / other.value if other.value > 0 else math.inf, low, high)
