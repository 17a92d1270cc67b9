"""The options of evaluate.py. Needs no torch: `--help` is answered before that is imported."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

from skin.evaluation import run_list
from skin.evaluation.run_list import ORDERS
from skin.model.choices import AMP, VIEWS
from skin.utils.cli import flag_of, option
from skin.utils.errors import UserError
from skin.utils.hardware import check_workers

SPLITS = ("train", "val", "test", "all")
LEAST_ROUNDS = 2  # one has no spread
MOST_ROUNDS = 100_000  # each keeps a number per metric and class


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of evaluate.py: the model, the images, the method and the files."""

    checkpoint: tuple[Path, ...] = option(
        (), "the trained model (default: the newest run's); several are one ensemble", group="what", nargs="+",
        metavar="FILE",
    )
    data: Path | None = option(None, "another set, any layout (default: the run's own)", group="what", metavar="DIR")
    labels: Path | None = option(None, "table image,label[,group][,split] for --data", group="what", metavar="CSV")
    label_column: str | None = option(None, "column of the labels of --data", group="what", metavar="NAME")
    group_column: str | None = option(
        None, "column of patients or lesions of --data", group="what", metavar="NAME"
    )
    group_by: str | None = option(
        None, "regular expression that finds the lesion or patient in paths of --data", group="what", metavar="REGEX"
    )
    split: str = option(
        "test", "split to evaluate: " + ", ".join(SPLITS), group="what", choices=SPLITS, metavar="SPLIT"
    )
    against: Path | None = option(
        None, "another model to compare with: paired differences on the same images", group="what", metavar="FILE"
    )
    allow_missing: bool = option(False, "go on without images that are not there or have no class", group="what")

    by: str = option("", "columns to report subgroups by, separated by commas", group="metrics", metavar="COLUMNS")
    tta: int = option(
        1, "average over N of the 8 turned and mirrored views, at N times the cost", group="metrics", metavar="N"
    )
    threshold: float | None = option(
        None, "also call each class whose probability is above P", group="metrics", metavar="P"
    )
    prevalence: str = option(
        "", "also give PPV and NPV where the share of CLASS (or malignant) is P", group="metrics",
        metavar="CLASS=P,...",
    )  # fmt: skip
    cost_ratio: float | None = option(
        None, "also choose the threshold for a miss that costs R false alarms", group="metrics", metavar="R"
    )
    rounds: int = option(1000, "rounds of the bootstrap", group="metrics", metavar="N")
    seed: int = option(0, "seed of the bootstrap", group="metrics")

    amp: str = option(
        "auto", "precision: auto, fp16, bf16 or off; auto is float32 for a model trained in it", group="machine",
        choices=AMP, metavar="A",
    )  # fmt: skip
    gpus: int | None = option(None, "0 is the CPU, 1 a GPU (default: 1 if there is)", group="machine", metavar="N")
    batch_size: int | None = option(None, "images at a time (default: chosen by size)", group="machine", metavar="N")
    workers: int | None = option(None, "loader processes (default: chosen)", group="machine", metavar="N")

    list: bool = option(False, "show the runs in runs and leave: data, model, score, duration, state", group="output")
    sort: str = option(
        "began", "order of --list: " + ", ".join(ORDERS), group="output", choices=tuple(ORDERS), metavar="ORDER"
    )
    json: bool = option(False, "--list as JSON", group="output")
    out: Path | None = option(None, "folder of the report (default: in the run's)", group="output", metavar="DIR")


def list_runs(options: EvaluateOptions) -> int:
    """Show the runs in `runs`, as `--list` asks; return the exit code.

    Raises:
        UserError: an option is given that says how to evaluate.
    """
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name not in ("list", "sort", "json") and value != field.default:
            raise UserError(f"{flag_of(field.name)} is not for --list, which shows every run in runs: leave it out")
    return run_list.show(options.sort, options.json)


def check(options: EvaluateOptions) -> None:
    """Raise `UserError` for an option out of range, before anything is read."""
    if options.json and not options.list:
        raise UserError("--json is for --list; the report is in report.json anyway")
    if options.sort != EvaluateOptions.sort and not options.list:
        raise UserError(f"--sort {options.sort} is for --list: add --list to see the runs in that order")
    if not 1 <= options.tta <= VIEWS:
        raise UserError(f"--tta {options.tta}: there are {VIEWS} views of an image; choose 1 to {VIEWS}")
    if not LEAST_ROUNDS <= options.rounds <= MOST_ROUNDS:
        allowed = f"{LEAST_ROUNDS} to {MOST_ROUNDS}"
        raise UserError(f"--rounds {options.rounds}: the bootstrap takes {allowed}; 1000 is usual")
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise UserError(f"--threshold {options.threshold}: a probability is between 0 and 1")
    parse_prevalence(options.prevalence)
    if options.cost_ratio is not None and not 0 < options.cost_ratio < math.inf:
        raise UserError(
            f"--cost-ratio {options.cost_ratio:g}: the false alarms that a miss costs must be above 0, such as 20"
        )
    if options.gpus is not None and options.gpus not in (0, 1):
        raise UserError(f"--gpus {options.gpus}: one process uses one GPU; for more: torchrun --nproc-per-node N")
    of_data = {"labels": "a table", "label_column": "a column", "group_column": "a column", "group_by": "a pattern"}
    for name, what in of_data.items():
        if getattr(options, name) is not None and options.data is None:
            raise UserError(f"{flag_of(name)} is {what} for --data: name the folder, too")
    check_workers(options.workers)
    for name in ("batch_size", "seed"):
        value, least = getattr(options, name), 1 if name == "batch_size" else 0
        if value is not None and value < least:
            raise UserError(f"{flag_of(name)} {value}: must be {least} or more")
    if options.seed >= 2**63:
        raise UserError(f"--seed {options.seed}: must be below 2**63")


def parse_prevalence(text: str) -> dict[str, float] | None:
    """Return the prevalence of each class that `--prevalence mel=0.02,bcc=0.03` names; None for an empty text.

    Raises:
        UserError: it cannot be read, or a number is no share.
    """
    found: dict[str, float] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (part.strip() for part in item.rpartition("="))
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not name or not 0 < value < 1:
            raise UserError(f"--prevalence {item}: write CLASS=P with P above 0 and below 1, such as mel=0.02")
        if name in found:
            raise UserError(f"--prevalence names {name} twice: {text}")
        found[name] = value
    if math.fsum(value for name, value in found.items() if name.lower() != "malignant") > 1 + 1e-9:
        raise UserError(f"--prevalence {text}: the shares add up to more than 1")
    return found or None
