"""Evaluate a trained model on labelled images, and write the report that a paper is asked for.

    python evaluate.py                                  # the newest run, on its own test part
    python evaluate.py --by sex,age,localization        # does it serve everyone alike?
    python evaluate.py --data PAD-UFES-20               # another set, matched by class name
    python evaluate.py --checkpoint runs/NAME/best.pt --tta 8
    torchrun --standalone --nproc-per-node 4 evaluate.py    # the images shared over processes

Every figure has a 95 % interval from a bootstrap over lesions or patients. The report (report.json, .md,
.html), the pictures and the tables go into a folder of the run; model_card.md gets the results.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skin.data.dataset import Batch, PlainBatches, SkinDiseaseDataset, ahead, checked, default_workers, make_loader
from skin.evaluation import pages, report, report_files, subgroups, test_set
from skin.evaluation.model_card import check_model_card, write_model_card
from skin.evaluation.report import Answers
from skin.evaluation.test_set import SPLITS, TestSet
from skin.model import calibration, precision, tta
from skin.model.checkpoint import Checkpoint, load_best
from skin.model.fused import for_inference
from skin.model.model import Classifier
from skin.utils import cli, parallel
from skin.utils.cli import option
from skin.utils.console import Log
from skin.utils.driver import unusable_gpus
from skin.utils.errors import UserError
from skin.utils.faults import explained
from skin.utils.files import safe_name, write_atomically, write_json
from skin.utils.hardware import check_workers
from skin.utils.memory import keep_freed_memory
from skin.utils.parallel import Topology
from skin.utils.run_folders import newest_model

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

MOST_ROUNDS = 100_000  # each keeps a number per figure and class
BATCH_PIXELS = 64 * 224 * 224  # on a CPU more are no faster; a GPU takes eight times as many


@dataclass(frozen=True)
class Settings:
    checkpoint: Path | None = option(
        None, "the trained model (default: the newest run's)", group="what", metavar="FILE"
    )
    data: Path | None = option(None, "another set, any layout (default: the run's own)", group="what", metavar="DIR")
    labels: Path | None = option(None, "table image,label[,group][,split] for --data", group="what", metavar="CSV")
    split: str = option(
        "test", "part to evaluate: " + ", ".join(SPLITS), group="what", choices=SPLITS, metavar="PART"
    )
    allow_missing: bool = option(False, "go on without images that are not there or have no class", group="what")

    by: str = option("", "subgroups to look at: columns of the data, by commas", group="figures", metavar="COLUMNS")
    tta: int = option(
        1, "average over N of the 8 turned and mirrored views, at N times the cost", group="figures", metavar="N"
    )
    threshold: float | None = option(
        None, "also ask each class where its probability is above P", group="figures", metavar="P"
    )
    rounds: int = option(1000, "rounds of the bootstrap", group="figures", metavar="N")
    seed: int = option(0, "of the bootstrap", group="figures")

    amp: str = option(
        "auto", "precision: auto, fp16, bf16 or off", group="machine",
        choices=("auto", "fp16", "bf16", "off"), metavar="A",
    )  # fmt: skip
    gpus: int | None = option(None, "0 is the CPU, 1 a GPU (default: 1 if there is)", group="machine", metavar="N")
    batch_size: int | None = option(None, "images at a time (default: chosen by size)", group="machine", metavar="N")
    workers: int | None = option(None, "loader processes (default: chosen)", group="machine", metavar="N")

    out: Path | None = option(None, "folder of the report (default: in the run's)", group="output", metavar="DIR")


@torch.inference_mode()
def ask(
    classifier: Classifier, loader: DataLoader[Batch], topology: Topology, calibrated: dict[str, Any], views: int,
    on_batch: Callable[[int], Any],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Ask the model about every image of `loader`, in all processes; features are used at once and not kept.

    Args:
        loader: over `PlainBatches` of a data set.
        calibrated: the checkpoint's calibration.
        views: how many of the eight views to average logits and features over.

    Returns:
        Logits float32 [N, C] and distances from the training images float64 [N], the same in every process.

    Raises:
        UserError: an image cannot be read, or the model answers with what is no number.
    """
    if topology.device.type == "cpu":
        keep_freed_memory()  # half of the time would go into handing pages out anew for each large activation
    size = len(loader.dataset)  # type: ignore[arg-type]
    head: Any = classifier.network.classifier[1]
    logits, distance = np.zeros((size, head.out_features), np.float32), np.zeros(size)
    for batch in ahead(loader, topology.device):
        images = checked(batch).images
        rows = batch.indices.numpy()
        features = torch.zeros(len(rows), head.in_features, device=topology.device)
        answers = torch.zeros(len(rows), head.out_features, device=topology.device)
        for k in range(views):
            pooled = classifier.features(tta.dihedral(images, k) if k else images)
            features += pooled
            answers += classifier.head(pooled)
        logits[rows] = (answers / views).cpu().numpy()
        distance[rows] = calibration.distance(calibrated, (features / views).cpu().numpy())
        on_batch(len(rows))
    # A row is zero but in the process that had its image, so the sum over the processes gathers them.
    logits, distance = topology.sum(logits).astype(np.float32), topology.sum(distance)
    if not np.isfinite(logits).all():
        raise UserError("the model's answers are not finite; try --amp off, or another checkpoint")
    return logits, distance


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
    """From a checkpoint and a set to the files of the report."""
    checkpoint = load_best(settings.checkpoint or newest_model())
    if topology.is_main:
        if settings.gpus is None and (warning := unusable_gpus()):
            print(f"WARNING: {warning}", file=sys.stderr)
        print(f"model {checkpoint.describe()}", file=sys.stderr, flush=True)
    test = test_set.read(checkpoint, settings.data, settings.labels, settings.split, settings.allow_missing)
    by = {}
    for name in filter(None, (word.strip() for word in settings.by.split(","))):
        found = subgroups.column(test.rows, name, test.attributes)
        by[found] = subgroups.bins(test.rows[found])
    out = settings.out or default_folder(settings.tta, checkpoint, test)
    plain = test.own and test.split == "test" and settings.tta == 1  # as predict.py answers
    card = checkpoint.path.parent / "model_card.md" if plain else None
    if topology.is_main:  # what would keep the report from being written is found before the work, not after
        report_files.claim(out)
        if card is not None:
            check_model_card(card)
    log = Log(quiet=not topology.is_main)
    for warning in test.warnings:
        log.say(f"WARNING: {warning}", style="bold red")
    for note in test.notes:
        log.say(f"note: {note}", style="dim")

    mode = precision.choose(settings.amp, topology.device)
    dataset = SkinDiseaseDataset(test.rows["path"].tolist(), test.labels, checkpoint.preprocess)
    batch_size = settings.batch_size or fitting_batch_size(checkpoint.preprocess.image_size, topology)
    loader = make_test_loader(dataset, batch_size, settings.workers, topology, log.say)
    log.say(
        f"evaluate {checkpoint.model_name} ({checkpoint.path}) on {len(dataset):,} images of {test.root}"
        f"{'' if test.split == 'all' else f', {test.split} part'}; {topology.describe()}, {mode}"
    )
    with explained(batch_size), log.progress("evaluate", -(-len(dataset) // topology.world)) as advance:
        classifier = for_inference(checkpoint, mode).to(topology.device)
        start = time.perf_counter()
        logits, distance = ask(classifier, loader, topology, checkpoint.calibration, settings.tta, advance)
        seconds = time.perf_counter() - start
    if not topology.is_main:
        return
    groups = test.rows["group"].to_numpy(dtype=object)
    answers = Answers(checkpoint.classes, test.labels, logits, distance, groups, checkpoint.calibration)
    made = report.build(answers, by, settings.rounds, settings.seed, settings.threshold)
    made |= {
        "kind": report_files.KIND,
        "about": about(settings, checkpoint, test, topology.describe(), str(mode), seconds),
        "warnings": list(test.warnings),
        "notes": [*test.notes, *report_files.submission_notes(test.rows["image"].tolist(), checkpoint.classes)],
    }
    write(out, made, answers, dataset, test)
    if card is not None:
        write_model_card(card, checkpoint.config, checkpoint.classes, checkpoint.metrics, made)
    log.say(summary(made, out))


def default_folder(views: int, checkpoint: Checkpoint, test: TestSet) -> Path:
    """`evaluation` in the run's folder for its own test part; in others the set, the part and the views are named.

    A set that merely has another's name does not take the place of its report.
    """
    words = ["evaluation"] if test.own else ["evaluation", safe_name(test.root.name)]
    words += [test.split] if test.split != ("test" if test.own else "all") else []
    words += [f"tta{views}"] if views > 1 else []
    folder = checkpoint.path.parent / "-".join(words)
    if test.own:
        return folder
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    free = (None, str(test.root))
    return next(path for path in itertools.chain([folder], numbered) if report_files.data_of(path) in free)


def fitting_batch_size(image_size: int, topology: Topology) -> int:
    """Images of `image_size` pixels a side that a device takes at once with profit."""
    pixels = BATCH_PIXELS * (8 if topology.device.type == "cuda" else 1)
    return max(1, pixels // image_size**2)


def make_test_loader(
    dataset: SkinDiseaseDataset, batch_size: int, workers: int | None, topology: Topology, say: Callable[[str], Any]
) -> DataLoader[Batch]:
    """This process's share of the set, every image once, in order."""
    on_gpu = topology.device.type == "cuda"
    batches = PlainBatches(len(dataset), batch_size, topology.rank, topology.world)
    return make_loader(dataset, batches, default_workers(on_gpu) if workers is None else workers, on_gpu, say)


def about(
    settings: Settings, checkpoint: Checkpoint, test: TestSet, device: str, mode: str, seconds: float
) -> dict[str, Any]:
    """What was evaluated, on what, and how."""
    return {
        "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        "checkpoint": str(checkpoint.path),
        "model": checkpoint.model_name,
        "image_size": checkpoint.preprocess.image_size,
        "data": str(test.root),
        "data_name": test.root.name,
        "layout": test.layout,
        "split": test.split,
        "tta": settings.tta,
        "device": device,
        "precision": mode,
        "seconds": seconds,
        "images_per_second": len(test.labels) / seconds,
    }


def write(
    out: Path, made: dict[str, Any], answers: Answers, dataset: SkinDiseaseDataset, test: TestSet
) -> None:
    """Write every file of the report; report.json first, by which the folder is known to be ours."""
    write_json(out / report_files.REPORT, made)
    images, probabilities = test.rows["image"].tolist(), answers.calibrated.probabilities
    names = np.array([*answers.classes, ""], dtype=object)[test.labels]  # -1 is the last
    labels = pd.Series(names).where(test.labels >= 0, test.rows["label"]).tolist()
    pictures = report_files.draw(made, answers, dataset, images)
    for name, content in pictures.items():
        write_atomically(content, out / name)
    blocks = pages.document(made, list(pictures))
    write_atomically(pages.markdown(blocks).encode(), out / "report.md")
    write_atomically(pages.html(blocks, pictures).encode(), out / "report.html")
    written = [report_files.REPORT, "report.md", "report.html", "predictions.csv", *pictures]
    report_files.write_predictions(out / "predictions.csv", images, labels, answers.classes, probabilities)
    if report_files.write_isic_submission(out / "isic_submission.csv", images, answers.classes, probabilities):
        written.append("isic_submission.csv")
    report_files.remove_stale(out, written)


def summary(made: dict[str, Any], out: Path) -> str:
    """The few lines that end the script."""
    speed = made["about"]["images_per_second"]
    lines = [f"{made['images']:,} images, {len(made['per_class'])} classes, {speed:.1f} images/s", ""]
    for name in report.OVERALL:
        lines.append(f"  {pages.NAMES[name]:46}{pages.figure_text(made[name])}")
    lines += ["", f"  {'class':46}{'images':>7}  sensitivity"]
    for of_class in made["per_class"].values():
        sensitivity = pages.figure_text(of_class["sensitivity"])
        lines.append(f"  {of_class['name'][:44]:46}{of_class['support']:7,}  {sensitivity}")
    gaps = [
        f"  largest gap by {attribute}: {pages.gap_text(name, gap)}"
        for attribute, result in made["subgroups"].items()
        for name, gap in result["largest_gap"].items()
        if gap and name == "balanced_accuracy"
    ]
    return "\n".join([*lines, *([""] if gaps else []), *gaps, "", f"the report is in {out}: open report.html"])


if __name__ == "__main__":
    cli.run(main)
