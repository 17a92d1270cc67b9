"""What a run says: whole words and bars on a terminal and in a notebook, a line now and then where there is none."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from skin.utils import console
from skin.utils.console import Log, progress
from tests.conftest import ROOT

import nbformat
import pytest
from nbclient import NotebookClient
from rich.cells import cell_len
from rich.console import Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(width: int) -> tuple[Log, io.StringIO]:
    log, stream = Log(), Terminal()
    log.console = Console(file=stream, force_terminal=True, width=width, soft_wrap=True, highlight=False, emoji=False)
    return log, stream


def test_a_long_line_is_broken_between_words_and_goes_on_below_its_text() -> None:
    log, stream = on_terminal(30)
    log.say("unlike  flagged of pictures: noise 1.00, flat 0.72\n        a line that is indented goes on there")
    assert stream.getvalue().splitlines() == [
        "unlike  flagged of pictures:",
        "        noise 1.00, flat 0.72",
        "        a line that is",
        "        indented goes on there",
    ]


@pytest.mark.parametrize("width", [20, 33, 60, 80])
def test_no_number_is_broken_at_any_width(width: int) -> None:
    log, stream = on_terminal(width)
    words = [f"{number:,}" for number in range(123_456, 123_500)]
    log.say("device  " + " ".join(words) + " 黑色素瘤")
    lines = stream.getvalue().splitlines()
    assert " ".join(lines).split() == ["device", *words, "黑色素瘤"]
    assert all(cell_len(line) <= width for line in lines)


def test_a_command_is_left_whole_so_that_it_can_be_copied() -> None:
    log, stream = on_terminal(20)
    command = "next:  python evaluate.py --checkpoint runs/first/best.pt"
    log.say(command)
    assert stream.getvalue() == command + "\n"


def test_the_file_has_the_line_and_the_terminal_its_own(tmp_path: Path) -> None:
    log, stream = on_terminal(20)
    log.file = tmp_path / "train.log"
    log.say("epoch  1/20  loss 0.5", on_terminal="1/20  0.5")
    assert stream.getvalue() == "1/20  0.5\n"
    assert (tmp_path / "train.log").read_text().endswith("  epoch  1/20  loss 0.5\n")


def test_off_a_terminal_there_is_a_line_every_few_minutes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 100.0, 179.0, 180.0, 200.0, 400.0])
    monkeypatch.setattr(console.time, "perf_counter", lambda: next(clock))
    log = Log()
    with log.progress("epoch 2/9", 9000, done=1000, note=lambda: "run: 3 h left") as advance:
        for _ in range(5):
            advance(720)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 2/9: 3,160 of 9,000, 12 images/s, run: 3 h left",
        "epoch 2/9: 4,600 of 9,000, 9 images/s, run: 3 h left",
    ]


def drawn(width: int, title: str = "epoch 12/20") -> list[str]:
    stream = Terminal()
    terminal = Console(file=stream, force_terminal=True, width=width, color_system=None, legacy_windows=False)
    with progress(terminal, title, 9999, 1234, lambda: "run: 3 h 20 min left") as advance:
        advance(1)
    return stream.getvalue().replace("\r", "\n").split("\n")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_a_bar_has_as_many_columns_as_fit(width: int) -> None:
    lines = [line for line in drawn(width) if "epoch" in line]
    assert lines
    assert not any("…" in line for line in lines), "nothing is cut in its middle"
    assert any("1235/9999" in line for line in lines) == (width >= 40)
    assert any("images/s" in line and "run: 3 h 20 min left" in line for line in lines) == (width >= 80)


def test_a_long_title_gives_way_to_the_percentage() -> None:
    lines = [line for line in drawn(20, "comparing the images") if "compar" in line]
    assert lines
    assert all("12%" in line for line in lines)


# ---- where a bar can be drawn -----------------------------------------------------------------------------

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
