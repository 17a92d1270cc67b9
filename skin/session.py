"""A training run put together from its settings, saved, and brought back to where it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skin import checkpoint, cli, demo, runs
from skin.console import Log
from skin.driver import unusable_gpus
from skin.errors import UserError
from skin.parallel import Topology
from skin.parts import Parts, read_parts
from skin.progress import Progress
from skin.saver import Saver, newest
from skin.settings import MONITORS, Settings
from skin.split import write_manifest
from skin.trainer import Trainer, build_trainer

from torch import nn


@dataclass
class Run:
    """A training run: its folder, its data, its trainer, and how far it has come."""

    folder: Path
    config: dict[str, Any]
    parts: Parts
    trainer: Trainer
    progress: Progress
    log: Log
    saver: Saver

    def save(self, best: bool = False) -> None:
        """Give the saver what `--resume` needs, and what inference needs if this is the best epoch."""
        progress = self.progress.state(self.trainer.topology)  # gathered from all processes
        if self.trainer.topology.is_main:
            last = {**self.trainer.state(), "progress": progress, "classes": list(self.parts.classes)}
            best_state = self.best_state(self.trainer.classifier.network, {}) if best else None
            self.saver.save(last, best_state, self.progress.history)

    def restore(self, state: dict[str, Any], source: str) -> None:
        """Go on from a state that `save` wrote. Raises `UserError` where it is of other data or another model."""
        path = self.folder / "last.pt"
        classes = state.get("classes")
        if not isinstance(classes, list) or [str(name) for name in classes] != list(self.parts.classes):
            raise UserError(f"{path}: the data's classes have changed since; restore the data, or start a new run")
        self.trainer.load_state(state, path)
        self.progress.load_state(state.get("progress"), self.trainer.topology, len(self.trainer.batches))
        if self.trainer.topology.is_main:  # a kill after the last epoch's last.pt may have left it a row short
            runs.write_metrics(self.folder / "metrics.csv", self.progress.history)
        self.log.say(f"resumed {source}: {self.progress.epoch} epochs and {self.progress.step} steps are done")
        if changes := self.trainer.changes_since(state.get("machine")):
            self.log.say(f"note: {changes}: the results will not be the same to the last bit")
            self._note_machine()

    def _note_machine(self) -> None:
        """Add to config.json, and so to best.pt, what the run goes on with from here."""
        now = {
            "epoch": self.progress.epoch, "step": self.progress.step, "resolved": self.trainer.resolved(),
            "environment": runs.environment(),
        }  # fmt: skip
        self.config = {**self.config, "resumed": [*self.config.get("resumed", []), now]}
        if self.trainer.topology.is_main:
            runs.write_json(self.folder / "config.json", self.config)

    def best_state(self, network: nn.Module, calibration: dict[str, Any]) -> dict[str, Any]:
        """All that inference needs: the contents of best.pt."""
        return {
            "format_version": checkpoint.FORMAT_VERSION,
            "model": network.state_dict(),
            "classes": list(self.parts.classes),
            "preprocess": self.trainer.classifier.preprocess.to_dict(),
            "config": self.config,
            "metrics": self.progress.history[self.progress.best_epoch - 1],
            "calibration": calibration,
        }


@contextmanager
def open_run(settings: Settings, topology: Topology) -> Iterator[Run]:
    """A run put together up to its first step: data, model, run folder; on --resume, back to the last save.

    Nothing but the set of --demo is written before the data and the weights are known to be good. The folder is
    held against other processes that would train in it until the run is left, when all is written.
    Data are read by rank 0 alone, so that no process can see another split than the others.
    """
    resuming = settings.resume is not None
    log = Log(quiet=not topology.is_main)  # the terminal's alone until there is a folder
    folder: Path = settings.resume or runs.new_folder(settings.out, settings.model)
    with ExitStack() as held:
        saver = Saver(folder, log.say)
        if topology.is_main and resuming:
            held.enter_context(saver)
        if settings.demo and topology.is_main:
            folder = folder if resuming else runs.create(folder, own=settings.out is None)
            demo.write(folder / "demo")
        folder = topology.from_main(folder)
        if settings.demo:
            settings = replace(settings, data=(folder / "demo").resolve())
        manifest = folder / "split.csv" if resuming else None
        parts: Parts = topology.from_main(read_parts(settings, manifest, log) if topology.is_main else None)
        config = runs.read_config(folder) if resuming else cli.plain(settings)
        state, source = newest(folder) if resuming else (None, "")
        images_per_step = config["resolved"]["images_per_step"] if resuming else None
        origin = config["resolved"]["weights"] if state else None
        trainer = build_trainer(settings, topology, parts, images_per_step, origin)
        if topology.is_main and not resuming:
            config["resolved"] = trainer.resolved()
            folder = runs.create(folder, own=settings.out is None and not settings.demo)
            saver.folder = folder
            held.enter_context(saver)
            runs.refuse_run(folder)  # one that began at the same time, and was sooner here
            write_manifest(parts.rows, folder / "split.csv")
            runs.write_json(folder / "environment.json", runs.environment())
            runs.write_json(folder / "config.json", config)
        folder, config = topology.from_main((folder, config))
        log.file = folder / "train.log"
        if settings.gpus is None and (warning := unusable_gpus()):
            log.warn(f"WARNING: {warning}")
        run = Run(folder, config, parts, trainer, Progress(MONITORS[settings.monitor]), log, saver)
        log.say(f"{parts.describe(trainer.class_weights.cpu().numpy())}\n{trainer.describe()}\nrun     {folder}\n")
        if state:
            run.restore(state, source)
        elif resuming:
            log.say(source)
        yield run
