"""The ISIC challenge of 2017, part 3 (Codella et al. 2018): melanoma, seborrheic keratosis or, if neither, nevus."""

from __future__ import annotations

from skin.data.folder import Folder
from skin.data.index import Draft
from skin.data.readers.common import SPLITS, Layout, present_columns, rows_of, without_unmarked
from skin.data.readers.isic_challenge import look_up, together
from skin.data.tables import from_one_hot, need_column, read_table

_CLASSES = ("melanoma", "nevus", "seborrheic keratosis")


def read(folder: Folder) -> Draft | None:
    drafts = []
    for word in ("Training", "Validation", "Test"):
        versions = ("_v2", "") if word == "Test" else ("",)
        path = folder.table(*(f"ISIC-2017_{word}{version}_Part3_GroundTruth.csv" for version in versions))
        if path is None:
            continue
        table = read_table(path)
        image = table[need_column(table, path, "image_id", "image")]
        columns = [need_column(table, path, name) for name in ("melanoma", "seborrheic_keratosis")]
        labels, marked = from_one_hot(table, columns, path)
        neither = (marked == 0) & (table[columns] != "").all(axis=1)  # a row of empty cells is no nevus
        labels = labels.replace({columns[0]: "melanoma", columns[1]: "seborrheic keratosis"}).mask(neither, "nevus")
        metadata = folder.table(*(f"ISIC-2017_{word}{version}_Data_metadata.csv" for version in versions))
        attributes = None
        warnings: tuple[str, ...] = ()
        if metadata:
            known, warnings = look_up(metadata, image)
            attributes = present_columns(known, "age_approximate", "sex").replace("unknown", "")
        rows = rows_of(image, labels, split=SPLITS[word.lower()], attributes=attributes)
        draft = Draft(rows, path.name, _CLASSES, warnings=warnings)
        drafts.append(without_unmarked(draft, marked + neither.to_numpy()))
    return together(folder, drafts)


LAYOUT = Layout("ISIC 2017", "ISIC-2017_Training_Part3_GroundTruth.csv", read)
