from skin.evaluation import paired
from skin.evaluation.intervals import Estimates, Resampler
from skin.evaluation.metrics import BY_NAME, OF_A_COMPARISON

import numpy as np
import pytest


def two_models(seed: int, lesions: int, better: float = 0.0, images: int = 2) -> tuple[np.ndarray, list[np.ndarray]]:
    """Labels and the probabilities of two models that find the same lesions hard; the second sees `better` more."""
    generator = np.random.Generator(np.random.Philox(seed))
    labels = np.repeat(generator.integers(0, 3, lesions), images)
    common = np.repeat(generator.standard_normal((lesions, 3)), images, 0)
    common += 0.5 * generator.standard_normal(common.shape)
    answers = []
    for strength in (1.2, 1.2 + better):
        logits = common + 0.3 * generator.standard_normal(common.shape)
        logits[np.arange(len(labels)), labels] += strength
        odds = np.exp(logits)
        answers.append(odds / odds.sum(1, keepdims=True))
    return labels, answers


def test_the_difference_is_that_of_the_two_values() -> None:
    labels, answers = two_models(0, 60, better=0.5)
    resampler = Resampler(np.arange(120) // 2, 100)
    one, other = (Estimates(labels, answer, resampler) for answer in answers)
    for metric in OF_A_COMPARISON:
        found = paired.difference(metric, other, one)
        expected = other.estimate(metric.name).value - one.estimate(metric.name).value
        assert found.value == pytest.approx(expected, rel=1e-9)
        assert found.low < found.value < found.high


def test_pairs_know_more_than_two_intervals() -> None:
    labels, answers = two_models(0, 200, better=0.5)
    resampler = Resampler(np.arange(400) // 2, 300)
    one, other = (Estimates(labels, answer, resampler) for answer in answers)
    for metric in OF_A_COMPARISON[:5]:
        a, b, d = one.estimate(metric.name), other.estimate(metric.name), paired.difference(metric, other, one)
        assert d.high - d.low < 0.7 * np.hypot(a.high - a.low, b.high - b.low), metric.name


def test_the_interval_of_a_mean_without_skewness_is_students() -> None:
    sums = np.array([-3.0, -1.0, 0.0, 1.0, 3.0]) + 7
    found = paired.mean_of_groups(sums, np.ones(5))
    # t(4) = 2.776; the standard deviation is sqrt(20 / 4).
    assert (found.value, found.high) == (pytest.approx(7), pytest.approx(7 + 2.776445 * np.sqrt(5 / 5)))
    assert found.low == pytest.approx(7 - 2.776445 * np.sqrt(5 / 5))
    copies = paired.mean_of_groups(np.repeat(sums, 3).reshape(5, 3).sum(1), np.full(5, 3))
    assert copies.low == pytest.approx(found.low)  # three copies of each image say no more


def test_the_interval_of_a_skewed_mean_solves_halls_equation_and_holds_it() -> None:
    generator = np.random.Generator(np.random.Philox(0))
    hits = np.zeros(3)
    for _ in range(2000):
        sums = generator.exponential(size=20)
        found = paired.mean_of_groups(sums, np.ones(20))
        half = 2.093 * sums.std(ddof=1) / np.sqrt(20)
        hits += [found.low <= 1 <= found.high, abs(sums.mean() - 1) <= half, found.high < 1]
    held, students, above = hits / 2000
    assert held > students + 0.005
    assert above < 0.06
    skewness, t = 0.3, 2.0
    root = paired._unskewed(t, skewness)
    assert root + skewness * root**2 / 3 + skewness**2 * root**3 / 27 + skewness / 6 == pytest.approx(t)


def test_newcombes_interval_of_two_shares() -> None:
    """Newcombe 1998 (method 10) of 36 both right, 12 the first alone, 2 the second alone, none wrong in 50.

    His formula, written out with Wilson's ends and the correlation of the paired shares.
    """
    one = np.repeat([1, 1, 0], [36, 12, 2]).astype(bool)
    other = np.repeat([1, 0, 1], [36, 12, 2]).astype(bool)
    labels = np.zeros(50, int)
    resampler = Resampler(np.arange(50), 20_000)
    answers = [np.stack([right, ~right], 1).astype(float) for right in (one, other)]
    estimates = [Estimates(labels, answer, resampler, ranked=()) for answer in answers]
    found = paired.difference(BY_NAME["accuracy"], *estimates)

    def wilson(share: float) -> tuple[float, float]:
        z2 = 1.959964**2
        centre, half = share + z2 / 100, np.sqrt(z2 * (share * (1 - share) / 50 + z2 / 50**2 / 4))
        return (centre - half) / (1 + z2 / 50), (centre + half) / (1 + z2 / 50)

    p, q, r = 48 / 50, 38 / 50, np.corrcoef(one, other)[0, 1]
    (l1, u1), (l2, u2) = wilson(p), wilson(q)
    low = p - q - np.sqrt((p - l1) ** 2 - 2 * r * (p - l1) * (u2 - q) + (u2 - q) ** 2)
    high = p - q + np.sqrt((q - l2) ** 2 - 2 * r * (q - l2) * (u1 - p) + (u1 - p) ** 2)
    assert (found.value, found.low, found.high) == (
        pytest.approx(0.2), pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01),
    )  # fmt: skip


def test_the_same_answers_differ_by_nothing() -> None:
    labels, (one, _) = two_models(0, 30)
    resampler = Resampler(np.arange(60), 30)
    for metric in OF_A_COMPARISON:
        found = paired.difference(metric, *(Estimates(labels, one, resampler) for _ in range(2)))
        assert (found.value, found.low, found.high) == (0, 0, 0)


def test_a_difference_that_every_round_agrees_on_has_no_interval() -> None:
    labels = np.arange(12) % 3
    resampler = Resampler(np.arange(12), 30)
    right, same = (Estimates(labels, np.eye(3)[called], resampler, ranked=()) for called in (labels, 0 * labels))
    for name in ("cohen_kappa", "log_loss"):
        found = paired.difference(BY_NAME[name], right, right)
        assert (found.value, found.low, found.high) == (0, 0, 0), name
    kappa = paired.difference(BY_NAME["cohen_kappa"], right, same)
    assert kappa.value == 1
    assert np.isnan([kappa.low, kappa.high]).all()
    lost = paired.mean_of_groups(np.full(12, 0.3), np.ones(12))
    assert lost.value == pytest.approx(0.3)
    assert np.isnan([lost.low, lost.high]).all()
    # The losses of the other vary, and so does the difference.
    assert paired.difference(BY_NAME["log_loss"], right, same).low < -10


def test_answers_to_other_images_are_refused() -> None:
    labels, (one, other) = two_models(0, 30)
    estimates = [Estimates(labels, answer, Resampler(np.arange(60), 5)) for answer in (one, other)]
    with pytest.raises(ValueError, match="same images"):
        paired.difference(BY_NAME["accuracy"], *estimates)
