"""Lesions and patients that the names of files or folders hold, as `--group-by` tells."""

from __future__ import annotations

import re
from dataclasses import replace

from skin.data.groups import join_groups
from skin.data.index import Index, count
from skin.utils.errors import UserError, printable

import pandas as pd


def group_by_path(index: Index, pattern: str) -> Index:
    r"""Return `index` with the lesion or patient of each image that a regular expression finds in its path.

    Paths are relative to the data folder, with `/`: `mel/P07_2.jpg`. The groups of the expression, joined by `/`,
    are the lesion or patient, or what it matches if it has none: `(P\d+)_` gives `P07`. Lesions and patients that the
    data bring stay together, too. An image that the expression does not match keeps its group.

    Raises:
        UserError: it is no regular expression, matches no image, or puts all into one group.
    """
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise UserError(f"--group-by '{pattern}' is no regular expression: {error}") from error
    rows = index.rows
    matches = [search(path[len(str(index.root)) + 1 :]) for path in rows["path"]]
    found = pd.Series([_name(match) for match in matches], index=rows.index, dtype="str")
    unmatched = found == ""
    example = printable(rows["path"].iloc[0][len(str(index.root)) + 1 :])
    if unmatched.all():
        raise UserError(f"--group-by '{pattern}' matches no path of an image, such as {example}: correct it")
    if not unmatched.any() and found.nunique() == 1:
        raise UserError(
            f"--group-by '{pattern}' finds '{printable(found.iloc[0])}' in the path of every image, such as "
            f"{example}: correct it, so that it finds what tells lesions or patients apart"
        )
    known = rows["group"].mask(rows["group"] == rows["image"], "")
    group = join_groups(found, known)
    note = f"--group-by finds {found[~unmatched].nunique():,} lesions or patients"
    if unmatched.any():
        first = printable(rows.loc[unmatched, "image"].iloc[0])
        note += f"; {count(unmatched.sum(), 'image')} without a match (first: {first}) keep the group that they had"
    rows = rows.assign(group=group.mask(group == "", rows["image"]))
    return replace(index, rows=rows, notes=(*index.notes, note))


def _name(match: re.Match[str] | None) -> str:
    if match is None:
        return ""
    return "/".join(part for part in match.groups() if part) if match.re.groups else match[0]
