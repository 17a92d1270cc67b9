"""Say in words where a run stands: what it has to beat, and if it learns, overfits, or waits for its data.

Each rule is a function of what was recorded. To add one, write it and give it its place in `RULES`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from skin.data.class_names import readable_name
from skin.training.columns import Row
from skin.training.options import MONITORS, Options
from skin.utils.errors import printable

import numpy as np

ENOUGH = 3  # epochs, before a run is called below the baseline
_OF_THE_WAY = 0.1  # from a guess to a perfect score, that counts as learnt
_FALLEN = 0.05  # of a loss, that counts as a fall
_RISEN = 0.05  # of a loss, that counts as a rise
_WAITING = 0.25  # of an epoch, that is too much
_PATIENCE = 5
_HIGHEST_LR = {"adam": 1e-3, "adamw": 1e-3, "sgd": 1e-1}  # that is advised


@dataclass(frozen=True)
class Baseline:
    """The metrics on the validation split that a model must beat: of answers that look at no picture."""

    commonest: str  # class of the training split
    accuracy: float  # of always answering it
    stratified: float  # accuracy, on average, of drawing each answer at the classes' shares
    balanced_accuracy: float  # of both
    loss: float  # of always answering the shares of the classes, as the loss weighs them, in training

    @staticmethod
    def of(training: np.ndarray, validation: np.ndarray, classes: Sequence[str], balanced: bool) -> Baseline:
        """Return the baseline of two splits, from their labels, int64 [N].

        Args:
            balanced: the loss weighs all classes alike.
        """
        shares, seen = (np.bincount(n, minlength=len(classes)) / len(n) for n in (training, validation))
        commonest, present = int(shares.argmax()), shares[shares > 0]
        loss = math.log(len(present)) if balanced else float(-(present * np.log(present)).sum())
        return Baseline(
            printable(readable_name(classes[commonest])), float(seen[commonest]), float(shares @ seen),
            1 / max(1, int((seen > 0).sum())), loss,
        )  # fmt: skip

    def __str__(self) -> str:
        return (
            f"validation accuracy {self.accuracy:.3f}, that of always answering {self.commonest}, and balanced "
            f"accuracy {self.balanced_accuracy:.3f}; drawing answers at the shares of the classes has "
            f"{self.stratified:.3f} and {self.balanced_accuracy:.3f}"
        )


@dataclass(frozen=True)
class Course:
    """A run up to now, as far as the rules look at it."""

    rows: Sequence[Row]  # one at least
    baseline: Baseline
    options: Options
    workers: int  # loader processes
    cores: int  # that the run may use
    ended: bool = False

    @property
    def best_epoch(self) -> int:
        """The epoch, counted from 1, of the best monitored metric; the last one if it is never defined."""
        name, higher = f"val_{self.options.monitor}", MONITORS[self.options.monitor]
        known = [row for row in self.rows if not math.isnan(row[name])]
        if not known:
            return len(self.rows)
        return int((max if higher else min)(known, key=lambda row: row[name])["epoch"])

    @property
    def beats_baseline(self) -> bool:
        """True if an epoch was better than answers that look at no picture."""
        least = self.baseline.balanced_accuracy + _OF_THE_WAY * (1 - self.baseline.balanced_accuracy)
        return any(
            row["val_accuracy"] > self.baseline.accuracy or row["val_balanced_accuracy"] > least for row in self.rows
        )


@dataclass(frozen=True)
class Remark:
    """A sentence on a run. `kind` is the name of the rule, by which a remark is said once."""

    kind: str
    level: Literal["fine", "doubt", "bad"]
    text: str


def below_baseline(course: Course) -> Remark | None:
    """Say that the model does no better than answers that look at no picture, and what may help."""
    epochs = len(course.rows)
    if epochs < ENOUGH or course.beats_baseline:
        return None
    first, last = course.rows[0]["train_loss"], course.rows[-1]["train_loss"]
    where = f"below the baseline after {epochs} epochs"
    if last > (1 - _FALLEN) * course.baseline.loss:
        return Remark("below", "bad", f"{where}: try {_other_rate(course, rises=last > (1 + _RISEN) * first)}")
    losses = f"(loss {last:.2f}; a guess has {course.baseline.loss:.2f})"
    where += f", though the training images are being learnt {losses}"
    if epochs < max(2 * ENOUGH, course.options.epochs / 2) and not course.ended:
        return Remark("slow", "doubt", f"{where}: wait")
    weights = "--weights imagenet (now none), or " if course.options.weights == "none" else ""
    return Remark("slow and long", "bad", f"{where}: try {weights}--epochs {2 * course.options.epochs}")


def _other_rate(course: Course, rises: bool) -> str:
    """Return the learning rate to try: a higher one, or if that was too high already, a lower one."""
    lr, highest = course.options.lr, _HIGHEST_LR[course.options.optimizer]
    other = lr / 10 if rises or lr >= highest else min(10 * lr, highest)
    return f"--lr {_short(other)} (now {_short(lr)})"


def overfitting(course: Course) -> Remark | None:
    """Say that the model learns the training images by heart, and since when."""
    losses = [row["val_loss"] for row in course.rows]
    if all(map(math.isnan, losses)):
        return None
    lowest = int(np.nanargmin(losses))
    now, then = course.rows[-1], course.rows[lowest]
    late = len(course.rows) - max(lowest + 1, course.best_epoch) >= ENOUGH
    if not late or now["val_loss"] < (1 + _RISEN) * then["val_loss"] or now["train_loss"] >= then["train_loss"]:
        return None
    options = course.options
    ways = [] if options.patience else [f"--patience {_PATIENCE}"]
    if options.recipe != "strong":
        ways.append("--recipe strong")
    elif options.augment < 2:
        ways.append(f"--augment {1 if options.augment < 1 else 2}")
    advice = f"; for another run: {' or '.join(ways)}" if ways else ""
    return Remark(
        "overfitting", "doubt",
        f"overfitting since epoch {lowest + 1}: the validation loss has risen from {then['val_loss']:.2f} to "
        f"{now['val_loss']:.2f} while that of training fell; best.pt has epoch {course.best_epoch}{advice}",
    )  # fmt: skip


def waiting_for_data(course: Course) -> Remark | None:
    """Say that the model waits for its images, and what makes them come sooner. The first epoch fills the cache."""
    row = course.rows[-1]
    share = row["data_wait_seconds"] / row["seconds"]
    if len(course.rows) < 2 or share < _WAITING:
        return None
    if course.workers < course.cores:
        advice = f"--workers {course.cores} (now {course.workers})"
    elif course.options.cache == "off":
        advice = "--cache auto (now off)"
    else:
        advice = "a faster disk, or fewer programs beside"
    return Remark(
        "waiting", "doubt", f"data are what it waits for, {100 * share:.0f} % of an epoch: try {advice}"
    )  # fmt: skip


def standing_still(course: Course) -> Remark | None:
    """Say that the monitored metric has not become better for a while."""
    since = len(course.rows) - course.best_epoch
    if since < _PATIENCE or course.ended or not course.beats_baseline:
        return None
    name = course.options.monitor.replace("_", " ")
    text = f"no better validation {name} since epoch {course.best_epoch}, which best.pt has"
    stop = "" if course.options.patience else f"; for another run: --patience {_PATIENCE} stops it by then"
    return Remark("still", "doubt", text + stop)


def cut_short(course: Course) -> Remark | None:
    """Say at the end that the validation loss was still falling."""
    losses = [row["val_loss"] for row in course.rows[-ENOUGH:]]
    falling = all(later < (1 - _FALLEN) * earlier for earlier, later in itertools.pairwise(losses))
    if not course.ended or len(losses) < ENOUGH or not falling or not course.beats_baseline:
        return None
    return Remark(
        "short", "doubt", f"still getting better at its end: --epochs {2 * course.options.epochs} may bring more"
    )


def learning(course: Course) -> Remark | None:
    """Say that the model is better than answers that look at no picture."""
    if not course.beats_baseline:
        return None
    best, base = course.rows[course.best_epoch - 1], course.baseline
    accuracy, balanced = best["val_accuracy"], best["val_balanced_accuracy"]
    verb = "has learnt" if course.ended else "learning"
    text = f"{verb}: balanced accuracy {balanced:.3f} in epoch {course.best_epoch}, where a guess has "
    text += f"{base.balanced_accuracy:.3f}"
    if not accuracy > base.accuracy:
        text += f"; accuracy {accuracy:.3f} is not above {base.accuracy:.3f}, that of always {base.commonest}"
    return Remark("learning", "fine", text)


def too_early(course: Course) -> Remark | None:
    """Say that the first epochs tell nothing yet."""
    if course.beats_baseline or len(course.rows) >= ENOUGH:
        return None
    return Remark("early", "doubt" if course.ended else "fine", f"too early to say after {_epochs(len(course.rows))}")


# In the order of their weight: the first remark is the verdict.
RULES: tuple[Callable[[Course], Remark | None], ...] = (
    below_baseline, overfitting, waiting_for_data, standing_still, cut_short, learning, too_early,
)  # fmt: skip


def remarks(course: Course) -> list[Remark]:
    """Return what there is to say of a run; the first is the verdict."""
    return [remark for rule in RULES if (remark := rule(course)) is not None]


def _epochs(number: int) -> str:
    return f"{number} epoch{'s' * (number != 1)}"


def _short(rate: float) -> str:
    """Return a learning rate as people type it: 1e-3."""
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
