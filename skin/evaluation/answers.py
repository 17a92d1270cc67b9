"""The answers of a model to images, with the truth, and the bootstrap that draws those that count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

from skin.evaluation import subgroups
from skin.evaluation.against import Other
from skin.evaluation.intervals import Estimates, Resampler
from skin.evaluation.lesions import Owners
from skin.evaluation.malignant import malignant_classes, two_classes
from skin.evaluation.metrics import Bools, Floats, Ints
from skin.evaluation.report_types import ByMetric
from skin.evaluation.subgroups import SubgroupMetric
from skin.model import calibration
from skin.model.calibration import Calibrated, Calibration

import numpy as np
import numpy.typing as npt


class Without(NamedTuple):
    """A model's answers to N images by the pixels alone, and what is known beside the pixels.

    Attributes:
        logits: float [N, C].
        known: by column of the metadata, the share of images with a value that the model knows.
    """

    logits: Floats
    known: dict[str, float]


@dataclass(frozen=True)
class Predictions:
    """A model's answers for N images, and the truth.

    Attributes:
        classes: the model's, in the order of its outputs.
        labels: int64 [N]; -1 if the model lacks the class. Such images count in no metric but one: how many of
            them are flagged as unlike the training set.
        logits: float [N, C].
        distance: float64 [N], from `calibration.distance`.
        groups: [N], lesion or patient, or the image's name.
        calibration: the checkpoint's, as `calibration.fit` made it.
        lesions, patients: [N], those of each image, if the set tells them.
        one_view: float [N, C], the logits of one view, if `logits` are averaged over several.
        without: the answers if all metadata are missing, of a model that takes them.
        other: the answers of the model that this one is compared with.
        given: the calibrated answers, if each image has its own model, as out of fold; `calibration` is empty then.
    """

    classes: tuple[str, ...]
    labels: Ints
    logits: Floats
    distance: Floats
    groups: npt.NDArray[Any]
    calibration: Calibration
    lesions: npt.NDArray[Any] | None = None
    patients: npt.NDArray[Any] | None = None
    one_view: Floats | None = None
    without: Without | None = None
    other: Other | None = None
    given: Calibrated | None = None

    @cached_property
    def calibrated(self) -> Calibrated:
        if self.given is not None:
            return self.given
        return calibration.calibrated(self.calibration, self.logits, self.distance)

    @property
    def known(self) -> Bools:
        """The images whose class the model has, bool [N]."""
        return self.labels >= 0

    @property
    def owners(self) -> Owners:
        """The owners of those images."""
        lesions, patients = (
            None if names is None else np.asarray(names)[self.known] for names in (self.lesions, self.patients)
        )
        return Owners(self.groups[self.known], lesions, patients)


@dataclass(frozen=True)
class Answers:
    """The answers for the images that count, and the bootstrap that draws these.

    Attributes:
        labels: int [N]. probabilities: float [N, C].
        called: int [N], the label of the decision rule, the class of the largest of `scores`, float [N, C].
        malignant: the malignant classes, bool [C], if they are known.
        draw: gives the resampler of some groups; `resampler` is that of all.
        estimates: the metrics of all.
    """

    classes: tuple[str, ...]
    labels: Ints
    probabilities: Floats
    called: Ints
    scores: Floats
    malignant: Bools | None
    owners: Owners
    draw: Callable[..., Resampler]
    resampler: Resampler
    estimates: Estimates

    @classmethod
    def of(cls, predictions: Predictions, rounds: int, seed: int) -> Answers:
        """Return those of some predictions, and ask for the metrics of all."""
        known, calibrated, owners = predictions.known, predictions.calibrated, predictions.owners
        labels, probabilities = predictions.labels[known], calibrated.probabilities[known]
        draw = partial(Resampler, rounds=rounds, seed=seed)
        called, resampler = calibrated.called[known], draw(owners.groups)
        return cls(
            predictions.classes, labels, probabilities, called, calibrated.scores[known],
            malignant_classes(predictions.classes), owners, draw, resampler,
            Estimates(labels, probabilities, resampler, called=called),
        )  # fmt: skip

    def resampler_of(self, rows: Bools, number: int) -> Resampler:
        """Return the resampler of some rows, bool [N]; those of two numbers draw independently."""
        return self.draw(self.owners.groups[rows], stream=number)

    def metrics_of(self, rows: Bools, resampler: Resampler) -> ByMetric:
        """Return the metrics of a subgroup, of some rows, bool [N]."""
        labels, probabilities = self.labels[rows], self.probabilities[rows]
        estimates = Estimates(labels, probabilities, resampler, called=self.called[rows])
        two = None
        if self.malignant is not None:  # asked for before the first estimate is read
            two = Estimates(*two_classes(self.malignant, labels, probabilities), resampler, ranked=(), summed=())
        found = {}
        for entry in subgroups.METRICS:
            if not entry.of_malignant:
                found[entry.name] = estimates.estimate(entry.metric.name)
            elif two is not None:
                found[entry.name] = two.estimate(entry.metric.name, 1)
        return found

    def counting(self, entry: SubgroupMetric) -> Bools:
        """Return the classes whose images count in a metric of subgroups, bool [C]."""
        if entry.of_malignant and self.malignant is not None:
            return self.malignant if entry.metric.name == "sensitivity" else ~self.malignant
        return np.ones(len(self.classes), bool)

    def hits(self, entry: SubgroupMetric) -> Bools | None:
        """Return the images that are answered rightly, bool [N]; None for a metric that is no share of these."""
        if entry.of_malignant and self.malignant is not None:
            truth, two = two_classes(self.malignant, self.labels, self.probabilities)
            hits: Bools = two.argmax(1) == truth
            return hits
        return self.called == self.labels if entry.metric.name == "accuracy" else None
