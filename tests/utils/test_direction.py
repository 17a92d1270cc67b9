"""Words from right to left beside numbers and words from left to right."""

from __future__ import annotations

from skin.utils.direction import isolated

import pytest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nv (n = 5)", "nv (n = 5)"),
        ("שומה שפירה", "\u2068שומה שפירה\u2069"),
        ("label שומה (שפירה), 14.0 %", "label \u2068שומה (שפירה)\u2069, 14.0 %"),
        ("שומה 2 שפירה  0.32 (0.12–0.64)", "\u2068שומה 2 שפירה\u2069  0.32 (0.12–0.64)"),
        ("(few: שומה) 5, شامة nv", "(few: \u2068שומה\u2069) 5, \u2068شامة\u2069 nv"),
        ("שומה: 5, شامة: 3", "\u2068שומה\u2069: 5, \u2068شامة\u2069: 3"),
    ],
)
def test_runs_of_words_from_right_to_left_are_isolated(text: str, expected: str) -> None:
    assert isolated(text) == expected
