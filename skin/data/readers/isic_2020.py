"""The ISIC challenge of 2020 (Rotemberg et al. 2021), as the challenge and Kaggle (SIIM-ISIC) give it."""

from __future__ import annotations

import posixpath

from skin.data.folder import Folder
from skin.data.groups import join_groups, join_pairs
from skin.data.index import PEOPLE, Draft, count
from skin.data.readers.common import (
    Layout,
    joined_columns,
    listed_names,
    one_row_each,
    people_of,
    present_columns,
    rows_of,
    stacked,
    tables_with,
)  # fmt: skip
from skin.data.readers.isic_challenge import benign_or_malignant, hardly_named, image_keys, without_classes
from skin.data.tables import need_column, read_table

import numpy as np
import pandas as pd

_IMAGE = "image_name"
_TELL = ("benign_malignant", "target")
_ATTRIBUTES = ("sex", "age_approx", "anatom_site_general_challenge", "diagnosis")


def read(folder: Folder) -> Draft | None:
    named = tables_with(folder, _IMAGE)
    official = [path for path in named if "isic_2020_training_groundtruth" in posixpath.basename(path).lower()]
    with_classes = {path for column in _TELL for path in tables_with(folder, _IMAGE, "patient_id", column)}
    paths = [path for path in named if path in official or path in with_classes]
    if not paths:
        return None
    # The second version of the table has the lesions. A row may stand in both, and in a part of the table.
    source = listed_names(paths)
    table = one_row_each(stacked(folder, paths, (_IMAGE, *_TELL, *PEOPLE, *_ATTRIBUTES)), _IMAGE, source)
    for columns in (_TELL, ("patient_id",)):
        need_column(table, folder.root / paths[0], *columns)
    tell = list(present_columns(table, *_TELL).columns)
    group, notes, warnings = _with_copies(folder, table[_IMAGE], joined_columns(table, *PEOPLE))
    rows = rows_of(
        table[_IMAGE],
        benign_or_malignant(table, _IMAGE, tell, source),
        group=group,
        attributes=present_columns(table, *_ATTRIBUTES),
        people=people_of(table),
    )
    draft = Draft(rows, source, ("benign", "malignant"), tuple(notes), warnings=tuple(warnings))
    return without_classes(folder, draft, [path for path in named if path not in paths], _IMAGE)


def _with_copies(folder: Folder, images: pd.Series, group: pd.Series) -> tuple[pd.Series, list[str], list[str]]:
    """Join the groups of the images that the challenge's own table calls copies; return notes and warnings beside."""
    row = pd.Series(np.arange(len(images)), index=image_keys(images)).groupby(level=0).first()
    copies, notes = images, []
    warnings: list[str] = []
    for path in tables_with(folder, "image_name_1", "image_name_2"):
        table = read_table(folder.root / path)
        named = present_columns(table, "image_name_1", "image_name_2")
        pairs = named.apply(lambda names: image_keys(names).map(row)).dropna()
        warnings += hardly_named(folder.root / path, pd.concat([named[name] for name in named]), images)
        copies = join_pairs(copies, pairs.to_numpy(np.int64))
        notes.append(f"{path} joins {count(len(pairs), 'pair')} of copies: each pair stays in one split")
    # A pair is one more thing that images share, so that a word for an unknown patient names none of them.
    return join_groups(group, copies.where(copies.duplicated(keep=False), "")), notes, warnings


LAYOUT = Layout("ISIC 2020", "a table with image_name, patient_id and benign_malignant or target", read)
