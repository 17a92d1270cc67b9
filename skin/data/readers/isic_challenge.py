"""The ISIC challenges: what their readers share, and the one-hot tables of 2018 (task 3) and 2019."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from skin.data.folder import Folder
from skin.data.index import Draft, count
from skin.data.naming import stem
from skin.data.readers.common import SPLITS, listed, people_of, present_columns, rows_of, without_unmarked
from skin.data.tables import find_column, from_one_hot, need_column, read_table, spelling
from skin.utils.errors import UserError, printable

import pandas as pd

_TWO_CLASSES = {
    "benign": "benign", "0": "benign", "0.0": "benign",
    "malignant": "malignant", "1": "malignant", "1.0": "malignant",
    "": "",
}  # fmt: skip
_ID = re.compile(r"(ISIC_\d+)(_downsampled)?", re.IGNORECASE)
_IDS = re.compile(r"(?:ISIC_\d++\n?)++")
_FEW = 0.01  # of the images that a table could tell of


def read_challenge(
    folder: Folder, truths: dict[str, Path], classes: tuple[str, ...], metadata: dict[str, Path]
) -> Draft | None:
    """Read the one-hot tables of an ISIC challenge.

    Args:
        truths: labels of each split, by the challenge's word for it.
        classes: the columns of the labels.
        metadata: tables on the images, by the same words.
    """
    drafts = []
    for word, path in truths.items():
        table = read_table(path)
        image = table[need_column(table, path, "image", "image_id", "image_name")]
        columns = [need_column(table, path, spelling(name)) for name in classes]
        unknown = find_column(list(table.columns), "unk")
        labels, marked = from_one_hot(table, [*columns, unknown] if unknown else columns, path)
        group: pd.Series | str = ""
        attributes, of_people = None, None
        warnings: tuple[str, ...] = ()
        if word in metadata:
            known, warnings = look_up(metadata[word], image)
            group = known[lesion] if (lesion := find_column(list(known.columns), "lesion_id")) else ""
            attributes = present_columns(known, "age_approx", "anatom_site_general", "sex")
            of_people = people_of(known)
        split = SPLITS[word.lower()]
        rows = rows_of(image, labels, group=group, split=split, attributes=attributes, people=of_people)
        of_split = without_unmarked(Draft(rows, path.name, classes, warnings=warnings), marked)
        drafts.append(_without_unknown(of_split, unknown) if unknown else of_split)
    return together(folder, drafts)


def _without_unknown(draft: Draft, unknown: str) -> Draft:
    """Leave out the images that are marked as of none of the classes, and say so."""
    marked = draft.rows["label"] == unknown
    if not marked.any():
        return draft
    note = f"{draft.source} marks {count(marked.sum(), 'image')} {unknown} (none of the classes): left out"
    set_aside = {**draft.set_aside, note: tuple(draft.rows.loc[marked, "image"])}
    return replace(draft, rows=draft.rows[~marked], set_aside=set_aside)


def together(folder: Folder, drafts: list[Draft]) -> Draft | None:
    """Return the drafts of several splits as one; None if there are none.

    A split of which the folder has no image was not downloaded: that is said, and its images are not missing.
    """
    present = [any(folder.find(name, converted=True) for name in draft.rows["image"]) for draft in drafts]
    # Without an image of any split, all of them are missing.
    kept = [draft for draft, there in zip(drafts, present, strict=True) if there] or drafts
    if not kept:
        return None
    absent = [
        f"{draft.source} names {count(len(draft.rows), 'image')}, and the folder has none of them: left out"
        for draft, there in zip(drafts, present, strict=True)
        if any(present) and not there
    ]
    return Draft(
        pd.concat([draft.rows for draft in kept], ignore_index=True).fillna(""),
        listed([draft.source for draft in kept]),
        kept[0].classes,
        (*(note for draft in kept for note in draft.notes), *absent),
        unusable={note: number for draft in kept for note, number in draft.unusable.items()},
        unusable_images=tuple(name for draft in kept for name in draft.unusable_images),
        set_aside={note: names for draft in kept for note, names in draft.set_aside.items()},
        warnings=tuple(line for draft in kept for line in draft.warnings),
    )


def image_keys(names: pd.Series) -> pd.Series:
    """Return what two tables call an image alike: its ISIC id, otherwise its name without folders and extension."""
    words = names.unique().tolist()
    if _IDS.fullmatch("\n".join(words)):  # the usual case: one look at all of 400,000 names
        return names
    stems = {name: stem(name) for name in words}
    known = {name: match[1].upper() for name, it in stems.items() if (match := _ID.fullmatch(it))}
    return names.map({**stems, **known})


def hardly_named(path: Path, names: pd.Series, images: pd.Series) -> tuple[str, ...]:
    """Return a warning if the table at `path` names hardly any of `images`: it may have another spelling for them."""
    names = names[names != ""]
    found = image_keys(images).isin(image_keys(names)).sum()
    if names.empty or images.empty or found >= _FEW * min(len(images), len(names)):
        return ()
    return (
        f"{path.name} names {found:,} of {count(len(images), 'image')} ('{printable(names.iloc[0])}' in it, "
        f"'{printable(images.iloc[0])}' where the classes are), so that hardly anything it tells is known of them: "
        "if it should, write the names in one way",
    )


def look_up(path: Path, images: pd.Series) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the row of the table at `path` for each of `images`, `""` if it has none, and a warning if few have one.

    Raises:
        UserError: the table has two different rows for one of `images`.
    """
    table = read_table(path)
    key = need_column(table, path, "image", "image_id", "image_name", "isic_id")
    wanted, warnings = image_keys(images), hardly_named(path, table[key], images)
    table = table.assign(**{key: image_keys(table[key])})
    table = table[table[key].isin(wanted)].drop_duplicates()  # faults in the rows of other images do not matter
    twice = table[key].duplicated()
    if twice.any():
        raise UserError(f"{path} has two rows for '{table.loc[twice, key].iloc[0]}', which disagree: keep one")
    return table.set_index(key).reindex(wanted).fillna("").set_axis(images.index), warnings


def benign_or_malignant(table: pd.DataFrame, image: str, columns: list[str], source: str) -> pd.Series:
    """Return `benign` or `malignant` per row; `""` if no column tells.

    Args:
        image: the column of the images' names.
        columns: those that tell, in words or as 0 and 1.
        source: the origin of the rows, for messages.

    Raises:
        UserError: a value is neither, or two columns contradict each other.
    """
    label: pd.Series | None = None
    for column in columns:
        words = {word: _TWO_CLASSES.get(word.lower()) for word in table[column].unique()}
        told = table[column].map(words)
        if told.isna().any():
            row = table[told.isna()].iloc[0]
            raise UserError(
                f"{source}: the {column} of the image '{printable(row[image])}' is '{printable(row[column])}', "
                "and neither benign (0) nor malignant (1): correct the table"
            )
        if label is None:
            label = told.rename(None)  # of no column
            continue
        if (contradicted := (label != "") & (told != "") & (label != told)).any():
            row = table[contradicted].iloc[0]
            raise UserError(
                f"{source}: {' and '.join(columns)} of the image '{printable(row[image])}' disagree "
                f"('{printable(row[columns[0]])}' and '{printable(row[column])}'): correct the table"
            )
        label = label.mask(label == "", told)
    return pd.Series("", index=table.index) if label is None else label


def without_classes(folder: Folder, draft: Draft, paths: list[str], image: str) -> Draft:
    """Leave out the images that the tables `paths` name, in the column `image`, and give no class of; say so."""
    if not paths:
        return draft
    tables = [read_table(folder.root / path) for path in paths]
    names = pd.concat([table[find_column(list(table.columns), image)] for table in tables])
    left_out = tuple(names[(names != "") & ~image_keys(names).isin(image_keys(draft.rows["image"]))].unique())
    give = "give" if len(paths) > 1 else "gives"
    note = f"{listed(paths)} {give} no class of {count(len(left_out), 'image')}: left out"
    return replace(draft, set_aside={**draft.set_aside, note: left_out})
