"""The ISIC challenge of 2018, task 3 (Codella et al. 2019)."""

from __future__ import annotations

from skin.data.class_names import ISIC_2018
from skin.data.folder import Folder
from skin.data.index import Draft
from skin.data.readers import ham10000
from skin.data.readers.common import Layout
from skin.data.readers.isic_challenge import read_challenge
from skin.data.tables import find_column, header


def read(folder: Folder) -> Draft | None:
    truths = {}
    for word in ("Training", "Validation", "Test"):
        path = folder.table(f"ISIC2018_Task3_{word}_GroundTruth.csv", f"ISIC2018_Task3_{word}_GroundTruth.tab")
        # HAM10000's own download has a test table of this name, with HAM10000's columns.
        if path and not find_column(header(path), "dx"):
            truths[word] = path
    if list(truths) == ["Test"] and folder.table(*ham10000.TABLES):
        return None  # the test set of HAM10000
    lesions = folder.table("ISIC2018_Task3_Training_LesionGroupings.csv")
    return read_challenge(folder, truths, ISIC_2018, {"Training": lesions} if lesions else {})


LAYOUT = Layout("ISIC 2018", "ISIC2018_Task3_Training_GroundTruth.csv", read)
