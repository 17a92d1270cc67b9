"""Whatever the bytes: a result or the project's own error. The long form is `make torture`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from skin.data.tables import header, read_table
from skin.model import tensorfile
from skin.utils.errors import UserError, printable
from tests import fuzz

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("run", "cases"), [(fuzz.fuzz_images, 300), (fuzz.fuzz_tables, 120), (fuzz.fuzz_checkpoints, 15)]
)
def test_mutated_files_are_read_or_refused(
    run: Callable[[int, random.Random, Path], Counter[str]], cases: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fuzz, "FAILURES", failures := [])
    outcomes = run(cases, random.Random(1), tmp_path)
    assert failures == []
    assert outcomes["read"] + outcomes["refused"] == cases
    assert min(outcomes["read"], outcomes["refused"]) > 0  # mutations neither harmless nor hopeless


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_are_a_table_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    try:
        header(tmp_path / "table.csv")
        table = read_table(tmp_path / "table.csv")
    except UserError:
        return
    assert len(table) > 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_are_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UserError):
        tensorfile.load(tmp_path / "a.pt")


@given(st.text(), st.integers(1, 50))
def test_any_text_can_be_shown(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    shown.encode()
