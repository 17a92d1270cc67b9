"""BCN20000 (Hernández-Pérez et al. 2024), as figshare and Kaggle give it."""

from __future__ import annotations

from skin.data.folder import Folder
from skin.data.index import Draft
from skin.data.readers.common import Layout
from skin.data.readers.set_tables import read_splits


def read(folder: Folder) -> Draft | None:
    return read_splits(
        folder,
        "BCN20000",
        {"train": ("bcn_20k_train.csv",), "test": ("bcn_20k_test.csv",)},
        image="bcn_filename",
        label="diagnosis",
        people=("lesion_id",),
        attributes=("age_approx", "sex", "anatom_site_general"),
    )


LAYOUT = Layout("BCN20000", "bcn_20k_train.csv", read)
