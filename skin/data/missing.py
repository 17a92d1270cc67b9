"""Words that people write where a value is missing, such as `n.a.` or `not recorded`."""

from __future__ import annotations

import re
from collections.abc import Iterable

SIGNS = re.compile(r"[\s_.#]+")  # in which spellings of a word for a missing value differ

# Words for what nobody knows, such as a patient, without spaces and the signs `SIGNS`.
_UNKNOWN = {
    "unk", "nan", "none", "null", "na", "n/a", "<na>", "?", "??", "-", "--", "", "anonymous", "anon", "tbd", "tba",
    "keineangabe", "unbekannt", "inconnu", "desconocido", "-1", "-9", "-99", "-999", "-9999",
}  # fmt: skip
_WHO = "(patient|subject|lesion|case|person)?(id|name|number)?"
_NOT = "((un|not)(known|available|specified|provided|recorded|reported|assigned|given|defined|labell?ed)|missing)"
_NOBODY = re.compile(f"{_NOT}{_WHO}|{_WHO}{_NOT}|no(?=.){_WHO}")
_OPPOSITES = {"-": "+", "--": "++", "missing": "present"}
_INITIALS = {"k.a.", "k. a."}  # "keine Angabe", and "KA" may be a name


def is_unknown(name: str) -> bool:
    """Return True for a word for what nobody knows: `unknown`, `n.a.`, `not_recorded`, `Unknown patient`."""
    if name[-1:].isdigit() and name[0] != "-":  # the usual name
        return False
    small = name.casefold()
    plain = SIGNS.sub("", small.removesuffix(".0"))
    return small in _INITIALS or (name != "" and plain in _UNKNOWN) or _NOBODY.fullmatch(plain) is not None


def is_no_value(text: str) -> bool:
    """Return True for such a word in a column of classes or attributes, where `no lesion` is healthy skin."""
    return is_unknown(text) and SIGNS.sub("", text.casefold()) != "nolesion"


def no_values(texts: Iterable[str]) -> set[str]:
    """Return those of a column's texts that are such words: not `-` beside `+`, nor `missing` beside `present`."""
    small = {text: text.strip().casefold() for text in texts}
    there = set(small.values())
    return {text for text, word in small.items() if is_no_value(text.strip()) and _OPPOSITES.get(word) not in there}
