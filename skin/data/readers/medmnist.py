"""DermaMNIST of MedMNIST (Yang et al. 2023): arrays in an .npz archive."""

from __future__ import annotations

import posixpath
import shlex

from skin.data.class_names import DERMAMNIST
from skin.data.folder import Folder
from skin.data.index import Draft
from skin.data.npz import NpzFile
from skin.data.readers.common import Layout, rows_of
from skin.utils.errors import UserError

import numpy as np
import pandas as pd

_LEAK = (
    "DermaMNIST's own split has pictures of one lesion in training and test, so its metrics are too good (Abhishek "
    "et al. 2024, Investigating the Quality of DermaMNIST and Fitzpatrick17k Dermatological Image Datasets): take "
    "HAM10000 itself for a sound test, for it names the lesions"
)


def read(folder: Folder) -> Draft | None:
    found = [path for path in folder.archives if posixpath.basename(path).lower().startswith("dermamnist")]
    if not found:
        return None
    if len(found) > 1:
        raise UserError(
            f"{folder.root} holds {' and '.join(found)}: name one, --data {shlex.quote(str(folder.root / found[0]))}"
        )
    folder.refuse_link(found[0])
    if not found[0].endswith(".npz"):
        raise UserError(f"{folder.root / found[0]} must be called .npz, in small letters: rename it")
    archive = NpzFile(folder.root / found[0])
    splits = []
    for split in ("train", "val", "test"):
        if f"{split}_images" not in archive.arrays and split != "train":
            continue
        images = archive.image_count(f"{split}_images")
        labels = archive.labels(f"{split}_labels", images, len(DERMAMNIST))
        names = pd.Series([f"{split}_images/{row}" for row in range(images)])
        label = pd.Series(np.array(DERMAMNIST, dtype=object)[labels])
        splits.append(rows_of(names, label, split=split).assign(file=f"{found[0]}::" + names))
    rows = pd.concat(splits, ignore_index=True)
    return Draft(rows, posixpath.basename(found[0]), DERMAMNIST, warnings=(_LEAK,))


LAYOUT = Layout("MedMNIST", "dermamnist*.npz", read)
