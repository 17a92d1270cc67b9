"""A progress bar is drawn where it can be drawn over: on a terminal and in a notebook, and not into a pipe."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from skin.utils.console import progress
from tests.conftest import ROOT

import nbformat
import pytest
from nbclient import NotebookClient
from rich.console import Console

IN_A_CELL = """
from rich.console import Console
from skin.utils.console import progress
with progress(Console(), "reading", 30) as advance:
    advance(12)
"""


def bar_on(console: Console) -> None:
    with progress(console, "reading", 30) as advance:
        advance(12)


def test_a_bar_on_a_terminal() -> None:
    ours, terminals = os.openpty()
    with open(ours, "rb", buffering=0) as reader:
        with open(terminals, "w") as terminal:
            bar_on(Console(file=terminal, width=80))
            terminal.write("the end")
        assert b"12/30" in read_to(reader, b"the end")


def read_to(reader: io.RawIOBase, end: bytes) -> bytes:
    text = b""
    while end not in text:
        text += reader.read(65536) or b""
    return text


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}], ids=["plain", "force-color"])
def test_no_bar_in_a_pipe_even_if_it_may_have_colours(environment: dict[str, str]) -> None:
    file = io.StringIO()
    bar_on(Console(file=file, _environ={"TERM": "xterm-color", **environment}))
    assert file.getvalue() == ""


def test_a_bar_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in a widget: an output that is filled and emptied as the cell runs."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(IN_A_CELL)])
    client = NotebookClient(notebook, timeout=60, kernel_name="python3")
    client.execute()
    assert any("/30" in str(widget.get("outputs")) for widget in client.widget_state.values())


def test_no_bar_and_no_warning_in_a_notebook_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    bar_on(Console(file=io.StringIO(), force_jupyter=True))  # a warning would be an error
