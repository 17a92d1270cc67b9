"""Calibration of one event, such as a class or malignant: slope, intercept, and a reliability diagram with intervals.

The slope and the intercept are those of Cox (1958), as Van Calster et al. (2019) ask for them. With p the probability
that was said:

- slope b of logit P(event) = a + b logit p: 1 is right; below 1, what was said is too sure.
- intercept a of logit P(event) = a + logit p: 0 is right; above 0, the event is more frequent than was said.

Their intervals allow for images of one lesion: a jackknife over groups of one Newton step each (the sandwich of
Mancl and DeRouen 2001), and a t distribution of the groups on the scarcer side.
"""

from __future__ import annotations

from skin.evaluation.intervals import Estimate, Resampler, share_of
from skin.evaluation.metrics import SMALLEST_PROBABILITY, Bools, Floats, confidence_bin, ratio
from skin.evaluation.report_types import ReliabilityBin, ReliabilityReport

import numpy as np
from scipy.special import expit, logit, stdtrit

BINS = 10  # of equal width
ENOUGH_GROUPS = 10  # with the event, and without it: fewer give no interval
_STEPS, _STEEPEST = 50, 100.0  # of Newton's method; a line that is steeper separates the event from all else


def reliability(event: Bools, probabilities: Floats, resampler: Resampler) -> ReliabilityReport:
    """Report on the calibration of the probabilities of an event.

    Args:
        event: bool [N]. probabilities: float [N], 0 .. 1.
        resampler: of the same N images.
    """
    said = logit(np.clip(probabilities.astype(np.float64), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY))
    constant = np.ones_like(said)
    return ReliabilityReport(
        slope=_coefficient(event, np.stack([constant, said]), np.zeros_like(said), resampler),
        intercept=_coefficient(event, constant[None], said, resampler),
        bins=_bins(event, probabilities, resampler),
    )


def _bins(event: Bools, probabilities: Floats, resampler: Resampler) -> list[ReliabilityBin]:
    """Return the bins that hold images, the lowest first."""
    of_bin = confidence_bin(probabilities, BINS)
    ends = np.cumsum(np.bincount(of_bin, minlength=BINS))
    by_bin = np.argsort(of_bin.astype(np.int8), kind="stable")
    found = []
    for number, rows in enumerate(np.split(by_bin, ends[:-1])):
        if len(rows) == 0:
            continue
        found.append(
            ReliabilityBin(
                above=float(number) / BINS,
                up_to=float(number + 1) / BINS,
                images=len(rows),
                mean_probability=float(probabilities[rows].mean()),
                observed=share_of(event, rows, resampler),
            )
        )
    return found


def _coefficient(event: Bools, columns: Floats, offset: Floats, resampler: Resampler) -> Estimate:
    """Return the last coefficient of a logistic regression of the event with its 95 % interval.

    Args:
        columns: [K, N]. offset: [N], added to the linear predictor.
    """
    nothing = Estimate(np.nan, np.nan, np.nan)
    fitted = _logistic(event, columns, offset)
    if fitted is None:
        return nothing
    value = float(fitted[-1])
    fewest = min(resampler.size(event).groups, resampler.size(~event).groups)
    if fewest < ENOUGH_GROUPS:
        return Estimate(value, np.nan, np.nan)
    changes = _changes(event, columns, expit(fitted @ columns + offset), resampler)
    if changes is None:
        return Estimate(value, np.nan, np.nan)
    groups = resampler.num_groups
    half = float(stdtrit(fewest - 1, 0.975) * np.sqrt((changes**2).sum() * (groups - 1) / groups))
    return Estimate(value, value - half, value + half)


def _changes(event: Bools, columns: Floats, rate: Floats, resampler: Resampler) -> Floats | None:
    """Return the change of the last coefficient if a group is left out, [G]; None if one group alone decides.

    Args:
        columns: [K, N], K is 1 or 2. rate: [N], the probabilities of the event.
    """
    apart, varies = event - rate, rate * (1 - rate)

    def left(one: Floats, other: Floats) -> Floats:
        own = _by_group(one * other * varies, resampler)
        rest: Floats = own.sum() - own
        return rest

    last = columns[-1]
    score, curvature = _by_group(last * apart, resampler), left(last, last)
    if len(columns) == 2:  # the first is eliminated, which is many times quicker than to solve G equations
        crossed = left(columns[0], last)
        share = ratio(crossed, left(columns[0], columns[0]))
        score = score - share * _by_group(columns[0] * apart, resampler)
        curvature = curvature - share * crossed
    if not curvature.all() or np.isnan(curvature).any():
        return None
    changes: Floats = score / curvature
    return changes


def _logistic(event: Bools, columns: Floats, offset: Floats) -> Floats | None:
    """Return the coefficients [K] of the largest likelihood; None if it has none, as where all have the event.

    Newton's method, from what is right if the probabilities are.
    """

    other = (~event).astype(float)

    def tried(at: Floats) -> tuple[Floats, float]:
        """Return the probabilities [N] of the event, and the log loss."""
        rate = expit(at @ columns + offset)
        of_truth = np.abs(other - rate)
        return rate, -float(np.log(np.maximum(of_truth, 1e-300, out=of_truth), out=of_truth).sum())

    if not event.any() or event.all():
        return None
    at = np.zeros(len(columns))
    at[1:] = 1.0
    rate, loss = tried(at)
    for _ in range(_STEPS):
        curvature = (columns * (rate * (1 - rate))) @ columns.T
        try:
            step = np.linalg.solve(curvature, columns @ (event - rate))
        except np.linalg.LinAlgError:
            return None
        rate, found = tried(at + step)
        while found > loss + 1e-9 and np.abs(step).max() > 1e-9:  # the loss is convex: less of the step helps
            step = step / 2
            rate, found = tried(at + step)
        at, loss = at + step, found
        if np.abs(at).max() > _STEEPEST:
            return None
        if np.abs(step).max() < 1e-6:  # the next step would be its square
            return at
    return None


def _by_group(values: Floats, resampler: Resampler) -> Floats:
    """Return the sums [G] over the images of each group, of values [N]."""
    sums = np.bincount(resampler.group_of_row, values, minlength=resampler.num_groups)
    return sums.astype(np.float64, copy=False)
