"""Count in `attempts.json` the starts of a run that brought no progress: a queue must not start it for ever."""

from __future__ import annotations

import json
from pathlib import Path

from skin.training.saver import newest
from skin.utils import files
from skin.utils.errors import UserError
from skin.utils.launchers import to_go_on

NAME = "attempts.json"
LIMIT = 10  # starts in a row that may end without saving a step


def note(folder: Path, by_itself: bool) -> None:
    """Count a start that goes on with the run in `folder`.

    Args:
        by_itself: False if a user asks for this start, which begins the count anew.

    Raises:
        UserError: `LIMIT` starts in a row have begun at the same step as this one.
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
            f"to go on all the same: {to_go_on(folder)}"
        )
    files.write_json(path, {"epoch": epoch, "step": step, "count": count + 1})


def forget(folder: Path) -> None:
    """Begin the count anew: a user asks for this start, or the run has come to its end."""
    (folder / NAME).unlink(missing_ok=True)


def _position(folder: Path) -> tuple[int, int]:
    """Return the epochs that are done and the steps of the next one, according to the newest save."""
    state, _ = newest(folder)
    progress = (state or {}).get("progress")
    epoch, step = (progress.get(name) if isinstance(progress, dict) else 0 for name in ("epoch", "step"))
    return (epoch if type(epoch) is int else 0), (step if type(step) is int else 0)


def _read(path: Path) -> dict[str, int]:
    """Return the count so far; zeros if there is none, or if it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: int(found[name]) for name in ("epoch", "step", "count")}
    except (OSError, ValueError, KeyError, TypeError):
        return {"epoch": 0, "step": 0, "count": 0}
