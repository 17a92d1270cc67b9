import math
from dataclasses import astuple

from skin.evaluation import intervals, metrics
from skin.evaluation.intervals import Column, Estimate, Estimates, Resampler, Size, difference, interval, means_of
from skin.evaluation.metrics import Percentiles, Share

import numpy as np
import pytest
from scipy import sparse


def random_set(
    seed: int, groups: int, classes: int = 3, digits: int = 17
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities and groups: one to three images a lesion, which go right or wrong together."""
    generator = np.random.Generator(np.random.Philox(seed))
    group = np.repeat(np.arange(groups), generator.integers(1, 4, groups))
    shares = np.arange(classes, 0, -1) / np.arange(classes + 1).sum()
    labels = generator.choice(classes, groups, p=shares)[group]
    logits = 0.7 * generator.standard_normal((groups, classes))[group]
    logits += 0.7 * generator.standard_normal((len(group), classes))
    logits[np.arange(len(group)), labels] += 1.2
    probabilities = np.exp(2 * logits)
    return labels, (probabilities / probabilities.sum(1, keepdims=True)).round(digits), group


@pytest.mark.parametrize("digits", [17, 1], ids=["distinct", "ties"])
def test_a_round_is_the_figure_of_the_rows_it_drew(digits: int) -> None:
    labels, probabilities, groups = random_set(seed=1, groups=40, classes=5, digits=digits)
    resampler = Resampler(groups, rounds=25, seed=3)
    figures = Estimates(labels, probabilities, resampler)
    for number, weights in enumerate(resampler.weights(0, 25).T):
        rows = np.repeat(np.arange(len(labels)), weights[resampler.group_of_row])
        for name, expected in metrics.values(labels[rows], probabilities[rows]).items():
            np.testing.assert_allclose(figures.rounds[name][number], expected, rtol=1e-10, atol=1e-12, err_msg=name)


def test_a_round_of_labels_alone_counts_beyond_the_square_of_an_int32() -> None:
    """The labels' counts are whole numbers, and kappa multiplies them."""
    labels, called = np.arange(100_000) % 2, (np.arange(100_000) % 3) % 2
    resampler = Resampler(np.arange(100_000) // 1000, rounds=1)
    estimates = intervals.of_called(labels, called, 2, resampler)
    rows = np.repeat(np.arange(100_000), resampler.weights(0, 1)[:, 0][resampler.group_of_row])
    for name in ("cohen_kappa", "matthews", "weighted_f1"):
        expected = metrics.value(name, labels[rows], np.eye(2)[called[rows]])
        assert estimates.rounds[name][0] == pytest.approx(float(expected), abs=1e-12), name


def test_values_are_those_of_the_set() -> None:
    labels, probabilities, groups = random_set(seed=2, groups=30)
    figures = Estimates(labels, probabilities, Resampler(groups, rounds=2))
    for name, expected in metrics.values(labels, probabilities).items():
        np.testing.assert_allclose(figures.values[name], expected, rtol=1e-13, err_msg=name)
    assert figures.values.keys() == figures.rounds.keys()


def test_what_is_not_asked_for_is_left_out_and_the_rest_is_the_same() -> None:
    labels, probabilities, groups = random_set(seed=2, groups=30)
    resampler = Resampler(groups, rounds=20)
    every = Estimates(labels, probabilities, resampler)
    few = Estimates(labels, probabilities, resampler, ranked=(), summed=metrics.OF_PROBABILITIES)
    left_out = {"top_2_accuracy", "top_3_accuracy", "macro_auc", "macro_average_precision"}
    left_out |= {m.name for m in metrics.PER_CLASS if isinstance(m.source, metrics.OfRanking)}
    assert few.values.keys() == few.rounds.keys() == every.values.keys() - left_out
    assert astuple(few.estimate("log_loss")) == pytest.approx(astuple(every.estimate("log_loss")), rel=1e-12)
    for name in few.values:  # the images of a lesion may be added up in another order
        np.testing.assert_allclose(few.rounds[name], every.rounds[name], rtol=1e-12, err_msg=name)


def test_means_of_columns_that_count_other_images_are_their_own() -> None:
    # Lesions a: images 0 and 1; b: 2 and 3. A round draws a (0, 1 or 2) times, and b for the rest.
    numbers = {
        "all": [1.0, 2.0, 3.0, 6.0],
        "of a": [1.0, 0.0, np.nan, np.nan],
        "of b": [np.nan, np.nan, 5.0, 7.0],
        "of both": [np.nan, 4.0, 6.0, np.nan],
    }
    resampler = Resampler(np.array(["a", "a", "b", "b"]), rounds=16)
    found = means_of({name: Column(np.array(v), Percentiles()) for name, v in numbers.items()}, resampler)()
    assert {name: estimate.value for name, estimate in found.items()} == {
        "all": 3.0, "of a": 0.5, "of b": 6.0, "of both": 5.0,
    }  # fmt: skip


def test_a_round_draws_as_many_groups_as_there_are() -> None:
    resampler = Resampler(np.array(["b", "a", "b", "c"]), rounds=50, seed=0)
    weights = resampler.weights(0, 50)
    assert (weights.sum(0) == 3).all()
    assert resampler.group_of_row.tolist() == [1, 0, 1, 2]


def test_rounds_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, probabilities, groups = random_set(seed=0, groups=20)
    whole = Estimates(labels, probabilities, Resampler(groups, rounds=30, seed=5)).rounds
    monkeypatch.setattr(intervals, "BATCH_ELEMENTS", 7 * len(labels))
    in_batches = Estimates(labels, probabilities, Resampler(groups, rounds=30, seed=5)).rounds
    monkeypatch.setattr(intervals, "usable_cores", lambda: 1)
    alone = Estimates(labels, probabilities, Resampler(groups, rounds=30, seed=5)).rounds
    other = Estimates(labels, probabilities, Resampler(groups, rounds=30, seed=6)).rounds
    for name in whole:
        np.testing.assert_array_equal(whole[name], in_batches[name], err_msg=name)
        np.testing.assert_array_equal(whole[name], alone[name], err_msg=name)
    assert not np.array_equal(whole["accuracy"], other["accuracy"])


def test_what_is_asked_before_the_first_answer_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, probabilities, groups = random_set(seed=0, groups=20)
    alone = Estimates(labels, probabilities, Resampler(groups, rounds=10)).rounds["accuracy"]
    resampler = Resampler(groups, rounds=10)
    drawn: list[int] = []
    weights = resampler.weights
    monkeypatch.setattr(resampler, "weights", lambda first, last: (drawn.append(first), weights(first, last))[1])
    figures = Estimates(labels, probabilities, resampler)
    asked = means_of({"share": Column((probabilities.argmax(1) == labels).astype(float))}, resampler)
    np.testing.assert_array_equal(figures.rounds["accuracy"], alone)
    assert asked()["share"] == figures.estimate("accuracy")
    assert drawn == [0]


def test_images_of_one_lesion_count_for_less() -> None:
    labels, probabilities, _ = random_set(seed=4, groups=150)
    copies = [np.repeat(array, 4, axis=0) for array in (labels, probabilities)]
    lesions = np.repeat(np.arange(len(labels)), 4)
    honest = Estimates(*copies, Resampler(lesions, 400)).estimate("macro_auc")
    naive = Estimates(*copies, Resampler(np.arange(len(lesions)), 400)).estimate("macro_auc")
    # Four copies of everything say no more than one: twice the width of what they would say as new images.
    assert (honest.high - honest.low) / (naive.high - naive.low) == pytest.approx(2, rel=0.2)


def test_share_of_one_is_not_certain_of_a_few_images() -> None:
    rounds = np.ones(100)
    # Wilson's interval of 3 of 3: 1 / (1 + z²/3) to 1.
    estimate = interval(Share(), 1.0, rounds, Size(images=3, groups=3))
    assert (estimate.low, estimate.high) == (pytest.approx(1 / (1 + 1.959964**2 / 3), rel=1e-6), 1.0)
    estimate = interval(Share(), 0.0, rounds * 0, Size(images=3, groups=3))
    assert (estimate.low, estimate.high) == (0.0, pytest.approx(1.959964**2 / 3 / (1 + 1.959964**2 / 3), rel=1e-6))


def test_interval_of_a_share_is_wilsons_of_as_many_images_as_it_is_worth() -> None:
    generator = np.random.Generator(np.random.Philox(0))
    rounds = generator.binomial(100, 0.2, 200_000) / 100  # as the bootstrap of 20 of 100 lone images
    estimate = interval(Share(), 0.2, rounds, Size(images=100, groups=100))
    # Wilson 1927, of 20 of 100: 0.1334 to 0.2888. The variance of 100 images is enlarged by 100/99.
    assert estimate.low == pytest.approx(0.1334, abs=0.001)
    assert estimate.high == pytest.approx(0.2888, abs=0.001)


def test_other_figures_take_percentiles_without_the_rounds_that_have_none() -> None:
    even = np.array([*np.linspace(0, 1, 20_001), np.nan, np.nan])  # about the value, so there is no bias
    estimate = interval(Percentiles(), 0.5, even, Size(images=10**6, groups=10**6))
    assert (estimate.low, estimate.high) == (pytest.approx(0.025, abs=1e-3), pytest.approx(0.975, abs=1e-3))
    # t(4) = 2.776, times sqrt(5/4) = 3.104: the normal distribution's 0.00095 quantile.
    estimate = interval(Percentiles(), 0.5, even, Size(images=5, groups=5))
    assert (estimate.low, estimate.high) == (pytest.approx(0.00095, abs=2e-4), pytest.approx(0.99905, abs=2e-4))


def test_percentiles_move_against_the_bias_of_the_rounds() -> None:
    # 84.13 % of the rounds lie above the value, z0 = -1: the ends are the quantiles at -2 ± 1.96.
    rounds = np.linspace(0, 1, 100_001)
    estimate = interval(Percentiles(), 1 - 0.841345, rounds, Size(images=10**6, groups=10**6))
    assert estimate.low == pytest.approx(3.75e-5, abs=2e-5)
    assert estimate.high == pytest.approx(0.48405, abs=1e-3)


def test_rounds_that_do_not_vary_give_no_interval() -> None:
    estimate = interval(Percentiles(), 1.0, np.array([1.0, 1 - 1e-16, 1.0]), Size(images=40, groups=40))
    assert np.isnan([estimate.low, estimate.high]).all()


def test_a_set_without_a_mistake_is_not_certain_of_any_metric() -> None:
    labels = np.arange(12) % 3
    estimates = Estimates(labels, np.eye(3)[labels], Resampler(np.arange(12), 50))
    for metric in metrics.OVERALL:
        estimate = estimates.estimate(metric.name)
        assert math.isnan(estimate.low) or estimate.high - estimate.low > 0.1, metric.name


def test_a_label_that_is_always_the_same_has_a_kappa_without_an_interval() -> None:
    labels = np.arange(30) % 3
    estimate = Estimates(labels, np.eye(3)[labels * 0], Resampler(np.arange(30), 50)).estimate("cohen_kappa")
    assert estimate.value == 0
    assert math.isnan(estimate.low)


def test_calibration_error_of_answers_that_are_sure_and_right_reaches_as_far_as_the_accuracy() -> None:
    labels = np.arange(12) % 3
    estimates = Estimates(labels, np.eye(3)[labels], Resampler(np.arange(12), 50))
    error, accuracy = (estimates.estimate(name) for name in ("expected_calibration_error", "accuracy"))
    assert (error.value, error.low) == (0, 0)
    assert error.high == pytest.approx(1 - accuracy.low)


def test_one_lesion_has_no_interval() -> None:
    estimate = interval(Percentiles(), 0.7, np.full(10, 0.7), Size(images=8, groups=1))
    assert np.isnan([estimate.low, estimate.high]).all()
    assert str(estimate) == "0.700"


def scarce_set(seed: int, positives: int, negatives: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of two classes, an image a group: scores of the second are 1.5 deviations higher."""
    labels = (np.arange(positives + negatives) < positives).astype(int)
    scores = np.random.Generator(np.random.Philox(seed)).standard_normal(len(labels)) + 1.5 * labels
    risk = 1 / (1 + np.exp(1 - scores))
    return labels, np.stack([1 - risk, risk], 1)


def scarce_figures(seed: int, positives: int, negatives: int = 200, rounds: int = 200) -> Estimates:
    labels, probabilities = scarce_set(seed, positives, negatives)
    return Estimates(labels, probabilities, Resampler(np.arange(len(labels)), rounds, seed))


RANKED = ("auc", "average_precision", "f1", "sensitivity_at_90_specificity", "sensitivity_at_95_specificity")
MACRO = ("balanced_accuracy", "macro_f1", "macro_auc", "macro_average_precision")


@pytest.mark.parametrize("positives", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 5, 10))])
def test_intervals_of_a_scarce_class_hold_the_truth(positives: int) -> None:
    truth = metrics.values(*scarce_set(10**6, positives * 1000, 200_000))
    figures = [scarce_figures(seed, positives) for seed in range(100)]
    for name in (*RANKED, *MACRO):
        c = None if name in MACRO else 1
        expected = truth[name] if c is None else truth[name][c]
        estimates = [f.estimate(name, c) for f in figures]
        covered = np.mean([e.low <= expected <= e.high for e in estimates])
        assert covered >= 0.87, (name, covered)
        assert all(0 <= e.low <= e.value <= e.high <= 1 for e in estimates), name


def test_one_positive_or_one_negative_lesion_ranks_without_an_interval() -> None:
    for positives, negatives in ((1, 200), (200, 1)):
        figures = scarce_figures(0, positives, negatives, rounds=50)
        for name in ("auc", "average_precision"):
            estimate = figures.estimate(name, 1)
            assert 0 <= estimate.value <= 1
            assert np.isnan([estimate.low, estimate.high]).all(), name
    assert np.isnan(figures.estimate("sensitivity_at_90_specificity", 1).low)  # the threshold is one image's
    figures = scarce_figures(0, 1, rounds=50)
    assert np.isnan(figures.estimate("f1", 1).low)
    found = figures.estimate("sensitivity_at_90_specificity", 1)  # Wilson's of 1 of 1, or of 0 of 1
    assert found.high - found.low > 0.75


def test_a_class_that_is_ranked_faultlessly_is_not_certain() -> None:
    labels = np.repeat([0, 1], [200, 3])
    probabilities = np.stack([1 - 0.9 * labels, 0.9 * labels], 1)
    figures = Estimates(labels, probabilities, Resampler(np.arange(203), 50))
    for name in RANKED:
        estimate = figures.estimate(name, 1)
        assert estimate.low < 0.7 < estimate.value == estimate.high == 1, name
    assert figures.estimate("macro_auc").low < 0.75


def test_a_mean_over_classes_is_as_uncertain_as_these_together() -> None:
    labels, probabilities, groups = random_set(seed=0, groups=300)
    scarce = np.flatnonzero(labels == 2)[2:]
    kept = np.setdiff1d(np.arange(len(labels)), scarce)
    ordinary = Estimates(labels, probabilities, Resampler(groups, 200))
    with_scarce = Estimates(labels[kept], probabilities[kept], Resampler(groups[kept], 200))
    for name in MACRO:
        wide, usual = (f.estimate(name) for f in (with_scarce, ordinary))
        assert wide.high - wide.low > 1.2 * (usual.high - usual.low), name
        assert usual.high - usual.low < 0.15, name


def test_a_difference_is_as_uncertain_as_both_sides() -> None:
    gap = difference(Estimate(0.9, 0.6, 0.95), Estimate(0.7, 0.5, 1.1))
    assert (gap.value, gap.low, gap.high) == (
        pytest.approx(0.2), pytest.approx(0.2 - 0.5), pytest.approx(0.2 + np.hypot(0.05, 0.2))
    )  # fmt: skip
    assert np.isnan(difference(Estimate(0.9, np.nan, np.nan), Estimate(0.7, 0.5, 1.1)).low)


def test_an_interval_around_nought_is_written_with_a_word_between_its_ends() -> None:
    assert Estimate(0.873, 0.851, 0.894).text() == "0.873 (0.851–0.894)"
    assert Estimate(0.011, -0.053, 0.075).text() == "0.011 (\N{MINUS SIGN}0.053 to 0.075)"
    assert Estimate(-0.0002, -0.0001, 0.075).text() == "0.000 (0.000–0.075)"


def test_a_class_that_is_not_there_has_no_interval() -> None:
    labels, probabilities, groups = random_set(seed=0, groups=20)
    labels[labels == 2] = 0
    figures = Estimates(labels, probabilities, Resampler(groups, rounds=20))
    for name in ("sensitivity", "auc", "f1", "average_precision"):
        estimate = figures.estimate(name, 2)
        assert np.isnan([estimate.value, estimate.low, estimate.high]).all(), name
    assert str(figures.estimate("auc", 2)) == "not available"
    assert not np.isnan(figures.estimate("macro_auc").value)


def test_means_leave_out_rows_that_do_not_count() -> None:
    hits = np.array([[1, np.nan], [0, 1], [1, np.nan], [1, np.nan]])
    asked = means_of({k: Column(hits[:, k]) for k in (0, 1)}, Resampler(np.arange(4), rounds=200))
    first, second = asked()[0], asked()[1]
    assert (first.value, second.value) == (0.75, 1.0)
    assert second.low == pytest.approx(1 / (1 + 1.959964**2), rel=1e-6)  # one image


def calibrated_set(seed: int, lesions: int, sharpened: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities and lesions of a model whose probabilities are right; to a power they are too sure."""
    generator = np.random.Generator(np.random.Philox(seed))
    labels = generator.integers(0, 3, lesions)
    logits = 1.5 * generator.standard_normal((lesions, 3))
    logits[np.arange(lesions), labels] += 1.5**2
    exponentials = np.exp(sharpened * logits)
    return labels, exponentials / exponentials.sum(1, keepdims=True), np.arange(lesions)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray) -> Estimate:
    resampler = Resampler(groups, rounds=2)
    return Estimates(labels, probabilities, resampler, ranked=()).estimate("expected_calibration_error")


def test_calibration_error_of_a_calibrated_model_may_be_nothing() -> None:
    found = [calibration_error(*calibrated_set(seed, 80)) for seed in range(100)]
    assert np.mean([e.low == 0 for e in found]) >= 0.94
    assert all(e.low <= e.value <= e.high for e in found)


def test_calibration_error_of_a_model_that_is_too_sure_is_not_nothing() -> None:
    truth = metrics.value("expected_calibration_error", *calibrated_set(10**6, 200_000, 2.0)[:2])
    found = [calibration_error(*calibrated_set(seed, 400, 2.0)) for seed in range(100)]
    assert np.mean([e.low > 0 for e in found]) >= 0.95
    assert np.mean([e.low <= truth <= e.high for e in found]) >= 0.9


def test_answers_that_happen_to_be_all_right_do_not_refute_a_confidence_of_98_percent() -> None:
    # Of 60 such answers all are right three times in ten. The rounds of a bootstrap never see a wrong one.
    probabilities = np.tile([0.98, 0.02], (60, 1))
    estimate = calibration_error(np.zeros(60, int), probabilities, np.arange(60))
    assert (estimate.value, estimate.low) == (pytest.approx(0.02), 0)
    # Of 600 they are right six times in a million.
    many = calibration_error(np.zeros(600, int), np.tile([0.98, 0.02], (600, 1)), np.arange(600))
    assert many.low > 0


def test_covariance_of_the_bins_is_that_of_the_lesions() -> None:
    # One bin of gaps: |noise| alone decides. Its variance is that of the mean over three lesions, G / (G - 1) times.
    sums = sparse.csr_array(np.array([[0.9, 1.2, 0.3]]))
    low, high = intervals.mean_gap_interval(sums, np.array([1, 1, 1]), np.zeros(1))
    deviation = np.sqrt(np.array([0.9, 1.2, 0.3]).var() / 3 * 3 / 2)
    assert low == pytest.approx(0.8 - 1.96 * deviation, abs=0.03)
    assert high == pytest.approx(0.8 + 1.96 * deviation, abs=0.03)


def test_share_of_some_rows_is_as_uncertain_as_the_rounds_say() -> None:
    labels, probabilities, groups = random_set(seed=5, groups=300)
    hits, rows = probabilities.argmax(1) == labels, probabilities.max(1) > 0.6
    resampler = Resampler(groups, rounds=4000)
    rounds = means_of({0: Column(np.where(rows, hits.astype(float), np.nan))}, resampler)()[0]
    found = intervals.share_of(hits, rows, resampler)
    assert found.value == rounds.value
    assert (found.low, found.high) == (pytest.approx(rounds.low, abs=0.004), pytest.approx(rounds.high, abs=0.004))
    assert np.isnan(intervals.share_of(hits, np.zeros_like(rows), resampler).value)
