"""The ISIC challenges of 2018 (task 3) and 2019: one-hot tables of one or several splits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from skin.data.index import Draft, count
from skin.data.readers.common import SPLITS, present_columns, rows_of, without_unmarked
from skin.data.tables import find_column, from_one_hot, need_column, read_table, spelling
from skin.utils.errors import UserError

import pandas as pd


def read_challenge(truths: dict[str, Path], classes: tuple[str, ...], metadata: dict[str, Path]) -> Draft | None:
    """Read the tables of an ISIC challenge.

    Args:
        truths: one-hot labels of each split, by the challenge's word for it.
        classes: the columns of the labels.
        metadata: tables on the images, by the same words.
    """
    draft = None
    for word, path in truths.items():
        table = read_table(path)
        image = table[need_column(table, path, "image", "image_id", "image_name")]
        columns = [need_column(table, path, spelling(name)) for name in classes]
        unknown = find_column(list(table.columns), "unk")
        labels, marked = from_one_hot(table, [*columns, unknown] if unknown else columns, path)
        group: pd.Series | str = ""
        attributes = None
        if word in metadata:
            known = _look_up(metadata[word], image)
            group = known[lesion] if (lesion := find_column(list(known.columns), "lesion_id")) else ""
            attributes = present_columns(known, "age_approx", "anatom_site_general", "sex")
        rows = rows_of(image, labels, group=group, split=SPLITS[word.lower()], attributes=attributes)
        of_split = without_unmarked(Draft(rows, path.name, classes), marked)
        if unknown:
            of_split = _without_unknown(of_split, unknown)
        draft = of_split if draft is None else _together(draft, of_split)
    return draft


def _without_unknown(draft: Draft, unknown: str) -> Draft:
    """Leave out the images that are marked as of none of the classes, and say so."""
    marked = draft.rows["label"] == unknown
    if not marked.any():
        return draft
    note = f"{draft.source} marks {count(marked.sum(), 'image')} {unknown} (none of the classes): left out"
    left_out = (*draft.left_out, *draft.rows.loc[marked, "image"])
    return replace(draft, rows=draft.rows[~marked], notes=(*draft.notes, note), left_out=left_out)


def _together(one: Draft, other: Draft) -> Draft:
    rows = pd.concat([one.rows, other.rows], ignore_index=True).fillna("")
    source = f"{one.source} and {other.source}"
    return Draft(
        rows, source, one.classes, one.notes + other.notes,
        unusable=one.unusable | other.unusable, left_out=one.left_out + other.left_out,
    )  # fmt: skip


def _look_up(path: Path, images: pd.Series) -> pd.DataFrame:
    """Return the row of the table at `path` for each of `images`, `""` if it has none.

    Raises:
        UserError: the table has two different rows for one of `images`.
    """
    table = read_table(path)
    key = need_column(table, path, "image", "image_id", "image_name")
    table = table[table[key].isin(images)].drop_duplicates()  # faults in the rows of other images do not matter
    twice = table[key].duplicated()
    if twice.any():
        raise UserError(f"{path} has two rows for '{table.loc[twice, key].iloc[0]}', which disagree: keep one")
    return table.set_index(key).reindex(images).fillna("").set_axis(images.index)
