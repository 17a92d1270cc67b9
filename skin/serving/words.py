"""The words of the web page in the reader's language. They stand in `words.toml`, all of them."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from skin.data.class_names import same_disease
from skin.utils.direction import isolated

PATH = Path(__file__).with_name("words.toml")


@dataclass(frozen=True)
class Words:
    """The words of one language.

    Attributes:
        language: its code, as in `<html lang>`.
        texts: those that the server puts into the page.
        script: those that the page's script needs.
        classes: diseases as people name them, by `same_disease`.
        known: columns and values of metadata as people name them.
    """

    language: str
    texts: dict[str, str]
    script: dict[str, str]
    classes: dict[str, str]
    known: dict[str, str]

    def __call__(self, key: str, **values: object) -> str:
        """Return a text, with `values` in its places."""
        return self.texts[key].format(**values)

    def names(self, classes: Sequence[str]) -> dict[str, str]:
        """Return the names of a model's classes for people; no two are alike."""
        named = {cls: self.classes.get(same_disease(cls), cls.replace("_", " ")) for cls in classes}
        shown = list(named.values())
        return {cls: isolated(name if shown.count(name) == 1 else cls) for cls, name in named.items()}

    def known_as(self, name: str) -> str:
        """Return a column of metadata, or one of its values, as people name it."""
        return self.known.get(name.casefold(), name.replace("_", " "))

    def renames(self, cls: str) -> bool:
        """Return True for a code such as `mel`, which people know by another name."""
        return self.classes.get(same_disease(cls), cls).casefold() != cls.casefold()

    def listed(self, names: Sequence[str]) -> str:
        """Return `a, b and c`."""
        return self.texts["and"].join(([", ".join(names[:-1])] if names[1:] else []) + [*names[-1:]])

    def percent(self, probability: float) -> str:
        """Return a share as `92.1 %`; only an exact 0 or 1 becomes `0.0 %` or `100.0 %`."""
        text = f"{100 * probability:.1f}"
        if 0 < probability < 0.001:
            text = "< 0.1"
        elif 0.999 < probability < 1:
            text = "> 99.9"
        return text.replace(".", self.texts["decimal"]) + "\u00a0%"


@cache
def languages() -> dict[str, Words]:
    """Return the words of every language, by its code."""
    tables = tomllib.loads(PATH.read_text(encoding="utf-8"))
    return {
        code: Words(code, {key: text for key, text in table.items() if isinstance(text, str)}, table["script"],
                    table["classes"], table["known"])
        for code, table in tables.items()
    }  # fmt: skip


def words_for(accepted: str) -> Words:
    """Return the words of the language that a browser likes best of those there are; otherwise the English ones.

    Args:
        accepted: as in the header Accept-Language, such as `pt-BR,de;q=0.8,en;q=0.5`.
    """
    liked: list[tuple[float, str]] = []
    for part in accepted.split(","):
        tag, _, weight = part.strip().partition(";q=")
        try:
            liked.append((float(weight or 1), tag.partition("-")[0].lower()))
        except ValueError:
            continue
    for liking, code in sorted(liked, key=lambda pair: -pair[0]):
        if liking > 0 and code in languages():
            return languages()[code]
    return languages()["en"]
