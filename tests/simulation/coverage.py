"""Simulate how often every kind of interval holds the truth, and print the table of docs/statistics.md.

It ends with code 1 and names what holds the truth less often than promised, by more than two standard errors.

    make simulate                                  # the whole table: under 30 minutes on two cores
    python tests/simulation/coverage.py --quick    # a thirtieth of it
    python tests/simulation/coverage.py --write    # also put the table into docs/statistics.md
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from skin.utils import cli
from skin.utils.cli import option
from skin.utils.errors import UserError
from skin.utils.hardware import usable_cores
from tests.simulation.studies import STUDIES, Study

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "statistics.md"
BEGIN, END = "<!-- simulation: begin -->", "<!-- simulation: end -->"
PIECE = 10  # draws in one task of a process
QUICK = 30  # as many times fewer draws


@dataclass(frozen=True)
class Settings:
    quick: bool = option(False, "a thirtieth of the draws: the standard errors are large")
    write: bool = option(False, "put the table into docs/statistics.md")
    only: str | None = option(None, "only the tables whose title holds this text", metavar="TEXT")


def piece(number: int, size: int, first: int, last: int) -> list[dict[str, float]]:
    """Return what the draws first .. last - 1 of a study say."""
    return [STUDIES[number].run(size, seed) for seed in range(first, last)]


def simulate(number: int, draws: int, pool: ProcessPoolExecutor) -> dict[int, list[dict[str, float]]]:
    """Return by size what each draw of a study says."""
    starts = range(0, draws, PIECE)
    waiting = {
        size: [pool.submit(piece, number, size, first, min(first + PIECE, draws)) for first in starts]
        for size in STUDIES[number].sizes
    }
    return {size: [said for task in tasks for said in task.result()] for size, tasks in waiting.items()}


def coverage(said: list[dict[str, float]], name: str) -> tuple[float, float]:
    """Return the mean over draws and its standard error; nan if fewer than two draws say anything."""
    found = np.array([one.get(name, np.nan) for one in said])
    found = found[~np.isnan(found)]
    if len(found) < 2:
        return np.nan, np.nan
    # A few draws may all agree; then the rule of succession says how much is possible.
    smoothed = (found.sum() + 1) / (len(found) + 2)
    spread = found.std(ddof=1) if found.std() > 0 else np.sqrt(smoothed * (1 - smoothed))
    return float(found.mean()), float(spread / np.sqrt(len(found)))


def table(study: Study, draws: int, by_size: dict[int, list[dict[str, float]]]) -> tuple[str, list[str]]:
    """Return a study's table in Markdown, in percent, and what holds less often than promised."""
    heads = " | ".join(f"{size} {study.unit}" for size in study.sizes)
    lines = [f"**{study.title}** ({draws:,} sets each)", ""]
    lines += [f"| | {heads} |", "| --- |" + " ---: |" * len(study.sizes)]
    broken = []
    for name in dict.fromkeys(name for said in by_size.values() for one in said for name in one):
        cells = []
        for size in study.sizes:
            mean, error = coverage(by_size[size], name)
            cells.append("none" if np.isnan(mean) else f"{100 * mean:.1f} ± {100 * error:.1f}")
            if size >= study.promised_from and mean + 2 * error < study.least:
                broken.append(f"{name}, {size} {study.unit}: {cells[-1]}, promised {100 * study.least:.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n", broken


def write(tables: list[str]) -> None:
    """Put the tables between the two marks of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{DOCUMENT}: no place for the table; write the lines {BEGIN} and {END}")
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n" + "\n".join(tables) + f"\n{END}{after}", encoding="utf-8")


def main() -> int:
    settings = cli.parse(Settings, __doc__)
    if settings.write and settings.only:
        raise UserError("--write needs all tables; leave out --only")
    start = time.perf_counter()
    tables: list[str] = []
    broken: list[str] = []
    with ProcessPoolExecutor(usable_cores()) as pool:
        for number, study in enumerate(STUDIES):
            if settings.only and settings.only not in study.title:
                continue
            draws = -(-study.draws // QUICK) if settings.quick else study.draws
            text, below = table(study, draws, simulate(number, draws, pool))
            tables.append(text)
            broken += below
            print(text, flush=True)
    if settings.write:
        write(tables)
    print(f"{time.perf_counter() - start:,.0f} s", file=sys.stderr)
    for line in broken:
        print(f"less than promised: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    cli.run(main)
