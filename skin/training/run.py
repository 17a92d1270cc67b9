"""A training run put together from its options, saved, and brought back to where it was."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skin.data import contents, demo
from skin.data.index import count
from skin.data.split import write_manifest
from skin.model import checkpoint
from skin.training import attempts, nodes, run_folder
from skin.training.options import MONITORS, Options, mended
from skin.training.progress import Progress
from skin.training.saver import Saver, kept, newest
from skin.training.splits import Splits, read_splits
from skin.training.trainer import Trainer, build_trainer, cannot_compile
from skin.utils import cli, files, run_folders
from skin.utils.console import Log
from skin.utils.driver import unusable_gpus
from skin.utils.errors import UserError
from skin.utils.parallel import Topology

from torch import nn


@dataclass
class Run:
    """A training run: its folder, its data, its trainer, and how far it has come."""

    folder: Path
    config: dict[str, Any]
    splits: Splits
    trainer: Trainer
    progress: Progress
    log: Log
    saver: Saver

    def save(self, best: bool = False) -> None:
        """Give the saver what `--resume` needs, and what inference needs if this is the best epoch."""
        progress = self.progress.state(self.trainer.topology)  # gathered from all processes
        state = self.trainer.state()  # so is this
        if self.trainer.topology.is_main:
            last = {**state, "progress": progress, "classes": list(self.splits.classes)}
            best_state = self.best_state(self.trainer.classifier.network, {}) if best else None
            self.saver.save(last, best_state, self.progress.history)

    def how_to_go_on(self) -> str:
        """Say after a fault what is left, and the command that goes on."""
        return f"{kept(self.folder)}; go on with: python train.py --resume {shlex.quote(str(self.folder))}"

    def restore(self, state: dict[str, Any], source: str) -> None:
        """Go on from a state that `save` wrote. Raises `UserError` where it is of other data or another model."""
        path = self.folder / "last.pt"
        classes = state.get("classes")
        if not isinstance(classes, list) or [str(name) for name in classes] != list(self.splits.classes):
            raise UserError(f"{path}: the data's classes have changed since; restore the data, or start a new run")
        self.trainer.load_state(state, path)
        self.progress.load_state(state.get("progress"), self.trainer.topology, len(self.trainer.batches))
        if self.trainer.topology.is_main:  # a kill after the last epoch's last.pt may have left it a row short
            run_folder.write_metrics(self.folder / "metrics.csv", self.progress.history)
        self.log.say(f"resumed {source}: {self.progress.epoch} epochs and {self.progress.step} steps are done")

    def note_changes(self, state: dict[str, Any] | None) -> None:
        """Say what is not as it was and what that means, and note it in config.json, and so in best.pt.

        Where the steps of an epoch take other images than in `state`, the epoch under way begins anew: half of it
        by the one plan and half by the other would count some images twice and others never.
        """
        trainer, splits = self.trainer, self.splits
        changed = mended(trainer.options, self.config)
        if "data" in changed:
            compared = "names, labels and contents" if (self.folder / contents.NAME).exists() else "names and labels"
            same = "" if splits.left_out or splits.changed else f": {compared} are as they were"
            self.log.say(f"data moved from {self.config['data']}{same}")
        machine = trainer.changes_since(state.get("machine")) if state else []
        before = {"images a step": self.config["resolved"]["images_per_step"]}
        plan = trainer.changes_of_plan({**before, **((state or {}).get("plan") or {})})
        other = [f"{name} {changed[name]:g} (was {self.config[name]:g})" for name in ("lr",) if name in changed]
        other += plan
        for what, names in (("left out", splits.left_out), ("another file than before", splits.changed)):
            other += [f"{count(len(names), 'image')} {what} (first: {names[0]})"] if names else []
        anew = bool(plan) and self.progress.begin_anew()
        if other:
            end = f"; epoch {self.progress.epoch + 1} begins anew" if anew else ""
            changes = ", ".join([*other, *machine])
            self.log.say(f"note: {changes}: the results will not be those of the undisturbed run{end}")
        elif machine:
            self.log.say(f"note: {', '.join(machine)}: the results will not be the same to the last bit")
        if other or machine or changed:
            self._renew(changed)

    def _renew(self, changed: dict[str, Any]) -> None:
        """Write anew what the run folder says of data and options: what the run goes on with from here."""
        resolved = self.trainer.resolved()
        now = {
            "epoch": self.progress.epoch, "step": self.progress.step, "changed": changed, "resolved": resolved,
            "environment": run_folder.environment(),
        }  # fmt: skip
        steps = {name: resolved[name] for name in ("images_per_step", "steps_per_epoch")}
        self.config = {
            **self.config, **changed, "resolved": {**self.config["resolved"], **steps},
            "resumed": [*self.config.get("resumed", []), now],
        }  # fmt: skip
        if not self.trainer.topology.is_main:
            return
        if self.splits.left_out:
            write_manifest(self.splits.rows, self.folder / "split.csv")
        if self.splits.changed:
            contents.write(self.splits.rows, self.folder / contents.NAME)
        files.write_json(self.folder / "config.json", self.config)

    def best_state(self, network: nn.Module, calibration: dict[str, Any]) -> dict[str, Any]:
        """All that inference needs: the contents of best.pt."""
        return {
            "format_version": checkpoint.FORMAT_VERSION,
            "model": network.state_dict(),
            "classes": list(self.splits.classes),
            "preprocess": self.trainer.classifier.preprocess.to_dict(),
            "config": self.config,
            "metrics": self.progress.history[self.progress.best_epoch - 1],
            "calibration": calibration,
        }


@contextmanager
def open_run(options: Options, topology: Topology) -> Iterator[Run]:
    """A run put together up to its first step: data, model, run folder; on --resume, back to the last save.

    Nothing but the set of --demo is written before the data and the weights are known to be good. The folder is
    held against other processes that would train in it until the run is left, when all is written.
    The folder and the table of the data are read by rank 0 alone, so that no process can see another split than the
    others; the other machines need the images and nothing else.
    """
    resuming = options.resume is not None
    log = Log(quiet=not topology.is_main)  # the terminal's alone until there is a folder
    new = None if resuming or not topology.is_main else run_folder.new_folder(options.out, options.model)
    folder: Path = topology.from_main(options.resume or new)
    with ExitStack() as held:
        saver = Saver(folder, log.say)
        if topology.is_main and resuming:
            held.enter_context(saver)
            attempts.note(folder, by_itself=options.auto or attempts.restarted_by_torchrun())
        if options.demo and topology.is_main:
            folder = folder if resuming else run_folder.create(folder, own=options.out is None)
            demo.write(folder / "demo")
        folder = topology.from_main(folder)
        if options.demo:
            options = replace(options, data=(folder / "demo").resolve())
        manifest = folder / "split.csv" if resuming else None
        splits: Splits = topology.from_main(read_splits(options, manifest, log) if topology.is_main else None)
        splits = nodes.on_this_machine(splits, options, topology)
        found: Any = (cli.plain(options), None, "")
        if topology.is_main and resuming:
            found = run_folders.read_config(folder), *newest(folder)
        config, state, source = topology.from_main(found)
        origin = config["resolved"]["weights"] if state else None
        if resuming and cannot_compile(topology):  # an option that was said when the run began cannot be unsaid
            options = replace(options, compile=False)
        trainer = build_trainer(options, topology, splits, options.images_per_step, origin)
        if topology.is_main and not resuming:
            config["resolved"] = trainer.resolved()
            folder = run_folder.create(folder, own=options.out is None and not options.demo)
            saver.folder = folder
            held.enter_context(saver)
            run_folder.refuse_run(folder)  # one that began at the same time, and was sooner here
            write_manifest(splits.rows, folder / "split.csv")
            contents.write(splits.rows, folder / contents.NAME)
            files.write_json(folder / "environment.json", run_folder.environment())
            files.write_json(folder / "config.json", config)
        folder, config = topology.from_main((folder, config))
        log.file = folder / "train.log"
        if options.gpus is None and (warning := unusable_gpus()):
            log.warn(f"WARNING: {warning}")
        run = Run(folder, config, splits, trainer, Progress(MONITORS[options.monitor]), log, saver)
        where = f"run     {folder}" + (f" on {platform.node()}" if topology.nodes > 1 else "")
        log.say(f"{splits.describe(trainer.class_weights.cpu().numpy())}\n{trainer.describe()}\n{where}\n")
        if state:
            run.restore(state, source)
        elif resuming:
            log.say(source)
        if resuming:
            run.note_changes(state)
        yield run


def finished(options: Options, topology: Topology) -> bool:
    """Whether `--resume auto` found a run that is done to the last file; all processes hear it of rank 0."""
    done = False
    if topology.is_main and options.auto and options.resume is not None:
        best = options.resume / "best.pt"
        # In this order: curves.png is a run's last file, and best.pt takes longer to read.
        there = (options.resume / "curves.png").exists() and best.exists()
        done = there and bool(checkpoint.load_best(best).calibration)
    return bool(topology.from_main(done))
