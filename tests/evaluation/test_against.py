from skin.evaluation import against, seen
from skin.evaluation.against import Other, conclusion, delong_p_value, mcnemar, order_of
from skin.evaluation.answers import Predictions
from skin.evaluation.intervals import Estimate, Resampler
from skin.evaluation.report import build
from skin.evaluation.verdict import verdict
from skin.model import calibration
from skin.utils.errors import UserError

import numpy as np
import pytest
from scipy import stats


def by_hand(positives: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """DeLong's p value from all pairs, as the paper has it."""
    v10, v01 = [], []
    for scores in (one, other):
        pairs = scores[positives][:, None] - scores[~positives][None]
        wins = (pairs > 0) + 0.5 * (pairs == 0)
        v10.append(wins.mean(1))
        v01.append(wins.mean(0))
    covariance = np.cov(v10) / positives.sum() + np.cov(v01) / (~positives).sum()
    contrast = np.array([1.0, -1.0])
    z = (v10[0].mean() - v10[1].mean()) / np.sqrt(contrast @ covariance @ contrast)
    return float(2 * stats.norm.sf(abs(z)))


def test_delongs_test_is_that_of_all_pairs() -> None:
    generator = np.random.Generator(np.random.Philox(0))
    positives = np.arange(60) < 25
    one = (generator.standard_normal(60) + positives).round(1)  # with ties
    other = (one + generator.standard_normal(60)).round(1)
    expected = by_hand(positives, one, other)
    assert 0.001 < expected < 0.9
    assert delong_p_value(positives, one, other, np.arange(60)) == pytest.approx(expected)


def test_delongs_variance_is_exact_up_to_the_number_of_groups() -> None:
    """With the factor m / (m - 1) of the covariance, and no common groups, the two sides add up to DeLong's."""
    positives = np.array([True, True, True, False, False])
    one, other = np.array([5.0, 3.0, 2.0, 4.0, 1.0]), np.array([1.0, 5.0, 2.0, 3.0, 4.0])
    assert delong_p_value(positives, one, other, np.arange(5)) == pytest.approx(by_hand(positives, one, other))


def test_copies_of_an_image_do_not_make_a_difference_surer() -> None:
    generator = np.random.Generator(np.random.Philox(1))
    positives = np.arange(40) < 20
    one = generator.standard_normal(40) + positives
    other = one + generator.standard_normal(40)
    alone = delong_p_value(positives, one, other, np.arange(40))
    thrice = [np.repeat(values, 3) for values in (positives, one, other, np.arange(40))]
    assert delong_p_value(*thrice) == pytest.approx(alone)
    assert delong_p_value(*thrice[:3], np.arange(120)) < alone  # as if they were 120 lesions


def test_equal_rankings_and_single_lesions() -> None:
    positives = np.array([True, True, False, False])
    scores = np.array([0.9, 0.4, 0.5, 0.1])
    assert delong_p_value(positives, scores, 2 * scores, np.arange(4)) == 1
    assert delong_p_value(positives, scores, scores[::-1], np.array([0, 0, 1, 1])) is None
    assert delong_p_value(np.ones(4, bool), scores, scores, np.arange(4)) is None


def test_mcnemars_test_is_a_coin_thrown_for_each_image_that_one_model_alone_has_right() -> None:
    ours = np.array([True] * 9 + [False] * 3)
    others = np.array([False] * 6 + [True] * 4 + [False] * 2)
    found = mcnemar(ours, others, Resampler(np.arange(12), 2))
    # 6 against 1: P(6 or 7 of 7, or 0 or 1) = 2 * (7 + 1) / 2**7.
    assert (found.this_alone, found.other_alone, found.p_value) == (6, 1, pytest.approx(0.125))
    assert mcnemar(ours, ours, Resampler(np.arange(12), 2)).p_value == 1
    shared = mcnemar(ours, others, Resampler(np.arange(12) // 2, 2))
    assert shared.p_value is None
    assert "several images show one lesion" in str(shared.reason)


def test_classes_are_matched_by_name_and_put_in_order() -> None:
    order = order_of(("mel", "nv", "bcc"), ("BCC", "melanoma", "nevus"), "b.pt")
    assert order == [1, 2, 0]
    assert against.renumbered(order, np.array([0, 1, 2, 0])).tolist() == [2, 0, 1, 2]  # bcc, mel, nv, bcc
    for others in (("mel", "nv"), ("mel", "nv", "bcc", "vasc"), ("mel", "nv", "akiec")):
        with pytest.raises(UserError, match=r"--against b.pt: its classes .* only models of the same classes"):
            order_of(("mel", "nv", "bcc"), others, "b.pt")


def test_a_sentence_says_what_may_be_concluded() -> None:
    better = conclusion(Estimate(0.03, 0.01, 0.05), 1000)
    assert better.startswith("This model has the higher balanced accuracy, by 0.030 (95 % interval 0.010 to 0.050)")
    assert conclusion(Estimate(-0.03, -0.05, -0.01), 1000) == better.replace("This", "The other")
    unknown = conclusion(Estimate(0.01, -0.01, 0.03), 1000)
    assert "1,000 images do not tell" in unknown
    assert "anything from \N{MINUS SIGN}0.010 to +0.030" in unknown
    same = "The balanced accuracy of both models is the same on these 9 images, lesion by lesion."
    assert conclusion(Estimate(0.0, 0.0, 0.0), 9) == same  # their wrong answers may differ
    assert "too few" in conclusion(Estimate(0.1, np.nan, np.nan), 1)


def test_a_comparison_is_called_unfair_once_with_the_facts_on_either_model() -> None:
    assert seen.unfair(["a", "b", seen.UNTOLD], ["c"]) == (
        "This comparison is not fair. This model: a; b. The other model: c.",
        f"Whether this comparison is fair is not known. This model: {seen.UNTOLD}.",
    )
    assert seen.unfair([], []) == ()


def test_the_other_is_measured_by_what_it_calls() -> None:
    generator = np.random.Generator(np.random.Philox(3))
    labels, logits = generator.integers(0, 3, 90), generator.standard_normal((90, 3))
    unfair = seen.unfair([], ["90 of 90 images were TRAINED ON", "9 show lesions of val"])
    other = Other("b/best.pt", "0" * 64, "b0", calibration.softmax(logits), called=labels, unfair=unfair)
    answers = Predictions(("mel", "nv", "bcc"), labels, logits, np.zeros(90), np.arange(90), {}, other=other)
    made = build(answers, rounds=5)
    assert made.against is not None
    assert made.against.overall.before["accuracy"].value == 1
    said = "This comparison is not fair. The other model: 90 of 90 images were TRAINED ON; 9 show lesions of val"
    assert made.against.conclusion.endswith(f"{said}.")
    assert f"Against b/best.pt: {said}" in verdict(made).reasons
    assert made.against.overall.before["log_loss"] == made.metrics["log_loss"]


def test_the_report_compares_every_metric_in_pairs() -> None:
    generator = np.random.Generator(np.random.Philox(2))
    labels = generator.integers(0, 4, 300)
    logits = generator.standard_normal((300, 4))
    logits[np.arange(300), labels] += 1.5
    worse = calibration.softmax(logits + generator.standard_normal((300, 4)))
    predictions = Predictions(
        ("mel", "nv", "bcc", "df"), labels, logits, np.zeros(300), np.arange(300) // 2, {},
        other=Other("other/best.pt", "0" * 64, "efficientnet_b0", worse),
    )  # fmt: skip
    made = build(predictions, rounds=200)
    assert made.against is not None
    assert made.against.overall.after == made.metrics
    assert made.malignant is not None
    assert made.against.malignant is not None
    assert made.against.malignant.after == made.malignant.metrics
    accuracy = made.against.overall.difference["accuracy"]
    assert accuracy.value == pytest.approx((logits.argmax(1) == labels).mean() - (worse.argmax(1) == labels).mean())
    assert made.against.overall.difference["macro_auc"].low > 0
    assert made.against.delong is not None
    assert made.against.delong.p_value is not None
    assert made.against.delong.p_value < 0.05
    assert made.against.conclusion.startswith("This model has the higher balanced accuracy")
    assert against.DECIDES in made.against.overall.difference
