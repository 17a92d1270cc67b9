"""Find the code page of a table that is no Unicode: spreadsheets still write those of their country.

`charset-normalizer` weighs the code pages. A table has few words, so its answer counts only where no other reading is
nearly as likely, and never where letters and signs alternate within a word, as they do in a wrong reading.
"""

from __future__ import annotations

import re

from charset_normalizer import from_bytes

_LATIN = ("cp1252", "cp1250", "cp1254", "mac_roman", "cp850")
_CYRILLIC = ("cp1251", "koi8_r", "cp866", "cp1253", "cp1255")
_PAGES = (*_LATIN, *_CYRILLIC, "cp1256", "gb18030", "big5", "cp932", "cp949")
_NAMES = {
    "gb18030": "GBK", "big5": "Big5", "cp932": "Shift-JIS", "cp949": "EUC-KR", "mac_roman": "Mac Roman",
    "koi8_r": "KOI8-R", "cp850": "DOS code page 850", "cp866": "DOS code page 866",
}  # fmt: skip
_WORD = re.compile(rb"[A-Za-z\x80-\xff]*[\x80-\xff][A-Z\[\\\]^_`a-z{|}~\x80-\xff]*")
_ODD = re.compile(
    r"[^\W\d_](?![\x00-\x7f’‘´·–—])[\W\d](?=[^\W\d_])"  # a sign between two letters
    r"|[²³¹¼½¾][^\W\d_]|[\x80-\x9f\uff61-\uff9f]"  # a raised number before a letter, controls, narrow katakana
    r"|[A-Za-z][\u0370-\u06ff]|[\u0370-\u06ff][A-Za-z]"  # two scripts in one word
)
_SIGNS = set("\xa0°±µ²³×·®©™€§’‘“”–—…")  # Western signs that a table of any language may have
_CLOSE = 0.1
_SAMPLE_BYTES = 400  # the library wants more text than a column of classes has: the words are repeated


def code_page(content: bytes) -> str | None:
    """Return the code page of `content`, in Python's spelling; None if several would do."""
    if set(content.translate(None, bytes(range(128))).decode("cp1252", "replace")) <= _SIGNS:
        return "cp1252"
    words = b" ".join(sorted(set(_WORD.findall(content)))[:2000]) + b"\n"
    sample = words * (1 + _SAMPLE_BYTES // len(words))
    readings: dict[str, tuple[float, str]] = {}
    for match in from_bytes(sample, cp_isolation=list(_PAGES), enable_fallback=False):
        text = str(match)
        if not _ODD.search(text):
            score = match.coherence - 3 * match.chaos
            readings |= {page: (score, text) for page in match.could_be_from_charset if page in _PAGES}
    best = max((score for score, _ in readings.values()), default=0.0)
    close = {page: readings[page][1] for page in _PAGES if page in readings and readings[page][0] > best - _CLOSE}
    for page, family in (("cp1252", _LATIN), ("cp1251", _CYRILLIC), *((page, (page,)) for page in close)):
        if page in close and all(other in family or close[other] == close[page] for other in close):
            # Cyrillic that other code pages explain as well is Windows' if its letters are small there.
            small = sum(map(str.islower, close[page])) > sum(map(str.isupper, close[page]))
            return page if small or page != "cp1251" or len(set(close.values())) == 1 else None
    return None


def readable_page(page: str) -> str:
    """Return a code page's name as people know it, `Windows-1251`."""
    return _NAMES.get(page, page.replace("cp", "Windows-"))


def example(content: bytes, page: str) -> str:
    """Return a word of `content` that is not plain ASCII, so that people see if it was read right."""
    words: list[bytes] = _WORD.findall(content)
    return max(words, key=len).decode(page, "replace")
