"""Generated JPEGs to measure on if the user names no data: as large, and as slow to decode, as HAM10000's."""

from __future__ import annotations

import functools
import os
import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from skin.utils.errors import UserError

import cv2
import numpy as np

WIDTH, HEIGHT, CLASSES = 600, 450, 7
MOST_IMAGES = 100_000  # 23 GB
QUALITY = 97  # with the grain below: about 230 kB each, HAM10000's are 270


def write(folder: Path, images: int) -> Path:
    """Write `images` pictures into class folders under `folder/<images>`, and return that folder.

    Pictures that an earlier call has written are used again.

    Raises:
        UserError: the folder cannot be written, or there are too many images.
    """
    whole = folder / str(images)
    if whole.is_dir():
        return whole
    if images > MOST_IMAGES:
        raise UserError(f"{images:,} images to measure on would have to be drawn; use smaller numbers, or --data")
    partial = folder / f".{images}.{os.getpid()}"
    try:
        with ThreadPoolExecutor() as pool:
            deque(pool.map(functools.partial(_write_picture, partial), range(images)), maxlen=0)
        partial.replace(whole)
    except OSError as error:
        if not whole.is_dir():  # otherwise another process was first
            raise UserError(f"cannot write images to measure on to {folder}: {error.strerror}; use --data") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return whole


def _write_picture(folder: Path, number: int) -> None:
    name = folder / f"class_{number % CLASSES}" / f"{number:05d}.jpg"
    name.parent.mkdir(parents=True, exist_ok=True)
    _, coded = cv2.imencode(".jpg", picture(number), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    name.write_bytes(coded.tobytes())


def picture(number: int) -> np.ndarray:
    """Return coloured blotches with grain, uint8 [450, 600, 3]: always the same for a number."""
    draw = np.random.Generator(np.random.Philox(key=np.array([1, number], dtype=np.uint64)))
    blotches = cv2.resize(draw.random((6, 8, 3), dtype=np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    grain = cv2.GaussianBlur(draw.standard_normal((HEIGHT, WIDTH, 3), dtype=np.float32), (0, 0), 0.7)
    pixels: np.ndarray = np.clip(60 + 140 * blotches + 45 * grain, 0, 255)
    return pixels.astype(np.uint8)
