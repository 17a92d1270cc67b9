"""Every option of benchmark.py, read and checked once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skin.model.model import MODELS
from skin.utils import cli
from skin.utils.cli import option
from skin.utils.errors import UserError
from skin.utils.hardware import check_workers
from skin.utils.home import user_path

AMP = ("on", "off")
RECIPES = ("ours", "ours-compiled", "plain", "plain-channels-last")
PARALLEL = ("dp", "ddp")


@dataclass(frozen=True)
class BenchSettings:
    """The matrix and how to measure it."""

    gpus: str | None = option(
        None, "numbers of GPUs; 0 is the CPU (default: 1, 2, 4, … as there are, else the CPU)", group="matrix",
        metavar="1,2,4",
    )  # fmt: skip
    amp: str = option("on,off", "mixed precision: on, off", group="matrix", metavar="on,off")
    recipes: str = option(
        "ours,plain", ", ".join(RECIPES), group="matrix", metavar="ours,plain"
    )
    parallel: str = option("dp,ddp", "for several GPUs: DataParallel, DDP", group="matrix", metavar="dp,ddp")

    model: str = option("efficientnet_b3", "efficientnet_b0 to _b7", group="work", choices=MODELS, metavar="NAME")
    image_size: int | None = option(None, "side in pixels (default: the model's own)", group="work", metavar="N")
    batch_size: int | None = option(
        None, "images a step on each GPU (default: 32; 16 on the CPU)", group="work", metavar="N"
    )
    data: Path | None = option(
        None, "data folder, as for train.py (default: generated 600x450 JPEGs)", group="work", metavar="DIR"
    )
    labels: Path | None = option(None, "table of labels, as for train.py", group="work", metavar="CSV")
    workers: int | None = option(
        None, "loader processes (default: each recipe's own choice)", group="work", metavar="N"
    )
    cache: str = option(
        "auto", "decoded images of ours, filled before timing: auto, off, or a folder", group="work", metavar="DIR"
    )

    rounds: int = option(2, "times that each cell is measured, in turns", group="measuring", metavar="N")
    steps: int | None = option(
        None, "steps that are timed in a round (default: 50; 4 on the CPU)", group="measuring", metavar="N"
    )
    warmup: int | None = option(
        None, "steps before them (default: 10; 1 on the CPU)", group="measuring", metavar="N"
    )
    whole_epoch: bool = option(False, "time a whole epoch with the loader, not --steps of it", group="measuring")
    find_batch: bool = option(
        False, "search the largest batch that fits (of the images there are) and measure that", group="measuring"
    )
    input: bool = option(False, "measure the input path alone: JPEG to augmented batch", group="measuring")

    json: Path | None = option(None, "write everything here", group="output", metavar="FILE")
    csv: Path | None = option(None, "write the rows here", group="output", metavar="FILE")
    plot: Path | None = option(None, "draw the rows here (png, svg or pdf)", group="output", metavar="FILE")
    compare: Path | None = option(
        None, "an earlier JSON: say what got slower or faster", group="output", metavar="FILE"
    )

    def chosen(self, name: str, known: Sequence[str]) -> list[str]:
        """A comma-separated option as a list without repetitions. Raises `UserError` for what is not `known`."""
        words = [word.strip() for word in getattr(self, name).split(",")]
        for word in words:
            if word not in known:
                raise UserError(f"--{name} {getattr(self, name)}: {word!r} is none of {', '.join(known)}")
        return list(dict.fromkeys(words))

    def gpu_counts(self, present: int) -> list[int]:
        """The numbers of GPUs to measure with; 0 is the CPU. Without any GPU the CPU comes first, asked or not.

        Raises:
            UserError: `--gpus` is no list of numbers.
        """
        if self.gpus is None:
            return [n for n in (1, 2, 4, 8, 16) if n <= present] or [0]
        words = [word.strip() for word in self.gpus.split(",")]
        if not all(word.isascii() and word.isdecimal() and len(word) < 4 for word in words):
            raise UserError(f"--gpus {self.gpus}: write numbers with commas, such as 1,2,4; 0 is the CPU")
        asked = list(dict.fromkeys(int(word) for word in words))
        return asked if present or 0 in asked else [0, *asked]


def read_bench_settings(description: str | None, argv: Sequence[str] | None = None) -> BenchSettings:
    """The settings of the command line.

    Raises:
        UserError: an option is wrong; nothing has been measured then.
    """
    settings = cli.parse(BenchSettings, description, argv)
    for name, low in {"batch_size": 1, "steps": 1, "warmup": 0, "rounds": 1, "image_size": 32}.items():
        value = getattr(settings, name)
        if value is not None and value < low:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be {low} or more")
    check_workers(settings.workers)
    settings.gpu_counts(present=0)
    for name, known in (("amp", AMP), ("recipes", RECIPES), ("parallel", PARALLEL)):
        settings.chosen(name, known)
    for name in ("json", "csv", "plot"):
        path: Path | None = getattr(settings, name)
        if path is None:
            continue
        folder = path.resolve().parent
        if not folder.is_dir():
            raise UserError(f"--{name} {path}: there is no folder {folder}")
        if path.is_dir() or not os.access(folder, os.W_OK):
            raise UserError(f"--{name} {path}: cannot be written; name a file in a folder of yours")
    if settings.plot is not None and settings.plot.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot {settings.plot}: end the name in .png, .svg or .pdf")
    for name in ("plot", "compare"):
        if settings.input and getattr(settings, name) is not None:
            raise UserError(f"--{name} is for training, not for --input, which --json and --csv write down")
    for name in ("data", "labels"):
        if (path := getattr(settings, name)) is not None:
            settings = dataclasses.replace(settings, **{name: path.resolve()})
    if settings.cache not in ("auto", "off"):
        settings = dataclasses.replace(settings, cache=str(user_path(settings.cache).resolve()))
    return settings
