"""Build a report: every metric of an evaluation with its interval, from a model's answers and the truth.

Everything is asked of the bootstrap before the first estimate is read, so that its rounds are drawn once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from skin.data.class_names import readable_name
from skin.evaluation import against, metadata_alone, metrics, operating_points, subgroups
from skin.evaluation import prevalence as prevalences
from skin.evaluation.answers import Answers, Predictions
from skin.evaluation.decision_curve import decision_curve
from skin.evaluation.deferral import deferral
from skin.evaluation.gaps import Comparison as GroupComparison
from skin.evaluation.gaps import Group, heterogeneity
from skin.evaluation.intervals import LEVEL, Column, Estimate, Estimates, means_of, of_called
from skin.evaluation.lesions import per_lesion, per_patient
from skin.evaluation.malignant import two_classes
from skin.evaluation.metrics import Bools, Floats, Ints, Percentiles
from skin.evaluation.operating_points import Target
from skin.evaluation.paired import comparison
from skin.evaluation.prevalence import MALIGNANT as MALIGNANT_TARGET
from skin.evaluation.reliability import reliability
from skin.evaluation.report_types import (
    AgainstReport,
    AtThreshold,
    AttributeReport,
    ByMetric,
    CalibrationReport,
    ClassReport,
    Comparison,
    ConfusionMatrix,
    DecisionReport,
    Heterogeneity,
    Intervals,
    MalignantReport,
    MetadataReport,
    NetBenefit,
    OperatingReport,
    PrevalenceReport,
    Report,
    SetsReport,
    StandIns,
    Subgroup,
    UnlikeReport,
)  # fmt: skip
from skin.model import calibration
from skin.model.calibration import Calibrated, Calibration
from skin.model.unlike import passing

import numpy as np
import pandas as pd

SetKey = tuple[str, str | int]  # a level of the prediction sets, and the name of a column or the number of a class


def build(
    predictions: Predictions,
    by: dict[str, pd.Series] | None = None,
    rounds: int = 1000,
    seed: int = 0,
    threshold: float | None = None,
    cost_ratio: float | None = None,
    prevalence: dict[str, float] | None = None,
) -> Report:
    """Return every metric of `predictions`, with its 95 % interval.

    Args:
        by: attribute -> the subgroup of each of the N images, from `subgroups.bins`.
        rounds, seed: of the bootstrap.
        threshold: also ask for the metrics of each class if it is predicted whenever its probability is above this,
            even if another class is more probable.
        cost_ratio: also choose thresholds for a miss that costs as many false alarms as this.
        prevalence: of classes, or malignant: also give PPV and NPV there.

    Raises:
        UserError: the prevalence is of no class, adds up to too much, or is of a class that has no image.
    """
    answers = Answers.of(predictions, rounds, seed)
    estimates, resampler = answers.estimates, answers.resampler
    points = _operating_points(predictions, answers, cost_ratio, prevalence)
    per_class, of_malignant = _per_class(answers, threshold), _malignant(answers)
    of_probabilities = _calibration(predictions, answers)
    deferred = deferral(answers.labels, answers.probabilities, resampler, answers.called)
    by_rule = _by_rule(predictions, answers)
    views, with_metadata = _views(predictions, answers), _metadata(predictions, answers)
    compared = _against(predictions, answers, by_rule)
    # All is asked: the first that is read draws the rounds.
    (malignant_report, curve), (operating, at_prevalence) = of_malignant(), points()
    labels, probabilities, owners = answers.labels, answers.probabilities, answers.owners
    return Report(
        images=len(labels),
        groups=resampler.num_groups,
        intervals=Intervals(
            level=LEVEL,
            rounds=rounds,
            seed=seed,
            resampled="images" if resampler.num_groups == resampler.num_rows else "lesions or patients",
        ),
        metrics={metric.name: estimates.estimate(metric.name) for metric in metrics.OVERALL},
        per_class=per_class(),
        confusion_matrix=ConfusionMatrix(list(predictions.classes), estimates.confusion.tolist()),
        malignant=malignant_report,
        operating_points=operating,
        decision_curve=curve,
        deferral=deferred(),
        decision=_decision(predictions.calibrated.rule, by_rule),
        calibration=of_probabilities(),
        subgroups={name: _subgroups(binned[predictions.known], answers) for name, binned in (by or {}).items()},
        prevalence=at_prevalence,
        views=views(),
        metadata=with_metadata(),
        against=compared(),
        per_lesion=per_lesion(labels, probabilities, owners, answers.malignant, answers.draw, answers.scores),
        per_patient=per_patient(labels, probabilities, owners, answers.malignant, answers.draw, answers.called),
    )


def _per_class(answers: Answers, threshold: float | None) -> Callable[[], dict[str, ClassReport]]:
    """Ask for the metrics of each class, also at a threshold if one is given."""
    estimates, of_threshold = answers.estimates, None
    if threshold is not None:
        columns = _threshold_columns(answers.labels, answers.probabilities, threshold)
        of_threshold = means_of(columns, answers.resampler)

    def report() -> dict[str, ClassReport]:
        found = {
            name: ClassReport(
                name=readable_name(name),
                support=int((answers.labels == c).sum()),
                groups=answers.resampler.size(answers.labels == c).groups,
                predicted=int((answers.called == c).sum()),
                metrics={metric.name: estimates.estimate(metric.name, c) for metric in metrics.PER_CLASS},
            )
            for c, name in enumerate(answers.classes)
        }
        if threshold is None or of_threshold is None:
            return found
        return _with_threshold(found, threshold, of_threshold())

    return report


def _threshold_columns(labels: Ints, probabilities: Floats, threshold: float) -> dict[tuple[int, str], Column]:
    """Return a column per class and metric, for classes that are called if their probability is above `threshold`."""
    columns = {}
    for c, scores in enumerate(probabilities.T):
        true, called = labels == c, scores > threshold
        for metric in metrics.OF_CALLED:
            share: Any = metric.interval
            columns[c, metric.name] = Column(np.where(share.basis(true, called), share.hit(true, called), np.nan))
    return columns


def _with_threshold(
    per_class: dict[str, ClassReport], threshold: float, estimates: dict[tuple[int, str], Estimate]
) -> dict[str, ClassReport]:
    names = [metric.name for metric in metrics.OF_CALLED]
    return {
        name: replace(report, at_threshold=AtThreshold(threshold, {key: estimates[c, key] for key in names}))
        for c, (name, report) in enumerate(per_class.items())
    }


def _operating_points(
    predictions: Predictions, answers: Answers, cost_ratio: float | None, stated: dict[str, float] | None
) -> Callable[[], tuple[OperatingReport, PrevalenceReport | None]]:
    """Ask for the operating points, and for PPV and NPV at the stated prevalence, there and for the label.

    Raises:
        UserError: as `prevalence.of_set`.
    """
    classes, labels, probabilities = answers.classes, answers.labels, answers.probabilities
    malignant, resampler = answers.malignant, answers.resampler
    targets = [Target(name, np.arange(len(classes)) == c) for c, name in enumerate(classes)]
    if malignant is not None and MALIGNANT_TARGET not in classes:
        targets.append(Target(MALIGNANT_TARGET, malignant))
    choices = operating_points.choose(predictions.calibration, targets, cost_ratio)
    applied = operating_points.apply(choices, targets, labels, probabilities, resampler)
    at_stated = None
    if stated is not None:
        parts, label = prevalences.of_set(stated, classes, labels), answers.called
        called = {(target.name, "label"): target.positives(label) for target in targets}
        called |= {(target.name, "half"): target.scores(probabilities) > 0.5 for target in targets[len(classes) :]}
        for target in targets:
            for (name, rule), choice in choices.items():
                if name == target.name and choice.threshold is not None:
                    called[name, rule] = target.scores(probabilities) >= choice.threshold
        at_stated = prevalences.at_prevalence(parts, targets, called, labels, resampler)

    def report() -> tuple[OperatingReport, PrevalenceReport | None]:
        points = applied()
        of_malignant = None if malignant is None else points[MALIGNANT_TARGET]
        found = OperatingReport(
            cost_ratio, of_malignant, {name: points[name] for name in classes},
            None if choices else operating_points.NO_ANSWERS,
        )  # fmt: skip
        return found, None if at_stated is None else PrevalenceReport(dict(stated or {}), at_stated())

    return report


def _by_rule(predictions: Predictions, answers: Answers) -> dict[str, Estimates | None]:
    """Ask for the metrics of the labels by each rule, of which the answers follow one; None if it is not known."""
    rule, probabilities, asked = predictions.calibrated.rule, answers.probabilities, None
    balanced = rule == calibration.BALANCED
    other = probabilities.argmax(1) if balanced else calibration.balanced(predictions.calibration, probabilities)
    if other is not None:
        asked = of_called(answers.labels, other, len(answers.classes), answers.resampler)
    return {each: answers.estimates if each == rule else asked for each in calibration.RULES}


def _against(
    predictions: Predictions, answers: Answers, by_rule: dict[str, Estimates | None]
) -> Callable[[], AgainstReport | None]:
    """Ask for the comparison with another model."""
    if predictions.other is None:
        return lambda: None
    return against.compare(
        predictions.other, predictions.known, answers.labels, answers.probabilities, answers.estimates,
        by_rule[calibration.BALANCED], answers.malignant,
    )  # fmt: skip


def _decision(rule: str, by_rule: dict[str, Estimates | None]) -> DecisionReport:
    most_probable, balanced = (by_rule[each] for each in calibration.RULES)
    assert most_probable is not None
    if balanced is None:
        alone = {metric.name: most_probable.estimate(metric.name) for metric in metrics.OF_LABELS}
        return DecisionReport(rule, alone, None, None)
    found = comparison(metrics.OF_LABELS, most_probable, balanced)
    return DecisionReport(rule, found.before, found.after, found.difference)


def _views(predictions: Predictions, answers: Answers) -> Callable[[], Comparison | None]:
    """Ask for one view of each image against the average over several, which the answers are."""
    if predictions.one_view is None:
        return lambda: None
    of_view = calibration.probabilities_of(predictions.calibration, predictions.one_view[predictions.known])
    called = calibration.scores(predictions.calibration, of_view).argmax(1)
    one_view = Estimates(answers.labels, of_view, answers.resampler, called=called)
    return lambda: comparison(metrics.OF_A_COMPARISON, one_view, answers.estimates)


def _metadata(predictions: Predictions, answers: Answers) -> Callable[[], MetadataReport | None]:
    """Ask for the answers by the pixels alone against those with metadata, which the answers are."""
    without = predictions.without
    if without is None:
        return lambda: None
    of_pixels = calibration.probabilities_of(predictions.calibration, without.logits[predictions.known])
    called = calibration.scores(predictions.calibration, of_pixels).argmax(1)
    pixels = Estimates(answers.labels, of_pixels, answers.resampler, called=called)
    alone = predictions.calibration.get("metadata_alone")
    return lambda: MetadataReport(
        known=without.known,
        overall=comparison(metrics.OVERALL, pixels, answers.estimates),
        alone=metadata_alone.said(alone) if alone else "",
        shortcut=alone is not None and metadata_alone.is_shortcut(alone),
    )


# ---- malignant against benign ---------------------------------------------------------------------------------


def _malignant(answers: Answers) -> Callable[[], tuple[MalignantReport | None, list[NetBenefit] | None]]:
    """Ask for the metrics of malignant against benign, and the decision curve."""
    if answers.malignant is None:
        return lambda: (None, None)
    truth, risk = two_classes(answers.malignant, answers.labels, answers.probabilities)
    estimates = Estimates(truth, risk, answers.resampler, ranked=(1,), summed=())
    curve = decision_curve(truth == 1, risk[:, 1], answers.resampler)
    members = list(zip(answers.classes, answers.malignant, strict=True))

    def report() -> tuple[MalignantReport, list[NetBenefit]]:
        found = MalignantReport(
            malignant=[name for name, is_malignant in members if is_malignant],
            benign=[name for name, is_malignant in members if not is_malignant],
            support=int(truth.sum()),
            metrics={metric.name: estimates.estimate(metric.name, 1) for metric in metrics.OF_TWO_CLASSES},
        )
        return found, curve()

    return report


# ---- calibration ----------------------------------------------------------------------------------------------


def _sets_by_level(calibrated: Calibrated) -> dict[str, Bools]:
    return {"90": calibrated.sets, "95": calibrated.sets_95}


def _set_columns(calibrated: Calibrated, known: Bools, labels: Ints) -> dict[SetKey, Column]:
    """Return the column of flagged images, and for each level those of coverage, set size, and coverage by class."""
    columns: dict[SetKey, Column] = {("all", "flagged"): Column(calibrated.unlike[known].astype(float))}
    for level, sets in _sets_by_level(calibrated).items():
        members = sets[known]
        covered = np.take_along_axis(members, labels[:, None], 1)[:, 0].astype(float)
        columns[level, "coverage"] = Column(covered)
        columns[level, "mean_size"] = Column(members.sum(1).astype(float), Percentiles())
        for c in range(members.shape[1]):
            columns[level, c] = Column(np.where(labels == c, covered, np.nan))
    return columns


def _calibration(predictions: Predictions, answers: Answers) -> Callable[[], CalibrationReport]:
    """Ask for the probabilities before and after calibration, the flagged images and the prediction sets."""
    before = calibration.softmax(predictions.logits[predictions.known])
    raw = Estimates(answers.labels, before, answers.resampler, ranked=(), summed=metrics.OF_PROBABILITIES)
    of_sets = means_of(_set_columns(predictions.calibrated, predictions.known, answers.labels), answers.resampler)

    def report() -> CalibrationReport:
        return _calibration_report(
            predictions, answers, comparison(metrics.OF_PROBABILITIES, raw, answers.estimates), of_sets()
        )

    return report


def _calibration_report(
    predictions: Predictions, answers: Answers, compared: Comparison, of_sets: dict[SetKey, Estimate]
) -> CalibrationReport:
    """Report on the probabilities, `compared` before and after; `of_sets` are the estimates of `_set_columns`."""
    calibrated, fitted = predictions.calibrated, predictions.calibration
    labels, probabilities, resampler = answers.labels, answers.probabilities, answers.resampler
    unlike, unknown = calibrated.unlike, ~predictions.known
    of_malignant = None
    if answers.malignant is not None:
        truth, two = two_classes(answers.malignant, labels, probabilities)
        of_malignant = reliability(truth == 1, two[:, 1], resampler)
    biases, losses = fitted.get("biases"), fitted.get("cross_validation")
    of_training: Any = fitted.get("unlike", {})
    return CalibrationReport(
        temperature=fitted.get("temperature"),
        biases=None if biases is None else dict(zip(predictions.classes, biases, strict=True)),
        cross_validation=None if losses is None else {name: losses[name] for name in ("temperature", "biases")},
        validation_images=fitted.get("images", 0),
        before=compared.before,
        after=compared.after,
        difference=compared.difference,
        confidence=reliability(probabilities.argmax(1) == labels, probabilities.max(1, initial=0), resampler),
        per_class={
            name: reliability(labels == c, probabilities[:, c], resampler)
            for c, name in enumerate(predictions.classes)
        },
        malignant=of_malignant,
        unlike_training=UnlikeReport(
            flagged=of_sets["all", "flagged"],
            unknown_class_images=int(unknown.sum()),
            unknown_class_flagged=float(unlike[unknown].mean()) if unknown.any() else None,
            stand_ins={kind: StandIns(**caught) for kind, caught in of_training.get("caught", {}).items()},
            cannot_tell=passing(of_training) if of_training else [],
        ),
        prediction_sets={
            level: SetsReport(
                coverage=of_sets[level, "coverage"],
                mean_size=of_sets[level, "mean_size"],
                coverage_by_class={name: of_sets[level, c] for c, name in enumerate(predictions.classes)},
                single_class=float((members[predictions.known].sum(1) == 1).mean()),
                shared_threshold=[predictions.classes[c] for c in _shared(predictions.calibration, level, True)],
                no_threshold=[predictions.classes[c] for c in _shared(predictions.calibration, level, False)],
            )
            for level, members in _sets_by_level(calibrated).items()
        },
    )


def _shared(fitted: Calibration, level: str, with_threshold: bool) -> list[int]:
    """Return the classes without a threshold of their own: those that share one, or those that have none at all."""
    if "sets" not in fitted:
        return []
    sets = fitted["sets"][level]
    return [c for c in sets["shared"] if (sets["thresholds"][c] > 0) == with_threshold]


# ---- subgroups ------------------------------------------------------------------------------------------------


def _subgroups(binned: pd.Series, answers: Answers) -> AttributeReport:
    """Report on the subgroups of one attribute."""
    binned = binned.cat.remove_unused_categories()  # a group may hold only images of unknown classes
    groups: dict[str, Subgroup] = {}
    compared: list[Group] = []
    group_of_row = np.full(len(binned), -1)
    for number, name in enumerate(map(str, binned.cat.categories), start=1):
        rows = (binned == name).to_numpy()
        resampler = answers.resampler_of(rows, number)
        own = answers.metrics_of(rows, resampler)
        small = int(rows.sum()) < subgroups.SMALL
        groups[name] = Subgroup(int(rows.sum()), resampler.num_groups, small, own)

        def metrics_of(some: Bools, number: int = number, own: ByMetric = own, rows: Bools = rows) -> ByMetric:
            return own if (some == rows).all() else answers.metrics_of(some, answers.resampler_of(some, number))

        if not small and name != subgroups.NOT_RECORDED:
            group_of_row[rows] = len(compared)
            compared.append(Group(name, rows, metrics_of))
    lesions = answers.resampler.group_of_row
    there = [e for e in subgroups.METRICS if not e.of_malignant or answers.malignant is not None]
    comparison = GroupComparison(compared, answers.labels, lesions, answers.classes)
    tests: dict[str, Heterogeneity | None] = {}
    for entry in there:
        hits, counts = answers.hits(entry), answers.counting(entry)[answers.labels]
        if hits is not None:
            tests[entry.name] = heterogeneity(hits, answers.labels, lesions, np.where(counts, group_of_row, -1))
    gaps = {entry.name: comparison.largest_gap(entry, answers.counting(entry)) for entry in there}
    return AttributeReport(groups, gaps, tests)
