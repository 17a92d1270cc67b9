"""MILK10k (the ISIC challenge of 2025): a close-up and a dermoscopic image of each lesion, with one class."""

from __future__ import annotations

from pathlib import Path

from skin.data.class_names import MILK10K
from skin.data.folder import Folder
from skin.data.index import Draft, count
from skin.data.readers.common import Layout, people_of, present_columns, rows_of, without_unmarked
from skin.data.readers.isic_challenge import together, without_classes
from skin.data.tables import from_one_hot, need_column, read_table, spelling
from skin.utils.errors import UserError, printable

import pandas as pd


def read(folder: Folder) -> Draft | None:
    drafts, unlabelled = [], []
    for word, split in (("Training", ""), ("Test", "test")):
        truth = folder.table(f"MILK10k_{word}_GroundTruth.csv")
        metadata = folder.table(f"MILK10k_{word}_Metadata.csv")
        if truth and metadata is None:
            raise UserError(
                f"{truth} names lesions, and MILK10k_{word}_Metadata.csv, which tells their images, is not in "
                f"{folder.root}: download it, too"
            )
        if truth and metadata:
            drafts.append(_read(truth, metadata, split))
        elif metadata:
            unlabelled.append(str(metadata.relative_to(folder.root)))
    draft = together(folder, drafts)
    return draft and without_classes(folder, draft, unlabelled, "isic_id")


def _read(truth: Path, metadata: Path, split: str) -> Draft:
    """Read the table of the lesions' classes and that of their images."""
    table = read_table(truth).drop_duplicates(ignore_index=True)
    lesions = table[need_column(table, truth, "lesion_id")]
    if (twice := lesions.duplicated()).any():
        raise UserError(f"{truth} gives the lesion '{printable(lesions[twice].iloc[0])}' two classes: keep one row")
    labels, marked = from_one_hot(table, [need_column(table, truth, spelling(name)) for name in MILK10K], truth)
    images = read_table(metadata)
    lesion = images[need_column(images, metadata, "lesion_id")]
    rows = rows_of(
        images[need_column(images, metadata, "isic_id")],
        lesion.map(labels.set_axis(lesions)).fillna("").rename(None),  # of no single column
        group=lesion,
        split=split,
        # The challenge asks for one answer per lesion, so its name stays beside the group.
        people=people_of(images),
        attributes=present_columns(images, "image_type", "age_approx", "sex", "skin_tone_class", "site"),
    )
    draft = Draft(rows, truth.name, MILK10K)
    if without := int((~lesions.isin(lesion)).sum()):
        first = printable(lesions[~lesions.isin(lesion)].iloc[0])
        note = f"{metadata.name} has no image of {count(without, 'lesion')} of {truth.name} (first: {first})"
        draft = Draft(rows, truth.name, MILK10K, unusable={note: without})
    return without_unmarked(draft, lesion.map(pd.Series(marked, index=lesions)).fillna(1).to_numpy())


LAYOUT = Layout("MILK10k", "MILK10k_Training_GroundTruth.csv and MILK10k_Training_Metadata.csv", read)
