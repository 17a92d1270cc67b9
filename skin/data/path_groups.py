"""Lesions and patients that the names of files or folders hold, as `--group-by` tells."""

from __future__ import annotations

import re
from collections.abc import Sequence

from skin.data.groups import join_groups
from skin.utils.errors import UserError, printable

import pandas as pd


def group_by_path(rows: pd.DataFrame, files: Sequence[str], pattern: str) -> tuple[pd.DataFrame, str]:
    r"""Return `rows` with the lesion or patient that a regular expression finds in each image's path, and a note.

    The groups of the expression, joined by `/`, are the lesion or patient, or what it matches if it has none:
    `(P\d+)_` gives `P07`. Lesions and patients that the data bring stay together, too. An image that the expression
    does not match keeps its group.

    Args:
        rows: with the columns image and group, `""` where none is known.
        files: their paths, relative to the data folder, with `/`: `mel/P07_2.jpg`.

    Raises:
        UserError: it is no regular expression, matches no image, or puts all into one group.
    """
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise UserError(f"--group-by '{pattern}' is no regular expression: {error}") from error
    found = pd.Series([_name(search(file)) for file in files], index=rows.index, dtype="str")
    unmatched = found == ""
    if unmatched.all():
        example = printable(files[0])
        raise UserError(f"--group-by '{pattern}' matches no path of an image, such as {example}: correct it")
    if not unmatched.any() and found.nunique() == 1:
        raise UserError(
            f"--group-by '{pattern}' finds '{printable(found.iloc[0])}' in the path of every image, such as "
            f"{printable(files[0])}: correct it, so that it finds what tells lesions or patients apart"
        )
    note = f"--group-by finds {found[~unmatched].nunique():,} lesions or patients"
    if number := int(unmatched.sum()):
        first = printable(rows.loc[unmatched, "image"].iloc[0])
        images = f"{number:,} image" if number == 1 else f"{number:,} images"
        note += f"; {images} without a match (first: {first}) keep the group that they had"
    return rows.assign(group=join_groups(found, rows["group"])), note


def _name(match: re.Match[str] | None) -> str:
    if match is None:
        return ""
    return "/".join(part for part in match.groups() if part) if match.re.groups else match[0]
