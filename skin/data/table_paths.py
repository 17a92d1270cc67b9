"""Paths that a table gives instead of names: those of the data folder, and those of the place where it was made."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from skin.data.folder import Folder, are_plain
from skin.utils.errors import UserError, printable

import pandas as pd

_DRIVE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")  # or the beginning of an address in the web


def relative_names(names: pd.Series, folder: Folder, source: str) -> tuple[pd.Series, list[str]]:
    """Return the names of images with absolute paths made relative to the data folder, and notes.

    A path of another place is cut to the end that the folder has: all paths at the same depth, otherwise to the
    names of the files, if those differ. If the folder has none of them, they stay, and `Folder.find` refuses them.
    Relative paths may begin with the data folder's own name.
    """
    words = names.tolist()
    if are_plain(words):
        return names, []
    are_paths = ["/" in name or "\\" in name for name in words]
    if not any(are_paths):
        return names, []
    paths = names[are_paths].str.replace("\\", "/", regex=False)
    absolute = paths.str.startswith("/") | paths.str.match(_DRIVE)
    here = paths[absolute].map(_inside(folder.root))
    away = paths[absolute][here.isna()]
    names = names.copy()
    names.update(here.dropna())
    notes: list[str] = []
    if not away.empty:
        ends, notes = _ends(away, folder, source)
        names.update(ends)
    elif not absolute.any() and not any(_is_there(path, folder) for path in paths):
        own = [path.removeprefix(f"{folder.root.name}/") for path in paths]
        if any(_is_there(path, folder) for path in own):
            names.update(pd.Series(own, index=paths.index, dtype="str"))
    return names, notes


def _inside(root: Path) -> Callable[[str], str | None]:
    """Return a function that makes an absolute path relative to `root`; None if it lies elsewhere."""

    @cache
    def folder_of(folder: str) -> str | None:
        real = Path(os.path.realpath(folder))
        return real.relative_to(root).as_posix() if real.is_relative_to(root) else None

    def relative(path: str) -> str | None:
        folder, _, name = path.rpartition("/")
        inside = folder_of(folder)
        return inside and f"{inside}/{name}".removeprefix("./")

    return relative


def _ends(paths: pd.Series, folder: Folder, source: str) -> tuple[pd.Series, list[str]]:
    parts = [path.split("/") for path in paths]
    folders = {tuple(one[:-1]) for one in parts}
    together = next((n for n, level in enumerate(zip(*folders, strict=False)) if len(set(level)) > 1), None)
    together = min(map(len, folders)) if together is None else together
    cuts = [["/".join(one[depth:]) for one in parts] for depth in range(1, together + 1)]
    files = [one[-1] for one in parts]
    if len(set(files)) == len(set(paths)):
        cuts.append(files)
    for ends in cuts:
        first = next((number for number, end in enumerate(ends) if _is_there(end, folder)), None)
        if first is not None:
            found = f"{printable(paths.iloc[first])} is {printable(str(folder.find(ends[first])))}"
            note = f"{source} has paths of another place: images are matched by the ends of their paths ({found})"
            return pd.Series(ends, index=paths.index, dtype="str"), [note]
    return paths, []


def _is_there(path: str, folder: Folder) -> bool:
    with contextlib.suppress(UserError):  # it leads out of the folder, or several files could be meant
        return folder.find(path) is not None
    return False
