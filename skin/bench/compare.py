"""Compare two reports: find the cases that got slower or faster, beyond the spread of both."""

from __future__ import annotations

from collections.abc import Sequence

from skin.bench.columns import COLUMNS, Column, Row, find, number
from skin.bench.report import Report

SPREAD_OF_ONE = 0.05  # relative spread to assume if there is a single round


def compare(report: Report, old: Report) -> list[str]:
    """Return lines on the changes since an earlier report.

    A row that was measured on another CPU or GPU is compared by its speed over that machine's plain recipe.
    """
    here, was = report.heading.environment, old.heading.environment
    same_cpu = all(here[name] == was[name] for name in ("cpu", "usable_cores"))
    lines, elsewhere = [], []
    for row in report.rows:
        past = find(old.rows, row.key, any_batch=row.largest_batch_size is not None)
        if past is None:
            continue
        if row.status != past.status:
            reason = f" ({row.reason})" if row.reason else ""
            lines.append(f"{row.key.title}: then {past.status}, now {row.status}{reason}")
        if row.status != "ok" or past.status != "ok":
            continue
        same_machine = same_cpu and row.device == past.device
        if not same_machine:
            elsewhere.append(past.device)
        for column in COLUMNS:
            line = _change(column, (row, report.rows), (past, old.rows), same_machine)
            lines += [f"{row.key.title}: {line}"] if line else []
    lines = lines or ["no case of that report can be compared"]
    return [*_of_the_machine(report, old, elsewhere), *_of_the_data(report, old), *lines]


def _of_the_machine(report: Report, old: Report, elsewhere: list[str]) -> list[str]:
    here, was = report.heading.environment, old.heading.environment
    if elsewhere:
        machine = ", ".join(dict.fromkeys([was["cpu"], *elsewhere]))
        return [f"measured on another machine ({machine}): speeds over the plain recipe are compared there, "
                "not the speeds themselves"]  # fmt: skip
    if any(was[name] != here[name] for name in ("torch", "git_commit")):
        return [f"then: torch {was['torch']}, commit {(was['git_commit'] or 'unknown')[:12]}"]
    return []


def _of_the_data(report: Report, old: Report) -> list[str]:
    now, then = report.heading.settings, old.heading.settings
    unlike = [name for name in ("data", "labels") if now.get(name) != then.get(name)]
    return [f"not alike: {name} {then.get(name)} then, {now.get(name)} now" for name in unlike]


Placed = tuple[Row, Sequence[Row]]  # a row, and all of its report


def _change(column: Column, now: Placed, then: Placed, same_machine: bool) -> str | None:
    """Return a line on how a column has changed; None if there is nothing to say."""
    value, past = column.value(*now), column.value(*then)
    if column.condition is not None and value != past:
        return f"not alike: {column.name.replace('_', ' ')} {past} then, {value} now"
    how = column.compare
    if how is None or how.machines == ("other" if same_machine else "same"):
        return None
    after, before = number(value), number(past)
    if not after or not before:
        return None
    change = after / before - 1
    spread = how.tolerance
    if spread is None:
        spread = _relative_spread(column, *now) + _relative_spread(column, *then)
    within = abs(change) <= spread
    if within and how.quiet:
        return None
    verdict = "within the spread" if within else how.more if change > 0 else how.less
    return f"{before:.2f} -> {after:.2f} {how.unit} ({change:+.1%}, spread {spread:.1%}): {verdict}"


def _relative_spread(column: Column, row: Row, rows: Sequence[Row]) -> float:
    """Return half the range over rounds, relative to the mean. A ratio is as uncertain as both of its values."""
    if column.ratio is None:
        return _half_range(row, column.name)
    measured = [row, column.ratio.base_row(row, rows)]
    return sum(_half_range(each, column.ratio.of) for each in measured if each is not None)


def _half_range(row: Row, name: str) -> float:
    samples = [sample for sample in row.samples(name) if sample is not None]
    mean = row.mean(name)
    return (max(samples) - min(samples)) / 2 / mean if mean and len(samples) > 1 else SPREAD_OF_ONE
