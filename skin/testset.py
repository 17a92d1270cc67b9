"""Which images a checkpoint is evaluated on, and what must be said about them first.

The run's own test part by default; any other set with `--data`, its classes matched to the model's by
name. What does not match is said, never guessed, and images that were trained on are said loudly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from skin import split as splits
from skin.checkpoint import Checkpoint
from skin.class_names import match_classes
from skin.errors import UserError
from skin.layouts import Index, read_index

SPLITS = ("train", "val", "test", "all")
UNKNOWN = -1  # the label of an image whose class the model lacks
_NOT_ATTRIBUTES = {"image", "path", "label", "group", "split"}


@dataclass(frozen=True)
class TestSet:
    """Images to evaluate on, one row each.

    Attributes:
        rows: of the index: image, path, label, group, split, then the attributes.
        labels: int64 [N], a class of the model, or `UNKNOWN`.
        root: the data folder. layout: how it was read. split: the part, "all" where there is none.
        notes: what a reader of the figures should know. warnings: what they must know.
        own: this is (a part of) the data that the run was made from.
    """

    __test__ = False  # the name is no promise to pytest

    rows: pd.DataFrame
    labels: npt.NDArray[np.int64]
    root: Path
    layout: str
    split: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    own: bool

    @property
    def attributes(self) -> list[str]:
        """The columns that `--by` can name."""
        return [name for name in self.rows.columns if name not in _NOT_ATTRIBUTES]

    @property
    def grouped(self) -> bool:
        """Whether lesions or patients are known, beyond each image's own name."""
        return bool((self.rows["group"] != self.rows["image"]).any())


def read(checkpoint: Checkpoint, data: Path | None, labels: Path | None, split: str) -> TestSet:
    """The images to evaluate `checkpoint` on.

    Args:
        data: any data folder; None is the run's own.
        labels: a labels table for `data`.
        split: "train", "val", "test" or "all".

    Raises:
        UserError: no data, no such part, no class that the model knows.
    """
    manifest_path = checkpoint.path.parent / "split.csv"
    manifest = splits.read_manifest(manifest_path) if manifest_path.exists() else None
    index = _read_own(checkpoint, manifest_path) if data is None else _read_other(data, labels)
    own = manifest is not None and bool(manifest["image"].isin(index.rows["image"]).all())
    if data is None and manifest is not None:  # an image that has gone is an error here, not another set
        own = True
    notes = list(index.notes)
    rows = index.rows
    if own and manifest is not None:
        rows = splits.apply_manifest(rows, manifest, manifest_path)
    part = _part(rows, split, index.root, notes)
    match = match_classes(checkpoint.classes, sorted(part["label"].unique()))
    if not match.to_model:
        raise UserError(
            f"{index.root}: none of its classes ({', '.join(match.unmatched_data[:8])}) is one of the model's "
            f"({', '.join(checkpoint.classes[:8])}); rename the labels to match"
        )
    taken = match.to_model.items()
    notes += [f"{theirs} is taken for the model's {ours}" for theirs, ours in taken if theirs != ours]
    for name in match.unmatched_data:
        count = int((part["label"] == name).sum())
        notes.append(f"the model does not know {name}: its {count:,} images count in no figure")
    if match.unmatched_model:
        notes.append(f"no image of {', '.join(match.unmatched_model)}: figures of these classes are not available")
    numbers = {name: checkpoint.classes.index(ours) for name, ours in taken}
    return TestSet(
        rows=part.reset_index(drop=True),
        labels=part["label"].map(numbers).fillna(UNKNOWN).to_numpy().astype(np.int64),
        root=index.root,
        layout=index.layout,
        split=split if (part["split"] != "").any() else "all",
        notes=tuple(notes),
        warnings=tuple(_seen_in_training(part, manifest, own)),
        own=own,
    )


def _read_own(checkpoint: Checkpoint, manifest_path: Path) -> Index:
    config = checkpoint.config
    if not manifest_path.exists() or not config.get("data"):
        raise UserError(f"{manifest_path} is not there, so the run's test part is not known; name a set: --data DIR")
    root = Path(config["data"])
    if not root.exists():
        raise UserError(f"the run's data folder {root} is gone; say where it is now: --data DIR")
    labels = Path(config["labels"]) if config.get("labels") else None
    return read_index(root, labels=labels, allow_missing=bool(config.get("allow_missing")))


def _read_other(data: Path, labels: Path | None) -> Index:
    try:
        return read_index(data, labels=labels)
    except UserError as error:
        if labels is not None or not data.exists():
            raise
        raise UserError(f"{error}; for images without labels there is python predict.py {data}") from error


def _part(rows: pd.DataFrame, split: str, root: Path, notes: list[str]) -> pd.DataFrame:
    if split == "all":
        return rows
    if not (rows["split"] != "").any():
        notes.append(f"the set brings no split: all of its {len(rows):,} images are evaluated")
        return rows
    part = rows[rows["split"] == split]
    if part.empty:
        there = ", ".join(sorted(set(rows["split"]) - {""}))
        raise UserError(f"{root} has no {split} part, only {there}; choose with --split (all takes every image)")
    return part


def _seen_in_training(part: pd.DataFrame, manifest: pd.DataFrame | None, own: bool) -> list[str]:
    """Warnings for images that the model was trained on, or that helped to choose and calibrate it."""
    if manifest is None:
        return ["no split.csv beside the checkpoint: whether it was trained on these images cannot be told"]
    warnings = []
    for side, what in (
        ("train", "TRAINED ON: the figures do not tell how the model does on new images"),
        ("val", "used to choose and calibrate the model: the figures are too good"),
    ):
        used = manifest[manifest["split"] == side]
        seen = part["image"].isin(used["image"])
        if not own:  # elsewhere the same picture may stand in a folder or have an ending
            seen |= _stem(part["image"]).isin(set(_stem(used["image"])) - {""})
        lesions = set(used["group"]) - set(used["image"])
        kin = part["group"].isin(lesions) & ~seen
        if seen.any():
            warnings.append(f"{int(seen.sum()):,} of {len(part):,} images were {what}")
        if kin.any():
            count = f"{int(kin.sum()):,} more of {len(part):,}"
            warnings.append(f"{count} images show lesions or patients of the {side} part")
    return warnings


def _stem(names: pd.Series) -> pd.Series:
    """File names without folder and ending; "" where one is too plain ("12") to say that two are the same."""
    stems = names.str.replace(r"^.*/", "", regex=True).str.replace(r"\.[A-Za-z]{3,4}$", "", regex=True)
    return stems.where(stems.str.len() >= 8, "")
