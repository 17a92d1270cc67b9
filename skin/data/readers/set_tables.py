"""Read the tables of published sets, under the names that they were published with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from skin.data.folder import Folder, image_suffix
from skin.data.index import Draft, count
from skin.data.readers.common import joined_columns, listed, people_of, present_columns, rows_of, split_words
from skin.data.tables import find_column, need_column, read_table
from skin.utils.errors import UserError

import pandas as pd


def whole_numbers(values: pd.Series) -> pd.Series:
    """Return names with `1` for `1.0`, as a spreadsheet writes whole numbers in a column with an empty cell."""
    return values.str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)


def read_lines(folder: Folder, path: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not empty, stripped, with their numbers from 1.

    Raises:
        UserError: it cannot be read, is no text in UTF-8, or is a link that leads out of the folder.
    """
    folder.refuse_link(path)
    try:
        with (folder.root / path).open(encoding="utf-8-sig") as file:
            yield from ((number, line.strip()) for number, line in enumerate(file, start=1) if line.strip())
    except OSError as error:
        raise UserError(f"cannot read {folder.root / path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{folder.root / path} is no text in UTF-8: save it again in UTF-8") from error


def below(folder: Folder, names: pd.Series) -> pd.Series:
    """Return the paths `names` of a table, which begin at a folder of its own, relative to the data folder.

    That folder is the one below which the first name lies that is found, by its name without extension.
    """
    images = [(path, path[: len(path) - len(image_suffix(path))]) for path in sorted(folder.images)]
    for name in names:
        stem = name[: len(name) - len(image_suffix(name))]
        for path, bare in images:
            if bare == stem or bare.endswith(f"/{stem}"):
                return path[: len(bare) - len(stem)] + names
    return names


def read_splits(
    folder: Folder,
    name: str,
    tables: dict[str, tuple[str, ...]],
    *,
    image: str,
    label: str,
    people: Sequence[str],
    attributes: Sequence[str],
) -> Draft | None:
    """Read a set that has one table for each split. Images of a table without classes are left out.

    Args:
        name: of the set, for messages.
        tables: the file names of each split's table, small letters; the splits by the words of `common.SPLITS`.
        image, label: the columns of the images and of the classes.
        people: the columns of patients and lesions that are there or not.
        attributes: columns that are kept if they are there.
    """
    rows: list[pd.DataFrame] = []
    set_aside: dict[str, tuple[str, ...]] = {}
    sources: list[str] = []
    for word, names in tables.items():
        path = folder.table(*names)
        if path is None:
            continue
        table = read_table(path)
        images = table[need_column(table, path, image)]
        column = find_column(list(table.columns), label)
        if word == "test" and (column is None or (table[column] == "").all()):
            note = f"{path.name} gives no {label} of its {count(len(table), 'image')}: left out"
            set_aside[note] = tuple(images)
            continue
        labels = table[need_column(table, path, label)]
        split = find_column(list(table.columns), "split")
        rows.append(
            rows_of(
                images,
                labels,
                group=joined_columns(table, *people),
                split=split_words(table[split], path) if split else pd.Series(word, index=table.index),
                attributes=present_columns(table, *attributes),
                people=people_of(table),
            )
        )
        sources.append(path.name)
    if not rows and not set_aside:
        return None
    if not rows:
        raise UserError(f"{folder.root}: {'; '.join(set_aside)}: download {name}'s training table and images, too")
    whole = pd.concat(rows, ignore_index=True).fillna("")
    return Draft(whole, listed(sources), set_aside=set_aside)
