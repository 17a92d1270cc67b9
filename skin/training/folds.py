"""`train.py --folds K`: K models, each trained without its part of the images, in one folder.

`fold-1` to `fold-K` are the folders of ordinary runs: they are trained, stopped, killed and resumed as any other, in
turn or by a process each (`--fold N`). `split.csv` of the folder above says which image is in which fold; it is
written once, when the first fold begins. The process that finds all folds done pools their answers
(skin/training/out_of_fold.py).
"""

from __future__ import annotations

import contextlib
import gc
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from skin.data import contents, demo, metadata, split, unknowns
from skin.model.network import preprocess_for
from skin.training import out_of_fold, run_folder
from skin.training.options import OWN, Options, check_unchanged, mended
from skin.training.run import finished, is_done
from skin.training.splits import Splits, read_splits
from skin.utils import cli, files
from skin.utils.console import Log
from skin.utils.errors import UserError
from skin.utils.launchers import to_go_on
from skin.utils.parallel import Topology
from skin.utils.run_folders import CONFIG, read_config
from skin.utils.signals import Interrupts

import numpy as np
import torch

PATIENCE = 600.0  # seconds that another process may take to begin the run, or to end it

TrainOne = Callable[[Options, Topology, Interrupts], int]


def run(options: Options, topology: Topology, interrupts: Interrupts, train_one: TrainOne) -> int:
    """Train the folds that are not done, in turn, or `--fold` alone; if all are done then, pool their answers.

    Without `--folds` it is one model. All processes must call it together.

    Args:
        train_one: train.py's own; trains one model, and returns 0, or 128 + the signal that stopped it.

    Returns:
        0, or the code of the fold that was stopped.

    Raises:
        UserError: the data cannot be cut, the folder holds another run, or a fold ends in an error.
    """
    folds = options.folds
    if folds is None:
        return 0 if finished(options, topology) else train_one(options, topology, interrupts)
    begun = topology.from_main(_begin(options, topology) if topology.is_main else None)
    folder, data = begun.folder, begun.data if options.demo else options.data  # each machine has its own data
    options = replace(options, out=folder, data=data)
    log = Log(folder / "train.log", quiet=not topology.is_main)
    if options.auto and topology.from_main(out_of_fold.is_written(folder) if topology.is_main else None):
        log.say(f"{folder} is done: there is nothing to go on with")
        return 0
    try:
        code = _train(options, topology, interrupts, train_one, log)
    except UserError:
        if begun.new and topology.is_main:
            _take_back(folder)
        raise
    if code:
        return code
    numbers = range(1, folds + 1)
    left = topology.from_main([n for n in numbers if not is_done(_folder_of(folder, n))] if topology.is_main else [])
    if left:
        several = len(left) > 1
        log.say(f"fold{'s' * several} {', '.join(map(str, left))} {'are' if several else 'is'} not done yet; when "
                f"{'they are' if several else 'it is'}, or to train {'them' if several else 'it'} here: "
                f"{to_go_on(folder)}")  # fmt: skip
    elif topology.is_main:
        with run_folder.hold(folder, PATIENCE):
            out_of_fold.write(replace(options, fold=None), folder, log)
    topology.from_main(None)  # nobody leaves before
    return 0


def _train(
    options: Options, topology: Topology, interrupts: Interrupts, train_one: TrainOne, log: Log
) -> int:
    assert options.folds is not None
    assert options.out is not None
    for number in [options.fold] if options.fold is not None else range(1, options.folds + 1):
        folder = _folder_of(options.out, number)
        done, held, begun = topology.from_main(
            (is_done(folder), run_folder.is_held(folder), (folder / CONFIG).exists()) if topology.is_main else None
        )
        if done or (held and options.fold is None):
            why = "done" if done else "trained by another process: left to it"
            log.say(f"fold {number} of {options.folds} is {why}")
            continue
        log.say(f"\nfold {number} of {options.folds}", style="bold")
        of_fold = replace(options, fold=number, out=folder, resume=folder if begun else None)
        code = train_one(of_fold, topology, interrupts)
        gc.collect()  # what refers to itself: the model, the loader with its processes
        if topology.device.type == "cuda":
            torch.cuda.empty_cache()
        if topology.any([interrupts.stopping()])[0]:
            return code or 128 + (interrupts.stop or signal.SIGTERM)
        if code:
            return code
        interrupts.release()
    return 0


def _folder_of(run: Path, fold: int) -> Path:
    return run / f"fold-{fold}"


def cut(splits: Splits, options: Options) -> np.ndarray:
    """Return the fold of each row, int64 [N], as `split.cut_folds` does.

    Raises:
        UserError: the data cannot be cut, or a column of `--metadata` cannot be used in one of the folds.
    """
    assert options.folds is not None
    fold = split.cut_folds(splits.rows, splits.classes, options.folds, options.seed)
    for number in range(1, options.folds + 1) if options.metadata else ():
        metadata.fit(options.metadata, splits.rows[(fold != 0) & (fold != number)])
    return fold


def describe(splits: Splits, fold: np.ndarray) -> list[str]:
    """Return lines on the folds of a data set; `fold` is from `cut`."""
    folds, groups = int(fold.max()), splits.rows["group"]
    lines = [
        f"  fold {number}: {(fold == number).sum():,} images of {groups[fold == number].nunique():,} groups"
        for number in range(1, folds + 1)
    ]
    aside = int((fold == 0).sum())
    test = f"the {aside:,} images of the test split are in none" if aside else "there is no test split"
    return [f"{folds} folds, cut from training and validation together; {test}", *lines]


# ---- the folder of all folds ----------------------------------------------------------------------------


class _Begun(NamedTuple):
    folder: Path
    data: Path | None
    new: bool  # it began here, and just now


def _begin(options: Options, topology: Topology) -> _Begun:
    """Begin the run, or go on with it, and return where it is. Called by the main process alone.

    Raises:
        UserError: the data cannot be cut, or the folder holds another run.
    """
    if options.resume is not None:
        _go_on(options, options.resume, topology)
        _check_steps(options, options.resume, topology)
        return _Begun(options.resume, options.data, new=False)
    folder = options.out
    if folder is None or options.fold is None:
        folder = run_folder.new_folder(options.out, options.model)
    if options.demo:
        folder = run_folder.create(folder, own=options.out is None).resolve()
        options = replace(options, data=demo.write(folder / "demo").resolve())
    log = Log()
    splits = read_splits(replace(options, fold=None), log=log)
    fold = cut(splits, options)
    folder = run_folder.create(folder, own=options.out is None and not options.demo).resolve()
    with run_folder.hold(folder, PATIENCE):
        if (folder / CONFIG).exists():  # the process of another fold was faster
            if options.fold is None:
                run_folder.refuse_run(folder)
            check_unchanged(replace(options, resume=folder), read_config(folder))
            _check_steps(options, folder, topology)
            return _Begun(folder, options.data, new=False)
        _write(options, folder, splits, fold, topology)
    log.say("\n".join(describe(splits, fold)))
    return _Begun(folder, options.data, new=True)


def _write(options: Options, folder: Path, splits: Splits, fold: np.ndarray, topology: Topology) -> None:
    """Write the files of a new run: split.csv before config.json, by which it is known to have begun."""
    rows = splits.rows.assign(split=splits.rows["split"].where(fold == 0, "train"))
    split.write_manifest(rows, folder / "split.csv", fold)
    contents.write(rows, folder / contents.NAME, options.metadata)
    unknowns.write(replace(splits, rows=rows).warnings(options.class_weights == "balanced"), folder / unknowns.NAME)
    files.write_json(folder / "environment.json", run_folder.environment())
    resolved = {
        "image_size": preprocess_for(options.model, options.image_size).image_size,
        "images_per_step": options.step_images(topology.replicas),
    }
    plain = cli.plain(replace(options, out=folder, fold=None))
    files.write_json(folder / CONFIG, {**plain, "resolved": resolved})


def _go_on(options: Options, folder: Path, topology: Topology) -> None:
    """Note what the options mend of a run that goes on, unless one fold alone is trained."""
    config = read_config(folder)
    if options.demo:
        demo.write(folder / "demo")
    changed = mended(options, config)
    if all(is_done(_folder_of(folder, number)) for number in range(1, (options.folds or 0) + 1)):
        changed = {name: value for name, value in changed.items() if name in OWN}  # nothing is trained
    if changed and options.fold is None:
        before, now = _steps_of(config), _steps(options, topology)
        if now != before and any(folder.glob(f"fold-*/{CONFIG}")):
            Log(folder / "train.log").say(
                f"note: folds that have not begun get --lr {now[0]:g} and {now[1]} images a step, the others had "
                f"{before[0]:g} and {before[1]}: their answers are pooled all the same"
            )
        resolved = {**config["resolved"], "images_per_step": now[1]}
        with run_folder.hold(folder, PATIENCE):
            files.write_json(folder / CONFIG, {**config, **changed, "resolved": resolved})


def _check_steps(options: Options, folder: Path, topology: Topology) -> None:
    """Raise `UserError` if a fold would begin with other steps than the run's: its answers are pooled with theirs."""
    if options.fold is None or (_folder_of(folder, options.fold) / CONFIG).exists():
        return
    of_run, own = _steps_of(read_config(folder)), _steps(options, topology)
    if own != of_run:
        raise UserError(
            f"--fold {options.fold}: the run {folder} has --lr {of_run[0]:g} and {of_run[1]} images a step, and this "
            f"fold would have {own[0]:g} and {own[1]}; leave --lr, --batch-size and --accumulate out, or choose "
            "another --out"
        )


def _steps(options: Options, topology: Topology) -> tuple[float, int]:
    """Return the learning rate and the images of a step that a fold would begin with."""
    return options.lr, options.images_per_step or options.step_images(topology.replicas)


def _steps_of(config: dict[str, Any]) -> tuple[float, int]:
    """Return those that a run's config.json has."""
    return config["lr"], config["resolved"]["images_per_step"]


def _take_back(folder: Path) -> None:
    """Remove the files of a run none of whose folds has begun, so that the command may be given again, mended."""
    if any(folder.glob(f"fold-*/{CONFIG}")):
        return
    files_of_run = (CONFIG, "split.csv", contents.NAME, unknowns.NAME, "environment.json", "train.log")
    for name in (*files_of_run, run_folder.LOCK):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()
