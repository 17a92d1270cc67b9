"""Simulations of what rests on decisions: paired differences, deferral, the decision curve, operating points, PPV.

Each function draws one set with a known truth, of `size` lesions, and returns which of its promises hold: 1 or 0,
whose mean over seeds is the coverage; nan does not count.
"""

from __future__ import annotations

from functools import cache, partial

from skin.evaluation import operating_points, paired, prevalence
from skin.evaluation.decision_curve import THRESHOLDS, decision_curve
from skin.evaluation.deferral import COVERAGES, deferral
from skin.evaluation.intervals import Estimate, Estimates, Resampler
from skin.evaluation.lesions import Owners, per_lesion, per_patient
from skin.evaluation.metrics import OF_A_COMPARISON, OF_LABELS, OF_TWO_CLASSES
from skin.evaluation.operating_points import Choice, Target
from skin.model import calibration
from tests.simulation.draws import ROUNDS, TRUTH, drawn, holds

import numpy as np
import torch

SHARES = np.array([0.6, 0.2, 0.12, 0.08])  # two benign and two malignant classes
MALIGNANT = np.array([False, False, True, True])


def logits_of(
    seed: int, lesions: int, most: int = 3, tail: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels [N], logits [N, C] whose softmax is the true probability, and lesions [N]; see `drawn`."""
    labels, probabilities, lesion = drawn(seed, lesions, SHARES, most=most, tail=tail)
    return labels, np.log(probabilities), lesion


# ---- paired differences ---------------------------------------------------------------------------------------


def _pairs(size: int, seed: int, rounds: int = ROUNDS) -> dict[str, Estimate]:
    labels, logits, lesions = logits_of(seed, size)
    resampler = Resampler(lesions, rounds, seed)
    sharp = 2 * logits - np.log(SHARES)  # too sure, and leaning towards the rare classes
    generator = np.random.Generator(np.random.Philox(seed + 10**7))
    noise, another = generator.standard_normal((2, *logits.shape))
    right = calibration.softmax(logits)
    compared = {
        "calibrated - not": (right, calibration.softmax(sharp)),
        "one model - a noisy one": (right, calibration.softmax(logits + 0.7 * noise)),
        "two equal models": (calibration.softmax(logits + 0.7 * noise), calibration.softmax(logits + 0.7 * another)),
    }
    found = {}
    for what, answers in compared.items():
        one, other = (Estimates(labels, answer, resampler) for answer in answers)
        found |= {f"{m.title}: {what}": paired.difference(m, one, other) for m in OF_A_COMPARISON}
    label, balanced = (
        Estimates(labels, np.eye(4)[called], resampler, ranked=())
        for called in (right.argmax(1), (right / SHARES).argmax(1))
    )
    return found | {f"{m.title}: balanced - most probable": paired.difference(m, balanced, label) for m in OF_LABELS}


@cache
def _pairs_truth() -> dict[str, float]:
    return {
        name: 0.0 if name.endswith("equal models") else estimate.value
        for name, estimate in _pairs(TRUTH, 10**6, 2).items()
    }


def of_pairs(size: int, seed: int) -> dict[str, float]:
    """Differences between two answers to the same images."""
    truth = _pairs_truth()
    return {name: holds(estimate, truth[name]) for name, estimate in _pairs(size, seed).items()}


# ---- deferral and decision curve ------------------------------------------------------------------------------


def _decisions(size: int, seed: int, rounds: int = ROUNDS) -> dict[str, Estimate]:
    labels, logits, lesions = logits_of(seed, size)
    resampler = Resampler(lesions, rounds, seed)
    probabilities = calibration.softmax(logits)
    curve = decision_curve(MALIGNANT[labels], probabilities[:, MALIGNANT].sum(1), resampler)
    deferred = deferral(labels, probabilities, resampler)()
    found = {"AURC": deferred.aurc}
    found |= {f"error at coverage {at.coverage:g}": at.error for at in deferred.risk}
    for point in curve():
        if point.threshold in (0.02, 0.1, 0.2, 0.5):
            found[f"net benefit at {point.threshold:g}"] = point.model
            found[f"net benefit less treating all at {point.threshold:g}"] = point.gain
    return found


@cache
def _decisions_truth() -> dict[str, float]:
    return {name: estimate.value for name, estimate in _decisions(TRUTH, 10**6, 2).items()}


def of_decisions(size: int, seed: int) -> dict[str, float]:
    """AURC, the error at each coverage, and the net benefit."""
    assert 0.02 in THRESHOLDS
    assert 0.5 in COVERAGES
    truth = _decisions_truth()
    return {name: holds(estimate, truth[name]) for name, estimate in _decisions(size, seed).items()}


# ---- operating points -----------------------------------------------------------------------------------------


TARGET = Target("malignant", MALIGNANT)


@cache
def _population() -> tuple[np.ndarray, np.ndarray]:
    labels, logits, _ = logits_of(10**6, TRUTH)
    return MALIGNANT[labels], TARGET.scores(calibration.softmax(logits))


def _choices(size: int, seed: int, most: int = 3, tail: bool = False) -> dict[tuple[str, str], Choice]:
    labels, logits, lesions = logits_of(seed, size, most, tail)
    fitted: calibration.Calibration = {
        "images": len(labels),
        "temperature": 1.0,
        "answers": {
            "logits": torch.from_numpy(logits.astype(np.float32)),
            "labels": torch.from_numpy(labels.astype(np.int64)),
            "groups": torch.from_numpy(lesions.astype(np.int64)),
        },
    }
    chosen = operating_points.choose(fitted, [TARGET], 10.0)
    return {key: choice for key, choice in chosen.items() if choice.threshold is not None}


def of_points(size: int, seed: int) -> dict[str, float]:
    """Figures of thresholds that were chosen on one set and are measured on another, of `size` lesions each."""
    choices = _choices(size, seed)
    labels, logits, lesions = logits_of(seed + 10**7, size)
    probabilities, resampler = calibration.softmax(logits), Resampler(lesions, ROUNDS, seed)
    applied = operating_points.apply(choices, [TARGET], labels, probabilities, resampler)
    risk = TARGET.scores(probabilities)
    called = {key: risk >= choice.threshold for key, choice in choices.items()}
    parts = prevalence.parts({"malignant": 0.03}, ("nv", "bkl", "mel", "bcc"), MALIGNANT)
    stated = prevalence.at_prevalence(parts, [TARGET], called, labels, resampler)
    points, at_stated = applied()["malignant"], stated()["malignant"].called
    ill, all_risk = _population()
    found = {}
    for rule, point in points.items():
        if point.threshold is None:
            continue
        hit = all_risk >= point.threshold
        se, alarms = hit[ill].mean(), hit[~ill].mean()
        ppv, npv = 0.03 * se / (0.03 * se + 0.97 * alarms), 0.97 * (1 - alarms)
        npv /= npv + 0.03 * (1 - se)
        truth = {"sensitivity": se, "specificity": 1 - alarms, "ppv": ill[hit].mean(), "npv": 1 - ill[~hit].mean()}
        found |= {f"{name}, {rule}": holds(point.metrics[name], value) for name, value in truth.items()}
        found[f"PPV at 3 %, {rule}"] = holds(at_stated[rule].metrics["ppv"], ppv)
        found[f"NPV at 3 %, {rule}"] = holds(at_stated[rule].metrics["npv"], npv)
    return found


def of_sensitivity(size: int, seed: int, level: int) -> dict[str, float]:
    """The sensitivity on new images of the threshold that was chosen for `level` percent."""
    ill, risk = _population()
    found = {}
    for images, most, tail in (("1 to 3 images a lesion", 3, False), ("1 to 100, few with many", 100, True)):
        choice = _choices(size, seed, most, tail).get(("malignant", f"sensitivity_{level}"))
        reached = float((risk >= choice.threshold)[ill].mean()) if choice else np.nan
        found[f"Sensitivity for malignant, {images}"] = reached
    return found


# ---- lesions and patients -------------------------------------------------------------------------------------


def _people(size: int, seed: int, rounds: int = ROUNDS) -> dict[str, Estimate]:
    """Metrics per lesion and per patient of `size` patients with one to three lesions each."""
    generator = np.random.Generator(np.random.Philox(seed + 10**7))
    patient_of_lesion = np.repeat(np.arange(size), generator.integers(1, 4, size))
    labels, logits, lesions = logits_of(seed, len(patient_of_lesion))
    probabilities, patients = calibration.softmax(logits), patient_of_lesion[lesions]
    owners, draw = Owners(patients, lesions, patients), partial(Resampler, rounds=rounds, seed=seed)
    of_lesions = per_lesion(labels, probabilities, owners, MALIGNANT, draw)
    of_patients = per_patient(labels, probabilities, owners, MALIGNANT, draw)
    assert of_lesions is not None
    assert of_patients is not None
    assert of_patients.malignant is not None
    found = {f"{name}, per lesion": estimate for name, estimate in of_lesions.metrics.items()}
    found |= {f"{m.name}, malignant per patient": of_patients.malignant[m.name] for m in OF_TWO_CLASSES}
    return found | {"accuracy, per patient": of_patients.accuracy}


@cache
def _people_truth() -> dict[str, float]:
    return {name: estimate.value for name, estimate in _people(TRUTH // 2, 10**6, 2).items()}


def of_people(size: int, seed: int) -> dict[str, float]:
    """Metrics per lesion and per patient; the size is of patients."""
    truth = _people_truth()
    return {name: holds(estimate, truth[name]) for name, estimate in _people(size, seed).items()}


# ---- calibration ----------------------------------------------------------------------------------------------


def of_biases(size: int, seed: int) -> dict[str, float]:
    """Return 1 if the chosen calibration's log loss on new images is no worse than that of the temperature alone."""
    found = {}
    for what, lean in (("class weights", 1.0), ("half of them", 0.5), ("none", 0.0)):
        labels, logits, lesions = logits_of(seed, size)
        fitted = calibration._fit_probabilities(1.5 * (logits - lean * np.log(SHARES)), labels, lesions)
        alone = calibration._fit_temperature(1.5 * (logits - lean * np.log(SHARES)), labels)
        all_labels, all_logits, _ = logits_of(10**6, TRUTH // 4)
        leaning = 1.5 * (all_logits - lean * np.log(SHARES))
        losses = [
            -np.log(p[np.arange(len(all_labels)), all_labels]).mean()
            for p in (calibration.probabilities_of(fitted, leaning), calibration.softmax(leaning, alone))
        ]
        found[f"biases are no worse than a temperature, {what}"] = float(losses[0] <= losses[1] + 1e-9)
        found[f"biases are chosen, {what}"] = float(any(fitted["biases"]))
    return found
