"""List the image files that a user names as files, folders, patterns or a list on stdin, one at a time.

Nothing here holds more than a block of names: a folder of a million files takes no more memory than one of a
hundred thousand.
"""

from __future__ import annotations

import glob
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import cast

from skin.utils.errors import UserError

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif",
    ".heic", ".heif", ".hif", ".dcm", ".dicom",
)  # fmt: skip
_UNREAD = {  # of pictures and films
    ".avif", ".jxl", ".jp2", ".j2k", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".psd", ".svg",
    ".eps", ".pdf", ".mp4", ".mov", ".avi", ".mkv", ".webm",
}  # fmt: skip
OVERLAY = ".cam.png"  # how the pictures of predict.py --explain end, which are answers and no images to ask about
STDIN = "-"
LONGEST_NAME = 65_536  # bytes
SORTED_BLOCK = 65_536  # names: a larger folder is given in sorted blocks of so many

OnProblem = Callable[[str, str], None]


def unread_formats(suffixes: Counter[str]) -> str:
    """Return the numbers of files in formats of pictures and films that are not read; `""` if there are none.

    Args:
        suffixes: of files, in small letters, and how many files have each.
    """
    return ", ".join(
        f"{number:,} {'file' if number == 1 else 'files'} {suffix}"
        for suffix, number in suffixes.most_common()
        if suffix in _UNREAD
    )


def image_paths(names: Sequence[str], on_problem: OnProblem, null_separated: bool = False) -> Iterator[str]:
    """Yield the images that `names` stand for, in the order of `names`; within a folder sorted by name.

    A folder gives the files in it and below it whose names end as images' do; others, hidden ones and overlays are
    passed over. A name that does not exist and holds `*`, `?` or `[` is a pattern (`**` for any folders). `-` reads
    names from stdin. Any other name is given as it is: reading it will show if it is an image.

    Args:
        on_problem: called with a folder that cannot be listed, or a pattern with no match, and the reason.
        null_separated: names on stdin end with NUL (`find -print0`), not with a line's end.

    Raises:
        UserError: stdin is asked for and closed.
    """
    yield from itertools.chain.from_iterable(image_blocks(names, on_problem, null_separated))


def image_blocks(
    names: Sequence[str], on_problem: OnProblem, null_separated: bool = False, passed_over: Counter[str] | None = None
) -> Iterator[Iterator[str]]:
    """Yield what `image_paths` does in blocks, each to be used up before the next.

    What comes on stdin is a block as soon as it is there: a program that writes a name and waits for its answer must
    not wait for a batch to be full.

    Args:
        passed_over: gets the suffixes of files in folders that end as no image does.
    """
    others = Counter() if passed_over is None else passed_over
    for of_stdin, some in itertools.groupby(names, lambda name: name == STDIN):
        if not of_stdin:
            yield _named(some, on_problem, others)
            continue
        for listed in _names_on_stdin(b"\0" if null_separated else b"\n"):
            yield itertools.chain.from_iterable(_file_or_folder(name, on_problem, others) for name in listed)


def _named(names: Iterable[str], on_problem: OnProblem, others: Counter[str]) -> Iterator[str]:
    for name in names:
        if not os.path.lexists(name) and glob.has_magic(name):
            matches = _sorted_blocks(glob.iglob(name, recursive=True))  # noqa: PTH207  a pattern may be absolute
            found = next(matches, None)
            if found is None:
                on_problem(name, "no file matches this pattern")
                continue
            for match in itertools.chain([found], matches):
                yield from _file_or_folder(match, on_problem, others)
        else:
            yield from _file_or_folder(name, on_problem, others)


def _file_or_folder(name: str, on_problem: OnProblem, others: Counter[str]) -> Iterator[str]:
    return _walk(name, (), on_problem, others) if Path(name).is_dir() else iter([name])


def _walk(
    folder: str, above: tuple[tuple[int, int], ...], on_problem: OnProblem, others: Counter[str]
) -> Iterator[str]:
    """Yield files first, then those of subfolders, each sorted. Links are followed, but never back up (`above`)."""
    subfolders: list[str] = []

    def files(entries: Iterable[os.DirEntry[str]]) -> Iterator[str]:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                subfolders.append(entry.path)
            elif not entry.name.lower().endswith(IMAGE_SUFFIXES):
                others[Path(entry.name).suffix.lower()] += 1
            elif not entry.name.endswith(OVERLAY):
                yield entry.path

    try:
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in above:
            return
        with os.scandir(folder) as entries:
            yield from _sorted_blocks(files(entries))
    except OSError as error:
        on_problem(folder, error.strerror or str(error))
        return
    for subfolder in sorted(subfolders):
        yield from _walk(subfolder, (*above, (status.st_dev, status.st_ino)), on_problem, others)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: named as what cannot be read, if it is named as an image is
        return False


def _sorted_blocks(names: Iterator[str]) -> Iterator[str]:
    while block := sorted(itertools.islice(names, SORTED_BLOCK)):
        yield from block


def _names_on_stdin(separator: bytes) -> Iterator[list[str]]:
    """Yield the names that have arrived together. Bytes that are no text become surrogates, as everywhere in `os`."""
    if sys.stdin is None:
        raise UserError("standard input is closed: '-' reads a list of images from it")
    line_end = b"\r" if separator == b"\n" else b""
    stream = cast(BufferedReader, sys.stdin.buffer)
    rest = b""
    while chunk := stream.read1(1 << 16):
        *names, rest = (rest + chunk).split(separator)
        if len(rest) > LONGEST_NAME:
            raise UserError("'-' reads a list of file names from stdin; what came is no such list")
        yield [os.fsdecode(name) for n in names if (name := n.removesuffix(line_end))]
    if rest.removesuffix(line_end):
        yield [os.fsdecode(rest.removesuffix(line_end))]
