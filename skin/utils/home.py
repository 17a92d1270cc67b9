"""The home folder, which a container's user may lack. Needs the standard library alone."""

from __future__ import annotations

import atexit
import os
from pathlib import Path

from skin.utils.errors import UserError


def home() -> Path | None:
    """Return the user's home folder; None if neither HOME nor the system's list of users knows one."""
    path = os.path.expanduser("~")  # noqa: PTH111  # Path's raises
    return Path(path) if os.path.isabs(path) else None  # noqa: PTH117


def user_path(text: str) -> Path:
    """Return the path that a user typed, with `~` replaced: the shell leaves it as it is in `--out=~/run`.

    Raises:
        UserError: nothing is known of that home folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        name = Path(text).parts[0]
        raise UserError(f"{text}: the home folder {name} is not known here; write the path without it") from error


def set_up_home() -> None:
    """Give matplotlib and torch.hub a folder if no home folder can be written to.

    torch.hub would make one named `~` in the working folder. matplotlib would warn in each process. The folder is
    temporary; processes that this one starts use the same.
    """
    known = home()
    if known is not None and os.access(known, os.W_OK):
        return
    wanted = ["MPLCONFIGDIR"] + ([] if known or "XDG_CACHE_HOME" in os.environ else ["TORCH_HOME"])
    missing = [name for name in wanted if name not in os.environ]
    if not missing:
        return
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="skin-home-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.update(dict.fromkeys(missing, folder))
