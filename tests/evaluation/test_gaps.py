from skin.evaluation import gaps, report, subgroups
from skin.evaluation.answers import Predictions
from skin.evaluation.gaps import Comparison, Group, heterogeneity, widening
from skin.evaluation.intervals import Estimate
from skin.evaluation.report_types import ByMetric

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency

ACCURACY, BALANCED = subgroups.METRICS[:2]


def estimate(value: float, half: float = 0.1) -> Estimate:
    return Estimate(value, value - half, value + half)


def groups_of(values: dict[str, float], images: int, half: float = 0.1) -> list[Group]:
    """Groups of `images` rows each, one after the other, with a known accuracy."""
    made = []
    for number, (name, value) in enumerate(values.items()):
        rows = np.arange(images * len(values)) // images == number
        made.append(Group(name, rows, lambda some, value=value: {"accuracy": estimate(value, half)}))  # type: ignore[misc]
    return made


@pytest.mark.parametrize(("groups", "quantile"), [(2, 2.772), (3, 3.314), (4, 3.633), (8, 4.286)])
def test_the_choice_of_the_two_widens_by_tukeys_quantile(groups: int, quantile: float) -> None:
    # The table of the studentized range, 5 %, infinite degrees of freedom.
    assert widening(groups) == pytest.approx(quantile / np.sqrt(2) / 1.96, rel=1e-3)


def test_largest_gap_is_of_the_best_and_the_worst_and_wider_than_a_pairs() -> None:
    compared = groups_of({"a": 0.8, "b": 0.9, "c": 0.6}, 10)
    gap = Comparison(compared, np.zeros(30, int), np.arange(30), ("nv",)).largest_gap(ACCURACY, np.ones(1, bool))
    assert gap is not None
    assert (gap.best, gap.worst, gap.classes, gap.compared) == ("b", "c", ["nv"], 3)
    assert gap.difference.value == pytest.approx(0.3)
    assert gap.difference.high - 0.3 == pytest.approx(np.hypot(0.1, 0.1) * widening(3))


def test_groups_are_compared_over_the_classes_that_both_have_enough_of() -> None:
    # Group a has both classes, b has the first, c has four lesions of the second in twenty images.
    labels = np.repeat([0, 1, 0, 1], [10, 10, 20, 20])
    lesions = np.concatenate([np.arange(40), 40 + np.arange(20) % 4])
    asked: list[tuple[str, list[int]]] = []

    def group(name: str, first: int, last: int) -> Group:
        rows = (np.arange(60) >= first) & (np.arange(60) < last)

        def metrics_of(some: np.ndarray) -> ByMetric:
            asked.append((name, sorted({*labels[some].tolist()})))
            return {"accuracy": estimate(0.5)}

        return Group(name, rows, metrics_of)

    compared = [group("a", 0, 20), group("b", 20, 40), group("c", 40, 60)]
    gap = Comparison(compared, labels, lesions, ("nv", "mel")).largest_gap(ACCURACY, np.ones(2, bool))
    assert gap is not None
    assert (gap.classes, gap.compared) == (["nv"], 2)
    assert asked == [("a", [0]), ("b", [0])]


def test_a_group_without_an_interval_is_not_compared() -> None:
    compared = groups_of({"a": 0.8, "b": 0.9}, 10, half=np.nan)
    comparison = Comparison(compared, np.zeros(20, int), np.arange(20), ("nv",))
    assert comparison.largest_gap(ACCURACY, np.ones(1, bool)) is None
    assert comparison.largest_gap(ACCURACY, np.zeros(1, bool)) is None


def test_heterogeneity_of_one_class_is_the_chi_squared_test_of_a_table() -> None:
    # Of one stratum the test is Pearson's, times (N - 1) / N.
    counts = np.array([[18, 2], [12, 8], [15, 15]])  # hits and misses by group
    group = np.repeat(np.arange(3), counts.sum(1))
    hits = np.concatenate([np.repeat([True, False], row) for row in counts])
    found = heterogeneity(hits, np.zeros(70, int), np.arange(70), group)
    expected = chi2_contingency(counts, correction=False).statistic * 69 / 70
    assert found is not None
    assert found.statistic == pytest.approx(expected)
    assert (found.degrees_of_freedom, found.p_value) == (2, pytest.approx(np.exp(-expected / 2)))


def test_heterogeneity_of_two_groups_is_the_test_of_mantel_and_haenszel() -> None:
    # Two strata (Agresti 2002): the sum of (first cell - expected), squared, over the sum of the variances.
    tables = np.array([[[11, 25], [10, 27]], [[16, 4], [22, 10]]])
    hits, labels, group = [], [], []
    for c, table in enumerate(tables):
        for g, row in enumerate(table):
            hits += [True] * row[0] + [False] * row[1]
            labels += [c] * row.sum()
            group += [g] * row.sum()
    total, row, column = tables.sum((1, 2)), tables[:, 0].sum(1), tables[:, :, 0].sum(1)
    apart = (tables[:, 0, 0] - row * column / total).sum()
    variance = (row * (total - row) * column * (total - column) / (total**2 * (total - 1))).sum()
    found = heterogeneity(np.array(hits), np.array(labels), np.arange(len(hits)), np.array(group))
    assert found is not None
    assert found.statistic == pytest.approx(apart**2 / variance)
    assert found.degrees_of_freedom == 1


def test_groups_that_differ_in_their_classes_alone_are_alike() -> None:
    # Class 0 is always right, class 1 half the time, in both groups.
    labels = np.repeat([0, 1, 0, 1], [40, 10, 10, 40])
    group = np.repeat([0, 1], 50)
    hits = (labels == 0) | (np.arange(100) % 2 == 0)
    found = heterogeneity(hits, labels, np.arange(100), group)
    assert found is not None
    assert found.p_value > 0.9


def test_images_of_a_lesion_are_one_unit_and_one_group_alone_is_no_test() -> None:
    hits, group = np.arange(30) % 3 == 0, np.arange(30) % 2
    once = heterogeneity(hits, np.zeros(30, int), np.arange(30), group)
    thrice = heterogeneity(*(np.repeat(a, 3) for a in (hits, np.zeros(30, int), np.arange(30), group)))
    assert once == thrice
    assert heterogeneity(hits, np.zeros(30, int), np.arange(30), np.zeros(30, int)) is None
    assert heterogeneity(hits, np.zeros(30, int), np.arange(30), np.full(30, -1)) is None


def made_of(labels: np.ndarray, lesions: np.ndarray, names: list[str], right: np.ndarray) -> report.AttributeReport:
    classes = ("nv", "mel", "bkl")
    logits = np.where(np.eye(3, dtype=bool)[np.where(right, labels, (labels + 1) % 3)], 2.0, 0.0)
    answers = Predictions(classes, labels, logits, np.zeros(len(labels)), lesions, {})
    return report.build(answers, {"type": subgroups.bins(pd.Series(names, name="type"))}, rounds=20).subgroups["type"]


def test_a_group_of_one_easy_class_is_not_better_than_a_group_of_all() -> None:
    # "follow_up" has nevi alone. Over nevi it is no better than "histo", whose melanomas are half wrong.
    labels = np.concatenate([np.zeros(40, int), np.repeat([0, 1, 2], 40)])
    right = (labels != 1) | (np.arange(160) % 2 == 0)
    made = made_of(labels, np.arange(160), ["follow_up"] * 40 + ["histo"] * 120, right)
    assert made.groups["follow_up"].metrics["accuracy"].value == 1
    assert made.groups["histo"].metrics["accuracy"].value == pytest.approx(5 / 6)
    for name in ("accuracy", "balanced_accuracy"):
        gap = made.largest_gap[name]
        assert gap is not None
        assert (gap.difference.value, gap.classes, gap.compared) == (0, ["nv"], 2)
    assert made.largest_gap["macro_auc"] is None  # one class alone is not ranked
    assert made.largest_gap["malignant_sensitivity"] is None
    gap = made.largest_gap["malignant_specificity"]
    assert gap is not None
    assert gap.classes == ["nv"]
    assert made.heterogeneity["accuracy"] is None


def test_a_group_of_one_lesion_is_shown_and_not_compared() -> None:
    labels = np.concatenate([np.zeros(30, int), np.tile([0, 1, 2], 20), np.tile([0, 1, 2], 20)])
    lesions = np.concatenate([np.zeros(30, int), 1 + np.arange(120)])
    right = np.arange(150) % 4 > 0
    made = made_of(labels, lesions, ["one"] * 30 + ["a"] * 60 + ["b"] * 60, right)
    assert (made.groups["one"].images, made.groups["one"].groups) == (30, 1)
    assert not np.isnan(made.groups["one"].metrics["accuracy"].value)
    gap = made.largest_gap["accuracy"]
    assert gap is not None
    assert {gap.best, gap.worst} == {"a", "b"}
    assert gap.compared == 2


def test_a_gap_over_some_classes_is_of_these_images_alone() -> None:
    # Group b has four bkl, all wrong, which do not count: fewer than ENOUGH_LESIONS.
    assert gaps.ENOUGH_LESIONS == 5
    labels = np.concatenate([np.tile([0, 1, 2], 20), np.repeat([0, 1, 2], [20, 20, 4])])
    right = np.concatenate([np.arange(60) % 10 > 0, np.repeat([True, False], [40, 4])])
    made = made_of(labels, np.arange(104), ["a"] * 60 + ["b"] * 44, right)
    gap = made.largest_gap["accuracy"]
    assert gap is not None
    counted = labels[:60] != 2
    assert (gap.best, gap.worst, gap.classes) == ("b", "a", ["nv", "mel"])
    assert gap.difference.value == pytest.approx(1 - right[:60][counted].mean())
