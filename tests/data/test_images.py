"""Opening images: the right pixels from every kind of file, and one kind of error for whatever is not one."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

from skin.data import images
from skin.data.images import ImageError, Preprocess, centre_crop, read_header, read_image, stored_image
from skin.utils.errors import UserError
from tests.conftest import ROOT

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = Preprocess(24, 32, "bicubic", MEAN, STD)


def picture(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """A smooth image of 12 times 8 coloured spots."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def read(data: bytes, preprocess: Preprocess = SMALL) -> np.ndarray:
    return read_image(io.BytesIO(data), preprocess)


def same_size(size: int) -> Preprocess:
    """Preprocessing that leaves an image whose shorter side is `size` as it is."""
    return Preprocess(size, size, "bicubic", MEAN, STD)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


# --- preprocess ---


def test_preprocess_survives_json() -> None:
    plain = json.loads(json.dumps(SMALL.to_dict()))
    assert plain["mean"] == [0.485, 0.456, 0.406]
    assert Preprocess.from_dict(plain) == SMALL


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 0}, {"image_size": 33}, {"image_size": True}, {"image_size": 24.0}, {"resize_size": 10**9},
        {"interpolation": "nearest"}, {"interpolation": ["bicubic"]}, {"mean": [0.5]}, {"mean": "abc"},
        {"mean": [0.1, 0.2, float("nan")]}, {"std": [0.2, 0.0, 0.2]}, {"std": None}, {"extra": 1},
    ],
)  # fmt: skip
def test_preprocess_from_a_bad_file_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UserError):
        Preprocess.from_dict({**SMALL.to_dict(), **change})


def test_preprocess_with_a_field_missing_is_refused() -> None:
    values = SMALL.to_dict()
    del values["std"]
    with pytest.raises(UserError, match="must have the fields image_size"):
        Preprocess.from_dict(values)


# --- pixels ---


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
def test_each_format_gives_its_pixels(format: str) -> None:
    image = picture()
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(format, {})
    if format == "GIF":
        image = image.quantize(64)
    stored = read(encoded(image, format, **options), same_size(64))
    assert (stored.dtype, stored.shape, stored.flags.c_contiguous) == (np.uint8, (64, 96, 3), True)
    stored[:] = stored  # writable
    expected = np.asarray(image.convert("RGB"))
    if format == "JPEG":
        assert psnr(stored, expected) > 40
    else:
        np.testing.assert_array_equal(stored, expected)


def test_sixteen_bit_grey_is_scaled_and_not_cut() -> None:
    values = np.array([[0, 257, 128 * 257, 65535], [64, 257 * 7 + 100, 257 * 7 + 200, 40000]], np.uint16)
    expected = np.round(values / 257).astype(np.uint8)
    for format in ("PNG", "TIFF"):
        stored = read(encoded(Image.fromarray(values), format), same_size(2))
        for channel in range(3):
            np.testing.assert_array_equal(stored[:, :, channel], expected)
    np.testing.assert_array_equal(stored_image(values, same_size(2))[:, :, 0], expected)


@pytest.mark.parametrize(("most", "white"), [(255, 255), (1000, 1023), (4000, 4095), (9000, 16383), (20_000, 65535)])
def test_grey_is_scaled_by_the_bits_that_it_has(most: int, white: int) -> None:
    """12 bits in a file of 16 would be all but black. By hand: 4000 of 4095 is 249."""
    values = np.array([[0, most // 3], [most // 2, most]], np.uint16)
    expected = np.rint(values / white * 255)
    big_endian = Image.frombytes("I;16B", (2, 2), values.astype(">u2").tobytes())
    for image, format in (
        (Image.fromarray(values), "PNG"), (Image.fromarray(values), "TIFF"), (big_endian, "TIFF"),
        (Image.fromarray(values.astype(np.int32)), "TIFF"),
    ):  # fmt: skip
        np.testing.assert_array_equal(read(encoded(image, format), same_size(2))[:, :, 0], expected)
    numbers = Image.fromarray(values.astype(np.float32))
    np.testing.assert_array_equal(read(encoded(numbers, "TIFF"), same_size(2))[:, :, 0], expected)


def test_shares_of_one_are_grey_from_black_to_white() -> None:
    shares = Image.fromarray(np.array([[0, 0.2], [0.6, 1]], np.float32))
    np.testing.assert_array_equal(read(encoded(shares, "TIFF"), same_size(2))[:, :, 0], [[0, 51], [153, 255]])


def sixteen_bit_png(colours: np.ndarray) -> bytes:
    """A PNG of uint16 [H, W, 3] or [H, W, 4], RGB first."""
    order = [2, 1, 0, 3][: colours.shape[2]]
    return bytes(cv2.imencode(".png", colours[:, :, order])[1])


def test_colours_of_12_bits_are_scaled_and_those_of_16_are_as_pillow_has_them() -> None:
    colours = np.asarray(picture())
    for bits, white in ((12, 4095), (10, 1023)):
        deep = colours.astype(np.uint16) << (bits - 8)
        expected = np.rint(deep / white * 255)
        np.testing.assert_array_equal(read(sixteen_bit_png(deep), same_size(64)), expected)
        tiff = bytes(cv2.imencode(".tif", deep[:, :, ::-1])[1])
        np.testing.assert_array_equal(read(tiff, same_size(64)), expected)
        clear = np.dstack([deep, np.full(deep.shape[:2], 65535, np.uint16)])
        np.testing.assert_array_equal(read(sixteen_bit_png(clear), same_size(64)), expected)
    np.testing.assert_array_equal(read(sixteen_bit_png(colours.astype(np.uint16) * 257), same_size(64)), colours)


# Made by the reader as it was before it knew HEIC, DICOM, 12 bits and 120 million pixels.
DIGESTS = {
    "JPEG": "495139de5cf8a628", "progressive": "5209b03d7604c9cf", "PNG": "bf13b5330ba79004",
    "RGBA": "ea671c88345da5c0", "P": "efed213b5e517fe6", "L": "87a90461e0759b96",
    "TIFF": "bf13b5330ba79004", "CMYK": "324f72212f29c426", "16 bits": "87a90461e0759b96",
}  # fmt: skip


@functools.cache
def ordinary() -> dict[str, bytes]:
    """Pictures of the usual kinds. Nothing about them depends on a library but their compression."""
    image = picture(640, 480)
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    return {
        "JPEG": encoded(image, "JPEG", quality=90), "progressive": encoded(image, "JPEG", progressive=True),
        "PNG": encoded(image), "RGBA": encoded(Image.merge("RGBA", [*image.split(), image.getchannel("R")])),
        "P": encoded(image.quantize(64)), "L": encoded(image.convert("L")),
        "TIFF": encoded(image, "TIFF", compression="tiff_lzw"), "CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "16 bits": encoded(Image.fromarray(grey)),
    }  # fmt: skip


@pytest.mark.parametrize("kind", DIGESTS)
def test_the_pixels_of_ordinary_pictures_are_what_they_have_always_been(kind: str) -> None:
    """Caches and the bits of resumed runs depend on it."""
    stored = read(ordinary()[kind], Preprocess(100, 128, "bilinear", MEAN, STD))
    assert hashlib.blake2b(stored.tobytes(), digest_size=8).hexdigest() == DIGESTS[kind]


def test_grey_palette_and_one_bit_images_become_rgb() -> None:
    image = picture()
    for mode in ("L", "P", "1"):
        other = image.convert(mode)
        np.testing.assert_array_equal(read(encoded(other), same_size(64)), np.asarray(other.convert("RGB")))


def test_cmyk_jpeg_has_the_colours_it_was_saved_with() -> None:
    colours = Image.new("RGB", (64, 64), (200, 60, 40))
    stored = read(encoded(colours.convert("CMYK"), "JPEG", quality=100, subsampling=0), same_size(64))
    assert np.abs(stored.astype(int) - [200, 60, 40]).max() <= 3


@pytest.mark.parametrize(("alpha", "expected"), [(255, (10, 20, 30)), (0, (255, 255, 255)), (51, (206, 208, 210))])
def test_transparency_is_laid_on_white(alpha: int, expected: tuple[int, int, int]) -> None:
    """By hand for 51/255 = 0.2: 0.2 * 10 + 0.8 * 255 = 206, then 208 and 210."""
    image = Image.new("RGBA", (40, 32), (10, 20, 30, alpha))
    for stored in (read(encoded(image)), stored_image(np.asarray(image), SMALL)):
        assert stored.shape == (32, 40, 3)
        assert np.abs(stored.astype(int) - expected).max() <= 1


def test_a_transparent_palette_entry_and_grey_with_alpha_are_laid_on_white() -> None:
    palette = Image.new("P", (40, 32), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert (read(encoded(palette, transparency=1)) == 255).all()
    assert (read(encoded(palette, transparency=0)) == [255, 0, 0]).all()
    assert (read(encoded(Image.new("LA", (40, 32), (0, 0)))) == 255).all()


def test_a_grey_of_16_bits_that_stands_for_no_colour_is_white() -> None:
    grey = np.full((40, 40), 30_000, np.uint16)
    grey[:20] = 60_000
    stored = read(encoded(Image.fromarray(grey), transparency=30_000))
    assert (stored[25:] == 255).all()
    assert (stored[:15] == round(60_000 / 257)).all()


def test_a_tiff_of_16_bits_whose_zero_is_white_is_turned() -> None:
    """Pillow turns those of 8 bits, as it reads and as it writes them."""
    grey = np.full((40, 40), 65535 // 5, np.uint16)
    grey[0, 0] = 65535
    stored = read(encoded(Image.fromarray(grey), "TIFF", tiffinfo={262: 0}))
    assert (stored[20:] == 204).all()


def test_a_tiff_of_signed_numbers_of_8_bits_and_one_that_pillow_does_not_know_are_refused_as_such() -> None:
    signed = encoded(Image.new("L", (40, 40)), "TIFF", tiffinfo={339: 2})
    with pytest.raises(ImageError, match="signed numbers of 8 bits"):
        read(signed)
    strange = encoded(Image.new("L", (40, 40)), "TIFF", tiffinfo={339: 3})
    with pytest.raises(ImageError, match="a TIFF of a kind that is not read here"):
        read(strange)


def test_the_colour_behind_full_transparency_does_not_bleed_into_the_edge() -> None:
    image = np.zeros((64, 64, 4), np.uint8)
    image[:, :32] = (0, 0, 0, 0)  # black, but invisible
    image[:, 32:] = (255, 255, 255, 255)
    assert (stored_image(image, SMALL) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone_as_pillow_does(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    picture(48, 32).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(stored_image(image, same_size(32)), expected)
    np.testing.assert_array_equal(read_image(path, same_size(32)), expected)


def test_exif_orientation_of_other_formats_is_undone_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for format in ("TIFF", "WEBP", "JPEG"):
        assert read(encoded(picture(48, 32), format, exif=exif), same_size(32)).shape == (48, 32, 3)


def test_broken_exif_does_not_lose_the_picture() -> None:
    broken = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\xff\xff\xff\xff" * 3
    data = encoded(picture(), "JPEG", exif=broken)
    assert read(data).shape == (32, 48, 3)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (40, 32), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert (read(data) == [255, 0, 0]).all(), format


def test_a_large_jpeg_is_decoded_small_but_never_below_the_stored_size(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    resize = images._resize
    monkeypatch.setattr(images, "_resize", lambda a, p: seen.append(a.shape[:2]) or resize(a, p))
    for width, height in ((1200, 800), (400, 255), (96, 64)):
        data = encoded(picture(width, height), "JPEG", quality=95)
        stored = read(data, Preprocess(100, 128, "bicubic", MEAN, STD))
        expected = picture(width, height).resize(stored.shape[1::-1], Image.Resampling.BICUBIC)
        assert psnr(stored, np.asarray(expected)) > 35
    # 1/4 of 800 is 200, 1/8 would be 100; 255 halved would be 128 but 127.5 is not enough for Pillow.
    assert seen == [(200, 300), (255, 400), (64, 96)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("width", "height"), [(48, 32), (120, 90), (200, 150), (300, 400), (700, 500), (64, 64)])
def test_resizing_is_close_to_pillows_antialiased_filter(interpolation: str, width: int, height: int) -> None:
    preprocess = Preprocess(64, 64, interpolation, MEAN, STD)
    image = picture(width, height)
    stored = stored_image(image, preprocess)
    assert min(stored.shape[:2]) == 64
    assert abs(stored.shape[1] / stored.shape[0] - width / height) < 0.02
    filter = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    expected = np.asarray(image.resize(stored.shape[1::-1], filter))
    if (width, height) == (64, 64):
        np.testing.assert_array_equal(stored, expected)
    else:
        assert psnr(stored, expected) > 40


@pytest.mark.real
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_real_images_stays_close_to_pillow(real_data: Path, interpolation: str) -> None:
    filter = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    for path in sorted((real_data / "ham10000_mini").rglob("*.jpg"))[::40]:
        with Image.open(path) as image:
            values = []
            for size in (80, 107, 128, 200, 300):
                stored = stored_image(image, Preprocess(size, size, interpolation, MEAN, STD))
                values.append(psnr(stored, np.asarray(image.resize(stored.shape[1::-1], filter))))
        assert np.mean(values) > 47, path


def test_stripes_finer_than_the_stored_pixels_turn_grey_and_not_into_moire() -> None:
    stripes = np.zeros((600, 600), np.uint8)
    stripes[:, ::2] = 255
    stored = stored_image(stripes, Preprocess(320, 320, "bilinear", MEAN, STD))
    assert stored[:, 2:-2].std() < 12  # bare cv2.resize: above 50
    assert abs(stored.mean() - 127.5) < 2


def test_centre_crop_takes_the_middle_and_copies() -> None:
    stored = np.arange(5 * 8 * 3, dtype=np.uint8).reshape(5, 8, 3)
    crop = centre_crop(stored, 3)
    np.testing.assert_array_equal(crop, stored[1:4, 2:5])
    crop[:] = 0
    assert stored[1, 2, 0] == 30
    with pytest.raises(ValueError, match="cannot crop 6 pixels from an image of 8x5"):
        centre_crop(stored, 6)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((28, 28), np.float32), np.zeros((0, 28, 3), np.uint8), np.zeros((2, 28, 28, 3), np.uint8),
        np.zeros((28, 28, 2), np.uint8), np.zeros((28, 28, 3), np.uint16), np.zeros((1, 28, 3), np.uint8),
    ],
)  # fmt: skip
def test_an_array_that_is_no_picture_is_named(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="row 7 of train_images"):
        stored_image(array, SMALL, "row 7 of train_images")


def test_arrays_of_a_medmnist_row_are_pictures() -> None:
    array = np.asarray(picture(28, 28))
    for given_array in (array, array[:, :, 0], array[:, :, :1]):
        assert stored_image(given_array, SMALL).shape == (32, 32, 3)
    np.testing.assert_array_equal(stored_image(array, same_size(28)), array)


# --- what is refused ---


def bomb_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_of_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = encoded(picture(2000, 1500), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def test_what_follows_a_jpeg_or_lies_in_its_segments_holds_no_scans() -> None:
    """A phone appends a film to its picture, and puts a small one into its header."""
    scan = b"\xff\xda"
    data = encoded(picture(2000, 1500), "JPEG")
    header = data[:2] + b"\xff\xe1" + (1002).to_bytes(2, "big") + 500 * scan + data[2:]
    assert np.array_equal(read(header + 1000 * scan), read(data))


REFUSED = {
    "empty": (b"", "an empty file (0 bytes)"),
    "text": (b"no image at all", "not an image of a format"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a format"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a format"),
    "truncated jpeg": (encoded(picture(), "JPEG")[:-900], "damaged or cut off"),
    "truncated png": (encoded(picture())[:-900], "damaged or cut off"),
    "header only": (encoded(picture(), "JPEG")[:20], ""),
    "bomb": (bomb_png(60_000, 60_000), "more than the 120,000,000 pixels"),
    "small bomb": (bomb_png(12_000, 10_001), "12000x10001 pixels, more than the 120,000,000"),
    "large webp": (encoded(Image.new("L", (7000, 3600)), "WEBP", method=0), "more than the 25,000,000"),
    "spacer": (encoded(Image.new("RGB", (1, 1))), "1x1 pixels: too narrow for a picture of skin"),
    "strip": (encoded(Image.new("RGB", (2000, 1))), "2000x1 pixels: too narrow"),
    "float": (encoded(Image.new("F", (40, 32), -0.5), "TIFF"), "floating-point pixels"),
    "no number": (encoded(Image.new("F", (40, 32), float("nan")), "TIFF"), "floating-point pixels"),
    "32 bits": (encoded(Image.new("I", (40, 32), 100_000), "TIFF"), "32-bit pixels"),
    "scans": (jpeg_of_scans(400), "far too many scans"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_picture_is_refused_with_path_reason_and_remedy(case: str, tmp_path: Path) -> None:
    data, reason = REFUSED[case]
    path = tmp_path / "IMG 1.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_image(path, SMALL)
    error = caught.value
    assert error.path == str(path)
    assert reason in error.reason
    assert str(error).startswith(f"cannot read the image {path}: ")
    assert str(error).endswith("mend or remove it")  # a program has no options
    assert error.with_options.endswith("(training goes on without such images with --skip-bad-images)")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.path, again.reason, str(again)) == (ImageError, error.path, error.reason, str(error))


def test_what_is_not_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reasons = {"nothing": "No such file", "pipe": "not a file", ".": "not a file", "a\0b": "null"}
    for name, reason in reasons.items():
        for reader in (read_header, lambda path: read_image(path, SMALL)):
            with pytest.raises(ImageError, match=reason):
                reader(str(tmp_path) + "/" + name)


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.tif"
    path.touch()
    os.truncate(path, images.FILE_LIMIT + 1)
    for reader in (read_header, lambda p: read_image(p, SMALL)):
        with pytest.raises(ImageError, match="more than 128 MiB"):
            reader(path)


def test_a_path_with_control_characters_is_shown_safely(tmp_path: Path) -> None:
    path = tmp_path / "a\n\x1b[31mb.jpg"
    with pytest.raises(ImageError) as caught:
        read_image(path, SMALL)
    assert "a\\n\\x1b[31mb.jpg" in str(caught.value)
    assert caught.value.path == str(path)


def test_read_header_tells_size_and_format_without_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(picture(), "JPEG")[:-900])
    assert read_header(path) == (96, 64, "JPEG")
    path.write_bytes(bomb_png(60_000, 60_000))
    with pytest.raises(ImageError, match="more than the"):
        read_header(path)


def test_a_tiff_with_giant_tiles_is_refused_before_memory_is_taken() -> None:
    tags = {256: (4, 64), 257: (4, 64), 258: (3, 8), 259: (3, 8), 262: (3, 1), 277: (3, 1),
            322: (4, 60_000), 323: (4, 60_000), 324: (4, 8), 325: (4, 8)}  # fmt: skip
    body = struct.pack("<H", len(tags))
    for tag, (kind, value) in tags.items():
        body += struct.pack("<HHII", tag, kind, 1, value)
    data = b"II*\0" + struct.pack("<I", 16) + zlib.compress(b"") + body + bytes(64)
    with pytest.raises(ImageError, match="TIFF tiles of 60000x60000"):
        read(data)


def test_a_large_picture_is_shrunk_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Pillow does it, whatever kind of pixels it has."""
    monkeypatch.setattr(images, "_LARGE", 1000)
    monkeypatch.setattr(images, "_ROWS", 16)
    image = picture(333, 255)
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 16)
    for other, expected in ((image, image), (image.convert("RGBA"), image), (image.convert("L"), image.convert("L")),
                            (deep, image.convert("L"))):  # fmt: skip
        stored = read(encoded(other), same_size(64))
        small = expected.convert("RGB").resize(stored.shape[1::-1], Image.Resampling.BICUBIC)
        assert psnr(stored, np.asarray(small)) > 38


@pytest.mark.parametrize(("width", "height"), [(8160, 6144), (12_000, 9_000)])
def test_photographs_of_50_and_108_megapixels_are_read(width: int, height: int) -> None:
    data = encoded(Image.new("RGB", (width, height), (200, 100, 50)), "JPEG", quality=50)
    stored = read(data)
    assert stored.shape == (32, round(32 * width / height), 3)
    assert np.abs(stored.astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.slow
def test_the_heaviest_image_that_is_read_stays_below_a_gigabyte() -> None:
    """120 million pixels with alpha, in a process that may not have more."""
    code = (
        "import io, sys\nfrom skin.data.images import *\n"
        "data = sys.stdin.buffer.read()\n"
        "read_image(io.BytesIO(data), Preprocess(32, 32, 'bicubic', (0, 0, 0), (1, 1, 1)))\n"
        # Not ru_maxrss: a process inherits that from the one that starts it.
        "print(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024)"
    )
    data = encoded(Image.new("RGBA", (12_000, 10_000), (9, 9, 9, 9)), compress_level=1)
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, cwd=ROOT, check=True)
    assert int(done.stdout) < 1000


def test_many_threads_read_at_once_with_pillows_warnings_silent(tmp_path: Path) -> None:
    """A palette with byte transparency and a doubtful EXIF block make Pillow warn; nobody is to hear it."""
    palette = Image.new("P", (40, 32), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    data = encoded(palette, transparency=bytes([0, 255]))
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(read(data).shape)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(32, 40, 3)] * 8


# --- whatever the bytes ---

SEEDS = [
    encoded(picture(), "JPEG"), encoded(picture(), "JPEG", progressive=True), encoded(picture()),
    encoded(picture().quantize(16), transparency=1), encoded(picture().convert("LA")), encoded(picture(), "BMP"),
    encoded(picture(), "TIFF"), encoded(picture(), "TIFF", compression="tiff_lzw"),
    encoded(picture().convert("CMYK"), "TIFF", compression="jpeg"), encoded(picture(), "WEBP"),
    encoded(picture().convert("RGBA"), "WEBP", lossless=True), encoded(picture().convert("CMYK"), "JPEG"),
    encoded(picture(), "GIF", save_all=True, append_images=[picture(seed=1)]),
    encoded(Image.fromarray(np.arange(96 * 64, dtype=np.uint16).reshape(64, 96) * 10)),
]  # fmt: skip


def mutated(seed: bytes, number: int) -> bytes:
    """The `number`th mutation of a file: bytes changed, removed, repeated or set to what decoders dislike."""
    rng = np.random.default_rng(number)
    data = bytearray(seed)
    for _ in range(int(rng.integers(1, 6))):
        at = int(min(rng.integers(len(data)), rng.exponential(120) if rng.random() < 0.6 else 10**9, len(data) - 1))
        kind = rng.integers(5)
        if kind == 0:
            data[at] = int(rng.integers(256))
        elif kind == 1:
            data[at : at + 4] = bytes(rng.choice([0, 1, 127, 128, 255], 4).tolist())
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 40))]
        elif kind == 3:
            data[at:at] = data[at : at + int(rng.integers(1, 40))]
        else:
            data[at:] = b"" if rng.random() < 0.5 else data[at:][::-1]
        if not data:
            break
    return bytes(data)


def outcome(data: bytes) -> str:
    """A stored image or an ImageError; anything else is raised."""
    try:
        stored = read(data)
    except ImageError as error:
        return "refused" if error.reason.isprintable() else "unprintable"
    assert stored.dtype == np.uint8
    assert stored.ndim == 3
    assert stored.shape[2] == 3
    assert min(stored.shape) == 3
    assert min(stored.shape[:2]) == 32
    return "read"


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.sampled_from(SEEDS), number=st.integers(0, 2**31))
def test_whatever_is_done_to_a_file_it_is_read_or_refused(seed: bytes, number: int) -> None:
    assert outcome(mutated(seed, number)) in ("read", "refused")


@settings(max_examples=50, deadline=None, derandomize=True)
@given(magic=st.sampled_from([s[:12] for s in SEEDS]), rest=st.binary(max_size=300))
def test_noise_behind_a_magic_number_is_read_or_refused(magic: bytes, rest: bytes) -> None:
    assert outcome(magic + rest) in ("read", "refused")


if __name__ == "__main__":  # the long form: python -m tests.test_images 10000
    counts = {"read": 0, "refused": 0}
    for i in range(int(sys.argv[1])):
        counts[outcome(mutated(SEEDS[i % len(SEEDS)], i))] += 1
    print(counts, "peak MiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
