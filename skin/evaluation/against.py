"""One model against another on the same images: `evaluate.py --against`.

Every metric gets its paired difference with an interval (`skin.evaluation.paired`). Two classical tests stand beside:
McNemar's for the accuracy, and DeLong's for the AUROC of malignant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from skin.data import class_names
from skin.evaluation import metrics
from skin.evaluation.intervals import Estimate, Estimates, Resampler, of_called
from skin.evaluation.malignant import two_classes
from skin.evaluation.metrics import Array, Bools, Floats, Ints
from skin.evaluation.paired import comparison
from skin.evaluation.report_types import AgainstReport, McNemar, PairedTest
from skin.utils.errors import UserError

import numpy as np
from scipy import stats

DECIDES = "balanced_accuracy"  # the metric of the conclusion


@dataclass(frozen=True)
class Other:
    """The answers of the other model to the same N images.

    Attributes:
        checkpoint: its file and the name of its folder. checkpoint_sha256: of the file. model: its network.
        probabilities: float [N, C], calibrated, with the classes in the order of the first model's.
        balanced: int [N], the labels by the rule "balanced", numbered in that order; None if it has no such rule.
        called: int [N], its labels by its own rule; None are the most probable classes.
        unfair: why the comparison is not fair, or may not be: what either model knows of the set.
    """

    checkpoint: str
    checkpoint_sha256: str
    model: str
    probabilities: Floats
    balanced: Ints | None = None
    called: Ints | None = None
    unfair: tuple[str, ...] = ()


def order_of(classes: tuple[str, ...], others: tuple[str, ...], name: str) -> list[int]:
    """Return, for each class of a model, the place of the same class in the other's, which is called `name`.

    Raises:
        UserError: the two have not the same classes.
    """
    order = class_names.order_of(classes, others)
    if order is None:
        raise UserError(
            f"--against {name}: its classes ({', '.join(others)}) are not those of the model ({', '.join(classes)}); "
            "only models of the same classes can be compared"
        )
    return order


def renumbered(order: list[int], called: Ints) -> Ints:
    """Convert labels of the other model, int [N], to our class numbers; `order` is from `order_of`."""
    numbers: Ints = np.argsort(order)[called]
    return numbers


def compare(
    other: Other,
    rows: Bools,
    labels: Ints,
    probabilities: Floats,
    estimates: Estimates,
    by_balanced: Estimates | None,
    malignant: Bools | None,
) -> Callable[[], AgainstReport]:
    """Ask for the first model less the other; return a function that gives it once the rounds are drawn.

    Args:
        rows: bool [N], the images of the M that count. labels: int [M]. probabilities: float [M, C].
        estimates, by_balanced: the first model's, and those of its labels by the rule "balanced".
        malignant: bool [C]; None if there is no such division.
    """
    resampler, theirs = estimates.resampler, other.probabilities[rows]
    others = Estimates(labels, theirs, resampler, called=None if other.called is None else other.called[rows])
    delong, of_two, of_balanced = None, None, None
    if other.balanced is not None and by_balanced is not None:
        of_balanced = of_called(labels, other.balanced[rows], theirs.shape[1], resampler), by_balanced
    if malignant is not None:
        (is_malignant, risk), (_, other_risk) = (two_classes(malignant, labels, p) for p in (probabilities, theirs))
        of_two = (
            Estimates(is_malignant, other_risk, resampler, ranked=(1,), summed=()),
            Estimates(is_malignant, risk, resampler, ranked=(1,), summed=()),
        )
        p_value = delong_p_value(is_malignant == 1, risk[:, 1], other_risk[:, 1], resampler.group_of_row)
        delong = PairedTest(p_value)

    def report() -> AgainstReport:
        overall = comparison(metrics.OVERALL, others, estimates)
        return AgainstReport(
            checkpoint=other.checkpoint,
            checkpoint_sha256=other.checkpoint_sha256,
            model=other.model,
            overall=overall,
            balanced=comparison(metrics.OF_LABELS, *of_balanced) if of_balanced else None,
            malignant=comparison(metrics.OF_TWO_CLASSES, *of_two, 1) if of_two else None,
            mcnemar=mcnemar(estimates.predicted == labels, others.predicted == labels, resampler),
            delong=delong,
            conclusion=" ".join([conclusion(overall.difference[DECIDES], len(labels)), *other.unfair]),
            unfair=list(other.unfair),
        )

    return report


def conclusion(difference: Estimate, images: int) -> str:
    """Return what may be concluded from the difference of the balanced accuracy, in a sentence."""
    name = metrics.BY_NAME[DECIDES].title.lower()
    if math.isnan(difference.low):
        return f"These {images:,} images are too few to compare the {name} of the two models."
    if difference.low == difference.high == 0:
        return f"The {name} of both models is the same on these {images:,} images, lesion by lesion."
    value, low, high = difference.value, difference.low, difference.high
    if low > 0:
        return f"This model has the higher {name}, by {value:.3f} (95 % interval {low:.3f} to {high:.3f})."
    if high < 0:
        return f"The other model has the higher {name}, by {-value:.3f} (95 % interval {-high:.3f} to {-low:.3f})."
    return (
        f"These {images:,} images do not tell which model has the higher {name}: the difference is {value:+.3f}, and "
        f"anything from {low:+.3f} to {high:+.3f} would fit them."
    ).replace("-", "\N{MINUS SIGN}")


def mcnemar(ours: Bools, others: Bools, resampler: Resampler) -> McNemar:
    """Return McNemar's exact test: of the images that one model alone answers rightly, is it half each?

    It takes each image as a trial of its own; where several show one lesion or patient there is no p value.

    Args:
        ours, others: bool [N], which answers are right.
    """
    ours_alone, others_alone = int((ours & ~others).sum()), int((others & ~ours).sum())
    if resampler.num_groups < len(ours):
        return McNemar(
            ours_alone, others_alone, None,
            "several images show one lesion or patient; the interval of the accuracy allows for that",
        )  # fmt: skip
    apart = ours_alone + others_alone
    p_value = float(stats.binomtest(ours_alone, apart, 0.5).pvalue) if apart else 1.0
    return McNemar(ours_alone, others_alone, p_value)


def delong_p_value(positives: Bools, one: Floats, other: Floats, groups: Array) -> float | None:
    """Return the p value of equal AUROC of two scores of the same images; None if it cannot be told.

    DeLong, DeLong and Clarke-Pearson (1988), with the components summed over lesions or patients as Obuchowski (1997)
    does; with one image each the two are the same.

    Args:
        positives: bool [N]. one, other: scores, float [N]. groups: int [N].
    """
    m, n = int(positives.sum()), int((~positives).sum())
    if m == 0 or n == 0:
        return None
    component = _components(positives, one) - _components(positives, other)
    apart = float(component[positives].mean())
    number = int(groups.max()) + 1
    sums, sizes = (
        [np.bincount(groups[side], values[side], number) for side in (positives, ~positives)]
        for values in (component, np.ones(len(groups)))
    )
    of_side = [total - size * apart for total, size in zip(sums, sizes, strict=True)]
    there = [int((size > 0).sum()) for size in sizes]
    if min(there) < 2:
        return None
    variance = sum(k / (k - 1) * float(part @ part) / size**2
                   for k, part, size in zip(there, of_side, (m, n), strict=True))  # fmt: skip
    variance += 2 * number / (number - 1) * float(of_side[0] @ of_side[1]) / (m * n)
    if variance <= 1e-15:  # the same ranking
        return 1.0 if abs(apart) < 1e-12 else None
    return float(2 * stats.norm.sf(abs(apart) / math.sqrt(variance)))


def _components(positives: Bools, scores: Floats) -> Floats:
    """Return, per image, the share of the other side that it is ranked rightly against; a tie counts half."""
    everywhere = stats.rankdata(scores)
    found = np.empty(len(scores))
    for side in (positives, ~positives):
        below = (everywhere[side] - stats.rankdata(scores[side])) / (~side).sum()
        found[side] = below if side is positives else 1 - below
    return found
