"""A small set, a run on it that nobody disturbed, and a working folder: for tests of resuming and of faults."""

from __future__ import annotations

from pathlib import Path

from skin.data import demo
from tests.cli.runs import SHORT, empty_but_for, run_beside

import pandas as pd
import pytest


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 70 images in HAM10000's layout; of every tenth the age is not known."""
    folder = demo.write(tmp_path_factory.mktemp("small") / "data", images=70)
    table = pd.read_csv(folder / "HAM10000_metadata.csv", dtype=str, keep_default_na=False)
    table.loc[::10, "age"] = ""
    table.to_csv(folder / "HAM10000_metadata.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def undisturbed(data: Path) -> Path:
    """The folder of a run from beginning to end: an epoch of four steps."""
    return run_beside(data, *SHORT)


@pytest.fixture
def work(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: empty but for a link to the set, `data`."""
    return empty_but_for(data, tmp_path, monkeypatch)
