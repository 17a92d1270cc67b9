"""Say what is not known of a data set and may spoil a run in silence: lesions, classes without images, formats."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from skin.data.groups import unknown_names
from skin.utils.errors import UserError, printable
from skin.utils.files import write_atomically

import pandas as pd

NAME = "warnings.txt"  # in a run's folder, a line each
FEW = 10
_LARGE_WEIGHT = 20
_LARGE_GROUP, _MANY = 0.05, 6  # of the images, and their number
_ZEROS = re.compile(r"(?<![0-9])(?<![0-9][.,])0+(?=[0-9])")  # of a whole number: those behind a point count
_BETWEEN = re.compile(r"(?<=[^\W_])[\s_‐-―-]+(?=[^\W_])")  # what parts two words or numbers
_NO_NUMBERS = re.compile(r"(?<![0-9]) | (?![0-9])")
_WHOLE = re.compile(r"(?P<whole>[0-9]+)([.,]0+)?(e[+-]?0+)?")
_TRUTH = {"true": "1", "false": "0"}
_SHOWN = 8  # classes in a line


def alike(name: str) -> str:
    """Return the same text for names that people write for one thing.

    They differ in case, zeros in front, what stands between two words, a full stop, or signs that nobody sees; `1`,
    `01`, `1.0E+00` and `True` are one, too. Between numbers a space stays: `1_12` is not `11_2`.
    """
    if not name.isascii():
        seen = (sign for sign in unicodedata.normalize("NFKC", name) if unicodedata.category(sign) != "Cf")
        name = "".join(seen)
    name = name.casefold().strip(" _").rstrip(".,;:")
    if not name.isalnum():
        name = _NO_NUMBERS.sub("", _BETWEEN.sub(" ", name))
    if "0" in name:
        name = _ZEROS.sub("", name)
    number = _WHOLE.fullmatch(name) if name[:1].isdigit() else None
    return number["whole"] if number else _TRUTH.get(name, name)


def without_unknown_groups(rows: pd.DataFrame, source: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with `""` for groups that are a word for an unknown patient, and a warning for each."""
    warnings = []
    for name in unknown_names(rows["group"]):
        of_name = rows["group"] == name
        rows = rows.assign(group=rows["group"].mask(of_name, ""))
        where = f"{int(of_name.sum()):,} of {len(rows):,} images"
        warnings.append(
            f"{source}: '{printable(name)}' is the lesion or patient of {where}: treated as unknown, so each "
            "of these images counts as a lesion of its own"
        )
    return rows, warnings


def of_groups(groups: pd.Series) -> list[str]:
    """Return warnings on the groups of the images, `""` where none is known."""
    if (groups == "").all():
        return [
            "no lesion or patient is known, so pictures of one lesion count as several, and a split may part them; "
            "tell which belong together with a table's column (--group-column NAME), or with --group-by REGEX, "
            "which finds them in the names of files and folders"
        ]
    known = groups[groups != ""].value_counts()
    warnings = []
    names = pd.Series(known.index, dtype="str")
    plain = names.map(alike)
    if (again := plain.duplicated(keep=False)).any():
        one, other = sorted(names[plain == plain[again].iloc[0]])[:2]
        warnings.append(
            f"{plain[again].nunique():,} lesions or patients are written in several ways, such as '{printable(one)}' "
            f"and '{printable(other)}', which differ only in case, signs or leading zeros: they count as different, "
            "and may be in two splits; if they are the same, write them in one way"
        )
    second = known.iloc[1] if len(known) > 1 else 0
    stands_out = known.iloc[0] > len(groups) * _LARGE_GROUP and known.iloc[0] >= max(_MANY, 3 * second)
    if known.iloc[0] > len(groups) / 3 or stands_out:
        warnings.append(
            f"the group '{printable(known.index[0])}' holds {known.iloc[0]:,} of {len(groups):,} images: if it is "
            "not one lesion or patient, leave its cells empty or name another column (--group-column NAME)"
        )
    return warnings


def of_split(rows: pd.DataFrame, classes: Sequence[str], balanced: bool) -> list[str]:
    """Return warnings on the classes in the training split.

    Args:
        rows: with the columns label and split.
        balanced: the loss weighs classes by N / (C * count), as `skin.training.losses.class_weights` does.
    """
    warnings = []
    if len(rows) < FEW:
        warnings.append(f"{len(rows)} images in total: too few to learn from, and no metric of them means anything")
    train = rows.loc[rows["split"] == "train", "label"].value_counts().reindex(list(classes), fill_value=0)
    others = rows.loc[rows["split"] != "train", "label"].value_counts().reindex(list(classes), fill_value=0)
    if absent := [f"{cls} ({others[cls]:,} in val and test)" for cls in classes if not train[cls]]:
        warnings.append(f"no training image of {_listed(absent)}: the model cannot learn {_it(absent)}")
    if few := [f"{cls} ({train[cls]})" for cls in classes if 0 < train[cls] < FEW]:
        warnings.append(f"fewer than {FEW} training images of {_listed(few)}: hardly enough to learn {_it(few)}")
    weights = {cls: train.sum() / (len(classes) * train[cls]) for cls in classes if train[cls]}
    large = [f"{cls} counts {weight:.0f} times" for cls, weight in weights.items() if weight > _LARGE_WEIGHT]
    if balanced and large:
        warnings.append(f"in the loss, an image of {_listed(large)}; --class-weights logits counts all images alike")
    return warnings


def write(warnings: Sequence[str], path: Path) -> None:
    """Write a run's warnings, a line each."""
    write_atomically("".join(f"{printable(line, 1000)}\n" for line in warnings).encode(), path)


def read(path: Path) -> list[str] | None:
    """Return the warnings that `write` wrote; None if there is no such file, as in a run of an earlier version.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _listed(items: list[str]) -> str:
    shown = ", ".join(printable(item) for item in items[:_SHOWN])
    return shown + (f" and {len(items) - _SHOWN:,} more classes" if len(items) > _SHOWN else "")


def _it(items: list[str]) -> str:
    return "it" if len(items) == 1 else "them"
