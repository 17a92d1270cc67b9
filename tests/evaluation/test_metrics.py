import warnings

from skin.evaluation import metrics

import numpy as np
import pytest
from sklearn import metrics as sk

# Six images of three classes; the predicted classes are 0 0 1 | 1 2 | 0.
#   true 0: two right, one called 1; true 1: one right, one called 2; true 2: called 0.
LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array([
    [0.6, 0.3, 0.1],
    [0.5, 0.2, 0.3],
    [0.2, 0.5, 0.3],
    [0.1, 0.8, 0.1],
    [0.1, 0.3, 0.6],
    [0.7, 0.2, 0.1],
])  # fmt: skip
CONFUSION = np.array([[2, 1, 0], [0, 1, 1], [1, 0, 0]])
nan = np.nan


def random_set(seed: int = 0, size: int = 300, classes: int = 5, digits: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities with many ties."""
    generator = np.random.Generator(np.random.Philox(seed))
    return generator.integers(0, classes, size), generator.dirichlet(np.ones(classes), size).round(digits)


def test_confusion_matrix_has_true_classes_as_rows() -> None:
    predicted = PROBABILITIES.argmax(1)
    np.testing.assert_array_equal(metrics.confusion_matrix(LABELS, predicted, 3), CONFUSION)


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (metrics.sensitivity, [2 / 3, 1 / 2, 0]),
        (metrics.specificity, [2 / 3, 3 / 4, 4 / 5]),
        (metrics.positive_predictive_value, [2 / 3, 1 / 2, 0]),
        (metrics.negative_predictive_value, [2 / 3, 3 / 4, 4 / 5]),
        (metrics.f1, [2 / 3, 1 / 2, 0]),
        (metrics.accuracy_of, 1 / 2),
        (metrics.weighted_f1_of, (3 * 2 / 3 + 2 * 1 / 2 + 0) / 6),
        # By chance: (3*3 + 2*2 + 1*1) / 36 = 14/36; kappa = (18 - 14) / (36 - 14).
        (metrics.cohen_kappa_of, 4 / 22),
        # Here true and predicted classes are counted alike, 3 2 1, so (18 - 14) / sqrt((36 - 14)(36 - 14)).
        (metrics.matthews_of, 4 / 22),
    ],
)
def test_figures_of_a_confusion_matrix(figure, expected) -> None:
    np.testing.assert_allclose(figure(metrics.margins_of(CONFUSION)), expected, rtol=1e-15)
    two = metrics.margins_of(np.stack([CONFUSION, 10 * CONFUSION]))
    np.testing.assert_allclose(figure(two), [expected, expected], rtol=1e-15)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 1 / 2),
        ("balanced_accuracy", (2 / 3 + 1 / 2 + 0) / 3),
        ("macro_f1", (2 / 3 + 1 / 2 + 0) / 3),
        ("weighted_f1", 1 / 2),
        ("cohen_kappa", 2 / 11),
        ("matthews", 4 / 22),
        ("log_loss", -np.log([0.6, 0.5, 0.2, 0.8, 0.3, 0.1]).mean()),
        # Rows: 0.16+0.09+0.01, 0.25+0.04+0.09, 0.64+0.25+0.09, 0.01+0.04+0.01, 0.01+0.49+0.36, 0.49+0.04+0.81.
        ("brier_score", (0.26 + 0.38 + 0.98 + 0.06 + 0.86 + 1.34) / 6),
        # Pairs (positive above negative, ties a half): class 0: .6 beats .1 .1 but not .7, so do .5 and .2: 6 of 9;
        # class 1: .8 beats .3 .2 .5 .2, .3 beats .2 .2 and ties .3: 6.5 of 8; class 2: .1 ties two .1s: 1 of 5.
        ("macro_auc", (6 / 9 + 6.5 / 8 + 1 / 5) / 3),
        # Class 0: hits at ranks 2 3 4: (1/2 + 2/3 + 3/4)/3; class 1: .8 first, .3 in a tie of ranks 3 and 4:
        # (1 + 2/4)/2; class 2: in the last tie, 1/6.
        ("macro_average_precision", ((1 / 2 + 2 / 3 + 3 / 4) / 3 + 3 / 4 + 1 / 6) / 3),
    ],
)
def test_metrics_of_a_set(name: str, expected: float) -> None:
    assert metrics.value(name, LABELS, PROBABILITIES) == pytest.approx(expected, rel=1e-14)


def test_top_k_counts_a_tie_in_the_order_of_the_classes() -> None:
    probabilities = np.array([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.2, 0.4, 0.4]])
    labels = np.array([0, 1, 2])
    assert [metrics.top_k_hits(labels, probabilities, k).mean() for k in (1, 2, 3)] == [1 / 3, 1.0, 1.0]
    assert metrics.value("top_2_accuracy", LABELS, PROBABILITIES) == 4 / 6  # not the third and the last image


def test_the_true_class_is_always_among_all_classes_so_that_is_no_metric() -> None:
    found = metrics.values(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    assert np.isnan([found["top_2_accuracy"], found["top_3_accuracy"]]).all()
    assert np.isnan(metrics.value("top_3_accuracy", LABELS, PROBABILITIES))


def test_expected_calibration_error_by_hand() -> None:
    # Bins of a half: confidences 0.4 (wrong) and 0.5 (right) in the first, 0.6 and 0.9 (both right) in the second.
    probabilities = np.array([[0.4, 0.3, 0.3], [0.5, 0.25, 0.25], [0.6, 0.2, 0.2], [0.9, 0.1, 0.0]])
    of_bin, gap = metrics.confidence_gap(np.array([1, 0, 0, 0]), probabilities, bins=2)
    error = metrics.mean_gap(np.bincount(of_bin, weights=gap), np.asarray(4))
    assert error == pytest.approx(0.5 * abs(0.5 - 0.45) + 0.5 * abs(1.0 - 0.75), rel=1e-14)


@pytest.mark.parametrize(("confidence", "place"), [(0.0, 0), (0.2, 0), (0.2000001, 1), (0.4, 1), (0.99, 4), (1.0, 4)])
def test_a_confidence_bin_holds_its_upper_end(confidence: float, place: int) -> None:
    assert metrics.confidence_bin(np.array([confidence]), 5).tolist() == [place]


def test_sensitivity_at_a_specificity_takes_the_best_threshold_that_keeps_it() -> None:
    positives = np.array([1, 1, 1, 1, *[0] * 10], bool)
    scores = np.array([0.9, 0.8, 0.5, 0.1, 0.7, 0.6, *[0.3] * 8])
    # One false positive of ten is allowed at 90 %: the threshold may go down to 0.7, above which are two of four.
    assert metrics.sensitivity_at_specificity(positives, scores, 0.90) == 0.5
    assert metrics.sensitivity_at_specificity(positives, scores, 0.95) == 0.5
    assert metrics.sensitivity_at_specificity(positives, scores, 0.80) == 0.75
    assert metrics.sensitivity_at_specificity(positives, scores, 0.0) == 1.0


def test_what_a_set_cannot_give_is_nan_and_no_library_warns() -> None:
    labels, probabilities = np.array([0, 0]), np.array([[0.9, 0.1, 0.0], [0.8, 0.1, 0.1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = metrics.values(labels, probabilities)
        empty = metrics.values(labels[:0], probabilities[:0])
    np.testing.assert_array_equal(figures["sensitivity"], [1, nan, nan])
    np.testing.assert_array_equal(figures["specificity"], [nan, 1, 1])
    np.testing.assert_array_equal(figures["ppv"], [1, nan, nan])
    np.testing.assert_array_equal(figures["f1"], [1, nan, nan])
    np.testing.assert_array_equal(figures["auc"], [nan, nan, nan])
    np.testing.assert_array_equal(figures["average_precision"], [nan, nan, nan])
    assert figures["balanced_accuracy"] == 1
    assert np.isnan([figures["macro_auc"], figures["cohen_kappa"], figures["matthews"]]).all()
    assert all(np.isnan(value).all() for value in empty.values())


def test_a_certain_mistake_costs_a_finite_log_loss() -> None:
    assert metrics.value("log_loss", np.array([1]), np.array([[1.0, 0.0]])) == pytest.approx(36.0437, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_learn(seed: int) -> None:
    labels, probabilities = random_set(seed)
    predicted = probabilities.argmax(1)
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "macro_f1": sk.f1_score(labels, predicted, average="macro"),
        "weighted_f1": sk.f1_score(labels, predicted, average="weighted"),
        "cohen_kappa": sk.cohen_kappa_score(labels, predicted),
        "matthews": sk.matthews_corrcoef(labels, predicted),
    }
    for name, value in expected.items():
        assert metrics.value(name, labels, probabilities) == pytest.approx(value, rel=1e-12)
    exact = random_set(seed, digits=17)[1]
    exact /= exact.sum(1, keepdims=True)
    expected_loss = sk.log_loss(labels, exact, labels=range(5))
    assert metrics.value("log_loss", labels, exact) == pytest.approx(expected_loss, rel=1e-12)
