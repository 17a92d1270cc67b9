from skin.evaluation.intervals import Resampler
from skin.evaluation.reliability import reliability

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression


def answers(seed: int, lesions: int, slope: float = 1.0, intercept: float = 0.0) -> tuple[np.ndarray, ...]:
    """Events, what was said of them, and lesions of two images; the truth is `intercept + slope * said`."""
    generator = np.random.Generator(np.random.Philox(seed))
    said = np.repeat(1.5 * generator.standard_normal(lesions), 2) + 0.3 * generator.standard_normal(2 * lesions)
    event = np.repeat(generator.random(lesions), 2) < expit(intercept + slope * said)
    return event, expit(said), np.repeat(np.arange(lesions), 2)


def test_slope_and_intercept_are_those_of_a_logistic_regression() -> None:
    event, probabilities, lesions = answers(0, 300, slope=0.6, intercept=0.4)
    found = reliability(event, probabilities, Resampler(lesions))
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(probabilities)[:, None], event)
    assert found.slope.value == pytest.approx(fitted.coef_[0, 0], rel=1e-5)
    # The intercept alone: as many events are expected as there are.
    assert expit(logit(probabilities) + found.intercept.value).sum() == pytest.approx(event.sum(), rel=1e-9)


def test_their_intervals_are_those_of_a_jackknife_over_lesions() -> None:
    event, probabilities, lesions = answers(1, 60)
    found = reliability(event, probabilities, Resampler(lesions))
    for name in ("slope", "intercept"):
        without = []
        for lesion in range(60):
            rows = lesions != lesion
            of_rest = reliability(event[rows], probabilities[rows], Resampler(lesions[rows]))
            without.append(getattr(of_rest, name).value)
        deviation = np.sqrt(np.sum((np.array(without) - getattr(found, name).value) ** 2) * 59 / 60)
        fewest = min(len(np.unique(lesions[event])), len(np.unique(lesions[~event])))
        half = {26: 2.060, 27: 2.056, 28: 2.052, 29: 2.048, 30: 2.045, 31: 2.042, 32: 2.040, 33: 2.037}[fewest]
        estimate = getattr(found, name)
        assert (estimate.high - estimate.low) / 2 == pytest.approx(half * deviation, rel=0.05)


def test_a_model_that_is_too_sure_has_a_slope_below_one() -> None:
    event, probabilities, lesions = answers(2, 5000, slope=0.5, intercept=1.0)
    found = reliability(event, probabilities, Resampler(lesions))
    assert found.slope.low < 0.5 < found.slope.high < 1
    assert found.intercept.low > 0


def test_bins_are_counted_by_hand() -> None:
    event = np.array([True, False, True, True, False])
    found = reliability(event, np.array([0.05, 0.1, 0.95, 0.91, 0.11]), Resampler(np.arange(5)))
    assert [(b.above, b.up_to, b.images) for b in found.bins] == [(0, 0.1, 2), (0.1, 0.2, 1), (0.9, 1, 2)]
    assert [b.observed.value for b in found.bins] == [0.5, 0, 1]
    assert found.bins[2].mean_probability == pytest.approx(0.93)
    # Wilson's interval of 2 of 2.
    assert found.bins[2].observed.low == pytest.approx(1 / (1 + 1.959964**2 / 2), rel=1e-6)


def test_two_images_of_a_lesion_say_less_than_two_lesions() -> None:
    event, probabilities, lesions = answers(3, 200)
    honest = reliability(event, probabilities, Resampler(lesions))
    naive = reliability(event, probabilities, Resampler(np.arange(400)))
    for name in ("slope", "intercept"):
        one, other = getattr(honest, name), getattr(naive, name)
        assert one.value == other.value
        assert one.high - one.low > 1.2 * (other.high - other.low)
    assert honest.bins[4].observed.low < naive.bins[4].observed.low


@pytest.mark.parametrize("events", [0, 1, 5, 50])
def test_what_cannot_be_fitted_is_not_available(events: int) -> None:
    event = np.arange(50) < events
    # Five events are separated from all else, so that no slope is steep enough.
    probabilities = np.where(event, 0.8, 0.2) if events == 5 else np.linspace(0.9, 0.1, 50)
    found = reliability(event, probabilities, Resampler(np.arange(50)))
    assert np.isnan([found.slope.low, found.slope.high, found.intercept.low, found.intercept.high]).all()
    if events != 1:
        assert np.isnan(found.slope.value)
    assert sum(b.images for b in found.bins) == 50
