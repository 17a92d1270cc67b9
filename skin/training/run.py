"""A training run around its steps: its folder, messages and saves, and the changes when it goes on."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skin.data import contents, demo, unknowns
from skin.data.index import count
from skin.data.split import write_manifest
from skin.evaluation.model_card import write_model_card
from skin.model import calibration, checkpoint
from skin.model.calibration import Calibration
from skin.training import attempts, goodput, nodes, run_folder
from skin.training.columns import EpochResult, Row, row_of, write_metrics
from skin.training.curves import draw_curves
from skin.training.follow import Follower
from skin.training.options import MONITORS, OWN, Options, mended
from skin.training.progress import Progress
from skin.training.records import Totals
from skin.training.saver import Saver, kept, newest
from skin.training.splits import SPLITS, Splits, read_splits, with_metadata
from skin.training.trainer import Trainer, cannot_compile
from skin.utils import cli, files, memory, run_folders
from skin.utils.console import Log
from skin.utils.driver import unusable_gpus
from skin.utils.errors import UserError
from skin.utils.launchers import restarted_by_torchrun, to_go_on
from skin.utils.memory import Memory
from skin.utils.parallel import Topology
from skin.utils.signals import Interrupts, Stopped

import numpy as np


@dataclass
class Run:
    """A training run: its folder, its data, its trainer, and how far it has come."""

    folder: Path
    config: dict[str, Any]  # config.json
    splits: Splits
    trainer: Trainer
    progress: Progress
    log: Log
    saver: Saver
    follower: Follower
    _saved: float = 0.0  # when, by the monotonic clock

    def begin_epoch(self) -> AbstractContextManager[Callable[[int], None]]:
        """Begin an epoch or what is left of it; return its progress bar."""
        options, progress, batches = self.trainer.options, self.progress, self.trainer.batches
        progress.begin_epoch(len(batches), self.trainer.topology.device)
        memory.reset_peaks(self.trainer.topology.cuda_devices)
        self._saved = time.monotonic()
        self.follower.begin(progress)
        title = f"epoch {progress.epoch + 1}/{options.epochs}"
        done = progress.step * batches.batch_size
        return self.log.progress(title, batches.size, done, lambda: self.follower.left(progress))

    @property
    def is_trained(self) -> bool:
        """True if no step is left to take."""
        options, progress = self.trainer.options, self.progress
        return progress.epoch >= options.epochs or progress.out_of_patience(options.patience)

    def is_time_to_save(self, interrupts: Interrupts) -> bool:
        """Look at loss, clock and signals after a step; return True if last.pt is to be saved before the next one.

        Raises:
            Stopped: a signal has asked one of the processes to stop.
            UserError: a loss is not finite, or a save before has failed.
        """
        topology, step = self.trainer.topology, self.progress.step
        # Looking at the loss waits for the GPU, so it is done only now and then there; a CPU has it at hand.
        if topology.device.type == "cpu" or step % 20 == 0 or step == self.progress.steps:
            self.refuse_bad_loss()
        self.progress.tick()
        self.saver.check()
        due = time.monotonic() - self._saved > 60 * self.trainer.options.save_minutes
        stop, save = topology.any([interrupts.stopping(), interrupts.save or due])
        if stop or save:
            self.refuse_bad_loss()  # weights that are not finite must not get into last.pt
        if stop:
            raise Stopped
        if save:
            interrupts.saved()
            self._saved = time.monotonic()
        return save

    def how_to_go_on(self) -> str:
        """Return what is left after a fault, and the command that goes on."""
        return f"{self._left}; go on with: {self._command}"

    @property
    def _left(self) -> str:
        """Return a phrase on what is left after a fault. Another machine than rank 0's need not see the folder."""
        topology = self.trainer.topology
        seen = topology.is_main or topology.nodes == 1
        return kept(self.folder) if seen else "what was saved is on the machine of process 0"

    @property
    def _command(self) -> str:
        """The command that goes on with the run; with all of its folds, if it has some."""
        folder = self.folder if self.trainer.options.fold is None else self.folder.parent
        return to_go_on(folder)

    def refuse_bad_loss(self) -> None:
        """Raise `UserError`, naming the images, if a step of this epoch had a loss that is not finite."""
        topology, own = self.trainer.topology, self.progress.first_bad_step()
        if not topology.any([own is not None])[0]:
            return
        step = min(step for step in topology.gather(own) if step is not None)
        rows = self.trainer.batches.plan(self.progress.epoch)[step][:8]
        names = ", ".join(self.trainer.dataset.path(row).name for row in rows)
        where = f"epoch {self.progress.epoch + 1}, step {step + 1}"
        self._refuse(f"the loss is not finite in {where} (images {names}, …)")

    def refuse_bad_outputs(self, logits: np.ndarray) -> None:
        """Raise `UserError` if the last step of an epoch broke the weights. No loss has shown that yet."""
        if not np.isfinite(logits).all():
            self._refuse(f"the model's outputs are not finite after epoch {self.progress.epoch + 1}")

    def _refuse(self, what: str) -> None:
        raise UserError(f"{what}; {self._left}; try a smaller --lr, or --amp off")

    def measured(self, totals: Totals, val_loss: float, logits: np.ndarray) -> tuple[Row, Memory]:
        """Return the row of metrics.csv for the epoch that has been validated, and the memory in use.

        All processes must call it together.
        """
        trainer, progress = self.trainer, self.progress
        usage = memory.read_all(trainer.topology)
        return row_of(EpochResult(
            epoch=progress.epoch + 1, lr=trainer.optimizer.param_groups[0]["lr"], train=totals, val_loss=val_loss,
            labels=self.splits.labels("val"), probabilities=calibration.softmax(logits),
            train_seconds=progress.seconds, seconds=progress.elapsed(), data_wait_seconds=progress.wait_seconds,
            peak_memory_mib=usage.peak_mib,
        )), usage  # fmt: skip

    def say_epoch(self, row: Row, usage: Memory, best: bool) -> None:
        """Say the line of an epoch, and what is worth saying once."""
        options, progress, cache = self.trainer.options, self.progress, self.trainer.dataset.cache
        self.follower.epoch(progress, row, usage, best)
        if math.isnan(progress.best_value):
            self.log.say_once(f"warning: the validation {options.monitor} is not defined; while it is not, the "
                              "newest epoch counts as the best")  # fmt: skip
        if cache is not None and cache.note is not None:
            self.log.say_once(cache.note)

    def say_out_of_patience(self) -> None:
        """Say why a run that has taken its last step has not taken all of them, if that is so."""
        options, progress = self.trainer.options, self.progress
        if progress.epoch < options.epochs:
            metric, best = options.monitor.replace("_", " "), progress.best_epoch
            self.log.say(
                f"the run ends after epoch {progress.epoch} of {options.epochs}: --patience {options.patience}, and "
                f"no better validation {metric} since epoch {best}"
            )

    def say_stopped(self) -> None:
        """Print the step at which a run was stopped, and the command that goes on."""
        self.saver.wait()
        progress, saved = self.progress, "NOT saved" if self.saver.unsaved else "saved"
        self.follower.stopped(progress)
        self.log.say(f"stopped after epoch {progress.epoch}, step {progress.step}; {saved}. "
                     f"Go on with: {self._command}")  # fmt: skip

    def end(self, calibrated: Calibration, logits: np.ndarray) -> None:
        """Write the last files of a run whose best.pt is done, and say what to do next.

        Args:
            logits: float32 [N, C], of the best model for the validation split.
        """
        progress, folder, monitor = self.progress, self.folder, self.trainer.options.monitor
        write_model_card(
            folder / "model_card.md", self.config, self.splits.classes, progress.history[progress.best_epoch - 1],
            warnings=unknowns.read(folder / unknowns.NAME) or (), calibrated=calibrated,
            images={split: len(self.splits.of(split)) for split in SPLITS},
        )  # fmt: skip
        curves = draw_curves(progress.history, progress.best_epoch, monitor, self.follower.baseline)
        found = goodput.note_end(folder, progress.history)
        probabilities = calibration.probabilities_of(calibrated, logits)
        called = calibration.scores(calibrated, probabilities).argmax(1)
        self.follower.ended(progress, probabilities, called, curves, found)
        files.write_atomically(curves, folder / "curves.png")  # the last file: `finished` looks for it
        attempts.forget(folder)
        self.log.say(
            f"\nbest validation {monitor}: {progress.best_value:.4f}, epoch {progress.best_epoch}\n"
            f"everything is in {folder}: best.pt, report.html, metrics.csv, curves.png, model_card.md"
        )
        if self.trainer.options.fold is None:
            self.log.say(run_folders.next_steps(folder, has_test=bool(len(self.splits.of("test")))))

    def say_resumed(self, source: str, last: dict[str, Any] | None) -> None:
        """Say what a run that goes on goes on from, and what has changed since.

        Args:
            source: a line on the save that it goes on from.
            last: contents of that save; None if there is none.
        """
        progress = self.progress
        if self.trainer.options.resume is None:
            return
        if last is None:
            self.log.say(source)
        else:
            if self.trainer.topology.is_main:  # a kill may have kept the last row from it
                write_metrics(self.folder / "metrics.csv", progress.history)
            self.log.say(f"resumed {source}: {progress.epoch} epochs and {progress.step} steps are done")
        self._note_changes(last)

    def _note_changes(self, last: dict[str, Any] | None) -> None:
        """Say what has changed and what that means, and note it in config.json, and so in best.pt.

        If the steps of an epoch take other images than before, the epoch under way begins anew. Otherwise its two
        halves would follow two plans, and would count some images twice and others never.
        """
        trainer, splits = self.trainer, self.splits
        changed = mended(trainer.options, self.config)
        if self.is_trained:
            if late := changed.keys() - OWN:
                flags = ", ".join(sorted(map(cli.flag_of, late)))
                self.log.say(f"note: no step is left to take, so nothing comes of {flags}")
            changed = {name: value for name, value in changed.items() if name in OWN}
        if "data" in changed:
            compared = "names, labels and contents" if (self.folder / contents.NAME).exists() else "names and labels"
            same = "" if splits.left_out or splits.changed else f": {compared} are as they were"
            self.log.say(f"data moved from {self.config['data']}{same}")
        if last is None:
            machine = _changes({"processes": trainer.topology.world}, self.config["resolved"])
        else:
            machine = _changes(trainer.machine(), _dict(last.get("machine")))
        before = {**trainer.plan(), "images a step": self.config["resolved"]["images_per_step"]}
        plan = [] if self.is_trained else _changes(trainer.plan(), {**before, **_dict((last or {}).get("plan"))})
        was = {**cli.plain(Options()), **self.config}
        other = [f"{name} {changed[name]:g} (was {was[name]:g})" for name in ("lr", "accumulate") if name in changed]
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
        """Write data and options to the run folder anew: the run goes on with them from here."""
        resolved = self.trainer.resolved()
        now = {
            "epoch": self.progress.epoch, "step": self.progress.step, "changed": changed, "resolved": resolved,
            "environment": run_folder.environment(),
        }  # fmt: skip
        steps = {"images_per_step": resolved["images_per_step"], "steps_per_epoch": resolved["steps_per_epoch"]}
        self.config = {
            **self.config, **changed,
            "resolved": self.config["resolved"] | ({} if self.is_trained else steps),
            "resumed": [*self.config.get("resumed", []), now],
        }  # fmt: skip
        if not self.trainer.topology.is_main:
            return
        if self.splits.left_out:
            write_manifest(self.splits.rows, self.folder / "split.csv")
        if self.splits.changed:
            contents.write(self.splits.rows, self.folder / contents.NAME, self.trainer.options.metadata)
        files.write_json(self.folder / "config.json", self.config)


def _dict(value: Any) -> dict[str, Any]:
    """Return `value`, which comes from a file, if it is a dict; otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def _changes(now: Mapping[str, str | int], before: dict[str, Any]) -> list[str]:
    changed = [name for name in now if str(now[name]) != str(before.get(name))]
    return [f"{name} {now[name]} (was {before.get(name)})" for name in changed]


@dataclass(frozen=True)
class Opened:
    """A run up to its model: its data have been read, its folder is chosen."""

    options: Options
    topology: Topology
    splits: Splits
    folder: Path
    config: dict[str, Any]  # config.json; without "resolved" for a new run
    last: dict[str, Any] | None  # contents of the last.pt to go on from, unchecked
    source: str  # a line on what that is
    held: ExitStack
    began: float  # when this start had read its options, by `time.time`

    @property
    def origin(self) -> str:
        """The source of the weights that last.pt is about to bring; `""` if there is none."""
        return str(self.config["resolved"]["weights"]) if self.last else ""

    def begin(self, trainer: Trainer) -> Run:
        """Write the folder of a new run, say the header, and return the run, whose steps may begin."""
        topology, folder, config = self.topology, self.folder, self.config
        warnings = self.splits.warnings(self.options.class_weights == "balanced")
        if topology.is_main and self.options.resume is None:
            config = {**config, "resolved": trainer.resolved()}
            folder = run_folder.create(folder, own=self.options.out is None and not self.options.demo)
            self.held.enter_context(run_folder.hold(folder))
            run_folder.refuse_run(folder)  # another run may have begun here at the same time
            write_manifest(self.splits.rows, folder / "split.csv")
            contents.write(self.splits.rows, folder / contents.NAME, self.options.metadata)
            unknowns.write(warnings, folder / unknowns.NAME)
            files.write_json(folder / goodput.NAME, {**run_folder.environment(), **goodput.first_start(self.began)})
            files.write_json(folder / "config.json", config)
        elif topology.is_main:
            goodput.note_start(folder)
        folder, config = topology.from_main((folder, config))
        log = Log(folder / "train.log", quiet=not topology.is_main)
        progress = Progress(MONITORS[self.options.monitor])
        saver = self.held.enter_context(Saver(folder, log.say, progress.held_up))
        if self.options.gpus is None and (warning := unusable_gpus()):
            log.warn(f"WARNING: {warning}")
        where = f"run     {folder}" + (f" on {platform.node()}" if topology.nodes > 1 else "")
        follower = Follower(folder, self.splits, trainer, log, self.held)
        weights = trainer.class_weights.cpu().numpy()
        log.say(self.splits.describe())
        log.say(self.splits.describe_classes(weights), on_terminal=self.splits.describe_classes(weights, log.width))
        log.say("\n".join((f"beat    {follower.baseline}", trainer.describe(), where)) + "\n")
        for line in warnings:
            log.say(f"WARNING: {line}", style="bold red")
        return Run(folder, config, self.splits, trainer, progress, log, saver, follower)


@contextmanager
def open_run(options: Options, topology: Topology) -> Iterator[Opened]:
    """Yield a run up to its model: read the data and choose the folder, or on --resume read the last save.

    Only the set of --demo is written before the data and the weights are known to be good. The folder is held
    against other processes that would train in it. When the block ends, all is written.
    Rank 0 alone reads the folder and the table of the data, so that no process can see another split than the
    others. The other machines need the images and nothing else.
    """
    began, resuming = time.time(), options.resume is not None
    log = Log(quiet=not topology.is_main)
    new = None if resuming or not topology.is_main else run_folder.new_folder(options.out, options.model)
    folder: Path = topology.from_main(options.resume or new)
    with ExitStack() as held:
        if topology.is_main and resuming:
            held.enter_context(run_folder.hold(folder))
            attempts.note(folder, by_itself=options.auto or restarted_by_torchrun())
        draws = options.demo and options.fold is None  # the folds of a run share a set
        if draws and topology.is_main:
            folder = folder if resuming else run_folder.create(folder, own=options.out is None)
            demo.write(folder / "demo")
        folder = topology.from_main(folder)
        if draws:
            options = replace(options, data=(folder / "demo").resolve())
        manifest = folder / "split.csv" if resuming else None
        if not resuming and options.fold is not None:  # the folds were cut when the first of them began
            manifest = folder.parent / "split.csv"
        splits: Splits = topology.from_main(
            _read_splits(options, manifest, folder if resuming else None, log) if topology.is_main else None
        )
        splits = nodes.on_this_machine(splits, options, topology)
        found: Any = (cli.plain(options), None, "")
        if topology.is_main and resuming:
            found = run_folders.read_config(folder), *newest(folder)
        config, last, source = topology.from_main(found)
        if resuming and cannot_compile(topology):  # an option of the run cannot be taken back
            options = replace(options, compile=False)
        yield Opened(options, topology, splits, folder, config, last, source, held, began)


def _read_splits(options: Options, manifest: Path | None, run: Path | None, log: Log) -> Splits:
    """Read the splits with their metadata; `run` is the folder of a run that goes on."""
    before = _dict(run_folders.read_config(run).get("resolved")) if run is not None else {}
    return with_metadata(read_splits(options, manifest, log), options.metadata, before.get("metadata"))


def finished(options: Options, topology: Topology) -> bool:
    """Return True, and say so, if `--resume auto` found a run that is done to the last file. Rank 0 looks for all."""
    done = False
    if topology.is_main and options.auto and options.resume is not None:
        done = is_done(options.resume)
        if done:
            Log().say(f"{options.resume} is done: there is nothing to go on with")
    return bool(topology.from_main(done))


def is_done(folder: Path) -> bool:
    """Return True if the run in a folder is done to the last file."""
    best = folder / "best.pt"
    # In this order: curves.png is a run's last file, and best.pt takes longer to read.
    if not (folder / "curves.png").exists() or not best.exists():
        return False
    with run_folder.reading_own(folder):
        return bool(checkpoint.load_best(best).calibration)
