"""The types of a report, which `report.build` makes and the pages, plots and model card show.

`to_json` turns a report into the plain data of report.json, field by field. There each estimate is
`{"value", "low", "high"}`, with None for a value that the set cannot give.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from skin.evaluation.intervals import Estimate
from skin.utils.run_folders import KIND

FORMAT_VERSION = 1

Plain = str | int | float | bool  # a value of an option
ByMetric = dict[str, Estimate]  # each under the metric's name

_INLINE: dict[str, str] = {"json": "inline"}  # the field's entries stand among the fields
_OPTIONAL: dict[str, str] = {"json": "optional"}  # a field that is None is left out


@dataclass(frozen=True)
class Intervals:
    """The making of the intervals; `resampled` names the things that a round draws: images, lesions or patients."""

    level: float
    rounds: int
    seed: int
    resampled: str


@dataclass(frozen=True)
class AtThreshold:
    """The metrics of a class that is called if its probability is above `threshold`."""

    threshold: float
    metrics: ByMetric = field(metadata=_INLINE)


@dataclass(frozen=True)
class ClassReport:
    """One class: `name` for people, its images and groups, how often it was predicted, its metrics."""

    name: str
    support: int
    groups: int
    predicted: int
    metrics: ByMetric = field(metadata=_INLINE)
    at_threshold: AtThreshold | None = field(default=None, metadata=_OPTIONAL)


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of images by true class (row) and predicted class (column)."""

    classes: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class MalignantReport:
    """Malignant against benign: the classes taken for either, the malignant images, the metrics."""

    malignant: list[str]
    benign: list[str]
    support: int
    metrics: ByMetric = field(metadata=_INLINE)


@dataclass(frozen=True)
class ReliabilityBin:
    """The images whose probability is in (above, up_to]: their mean, and the share of them that have the event."""

    above: float
    up_to: float
    images: int
    mean_probability: float
    observed: Estimate


@dataclass(frozen=True)
class ReliabilityReport:
    """Calibration of the probabilities of one event: slope (1 is right), intercept (0 is right) and bins."""

    slope: Estimate
    intercept: Estimate
    bins: list[ReliabilityBin]


@dataclass(frozen=True)
class StandIns:
    """Pictures of a kind that show no skin, and the share of them that is flagged."""

    images: int
    flagged: float


@dataclass(frozen=True)
class OnValidation:
    """The effect of a threshold on the validation images that it was chosen on, and how many these are."""

    sensitivity: float
    specificity: float
    positives: int
    negatives: int


@dataclass(frozen=True)
class OperatingPoint:
    """The metrics of a class, or of malignant, that is called where its probability is `threshold` or more.

    Attributes:
        threshold: chosen on `validation`; None with the `reason` if there is none, and then there are no metrics.
    """

    threshold: float | None
    metrics: ByMetric = field(metadata=_INLINE)
    validation: OnValidation | None = field(default=None, metadata=_OPTIONAL)
    reason: str | None = field(default=None, metadata=_OPTIONAL)


OperatingPoints = dict[str, dict[str, OperatingPoint]]  # by target (a class, or malignant), then by rule


@dataclass(frozen=True)
class OperatingReport:
    """The operating points.

    Attributes:
        cost_ratio: the false alarms that a miss costs, as the user says; None if not.
        malignant: by rule; None if not every class is known as malignant or benign.
        per_class: by class, then by rule.
        reason: why there are none at all.
    """

    cost_ratio: float | None
    malignant: dict[str, OperatingPoint] | None
    per_class: OperatingPoints
    reason: str | None = field(default=None, metadata=_OPTIONAL)


@dataclass(frozen=True)
class PredictiveValues:
    """Sensitivity, specificity, PPV and NPV at a stated prevalence."""

    metrics: ByMetric = field(metadata=_INLINE)


@dataclass(frozen=True)
class AtPrevalence:
    """A class, or malignant, at a stated prevalence.

    Attributes:
        called: by the rule of an operating point; by `label`, as a class or one of the malignant ones; malignant also
            by `half`, the probability above a half.
    """

    prevalence: float
    called: dict[str, PredictiveValues]


@dataclass(frozen=True)
class PrevalenceReport:
    """The prevalences that the user stated, and what follows from them, by class or malignant."""

    stated: dict[str, float]
    targets: dict[str, AtPrevalence]


@dataclass(frozen=True)
class NetBenefit:
    """A point of the decision curve: the net benefit of the model, of treating all, and the gain over that."""

    threshold: float
    model: Estimate
    treat_all: Estimate
    gain: Estimate


@dataclass(frozen=True)
class AtCoverage:
    """The share of wrong answers among the surest `coverage` of all."""

    coverage: float
    error: Estimate


@dataclass(frozen=True)
class DeferralReport:
    """Risk and coverage, if the model may defer its least sure answers; `aurc` is the area under the curve."""

    aurc: Estimate
    risk: list[AtCoverage]


@dataclass(frozen=True)
class DecisionReport:
    """The rule by which a label is chosen, and the metrics of the labels of both rules.

    Attributes:
        rule: "most probable" or "balanced".
        most_probable: of the class of the largest probability.
        balanced: of the class whose probability is largest beside its mean in validation; None without a calibration
            that knows these.
        difference: balanced less most probable, paired.
    """

    rule: str
    most_probable: ByMetric
    balanced: ByMetric | None
    difference: ByMetric | None


@dataclass(frozen=True)
class Comparison:
    """Metrics of two answers to the same images, and after - before, paired."""

    before: ByMetric
    after: ByMetric
    difference: ByMetric


@dataclass(frozen=True)
class MetadataReport:
    """A model with metadata, and the same model if all of them are missing.

    Attributes:
        known: by column, the share of images that have a value that the model knows.
        overall: `before` is by the pixels alone, `after` with metadata.
        alone: of metadata without pixels, in validation, in a sentence; "" if that was not measured.
        shortcut: it is a warning.
    """

    known: dict[str, float]
    overall: Comparison
    alone: str
    shortcut: bool


@dataclass(frozen=True)
class PairedTest:
    """A test that two models are equal; None if there are too few images for it."""

    p_value: float | None


@dataclass(frozen=True)
class McNemar:
    """The images that one model alone answers rightly, and the test whether it is half each.

    Attributes:
        reason: why there is no p value.
    """

    this_alone: int
    other_alone: int
    p_value: float | None
    reason: str | None = None


@dataclass(frozen=True)
class AgainstReport:
    """The model against another on the same images.

    Attributes:
        checkpoint: the other's file and the name of its folder. model: its network.
        overall, balanced, malignant: `before` is the other, `after` this model. balanced: of the labels by the rule
            "balanced"; None if one of the two has no such rule. malignant: None if not every class is known as
            malignant or benign.
        mcnemar: of the accuracy. delong: of the AUROC of malignant.
        conclusion: what may be concluded, in sentences; `unfair` are those on why the comparison is not fair, or may
            not be.
    """

    checkpoint: str
    checkpoint_sha256: str
    model: str
    overall: Comparison
    balanced: Comparison | None
    malignant: Comparison | None
    mcnemar: McNemar
    delong: PairedTest | None
    conclusion: str
    unfair: list[str] = field(default_factory=list, metadata=_OPTIONAL)


@dataclass(frozen=True)
class FoldReport:
    """The model of one fold on that fold, which it was not trained on; `temperature` calibrates it."""

    fold: int
    images: int
    groups: int
    temperature: float
    metrics: dict[str, float] = field(metadata=_INLINE)


@dataclass(frozen=True)
class FoldsReport:
    """The folds of a cross-validation, and the mean and standard deviation of their metrics, by name."""

    folds: list[FoldReport]
    mean: dict[str, float]
    standard_deviation: dict[str, float]


@dataclass(frozen=True)
class LabelReview:
    """The number of images whose label deserves a second look."""

    images: int


@dataclass(frozen=True)
class UnlikeReport:
    """Images flagged as unlike the training images: their share, and that among images of unknown classes.

    Attributes:
        stand_ins: by kind, pictures that show no skin and the share of them that the end of the training found
            flagged; empty if that was not measured.
        cannot_tell: the kinds of which less than half are flagged.
    """

    flagged: Estimate
    unknown_class_images: int
    unknown_class_flagged: float | None
    stand_ins: dict[str, StandIns] = field(default_factory=dict)
    cannot_tell: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SetsReport:
    """Prediction sets of one level.

    Attributes:
        single_class: the share of sets of one class.
        shared_threshold: the classes that share a threshold, with too few validation images for one of their own.
        no_threshold: those that are too few even together; they are in every set.
    """

    coverage: Estimate
    mean_size: Estimate
    coverage_by_class: ByMetric
    single_class: float
    shared_threshold: list[str]
    no_threshold: list[str]


@dataclass(frozen=True)
class CalibrationReport:
    """The probabilities `before` and `after` calibration; no temperature without a calibration.

    Attributes:
        biases: by class, added to logits / temperature; None if the checkpoint has none.
        cross_validation: the log loss in validation of the temperature alone, and with biases; None if not known.
        difference: after - before, paired.
        confidence, per_class, malignant: the reliability of the calibrated probabilities: that of the predicted class
            (the event is a correct answer), of each class, and of malignant, if that is known.
    """

    temperature: float | None
    biases: dict[str, float] | None
    cross_validation: dict[str, float] | None
    validation_images: int
    before: ByMetric
    after: ByMetric
    difference: ByMetric
    confidence: ReliabilityReport
    per_class: dict[str, ReliabilityReport]
    malignant: ReliabilityReport | None
    unlike_training: UnlikeReport
    prediction_sets: dict[str, SetsReport]  # by the level in percent


@dataclass(frozen=True)
class Subgroup:
    """One subgroup; `small` if it has too few images to be compared with others."""

    images: int
    groups: int
    small: bool
    metrics: ByMetric = field(metadata=_INLINE)


@dataclass(frozen=True)
class Gap:
    """The largest difference between two subgroups, over the classes that both have.

    Attributes:
        difference: the interval holds for the largest of all pairs, not only for a pair named beforehand.
        classes: those with enough lesions in both; only images of these count.
        compared: the number of subgroups that the two are picked from.
    """

    best: str
    worst: str
    difference: Estimate = field(metadata=_INLINE)
    classes: list[str]
    compared: int


@dataclass(frozen=True)
class Heterogeneity:
    """A test that subgroups are served alike, given the class: its statistic is chi-squared if they are."""

    statistic: float
    degrees_of_freedom: int
    p_value: float


@dataclass(frozen=True)
class AttributeReport:
    """The subgroups of one attribute, the largest gap by each metric, and a test of heterogeneity by share."""

    groups: dict[str, Subgroup]
    largest_gap: dict[str, Gap | None]
    heterogeneity: dict[str, Heterogeneity | None]


@dataclass(frozen=True)
class LesionReport:
    """The metrics of one answer per lesion, the mean of the probabilities of its images.

    Attributes:
        malignant: of malignant against benign, if every class is known as one of them.
    """

    lesions: int
    metrics: ByMetric = field(metadata=_INLINE)
    malignant: ByMetric | None = field(default=None, metadata=_OPTIONAL)


@dataclass(frozen=True)
class PatientReport:
    """The metrics of patients, each of whom counts once.

    Attributes:
        accuracy: the mean over patients of the share of their images that are answered correctly.
        with_malignant: patients who have a malignant lesion.
        malignant: of telling them from the others by the largest risk of a patient's lesions.
    """

    patients: int
    accuracy: Estimate
    with_malignant: int | None = field(default=None, metadata=_OPTIONAL)
    malignant: ByMetric | None = field(default=None, metadata=_OPTIONAL)


@dataclass(frozen=True)
class Amount:
    """A number of images, of their groups (lesions or patients), and of lesions if the data tell them apart."""

    images: int
    groups: int
    lesions: int | None


@dataclass(frozen=True)
class LeftOut:
    """Images that were left out, and why."""

    reason: str
    images: int


@dataclass(frozen=True)
class Flow:
    """The way of the images from the data to the metrics.

    Attributes:
        found: images in the folder or named by its tables. used: those that are left.
        groups_are: "lesions", "patients", "lesions or patients", or "images" if none is known.
        splits: of the used images; empty if they have none.
        evaluated: the images that the model answered. unknown_class: those of them that count in no metric.
    """

    found: int
    left_out: list[LeftOut]
    used: Amount
    groups_are: str
    splits: dict[str, Amount]
    evaluated: Amount
    unknown_class: int


@dataclass(frozen=True)
class Numbers:
    """A characteristic that is a number: its mean, standard deviation and quartiles over images."""

    mean: float
    sd: float
    median: float
    quartile_1: float
    quartile_3: float
    not_recorded: int


@dataclass(frozen=True)
class Characteristic:
    """One characteristic of the images, in each column of Table 1.

    Attributes:
        title: for people. column: its name in the data.
        values: value -> column of Table 1 -> images. numbers: column of Table 1 -> numbers. One of the two is there.
    """

    title: str
    column: str
    values: dict[str, dict[str, int]] | None = field(default=None, metadata=_OPTIONAL)
    numbers: dict[str, Numbers] | None = field(default=None, metadata=_OPTIONAL)


@dataclass(frozen=True)
class Population:
    """The flow of the images, and Table 1: its columns are splits, and "evaluated" for another set than the run's."""

    flow: Flow
    columns: dict[str, Amount]
    characteristics: list[Characteristic]


@dataclass(frozen=True)
class Verdict:
    """The sentence that a reader must know first.

    Attributes:
        level: "bad" if the metrics do not say what they seem to, "doubt" if they say little, otherwise "fine".
        text: one sentence. reasons: what it rests on.
    """

    level: str
    text: str
    reasons: list[str]


@dataclass(frozen=True)
class MemberReport:
    """A model of an ensemble, by its file and the name of its folder, and what it costs alone.

    Attributes:
        weights_mib: its size in memory. ms_per_image: its time for one view, without decoding.
    """

    checkpoint: str
    checkpoint_sha256: str
    model: str
    weights_mib: float
    ms_per_image: float


@dataclass(frozen=True)
class About:
    """The model, the set, and the way it was evaluated; `split` is "all" for a set without one.

    Attributes:
        checkpoint: its file and the name of its folder. data: the name of the data folder.
        checkpoint_sha256: of the file. images_sha256: of the evaluated images, from `contents.sha256_of`.
        training: options of the run, its best epoch, and the metrics on its validation split.
        preprocess: of an image. software: versions.
        members: the models of an ensemble, whose costs add up to its own; empty for one model.
    """

    created: str = "?"
    checkpoint: str = "?"
    checkpoint_sha256: str = "?"
    model: str = "the model"
    image_size: int = 0
    data: str = "?"
    data_name: str = "a set"
    layout: str = "?"
    images_sha256: str = "?"
    own_data: bool = False
    split: str = "all"
    tta: int = 1
    device: str = "?"
    precision: str = "?"
    seconds: float = math.nan
    images_per_second: float = math.nan
    training: dict[str, Plain] = field(default_factory=dict)
    preprocess: dict[str, Any] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    members: list[MemberReport] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """Everything that an evaluation found.

    Attributes:
        images: the number of images whose class the model has; only these count.
        groups: lesions or patients.
        subgroups: by attribute.
        decision_curve: of malignant; None if not every class is known as malignant or benign.
        prevalence: if the user states any.
        views: one view of each image against the average over several, with --tta.
        metadata: with and without metadata, of a model that takes them.
        against: the model against another, with --against.
        folds: the spread over folds, if the answers to each image are of the model that was trained without it.
        label_review: of the labels, by such answers.
        per_lesion, per_patient: for a set that tells the lesion or the patient of each image, if one has two images.
        verdict: what a reader must know first. population: the flow of the images, and Table 1.
        warnings: what a reader must know. notes: what a reader should know.
    """

    images: int
    groups: int
    intervals: Intervals
    metrics: ByMetric = field(metadata=_INLINE)
    per_class: dict[str, ClassReport]
    confusion_matrix: ConfusionMatrix
    malignant: MalignantReport | None
    operating_points: OperatingReport
    decision_curve: list[NetBenefit] | None
    deferral: DeferralReport
    decision: DecisionReport
    calibration: CalibrationReport
    subgroups: dict[str, AttributeReport]
    prevalence: PrevalenceReport | None = field(default=None, metadata=_OPTIONAL)
    views: Comparison | None = field(default=None, metadata=_OPTIONAL)
    metadata: MetadataReport | None = field(default=None, metadata=_OPTIONAL)
    against: AgainstReport | None = field(default=None, metadata=_OPTIONAL)
    folds: FoldsReport | None = field(default=None, metadata=_OPTIONAL)
    label_review: LabelReview | None = field(default=None, metadata=_OPTIONAL)
    per_lesion: LesionReport | None = field(default=None, metadata=_OPTIONAL)
    per_patient: PatientReport | None = field(default=None, metadata=_OPTIONAL)
    about: About = About()
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    verdict: Verdict | None = field(default=None, metadata=_OPTIONAL)
    population: Population | None = field(default=None, metadata=_OPTIONAL)
    kind: str = KIND
    format_version: int = FORMAT_VERSION


def to_json(value: Any) -> Any:
    """Return a report, or a part of one, as dicts, lists, texts and numbers; a number that is not finite is None."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    plain: dict[str, Any] = {}
    for spec in dataclasses.fields(value):
        kind, content = spec.metadata.get("json"), getattr(value, spec.name)
        if kind == "inline":
            plain |= to_json(content)
        elif kind != "optional" or content is not None:
            plain[spec.name] = to_json(content)
    return plain
