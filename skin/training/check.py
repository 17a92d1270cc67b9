"""`train.py --check`: audit the data of a run and show it, in check.json and check.html."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from skin.data import demo, split
from skin.data.audit import CheckReport, check
from skin.data.class_names import readable_name
from skin.data.suspicious import suspicions
from skin.evaluation import check_page
from skin.training import folds, run_folder, speed
from skin.training.options import Options
from skin.training.splits import Splits, cache_folder, index_of, unpack_arrays, with_metadata
from skin.utils import cli
from skin.utils.console import Log
from skin.utils.errors import printable
from skin.utils.files import write_atomically
from skin.utils.home import home
from skin.utils.parallel import Topology

PAGE = "check.html"
_OF_FOLDS = Path("runs/folds")  # which one fold and the others share, if no folder is named
_GO_ON = "--allow-missing"
_UNCUT = "cannot be split"
_LOOK_AT = 10  # lines on odd classes; the page has all


def run(
    options: Options, argv: Sequence[str] | None, processes: Topology, build_trainer: speed.BuildTrainer,
    train_step: speed.TrainStep,
) -> int:  # fmt: skip
    """Audit the data folder, and write check.json and check.html; return 1 if something is wrong, or 0.

    Args:
        argv: the command line, from which that of the training is made.
        build_trainer, train_step: train.py's own; a few steps are timed.
    """
    log = Log()
    out = run_folder.new_folder(options.out, "check", checks=True)
    if options.demo:
        options = replace(options, data=demo.write(out / "demo").resolve())
    index = index_of(options, keep_going=True)
    unpack_arrays(options, index)
    with log.progress("reading images", len(index.rows)) as advance:
        report = check(
            index, split.parse_fractions(options.split), options.seed, out,
            keep_duplicates=options.keep_duplicates, cache=cache_folder(options), progress=advance,
            balanced=options.class_weights == "balanced",
        )  # fmt: skip
    *lines, verdict = report.lines(log.width)
    splits = Splits(report.index, report.rows, report.index.classes)
    is_cut = not any(_UNCUT in fault for fault in report.faults)
    if options.folds is not None and is_cut:
        lines += folds.describe(splits, folds.cut(splits, options))
    log.say("\n".join([*lines, *look_at(report), verdict, f"written: {out / 'check.json'}"]))
    if is_cut:
        splits = with_metadata(splits, options.metadata)
    trains_all = options.folds is not None and options.fold is None
    advice = check_page.Advice(
        command=shlex.join(command(cli.parse(Options, None, argv), report)),
        to_mend=[fault for fault in report.faults if _GO_ON not in fault],
        duration=[
            *speed.estimate(options, processes, splits, build_trainer, train_step),
            *([f"That is for one model, and --folds {options.folds} trains as many."] if trains_all else []),
        ],
    )
    write_atomically(check_page.html(report, advice, options.seed).encode("utf-8"), out / PAGE)
    log.say(f"to look at: {out / PAGE}")
    return report.exit_code


def look_at(report: CheckReport) -> list[str]:
    """Return lines on the classes that a person should look at, as check.html has them."""
    odd = suspicions(report.counts(), report.index.rows["label"].value_counts())
    named = [(", ".join(printable(readable_name(cls)) for cls in it.classes), it.reason) for it in odd]
    more = [f"and {len(named) - _LOOK_AT:,} more, in {PAGE}"] if len(named) > _LOOK_AT else []
    return [*(f"look at {names}: {reason}" for names, reason in named[:_LOOK_AT]), *more]


def command(typed: Options, report: CheckReport) -> list[str]:
    """Return the words of the command that trains on what was checked, going on without what cannot be used.

    Args:
        typed: the options as they stand on the command line, with no default of a recipe.
    """
    values = {field.name: getattr(typed, field.name) for field in cli.options(Options)}
    values["skip_bad_images"] |= bool(report.unreadable)
    values["allow_missing"] |= any(_GO_ON in fault for fault in report.faults)
    values["out"] = None if typed.fold is None else typed.out or _OF_FOLDS
    words = ["python", "train.py"]
    for field in cli.options(Options):
        value = values[field.name]
        if field.name == "check" or value == field.default:
            continue
        flag = cli.flag_of(field.name)
        for each in value if isinstance(value, tuple) else (value,):
            text = _as_typed(each)
            words += [flag] if value is True else [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return words


def _as_typed(value: object) -> str:
    """Return the text of an option's value; `~`, which stands for the home folder in every path, hides its name."""
    known = home()
    if isinstance(value, Path) and known is not None and value.is_relative_to(known):
        return str(Path("~") / value.relative_to(known))
    return str(value)
