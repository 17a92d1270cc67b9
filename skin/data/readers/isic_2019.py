"""The ISIC challenge of 2019."""

from __future__ import annotations

from skin.data.class_names import ISIC_2019
from skin.data.folder import Folder
from skin.data.index import Draft
from skin.data.readers.common import Layout
from skin.data.readers.isic_challenge import read_challenge


def read(folder: Folder) -> Draft | None:
    words = ("Training", "Test")
    truths = {word: path for word in words if (path := folder.table(f"ISIC_2019_{word}_GroundTruth.csv"))}
    metadata = {word: path for word in words if (path := folder.table(f"ISIC_2019_{word}_Metadata.csv"))}
    return read_challenge(folder, truths, ISIC_2019, metadata)


LAYOUT = Layout("ISIC 2019", "ISIC_2019_Training_GroundTruth.csv", read)
