"""How often a run was started without coming further, in `attempts.json`: a queue must not start it for ever."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from skin.training.saver import newest
from skin.utils import files
from skin.utils.errors import UserError

NAME = "attempts.json"
LIMIT = 10  # starts in a row that may end without a step that was saved


def note(folder: Path, by_itself: bool) -> None:
    """Count a start that goes on with the run in `folder`.

    Args:
        by_itself: nobody is known to have asked for this start; one that a user asks for begins the count anew.

    Raises:
        UserError: `LIMIT` starts in a row have stood where this one stands.
    """
    path = folder / NAME
    if not by_itself:
        forget(folder)
        return
    epoch, step = _position(folder)
    before = _read(path)
    count = before["count"] if (before["epoch"], before["step"]) == (epoch, step) else 0
    if count >= LIMIT:
        raise UserError(
            f"{count} starts in a row brought no step forward: {folder} stands at epoch {epoch + 1}, step {step}; "
            f"look into {folder / 'train.log'}; "
            f"to go on all the same: python train.py --resume {shlex.quote(str(folder))}"
        )
    files.write_json(path, {"epoch": epoch, "step": step, "count": count + 1})


def forget(folder: Path) -> None:
    """Begin the count anew: a user asks for this start, or the run has come to its end."""
    (folder / NAME).unlink(missing_ok=True)


def _position(folder: Path) -> tuple[int, int]:
    """Epochs that are done, and steps of the next one, as of the newest save."""
    state, _ = newest(folder)
    progress = (state or {}).get("progress")
    epoch, step = (progress.get(name) if isinstance(progress, dict) else 0 for name in ("epoch", "step"))
    return (epoch if type(epoch) is int else 0), (step if type(step) is int else 0)


def _read(path: Path) -> dict[str, int]:
    """The count so far; zeros where there is none, or no sound one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: int(found[name]) for name in ("epoch", "step", "count")}
    except (OSError, ValueError, KeyError, TypeError):
        return {"epoch": 0, "step": 0, "count": 0}
