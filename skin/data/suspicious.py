"""Classes that a person should look at: too few images, none to learn from, a name that is no disease's, or two names
for one class. Nothing is changed here, and nothing refused.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from dataclasses import dataclass

from skin.data.class_names import same_disease
from skin.data.folder_names import has_word_of_download
from skin.data.missing import is_no_value
from skin.data.split import SPLITS

import pandas as pd

FEW = 10  # images of a class in training; with fewer it is hardly learnt

_LONG_ENOUGH = 7  # letters: shorter names and codes differ in one letter and mean different things (bcc, scc)


@dataclass(frozen=True)
class Suspicion:
    """One class, or several that may be one, and what is odd about them."""

    classes: tuple[str, ...]
    reason: str


def suspicions(counts: pd.DataFrame, images: pd.Series) -> list[Suspicion]:
    """List what is odd about classes.

    Args:
        counts: images per class (rows) and split (columns `train`, `val`, `test`); all 0 if there is no split.
        images: per class, in total.
    """
    found = [Suspicion(tuple(names), "nearly the same name: one class or several?") for names in _alike(counts.index)]
    used = [split for split in SPLITS if counts[split].any()]
    for name in counts.index:
        if reason := _odd_name(name):
            found.append(Suspicion((name,), reason))
        in_split = counts.loc[name]
        if used and not in_split["train"]:
            found.append(Suspicion((name,), "no image in train: it cannot be learnt"))
        elif (in_split["train"] if used else images[name]) < FEW:
            found.append(Suspicion((name,), f"very few images to learn from: fewer than {FEW}"))
        lacking = [split for split in used if split != "train" and not in_split[split]]
        if lacking:
            found.append(Suspicion((name,), f"no image in {' and '.join(lacking)}: it is not measured there"))
    return found


def _odd_name(name: str) -> str:
    """Return why a name may not be that of a disease; `""` if it may."""
    if has_word_of_download(name):
        return "named like a split or a piece of a download: is it a disease?"
    if is_no_value(name.strip()) or name.strip().lower() == "misc":
        return "a name for what is not known: is it a disease?"
    return "a number: is it the right column?" if name.strip().replace(".", "").isdigit() else ""


def _alike(names: pd.Index) -> list[list[str]]:
    """Return groups of names that are spellings of one, are codes of one disease, or differ in a letter."""
    of_key = defaultdict(list)
    for name in names:
        for key in {f"disease {same_disease(name)}", *(f"letters {blurred}" for blurred in _blurred(name))}:
            of_key[key].append(name)
    return [list(names) for names in sorted({tuple(alike) for alike in of_key.values() if len(alike) > 1})]


def _blurred(name: str) -> set[str]:
    """Return the letters of a name, accents aside, and if they are many, also without each one of them."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", name.casefold()) if c.isalnum())
    if len(letters) < _LONG_ENOUGH or not letters.isalpha():
        return {letters}
    return {letters, *(letters[:i] + letters[i + 1 :] for i in range(len(letters)))}
