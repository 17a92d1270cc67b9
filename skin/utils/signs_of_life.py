"""Tell a process that is at work from one that has fallen silent: each gives a sign of life every second.

A process may wait for another for hours, which reads a large data set. It must not wait as long for one that is
stopped, or whose machine cannot be reached: no connection closes then. A thread tells the two apart, since it goes on
while the rest of its process works, and stops with it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import threading
from typing import Any

from skin.utils.known_errors import advice_on
from skin.utils.processes import end_now
from skin.utils.signals import waiting

import torch
import torch.distributed as dist

SECONDS_BETWEEN = 1.0
SECONDS_TO_END = 60.0  # for the main thread, which says how to go on with the run, too


class SignsOfLife:
    """Gives and awaits signs of life, in a thread, until one of the processes leaves in order.

    If a process has died, or has been silent for `patience`, this one ends with code 2. The connections of a dead
    process close, so the main thread hears of it wherever it waits; this thread leaves it the time to end by itself.

    Args:
        patience: for a process that falls silent. All processes must be here within it.
    """

    def __init__(self, patience: datetime.timedelta) -> None:
        # Its own, since a group serves one thread at a time.
        self._group: Any = dist.new_group(timeout=patience, backend="gloo")
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._give, name="signs of life", daemon=True)
        self._thread.start()

    def leave(self, peer: str) -> None:
        """Let the others know that this process leaves in order, which is no fault; `peer` as in `waiting`."""
        self._leaving.set()
        with waiting(peer):
            self._thread.join()

    def _give(self) -> None:
        leaves = torch.zeros(1, dtype=torch.uint8)
        try:
            while not leaves:
                leaves[0] = self._leaving.wait(SECONDS_BETWEEN)
                dist.all_reduce(leaves, op=dist.ReduceOp.MAX, group=self._group)
        except RuntimeError as error:
            if not self._leaving.wait(SECONDS_TO_END):
                with contextlib.suppress(OSError):
                    os.write(2, f"error: {advice_on(error) or error}\n".encode())
                end_now(2)
