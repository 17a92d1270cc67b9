"""Augmentation: one warp and one colour map per image, bytes in and bytes out.

The augmented image is a pure function of (seed, epoch, index). The draw comes from a counter-based generator
keyed by those three numbers, never from a worker's running state. So it does not depend on the number of
workers, processes or GPUs, and a run that was killed goes on to the very same images.

Flips, rotation, zoom and shift are composed into one affine map, and the stored image is resampled once,
straight to the network's size. Brightness, contrast and saturation are one affine map of the colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import cv2
import numpy as np

GREY = np.array([0.299, 0.587, 0.114])  # luma of RGB, ITU-R BT.601
MEAN = (124, 116, 104)  # of ImageNet's pixels, RGB: about 0 when normalised

_Rows = tuple[tuple[float, float], tuple[float, float]]


def _at_most(value: float, strength: float) -> float:
    return value * min(strength, 1)


def _times(value: float, strength: float) -> float:
    return value * strength


def _to_the_power(value: float, strength: float) -> float:
    return math.pow(value, strength)


def _rest(value: float, strength: float) -> float:
    return 1 - (1 - value) * min(strength, 1)


def _range(value: float, scale: Callable[[float, float], float]) -> Any:
    return field(default=value, metadata={"scale": scale})


@dataclass(frozen=True)
class Augmentation:
    """The range of each property of an image: one entry per augmentation, with its scaling by a strength.

    Skin has no up and down, so rotation is by any angle.
    """

    flip: float = _range(0.5, _at_most)  # probability, for each axis
    rotation: float = _range(1.0, _at_most)  # of half a turn, either way
    exact: float = _range(0.5, _rest)  # share of views that only turn by quarters, see `by_quarters`
    zoom: float = _range(1.15, _to_the_power)  # times larger or smaller, at most
    shift: float = _range(0.05, _times)  # of the picture's side, either way
    brightness: float = _range(0.1, _times)  # of mid grey, either way
    contrast: float = _range(0.1, _times)  # factor 1 ± this, about mid grey
    saturation: float = _range(0.1, _times)  # factor 1 ± this
    cutout: float = _range(0.0, _at_most)  # side of the square that half of the views lack, as a share of theirs

    def scaled(self, strength: float) -> Augmentation:
        """Return these ranges times `strength`: 1 changes none, and with 0 a view is the crop of the middle.

        That crop is the same as in evaluation, or half a pixel beside it if that would cut pixels in two.
        """
        scaled = {entry.name: entry.metadata["scale"](getattr(self, entry.name), strength) for entry in fields(self)}
        return Augmentation(**scaled)


STANDARD = Augmentation()


def generator(seed: int, epoch: int, index: int, stream: int = 0) -> np.random.Generator:
    """Return the random numbers of one image in one epoch: those of its view, or another stream of them.

    Philox is a counter-based generator (Salmon et al. 2011): another key is another independent stream, and so is
    another highest word of the counter, which no draw reaches.
    """
    key = np.array([seed, epoch << 40 | index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], dtype=np.uint64)))


def affine(
    draw: np.ndarray, height: int, width: int, size: int, ranges: Augmentation, span: int
) -> np.ndarray:
    """Return the map from a pixel (x, y) of the output to its place in a [height, width] image.

    Args:
        draw: six uniform numbers in [0, 1): horizontal flip, vertical flip, angle, zoom, shift in x and y.
        size: side of the output.
        span: side of the square of the image that it shows.

    Returns:
        float64 [2, 3].
    """
    flip_x, flip_y, turn, zoom, shift_x, shift_y = draw.tolist()
    flip_x, flip_y = (1.0 if flip < 1 - ranges.flip else -1.0 for flip in (flip_x, flip_y))
    turn = ranges.rotation * turn if turn < 0.5 else (1 - ranges.rotation * (1 - turn)) % 1  # either way from 0
    angle = 2 * math.pi * turn
    pace = span / size * ranges.zoom ** (2 * zoom - 1)  # source pixels per output pixel
    cos, sin = math.cos(angle) * pace, math.sin(angle) * pace
    matrix = ((cos * flip_x, -sin * flip_y), (sin * flip_x, cos * flip_y))
    centre_x = (width - 1) / 2 + (2 * shift_x - 1) * ranges.shift * span
    centre_y = (height - 1) / 2 + (2 * shift_y - 1) * ranges.shift * span
    return _map_about(matrix, (centre_x, centre_y), (size - 1) / 2)


def _map_about(matrix: _Rows, centre: tuple[float, float], middle: float) -> np.ndarray:
    """Return the map (float64 [2, 3]) that applies `matrix` and takes the point (middle, middle) to `centre`."""
    return np.array([(a, b, to - (a + b) * middle) for (a, b), to in zip(matrix, centre, strict=True)])


def by_quarters(to_source: np.ndarray, size: int, span: int) -> np.ndarray:
    """Return the nearest of the maps (as `affine` gives them) that only turn by quarters, flip and shift.

    A turn by any other angle softens a picture by its resampling, and evaluation has no such pictures. If half of
    the views are as sharp as in evaluation, the network learns fine structure that it will see again. If `span` is
    `size`, such a map takes pixels to pixels.
    """
    (a, b, x), (c, d, y) = to_source.tolist()
    pace, middle = span / size, (size - 1) / 2
    if abs(a) >= abs(b):
        matrix = (math.copysign(pace, a), 0.0), (0.0, math.copysign(pace, d))
    else:
        matrix = (0.0, math.copysign(pace, b)), (math.copysign(pace, c), 0.0)
    turned = _map_about(matrix, (x + (a + b) * middle, y + (c + d) * middle), middle)  # the middle stays
    return turned.round() if span == size else turned


def colour(draw: np.ndarray, ranges: Augmentation) -> np.ndarray:
    """Return the affine map of a pixel's colour, float32 [3, 4].

    Args:
        draw: three uniform numbers in [0, 1): brightness, contrast, saturation.
    """
    brightness, contrast, saturation = (2 * draw - 1).tolist()
    brightness, contrast = 128 * ranges.brightness * brightness, 1 + ranges.contrast * contrast
    saturation = 1 + ranges.saturation * saturation
    affine_map = np.empty((3, 4), np.float32)
    affine_map[:, :3] = contrast * (1 - saturation) * GREY  # its rows have equal sums: grey stays grey
    affine_map[(0, 1, 2), (0, 1, 2)] += contrast * saturation
    affine_map[:, 3] = 127.5 * (1 - contrast) + brightness
    return affine_map


def augment(
    stored: np.ndarray,
    size: int,
    key: tuple[int, int, int],
    out: np.ndarray | None = None,
    ranges: Augmentation = STANDARD,
    span: int | None = None,
) -> np.ndarray:
    """Return one augmented view of a stored image.

    Args:
        stored: uint8 [H, W, 3], the stored image (its shorter side is the resize size).
        size: side of the view in pixels.
        key: (seed, epoch, index).
        out: uint8 [size, size, 3] to write into; None makes a new array.
        ranges: how far each property may move.
        span: side in pixels of the square of the stored image that a view shows when it is not zoomed; None
            is `size`. The same key shows the same piece of the image at every `size`.

    Returns:
        uint8 [size, size, 3]. A rotation that looks beyond the edge shows the picture mirrored there.
    """
    span = span or size
    draws = generator(*key)
    draw = draws.random(10)
    to_source = affine(draw[:6], stored.shape[0], stored.shape[1], size, ranges, span)
    if exact := bool(draw[9] < ranges.exact):
        to_source = by_quarters(to_source, size, span)
    border = cv2.BORDER_REFLECT_101
    if exact and span == size:
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP  # each pixel is read from the middle of one
        view = cv2.warpAffine(stored, to_source, (size, size), dst=out, flags=flags, borderMode=border)
    else:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        padded = cv2.cvtColor(stored, cv2.COLOR_RGB2RGBA)  # OpenCV interpolates four channels faster than three
        padded = cv2.warpAffine(padded, to_source, (size, size), flags=flags, borderMode=border)
        view = cv2.cvtColor(padded, cv2.COLOR_RGBA2RGB, dst=out)
    view = cv2.transform(view, colour(draw[6:9], ranges), dst=view)
    if ranges.cutout and draws.random() < 0.5:
        cut_out(view, ranges.cutout, draws.random(2))
    return view


def cut_out(view: np.ndarray, share: float, draw: np.ndarray) -> None:
    """Paint a square of a view, [size, size, 3], in the mean colour (DeVries and Taylor 2017).

    Args:
        share: of the view's side.
        draw: two uniform numbers in [0, 1): where its middle lies. It may reach beyond the edge.
    """
    size = len(view)
    half = max(1, round(share * size)) / 2
    (top, bottom), (left, right) = ((max(0, round(m * size - half)), round(m * size + half)) for m in draw.tolist())
    view[top:bottom, left:right] = MEAN
