"""Pictures in DICOM files: their pixels as they are meant to be seen, and nothing else of the file.

Only the tags of `_TAGS` are read: none of them tells of a patient. What pydicom says of a file (errors, warnings, log
lines) may quote any part of it, so nobody gets to see that: the errors here have words of their own.

The first frame is the picture. Windows, rescaling and palettes are tables of at most 65,536 entries, so a picture
costs one look-up per pixel.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from skin.utils.errors import UserError

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

T = TypeVar("T")
Check = Callable[[tuple[int, int], bytes], None]

_TAGS = [
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter",
    "WindowWidth", "VOILUTFunction", "VOILUTSequence", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
]  # fmt: skip
_GREY, _COLOURS = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_READ_LIMIT = 1_000_000  # pieces of a file: a picture's has hundreds, and a second is enough for these
_PIXEL_TAG = 0x7FE00010
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax of files that are compressed as a whole
_RLE_LIMIT = 50_000_000  # bytes of a picture packed by runs, which Python unpacks
_JPEG_2000_LIMIT = 25_000_000  # pixels: its decoder takes 12 bytes for each
_DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras have


def is_dicom(data: bytes) -> bool:
    """Return True if a file that begins with `data` (132 bytes or more) is a DICOM file."""
    return data[128:132] == b"DICM"


def full_scale(most: int) -> int:
    """Return the number that stands for white in whole numbers of which the largest is `most` (0 to 65535).

    Cameras have 8, 10, 12, 14 or 16 bits; files have 8 or 16. The least of those depths that holds the numbers is
    taken. Otherwise a picture of 12 bits in a file of 16 would be all but black.
    """
    return next((1 << bits) - 1 for bits in _DEPTHS if most < 1 << bits)


def dicom_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the picture in a DICOM file. Raises as `read_dicom`."""
    return _quietly(lambda: _size(_header(data)))


def read_dicom(data: bytes, check: Check) -> np.ndarray:
    """Return the first frame in a DICOM file, uint8 [H, W] grey or [H, W, 3] RGB.

    Grey values are rescaled, and go through the first window. Without a window, they are scaled by the bits that they
    have; signed and rescaled ones from the least to the largest of the picture.

    Args:
        check: called with width and height, and with the JPEG that holds the frame (`b""` if none does), before
            anything is decoded; what it raises is passed on.

    Raises:
        UserError: there is no picture, it is damaged, or of a kind that is not decoded here. The text quotes nothing
            but sizes and names that the standard has.
    """
    return _quietly(lambda: _read(data, check))


def _quietly(read: Callable[[], T]) -> T:
    """Return what `read` returns, with words of our own for errors that may quote a file."""
    try:
        return read()
    except (UserError, MemoryError):
        raise
    except Exception:
        raise UserError("a DICOM file that is damaged or cut off") from None


class _Bounded(io.BytesIO):
    """The bytes of a file, which end after a million reads: a file of nothing but tiny pieces would take minutes."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _READ_LIMIT:
            raise UserError("a DICOM file of far too many parts")
        return super().read(size)


def _header(data: bytes, pixels: bool = False) -> Dataset:
    """Return the tags of `_TAGS` that a file has; the pixels only if they are asked for."""
    import pydicom
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").disabled = True
    if _DEFLATED in data:  # a thousand times the size may come out
        raise UserError("a DICOM file that is compressed as a whole (deflated): save it in another transfer syntax")
    wanted = [Tag(name) for name in _TAGS]
    stop = None if pixels else lambda tag, vr, length: tag >= _PIXEL_TAG
    return read_partial(_Bounded(data), stop, specific_tags=list(wanted))


def _size(header: Dataset) -> tuple[int, int]:
    if "Rows" not in header or "Columns" not in header:
        raise UserError("a DICOM file without a picture")
    return int(header.Columns), int(header.Rows)


def _read(data: bytes, check: Check) -> np.ndarray:
    # The size is looked at before the pixels are copied.
    check(_size(_header(data)), b"")
    header = _header(data, pixels=True)
    if "PixelData" not in header:
        raise UserError("a DICOM file without a picture")
    kind = str(header.get("PhotometricInterpretation", ""))
    if kind not in (*_GREY, *_COLOURS, "PALETTE COLOR") or header.BitsAllocated not in (1, 8, 16):
        raise UserError("a DICOM picture of a kind that is not read here: save it as RGB or MONOCHROME2 of 8 bits")
    pixels = _frame(header, check)
    if pixels.shape[:2] != (header.Rows, header.Columns) or pixels.shape[2:] not in ((), (3,)):
        raise UserError("a DICOM picture of another size than its header says")
    if kind == "PALETTE COLOR":
        return _coloured(pixels, header)
    if pixels.ndim == 3:
        return pixels if pixels.dtype == np.uint8 else _scaled(pixels, _white(pixels, header))
    grey = _grey(pixels, header)
    return 255 - grey if kind == "MONOCHROME1" else grey


def _frame(header: Dataset, check: Check) -> np.ndarray:
    """Decode the first frame: [H, W] or [H, W, 3], RGB, unsigned or signed, of 8 or 16 bits."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder, pixel_array
    from pydicom.uid import JPEG2000, UID, JPEG2000Lossless, RLELossless, UID_dictionary

    syntax = UID(header.file_meta.TransferSyntaxUID)
    size = _size(header)
    if syntax in UID_dictionary and syntax.is_encapsulated:
        known = syntax.name
        try:
            available = get_decoder(syntax).is_available
        except NotImplementedError:
            available = False
        if not available:
            raise UserError(f"a DICOM picture compressed as {known}, which is not decoded here: save it uncompressed")
        frame = get_frame(header.PixelData, 0, number_of_frames=int(header.get("NumberOfFrames") or 1))
        if syntax == RLELossless:
            most = size[0] * size[1] * header.SamplesPerPixel * header.BitsAllocated // 8
            if most > _RLE_LIMIT or len(frame) > 2 * most + 1024 or _unpacked_bytes(frame) > most + 1024:
                raise UserError("a DICOM picture packed by runs (RLE) that is too large: save it uncompressed")
        else:
            jpeg_2000 = syntax in (JPEG2000, JPEG2000Lossless)
            with Image.open(io.BytesIO(frame), formats=("JPEG2000",) if jpeg_2000 else ("JPEG",)) as image:
                if image.size != size:
                    raise UserError("a DICOM picture of another size than its header says")
            if jpeg_2000 and math.prod(size) > _JPEG_2000_LIMIT:
                raise UserError(f"a JPEG 2000 picture of more than {_JPEG_2000_LIMIT:,} pixels: save it uncompressed")
            if not jpeg_2000:
                check(size, frame)
    pixels = pixel_array(header, index=0)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)  # a big-endian file's are in its order


def _unpacked_bytes(frame: bytes) -> int:
    """Return the bytes that the runs of an RLE frame unpack to (PS3.5, annex G), all segments together."""
    segments = int.from_bytes(frame[:4], "little")
    if not 1 <= segments <= 15:
        raise ValueError("not so many segments")
    starts = [int.from_bytes(frame[at : at + 4], "little") for at in range(4, 4 + 4 * segments, 4)]
    total = 0
    for start, end in zip(starts, [*starts[1:], len(frame)], strict=True):
        at = start
        while at < end:
            run = frame[at]
            total += 257 - run if run > 128 else run + 1 if run < 128 else 0
            at += 2 if run > 128 else run + 2 if run < 128 else 1
    return total


def _white(pixels: np.ndarray, header: Dataset) -> int:
    """Return the number that stands for white in unsigned pixels."""
    stored = int(header.BitsStored)
    return 2**stored - 1 if stored < 16 else full_scale(int(pixels.max()))


def _scaled(pixels: np.ndarray, white: int) -> np.ndarray:
    return _shown(np.minimum(pixels, white), np.arange(white + 1) / white)


def _shown(numbers: np.ndarray, shades: np.ndarray) -> np.ndarray:
    """Return numbers, [H, W], as uint8. The number n has the shade `shades[n]`, from 0 to 1."""
    seen: np.ndarray = np.rint(np.clip(shades, 0, 1) * 255).astype(np.uint8)[numbers]
    return seen


def _grey(pixels: np.ndarray, header: Dataset) -> np.ndarray:
    """Return grey pixels, [H, W] of any kind, as they are to be seen: uint8 [H, W]. MONOCHROME1 is not turned."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    every = np.arange(2 ** (8 * pixels.itemsize)).astype(f"u{pixels.itemsize}")  # each value that there can be
    values = np.asarray(apply_modality_lut(every.view(pixels.dtype), header), np.float64)
    numbers = pixels.view(every.dtype)
    window = _window(header)
    if window is not None:
        return _shown(numbers, _windowed(values, *window, str(header.get("VOILUTFunction") or "LINEAR")))
    if header.get("VOILUTSequence"):
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        return _shown(numbers, apply_voi(np.rint(values).astype(np.int64), header) / (2**bits - 1))
    if pixels.dtype.kind == "u" and np.array_equal(values, every):
        return _scaled(pixels, _white(pixels, header))
    least, most = np.sort(values[[int(pixels.min()), int(pixels.max())]])  # a negative number counts from the end
    return _shown(numbers, (values - least) / max(most - least, 1e-12))


def _window(header: Dataset) -> tuple[float, float] | None:
    """Return centre and width of the first window; None if there is none that makes sense."""
    found = []
    for name in ("WindowCenter", "WindowWidth"):
        value = header.get(name)
        if value is None or value == "":
            return None
        found.append(float(value if isinstance(value, (int, float, str)) else value[0]))
    return (found[0], found[1]) if all(map(math.isfinite, found)) and found[1] >= 1 else None


def _windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Return the shades of values through a window, mostly within 0 to 1 (PS3.3, section C.11.2.1.2)."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50)))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return (values - (centre - 0.5)) / (width - 1) + 0.5


def _coloured(pixels: np.ndarray, header: Dataset) -> np.ndarray:
    """Return the colours of palette entries: uint8 [H, W, 3]."""
    from pydicom.pixels import apply_color_lut

    every = np.arange(2 ** (8 * pixels.itemsize)).astype(f"u{pixels.itemsize}")
    colours = apply_color_lut(every.view(pixels.dtype), header)[:, :3]
    if colours.dtype != np.uint8:  # palettes of 16 bits; some hold numbers of 8
        colours = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
    seen: np.ndarray = colours[pixels.view(every.dtype)]
    return seen
