"""Small pictures of images, for pages and contact sheets."""

from __future__ import annotations

from skin.data.images import Preprocess, centre_crop, read_image

import cv2
import numpy as np


def square(path: str, side: int) -> np.ndarray:
    """Return the middle square of an image, uint8 [side, side, 3]; raises `ImageError`."""
    return centre_crop(read_image(path, _side(side)), side)


def fitted(path: str, width: int, height: int) -> np.ndarray:
    """Return a whole image as large as fits into `width` x `height` pixels, uint8 [H, W, 3]; raises `ImageError`."""
    pixels = read_image(path, _side(height))
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Return pixels, uint8 [H, W, 3], as a JPEG."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)


def _side(side: int) -> Preprocess:
    return Preprocess(side, side, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
