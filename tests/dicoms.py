"""DICOM files for the tests, with a patient in them whose name must never come out."""

from __future__ import annotations

import io

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, VLPhotographicImageStorage

NAME, NUMBER, BIRTHDAY = "Musterfrau^Erika", "PATIENT-4711", "19640812"
SECRETS = (NAME, "Musterfrau", NUMBER, BIRTHDAY, "Geheime Klinik")


def dicom(pixels: np.ndarray | bytes, syntax: str = ExplicitVRLittleEndian, **tags: object) -> bytes:
    """A file of `pixels`, uint8 or uint16, or of encoded frames; `tags` are added, or removed if None.

    [H, W] is grey, [H, W, 3] RGB, and whatever the tags say.
    """
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = VLPhotographicImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3"
    file.PatientName, file.PatientID, file.PatientBirthDate = NAME, NUMBER, BIRTHDAY
    file.InstitutionName = "Geheime Klinik"
    if isinstance(pixels, bytes):
        file.PixelData = encapsulate([pixels])
        file["PixelData"].VR = "OB"
    else:
        bits = 8 * pixels.itemsize
        file.Rows, file.Columns = pixels.shape[:2]
        file.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
        file.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
        file.BitsAllocated, file.BitsStored, file.HighBit = bits, bits, bits - 1
        file.PixelRepresentation = int(pixels.dtype.kind == "i")
        if pixels.ndim == 3:
            file.PlanarConfiguration = 0
        file.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
        file["PixelData"].VR = "OB" if bits == 8 else "OW"
    for name, value in tags.items():
        if value is None:
            delattr(file, name)
        else:
            setattr(file, name, value)
    stream = io.BytesIO()
    implicit = syntax == pydicom.uid.ImplicitVRLittleEndian
    pydicom.dcmwrite(stream, file, implicit_vr=implicit, little_endian=syntax != "1.2.840.10008.1.2.2",
                     enforce_file_format=True)  # fmt: skip
    return stream.getvalue()


def encoded_tags(pixels: np.ndarray, kind: str, **tags: object) -> dict[str, object]:
    """The tags of a picture whose frame is encoded: what `dicom` gives by itself for an array."""
    return {
        "Rows": pixels.shape[0], "Columns": pixels.shape[1], "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
        "PhotometricInterpretation": kind, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7,
        "PixelRepresentation": 0, **({"PlanarConfiguration": 0} if pixels.ndim == 3 else {}), **tags,
    }  # fmt: skip


def packed(pixels: np.ndarray) -> bytes:
    """A file whose pixels are packed by runs (RLE)."""
    file = pydicom.dcmread(io.BytesIO(dicom(pixels)))
    file.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    stream = io.BytesIO()
    file.save_as(stream)
    return stream.getvalue()
