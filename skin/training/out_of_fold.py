"""The result of a run of folds: every image answered by the one model that was not trained on it, and the ensemble.

From the answers that the folds' best.pt keep of their validation images, so no image is looked at again but for the
pictures of the report: `out_of_fold.csv`, `best.pt` (the ensemble, calibrated on these answers), the report with the
spread over folds, and the review list of labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from skin.data import contents, split, unknowns
from skin.data.dataset import SkinDiseaseDataset
from skin.data.index import count
from skin.evaluation import label_review, metrics, plots, report, report_files
from skin.evaluation.about import of_evaluation
from skin.evaluation.answers import Predictions
from skin.evaluation.population import FOLDS, describe
from skin.evaluation.report_types import LabelReview, Report
from skin.evaluation.spread import spread
from skin.evaluation.test_set import TestSet
from skin.evaluation.verdict import beats_guessing, verdict
from skin.model import calibration, ensemble
from skin.model.calibration import Calibrated
from skin.model.checkpoint import EnsembleCheckpoint, SingleCheckpoint, load_single
from skin.training import run_folder
from skin.training.options import Options
from skin.training.splits import Splits, read_splits
from skin.utils import files, run_folders
from skin.utils.console import Log
from skin.utils.errors import UserError

import numpy as np
import pandas as pd

CSV, PAGE = "out_of_fold.csv", "report.html"


def is_written(folder: Path) -> bool:
    """Return True if the result of a run of folds is there to the last file."""
    return all((folder / name).exists() for name in (run_folders.BEST, PAGE))


def write(options: Options, folder: Path, log: Log) -> None:
    """Write the result of a run all of whose folds are done, and say it.

    Raises:
        UserError: a fold is not of this run, or the data have changed.
    """
    splits = read_splits(options, folder / "split.csv", log)
    pooled = Pooled.read(folder, options.folds or 0, splits)
    labels, calibrated = pooled.predictions.labels, pooled.predictions.calibrated
    probabilities = calibrated.probabilities
    report_files.write_predictions(
        folder / CSV, pooled.images, pooled.rows["label"].tolist(), pooled.predictions,
        {"fold": pd.Series(pooled.fold)},
    )  # fmt: skip
    best = ensemble.save_ensemble(
        [model.path for model in pooled.models], folder / run_folders.BEST, ensemble.out_of_fold(pooled.models),
        config=run_folders.read_config(folder),
        metrics_of=lambda fitted: metrics.of_validation(labels, calibrated.scores),  # each by the model of its fold
    )  # fmt: skip
    review = label_review.review(labels, probabilities, pooled.set.lesions)
    table = label_review.table(
        review, pooled.images, labels, splits.classes, pooled.fold, pooled.predictions.groups
    )  # fmt: skip
    files.write_csv(folder / label_review.CSV, label_review.COLUMNS, table, for_people=True)
    made = pooled.report(options, splits, best, len(review.rows), folder)
    dataset = SkinDiseaseDataset(pooled.rows["path"].tolist(), labels, best.preprocess)
    pictures = report_files.draw(made, pooled.predictions, dataset, pooled.images)
    if sheet := report_files.label_review_sheet(review, pooled.predictions, dataset, pooled.images):
        pictures[label_review.PICTURE] = sheet
        files.write_atomically(sheet, folder / label_review.PICTURE)
    report_files.write_page(folder, made, pictures)  # its page is the last file: `is_written` looks for it
    run_folder.point_latest(folder)
    log.say(_said(made, folder, len(review.rows), has_test=bool(len(splits.of("test")))))


@dataclass(frozen=True)
class Pooled:
    """The out-of-fold answers of all images, in the order of split.csv.

    Attributes:
        rows: of the images. fold: int [N], from 1.
        models: of the folds, in their order.
        left_out: images of the folds that no model has answered.
    """

    rows: pd.DataFrame
    fold: metrics.Ints
    predictions: Predictions
    models: list[SingleCheckpoint]
    set: TestSet
    left_out: int

    @property
    def images(self) -> list[str]:
        names: list[str] = self.rows["image"].tolist()
        return names

    @classmethod
    def read(cls, folder: Path, folds: int, splits: Splits) -> Pooled:
        """Read the folds' models and put their answers together.

        Raises:
            UserError: a fold's files do not fit together, or one lacks a class.
        """
        parts = [_Fold.read(folder / f"fold-{number}", splits.classes) for number in range(1, folds + 1)]
        images = np.concatenate([part.images for part in parts])
        of_image = pd.Series(np.arange(len(images)), index=images)
        pool = splits.of("train")
        if not of_image.index.is_unique:
            raise UserError(f"{folder}: two folds have the same images in validation; they are not of one run")
        rows = pool[pool["image"].isin(of_image.index)].reset_index(drop=True)
        order = of_image[rows["image"]].to_numpy()
        fold = np.repeat(np.arange(1, folds + 1), [len(part.images) for part in parts])[order]
        labels = pd.Categorical(rows["label"], categories=list(splits.classes)).codes.astype(np.int64)

        def joined(name: str) -> Any:
            return np.concatenate([getattr(part, name) for part in parts])[order]

        if not np.array_equal(labels, joined("labels")):
            raise UserError(f"{folder}: the folds were trained with other labels than those of its split.csv")
        found = _as_set(rows, labels, splits)
        predictions = Predictions(
            classes=splits.classes, labels=labels, logits=joined("logits"), distance=joined("distance"),
            groups=rows["group"].to_numpy(dtype=object), calibration={}, lesions=found.lesions,
            patients=found.patients,
            given=_together([part.calibrated for part in parts], order),
        )  # fmt: skip
        return cls(rows, fold, predictions, [part.model for part in parts], found, len(pool) - len(rows))

    def report(
        self, options: Options, splits: Splits, best: EnsembleCheckpoint, doubted: int, folder: Path
    ) -> Report:
        """Return the report of these answers. It is of the folds' models, one an image, not of the ensemble."""
        answers = self.predictions
        made = report.build(answers, seed=options.seed)
        resolved = self.models[0].config["resolved"]
        about = replace(
            of_evaluation(best, self.set),
            checkpoint=f"{folder.name}/fold-1 to fold-{len(self.models)}",
            model=self.models[0].model_name,
            precision=resolved["precision"],
            device=resolved["parallel"],
        )
        notes = list(self.set.notes)
        if self.left_out:
            notes.append(f"{count(self.left_out, 'image')} of the folds were left out while they were trained")
        made = replace(
            made, about=about, warnings=unknowns.read(folder / unknowns.NAME) or [], population=self.set.population,
            folds=spread(
                answers.labels, answers.calibrated.probabilities, answers.groups, self.fold,
                [float(model.calibration["temperature"]) for model in self.models], answers.calibrated.called,
            ),
            label_review=LabelReview(doubted),
            operating_points=replace(made.operating_points, reason=_NO_THRESHOLDS),
        )  # fmt: skip
        made = replace(made, notes=[*notes, *plots.notes(made)])
        return replace(made, verdict=verdict(made))


_NO_THRESHOLDS = (
    "they would be chosen on the very images that they are shown for; those of the ensemble are in its report on the "
    "test split"
)


@dataclass(frozen=True)
class _Fold:
    """The answers of one fold's model to its validation images."""

    model: SingleCheckpoint
    images: metrics.Array  # [N], their names

    @classmethod
    def read(cls, folder: Path, classes: Sequence[str]) -> _Fold:
        with run_folder.reading_own(folder):
            model = load_single(folder / run_folders.BEST)
            manifest = split.read_manifest(folder / run_folders.SPLIT)
        images = manifest.loc[manifest["split"] == "val", "image"].to_numpy(dtype=object)
        answers = model.calibration.get("answers")
        if answers is None or "distance" not in answers or len(answers["labels"]) != len(images):
            raise UserError(f"{folder}: its best.pt has no answers to the validation images of its split.csv")
        if model.classes != tuple(classes):
            raise UserError(f"{folder}: its classes are {', '.join(model.classes)}, and not {', '.join(classes)}")
        return cls(model, images)

    @property
    def labels(self) -> metrics.Ints:
        return self.model.calibration["answers"]["labels"].numpy()

    @property
    def logits(self) -> metrics.Floats:
        return self.model.calibration["answers"]["logits"].numpy()

    @property
    def distance(self) -> metrics.Floats:
        return self.model.calibration["answers"]["distance"].numpy()

    @cached_property
    def calibrated(self) -> Calibrated:
        """The answers by the model's own calibration."""
        return calibration.calibrated(self.model.calibration, self.logits, self.distance)


def _together(parts: Sequence[Calibrated], order: metrics.Ints) -> Calibrated:
    """Return the answers of all folds as one, in another order."""
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ("probabilities", "sets", "sets_95", "unlike", "distance", "scores")
    }
    return Calibrated(**arrays, rule=parts[0].rule)


def _as_set(rows: pd.DataFrame, labels: metrics.Ints, splits: Splits) -> TestSet:
    """Return the images of the folds as a set that is evaluated."""
    index = splits.index
    everything = splits.rows.assign(split=splits.rows["split"].replace("train", FOLDS))
    part = everything[everything["image"].isin(rows["image"])]
    return TestSet(
        rows=rows, labels=labels, root=index.root, layout=index.layout, split=FOLDS, notes=index.notes, seen=(),
        of_run=(), own=True, population=describe(index, everything, part, 0),
        images_sha256=contents.sha256_of(rows),
    )  # fmt: skip


def _said(made: Report, folder: Path, doubted: int, has_test: bool) -> str:
    assert made.folds is not None
    found = made.folds
    lines = [f"\nout of fold, {made.images:,} images, each answered by the model that was trained without it:"]
    lines += [
        f"  {metric.label.ljust(36)}{made.metrics[metric.name].text()}, over folds "
        f"{found.mean[metric.name]:.3f} ± {found.standard_deviation[metric.name]:.3f}"
        for metric in (metrics.BY_NAME[name] for name in ("balanced_accuracy", "accuracy", "macro_auc"))
    ]
    to_look_at = f"{doubted:,} labels deserve a second look: label_review.csv, label_review.png"
    if not beats_guessing(made):
        to_look_at = f"label_review.csv, of {doubted:,} labels, says little: the models are not shown to beat a guess"
    return "\n".join([
        *lines,
        to_look_at,
        f"everything is in {folder}: best.pt (the ensemble), report.html, out_of_fold.csv",
        run_folders.next_steps(folder, has_test),
    ])  # fmt: skip
