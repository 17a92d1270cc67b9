"""Keep words that run from right to left from changing the order of what stands beside them."""

from __future__ import annotations

import re

_LETTER = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"  # from right to left
_BETWEEN = r"[\s\d_.'&+/-]*"  # within a name; a comma or a colon is between two
_WORDS = rf"{_LETTER}(?:{_BETWEEN}{_LETTER})*"
_RUN = re.compile(rf"{_WORDS}(?:{_BETWEEN}\({_BETWEEN}{_WORDS}{_BETWEEN}\))*")


def isolated(text: str) -> str:
    """Return a text whose words from right to left leave the order of what stands beside them, such as a number.

    An isolate (U+2068 to U+2069, Unicode's Annex 9) is around each run of such words. No other text changes.
    """
    return _RUN.sub("\u2068\\g<0>\u2069", text)
