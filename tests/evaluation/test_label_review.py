"""The review list of labels: confident learning, worked out by hand, and flipped labels that it has to find."""

from __future__ import annotations

from skin.evaluation import label_review
from skin.evaluation.label_review import confident_class, review, thresholds

import numpy as np
import pytest

# Five images of three classes. The thresholds are the means of the own probabilities: (0.8 + 0.4) / 2 for class 0,
# (0.7 + 0.1) / 2 for class 1, 0.5 for class 2. cleanlab 2.9's get_confident_thresholds gives the same.
LABELS = np.array([0, 0, 1, 1, 2])
PROBABILITIES = np.array([
    [0.8, 0.1, 0.1], [0.4, 0.45, 0.15], [0.2, 0.7, 0.1], [0.7, 0.1, 0.2], [0.3, 0.2, 0.5],
])  # fmt: skip


def test_a_threshold_is_the_mean_probability_of_a_class_of_the_images_that_have_its_label() -> None:
    assert thresholds(LABELS, PROBABILITIES).tolist() == pytest.approx([0.6, 0.4, 0.5])
    assert thresholds(LABELS[:4], PROBABILITIES[:4])[2] == np.inf


def test_the_confident_class_reaches_its_threshold() -> None:
    # The second image reaches that of class 1 alone, the fourth that of class 0 alone.
    assert confident_class(PROBABILITIES, np.array([0.6, 0.4, 0.5])).tolist() == [0, 1, 1, 0, 2]
    assert confident_class(PROBABILITIES, np.array([0.9, 0.9, 0.9])).tolist() == [-1] * 5
    # Of two that are reached, the more probable.
    assert confident_class(PROBABILITIES[1:2], np.array([0.3, 0.4, 0.5])).tolist() == [1]


def test_images_off_the_diagonal_are_listed_by_the_probability_of_their_label() -> None:
    found = review(LABELS, PROBABILITIES)
    assert found.rows.tolist() == [3, 1]  # labels of probability 0.1 and 0.4
    assert found.suggested.tolist() == [0, 1]
    assert found.score.tolist() == pytest.approx([0.1, 0.4])
    table = list(label_review.table(found, list("abcde"), LABELS, ("x", "y", "z"), np.ones(5, int), np.arange(5)))
    assert table[0] == [1, "d", "y", "x", pytest.approx(0.1), 1, "3"]


def test_the_images_of_a_lesion_are_judged_together_and_stand_together() -> None:
    # The first two images are of one lesion: their mean is (0.15, 0.85).
    # The thresholds of these means are (0.15 + 0.15 + 0.9 + 0.9 + 0.12) / 5 = 0.44 and 0.8.
    probabilities = np.array([[0.3, 0.7], [0.0, 1.0], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.12, 0.88]])
    labels, lesions = np.array([0, 0, 0, 0, 1, 0]), np.array(["a", "a", "b", "c", "d", "e"])
    found = review(labels, probabilities, lesions)
    assert found.rows.tolist() == [5, 0, 1]
    assert found.score.tolist() == pytest.approx([0.12, 0.15, 0.15])
    assert found.first(24).tolist() == [0, 1]  # one picture of each lesion
    assert found.first(1).tolist() == [0]


def test_no_label_is_doubted_where_the_models_agree_with_all() -> None:
    labels = np.arange(3)
    assert len(review(labels, np.eye(3)).rows) == 0
    assert len(review(np.zeros(0, int), np.zeros((0, 3))).rows) == 0


@pytest.mark.parametrize("seed", range(3))
def test_of_flipped_labels_the_top_of_the_list_holds_at_least_five_times_as_many_as_chance(seed: int) -> None:
    # Seven classes as unequal as those of HAM10000, a model that is right three times in four, 5 % of labels flipped.
    draw = np.random.Generator(np.random.Philox(seed))
    prior = np.array([327, 514, 1099, 115, 1113, 6705, 142]) / 10015
    truth = draw.choice(7, 4000, p=prior)
    evidence = draw.standard_normal((4000, 7))
    evidence[np.arange(4000), truth] += 1.5
    odds = np.exp(1.5 * evidence) * prior  # Bayes' rule, so the probabilities are calibrated
    flipped = draw.random(4000) < 0.05
    labels = np.where(flipped, (truth + draw.integers(1, 7, 4000)) % 7, truth)
    top = review(labels, odds / odds.sum(1, keepdims=True)).rows[:200]
    assert len(top) == 200
    assert flipped[top].mean() >= 5 * flipped.mean()
