"""DERM12345 (Yilmaz et al. 2024), as the Harvard Dataverse gives it."""

from __future__ import annotations

from skin.data.folder import Folder
from skin.data.index import Draft
from skin.data.readers.common import Layout
from skin.data.readers.set_tables import read_splits


def read(folder: Folder) -> Draft | None:
    names = {word: tuple(f"derm12345_metadata_{word}.{end}" for end in ("csv", "tab")) for word in ("train", "test")}
    return read_splits(
        folder,
        "DERM12345",
        names,
        image="image_id",
        label="label",
        people=("patient_id", "lesion_id"),
        attributes=("sub_class", "main_class_2", "main_class_1", "malignancy", "super_class", "age", "sex"),
    )


LAYOUT = Layout("DERM12345", "derm12345_metadata_train.csv", read)
