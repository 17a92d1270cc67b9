"""A queue does not start a run for ever that comes no further."""

from __future__ import annotations

import json
from pathlib import Path

from skin.model import checkpoint
from skin.training import attempts
from skin.utils.errors import UserError

import pytest


def saved(folder: Path, epoch: int, step: int) -> None:
    checkpoint.save({"progress": {"epoch": epoch, "step": step}}, folder / "last.pt")


def test_ten_starts_without_a_step_are_the_last_and_a_user_begins_the_count_anew(tmp_path: Path) -> None:
    for _ in range(10):
        attempts.note(tmp_path, by_itself=True)
    assert json.loads((tmp_path / "attempts.json").read_text()) == {"epoch": 0, "step": 0, "count": 10}
    expected = rf"^10 starts in a row .* epoch 1, step 0; look into .*train\.log; .* --resume {tmp_path}$"
    for _ in range(2):
        with pytest.raises(UserError, match=expected):
            attempts.note(tmp_path, by_itself=True)
    attempts.note(tmp_path, by_itself=False)
    assert not (tmp_path / "attempts.json").exists()
    attempts.note(tmp_path, by_itself=True)


def test_a_step_forward_begins_the_count_anew(tmp_path: Path) -> None:
    for step in range(12):
        saved(tmp_path, epoch=2, step=step)
        attempts.note(tmp_path, by_itself=True)
        attempts.note(tmp_path, by_itself=True)
    assert json.loads((tmp_path / "attempts.json").read_text()) == {"epoch": 2, "step": 11, "count": 2}


@pytest.mark.parametrize("text", ["", "[]", '{"epoch": 0}', '{"epoch": 0, "step": 0, "count": "x"}'])
def test_a_damaged_count_begins_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "attempts.json").write_text(text)
    attempts.note(tmp_path, by_itself=True)
    assert json.loads((tmp_path / "attempts.json").read_text())["count"] == 1
