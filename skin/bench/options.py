"""The options of benchmark.py, read and checked once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from skin.model.choices import MODELS
from skin.utils import cli
from skin.utils.cli import flag_of, option
from skin.utils.errors import UserError
from skin.utils.files import check_output
from skin.utils.hardware import check_workers
from skin.utils.home import user_path

AMP = ("on", "off")
RECIPES = {  # name, and a short one for tables
    "ours": "ours", "ours-compiled": "compiled", "plain": "plain", "plain-channels-last": "plain-cl",
}  # fmt: skip
PARALLEL = ("dp", "ddp")
MOST = 1_000_000  # of any number
LEAST = {"batch_size": 1, "steps": 1, "warmup": 0, "rounds": 1, "image_size": 32, "epochs": 1}
KINDS = ("input", "plan", "infer", "find_batch")  # of what is measured besides training; one at a time
ALWAYS = {*KINDS, "model", "image_size", "batch_size", "data", "labels", "json", "csv"}
USES = {  # the options that a kind looks at, besides those
    "training": {
        "gpus", "amp", "recipes", "parallel", "workers", "cache", "rounds", "steps", "warmup", "whole_epoch",
        "price_per_hour", "plot", "compare", "skip_bad_images",
    },
    "plan": {"gpus", "amp", "workers", "cache", "epochs", "price_per_hour", "skip_bad_images"},
    "infer": {"gpus", "amp", "rounds", "steps", "checkpoint", "plot"},
    "input": {"rounds", "steps", "skip_bad_images"},
}  # fmt: skip


@dataclass(frozen=True)
class BenchmarkOptions:
    """The matrix of cases and how to measure it."""

    gpus: str | None = option(
        None, "numbers of GPUs; 0 is the CPU (default: 1, 2, 4, … as far as there are, otherwise the CPU)",
        group="matrix", metavar="1,2,4",
    )  # fmt: skip
    amp: str = option("on,off", "mixed precision: on, off", group="matrix", metavar="on,off")
    recipes: str = option("ours,plain", "loops: " + ", ".join(RECIPES), group="matrix", metavar="ours,plain")
    parallel: str = option("dp,ddp", "for several GPUs: DataParallel, DDP", group="matrix", metavar="dp,ddp")

    model: str = option("efficientnet_b3", "efficientnet_b0 to _b7", group="work", choices=MODELS, metavar="NAME")
    image_size: int | None = option(None, "side in pixels (default: the model's own)", group="work", metavar="N")
    batch_size: int | None = option(
        None, "images per step and GPU (default: 32; 16 on the CPU)", group="work", metavar="N"
    )
    data: Path | None = option(
        None, "data folder, as for train.py (default: generated 600x450 JPEGs)", group="work", metavar="DIR"
    )
    labels: Path | None = option(None, "table of labels, as for train.py", group="work", metavar="CSV")
    skip_bad_images: bool = option(False, "leave out images that cannot be read", group="work")
    workers: int | None = option(
        None, "loader processes (default: each recipe's own choice)", group="work", metavar="N"
    )
    cache: str = option(
        "auto", "ours: cache of decoded images, filled before timing: auto, off, or a folder", group="work",
        metavar="DIR",
    )  # fmt: skip

    rounds: int = option(2, "times that each case is measured, in turns", group="measuring", metavar="N")
    steps: int | None = option(
        None, "timed steps per round (default: 50; 4 on the CPU)", group="measuring", metavar="N"
    )
    warmup: int | None = option(
        None, "untimed steps before them (default: 10; 1 on the CPU)", group="measuring", metavar="N"
    )
    whole_epoch: bool = option(False, "time the loader over a whole epoch, not over --steps", group="measuring")
    find_batch: bool = option(
        False, "search for the largest batch that fits and measure that", group="measuring"
    )
    price_per_hour: float | None = option(
        None, "price of this machine per hour, in any currency: also report costs, of training or of --plan's runs",
        group="measuring", metavar="P",
    )  # fmt: skip
    input: bool = option(False, "measure the input path alone: JPEG to augmented batch", group="measuring")

    plan: bool = option(
        False, "say how long a run of train.py would take and what limits it (a minute or two)", group="plan"
    )
    epochs: int = option(20, "epochs of the planned run", group="plan", metavar="N")

    infer: bool = option(
        False, "measure answers, not training: latency by batch size, torch and ONNX", group="infer"
    )
    checkpoint: Path | None = option(
        None, "trained model to answer (default: --model with random weights)", group="infer", metavar="FILE"
    )

    json: Path | None = option(None, "write everything to this file", group="output", metavar="FILE")
    csv: Path | None = option(None, "write the rows to this file", group="output", metavar="FILE")
    plot: Path | None = option(None, "draw the rows to this file (png, svg or pdf)", group="output", metavar="FILE")
    compare: Path | None = option(
        None, "an earlier JSON: say what got slower or faster", group="output", metavar="FILE"
    )

    generated: bool = False  # the images of `data` were drawn here, since the user named none

    def chosen(self, name: str, known: Iterable[str]) -> list[str]:
        """Return a comma-separated option as a list without repetitions.

        Raises:
            UserError: a word is not in `known`.
        """
        words = [word.strip() for word in getattr(self, name).split(",")]
        for word in words:
            if word not in known:
                raise UserError(f"--{name} {getattr(self, name)}: {word!r} is none of {', '.join(known)}")
        return list(dict.fromkeys(words))

    def gpu_counts(self, present: int) -> list[int]:
        """Return the numbers of GPUs to measure with; 0 is the CPU.

        On a machine without GPUs the CPU comes first, asked for or not.

        Args:
            present: usable GPUs of this machine.

        Raises:
            UserError: `--gpus` is not a list of numbers.
        """
        if self.gpus is None:
            return [n for n in (1, 2, 4, 8, 16) if n <= present] or [0]
        words = [word.strip() for word in self.gpus.split(",")]
        if not all(word.isascii() and word.isdecimal() and len(word) < 4 for word in words):
            raise UserError(f"--gpus {self.gpus}: write numbers with commas, such as 1,2,4; 0 is the CPU")
        asked = list(dict.fromkeys(int(word) for word in words))
        return asked if present or 0 in asked else [0, *asked]


def read_options(description: str | None, argv: Sequence[str] | None = None) -> BenchmarkOptions:
    """Return the options of the command line, with absolute paths.

    Raises:
        UserError: an option is wrong; nothing has been measured then.
    """
    options = cli.parse(BenchmarkOptions, description, argv)
    for name, least in LEAST.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"{flag_of(name)} {value}: must be {least} or more")
        if value is not None and value > MOST:
            raise UserError(f"{flag_of(name)} {value}: must be {MOST:,} or less")
    check_workers(options.workers)
    _check_kind(options)
    options.gpu_counts(present=0)
    for name, known in (("amp", AMP), ("recipes", RECIPES), ("parallel", PARALLEL)):
        options.chosen(name, known)
    _check_outputs(options)
    paths = {name: getattr(options, name) for name in ("data", "labels", "checkpoint", "json", "csv", "plot")}
    absolute = {name: path.resolve() for name, path in paths.items() if path is not None}
    if options.cache not in ("auto", "off"):
        absolute["cache"] = str(user_path(options.cache).resolve())
    return dataclasses.replace(options, **absolute)


def _check_outputs(options: BenchmarkOptions) -> None:
    """Raise `UserError` if a file that is asked for could not be written after hours of measuring."""
    plot = options.plot
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot {plot}: end the name in .png, .svg or .pdf")
    named: dict[str, Path | None] = {
        "--compare": options.compare, "--data": options.data, "--labels": options.labels,
        "--checkpoint": options.checkpoint,
    }  # fmt: skip
    for flag, path, suffix, mark in (
        ("--json", options.json, ".json", b'"schema"'), ("--csv", options.csv, ".csv", b",device,"),
        ("--plot", plot, plot.suffix if plot else "", b""),
    ):  # fmt: skip
        if path is not None:
            check_output(flag, path, suffix, mark, named)
            named[flag] = path


def _check_kind(options: BenchmarkOptions) -> None:
    """Raise `UserError` for options that do not go together."""
    chosen = [flag_of(name) for name in KINDS if getattr(options, name)]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} measure different things; choose one")
    this = next((kind for kind in USES if getattr(options, kind, False)), "training")
    for field in dataclasses.fields(options):
        if field.name in ALWAYS | USES[this] or getattr(options, field.name) == field.default:
            continue
        users = [kind for kind, used in USES.items() if field.name in used]
        if users:  # the rest is no option
            words = " and ".join(_named(kind) for kind in users)
            raise UserError(f"{flag_of(field.name)} is for {words}, not for {_named(this)}: leave it out")
    price = options.price_per_hour
    if price is not None and not 0 <= price < math.inf:
        raise UserError(f"--price-per-hour {price:g}: must be 0 or more, such as 2.5")
    if options.labels is not None and options.data is None:
        raise UserError(f"--labels {options.labels}: needs the images that it labels, --data DIR")
    if options.infer and options.data is not None and options.checkpoint is None:
        raise UserError("--infer --data needs a trained model to answer for the images: --checkpoint FILE")
    if options.checkpoint is not None:
        for name in ("model", "image_size"):
            if getattr(options, name) != getattr(BenchmarkOptions, name):
                raise UserError(f"{flag_of(name)} is for random weights; --checkpoint says its own: leave it out")


def _named(kind: str) -> str:
    return kind if kind == "training" else flag_of(kind)
