"""Pictures that show no skin, made on the spot: how many of them does a model tell from its training images?

The kinds are drawn with numpy and OpenCV from a seed. Photographs are parts of three that scikit-learn and
matplotlib bring with them: a palace, a flower, and a portrait. `inverted` are images of the set as negatives. All
are measured with and none is fitted to, so the share that is caught also tells of pictures of other kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

COUNT = 32  # pictures of each kind: enough to tell nearly all from half
_WORDS = "patient history shows no lesion of the skin since 1987 see page 24 for the table of results and costs"
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_PLAIN)

Draw = Callable[[np.random.Generator, int], np.ndarray]


def draw(side: int, squares: Sequence[np.ndarray] = (), seed: int = 0, count: int = COUNT) -> dict[str, np.ndarray]:
    """Return pictures that show no skin, by kind: uint8 [N, side, side, 3] each, RGB.

    Args:
        squares: uint8 [side, side, 3], images of the set, for `inverted`; without them that kind is left out.
        count: of each kind that is drawn.
    """
    kinds: dict[str, Draw] = {
        "noise": _noise, "flat": _flat, "text": _text, "documents": _document, "textures": _texture, "scenes": _scene,
    }  # fmt: skip
    made = {}
    for number, (kind, draw_one) in enumerate(kinds.items()):
        generator = np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))
        made[kind] = np.stack([draw_one(generator, side) for _ in range(count)])
    if photographs := _photographs(side):
        made["photographs"] = np.stack(photographs)
    if len(squares):
        made["inverted"] = 255 - np.stack(squares)
    return made


def _noise(generator: np.random.Generator, side: int) -> np.ndarray:
    """Draw noise of any grain, in colour or grey."""
    cells = int(generator.choice([side, side // 2, side // 4]))
    channels = int(generator.choice([1, 3]))
    cell = generator.integers(0, 256, (cells, cells, channels), np.uint8).repeat(3 // channels, axis=2)
    return np.asarray(cv2.resize(cell, (side, side), interpolation=cv2.INTER_NEAREST))


def _flat(generator: np.random.Generator, side: int) -> np.ndarray:
    """Draw one colour, or one that becomes another."""
    one, other = generator.integers(0, 256, (2, 3))
    along = np.linspace(0, 1, side)[:, None, None] * generator.integers(0, 2)
    return np.broadcast_to(one + (other - one) * along, (side, side, 3)).round().astype(np.uint8)


def _text(generator: np.random.Generator, side: int) -> np.ndarray:
    """Draw lines of text in any size and two colours."""
    page = np.empty((side, side, 3), np.uint8)
    page[:], ink = generator.integers(200, 256, 3), tuple(generator.integers(0, 90, 3).tolist())
    if generator.random() < 0.25:
        page, ink = 255 - page, tuple(255 - c for c in ink)
    height = side * generator.uniform(0.04, 0.2)
    font, words = _FONTS[generator.integers(len(_FONTS))], _WORDS.split()
    for line in np.arange(height, side, 1.5 * height):
        text = " ".join(generator.permutation(words))
        at = (int(side * 0.05), int(line))
        cv2.putText(page, text, at, font, height / 25, ink, max(1, int(height / 12)), cv2.LINE_AA)
    return page


def _document(generator: np.random.Generator, side: int) -> np.ndarray:
    """Draw a page with a heading, lines as at a distance, a table or a chart."""
    page = np.full((side, side, 3), generator.integers(225, 256), np.uint8)
    margin, pitch = side // 12, max(3, int(side * generator.uniform(0.03, 0.06)))
    cv2.rectangle(page, (margin, margin), (int(side * generator.uniform(0.4, 0.8)), margin + pitch), (30, 30, 30), -1)
    chart = int(side * generator.uniform(0.5, 0.8))
    for y in range(margin + 3 * pitch, chart, pitch):
        x = margin
        while x < side - margin:
            end = min(x + int(generator.integers(pitch, 4 * pitch)), side - margin)
            cv2.line(page, (x, y), (end, y), (60, 60, 60), max(1, pitch // 3))
            x = end + pitch // 2
    for x in range(margin, side - margin - pitch, 2 * pitch):
        top = int(generator.integers(chart + pitch, max(chart + pitch + 1, side - margin)))
        cv2.rectangle(page, (x, top), (x + pitch, side - margin), generator.integers(0, 200, 3).tolist(), -1)
    return page


def _texture(generator: np.random.Generator, side: int) -> np.ndarray:
    """Draw noise with the spectrum of natural pictures: its amplitude falls as one over the frequency."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(generator.standard_normal((3, side, side))) * frequency ** -generator.uniform(0.7, 1.6)
    layers = np.fft.irfft2(spectrum, (side, side))
    layers = (layers - layers.mean((1, 2), keepdims=True)) / layers.std((1, 2), keepdims=True)
    mixed = np.einsum("ij,jhw->hwi", generator.uniform(-1, 1, (3, 3)), layers) * generator.uniform(20, 60)
    pixels: np.ndarray = np.clip(mixed + generator.integers(40, 216, 3), 0, 255)
    return pixels.astype(np.uint8)


def _scene(generator: np.random.Generator, side: int) -> np.ndarray:
    """Draw sky, ground, and things that stand on it."""
    sky, ground = np.array([110, 160, 220]), np.array([90, 120, 60])
    down = np.linspace(0, 1, side)[:, None, None]
    page = np.broadcast_to(sky * (1 - down) + 230 * down, (side, side, 3)).copy()
    horizon = int(side * generator.uniform(0.4, 0.75))
    page[horizon:] = ground + generator.normal(0, 18, (side - horizon, side, 1))
    for _ in range(int(generator.integers(4, 12))):
        x, width = generator.uniform(0, side), side * generator.uniform(0.05, 0.25)
        top, foot = horizon - side * generator.uniform(0.02, 0.4), horizon + side * generator.uniform(0, 0.2)
        colour = generator.integers(0, 256, 3).tolist()
        if generator.random() < 0.5:
            cv2.rectangle(page, (int(x), int(top)), (int(x + width), int(foot)), colour, -1)
            for step in np.arange(top + width / 6, foot - width / 6, width / 3):
                cv2.line(page, (int(x + width / 5), int(step)), (int(x + 0.8 * width), int(step)), (240, 235, 200), 2)
        else:
            cv2.line(page, (int(x), int(top)), (int(x), int(foot)), (80, 55, 40), max(1, int(width / 6)))
            cv2.circle(page, (int(x), int(top)), max(1, int(width / 2)), colour, -1)
    noisy = cv2.GaussianBlur(page, (0, 0), side / 200) + generator.normal(0, 4, page.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _photographs(side: int) -> list[np.ndarray]:
    """Return parts of the photographs that are there: the whole, and squares of two thirds and a third of it."""
    import matplotlib
    import sklearn.datasets

    folders = (Path(sklearn.datasets.__file__).parent / "images", Path(matplotlib.get_data_path()) / "sample_data")
    found = []
    for folder, name in zip((folders[0], folders[0], folders[1]), ("china", "flower", "grace_hopper"), strict=True):
        path = folder / f"{name}.jpg"
        if not path.exists():  # a distribution may leave it out
            continue
        with Image.open(path) as opened:
            photograph = np.asarray(opened.convert("RGB"))
        shorter = min(photograph.shape[:2])
        for share in (1.0, 2 / 3, 1 / 3):
            size = int(shorter * share)
            for y in np.linspace(0, photograph.shape[0] - size, 1 if share == 1 else 2).astype(int):
                for x in np.unique(np.linspace(0, photograph.shape[1] - size, 2).astype(int)):
                    part = photograph[y : y + size, x : x + size]
                    found.append(np.asarray(cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)))
    return found
