"""HEIC pictures: turned as they were taken, the main one of several, within the limits."""

from __future__ import annotations

import io
import threading
from pathlib import Path

from skin.data import images
from skin.data.image_files import image_paths
from skin.data.images import ImageError, Preprocess, read_header, read_image

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

pillow_heif.register_heif_opener()

RED, GREEN, BLUE = (200, 40, 30), (30, 180, 40), (40, 30, 200)


def heic(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "HEIF", quality=90, **options)
    return stream.getvalue()


def read(data: bytes, size: int = 64) -> np.ndarray:
    return read_image(io.BytesIO(data), Preprocess(size, size, "bicubic", (0, 0, 0), (1, 1, 1)))


def halves(width: int = 128, height: int = 64) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def is_near(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixels.astype(int) - colour).max() < 12)


@pytest.mark.parametrize("options", [{}, {"tile_size": 64}, {"chroma": 444}])
def test_a_heic_picture_is_read(options: dict[str, object], tmp_path: Path) -> None:
    data = heic(halves(), **options)
    stored = read(data)
    assert (stored.dtype, stored.shape) == (np.uint8, (64, 128, 3))
    assert is_near(stored[:, :56], RED)
    assert is_near(stored[:, 72:], BLUE)
    (tmp_path / "IMG_1.HEIC").write_bytes(data)
    assert read_header(tmp_path / "IMG_1.HEIC") == (128, 64, "HEIF")
    assert list(image_paths([str(tmp_path)], print)) == [str(tmp_path / "IMG_1.HEIC")]


def test_it_is_known_by_its_contents_not_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(heic(halves()))
    assert read_header(tmp_path / "a.jpg")[2] == "HEIF"


def test_a_turned_picture_is_turned_once() -> None:
    """6: the camera was held upright, so the left of the file is the top of the picture.

    The container says so by itself; what EXIF says of it is not for readers (ISO/IEC 23008-12).
    """
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = read(heic(halves(), exif=exif.tobytes()))
    assert stored.shape == (128, 64, 3)
    assert is_near(stored[:56], RED)
    assert is_near(stored[72:], BLUE)


def test_the_main_picture_of_several_is_read() -> None:
    others = [Image.new("RGB", (64, 64), colour) for colour in (RED, GREEN, BLUE)]
    data = heic(others[0], save_all=True, append_images=others[1:], primary_index=1)
    assert is_near(read(data), GREEN)


def test_ten_bits_alpha_and_a_colour_profile() -> None:
    deep = Image.fromarray(np.full((64, 64), 180 * 257, np.uint16))
    assert is_near(read(heic(deep)), (180, 180, 180))
    clear = Image.new("RGBA", (64, 64), (*RED, 0))
    assert is_near(read(heic(clear)), (255, 255, 255))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert is_near(read(heic(halves(), icc_profile=profile))[:, :56], RED)


def test_what_is_cut_off_or_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(halves())
    for length in (20, 200, len(data) - 40):
        with pytest.raises(ImageError):
            read(data[:length])
    monkeypatch.setitem(images.PIXEL_LIMITS, "HEIF", 128 * 64 - 1)
    with pytest.raises(ImageError, match="128x64 pixels, more than the 8,191"):
        read(data)


def test_a_film_or_another_kind_of_the_same_container_is_refused() -> None:
    for brand in (b"isom", b"avif", b"qt  "):
        with pytest.raises(ImageError, match="not an image of a format"):
            read(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + brand + b"mif1" + bytes(200))


def test_threads_read_at_once() -> None:
    data = heic(halves())
    shapes: list[tuple[int, ...]] = []
    threads = [threading.Thread(target=lambda: shapes.append(read(data).shape)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes == [(64, 128, 3)] * 4
