import io
import subprocess
import sys

from skin.model import calibration
from skin.utils.errors import UserError

import numpy as np
import pytest
import torch


def logits_of(labels: np.ndarray, seed: int, classes: int = 3, strength: float = 1.5) -> np.ndarray:
    """Logits whose softmax is the true probability of each class: log p of a Gaussian mixture."""
    generator = np.random.Generator(np.random.Philox(seed))
    points = generator.standard_normal((len(labels), classes))
    points[np.arange(len(labels)), labels] += strength
    return strength * points


def draw_labels(seed: int, size: int, shares: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).choice(len(shares), size, p=shares)


def features_of(labels: np.ndarray, seed: int, size: int = 64) -> np.ndarray:
    """Pooled features: positive, around a mean a class, with some directions wider than the rest."""
    generator = np.random.Generator(np.random.Philox(seed))
    spread = np.linspace(1.0, 0.05, size)
    return (4 + 2 * np.eye(size)[labels] + spread * generator.standard_normal((len(labels), size))).astype(np.float32)


def fitted(seed: int = 0, size: int = 1500, **keywords: object) -> dict:
    labels = draw_labels(seed, size, **keywords)  # type: ignore[arg-type]
    classes = int(labels.max()) + 1
    return calibration.fit(logits_of(labels, seed, classes), labels, features_of(labels, seed))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_temperature_undoes_a_scaling_of_the_logits(temperature: float) -> None:
    labels = draw_labels(0, 20_000)
    found = calibration.fit(temperature * logits_of(labels, 1), labels, features_of(labels, 2))["temperature"]
    assert found == pytest.approx(temperature, rel=0.03)


def test_temperature_of_a_handful_that_is_all_right_stays_sane() -> None:
    labels = np.arange(3)
    found = calibration.fit(10 * np.eye(3), labels, features_of(labels, 0))["temperature"]
    assert 0.5 < found < 2


SHARES = np.array([0.9, 0.07, 0.03])


def leaning_set(seed: int, size: int, lean: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits twice too large of a network trained under class weights `1 / share ** lean`, and labels.

    The true log probability of class c is, up to a constant, `1.5 * points[c] + log(share)`.
    """
    labels = draw_labels(seed, size, tuple(SHARES))
    return 2 * (logits_of(labels, seed + 1) + (1 - lean) * np.log(SHARES)), labels


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


def test_biases_undo_class_weights_and_give_the_true_probabilities() -> None:
    logits, labels = leaning_set(0, 4000, lean=1.0)
    made = calibration.fit(logits, labels, features_of(labels, 0))
    assert made["temperature"] == pytest.approx(2, rel=0.1)
    assert np.ptp(np.array(made["biases"]) - np.log(SHARES)) < 0.25  # equal up to a constant
    assert made["cross_validation"]["biases"] < made["cross_validation"]["temperature"]

    logits, labels = leaning_set(10, 20_000, lean=1.0)
    found = calibration.probabilities_of(made, logits)
    truth = calibration.softmax(logits / 2 + np.log(SHARES))
    assert log_loss(found, labels) == pytest.approx(log_loss(truth, labels), abs=0.003)
    assert log_loss(found, labels) < log_loss(calibration.softmax(logits, made["temperature"]), labels) - 0.2
    np.testing.assert_allclose(found.mean(0), SHARES, atol=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_biases_that_chance_alone_would_choose_are_not_taken(seed: int) -> None:
    logits, labels = leaning_set(seed, 300, lean=0.0)
    made = calibration.fit(logits, labels, features_of(labels, 0))
    assert made["biases"] == [0, 0, 0]
    assert made["temperature"] == calibration._fit_temperature(logits, labels)


def test_copies_of_an_image_are_no_reason_for_biases() -> None:
    logits, labels = leaning_set(3, 25, lean=0.6)
    copies = [np.repeat(values, 40, axis=0) for values in (logits, labels)]
    lesions = np.repeat(np.arange(25), 40)
    of_images = calibration.fit(*copies, features_of(copies[1], 0))
    of_lesions = calibration.fit(*copies, features_of(copies[1], 0), lesions)
    assert any(of_images["biases"])
    assert not any(of_lesions["biases"])


def test_the_biases_are_where_the_slope_is_zero() -> None:
    logits, labels = leaning_set(1, 200, lean=1.0)
    temperature, biases = calibration._fit_biases(logits, labels)
    excess = calibration.softmax(logits, temperature, biases) - np.eye(3)[labels]
    np.testing.assert_allclose(excess.sum(0) + biases, 0, atol=0.02)
    assert (excess * logits).sum() / temperature == pytest.approx(np.log(temperature), abs=0.05)


def test_a_class_without_images_gets_a_bias_that_is_finite() -> None:
    logits, labels = leaning_set(2, 300, lean=1.0)
    keep = labels != 2
    made = calibration.fit(logits[keep], labels[keep], features_of(labels[keep], 0))
    assert np.isfinite(made["biases"]).all()
    assert min(made["mean_probabilities"]) > 0


def test_label_ranking_and_set_never_contradict_each_other() -> None:
    logits, labels = leaning_set(4, 2000, lean=1.0)
    made = calibration.fit(logits, labels, features_of(labels, 0))
    assert any(made["biases"])
    assert made["decision"] == "most probable"
    said = calibration.apply(made, logits, features_of(labels, 1))
    label = said.probabilities.argmax(1)
    assert said.sets[np.arange(len(label)), label].all()
    assert (label != logits.argmax(1)).any(), "the biases must change an answer for this to be a test"


def test_the_balanced_rule_has_the_better_mean_sensitivity_and_the_other_the_better_accuracy() -> None:
    logits, labels = leaning_set(5, 4000, lean=0.5)
    made = calibration.fit(logits, labels, features_of(labels, 0))
    logits, labels = leaning_set(20, 20_000, lean=0.5)
    probabilities = calibration.probabilities_of(made, logits)
    balanced, usual = calibration.balanced(made, probabilities), probabilities.argmax(1)
    assert balanced is not None

    def mean_sensitivity(called: np.ndarray) -> float:
        return float(np.mean([(called[labels == c] == c).mean() for c in range(3)]))

    assert mean_sensitivity(balanced) > mean_sensitivity(usual) + 0.1
    assert (usual == labels).mean() > (balanced == labels).mean() + 0.05
    # What no rule can beat: the class whose share is divided out of the true probability.
    best = calibration.softmax(logits / 2 + 0.5 * np.log(SHARES)) / SHARES
    assert mean_sensitivity(balanced) == pytest.approx(mean_sensitivity(best.argmax(1)), abs=0.01)
    assert calibration.balanced({"images": 1, "temperature": 1.0}, probabilities) is None


def test_a_model_calls_by_its_rule_and_its_sets_hold_what_it_calls() -> None:
    logits, labels = leaning_set(5, 20_000, lean=0.5)
    usual, made = (calibration.fit(logits, labels, features_of(labels, 0), rule=rule) for rule in calibration.RULES)
    assert [calibration.rule_of(it) for it in (usual, made, {})] == ["most probable", "balanced", "most probable"]
    logits, labels = leaning_set(20, 20_000, lean=0.5)
    features = features_of(labels, 1)
    said, by_usual = calibration.apply(made, logits, features), calibration.apply(usual, logits, features)
    np.testing.assert_array_equal(said.called, calibration.balanced(usual, by_usual.probabilities))
    np.testing.assert_array_equal(by_usual.called, by_usual.probabilities.argmax(1))
    np.testing.assert_array_equal(said.probabilities, by_usual.probabilities)
    assert (said.called != by_usual.called).mean() > 0.05, "the rules must differ for this to be a test"
    for sets, promised in ((said.sets, 0.90), (said.sets_95, 0.95)):
        for c in range(3):
            always = (said.called == c) | (said.probabilities.argmax(1) == c)
            assert sets[always, c].all()
            right = always[labels == c].mean()
            assert sets[labels == c, c].mean() == pytest.approx(max(promised, right), abs=0.03)


def test_the_answers_of_the_validation_images_are_kept() -> None:
    labels = draw_labels(0, 30)
    logits = logits_of(labels, 0)
    lesions = np.array([f"lesion {i // 2}" for i in range(30)])
    answers = calibration.fit(logits, labels, features_of(labels, 0), lesions)["answers"]
    np.testing.assert_allclose(answers["logits"].numpy(), logits, rtol=1e-6)
    np.testing.assert_array_equal(answers["labels"].numpy(), labels)
    assert len(np.unique(answers["groups"].numpy())) == 15
    assert all(len(set(answers["groups"].numpy()[2 * i : 2 * i + 2].tolist())) == 1 for i in range(15))


@pytest.mark.parametrize("seed", range(8))
def test_the_larger_set_holds_the_smaller_if_more_classes_share_its_threshold(seed: int) -> None:
    """Some of these classes have 9 to 18 images: enough for a threshold of their own at 90 %, and not at 95 %."""
    sets = fitted(seed=seed, size=300, shares=(0.86, 0.05, 0.05, 0.04))["sets"]
    assert sets["90"]["shared"] != sets["95"]["shared"]
    assert (np.array(sets["95"]["thresholds"]) <= sets["90"]["thresholds"]).all()


def test_sets_hold_the_truth_for_each_class_as_often_as_promised() -> None:
    made = fitted(seed=3, size=6000, shares=(0.8, 0.15, 0.05))
    labels = draw_labels(4, 30_000, (0.8, 0.15, 0.05))
    said = calibration.apply(made, logits_of(labels, 5), features_of(labels, 6))
    label = said.probabilities.argmax(1)
    for sets, promised in ((said.sets, 0.90), (said.sets_95, 0.95)):
        for c in range(3):
            # The label is always a member: a class that is more often right than promised is covered more often.
            right = (label[labels == c] == c).mean()
            assert sets[labels == c, c].mean() == pytest.approx(max(promised, right), abs=0.025)
    assert made["sets"]["90"]["shared"] == []
    assert said.sets.any(1).all()
    assert (said.sets <= said.sets_95).all()


def test_set_threshold_by_hand() -> None:
    # Class 0, nineteen images with probabilities 0.05, 0.10 .. 0.95: floor(20 * 0.1) = 2, the second smallest.
    own = np.arange(1, 20) * 0.05
    probabilities = np.stack([own, 1 - own], 1)
    made = calibration._fit_sets(probabilities, np.zeros(19, np.int64), 0.90)
    assert made["thresholds"][0] == pytest.approx(0.10)
    assert made["shared"] == [1]
    assert made["thresholds"][1] == 0.0  # no image tells how probable class 1 is: it is in every set


def test_set_threshold_between_two_images_by_hand() -> None:
    # Fourteen images, 0.02, 0.04 .. 0.28: (14 + 1) * 0.1 = 1.5, half way from the first to the second.
    own = np.arange(1, 15) * 0.02
    made = calibration._fit_sets(np.stack([own, 1 - own], 1), np.zeros(14, np.int64), 0.90)
    assert made["thresholds"][0] == pytest.approx(0.03)


def test_images_of_one_lesion_count_as_one() -> None:
    own = np.arange(1, 20) * 0.02
    probabilities, labels = np.stack([own, 1 - own], 1), np.zeros(19, np.int64)
    alone = calibration._fit_sets(probabilities, labels, 0.90)
    copies = [np.repeat(array, 3, axis=0) for array in (probabilities, labels, np.arange(19))]
    assert calibration._fit_sets(*copies[:2], 0.90, copies[2])["thresholds"] == pytest.approx(alone["thresholds"])
    # Nine lesions are enough for 90 %; twenty-four images of eight are not.
    few = np.arange(24) % 8
    assert calibration._fit_sets(np.full((24, 2), 0.5), np.ones(24, np.int64), 0.90, few)["thresholds"] == [0.0, 0.0]


def test_scarce_classes_share_a_threshold_of_their_own() -> None:
    # Class 0 is common and easy. Classes 1 and 2, of five lesions each, are never the most probable: class 1 has half
    # the probability of class 2 everywhere. Each has its quantile of the ten, whatever class 0 does.
    scarce = np.arange(1, 6) * 0.02
    rows = [[0.9, 0.04, 0.06]] * 100
    rows += [[1 - 3 * x, x, 2 * x] for x in scarce] * 2
    labels = np.repeat([0, 1, 2], [100, 5, 5])
    made = calibration._fit_sets(np.array(rows), labels, 0.90)
    assert made["shared"] == [1, 2]
    unit = np.array(rows).mean(0)
    scores = np.sort(np.concatenate([scarce / unit[1], 2 * scarce / unit[2]]))
    expected = np.interp(11 * 0.1 - 1, [0, 1], scores[:2])  # a tenth of the way from the lowest of ten to the next
    assert made["thresholds"][1:] == pytest.approx([expected * unit[1], expected * unit[2]])


def test_an_image_that_is_classified_correctly_is_in_its_set_already() -> None:
    # 18 of 20 are right: 90 % have the truth in their sets if these hold the most probable class alone.
    probabilities = np.array([[0.8, 0.2]] * 18 + [[0.3, 0.7], [0.2, 0.8]])
    made = calibration._fit_sets(probabilities, np.zeros(20, np.int64), 0.90)
    assert made["thresholds"][0] > 0.3
    found = calibration._sets(np.array([[0.55, 0.45]]), [made["thresholds"][0], 1.0], np.array([0]))
    assert found.tolist() == [[True, False]]


@pytest.mark.parametrize("coverage", [0.90, 0.95])
def test_sets_of_a_small_validation_split_keep_their_promise(coverage: float) -> None:
    shares = (0.7, 0.15, 0.06, 0.05, 0.04)
    truth = draw_labels(10**6, 20_000, shares)
    said = calibration.softmax(logits_of(truth, 10**6, 5) + np.log(shares))
    own, top = np.take_along_axis(said, truth[:, None], 1)[:, 0], said.argmax(1)
    together, by_class = [], []
    for seed in range(300):
        labels = draw_labels(seed, 120, shares)
        made = calibration._fit_sets(
            calibration.softmax(logits_of(labels, seed, 5) + np.log(shares)), labels, coverage
        )
        covered = (own >= np.array(made["thresholds"])[truth]) | (top == truth)
        by_class.append([covered[truth == c].mean() for c in range(5)])
        if made["thresholds"][made["shared"][-1]] > 0:
            together.append(covered[np.isin(truth, made["shared"])].mean())
    assert np.mean(together) == pytest.approx(coverage, abs=0.012)
    assert (np.mean(by_class, 0) > coverage - 0.02).all()


def test_too_few_images_for_any_threshold_put_every_class_into_the_set() -> None:
    labels = np.array([0, 1, 2, 0])
    made = calibration.fit(logits_of(labels, 0), labels, features_of(labels, 0))
    assert made["sets"]["90"] == {"thresholds": [0.0, 0.0, 0.0], "shared": [0, 1, 2]}
    assert calibration.apply(made, np.array([[9.0, 0, 0]]), features_of(np.array([0]), 1)).sets.all()


def test_flags_what_is_far_from_every_class_and_few_of_the_rest() -> None:
    made = fitted(seed=0, size=1500)
    labels = draw_labels(7, 2000)
    like = calibration.apply(made, logits_of(labels, 8), features_of(labels, 9))
    assert like.unlike.mean() == pytest.approx(0.02, abs=0.012)
    far = features_of(labels, 10)[:, ::-1].copy()  # the wide directions where the narrow ones were
    assert calibration.apply(made, logits_of(labels, 8), far).unlike.mean() > 0.95
    broken = np.full((1, 64), np.nan, np.float32)
    assert calibration.apply(made, np.zeros((1, 3)), broken).unlike.all()


def test_survives_a_safe_checkpoint_and_asks_for_numpy_alone() -> None:
    made = fitted(size=60)
    buffer = io.BytesIO()
    torch.save(made, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    labels = draw_labels(1, 5)
    inputs = (logits_of(labels, 1), features_of(labels, 1))
    for one, other in zip(vars(calibration.apply(made, *inputs)).values(),
                          vars(calibration.apply(loaded, *inputs)).values(), strict=True):  # fmt: skip
        np.testing.assert_array_equal(one, other)
    heavy = "torch scipy sklearn pandas matplotlib"
    code = f"import sys, skin.model.calibration; print([m for m in '{heavy}'.split() if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_no_validation_part_leaves_everything_open() -> None:
    made = calibration.fit(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 8)))
    assert made == {}
    said = calibration.apply(made, np.array([[np.log(3), 0.0]]), np.zeros((1, 8)))
    np.testing.assert_allclose(said.probabilities, [[0.75, 0.25]])
    assert said.sets.all()
    assert not said.unlike.any()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_handful_of_images_can_be_calibrated_on(size: int) -> None:
    labels = np.arange(size) % 3
    made = calibration.fit(logits_of(labels, 0), labels, features_of(labels, 0))
    said = calibration.apply(made, np.zeros((4, 3)), features_of(np.array([0, 1, 2, 0]), 1))
    np.testing.assert_allclose(said.probabilities, 1 / 3)
    assert np.isfinite(said.distance).all()


@pytest.mark.parametrize("damage", ["temperature", "sets", "unlike", "classes", "features"])
def test_calibration_of_another_model_is_one_line(damage: str) -> None:
    made = fitted(size=60)
    logits, features = np.zeros((2, 3)), np.ones((2, 64), np.float32)
    if damage in made:
        del made[damage]
    elif damage == "classes":
        logits = np.zeros((2, 4))
    else:
        features = np.ones((2, 32), np.float32)
    with pytest.raises(UserError, match="does not fit its model"):
        calibration.apply(made, logits, features)


def test_probabilities_of_huge_logits_are_finite() -> None:
    np.testing.assert_array_equal(calibration.softmax(np.array([[1e4, 0.0], [-1e4, 0.0]])), [[1, 0], [0, 1]])
