"""DICOM pictures: the pixels as they are meant to be seen, and no word of the patient."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import warnings
from pathlib import Path

from skin.data.dicom import full_scale
from skin.data.images import ImageError, Preprocess, read_header, read_image
from tests.conftest import ROOT
from tests.dicoms import SECRETS, dicom, encoded_tags, packed

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import convert_color_space

IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
JPEG, JPEG_12, JPEG_LOSSLESS, JPEG_LS = (f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 70, 80))
JPEG_2000_LOSSLESS, JPEG_2000 = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"

COLOURS = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
GREY = np.ascontiguousarray(COLOURS[:, :, 0])
SMOOTH = np.asarray(Image.fromarray(COLOURS[:4, :5]).resize((40, 32), Image.Resampling.BICUBIC))


def read(data: bytes) -> np.ndarray:
    """The picture at its own size."""
    return read_image(io.BytesIO(data), Preprocess(32, 32, "bicubic", (0, 0, 0), (1, 1, 1)))


def grey_of(data: bytes) -> np.ndarray:
    stored = read(data)
    assert (stored[:, :, 0] == stored[:, :, 1]).all()
    assert (stored[:, :, 0] == stored[:, :, 2]).all()
    return stored[:, :, 0]


def ramp(dtype: type, values: list[int]) -> np.ndarray:
    """A picture whose first pixels are `values`; the rest is the first of them."""
    pixels = np.full((32, 40), values[0], dtype)
    pixels.flat[: len(values)] = values
    return pixels


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", IMPLICIT])
def test_colours_and_grey_are_read_as_they_are(syntax: str) -> None:
    np.testing.assert_array_equal(read(dicom(COLOURS, syntax)), COLOURS)
    np.testing.assert_array_equal(grey_of(dicom(GREY, syntax)), GREY)


@pytest.mark.parametrize(("kind", "least", "tags"), [
    ("u2", 0, {}), ("u2", 0, {"BitsStored": 12, "HighBit": 11}), ("i2", -900, {}),
    ("u2", 0, {"WindowCenter": 1000, "WindowWidth": 900}),
])  # fmt: skip
def test_numbers_of_two_bytes_in_either_order_are_the_same(kind: str, least: int, tags: dict[str, int]) -> None:
    pixels = np.linspace(least, 4000, GREY.size).reshape(GREY.shape)
    little = grey_of(dicom(pixels.astype(f"<{kind}"), **tags))
    np.testing.assert_array_equal(grey_of(dicom(pixels.astype(f">{kind}"), BIG_ENDIAN, **tags)), little)
    assert len(np.unique(little)) > 50


def test_planes_are_put_together() -> None:
    planes = np.ascontiguousarray(COLOURS.transpose(2, 0, 1)).tobytes()
    np.testing.assert_array_equal(read(dicom(COLOURS, PlanarConfiguration=1, PixelData=planes)), COLOURS)


def test_monochrome_1_is_turned_to_light_on_dark() -> None:
    np.testing.assert_array_equal(grey_of(dicom(GREY, PhotometricInterpretation="MONOCHROME1")), 255 - GREY)


def test_luminance_and_chroma_become_rgb() -> None:
    full = convert_color_space(SMOOTH, "RGB", "YBR_FULL")
    stored = read(dicom(full, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(stored.astype(int) - SMOOTH).max() <= 2
    # 4:2:2 has Y Y Cb Cr for each two pixels of a row (PS3.3, C.7.6.3.1.2).
    pairs = np.stack([full[:, ::2, 0], full[:, 1::2, 0], full[:, ::2, 1], full[:, ::2, 2]], axis=-1)
    data = dicom(full, PhotometricInterpretation="YBR_FULL_422", PixelData=pairs.tobytes())
    assert np.abs(read(data).astype(int) - SMOOTH).mean() < 12


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_gives_its_colours(bits: int) -> None:
    table = np.random.default_rng(1).integers(0, 256, (3, 256), dtype=np.uint16)
    tags = {}
    for name, entries in zip(("Red", "Green", "Blue"), table, strict=True):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        stored = entries.astype(np.uint8) if bits == 8 else entries * 257
        tags[f"{name}PaletteColorLookupTableData"] = stored.tobytes()
    stored = read(dicom(GREY, PhotometricInterpretation="PALETTE COLOR", **tags))
    np.testing.assert_array_equal(stored, table.T[GREY])


def test_bits_that_are_stored_are_the_scale() -> None:
    """By hand: 4095 is white in 12 bits, and 2048 is 2048 / 4095 * 255 = 127.5."""
    for values, bits, white in (([0, 1024, 2048, 4095], 12, 4095), ([0, 256, 512, 1023], 10, 1023)):
        stored = grey_of(dicom(ramp(np.uint16, values), BitsStored=bits, HighBit=bits - 1))
        np.testing.assert_array_equal(stored.flat[:4], np.rint(np.array(values) / white * 255))


@pytest.mark.parametrize(("most", "white"), [(200, 255), (1000, 1023), (4095, 4095), (16000, 16383), (16384, 65535)])
def test_a_picture_in_16_bits_is_scaled_by_the_bits_that_it_has(most: int, white: int) -> None:
    assert full_scale(most) == white
    stored = grey_of(dicom(ramp(np.uint16, [0, most // 2, most])))
    np.testing.assert_array_equal(stored.flat[:3], np.rint(np.array([0, most // 2, most]) / white * 255))


def test_colours_of_12_bits_are_scaled() -> None:
    deep = COLOURS.astype(np.uint16) * 16
    stored = read(dicom(deep, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(stored, np.rint(deep / 4095 * 255).astype(np.uint8))


def test_the_first_window_says_what_is_black_and_white() -> None:
    """By hand (PS3.3, C.11.2.1.2.1): centre 1000.5 and width 201 go from 900 to 1100; 1000 is the middle."""
    pixels = ramp(np.uint16, [0, 900, 950, 1000, 1100, 4000])
    tags = {"BitsStored": 12, "HighBit": 11, "WindowCenter": [1000.5, 40], "WindowWidth": [201, 80]}
    np.testing.assert_array_equal(grey_of(dicom(pixels, **tags)).flat[:6], [0, 0, 64, 128, 255, 255])
    exact = grey_of(dicom(pixels, VOILUTFunction="LINEAR_EXACT", **tags)).flat[:6]  # from 900 to 1101
    np.testing.assert_array_equal(exact, np.rint(np.clip((pixels.flat[:6] - 900.0) / 201, 0, 1) * 255))
    sigmoid = grey_of(dicom(pixels, VOILUTFunction="SIGMOID", **tags)).flat[:6]
    np.testing.assert_array_equal(sigmoid, np.rint(255 / (1 + np.exp(-4 * (pixels.flat[:6] - 1000.5) / 201))))


def test_a_window_is_in_rescaled_units_and_numbers_have_signs() -> None:
    """Hounsfield units by hand: -100 to 300 is the window; stored 0 is -1024, so -100 is 924."""
    pixels = ramp(np.int16, [-5, 924, 1124, 1324, 2000])
    tags = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 100.5, "WindowWidth": 401}
    np.testing.assert_array_equal(grey_of(dicom(pixels, **tags)).flat[:5], [0, 0, 128, 255, 255])


def test_without_a_window_signed_and_rescaled_numbers_go_from_the_least_to_the_largest() -> None:
    pixels = ramp(np.int16, [-100, 0, 100])
    for tags in ({}, {"RescaleSlope": 2, "RescaleIntercept": -50}):
        np.testing.assert_array_equal(grey_of(dicom(pixels, **tags)).flat[:3], [0, 128, 255])
    falling = grey_of(dicom(pixels, RescaleSlope=-1, RescaleIntercept=0)).flat[:3]
    np.testing.assert_array_equal(falling, [255, 128, 0])


@pytest.mark.parametrize(("centre", "width"), [("", ""), (100, 0), (None, 5)])
def test_a_window_that_makes_no_sense_is_none(centre: object, width: object) -> None:
    tags = {"WindowCenter": centre, "WindowWidth": width} if centre is not None else {"WindowWidth": width}
    np.testing.assert_array_equal(grey_of(dicom(GREY, **tags)), GREY)


def test_the_first_frame_of_several_is_the_picture() -> None:
    frames = np.stack([COLOURS, 255 - COLOURS, COLOURS])
    np.testing.assert_array_equal(read(dicom(COLOURS, NumberOfFrames=3, PixelData=frames.tobytes())), COLOURS)


def test_runs_are_unpacked() -> None:
    for pixels in (COLOURS, GREY):
        stored = read(packed(pixels))
        np.testing.assert_array_equal(stored if pixels.ndim == 3 else stored[:, :, 0], pixels)
    deep = GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(grey_of(packed(deep)), GREY)


def test_encoded_frames_are_decoded() -> None:
    image = Image.fromarray(SMOOTH)
    for format, options, syntax, kind, most in (
        ("JPEG", {"quality": 95}, JPEG, "YBR_FULL_422", 4),
        ("JPEG2000", {}, JPEG_2000_LOSSLESS, "RGB", 0),
        ("JPEG2000", {"mct": 1, "irreversible": False}, JPEG_2000, "YBR_RCT", 0),
    ):
        stream = io.BytesIO()
        image.save(stream, format, **options)
        stored = read(dicom(stream.getvalue(), syntax, **encoded_tags(SMOOTH, kind)))
        assert np.abs(stored.astype(int) - SMOOTH).mean() <= most, kind
    stream = io.BytesIO()
    image.convert("L").save(stream, "JPEG", quality=95)
    stored = grey_of(dicom(stream.getvalue(), JPEG, **encoded_tags(GREY, "MONOCHROME2")))
    assert np.abs(stored.astype(int) - np.asarray(image.convert("L"))).max() <= 12


def a_jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "JPEG")
    return stream.getvalue()


REFUSED = {
    "compression": (dicom(b"\xff\xd8\xff", JPEG_LOSSLESS, **encoded_tags(COLOURS, "RGB")), "JPEG Lossless"),
    "JPEG-LS": (dicom(b"\xff\xd8\xff", JPEG_LS, **encoded_tags(COLOURS, "RGB")), "JPEG-LS Lossless"),
    "no picture": (dicom(GREY, PixelData=None), "a DICOM file without a picture"),
    "no rows": (dicom(GREY, Rows=None), "a DICOM file without a picture"),
    "huge": (dicom(GREY, Rows=60_000, Columns=60_000), "60000x60000 pixels, more than the 60,000,000"),
    "narrow": (dicom(GREY, Rows=1, Columns=1280), "1280x1 pixels: too narrow"),
    "other size": (dicom(a_jpeg(9000, 9000), JPEG, **encoded_tags(COLOURS, "YBR_FULL_422")), "another size"),
    "cut": (dicom(COLOURS)[:-900], "damaged or cut off"),
    "deflated": (dicom(GREY).replace(b"1.2.840.10008.1.2.1\0", DEFLATED.encode()[:20]), ""),
    "kind": (dicom(COLOURS, PhotometricInterpretation="CIELAB"), "a kind that is not read here"),
    "32 bits": (dicom(GREY, BitsAllocated=32), "a kind that is not read here"),
    "runs": (packed(COLOURS).replace(b"\x03\0\0\0\x40\0\0\0", b"\x0e\0\0\0\x40\0\0\0"), "DICOM"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_decoded_is_refused_with_a_reason(case: str) -> None:
    data, reason = REFUSED[case]
    with pytest.raises(ImageError) as caught:
        read(data)
    assert reason in caught.value.reason
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_a_file_that_is_deflated_is_refused_before_it_is_inflated() -> None:
    file = pydicom.dcmread(io.BytesIO(dicom(np.zeros((2000, 2000), np.uint8))))
    file.file_meta.TransferSyntaxUID = pydicom.uid.UID(DEFLATED)
    stream = io.BytesIO()
    file.save_as(stream)
    with pytest.raises(ImageError, match="compressed as a whole"):
        read(stream.getvalue())


def test_runs_that_unpack_to_more_than_the_picture_are_refused() -> None:
    bomb = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + b"\x81\0" * 900
    data = dicom(bomb, "1.2.840.10008.1.2.5", **encoded_tags(GREY, "MONOCHROME2"))
    with pytest.raises(ImageError, match=r"packed by runs \(RLE\) that is too large"):
        read(data)


def test_a_file_of_tiny_pieces_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    from skin.data import dicom as module

    monkeypatch.setattr(module, "_READ_LIMIT", 50)
    with pytest.raises(ImageError, match="far too many parts"):
        read(dicom(GREY))


def test_a_header_tells_the_size(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom(COLOURS))
    assert read_header(tmp_path / "a.dcm") == (40, 32, "DICOM")
    (tmp_path / "a.dcm").write_bytes(dicom(GREY, Rows=60_000, Columns=60_000))
    with pytest.raises(ImageError, match="60000x60000"):
        read_header(tmp_path / "a.dcm")


def test_a_dicom_file_is_known_by_its_contents(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(dicom(COLOURS))
    assert read_header(tmp_path / "a.jpg")[2] == "DICOM"


def test_no_reader_hears_of_the_patient(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A file spoilt in many places, every message that comes of it, and the library's log and warnings."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    sound = dicom(COLOURS[:32, :32], WindowCenter=1, WindowWidth=2)
    start = sound.index(b"Musterfrau")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for at in range(start - 60, start + 160):
                for value in (0, 1, 0x40, 0xFF):
                    data = bytearray(sound)
                    data[at] = value
                    try:
                        read(bytes(data))
                    except ImageError as error:
                        told += [str(error), error.reason]
    finally:
        logging.getLogger().removeHandler(handler)
    told += [str(warning.message) for warning in caught] + list(capfd.readouterr())
    assert len(told) > 2
    assert not [text for text in told for secret in (*SECRETS, "Muster", "4711") if secret in text]


def test_libraries_are_loaded_where_a_file_needs_them() -> None:
    """They take their time."""
    code = "import sys, skin.data.layouts, skin.data.cache; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"pydicom", "pillow_heif", "h5py", "pyarrow.parquet"} & set(loaded.split())
