"""When the whole run ends, from the epochs and steps that it has taken so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from skin.training.columns import Row
from skin.training.options import Options
from skin.training.recipes import RECIPES

FORWARD = 1 / 3  # of the work of a training step
_LAST = 3  # epochs whose pace counts
_LEAST_SECONDS = 5.0  # of the first epoch; before that, nothing is known


@dataclass(frozen=True)
class Work:
    """The work of a run, in training steps on one image of full size."""

    training: tuple[float, ...]  # of each epoch
    validation: float  # after each epoch

    @staticmethod
    def of(options: Options, image_size: int, training_images: int, validation_images: int) -> Work:
        """Return the work of a run, some of whose epochs may have smaller views."""
        recipe = RECIPES[options.recipe]
        sizes = [recipe.image_size(epoch, options.epochs, image_size) for epoch in range(options.epochs)]
        training = tuple(training_images * (size / image_size) ** 2 for size in sizes)
        return Work(training, validation_images * FORWARD)

    def seconds_left(self, rows: Sequence[Row], share: float = 0.0, elapsed: float = 0.0) -> float | None:
        """Return how many seconds the run goes on at its pace of late; None as long as nobody can know.

        Args:
            rows: of the epochs that are done.
            share: of the steps of the epoch under way that are done.
            elapsed: seconds since that epoch began.
        """
        done = len(rows)
        of_epochs = [training + self.validation for training in self.training]
        taken = share * self.training[done] if done < len(self.training) else 0.0
        if rows:
            late = range(max(0, done - _LAST), done)
            rate = sum(rows[epoch]["seconds"] for epoch in late) / sum(of_epochs[epoch] for epoch in late)
        elif taken and elapsed >= _LEAST_SECONDS:
            rate = elapsed / taken
        else:
            return None
        return rate * (sum(of_epochs[done:]) - taken)


def in_words(seconds: float, now: datetime) -> str:
    """Return how long a run goes on and when it ends: `3 h 20 min left, until about 18:40`."""
    end = now + timedelta(seconds=seconds)
    day = "" if end.date() == now.date() else f"{end:%a} {end.day} {end:%b} "
    return f"{duration(seconds)} left, until about {day}{end:%H:%M}"


def duration(seconds: float) -> str:
    """Return a time in words, to two or three digits: `45 s`, `12 min`, `3 h 20 min`, `4 days`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{round(minutes / 60 / 24)} days"
