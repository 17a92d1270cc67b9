"""Save without holding up the training: copy the contents between two steps, write the files in a thread.

Two generations are kept, `last.pt` and `last-previous.pt`. Because of the order of the files, a kill between any two
of them does no harm. `best.pt` goes first, since a run that goes on from a `last.pt` of the next epoch would never
write it again. `metrics.csv` goes last, since it is made anew from `last.pt` when the run goes on.

A full disk must not cost a run. If `last.pt` cannot be written, the user is told, training goes on and the next save
tries again. If `best.pt` cannot be written, or the run's folder is gone, training stops. Otherwise the best model
would be lost; the last save leads to it again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from skin.model import checkpoint
from skin.training import run_folder
from skin.training.columns import Row, write_metrics
from skin.training.states import BestPt, LastPt
from skin.utils.errors import UserError
from skin.utils.files import WriteError

import torch
from torch import Tensor, nn

LAST, PREVIOUS, BEST = "last.pt", "last-previous.pt", "best.pt"


class Saver:
    """Writes the checkpoints of a run, one save at a time. `with saver:` ends when all is written.

    Args:
        folder: of the run.
        say: takes a line for the user.
        held_up: takes the seconds for which a save has held up the training: its copy, the wait for the one before.
    """

    def __init__(
        self, folder: Path, say: Callable[[str], None], held_up: Callable[[float], None] = lambda seconds: None
    ) -> None:
        self.folder = folder
        self.unsaved = False  # True if the newest save has failed
        self._say, self._held_up = say, held_up
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        elif self._thread is not None:
            self._thread.join()

    def save(self, last: LastPt, best: BestPt | None, rows: list[Row]) -> None:
        """Copy the contents and begin to write them with `torch.save`, in a thread; first wait for the save before.

        Args:
            last: contents of last.pt.
            best: contents of best.pt, if this epoch is the best one so far.
            rows: of metrics.csv.

        Raises:
            UserError: the save before has failed in a way that training cannot go on from.
        """
        begin = time.perf_counter()
        self.wait()
        states = _copy(last), _copy(best)
        self._thread = threading.Thread(target=self._write, args=(*states, list(rows)), name="saver")
        self._thread.start()
        self._held_up(time.perf_counter() - begin)

    def wait(self) -> None:
        """Wait until the contents of the last `save` are on the disk. Raises as `check` does."""
        if self._thread is not None:
            self._thread.join()
        self.check()

    def check(self) -> None:
        """Tell the user of a save that failed; otherwise return at once.

        Raises:
            UserError: training cannot go on: `best.pt` could not be written, the run's folder is gone, or
                the weights are not finite.
        """
        error, self._error = self._error, None
        if error is None:
            return
        if not self.folder.is_dir():
            raise UserError(f"the run folder {self.folder} is gone and nothing can be saved: stopped") from error
        if not isinstance(error, WriteError) or error.path.name == BEST:
            raise error
        self._say(f"warning: {error}; training goes on, the next save tries again")

    def _write(self, last: LastPt, best: BestPt | None, rows: list[Row]) -> None:
        self.unsaved = True
        try:
            _refuse_broken(last["model"], self.folder)
            if best is not None:
                if not (self.folder / BEST).exists():  # written before last.pt: a kill in between loses nothing
                    run_folder.point_latest(self.folder)
                checkpoint.save(best, self.folder / BEST)
            checkpoint.save(last, self.folder / LAST, previous=self.folder / PREVIOUS)
            self.unsaved = False
            write_metrics(self.folder / "metrics.csv", rows)
        except Exception as error:  # the thread that trains must hear of any failure
            self._error = error


def bytes_needed(network: nn.Module) -> int:
    """Return how much room the checkpoints of a run may take at once.

    These are both generations of `last.pt`, `best.pt`, and one of each that is being written. `last.pt` holds the
    weights and two moments of Adam per weight.
    """
    weights: int = sum(tensor.nbytes for tensor in network.state_dict().values())
    return (3 * 3 + 2) * weights


def kept(folder: Path) -> str:
    """Return a phrase that says if a run that fails has a save to go on from."""
    saved = any((folder / name).exists() for name in (LAST, PREVIOUS))
    return "the last good checkpoint is kept" if saved else "nothing was saved yet"


def newest(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the contents to go on from and a line on what they are; None if nothing was saved yet.

    Raises:
        UserError: there are files, and none can be read.
    """
    present = [folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    error: UserError | None = None
    for path in present:
        try:
            state = checkpoint.load(path)
        except UserError as reason:
            error = error or reason
            continue
        return state, f"{error}; going on from {path.name}, the save before" if error else str(path)
    if error is not None:
        with run_folder.reading_own(folder):
            raise error
    return None, "nothing was saved yet: from the beginning"


def _copy(value: Any) -> Any:
    """Return the nested dicts and lists of `value`, with each tensor copied to the CPU.

    Raises:
        TypeError: it holds a value that `checkpoint.load` would refuse.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(item) for item in value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"a checkpoint holds plain values only, not {value!r}")


def _refuse_broken(model: dict[str, Tensor], folder: Path) -> None:
    """Raise `UserError` if a weight is not finite: a gradient may break it a step before any loss shows it."""
    if not all(torch.isfinite(tensor).all() for tensor in model.values()):
        raise UserError(f"the weights are no longer finite; {kept(folder)}; try a smaller --lr, or --amp off")
