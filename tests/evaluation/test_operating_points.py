from skin.evaluation import operating_points, prevalence
from skin.evaluation.intervals import Estimate, Resampler
from skin.evaluation.operating_points import Target
from skin.evaluation.options import EvaluateOptions, check, parse_prevalence
from skin.utils.errors import UserError

import numpy as np
import pytest
import torch

POSITIVES = np.array([1, 1, 1, 0, 1, 0, 0, 0], bool)
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
ALONE = np.arange(8)  # each image is of a lesion of its own


def fitted(labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray | None = None) -> dict:
    """A calibration that keeps these answers, and leaves them as they are."""
    return {
        "images": len(labels),
        "temperature": 1.0,
        "answers": {
            "logits": torch.from_numpy(np.log(probabilities).astype(np.float32)),
            "labels": torch.from_numpy(labels.astype(np.int64)),
            "groups": torch.from_numpy(np.arange(len(labels)) if groups is None else groups),
        },
    }


def random_answers(seed: int, size: int, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.Generator(np.random.Philox(seed))
    labels = (generator.random(size) < share).astype(int)
    risk = 1 / (1 + np.exp(-generator.standard_normal(size) - 2 * labels + 1))
    return labels, np.stack([1 - risk, risk], 1)


TARGET = Target("malignant", np.array([False, True]))


# ---- thresholds ---------------------------------------------------------------------------------------------


def test_threshold_of_a_sensitivity_by_hand() -> None:
    # Nineteen positives with scores 0.05 .. 0.95: floor(20 * 0.1) = 2, the second smallest; floor(20 * 0.05) = 1.
    positives, scores = np.r_[np.ones(19, bool), np.zeros(3, bool)], np.r_[np.arange(1, 20) * 0.05, [0.1, 0.2, 0.9]]
    lesions = np.arange(22)
    assert operating_points.at_sensitivity(positives, scores, lesions, 0.90) == pytest.approx(0.10)
    assert operating_points.at_sensitivity(positives, scores, lesions, 0.95) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="19 lesions or patients are too few"):
        operating_points.at_sensitivity(positives, scores, lesions, 0.96)


def test_threshold_of_a_sensitivity_counts_a_lesion_once_whatever_its_images() -> None:
    # Ten lesions, one of fifty images: 11 * 0.1 - 1 = 0.1 lesions may be below, five of the fifty images.
    lesions, every = np.r_[np.zeros(50, int), np.arange(1, 10)], np.ones(59, bool)
    below = np.r_[np.arange(50) / 100, np.linspace(0.6, 0.9, 9)]
    assert operating_points.at_sensitivity(every, below, lesions, 0.9) == 0.05
    above = np.r_[np.arange(50) / 1000 + 0.9, np.linspace(0.1, 0.8, 9)]
    assert operating_points.at_sensitivity(every, above, lesions, 0.9) == 0.1


def test_new_positives_reach_the_threshold_as_often_as_promised() -> None:
    generator = np.random.Generator(np.random.Philox(0))
    reached = []
    for _ in range(4000):
        scores = generator.random(25)
        reached.append(1 - operating_points.at_sensitivity(np.ones(25, bool), scores, np.arange(25), 0.9))
    assert 0.9 <= np.mean(reached) < 0.93  # floor(26 * 0.1) = 2: 1 - 2/26 = 0.923


def test_new_lesions_reach_the_threshold_as_often_as_promised_if_some_have_many_images() -> None:
    generator = np.random.Generator(np.random.Philox(0))
    reached = []
    for _ in range(1000):
        images = np.minimum(np.ceil(generator.pareto(1, 15)).astype(int), 100)
        lesions = np.repeat(np.arange(15), images)
        scores = generator.random(15)[lesions]
        reached.append(1 - operating_points.at_sensitivity(np.ones(len(scores), bool), scores, lesions, 0.9))
    assert 0.9 <= np.mean(reached) < 0.95  # the lowest of the fifteen: 1 - 1/16 = 0.938


def test_youden_by_hand() -> None:
    # At 0.7: sensitivity 3/4, no false positive; at 0.5: 1 less 1/4. Of equals, the lower.
    assert operating_points.best_by(1, 1)(POSITIVES, SCORES, ALONE) == 0.5
    assert operating_points.best_by(1, 1)(POSITIVES, np.where(SCORES == 0.5, 0.45, SCORES), ALONE) == 0.45


def test_youden_and_the_costs_count_a_lesion_once_whatever_its_images() -> None:
    # Three images of the negative at 0.6 would outweigh the positive at 0.5, if they were three lesions.
    positives, scores, lesions = (np.r_[each, each[3], each[3]] for each in (POSITIVES, SCORES, ALONE))
    assert operating_points.best_by(1, 1)(positives, scores, np.arange(10)) == 0.7
    assert operating_points.best_by(1, 1)(positives, scores, lesions) == 0.5
    assert operating_points.least_cost(positives, scores, np.arange(10), 2.0) == 0.7
    assert operating_points.least_cost(positives, scores, lesions, 2.0) == 0.5


@pytest.mark.parametrize(
    ("cost_ratio", "expected"),
    [
        (0.5, 0.7),  # a miss costs half a false alarm: 1 miss is 0.5, and none costs a false alarm of 1
        (2.0, 0.5),  # none missed for 1 false alarm
        (1000.0, 0.5),
    ],
)
def test_least_cost_by_hand(cost_ratio: float, expected: float) -> None:
    assert operating_points.least_cost(POSITIVES, SCORES, ALONE, cost_ratio) == expected


@pytest.mark.parametrize("cost_ratio", [0.01, 0.3, 1.0, 4.0, 25.0])
def test_no_threshold_costs_less(cost_ratio: float) -> None:
    labels, probabilities = random_answers(3, 200)
    positives, scores = labels == 1, probabilities[:, 1]
    chosen = operating_points.least_cost(positives, scores, np.arange(200), cost_ratio)

    def cost(threshold: float) -> float:
        called = scores >= threshold
        return cost_ratio * (positives & ~called).sum() + (~positives & called).sum()

    assert cost(chosen) == pytest.approx(min(cost(threshold) for threshold in [*scores, 2.0]))


def test_if_a_false_alarm_costs_too_much_nothing_is_called() -> None:
    labels, probabilities = random_answers(3, 200)
    probabilities[0] = [0, 1]  # a score of 1, and it is benign
    labels[0] = 0
    threshold = operating_points.least_cost(labels == 1, probabilities[:, 1], np.arange(200), 1e-9)
    assert (probabilities[:, 1] < threshold).all()


def test_a_target_without_a_threshold_takes_none_of_another() -> None:
    labels, probabilities = random_answers(0, 150)
    benign = Target("benign", np.array([True, False]))
    choices = operating_points.choose(fitted(labels, probabilities), [TARGET], None)
    of_none = {(benign.name, rule): operating_points.Choice(None, reason="too few") for _, rule in choices}

    def points(choices: dict, *targets: Target) -> dict:
        return operating_points.apply(choices, list(targets), labels, probabilities, Resampler(np.arange(150), 50))()

    both, alone = points(of_none | choices, benign, TARGET), points(choices, TARGET)
    assert both[TARGET.name] == alone[TARGET.name]
    assert {(point.threshold, len(point.metrics)) for point in both[benign.name].values()} == {(None, 0)}


def test_points_are_chosen_on_validation_and_measured_on_the_set() -> None:
    labels, probabilities = random_answers(0, 150)
    choices = operating_points.choose(fitted(labels, probabilities), [TARGET], 3.0)
    assert [rule for _, rule in choices] == ["sensitivity_90", "sensitivity_95", "youden", "cost_ratio"]
    new_labels, new = random_answers(1, 80)
    groups = np.arange(80) // 2
    points = operating_points.apply(choices, [TARGET], new_labels, new, Resampler(groups, 200))()["malignant"]
    for (_, rule), choice in choices.items():
        assert choice.threshold is not None
        assert choice.validation is not None
        on_validation = probabilities[:, 1] >= choice.threshold - 1e-7  # the checkpoint keeps float32
        assert choice.validation.sensitivity == pytest.approx(on_validation[labels == 1].mean())
        assert choice.validation.specificity == pytest.approx(1 - on_validation[labels == 0].mean())
        called, point = new[:, 1] >= choice.threshold, points[rule]
        expected = {
            "sensitivity": called[new_labels == 1].mean(), "specificity": (~called)[new_labels == 0].mean(),
            "ppv": (new_labels == 1)[called].mean(), "npv": (new_labels == 0)[~called].mean(),
        }  # fmt: skip
        for name, value in expected.items():
            found = point.metrics[name]
            assert found.value == pytest.approx(value), (rule, name)
            assert found.low < value < found.high or value in (0, 1)
    assert choices["malignant", "sensitivity_90"].validation.sensitivity >= 0.9  # type: ignore[union-attr]
    assert choices["malignant", "sensitivity_95"].threshold < choices["malignant", "sensitivity_90"].threshold  # type: ignore[operator]


def test_too_few_in_validation_give_no_threshold_and_say_why() -> None:
    labels, probabilities = random_answers(0, 60)
    few = labels.copy()
    few[np.flatnonzero(labels)[12:]] = 0
    choices = operating_points.choose(fitted(few, probabilities), [TARGET], None)
    assert choices["malignant", "sensitivity_90"].threshold is not None
    none = choices["malignant", "sensitivity_95"]
    assert none.threshold is None
    assert none.reason == "12 lesions or patients with it in validation, 19 are needed"
    points = operating_points.apply(choices, [TARGET], labels, probabilities, Resampler(np.arange(60), 20))()
    assert points["malignant"]["sensitivity_95"].metrics == {}

    # Images of one lesion say no more than one.
    lesions = np.where(labels == 1, np.arange(60) % 5, np.arange(60))
    choices = operating_points.choose(fitted(labels, probabilities, lesions), [TARGET], None)
    assert choices["malignant", "youden"].reason == "5 lesions or patients with it in validation, 10 are needed"
    choices = operating_points.choose(fitted(1 - few, probabilities), [TARGET], None)
    assert "12 lesions or patients without" not in str(choices["malignant", "youden"].reason)
    nothing = operating_points.choose(fitted(np.ones(60), probabilities), [TARGET], None)
    assert nothing["malignant", "youden"].reason == "0 lesions or patients without it in validation, 10 are needed"
    assert operating_points.choose({"images": 5, "temperature": 1.0}, [TARGET], None) == {}


# ---- prevalence ---------------------------------------------------------------------------------------------

CLASSES = ("mel", "bcc", "nv", "bkl")
IS_MALIGNANT = np.array([True, True, False, False])


def shares(stated: dict[str, float]) -> list[tuple[str, float]]:
    found = prevalence.parts(stated, CLASSES, IS_MALIGNANT)
    return [
        ("+".join(c for c, m in zip(CLASSES, part.members, strict=True) if m), round(part.prevalence, 9))
        for part in found
    ]


def test_the_rest_shares_what_is_left() -> None:
    assert shares({"mel": 0.02}) == [("mel", 0.02), ("bcc+nv+bkl", 0.98)]
    assert shares({"melanoma": 0.02, "NV": 0.9}) == [("mel", 0.02), ("nv", 0.9), ("bcc+bkl", 0.08)]
    assert shares({"malignant": 0.03}) == [("mel+bcc", 0.03), ("nv+bkl", 0.97)]
    assert shares({"mel": 0.01, "malignant": 0.03}) == [("mel", 0.01), ("bcc", 0.02), ("nv+bkl", 0.97)]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"psoriasis": 0.1}, "--prevalence psoriasis: the model has no such class; it has mel, bcc, nv, bkl"),
        ({"mel": 0.5, "nv": 0.6}, "add up to more than 1"),
        ({"mel": 0.05, "malignant": 0.03}, "of the malignant classes add up to more than 0.03"),
        ({"nv": 0.9, "malignant": 0.3}, "of the benign classes add up to more than 0.7"),
        ({"mel": 0.1, "bcc": 0.1, "nv": 0.1, "bkl": 0.1}, "add up to less than 1, and no class is left"),
        ({"mel": 0.1, "melanoma": 0.2}, "names a class twice"),
    ],
)
def test_a_prevalence_that_cannot_be_is_one_line(stated: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        prevalence.parts(stated, CLASSES, IS_MALIGNANT)


def test_malignant_needs_classes_that_are_known_as_such() -> None:
    with pytest.raises(UserError, match="name the classes instead"):
        prevalence.parts({"malignant": 0.03}, ("mel", "acne"), None)
    two = prevalence.parts({"malignant": 0.03}, ("benign", "malignant"), np.array([False, True]))
    assert [part.prevalence for part in two] == [0.03, 0.97]
    with pytest.raises(UserError, match=r"the set has no image of mel, whose share is 0.1"):
        prevalence.of_set({"mel": 0.1}, CLASSES, np.array([1, 2, 3, -1]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mel", "write CLASS=P"),
        ("mel=often", "write CLASS=P"),
        ("mel=0", "above 0 and below 1"),
        ("mel=1.5", "above 0 and below 1"),
        ("mel=nan", "above 0 and below 1"),
        ("mel=0.1,mel=0.2", "names mel twice"),
        ("mel=0.7,nv=0.6", "add up to more than 1"),
    ],
)
def test_a_prevalence_that_cannot_be_read_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(EvaluateOptions(prevalence=text))


def test_a_prevalence_is_read() -> None:
    assert parse_prevalence(" mel=0.02, a=b=0.5 ") == {"mel": 0.02, "a=b": 0.5}
    assert parse_prevalence("") is None
    check(EvaluateOptions(prevalence="mel=0.02,malignant=0.99", cost_ratio=20))


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("inf"), float("nan")])
def test_a_cost_ratio_that_is_none_is_refused(ratio: float) -> None:
    with pytest.raises(UserError, match=r"--cost-ratio .* must be above 0"):
        check(EvaluateOptions(cost_ratio=ratio))


def test_ppv_and_npv_by_bayes() -> None:
    # A test of 90 % sensitivity and 80 % specificity at 2 %: 18 of 18 + 196 in a thousand, 784 of 784 + 2.
    found = prevalence.predictive_values(Estimate(0.9, 0.8, 0.95), Estimate(0.2, 0.15, 0.26), 0.02).metrics
    assert found["ppv"].value == pytest.approx(18 / (18 + 196))
    assert found["npv"].value == pytest.approx(784 / (784 + 2))
    assert found["specificity"] == Estimate(0.8, pytest.approx(0.74), pytest.approx(0.85))
    assert found["ppv"].low < found["ppv"].value < found["ppv"].high
    # The ends of the rates, all in the worst and the best case, lie outside.
    assert found["ppv"].low > 0.02 * 0.8 / (0.02 * 0.8 + 0.98 * 0.26)
    assert found["ppv"].high < 0.02 * 0.95 / (0.02 * 0.95 + 0.98 * 0.15)


def test_ratio_by_the_paper() -> None:
    # Donner and Zou (2012): with x1 = 0.4 (0.3 to 0.5) and x2 = 0.8 (0.7 to 0.9), by their formula written out.
    found = prevalence.ratio(Estimate(0.4, 0.3, 0.5), Estimate(0.8, 0.7, 0.9))
    low = (0.32 - np.sqrt(0.32**2 - 0.3 * 0.9 * 0.5 * 0.7)) / (0.9 * 0.7)
    high = (0.32 + np.sqrt(0.32**2 - 0.5 * 0.7 * 0.3 * 0.9)) / (0.7 * 0.9)
    assert (found.value, found.low, found.high) == (pytest.approx(0.5), pytest.approx(low), pytest.approx(high))
    none = prevalence.ratio(Estimate(0.0, 0.0, 0.1), Estimate(0.8, 0.7, 0.9))
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(0.1 / np.sqrt(0.7 * 0.9))
    endless = prevalence.ratio(Estimate(0.4, 0.3, 0.5), Estimate(0.0, 0.0, 0.1))
    assert (endless.value, endless.high) == (np.inf, np.inf)
    assert np.isfinite(endless.low)
    assert np.isnan(prevalence.ratio(Estimate(0, 0, 0.1), Estimate(0, 0, 0.1)).value)


def test_intervals_of_ppv_hold_the_truth() -> None:
    generator = np.random.Generator(np.random.Philox(0))
    truth, hits = 0.02 * 0.85 / (0.02 * 0.85 + 0.98 * 0.1), 0
    for seed in range(150):
        called = np.r_[generator.random(40) < 0.85, generator.random(160) < 0.1]
        labels = np.r_[np.ones(40, int), np.zeros(160, int)]
        stated = prevalence.of_set({"malignant": 0.02}, ("benign", "malignant"), labels)
        found = prevalence.at_prevalence(
            stated, [TARGET], {("malignant", "label"): called}, labels, Resampler(np.arange(200), 200, seed)
        )()["malignant"].called["label"].metrics["ppv"]
        hits += found.low <= truth <= found.high
    assert 0.9 <= hits / 150 <= 0.99


def test_several_prevalences_weigh_the_false_alarms_of_each_class() -> None:
    # Ten images of each class. Called mel: 8 of mel, 4 of bcc, 1 of nv, 0 of bkl.
    labels = np.repeat(np.arange(4), 10)
    called = np.concatenate([np.arange(10) < hits for hits in (8, 4, 1, 0)])
    stated = {"mel": 0.1, "bcc": 0.1, "nv": 0.7}
    targets = [Target(name, np.arange(4) == c) for c, name in enumerate(CLASSES)]
    targets.append(Target("malignant", IS_MALIGNANT))
    hits = {(target.name, "label"): called for target in targets}
    parts = prevalence.of_set(stated, CLASSES, labels)
    found = prevalence.at_prevalence(parts, targets, hits, labels, Resampler(np.arange(40), 50))()
    assert found["mel"].called["label"].metrics["ppv"].value == pytest.approx(0.08 / (0.08 + 0.04 + 0.07))
    assert found["mel"].called["label"].metrics["specificity"].value == pytest.approx(1 - 0.11 / 0.9)
    assert found["malignant"].prevalence == pytest.approx(0.2)
    assert found["malignant"].called["label"].metrics["sensitivity"].value == pytest.approx(0.6)
    assert found["malignant"].called["label"].metrics["ppv"].value == pytest.approx(0.12 / (0.12 + 0.07))
    # Of bkl the rest is left, 0.1, and no image of it is called.
    assert found["bkl"].prevalence == pytest.approx(0.1)
    alone = prevalence.at_prevalence(
        prevalence.of_set({"mel": 0.1}, CLASSES, labels), targets, hits, labels, Resampler(np.arange(40), 50)
    )()
    assert list(alone) == ["mel"]  # nothing is known of the others
    assert alone["mel"].called["label"].metrics["specificity"].value == pytest.approx(25 / 30)
