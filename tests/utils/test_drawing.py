from collections.abc import Iterator
from pathlib import Path

from skin.utils import drawing
from skin.utils.direction import isolated

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "full": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1, 1.08883])


def linear(colours: tuple[str, ...]) -> np.ndarray:
    values = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = rgb @ TO_XYZ.T / WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


@pytest.mark.parametrize("vision", VISION)
def test_classes_are_told_apart_by_colour_blind_readers(vision: str) -> None:
    seen = lab(np.clip(linear(drawing.COLOURS) @ np.array(VISION[vision]).T, 0, 1))
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2) + 100 * np.eye(len(seen))
    assert apart.min() > 25


def test_colours_are_seen_on_white() -> None:
    luminance = linear(drawing.COLOURS) @ TO_XYZ[1]
    assert (1.05 / (luminance + 0.05)).min() > 2


def test_a_class_keeps_its_colour_and_too_many_share_one() -> None:
    assert drawing.colours_of(3) == drawing.COLOURS[:3]
    assert set(drawing.colours_of(11)) == {drawing.ACCENT}


def test_names_are_wrapped_not_cut() -> None:
    assert drawing.label("nv") == "nv"
    assert drawing.label("seborrhoeic keratosis of the arm") == "seborrhoeic keratosis\nof the arm"


@pytest.mark.parametrize("name", ["x" * 49 + "y", "one two three four five six seven eight nine ten"])
def test_a_name_that_is_too_long_keeps_its_ends(name: str) -> None:
    lines = drawing.label(name, width=12, lines=2).splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 12
    assert (lines[0][:3], lines[1][-2:]) == (name[:3], name[-2:])
    assert "…" in "".join(lines)


@pytest.mark.parametrize("text", ["nv (n = 5)", "label שומה (שפירה), 14.0 %"])
def test_words_from_right_to_left_do_not_turn_the_numbers_beside_them_around(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "_SHAPES", True)  # as of matplotlib 3.11
    assert drawing.label(text, 40) == isolated(text)


def test_an_isolate_needs_no_font_and_is_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_SHAPES", True)
    assert drawing.label("שומה שפירה", 5) == "\u2068שומה\u2069\n\u2068שפירה\u2069"
    assert drawing.families("\u2068nv\u2069") == ("DejaVu Sans",)


def test_names_that_differ_only_in_their_middle_get_their_numbers() -> None:
    one, other, plain = drawing.labels(["a" * 200 + "1" + "b" * 200, "a" * 200 + "2" + "b" * 200, "nv"])
    assert one.removesuffix(" (1)") == other.removesuffix(" (2)")
    assert one != other
    assert plain == "nv"


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A font that has the letter 黑 and no other."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    pen.lineTo((500, 0))
    pen.lineTo((250, 700))
    pen.closePath()
    glyph = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "black"])
    builder.setupCharacterMap({ord("黑"): "black"})
    builder.setupGlyf({".notdef": glyph, "black": glyph})
    builder.setupHorizontalMetrics({".notdef": (600, 0), "black": (600, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Only Black", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(tmp_path / "black.ttf")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(tmp_path / "black.ttf")
    return "Only Black"


def test_letters_come_from_an_installed_font_that_has_them(foreign: str) -> None:
    assert drawing.families("melanoma") == ("DejaVu Sans",)
    assert foreign in drawing.families("黑 a")
    assert drawing.label("黑") == "黑"
    with drawing.styled(["黑"]):
        made = drawing.figure(1, 1, dpi=30)
        made.text(0.5, 0.5, "黑")
        made.canvas.draw()  # a letter that no font has is a warning, which is an error here


def test_letters_that_no_font_has_are_replaced() -> None:
    assert drawing.label("a\U000F1234b") in ("a\N{REPLACEMENT CHARACTER}b", "a\\U000f1234b")
    assert drawing.drawable("a\uE999") == {"a"}
