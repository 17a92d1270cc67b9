from skin.evaluation import deferral, intervals
from skin.evaluation.decision_curve import THRESHOLDS, decision_curve
from skin.evaluation.intervals import Resampler

import numpy as np
import pytest


def set_of(confidence: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of two classes with these confidences, and right or wrong."""
    return wrong.astype(int), np.stack([confidence, 1 - confidence], 1)


def risk_by_hand(confidence: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The risk of the 1, 2, .. N surest, equal confidences in the mean over their orders."""
    mean = {c: wrong[confidence == c].mean() for c in confidence}
    ordered = np.array([mean[c] for c in np.sort(confidence)[::-1]])
    return np.cumsum(ordered) / np.arange(1, len(wrong) + 1)


@pytest.mark.parametrize("digits", [1, 17], ids=["ties", "distinct"])
def test_risk_and_coverage_are_those_of_the_definition(digits: int) -> None:
    generator = np.random.Generator(np.random.Philox(digits))
    confidence = (0.5 + 0.5 * generator.random(60)).round(digits)
    wrong = generator.random(60) > confidence
    expected = risk_by_hand(confidence, wrong)
    made = deferral.deferral(*set_of(confidence, wrong), Resampler(np.arange(60), 20))()
    assert deferral.curve(wrong, confidence) == pytest.approx(expected, rel=1e-12)
    assert made.aurc.value == pytest.approx(expected.mean(), rel=1e-12)
    for point in made.risk:
        assert point.error.value == pytest.approx(expected[int(np.ceil(60 * point.coverage - 1e-9)) - 1], rel=1e-12)
    assert made.risk[0].error.value == pytest.approx(wrong.mean())


def test_a_round_is_the_risk_of_the_rows_it_drew() -> None:
    generator = np.random.Generator(np.random.Philox(0))
    groups = np.repeat(np.arange(25), generator.integers(1, 4, 25))
    confidence = (0.5 + 0.5 * generator.random(len(groups))).round(2)
    wrong = generator.random(len(groups)) > confidence
    resampler = Resampler(groups, 15)
    ranking = intervals.Ranking(wrong, confidence, resampler)
    weights = resampler.weights(0, 15)
    places = deferral.places_of(ranking.ranks(weights))
    for number, drawn in enumerate(weights.T):
        rows = np.repeat(np.arange(len(groups)), drawn[resampler.group_of_row])
        expected = risk_by_hand(confidence[rows], wrong[rows])
        assert deferral.aurc(places)[number] == pytest.approx(expected.mean(), rel=1e-10)
        for coverage in (1.0, 0.9, 0.33):
            kept = int(np.ceil(coverage * len(rows) - 1e-9))
            assert deferral.risk(places, coverage)[number] == pytest.approx(expected[kept - 1], rel=1e-10, abs=1e-12)


def test_aurc_by_hand() -> None:
    # By confidence: right, wrong, right, wrong. Risks 0, 1/2, 1/3, 1/2.
    made = deferral.deferral(*set_of(np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 1, 0, 1], bool)),
                             Resampler(np.arange(4), 20))()  # fmt: skip
    assert made.aurc.value == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


@pytest.mark.parametrize("wrong", [0, 1])
def test_all_right_or_all_wrong_has_intervals_and_warns_of_nothing(wrong: int) -> None:
    confidence = np.linspace(0.5, 1, 30)
    made = deferral.deferral(*set_of(confidence, np.full(30, wrong, bool)), Resampler(np.arange(30), 20))()
    assert made.aurc.value == pytest.approx(wrong)
    assert all(point.error.value == wrong for point in made.risk)
    assert all(point.error.high - point.error.low > 0.05 for point in made.risk)


def test_an_empty_set_has_no_risk() -> None:
    made = deferral.deferral(np.zeros(0, int), np.zeros((0, 2)), Resampler(np.zeros(0), 5))()
    assert np.isnan(made.aurc.value)


# ---- the decision curve -------------------------------------------------------------------------------------

RISK = np.array([0.02, 0.05, 0.1, 0.1, 0.2, 0.3, 0.35, 0.5, 0.6, 0.9, 0.04, 0.01])
MALIGNANT = np.array([0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0], bool)
# PyPI's dcurves 1.1.7, dca(thresholds=...) of these: threshold, net benefit of the risk, and of treating all.
DCURVES = [
    (0.01, 0.326599, 0.326599), (0.02, 0.321429, 0.319728), (0.05, 0.311404, 0.298246), (0.10, 0.296296, 0.259259),
    (0.20, 0.187500, 0.166667), (0.30, 0.178571, 0.047619), (0.50, 0.083333, -0.333333),
]  # fmt: skip


def test_net_benefit_is_that_of_dcurves() -> None:
    curve = {point.threshold: point for point in decision_curve(MALIGNANT, RISK, Resampler(np.arange(12), 50))()}
    assert list(curve) == list(THRESHOLDS)
    for threshold, model, treat_all in DCURVES:
        assert curve[threshold].model.value == pytest.approx(model, abs=1e-6)
        assert curve[threshold].treat_all.value == pytest.approx(treat_all, abs=1e-6)
        assert curve[threshold].gain.value == pytest.approx(model - treat_all, abs=2e-6)
        assert curve[threshold].model.low <= model + 1e-6 <= curve[threshold].model.high + 2e-6


def test_intervals_are_combined_from_wilsons_of_the_cells() -> None:
    curve = {point.threshold: point for point in decision_curve(MALIGNANT, RISK, Resampler(np.arange(12), 20_000))()}
    # At 0.2, of 12: TP 3, FP 3; TN 5, FN 1. The correlation of two cells is that of a multinomial.

    def wilson(hits: int) -> tuple[float, float]:
        # The variance of 12 images is enlarged by 12 / 11, so they are worth 11.
        z2, share, n = 1.959964**2, hits / 12, 11
        centre, half = share + z2 / (2 * n), np.sqrt(z2 * (share * (1 - share) / n + z2 / n**2 / 4))
        return (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)

    for found, (p, q), cost, worth in ((curve[0.2].model, (3, 3), 0.25, 1.0), (curve[0.2].gain, (5, 1), 1.0, 0.25)):
        r = -np.sqrt((p / 12) * (q / 12) / ((1 - p / 12) * (1 - q / 12)))
        (l1, u1), (l2, u2) = wilson(p), wilson(q)
        up, down = worth * (u1 - p / 12), worth * (p / 12 - l1)
        more, fewer = cost * (u2 - q / 12), cost * (q / 12 - l2)
        value = worth * p / 12 - cost * q / 12
        assert found.value == pytest.approx(value)
        assert found.low == pytest.approx(value - np.sqrt(down**2 - 2 * r * down * more + more**2), abs=0.01)
        assert found.high == pytest.approx(value + np.sqrt(up**2 - 2 * r * up * fewer + fewer**2), abs=0.01)


def test_cells_of_a_round_are_those_of_the_rows_it_drew() -> None:
    groups = np.arange(12) // 2
    resampler = Resampler(groups, 40)
    asked: list = []
    resampler.ask = lambda figures: asked.append(figures)  # type: ignore[method-assign, assignment]
    decision_curve(MALIGNANT, RISK, resampler)
    weights = resampler.weights(0, 40)
    found = asked[0](weights)
    for number, drawn in enumerate(weights.T):
        rows = np.repeat(np.arange(12), drawn[groups])
        called = RISK[rows] >= 0.2
        assert found["tp"][number, 19] == pytest.approx((called & MALIGNANT[rows]).mean())
        assert found["fp"][number, 19] == pytest.approx((called & ~MALIGNANT[rows]).mean())
        assert found["fn"][number, 19] == pytest.approx((~called & MALIGNANT[rows]).mean())
        assert found["all_negatives"][number, 0] == pytest.approx((~MALIGNANT[rows]).mean())
