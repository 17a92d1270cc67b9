"""What a run says: whole words on a terminal, a line now and then where there is none."""

from __future__ import annotations

import io
from pathlib import Path

from skin.utils import console
from skin.utils.console import Log, progress

import pytest
from rich.cells import cell_len
from rich.console import Console


def on_terminal(width: int) -> tuple[Log, io.StringIO]:
    log, stream = Log(), io.StringIO()
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
    stream = io.StringIO()
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
    assert all("12%" in line for line in drawn(20, "comparing the images") if "compar" in line)
