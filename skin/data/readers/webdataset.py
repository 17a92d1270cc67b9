"""WebDataset: tars in which the files of one sample share a name, `000123.jpg` and `000123.cls` or `.json`."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from skin.data.containers import TAR, read_member, tar_members
from skin.data.folder import Folder, image_suffix
from skin.data.image_files import IMAGE_SUFFIXES
from skin.data.index import Draft
from skin.data.readers.common import Layout
from skin.data.readers.records import (
    label_column,
    label_note,
    of_suffix,
    rows_of_records,
    split_of,
    texts_of,
    unless_others_read,
)
from skin.data.tables import without_nan
from skin.utils.errors import UserError, printable

import pandas as pd

_NUMBER, _RECORD, _TEXT = ".cls", ".json", ".txt"
_MOST = 2**20  # bytes of a label or record


def read(folder: Folder) -> Draft | None:
    return unless_others_read(folder, _read)


def _read(folder: Folder) -> Draft | None:
    parts = []
    found = of_suffix(folder, TAR)
    for path in found:
        members = tar_members(folder.root / path)
        samples = _samples(members, path)
        if not samples:
            names = (member for member in members if not posixpath.basename(member).startswith("."))
            if dotted := next(filter(image_suffix, names), None):
                raise UserError(
                    f"{folder.root / path}: the name of a sample ends at the first dot, and {printable(dotted)} has "
                    "more of them: rename the members, or unpack it and name a table with --labels"
                )
            continue
        rows = _rows(folder, path, samples)
        if rows is None:
            raise UserError(
                f"{folder.root / path} has pictures without labels: it needs a file <name>.cls, <name>.json (with a "
                "value 'label') or <name>.txt beside each, or unpack it and name a table with --labels"
            )
        parts.append(rows)
    if not parts:
        return None
    rows = pd.concat(parts, ignore_index=True)
    source = found[0] if len(found) == 1 else f"{len(found):,} .tar files"
    return Draft(rows.fillna(""), source, label_note=label_note(parts[0], source))


def _samples(members: Iterable[str], path: str) -> dict[str, dict[str, str]]:
    """Return the samples of a tar that have a picture: by name, the member of each ending, the picture's under ""."""
    samples: dict[str, dict[str, str]] = {}
    for member in members:
        folder, name = posixpath.split(member)
        if name.startswith("."):
            continue
        stem, dot, ending = name.partition(".")
        of_sample = samples.setdefault(posixpath.join(folder, stem), {})
        kind = "" if f".{ending.lower()}" in IMAGE_SUFFIXES else (dot + ending).lower()
        if kind in of_sample:
            raise UserError(f"{path} has two pictures of one sample, {of_sample[kind]} and {member}: remove one")
        of_sample[kind] = member
    return {name: of_sample for name, of_sample in samples.items() if "" in of_sample}


def _rows(folder: Folder, path: str, samples: dict[str, dict[str, str]]) -> pd.DataFrame | None:
    """Return the rows of a tar; None if it has no labels at all. A sample without one has `""`."""

    def text(member: str) -> str:
        return without_nan(read_member(f"{folder.root / path}::{member}", _MOST).decode("utf-8", "replace").strip())

    records = pd.DataFrame([
        _record(text(of_sample[_RECORD]), f"{path}::{of_sample[_RECORD]}") if _RECORD in of_sample else {}
        for of_sample in samples.values()
    ], index=range(len(samples))).fillna("")  # fmt: skip
    label = label_column(list(records.columns))
    ending = next((end for end in (_NUMBER, _TEXT) if any(end in of_sample for of_sample in samples.values())), None)
    if ending is not None and (ending == _NUMBER or label is None):
        label = "label"
        values = [text(of_sample[ending]) if ending in of_sample else "" for of_sample in samples.values()]
        records = records.drop(columns=label, errors="ignore").assign(**{label: values})
    if label is None:
        return None
    image = pd.Series([f"{path.removesuffix(TAR)}/{name}" for name in samples])
    file = pd.Series([f"{path}::{of_sample['']}" for of_sample in samples.values()])
    return rows_of_records(image, records.astype("str"), label, split_of(path)).assign(file=file)


def _record(text: str, name: str) -> dict[str, str]:
    record = texts_of(text)
    if record is None:
        raise UserError(f"{name} is no JSON record: it needs a value 'label' in braces")
    return record


LAYOUT = Layout("WebDataset", "*.tar of samples such as 000123.jpg with 000123.cls or 000123.json", read)
