"""The type of a layout, and the functions that the readers of several layouts share."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from skin.data.folder import Folder, is_table, name_of_first
from skin.data.folder_names import SPLITS
from skin.data.groups import join_groups, unknown_names
from skin.data.index import COLUMNS, PEOPLE, Draft
from skin.data.people import is_patient
from skin.data.tables import (
    GROUP_COLUMNS,
    LESION_COLUMNS,
    find_column,
    need_column,
    read_table,
    row_number,
    spelling,
    without_words,
)
from skin.data.unknowns import alike
from skin.utils.errors import UserError, printable

import numpy as np
import pandas as pd

_MARK_OF_SPLIT = re.compile(rf"(is|in)_({'|'.join(SPLITS)})")


@dataclass(frozen=True)
class Layout:
    """A layout that data folders have.

    Attributes:
        name: its name in messages.
        signs: the files or folders by which it is known, in a few words, for people.
        read: returns the rows of a folder; None if the signs are not there.
        by_folders: classes are the names of folders.
    """

    name: str
    signs: str
    read: Callable[[Folder], Draft | None]
    by_folders: bool = False


def rows_of(
    image: pd.Series,
    label: pd.Series | str,
    *,
    group: pd.Series | str = "",
    split: pd.Series | str = "",
    attributes: pd.DataFrame | None = None,
    people: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return the rows of a `Draft`. Attributes with the name of one of its own columns get another.

    `people`, from `people_of`, stay beside the group that joins them.

    The names of the columns that the series were taken from are kept in `attrs["columns"]`, for people.
    """
    own = {"image": image, "label": label, "group": group, "split": split}
    rows = pd.DataFrame(own)
    if attributes is not None:
        names = {name: f"table_{name}" for name in attributes.columns if name in (*COLUMNS, "file")}
        rows = rows.join(attributes.apply(without_words).rename(columns=names))
    if people is not None:
        rows = rows.assign(**people.apply(without_words))
    rows.attrs["columns"] = {name: str(it.name) for name, it in own.items() if isinstance(it, pd.Series) and it.name}
    return rows


def present_columns(table: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Return those of the columns `names` that `table` has, under its own spelling."""
    found = (find_column(list(table.columns), name) for name in names)
    return table[[name for name in found if name is not None]]


def people_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of patients and lesions that `table` has, those of patients first.

    They are all, unless `patient_id` tells each patient: names and numbers beside it may be those of several.
    A column `subject` with one value is none: it may tell what the pictures show.
    """
    columns = list(table.columns)
    patients = sorted(filter(is_patient, columns), key=lambda name: spelling(name) != "patient_id")
    sure = [name for name in patients if spelling(name) != "subject" or table[name].nunique() > 1]
    others = (find_column(columns, wanted) for wanted in ("case_id", *LESION_COLUMNS))
    return [*_enough(table, sure), *dict.fromkeys(filter(None, others))]


def _enough(table: pd.DataFrame, patients: list[str]) -> list[str]:
    """Return the columns of patients without those that the first, if it is `patient_id`, makes needless."""
    if not patients or spelling(patients[0]) != "patient_id":
        return patients
    first = table[patients[0]]
    return patients if first.isin(["", *unknown_names(first)]).any() else patients[:1]


def _is_patient_or_case(name: str) -> bool:
    return is_patient(name) or find_column([name], "case_id") is not None


def people_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of patients and lesions that `table` has, as `patient_id` and `lesion_id`."""
    known = people_columns(table)
    found = (next(filter(_is_patient_or_case, known), None), find_column(known, *LESION_COLUMNS))
    return pd.DataFrame({name: table[own] for name, own in zip(PEOPLE, found, strict=True) if own}, index=table.index)


def group_of(table: pd.DataFrame, path: Path, *names: str) -> pd.Series:
    """Return one group per row of a table at `path`: the columns of patients and lesions, joined.

    Raises:
        UserError: none of `names` is a column.
    """
    need_column(table, path, *names)
    return joined_people(table, people_columns(table))


def joined_columns(table: pd.DataFrame, *names: str) -> pd.Series:
    """Return one group per row: those of the columns `names` that `table` has, joined; `""` if it has none."""
    known = [values for _, values in present_columns(table, *names).items()]
    return join_groups(*known) if known else pd.Series("", index=table.index)


def group_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns that tell which rows stay together: one named so, otherwise those of `people_columns`."""
    group = find_column(list(table.columns), *GROUP_COLUMNS)
    return [group] if group else people_columns(table)


def joined_people(table: pd.DataFrame, columns: list[str]) -> pd.Series:
    """Return one group per row: what `columns`, at least one, tell of patients and lesions, joined.

    Lesions that are numbered within each patient are told apart, and so are cases, if patients stand beside them.
    """
    lesions = [name for name in columns if find_column([name], *LESION_COLUMNS)]
    patients = [name for name in columns if _is_patient_or_case(name)]
    cases = [name for name in patients if find_column([name], "case_id")]
    if len(cases) < len(patients):
        lesions += cases
        patients = [name for name in patients if name not in cases]
    if not (lesions and patients):
        return join_groups(*(table[name] for name in columns))
    patient = join_groups(*(table[name] for name in patients))
    own = {name: _own_lesions(patient, table[name]) for name in lesions}
    return join_groups(*(own.get(name, table[name]) for name in columns))


def _own_lesions(patient: pd.Series, lesion: pd.Series) -> pd.Series:
    """Return the lesion of each row, with its patient's name if each patient has a lesion 1, or most such numbers.

    The spelling of a patient makes no other patient, and a word for an unknown one is none. A lesion without patient
    is that of the only patient who has one of its name.
    """
    both = pd.DataFrame({"patient": patient, "lesion": lesion})[(patient != "") & (lesion != "")].drop_duplicates()
    if both["lesion"].is_unique:  # as in most sets, whatever the names mean
        return lesion
    patient = patient.mask(patient.isin(unknown_names(patient)), "")
    patient = patient.map({name: alike(name) for name in patient.unique()})
    known = (lesion != "") & ~lesion.isin(unknown_names(lesion))
    both = pd.DataFrame({"patient": patient, "lesion": lesion})[known & (patient != "")].drop_duplicates()
    patients = both.groupby("lesion")["patient"].agg(["first", "size"])
    number = patients["size"]  # of each lesion, and a slip makes it two of one
    of_many = number.max() > max(2, both["patient"].nunique() / 2)
    if of_many or (number > 1).sum() > max(1, len(number) / 2):
        only = patients.loc[number == 1, "first"].to_dict()
        patient = patient.mask(patient == "", lesion.map(lambda name: only.get(name, "")))
        return lesion.mask(known & (patient != ""), patient + "/" + lesion)
    return lesion


def metadata(folder: Folder, key: str) -> list[str]:
    """List the tables named metadata, or nearly so, that have the column `key`, without copies of one another."""
    named = folder.distinct([path for path in folder.tables if "metadata" in posixpath.basename(path).lower()])
    return [path for path in named if find_column(folder.columns(path), key)]


def split_words(values: pd.Series, path: Path) -> pd.Series:
    """Return the words of a column of splits as `train`, `val`, `test`; `""` if the split is not known.

    Raises:
        UserError: a value is none of `SPLITS`.
    """
    words = without_words(values).str.lower()
    unknown = ~words.isin([*SPLITS, ""])
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        number = row_number(path, row) if is_table(path.name) else row + 1  # lines of JSON have no header
        raise UserError(
            f"{path}, row {number}: the split '{values.iloc[row]}' is none of train, val, test: "
            "correct the table"
        )
    return words.replace(SPLITS)


def split_marks(columns: Sequence[str], source: str) -> list[str]:
    """Return a note on columns such as `is_test`, which are not read, for a table without a column of splits."""
    marks = [name for name in columns if _MARK_OF_SPLIT.fullmatch(spelling(name))]
    if not marks:
        return []
    return [f"{source}: {listed(marks)} not read; splits are the words train, val and test in a column 'split'"]


def tables_with(folder: Folder, *columns: str, names: Sequence[str] = ()) -> list[str]:
    """List the tables that have all of `columns`, without copies of one another.

    Args:
        names: of the files, in small letters; any if there are none.
    """
    found = []
    for path in folder.tables:
        if names and name_of_first(path) not in names:
            continue
        if all(find_column(folder.columns(path), column) for column in columns):
            found.append(path)
    return folder.distinct(found)


def stacked(folder: Folder, paths: list[str], columns: tuple[str, ...]) -> pd.DataFrame:
    """Return the rows of several tables as one: those of `columns` that they have, under one spelling."""
    tables = []
    for path in paths:
        names = folder.columns(path)
        used = {found: name for name in columns if (found := find_column(names, name))}
        tables.append(read_table(folder.root / path, list(used))[list(used)].rename(columns=used))
    return tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True).fillna("")


def one_row_each(table: pd.DataFrame, key: str, source: str) -> pd.DataFrame:
    """Return one row per value of `key`: each of two tables may have some of its values.

    Raises:
        UserError: they contradict each other.
    """
    if table[key].is_unique:
        return table
    again = table[key].duplicated(keep=False) & (table[key] != "")
    if not again.any():
        return table
    rows = table[again].mask(table[again] == "").groupby(key, sort=False)
    values = rows.nunique()
    for column in values.columns[(values > 1).any()]:
        image = values.index[values[column] > 1][0]
        raise UserError(
            f"{source} disagree on {column} of the image '{image}': correct one, "
            "or name a table image,label,group with --labels"
        )
    return pd.concat([table[~again], rows.first().reset_index()], ignore_index=True).fillna("")


def listed(paths: list[str]) -> str:
    """Return paths as words: `a, b and c`."""
    if len(paths) == 1:
        return paths[0]
    shown = paths if len(paths) < 4 else [*paths[:2], f"{len(paths) - 2:,} more tables"]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def listed_names(paths: list[str]) -> str:
    """Return paths as words, a single one as the name of its file."""
    return posixpath.basename(paths[0]) if len(paths) == 1 else listed(paths)


def without_unmarked(draft: Draft, marked: np.ndarray) -> Draft:
    """Leave out the rows whose one-hot marks (`marked` of them, int [N]) do not add up to one, and say so."""
    wrong = marked != 1
    if not wrong.any():
        return draft
    first = draft.rows["image"].iloc[int(np.flatnonzero(wrong)[0])]
    none, several = int((marked == 0).sum()), int((marked > 1).sum())
    note = f"{draft.source}: rows that mark no class: {none:,}, several: {several:,} (first: {printable(first)})"
    return replace(
        draft,
        rows=draft.rows[~wrong],
        unusable={**draft.unusable, note: int(wrong.sum())},
        unusable_images=(*draft.unusable_images, *draft.rows.loc[wrong, "image"]),
    )
