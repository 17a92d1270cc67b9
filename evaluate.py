"""Evaluate a trained model on labelled images, and write the report that a paper is asked for.

    python evaluate.py                                  # the newest run, on its own test split
    python evaluate.py --by sex,age,localization        # does it serve everyone alike?
    python evaluate.py --data PAD-UFES-20               # another set, matched by class name
    python evaluate.py --checkpoint runs/NAME/best.pt --tta 8
    python evaluate.py --checkpoint runs/A/best.pt runs/B/best.pt    # the two as one model, an ensemble
    python evaluate.py --against runs/OTHER/best.pt     # is it better than another model?
    python evaluate.py --list                           # the runs, with data, score, duration and state
    torchrun --standalone --nproc-per-node 4 evaluate.py    # the images shared over processes

Every metric has a 95 % interval from a bootstrap over lesions or patients. The report (report.json, .md,
.html), the pictures and the tables go into a folder of the run; model_card.md gets the results.
"""

from __future__ import annotations

import filecmp
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from skin.evaluation.options import EvaluateOptions, check, list_runs, parse_prevalence
from skin.utils import cli

if __name__ == "__main__":  # before torch, which takes seconds to import
    cli.answer_early(EvaluateOptions, __doc__)
    if "--list" in sys.argv:
        cli.run(lambda: list_runs(cli.parse(EvaluateOptions, __doc__)))

from skin.data.dataset import SkinDiseaseDataset
from skin.evaluation import against, pages, plots, prevalence, report, report_files, several, subgroups, test_set
from skin.evaluation.about import of_evaluation
from skin.evaluation.answers import Predictions, Without
from skin.evaluation.model_card import check_model_card, write_model_card
from skin.evaluation.report_types import About
from skin.evaluation.seen import unfair
from skin.evaluation.test_set import TestSet
from skin.evaluation.verdict import verdict
from skin.model import calibration, inference, precision
from skin.model.checkpoint import Checkpoint, load_best
from skin.model.ensemble import Unseen, joinable
from skin.model.fold_batchnorm import for_inference
from skin.utils import parallel
from skin.utils.console import Log
from skin.utils.driver import unusable_gpus
from skin.utils.errors import UserError
from skin.utils.known_errors import as_user_errors
from skin.utils.memory import keep_freed_memory
from skin.utils.parallel import Topology
from skin.utils.run_folders import BEST, newest_model

import numpy as np


def main(argv: Sequence[str] | None = None) -> int:
    options = cli.parse(EvaluateOptions, __doc__, argv)
    if options.list:
        return list_runs(options)
    check(options)
    gpus = options.gpus if options.gpus is not None else min(1, parallel.usable_gpus())
    with parallel.setup(gpus) as topology:
        evaluate(options, topology)
    return 0


def evaluate(options: EvaluateOptions, topology: Topology) -> None:
    """Evaluate a checkpoint on a set, and write the report."""
    checkpoint = load(options, topology)
    if topology.is_main:
        if options.gpus is None and (warning := unusable_gpus()):
            print(f"WARNING: {warning}", file=sys.stderr)
        print(f"model {checkpoint.describe()}", file=sys.stderr, flush=True)
    test = test_set.read(
        checkpoint, options.data, options.labels, options.split, options.allow_missing,
        label_column=options.label_column, group_column=options.group_column, group_by=options.group_by,
    )  # fmt: skip
    other = load_other(options.against, checkpoint) if options.against else None
    by = subgroups.chosen(options.by, test.rows, test.attributes)
    stated = parse_prevalence(options.prevalence)
    if stated is not None:
        prevalence.of_set(stated, checkpoint.classes, test.labels)  # refused before the work, not after
    out = options.out or report_files.default_folder(options.tta, checkpoint, test)
    as_predicted = test.own and test.split == "test" and options.tta == 1  # as predict.py answers
    card = checkpoint.path.parent / "model_card.md" if as_predicted else None
    if topology.is_main:  # a report that could not be written is refused before the work, not after
        report_files.claim(out)
        if card is not None:
            check_model_card(card)
    log = Log(quiet=not topology.is_main)
    for warning in test.warnings:
        log.say(f"WARNING: {warning}", style="bold red")
    for note in test.notes:
        log.say(f"note: {note}", style="dim")

    predictions, about = predict(options, topology, checkpoint, test, log, pixels_too=True)
    if other is not None:
        predictions = replace(predictions, other=ask_other(options, topology, other, predictions.classes, test, log))
    if not topology.is_main:
        return
    made = report.build(
        predictions, by, options.rounds, options.seed, options.threshold, options.cost_ratio, stated
    )
    images = test.rows["image"].tolist()
    notes = [*test.notes, *report_files.submission_notes(images, checkpoint.classes, test.layout)]
    notes += plots.notes(made)
    notes += [f"{checkpoint.lost_rule}, for they share no validation images"] if checkpoint.lost_rule else []
    shortcut = [made.metadata.alone] if made.metadata is not None and made.metadata.shortcut else []
    warnings = [*test.warnings, *shortcut]
    made = replace(made, about=about, warnings=warnings, notes=notes, population=test.population)
    made = replace(made, verdict=verdict(made))
    report_files.write(out, made, predictions, test, checkpoint.preprocess, by)
    if card is not None:
        splits = test.population.flow.splits
        write_model_card(
            card, checkpoint.config, checkpoint.classes, checkpoint.metrics, made, test.of_run,
            images={name: of_split.images for name, of_split in splits.items()},
        )  # fmt: skip
    log.say(pages.summary(made, out))


def load(options: EvaluateOptions, topology: Topology) -> Checkpoint:
    """Return the model; of several checkpoints, the ensemble, which rank 0 writes into a run folder of its own."""
    paths = options.checkpoint
    if len(paths) < 2:
        return load_best(paths[0] if paths else newest_model())
    models = joinable(paths)
    if topology.is_main:
        several.join(models)
    topology.barrier()
    made = load_best(several.folder_of(paths) / BEST)
    if not made.calibration and several.share_validation(models):
        unseen = ask_validation(options, topology, made)
        if topology.is_main:
            several.join(models, unseen)
        topology.barrier()
        made = load_best(made.path)
    return made


def ask_validation(options: EvaluateOptions, topology: Topology, made: Checkpoint) -> Unseen:
    """Return an ensemble's answers to the validation images that its members share."""
    log = Log(quiet=not topology.is_main)
    val = test_set.read(made, None, None, "val", options.allow_missing)
    answers, _ = predict(replace(options, tta=1), topology, made, val, log)
    known = answers.known
    return Unseen(answers.logits[known], val.labels[known], answers.groups[known])


def predict(
    options: EvaluateOptions, topology: Topology, checkpoint: Checkpoint, test: TestSet, log: Log,
    pixels_too: bool = False,
) -> tuple[Predictions, About]:  # fmt: skip
    """Run the model over the set, in all processes; with `pixels_too` also as if no metadata were known."""
    if topology.device.type == "cpu":
        keep_freed_memory()  # otherwise half of the time goes into new pages for each large activation
    mode = precision.choose(checkpoint.amp(options.amp), topology.device)
    dataset, shares = dataset_of(test, checkpoint, pixels_too)
    batch_size = options.batch_size or inference.fitting_batch_size(checkpoint.preprocess.image_size, topology)
    loader = inference.loader_of(dataset, batch_size, options.workers, topology, log.say)
    log.say(
        f"evaluate {checkpoint.model_name} ({checkpoint.path}) on {len(dataset):,} images of {test.root}"
        f"{'' if test.split == 'all' else f', {test.split} split'}; {topology.describe()}, {mode}"
    )
    with as_user_errors(batch_size), log.progress("evaluate", -(-len(dataset) // topology.world)) as advance:
        classifier = for_inference(checkpoint, mode).to(topology.device)
        start = time.perf_counter()
        # A large set's features would fill the memory, so only their distances are kept.
        distance_of = partial(calibration.distance, checkpoint.calibration)
        logits, distance, one_view = inference.collect(
            classifier, loader, topology, distance_of, advance, views=options.tta
        )
        seconds = time.perf_counter() - start
    if not np.isfinite(logits).all():
        raise UserError("the model's answers are not finite; try --amp off, or another checkpoint")
    without = None
    if logits.ndim == 3:
        without = Without(logits[:, 1], shares)
        logits, one_view = logits[:, 0], one_view[:, 0]
    about = replace(
        of_evaluation(checkpoint, test, classifier),
        tta=options.tta,
        device=topology.describe(),
        precision=str(mode),
        seconds=seconds,
        images_per_second=len(test.labels) / seconds,
    )
    found = Predictions(
        classes=checkpoint.classes,
        labels=test.labels,
        logits=logits,
        distance=distance,
        groups=test.rows["group"].to_numpy(dtype=object),
        calibration=checkpoint.calibration,
        lesions=test.lesions,
        patients=test.patients,
        one_view=one_view if options.tta > 1 else None,
        without=without,
    )
    return found, about


def dataset_of(
    test: TestSet, checkpoint: Checkpoint, pixels_too: bool
) -> tuple[SkinDiseaseDataset, dict[str, float]]:
    """Return the images as a model takes them, and by column of its metadata the share of images with a value."""
    known = test.metadata_for(checkpoint.encoder)
    shares = {} if known is None else known.encoder.known(known.rows)
    if known is not None and pixels_too and any(shares.values()):
        known = known.and_without()
    paths = test.rows["path"].tolist()
    return SkinDiseaseDataset(paths, test.labels, checkpoint.preprocess, metadata=known), shares


def load_other(path: Path, checkpoint: Checkpoint) -> Checkpoint:
    """Return the model to compare with; `UserError` if it is the same one, or has other classes."""
    other = load_best(path)
    if filecmp.cmp(other.path, checkpoint.path, shallow=False):
        raise UserError(f"--against {path} is the model itself ({checkpoint.path}): name another one")
    against.order_of(checkpoint.classes, other.classes, str(path))
    return other


def ask_other(
    options: EvaluateOptions, topology: Topology, other: Checkpoint, classes: tuple[str, ...], test: TestSet, log: Log
) -> against.Other:
    """Return another model's answers to the set, for the classes in their order; say what it was trained on."""
    seen = test_set.seen_by(other, test)
    for warning in seen:
        log.say(f"WARNING: --against {other.path}: {warning}", style="bold red")
    answers, about = predict(options, topology, other, test, log)
    order = against.order_of(classes, other.classes, str(other.path))
    probabilities = answers.calibrated.probabilities
    balanced = calibration.balanced(other.calibration, probabilities)
    return against.Other(
        about.checkpoint, about.checkpoint_sha256, about.model, probabilities[:, order],
        None if balanced is None else against.renumbered(order, balanced),
        against.renumbered(order, answers.calibrated.called), unfair(test.seen, seen),
    )  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
