"""Measure the cases in turns, over the rounds, and search for the largest batch of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from skin.bench import machine
from skin.bench.cases import LARGEST_BATCH, Case, Planned
from skin.bench.columns import Row
from skin.bench.options import BenchmarkOptions
from skin.bench.process import Result
from skin.bench.report import Heading, Report
from skin.utils.errors import UserError

RunCase = Callable[[Case], Result]


@dataclass
class Entry:
    """A case of the matrix, and the results of its rounds so far."""

    case: Case
    device: str
    skipped: str | None
    largest_batch_size: int | None = None
    results: list[Result] = field(default_factory=list)

    @property
    def row(self) -> Row:
        rounds = [result.round for result in self.results if result.round is not None]
        failures = [result for result in self.results if result.status != "ok"]
        reason = self.skipped or "not reached: interrupted"
        row = Row(self.case.key, self.device, "skipped", reason, self.largest_batch_size, rounds)
        if rounds:
            said = f"failed rounds: {len(failures)} ({failures[-1].reason})" if failures else None
            return replace(row, status="ok", reason=said)
        if failures:
            return replace(row, status=failures[-1].status, reason=failures[-1].reason)
        return row

    def use_batch(self, largest: int) -> None:
        """Measure with the largest batch that fits; with one image if none does."""
        self.largest_batch_size, self.case = largest, self.case.with_batch(max(1, largest))


class Matrix:
    """The cases as they are being measured.

    Args:
        run: measures a case once.
        say: takes a line for the user.
    """

    def __init__(
        self, options: BenchmarkOptions, planned: list[Planned], heading: Heading, train_images: int, run: RunCase,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.options, self.heading, self.train_images = options, heading, train_images
        self.run, self.say = run, say
        self.complete = False
        devices = {case.key.gpus: machine.device_name(heading.environment, case.key.gpus) for case, _ in planned}
        self.entries = [Entry(case, devices[case.key.gpus], skipped) for case, skipped in planned]

    @property
    def report(self) -> Report:
        return Report(self.heading, self.train_images, [entry.row for entry in self.entries], self.complete)

    @property
    def failed(self) -> bool:
        """True if no case was measured, or ran out of memory."""
        return not any(entry.row.status in ("ok", "oom") for entry in self.entries)

    def measure(self) -> None:
        """Measure every case in turns, as often as --rounds says.

        The files are written anew after each, so an interrupted benchmark keeps its results so far.
        """
        here = [entry for entry in self.entries if entry.skipped is None]
        if self.options.find_batch:
            here = [entry for entry in here if self.find_batch(entry)]
        for turn in range(self.options.rounds):
            for entry in here:
                result = self.run(entry.case)
                self._take(entry, result)
                speed = result.reason
                if result.round is not None:
                    speed = f"{result.round.values['images_per_second']:.1f} images/s"
                self.say(f"round {turn + 1} of {self.options.rounds}: {entry.case.key.title}: {speed}")
        self.complete = True

    def find_batch(self, entry: Entry) -> bool:
        """Give a case the largest batch that fits; return False if the search has failed."""
        case, title = entry.case, entry.case.key.title
        self.say(f"{title}: looking for the largest batch")
        images = self.train_images // case.key.replicas
        try:
            size = largest_batch(case, self.run, images)
        except UserError as error:
            self._take(entry, Result("failed", str(error)))
            self.say(str(error))
            return False
        self.say(f"{title}: {size} images a step" + (", all that there are" if size == images else ""))
        entry.use_batch(size)
        self.report.write(self.options)
        return True

    def _take(self, entry: Entry, result: Result) -> None:
        entry.results.append(result)
        self.report.write(self.options)


def largest_batch(case: Case, run: RunCase, most: int) -> int:
    """Return the largest batch (per GPU) that a step of `case` fits in, to an eighth; 0 if none does.

    Args:
        most: images there are per GPU; no larger batch is tried.

    Raises:
        UserError: a step fails, and not for lack of memory.
    """

    def fits(size: int) -> bool:
        result = run(case.with_batch(size, steps=1, warmup=1, probe=True))
        if result.status == "failed":
            raise UserError(f"--find-batch: {case.key.title} fails at {size} images a step: {result.reason}")
        return result.status == "ok"

    most = min(most, LARGEST_BATCH)
    good, bad = 0, most + 1  # fits, does not fit
    size = min(case.key.batch_size, most)
    while bad - good > (1 if bad > most else max(1, good // 8)):
        if fits(size):
            good = size
        else:
            bad = size
        size = min(2 * good, most) if bad > most else (good + bad) // 2
    return good
