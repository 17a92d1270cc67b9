"""Signals, kept until a step is done: a run is asked to stop or to save, and does so at a clean place."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAVE = (signal.SIGUSR1,)


class Interrupts:
    """`with Interrupts() as interrupts:` holds signals back; look at `stop` and `save` between steps.

    A second SIGINT does not wait: it raises KeyboardInterrupt as usual.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.save = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        for number in (*STOP, *SAVE):
            self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number in SAVE:
            self.save = True
        elif self.stop == signal.SIGINT == number:
            raise KeyboardInterrupt
        else:
            self.stop = number
