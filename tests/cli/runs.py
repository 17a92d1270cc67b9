"""Small training runs in this process, for the tests of resuming and of faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import train
from tests.torture import PARTS, RECIPE, differences, outcome

import pytest

SHORT = ("--epochs", 1, *PARTS)  # with --metadata age,sex,localization


def call(*arguments: object) -> int:
    """`train.py` with the tiny recipe, in the working folder, which holds `data`; the run folder is `run`."""
    options = ["--workers", "0", "--amp", "off", *map(str, arguments)]
    if "--resume" in arguments:
        return train.main(options)
    return train.main([*RECIPE, "--data", "data", "--out", "run", *options])


def run_beside(data: Path, *arguments: object) -> Path:
    """The folder, beside the data, of a run from beginning to end that nobody disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(data.parent)
        assert call(*arguments) == 0
    return data.parent / "run"


def changes_from(undisturbed: Path) -> list[str]:
    """What differs between `run` and a run that nobody disturbed: best.pt, last.pt, metrics."""
    expected, found = outcome(undisturbed), outcome(Path("run"))
    for result in (expected, found):  # the folders have names of their own
        for name in ("data", "out"):
            del result["best.pt"]["config"][name]
    return list(differences(expected, found))


def empty_but_for(data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty folder the working folder, with a link `data` in it, and return it."""
    (folder / "data").symlink_to(data)
    monkeypatch.chdir(folder)
    return folder


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Have `act` called as the `number`-th step from now (counted from 1) begins."""
    step, count = train.train_step, 0

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            act()
        return step(*arguments, **keywords)

    monkeypatch.setattr(train, "train_step", counted)


def left_over(run: Path) -> list[str]:
    return [file.name for file in run.iterdir() if file.name.endswith(".tmp")]
