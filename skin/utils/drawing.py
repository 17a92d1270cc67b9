"""The look of every picture: colours, letters, names that fit beside an axis.

Nothing global changes, so pictures may be drawn in any order and place.
"""

from __future__ import annotations

import io
import logging
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from skin.utils.direction import isolated
from skin.utils.errors import printable
from skin.utils.files import write_atomically

import matplotlib
from matplotlib import font_manager, ft2font
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK, FAINT, GRID = "#1f2933", "#616e7c", "#e4e7eb"
ACCENT, SECOND, THIRD = "#1b5e9b", "#c05460", "#846c0c"
# Any two are at least 25 apart (CIE 1976) for people with full colour vision, protanopia, deuteranopia and tritanopia
# (Machado et al. 2009), and each at least 2 : 1 against white. They were searched for by these two rules.
COLOURS = (
    "#1b5e9b", "#f09c78", "#54b4e4", "#846c0c", "#3c4818", "#9cc030", "#782454", "#cca8b4", "#9084fc", "#c05460",
)  # fmt: skip
DPI = 150
# It would say of each heading that a font of foreign letters has no bold ones.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
FAMILY = "DejaVu Sans"  # it comes with matplotlib
# Since 3.11 matplotlib turns words from right to left. An older one would draw a box for an isolate.
_SHAPES = hasattr(ft2font, "__libraqm_version__")
_STYLE: Any = {
    "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.labelcolor": INK, "axes.edgecolor": FAINT, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "text.color": INK, "xtick.color": FAINT,
    "ytick.color": FAINT, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "legend.frameon": False,
    "text.parse_math": False, "axes.axisbelow": True, "hatch.linewidth": 0.6,
}  # fmt: skip


@contextmanager
def styled(texts: Iterable[str] = ()) -> Iterator[None]:
    """Draw in the common style, with fonts for the letters of `texts`."""
    with matplotlib.rc_context({**_STYLE, "font.family": list(families("".join(texts)))}):
        yield


def figure(width: float, height: float, dpi: int = DPI) -> Figure:
    """Return an empty figure of `width` x `height` inches, which belongs to nobody else."""
    made = Figure(figsize=(width, height), dpi=dpi, layout=ConstrainedLayoutEngine(w_pad=0.08), facecolor="white")
    FigureCanvasAgg(made)
    return made


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the name of the file says; without one, as PNG.

    Raises:
        UserError: the file cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.lstrip(".") or "png")
    write_atomically(content.getvalue(), path)


def colours_of(classes: int) -> tuple[str, ...]:
    """Return the colour of each class, the same in every picture; one for all if there are too many to tell apart."""
    return COLOURS[:classes] if classes <= len(COLOURS) else (ACCENT,) * classes


# ---- names ----------------------------------------------------------------------------------------------------


def labels(names: Sequence[str], width: int = 22, lines: int = 3) -> list[str]:
    """Return names that fit beside an axis, wrapped; two that would look the same get their numbers."""
    texts = [label(name, width, lines) for name in names]
    times = Counter(texts)
    return [f"{text} ({number})" if times[text] > 1 else text for number, text in enumerate(texts, start=1)]


def label(name: str, width: int = 22, lines: int = 3) -> str:
    """Return a name in at most `lines` lines of `width` letters; one that is too long lacks its middle."""
    text = "".join(c if c in drawable(c) else "\N{REPLACEMENT CHARACTER}" for c in printable(name, limit=2000))
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    width = width if 2 * wide < len(text) else width // 2
    wrapped, half = textwrap.wrap(text, width), width * lines // 2
    while len(wrapped) > lines:  # without its middle, and as much of it as fits
        wrapped = textwrap.wrap(f"{text[:half].rstrip()} … {text[-half:].lstrip()}", width)
        half -= 1
    return "\n".join(map(isolated, wrapped) if _SHAPES else wrapped)


# ---- letters --------------------------------------------------------------------------------------------------


def drawable(text: str) -> set[str]:
    """Return the letters of `text` that some font here has."""
    have = set().union(*(_letters(_fonts()[family]) for family in families(text)))
    return {c for c in text if ord(c) in have or c.isspace()}


def families(text: str) -> tuple[str, ...]:
    """Return the fonts that draw `text`: the usual one, and installed ones for the letters that it lacks."""
    fonts = _fonts()
    missing = {ord(c) for c in text if c.isprintable()} - _letters(fonts[FAMILY])
    found = [FAMILY]
    for family in sorted(fonts, key=_plainest) if missing else ():
        if missing & _letters(fonts[family]):
            found.append(family)
            missing -= _letters(fonts[family])
    return tuple(found)


def _plainest(family: str) -> tuple[bool, str]:
    """Sort fonts like the usual one first; the others by name, so that the same is taken each time."""
    return not any(word in family.lower() for word in ("sans", "gothic", "hei")), family


def _fonts() -> dict[str, str]:
    """Return the file of each upright font of usual weight, by family."""
    # "Last Resort" comes with matplotlib and draws a box for every letter that there is.
    listed = [font for font in font_manager.fontManager.ttflist if not font.name.startswith("Last Resort")]
    upright = {font.name: font.fname for font in listed if font.style == "normal" and font.weight == 400}
    return {FAMILY: font_manager.findfont(FAMILY), **upright}


@cache
def _letters(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # gone since matplotlib listed it, or damaged
        return frozenset()
