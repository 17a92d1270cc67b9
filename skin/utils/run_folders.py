"""Find the newest run folder, and tell our own folders from others. Needs the standard library alone.

`runs/latest` is a link to the run that has most recently come to a model. There is none on Windows, on file systems
without links (Drive, exFAT), and if a real folder has that name. The times of files then show the newest run.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from skin.utils.errors import UserError
from skin.utils.files import refuse_pipe

LATEST = Path("runs/latest")
BEST = "best.pt"
CONFIG = "config.json"
SPLIT = "split.csv"
REPORT, KIND = "report.json", "skin evaluation report"
_CHECK = "check.json"
_CHECK_KEYS = {"ok", "root", "layout", "exact_duplicates", "near_duplicates", "leaks"}
_JSON_LIMIT = 64 * 2**20  # bytes; a larger file is not looked into


def next_steps(folder: Path, has_test: bool) -> str:
    """Return the commands that use the model of a run, for people; without a test split the user brings a set."""
    path = shlex.quote(str(folder / BEST))
    return (
        f"next:  python evaluate.py --checkpoint {path}{'' if has_test else ' --data DIR'}\n"
        f"       python predict.py --checkpoint {path} IMAGE"
    )


def newest_model() -> Path:
    """Return the best.pt of the newest run that has one, under the run's own name; `runs/latest/best.pt` if none has.

    If `runs/latest` is a link to a run with a model, that is the newest; otherwise it is the run in `runs` whose
    best.pt was written last.
    """
    if LATEST.is_symlink() and (LATEST / BEST).is_file():
        return _shown(LATEST.resolve()) / BEST
    run = _newest(BEST)
    return (run or LATEST) / BEST


def newest_run() -> Path:
    """Return the run in `runs` that began last, with a model or without; `runs/latest` if there is none."""
    return _newest(CONFIG) or LATEST


def _newest(file: str) -> Path | None:
    """Return the folder in `runs` whose `file` was written last, under its own name; None if none has such a file.

    An ensemble that evaluate.py has made of other runs' models is no run to go on with, and none that has ended.
    """
    found = []
    for folder in LATEST.parent.glob("*"):
        try:
            written = (folder / file).stat().st_mtime_ns
        except OSError:  # no run, or a link that leads nowhere
            continue
        if is_joined(_content(folder / CONFIG)):
            continue
        # A folder named `latest` may be a copy as old as its original, which has the better name.
        found.append((written, folder.name != LATEST.name, folder.name, folder))
    return _shown(max(found)[-1].resolve()) if found else None


def is_joined(config: dict[str, Any]) -> bool:
    """Return True if a config.json is that of an ensemble of the models of other runs."""
    resolved = config.get("resolved")
    return isinstance(resolved, dict) and "joined" in resolved


def _shown(folder: Path) -> Path:
    """Return a resolved folder, relative to the working folder if it lies in that."""
    here = Path.cwd().resolve()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def is_ours(folder: Path, names: Iterable[str]) -> bool:
    """Return True if a folder, which has entries of these `names`, was made by train.py or evaluate.py.

    The contents of its files decide: anybody may have a `config.json` or a `report.json`.
    """
    names = set(names)
    if {CONFIG, SPLIT} <= names and isinstance(_content(folder / CONFIG).get("resolved"), dict):
        return True
    if REPORT in names and _content(folder / REPORT).get("kind") == KIND:
        return True
    return _CHECK in names and _content(folder / _CHECK).keys() >= _CHECK_KEYS


def _content(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, {} if there is none."""
    try:
        refuse_pipe(path)
        if os.stat(path).st_size > _JSON_LIMIT:  # noqa: PTH116
            return {}
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_config(run: Path) -> dict[str, Any]:
    """Return the config.json of a run. Raises `UserError` if there is none."""
    try:
        refuse_pipe(run / CONFIG)
        config = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"no run at {run} ({error.strerror}); name a run folder, such as runs/latest") from error
    except ValueError as error:
        raise UserError(f"{run / CONFIG} is not JSON: {error}; put it back from a copy") from error
    if not isinstance(config, dict) or not isinstance(config.get("resolved"), dict):
        raise UserError(f"{run / CONFIG} is not the config.json of a run; name another run folder")
    return config
