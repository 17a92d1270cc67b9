"""Show a run while it goes on: a table or lines, a verdict in words, report.html, a tracker."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from skin.data import unknowns
from skin.data.index import count
from skin.training import run_page
from skin.training.columns import Row, epoch_line
from skin.training.curves import draw_curves
from skin.training.epoch_table import EpochTable
from skin.training.goodput import Goodput
from skin.training.pace import Work, duration, in_words
from skin.training.progress import Progress
from skin.training.splits import Splits
from skin.training.standing import Baseline, Course, remarks
from skin.training.tracking import Tensorboard
from skin.training.trainer import Trainer
from skin.utils.console import Log
from skin.utils.files import write_atomically
from skin.utils.hardware import usable_cores
from skin.utils.memory import Memory

import numpy as np

_SHARE = 0.05  # of the time, that drawing the page may take
_ROOM = 110  # columns of a terminal on which the clock time of the end fits beside a bar
_DRAWING_SECONDS = 0.5  # taken for granted until it has been measured


class Follower:
    """Tells how a run goes. Only the main process prints and writes.

    Args:
        folder: of the run.
        held: closes the tracker when the run's block ends.
    """

    def __init__(self, folder: Path, splits: Splits, trainer: Trainer, log: Log, held: ExitStack) -> None:
        balanced = trainer.options.class_weights == "balanced"
        self.baseline = Baseline.of(splits.labels("train"), splits.labels("val"), splits.classes, balanced)
        self._folder, self._splits, self._trainer, self._log, self._held = folder, splits, trainer, log, held
        size = trainer.classifier.preprocess.image_size
        sizes = len(trainer.dataset), len(splits.of("val"))
        self._work = Work.of(trainer.options, size, *sizes)
        self._weights = trainer.class_weights.cpu().numpy()
        options = trainer.options
        self._table = None if log.width is None else EpochTable(log.width, options.epochs, options.monitor)
        self._tracker: Tensorboard | None = None
        self._begun = False
        self._said: set[str] = set()  # kinds of what was to say after the last epoch
        self._curves, self._goodput = b"", ""
        self._drawn, self._drawing = -math.inf, _DRAWING_SECONDS

    def begin(self, progress: Progress) -> None:
        """Begin with the first epoch of this process; later calls do nothing."""
        if self._begun or not self._trainer.topology.is_main:
            return
        self._begun = True
        if self._trainer.options.track == "tensorboard":
            self._tracker = Tensorboard(self._folder, progress.epoch, self._log)
            self._held.callback(self._tracker.close)
        if self._table is not None:
            self._log.console.print(self._table.header(), style="bold")
        if progress.history:
            self._renew(progress, "going on", draw=True)

    def left(self, progress: Progress) -> str:
        """Return how long the run goes on, and until when; `""` as long as nobody can know."""
        share = progress.step / progress.steps if progress.steps else 0.0
        seconds = self._work.seconds_left(progress.history, share, progress.elapsed())
        if seconds is None:
            return ""
        short = self._log.width is not None and self._log.width < _ROOM
        return f"run: {duration(seconds)} left" if short else f"run: {in_words(seconds, datetime.now())}"

    def epoch(self, progress: Progress, row: Row, usage: Memory, best: bool) -> None:
        """Tell of an epoch that has ended."""
        if not self._trainer.topology.is_main:
            return
        options = self._trainer.options
        skipped = f"  {count(progress.skipped, 'step')} skipped so far" if progress.skipped else ""
        line = f"{epoch_line(row, options.epochs)}  {usage}{skipped}{'  best' if best else ''}"
        self._log.say(line, on_terminal=self._table.row(row, best) + skipped if self._table else None)
        found = {remark.kind: remark.text for remark in remarks(self._course(progress))}
        for kind, text in found.items():
            if kind not in self._said:
                self._log.say(text)
        self._said = set(found)
        if self._tracker is not None:
            self._tracker.add(row)
        if progress.epoch == 1 or time.perf_counter() - self._drawn >= self._drawing / _SHARE:
            self._renew(progress, "going on", draw=progress.epoch > 1)

    def stopped(self, progress: Progress) -> None:
        """Tell of a run that a signal has stopped."""
        if self._trainer.topology.is_main and progress.history:
            self._renew(progress, "stopped", draw=False)

    def ended(
        self, progress: Progress, probabilities: np.ndarray, called: np.ndarray, curves: bytes,
        goodput: Goodput | None = None,
    ) -> None:  # fmt: skip
        """Tell of a run that has come to its end.

        Args:
            probabilities: float64 [N, C], of the best model for the validation split.
            called: int [N], its labels there.
            curves: of the whole run, a PNG.
            goodput: None if it is not known.
        """
        self._curves, self._goodput = curves, "" if goodput is None else str(goodput)
        self._log.say(f"\n{remarks(self._course(progress, ended=True))[0].text}")
        if self._goodput:
            self._log.say(self._goodput)
        self._renew(progress, "ended", draw=False, answers=(probabilities, called))

    def _course(self, progress: Progress, ended: bool = False) -> Course:
        trainer = self._trainer
        return Course(
            progress.history, self.baseline, trainer.options, trainer.loader.num_workers, usable_cores(), ended
        )

    def _renew(
        self, progress: Progress, going: str, draw: bool, answers: tuple[np.ndarray, np.ndarray] | None = None
    ) -> None:
        """Write report.html anew. Whatever goes wrong with it is told once and ends no run."""
        begin = time.perf_counter()
        try:
            self._write(progress, going, draw, answers)
        except Exception as error:
            reason = str(error) or type(error).__name__
            self._log.say_once(f"warning: {run_page.NAME} is not renewed: {reason}; the run goes on")
        self._drawn = time.perf_counter()
        if draw:
            self._drawing = self._drawn - begin

    def _write(
        self, progress: Progress, going: str, draw: bool, answers: tuple[np.ndarray, np.ndarray] | None
    ) -> None:
        options = self._trainer.options
        if draw:
            self._curves = draw_curves(progress.history, progress.best_epoch, options.monitor, self.baseline)
        course = self._course(progress, ended=going == "ended")
        seconds, now = self._work.seconds_left(progress.history), datetime.now()
        state = run_page.State(
            name=self._folder.resolve().name, device=self._trainer.topology.describe(), when=f"{now:%Y-%m-%d %H:%M}",
            going=going, left="" if seconds is None else in_words(seconds, now), curves=self._curves,
            warnings=unknowns.read(self._folder / unknowns.NAME) or (),
            mistakes=None if answers is None else run_page.worst(self._splits, *answers),
            goodput=self._goodput,
        )  # fmt: skip
        page = run_page.html(course, remarks(course), self._splits, self._weights, state)
        write_atomically(page.encode("utf-8"), self._folder / run_page.NAME)
