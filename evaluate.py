"""Evaluate a trained model on labelled images, and write the report that a paper is asked for.

    python evaluate.py                                  # the newest run, on its own test split
    python evaluate.py --by sex,age,localization        # does it serve everyone alike?
    python evaluate.py --data PAD-UFES-20               # another set, matched by class name
    python evaluate.py --checkpoint runs/NAME/best.pt --tta 8
    torchrun --standalone --nproc-per-node 4 evaluate.py    # the images shared over processes

Every metric has a 95 % interval from a bootstrap over lesions or patients. The report (report.json, .md,
.html), the pictures and the tables go into a folder of the run; model_card.md gets the results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from skin.data.dataset import SkinDiseaseDataset
from skin.evaluation import pages, report, report_files, subgroups, test_set
from skin.evaluation.model_card import check_model_card, write_model_card
from skin.evaluation.report import Predictions
from skin.evaluation.report_types import About
from skin.evaluation.test_set import SPLITS, TestSet
from skin.model import calibration, inference, precision, tta
from skin.model.checkpoint import Checkpoint, load_best
from skin.model.fold_batchnorm import for_inference
from skin.utils import cli, parallel
from skin.utils.cli import option
from skin.utils.console import Log
from skin.utils.driver import unusable_gpus
from skin.utils.errors import UserError
from skin.utils.hardware import check_workers
from skin.utils.known_errors import explained
from skin.utils.memory import keep_freed_memory
from skin.utils.parallel import Topology
from skin.utils.run_folders import newest_model

import numpy as np

MOST_ROUNDS = 100_000  # each keeps a number per metric and class


@dataclass(frozen=True)
class Settings:
    checkpoint: Path | None = option(
        None, "the trained model (default: the newest run's)", group="what", metavar="FILE"
    )
    data: Path | None = option(None, "another set, any layout (default: the run's own)", group="what", metavar="DIR")
    labels: Path | None = option(None, "table image,label[,group][,split] for --data", group="what", metavar="CSV")
    split: str = option(
        "test", "split to evaluate: " + ", ".join(SPLITS), group="what", choices=SPLITS, metavar="SPLIT"
    )
    allow_missing: bool = option(False, "go on without images that are not there or have no class", group="what")

    by: str = option("", "subgroups to look at: columns of the data, by commas", group="metrics", metavar="COLUMNS")
    tta: int = option(
        1, "average over N of the 8 turned and mirrored views, at N times the cost", group="metrics", metavar="N"
    )
    threshold: float | None = option(
        None, "also call each class whose probability is above P", group="metrics", metavar="P"
    )
    rounds: int = option(1000, "rounds of the bootstrap", group="metrics", metavar="N")
    seed: int = option(0, "of the bootstrap", group="metrics")

    amp: str = option(
        "auto", "precision: auto, fp16, bf16 or off", group="machine",
        choices=("auto", "fp16", "bf16", "off"), metavar="A",
    )  # fmt: skip
    gpus: int | None = option(None, "0 is the CPU, 1 a GPU (default: 1 if there is)", group="machine", metavar="N")
    batch_size: int | None = option(None, "images at a time (default: chosen by size)", group="machine", metavar="N")
    workers: int | None = option(None, "loader processes (default: chosen)", group="machine", metavar="N")

    out: Path | None = option(None, "folder of the report (default: in the run's)", group="output", metavar="DIR")


def main(argv: Sequence[str] | None = None) -> int:
    settings = cli.parse(Settings, __doc__, argv)
    check(settings)
    gpus = settings.gpus if settings.gpus is not None else min(1, parallel.usable_gpus())
    with parallel.setup(gpus) as topology:
        evaluate(settings, topology)
    return 0


def check(settings: Settings) -> None:
    """Raise `UserError` for an option out of range, before anything is read."""
    if not 1 <= settings.tta <= tta.VIEWS:
        raise UserError(f"--tta {settings.tta}: there are {tta.VIEWS} views of an image; choose 1 to {tta.VIEWS}")
    if not 1 <= settings.rounds <= MOST_ROUNDS:
        raise UserError(f"--rounds {settings.rounds}: the bootstrap takes 1 to {MOST_ROUNDS}; 1000 is usual")
    if settings.threshold is not None and not 0 <= settings.threshold <= 1:
        raise UserError(f"--threshold {settings.threshold}: a probability is between 0 and 1")
    if settings.gpus is not None and settings.gpus not in (0, 1):
        raise UserError(f"--gpus {settings.gpus}: one process uses one GPU; for more: torchrun --nproc-per-node N")
    if settings.labels is not None and settings.data is None:
        raise UserError("--labels is a table for --data: name the folder, too")
    check_workers(settings.workers)
    for name in ("batch_size", "seed"):
        value, least = getattr(settings, name), 1 if name == "batch_size" else 0
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be {least} or more")
    if settings.seed >= 2**63:
        raise UserError(f"--seed {settings.seed}: must be below 2**63")


def evaluate(settings: Settings, topology: Topology) -> None:
    """Evaluate a checkpoint on a set, and write the report."""
    checkpoint = load_best(settings.checkpoint or newest_model())
    if topology.is_main:
        if settings.gpus is None and (warning := unusable_gpus()):
            print(f"WARNING: {warning}", file=sys.stderr)
        print(f"model {checkpoint.describe()}", file=sys.stderr, flush=True)
    test = test_set.read(checkpoint, settings.data, settings.labels, settings.split, settings.allow_missing)
    by = subgroups.chosen(settings.by, test.rows, test.attributes)
    out = settings.out or report_files.default_folder(settings.tta, checkpoint, test)
    as_predicted = test.own and test.split == "test" and settings.tta == 1  # as predict.py answers
    card = checkpoint.path.parent / "model_card.md" if as_predicted else None
    if topology.is_main:  # what would keep the report from being written is found before the work, not after
        report_files.claim(out)
        if card is not None:
            check_model_card(card)
    log = Log(quiet=not topology.is_main)
    for warning in test.warnings:
        log.say(f"WARNING: {warning}", style="bold red")
    for note in test.notes:
        log.say(f"note: {note}", style="dim")

    predictions, about = predict(settings, topology, checkpoint, test, log)
    if not topology.is_main:
        return
    made = report.build(predictions, by, settings.rounds, settings.seed, settings.threshold)
    notes = [*test.notes, *report_files.submission_notes(test.rows["image"].tolist(), checkpoint.classes)]
    made = replace(made, about=about, warnings=list(test.warnings), notes=notes)
    report_files.write(out, made, predictions, test, checkpoint.preprocess)
    if card is not None:
        write_model_card(card, checkpoint.config, checkpoint.classes, checkpoint.metrics, made)
    log.say(pages.summary(made, out))


def predict(
    settings: Settings, topology: Topology, checkpoint: Checkpoint, test: TestSet, log: Log
) -> tuple[Predictions, About]:
    """Run the model over the set, in all processes."""
    if topology.device.type == "cpu":
        keep_freed_memory()  # half of the time would go into handing pages out anew for each large activation
    mode = precision.choose(settings.amp, topology.device)
    dataset = SkinDiseaseDataset(test.rows["path"].tolist(), test.labels, checkpoint.preprocess)
    batch_size = settings.batch_size or inference.fitting_batch_size(checkpoint.preprocess.image_size, topology)
    loader = inference.loader_of(dataset, batch_size, settings.workers, topology, log.say)
    log.say(
        f"evaluate {checkpoint.model_name} ({checkpoint.path}) on {len(dataset):,} images of {test.root}"
        f"{'' if test.split == 'all' else f', {test.split} split'}; {topology.describe()}, {mode}"
    )
    with explained(batch_size), log.progress("evaluate", -(-len(dataset) // topology.world)) as advance:
        classifier = for_inference(checkpoint, mode).to(topology.device)
        start = time.perf_counter()
        # A large set's features would fill the memory, so only their distances are kept.
        distance_of = partial(calibration.distance, checkpoint.calibration)
        logits, distance = inference.collect(
            classifier, loader, topology, True, advance, views=settings.tta, of_features=distance_of
        )
        seconds = time.perf_counter() - start
    if not np.isfinite(logits).all():
        raise UserError("the model's answers are not finite; try --amp off, or another checkpoint")
    groups = test.rows["group"].to_numpy(dtype=object)
    about = About(
        created=time.strftime("%Y-%m-%d %H:%M:%S"),
        checkpoint=str(checkpoint.path),
        model=checkpoint.model_name,
        image_size=checkpoint.preprocess.image_size,
        data=str(test.root),
        data_name=test.root.name,
        layout=test.layout,
        split=test.split,
        tta=settings.tta,
        device=topology.describe(),
        precision=str(mode),
        seconds=seconds,
        images_per_second=len(test.labels) / seconds,
    )
    return Predictions(checkpoint.classes, test.labels, logits, distance, groups, checkpoint.calibration), about


if __name__ == "__main__":
    cli.run(main)
