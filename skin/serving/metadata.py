"""Read what predict.py is told beside the pixels: `--metadata age=55,sex=female` of all images, or a table."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import cast

from skin.data.image_files import STDIN, image_paths
from skin.data.metadata import Encoder, column_of
from skin.model.classifier import Known
from skin.utils.errors import UserError, printable
from skin.utils.home import user_path

KnownOf = Callable[[str], Known]
"""Returns what is known of the image at a path."""

_SHOWN = 5  # values of a table that the model does not know; the others are counted


def known_of(given: str, encoder: Encoder | None, quiet: bool = False) -> KnownOf | None:
    """Return what `--metadata` says of images; None if it is not given.

    What is given and cannot be used as it is has a line on stderr, unless `quiet`.

    Raises:
        UserError: the model takes nothing beside the pixels, or it is neither values nor a table.
    """
    if not given:
        return None
    if encoder is None:
        raise UserError(f"--metadata {printable(given)}: this model takes the pixels alone; leave it out")
    say = (lambda line: None) if quiet else _warn
    path = user_path(given)
    if "=" in given and not path.exists():
        known = values_of(given, encoder)
        for problem in encoder.problems(known):
            say(problem)
        return lambda image: known
    if not path.is_file():
        raise UserError(f"--metadata {printable(given)}: there is no such table; values are like age=55,sex=female")
    return _from_table(path, encoder, say)


def values_of(given: str, encoder: Encoder) -> dict[str, str]:
    """Return the values in `age=55,sex=female`, by column. One may have a comma, if the model knows it: `size=3,5`.

    Raises:
        UserError: a part has no name, or no =, or a column has two values.
    """
    found: dict[str, str] = {}
    for part in re.split(r",(?=[^,=]*=)", given):
        name, equals, value = (word.strip() for word in part.partition("="))
        wrong = part if not name or not equals else None
        if "," in value and not any(encoder.known(encoder.encode({name: [value]}, 1)).values()):
            wrong = value.partition(",")[2]
        if wrong is not None:
            raise UserError(f"--metadata {printable(given)}: '{printable(wrong.strip())}' is not COLUMN=VALUE")
        if column_of(found, name):
            raise UserError(f"--metadata {printable(given)}: {printable(name)} has two values; give one")
        found[name] = value
    return found


def _from_table(path: Path, encoder: Encoder, say: Callable[[str], object]) -> KnownOf:
    from skin.data.naming import Images, is_path, may_name  # pandas takes its time to load
    from skin.data.tables import IMAGE_COLUMNS, need_column, read_table

    import pandas as pd

    table = read_table(path)
    columns = list(table.columns)
    key = need_column(table, path, *IMAGE_COLUMNS)
    used = [own for name in encoder.names if (own := column_of(columns, name))]
    if lacking := [name for name in encoder.names if not column_of(columns, name)]:
        say(f"{path} has no column {printable(', '.join(lacking))}: missing for all images")
    for name in used:
        if len(alike := [column for column in columns if column.casefold() == name.casefold()]) > 1:
            say(f"{path} has the columns {printable(', '.join(alike))}: {printable(name)} is the one that is used")
    problems = [line for name in used for value in table[name].unique() for line in encoder.problems({name: value})]
    for line in problems[:_SHOWN]:
        say(line)
    if len(problems) > _SHOWN:
        say(f"{len(problems) - _SHOWN:,} more values of {path} are unknown to the model in the same way")
    named = table[table[key] != ""]
    rows = pd.DataFrame(encoder.encode(named, len(named))).assign(name=named[key].to_list()).drop_duplicates()
    for name in rows.loc[rows["name"].duplicated(), "name"]:
        raise UserError(f"{path} has several rows of {printable(name)}, which do not agree; keep one of them")
    values = dict(zip(table[key], table[used].to_dict("records"), strict=True))
    of_paths, of_files = (Images(name for name in values if is_path(name) == folders) for folders in (True, False))
    answered: dict[str, str] = {}  # by name, the image that it was
    first = threading.Lock()

    def find(image: str) -> Known:
        """Return the row of an image, which the table names by its path, its file or that without the ending.

        Raises:
            UserError: the row may as well be that of an earlier image in another folder.
        """
        near = (*of_paths.nearest(image).images, *of_files.nearest(image).images)
        name = next((name for name in near if may_name(name, image)), None)
        if name is not None:
            other = answered.setdefault(name, image)
            if PurePath(other).parent != PurePath(image).parent and Path(other).resolve() != Path(image).resolve():
                raise UserError(
                    f"{path} names '{printable(name)}', which may be {printable(other)} or {printable(image)}: "
                    "write the path of each image into the table"
                )
            return cast(Known, values[name])
        if first.acquire(blocking=False):  # it is never given back
            say(f"{path} has no row of {printable(image)}: its metadata, and those of others like it, are missing")
        return {}

    return find


def ask_for_all(known: KnownOf | None, images: Sequence[str]) -> None:
    """Look up what is known of all images that the command line names, so that an error comes before the work.

    Those whose names are still to come from stdin are not looked for. Raises `UserError`.
    """
    if known is not None and STDIN not in images:
        for path in image_paths(images, lambda name, reason: None):
            known(path)


def _warn(line: str) -> None:
    print(f"WARNING: {line}", file=sys.stderr, flush=True)
