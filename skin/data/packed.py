"""Archives of a download that nobody has unpacked: which they are, and the commands that unpack them."""

from __future__ import annotations

import posixpath
import shlex
import zipfile

from skin.data.folder import Folder, image_suffix, is_table
from skin.utils.errors import UserError

# A zip or 7z gets a folder of its own, named like it: it may hold thousands of files and no folder.
_COMMANDS = {
    ".zip": "unzip -d {folder} {archive}",
    ".tar.gz": "tar -xzf {archive} -C {beside}",
    ".tgz": "tar -xzf {archive} -C {beside}",
    ".7z": "7z x -o{folder} {archive}",
    ".rar": "unrar x {archive} {beside}/",
}
_SHOWN = 3


def packed(folder: Folder, *, certain: bool = False) -> list[str]:
    """List the archives in `folder` that are still packed, relative to it.

    A zip is still packed if the folder lacks most of the images and tables in it, or an archive that is in it. With
    `certain`, its images alone count. Other archives are not looked into: they count, but not with `certain`.
    """
    archives = [path for path in folder.others if _suffix(path)]
    there = (*folder.images, *folder.tables, *archives, *folder.folders)
    here = {_name(path) for path in there} if archives else set()
    lacks = {path: _lacks(folder, path, here, certain) for path in archives}
    return [path for path, state in lacks.items() if state or (state is None and not certain)]


def how_to_unpack(folder: Folder, archives: list[str]) -> str:
    """Return in words that `archives` are still packed, and the commands; `""` if there are none."""
    if not archives:
        return ""
    shown = archives[:_SHOWN]
    names = ", ".join(shown) + (f" and {len(archives) - _SHOWN:,} more" if len(archives) > _SHOWN else "")
    verb = "is" if len(archives) == 1 else "are"
    return f"{names} {verb} still packed; unpack with: {' && '.join(_command(folder, path) for path in shown)}"


def _command(folder: Folder, path: str) -> str:
    suffix = _suffix(path)
    archive = folder.root / path
    names = {"archive": archive, "folder": str(archive)[: -len(suffix)], "beside": archive.parent}
    return _COMMANDS[suffix].format(**{name: shlex.quote(str(value)) for name, value in names.items()})


def _suffix(path: str) -> str:
    return next((suffix for suffix in _COMMANDS if path.lower().endswith(suffix)), "")


def _lacks(folder: Folder, path: str, here: set[str], images_only: bool) -> bool | None:
    """Return True if `here` lacks most of what the archive holds; None if that cannot be told."""
    try:
        folder.refuse_link(path)
        with zipfile.ZipFile(folder.root / path) as archive:
            members = archive.namelist()
    except (UserError, OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return None
    if not images_only and any(_suffix(name) and _name(name) not in here for name in members):
        return True  # what is in the archive within is not known
    held = {_name(name) for name in members if image_suffix(name) or (not images_only and is_table(name))}
    return len(held - here) > len(held) / 2


def _name(path: str) -> str:
    name = posixpath.basename(path)
    return name[: -len(suffix)] if (suffix := _suffix(name)) else posixpath.splitext(name)[0]
