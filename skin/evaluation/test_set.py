"""Choose the images that a checkpoint is evaluated on, and collect notes and warnings about them.

The default is the run's own test split. `--data` takes any other set, and matches its classes to the model's by
name. A class that does not match is reported, never guessed. Images that were trained on lead to a warning.
"""

from __future__ import annotations

import contextlib
import filecmp
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from skin.data import contents, unknowns
from skin.data import split as splits
from skin.data.cache import folder_of
from skin.data.class_names import ClassMatch, match_classes
from skin.data.dataset import Metadata
from skin.data.duplicates import HashCache, copies_within, near_copies, same_files
from skin.data.groups import join_pairs
from skin.data.images import ImageError, read_image
from skin.data.index import Index, count
from skin.data.layouts import read_index
from skin.data.metadata import Encoder, column_of
from skin.evaluation.population import describe
from skin.evaluation.report_types import Population
from skin.evaluation.seen import alike_by_chance, has_all, of_side, seen_by_names, seen_in_training
from skin.model.checkpoint import Checkpoint, EnsembleCheckpoint
from skin.utils import run_folders
from skin.utils.errors import UserError, printable

import numpy as np
import numpy.typing as npt
import pandas as pd

LOOKED_AT = 20  # files, to tell the run's own data from others of the same names
OF_MEMBER = "split-{}.csv"  # beside an ensemble: the split.csv of a member, by its number, if it is not the first's
_HOW_READ = ("label_column", "group_column", "group_by", "ignore_class", "allow_missing")  # options of a run
UNKNOWN = -1  # the label of an image whose class the model lacks
_NOT_ATTRIBUTES = {"image", "path", "label", "group", "split", "lesion_id", "patient_id"}


@dataclass(frozen=True)
class TestSet:
    """Images to evaluate on, one row each.

    Attributes:
        rows: of the index: image, path, label, group, split, then the attributes.
        labels: int64 [N], a class of the model, or `UNKNOWN`.
        root: the data folder. layout: how it was read. split: "all" if the set has none.
        notes: what a reader of the metrics should know.
        seen: warnings of images that the model was trained on, or that nobody can tell.
        of_run: warnings on the data of the run.
        own: the images are among the data of the run.
        population: the flow of the images, and their characteristics.
        images_sha256: of the images, from `contents.sha256_of`, by which a set is known again.
    """

    __test__ = False  # the name is no promise to pytest

    rows: pd.DataFrame
    labels: npt.NDArray[np.int64]
    root: Path
    layout: str
    split: str
    notes: tuple[str, ...]
    seen: tuple[str, ...]
    of_run: tuple[str, ...]
    own: bool
    population: Population
    images_sha256: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings that a reader of the metrics must know."""
        return self.seen + self.of_run

    @property
    def name(self) -> str:
        """The name of the data folder, which a report gives instead of its path."""
        return self.root.name or "data"

    def metadata_for(self, encoder: Encoder | None) -> Metadata | None:
        """Return what a model takes beside the pixels; None if it takes nothing."""
        return None if encoder is None else Metadata(encoder, encoder.encode(self.rows, len(self.rows)))

    @property
    def attributes(self) -> list[str]:
        """The columns that `--by` can name."""
        return [name for name in self.rows.columns if name not in _NOT_ATTRIBUTES]

    @property
    def lesions(self) -> npt.NDArray[Any] | None:
        """The lesion of each image, [N], if the data tell them; an image without one is its own."""
        return self._named("lesion_id")

    @property
    def patients(self) -> npt.NDArray[Any] | None:
        """The patient of each image, [N], if the data tell them; an image without one is its own."""
        return self._named("patient_id")

    def _named(self, column: str) -> npt.NDArray[Any] | None:
        if column not in self.rows:
            return None
        known = self.rows[column].notna() & (self.rows[column] != "")
        return self.rows[column].astype("str").where(known, self.rows["image"]).to_numpy(dtype=object)

    @property
    def grouped(self) -> bool:
        """Return True if lesions or patients are known, beyond each image's own name."""
        return bool((self.rows["group"] != self.rows["image"]).any())


def read(
    checkpoint: Checkpoint,
    data: Path | None,
    labels: Path | None,
    split: str,
    allow_missing: bool = False,
    *,
    label_column: str | None = None,
    group_column: str | None = None,
    group_by: str | None = None,
) -> TestSet:
    """Return the images to evaluate `checkpoint` on.

    Args:
        data: any data folder; None is the run's own.
        labels: a labels table for `data`. label_column, group_column, group_by: as for `read_index`.
        split: "train", "val", "test" or "all".
        allow_missing: go on without the images that a table or the run's split.csv names and the folder lacks.

    Raises:
        UserError: no data, no such split, no class that the model knows.
    """
    run = _Run(checkpoint)
    index, own, notes = _read_set(
        run, data, labels, allow_missing=allow_missing, label_column=label_column, group_column=group_column,
        group_by=group_by,
    )  # fmt: skip
    rows = _as_in_the_run(run, index, allow_missing, notes) if own else index.rows
    if own and data is not None and (group_column or group_by):
        rows = rows.assign(group=rows["image"].map(index.rows.set_index("image")["group"]))
        notes.append(f"groups are those of {'--group-by' if group_by else '--group-column'}")
    of_run = run.warnings(index) if own else []
    notes += [] if own else index.warnings
    part = _part(rows, split, index.root, notes)
    if not own:  # training has joined near copies of its own
        part = _copies_joined(part, notes)
    notes += _without_metadata(checkpoint, part)
    match = _matched(checkpoint, part["label"], index.root, notes)
    seen = _seen_by_run(run, index, part, own, notes)
    numbers = {name: checkpoint.classes.index(ours) for name, ours in match.to_model.items()}
    known = part["label"].map(numbers).fillna(UNKNOWN).to_numpy().astype(np.int64)
    population = describe(
        index, rows, part.replace({"label": match.to_model}), int((known == UNKNOWN).sum()), None if own else run.rows
    )
    return TestSet(
        rows=part.reset_index(drop=True),
        labels=known,
        root=index.root,
        layout=index.layout,
        split=split if (part["split"] != "").any() else "all",
        notes=tuple(_without_path(note, index.root) for note in notes),
        seen=tuple(seen),
        of_run=tuple(of_run),
        own=own,
        population=population,
        images_sha256=contents.sha256_of(part),
    )


def seen_by(checkpoint: Checkpoint, test: TestSet) -> list[str]:
    """Return warnings for images of a set that another model was trained on, by their names."""
    run = _Run(checkpoint)
    return seen_by_names(test.rows, run.manifest) + run.seen_by_others(test.rows)


def trained_on_by_others(checkpoint: Checkpoint, images: pd.Series) -> npt.NDArray[np.bool_]:
    """Return which images, [N], another member of an ensemble was trained on, by their names; none of a model's."""
    part, found = images.to_frame("image"), np.zeros(len(images), bool)
    for _, known in _Run(checkpoint).others():
        found |= of_side(part, known, "train", has_all(known, part)).to_numpy()
    return found


def place_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the options of a checkpoint's run that say where its data and their table are now."""
    return {name: _Run(checkpoint).config.get(name) for name in ("data", "labels")}


@dataclass(frozen=True)
class _Run:
    """The run of a checkpoint: its options, its split.csv, and its data where they are now."""

    checkpoint: Checkpoint

    @property
    def folder(self) -> Path:
        return self.checkpoint.path.parent

    @property
    def manifest_path(self) -> Path:
        return self.folder / run_folders.SPLIT

    @cached_property
    def manifest(self) -> pd.DataFrame | None:
        """The table split.csv; None if it is not beside the checkpoint."""
        return splits.read_manifest(self.manifest_path) if self.manifest_path.exists() else None

    def others(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield the names and the tables split.csv of an ensemble's other members; an empty table is not known."""
        sources = self.checkpoint.sources if isinstance(self.checkpoint, EnsembleCheckpoint) else ()
        for number, source in enumerate(sources, 1):
            path = self.folder / OF_MEMBER.format(number)
            if path.exists():
                yield f"member {number} ({source['file']})", splits.read_manifest(path)

    def seen_by_others(self, part: pd.DataFrame) -> list[str]:
        """Return the warnings of `seen_by_names` by the splits of an ensemble's other members."""
        return [
            f"{member}: {warning}"
            for member, known in self.others()
            for warning in seen_by_names(part, None if known.empty else known)
        ]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's options; config.json has the place of data that moved after `best.pt` was written."""
        config = dict(self.checkpoint.config)
        with contextlib.suppress(UserError):
            now = run_folders.read_config(self.folder)
            config.update({name: now[name] for name in ("data", "labels") if isinstance(now.get(name), str)})
        demo = self.folder / "demo"
        if config.get("demo") and demo.exists():  # it lies in the run folder, wherever that is
            config["data"] = str(demo)
        return config

    def read(self, allow_missing: bool) -> Index:
        """Return the index of the run's data.

        Raises:
            UserError: they are not known or not where they were, or cannot be read.
        """
        config = self.config
        if self.manifest is None or not config.get("data"):
            raise UserError(
                f"{self.manifest_path} is missing, so the run's test split is unknown; name a set: --data DIR"
            )
        root = Path(config["data"])
        labels = Path(config["labels"]) if config.get("labels") else None
        if not root.exists() or (labels and not labels.exists()):
            gone = f"labels table {labels}" if root.exists() else f"data folder {root}"
            options = "--data DIR --labels CSV" if labels else "--data DIR"
            raise UserError(f"the run's {gone} is gone; say where it is now: {options}")
        return read_index(root, labels=labels, **self.how_read(allow_missing=allow_missing))

    def how_read(self, **given: Any) -> dict[str, Any]:
        """Return the options for `read_index` by which the run read its data, but for those that are `given`."""
        by_groups = given.get("group_column") or given.get("group_by")
        own = [name for name in _HOW_READ if not given.get(name) and not (by_groups and name.startswith("group_"))]
        return given | {name: value for name in own if (value := self.config.get(name))}

    @cached_property
    def index(self) -> Index | None:
        """The index of the run's data, of the images that are still there; None if they cannot be read."""
        try:
            return self.read(allow_missing=True)
        except UserError:
            return None

    @property
    def rows(self) -> pd.DataFrame | None:
        """The rows of `index` that the run had, with their splits; None if there is none."""
        if self.index is None or self.manifest is None:
            return None
        there = self.manifest[self.manifest["image"].isin(self.index.rows["image"])]
        return splits.apply_manifest(self.index.rows, there, self.manifest_path)

    def passed_over(self, paths: pd.Series) -> bool:
        """Return True if the run left out what it could not read, and that is all that these files are."""

        def is_bad(path: str) -> bool:
            try:
                read_image(path, self.checkpoint.preprocess)
            except ImageError:
                return True
            return False

        return bool(self.config.get("skip_bad_images")) and all(map(is_bad, paths))

    def warnings(self, index: Index) -> list[str]:
        """Return the warnings on the run's data; a run of an earlier version kept none, so `index` tells them."""
        kept = unknowns.read(self.folder / unknowns.NAME)
        return list(index.warnings) if kept is None else kept


def _read_set(run: _Run, data: Path | None, labels: Path | None, **given: Any) -> tuple[Index, bool, list[str]]:
    """Read a data folder, or the run's own data; return the index, True if it is of the run's own data, and notes.

    A folder is read as the run read its own data. If it turns out to hold others, the `given` options alone count.
    """
    if data is None:
        index = run.read(given["allow_missing"])
        return index, run.manifest is not None, list(index.notes)
    as_own = given if run.manifest is None else run.how_read(**given)
    if as_own != given:
        with contextlib.suppress(UserError):  # others, perhaps
            index = read_index(data, labels=labels, **as_own)
            notes = list(index.notes)
            if _is_own(run, index, labels, notes):
                return index, True, notes
    try:
        index = read_index(data, labels=labels, **given)
    except UserError as error:
        if labels is not None or not data.exists():
            raise
        alone = f"for images without labels there is python predict.py {shlex.quote(str(data))}"
        raise UserError(f"{error}; {alone}") from error
    notes = list(index.notes)
    return index, run.manifest is not None and _is_own(run, index, labels, notes), notes


def _matched(checkpoint: Checkpoint, labels: pd.Series, root: Path, notes: list[str]) -> ClassMatch:
    """Match the classes of a set to the model's, and note what does not match.

    Raises:
        UserError: no class does.
    """
    match = match_classes(checkpoint.classes, sorted(labels.unique()))
    if not match.to_model:
        raise UserError(
            f"{root}: none of its classes ({', '.join(match.unmatched_data[:8])}) is one of the model's "
            f"({', '.join(checkpoint.classes[:8])}); rename the labels to match"
        )
    taken = match.to_model.items()
    notes += [f"{theirs} is taken for the model's {ours}" for theirs, ours in taken if theirs != ours]
    for name in match.unmatched_data:
        number = int((labels == name).sum())
        notes.append(f"the model does not know {name}: its {number:,} images are in no metric")
    if match.unmatched_model:
        lacking, whose = ", ".join(match.unmatched_model), "it" if len(match.unmatched_model) == 1 else "them"
        notes.append(f"the set has no image of {lacking}, so there are no metrics of {whose}")
    return match


def _is_own(run: _Run, index: Index, labels: Path | None, notes: list[str]) -> bool:
    """Return True if `--data` names the run's own data: the same folder, or another one with the same images.

    A set that holds them and others (HAM10000 within ISIC 2019) is another set: otherwise most of it would be
    left out unnoticed. A set with other pictures under their names (000.jpg, 001.jpg, …), or with other labels for
    them, is another set, too; and so is a table of some of the run's images, or with other splits for them. The
    decision is put into `notes`.

    Args:
        labels: the table that is named for the set.
    """
    assert run.manifest is not None
    used, there = set(run.manifest["image"]), set(index.rows["image"])
    root = run.config.get("data")
    table = run.config.get("labels")
    of_run = labels is None or (table is not None and Path(table).resolve() == labels.resolve())
    here = of_run and root is not None and Path(root).resolve() == index.root.resolve()
    another = ""
    if not here and used < there and run.passed_over(index.rows.loc[~index.rows["image"].isin(used), "path"]):
        there = used
    if not here and used < there:
        another = f"the set holds every image of the run and {count(len(there - used), 'other')}"
    elif not here and used != there:
        return False
    elif not _labels_agree(index, run.manifest):
        another = "the set has other labels for the run's images"
    elif not of_run and not _parts_agree(index, run.manifest):
        another = "the set splits the run's images in another way"
    elif not here and not _files_agree(run, index):
        another = "files of the set have the run's names and other contents"
    if another:
        notes.append(f"{another}: taken for another set, with labels and splits of its own")
        return False
    notes.append("these are the run's own data: labels, groups and splits are those of its split.csv")
    return True


def _labels_agree(index: Index, manifest: pd.DataFrame) -> bool:
    """Return True if the set has the labels of the run's split.csv for the images that both have."""
    label = index.rows.set_index("image")["label"].reindex(manifest["image"]).to_numpy()
    return bool(((label == manifest["label"].to_numpy()) | pd.isna(label)).all())


def _parts_agree(index: Index, manifest: pd.DataFrame) -> bool:
    """Return True if the run's splits may come from those of the set, whose training split it may have cut."""
    split = index.rows.set_index("image")["split"].reindex(manifest["image"]).fillna("")
    brought, of_run = set(split), pd.Series(manifest["split"].to_numpy(), split.index)
    return bool(((split == of_run) | (split == "") | ((split == "train") & ~of_run.isin(brought))).all())


def _files_agree(run: _Run, index: Index) -> bool:
    """Return True if files of one name are the same. Some of them are compared, if the run's are still there."""
    if run.index is None:
        record = run.folder / contents.NAME
        return not record.exists() or not contents.changed(index.rows, record)
    of_run = run.index.rows
    both = index.rows.merge(of_run, on="image", suffixes=("", "_of_run"))
    some = both.iloc[:: max(1, len(both) // LOOKED_AT)]
    with contextlib.suppress(OSError):
        return all(filecmp.cmp(*pair, shallow=False) for pair in zip(some["path"], some["path_of_run"], strict=True))
    return True  # an archive's rows, which are no files


def _as_in_the_run(run: _Run, index: Index, allow_missing: bool, notes: list[str]) -> pd.DataFrame:
    """Return the rows that the run had, with its labels, groups and splits."""
    manifest = run.manifest
    assert manifest is not None
    there = manifest["image"].isin(index.rows["image"])
    if allow_missing and there.any() and not there.all():
        notes.append(f"left out: {count((~there).sum(), 'image')} of the run's split.csv, no longer in the data")
        manifest = manifest[there]
    remedy = "bring them back, or go on without them: --allow-missing"
    rows = splits.apply_manifest(index.rows, manifest, run.manifest_path, remedy)
    if more := len(index.rows) - len(rows):
        notes.append(f"the data hold {count(more, 'image')} that the run did not have: left out")
    return rows


def _without_metadata(checkpoint: Checkpoint, rows: pd.DataFrame) -> list[str]:
    """Return notes on what the model takes beside the pixels and the set lacks, or has otherwise than in training."""
    encoder = checkpoint.encoder
    if encoder is None:
        return []
    there = {name: column for name in encoder.names if (column := column_of(rows.columns, name)) is not None}
    lacking = [name for name in encoder.names if name not in there]
    notes = [f"the set has no column {', '.join(lacking)}: missing for all images"] if lacking else []
    for name, column in there.items():
        counts = rows[column].value_counts()
        strange: dict[str, list[Any]] = {}
        for value in counts.index:
            strange.setdefault(encoder.problem(name, value), []).append(value)
        for reason, values in strange.items():
            if reason:
                images = count(int(counts.loc[values].sum()), "image")
                notes.append(printable(f"{name} of {images}, such as {printable(values[0])}, {reason}", limit=1000))
    return notes


def _without_path(text: str, root: Path) -> str:
    """Return a text with the name of the data folder in place of its path, which a report must not show."""
    return text.replace(str(root), root.name or "data")


def _copies(run: _Run, index: Index, paths: pd.Series, notes: list[str]) -> pd.Series:
    """Return, for each of `paths`, the name of the run's image that is the same picture; "" if there is none.

    It has the very same bytes, or is a near copy, such as one that was resized or encoded anew.
    """
    if run.index is None:
        gaps = "renamed copies are not found, for the run's data are not where they were"
        notes.append(f"images that the model was trained on were looked for by name; {gaps}")
        return pd.Series("", paths.index, dtype="str")
    names, theirs = run.index.rows["image"].tolist(), run.index.rows["path"].tolist()
    found = np.array(same_files(paths.tolist(), theirs), np.int64)
    folder = folder_of(str(run.config.get("cache", "auto")))
    left = np.flatnonzero(found < 0)
    near = near_copies(
        paths.iloc[left].tolist(), theirs, HashCache(folder, index.root), HashCache(folder, run.index.root)
    )
    looked = "images that the model was trained on were looked for by name and by the bytes of files"
    if near is None:
        notes.append(f"{looked}; the sets are too large to look for copies that were renamed and encoded anew")
    else:
        found[left] = near
        notes.append(f"{looked}, and near copies by a perceptual hash; copies that were cut or turned are not found")
    return pd.Series([names[other] if other >= 0 else "" for other in found], paths.index, dtype="str")


def _copies_joined(part: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Return the rows with the groups of files of the very same bytes joined: they are one picture, not several."""
    pairs = copies_within(part["path"].tolist())
    if not len(pairs):
        return part
    labels = part["label"].to_numpy()[pairs]
    other = int((labels[:, 0] != labels[:, 1]).sum())
    notes.append(
        f"{count(len(pairs), 'image')} of the set {'is a copy' if len(pairs) == 1 else 'are copies'} of others: "
        "their groups are joined, so that intervals take them for one picture"
        + (f"; {other:,} with another label" if other else "")
    )
    return part.assign(group=join_pairs(part["group"], pairs))


def _part(rows: pd.DataFrame, split: str, root: Path, notes: list[str]) -> pd.DataFrame:
    if split == "all":
        return rows
    if not (rows["split"] != "").any():
        notes.append(f"the set brings no split: all of its {len(rows):,} images are evaluated")
        return rows
    part = rows[rows["split"] == split]
    if part.empty:
        there = ", ".join(sorted(set(rows["split"]) - {""}))
        raise UserError(f"{root} has no {split} split, only {there}; choose with --split (all takes every image)")
    return part


def _seen_by_run(run: _Run, index: Index, part: pd.DataFrame, own: bool, notes: list[str]) -> list[str]:
    """Return warnings for images that were trained on; of another set, look for copies and say in `notes` how."""
    if own or run.manifest is None:
        return seen_in_training(part, run.manifest, own) + run.seen_by_others(part)
    copies = _copies(run, index, part["path"], notes)
    seen = seen_in_training(part, run.manifest, own, copies) + run.seen_by_others(part)
    if not seen:
        notes += alike_by_chance(part, run.manifest)
    return seen
