"""Write the metrics of each epoch where a tracker reads them: for `--track`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from skin.training.columns import Row
from skin.utils.console import Log

FOLDER = "tensorboard"  # in the run's


class Tensorboard:
    """Writes each epoch's row into the run folder, for `tensorboard --logdir`. No error of its ends a run."""

    def __init__(self, folder: Path, epochs_done: int, log: Log) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._log = log
        # What an interrupted run wrote of later epochs is hidden: they are about to come again.
        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=epochs_done + 1)

    def add(self, row: Row) -> None:
        """Write the row of an epoch."""
        with self._telling():
            for name, value in row.items():
                if name != "epoch":
                    part, _, metric = name.partition("_")
                    tag = f"{metric}/{part}" if part in ("train", "val") else name
                    self._writer.add_scalar(tag, value, int(row["epoch"]))
            self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        with self._telling():
            self._writer.close()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._log.say_once(f"warning: --track tensorboard: {error.strerror}; training goes on without it")
