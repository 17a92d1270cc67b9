"""Read a data folder and cut it by group into the three splits of a run; check and describe them."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from skin.data import contents, metadata, split, unknowns
from skin.data.cache import NO_HOME, PixelCache, default_folder, folder_of
from skin.data.class_names import readable_name
from skin.data.containers import container_of
from skin.data.dataset import Metadata, RandomViews, SkinDiseaseDataset
from skin.data.duplicates import join_near_duplicates
from skin.data.images import ImageError, Preprocess, read_header, read_image
from skin.data.index import Index
from skin.data.layouts import read_index
from skin.data.metadata import Encoder
from skin.data.npz import is_npz_image, unpack_in
from skin.model.network import preprocess_for
from skin.training.options import Options
from skin.utils import run_folders, text_table
from skin.utils.console import Log
from skin.utils.errors import UserError, printable
from skin.utils.launchers import to_go_on

import numpy as np
import pandas as pd

SPLITS = ("train", "val", "test")
HEADER_SECONDS = 10.0


@dataclass(frozen=True)
class Splits:
    """The images of a run, each in one split.

    Attributes:
        index: the images found in the data folder.
        rows: `index.rows` with `split` filled in.
        classes: the names, in the order of the model's outputs.
        left_out: names of the images that the run had when it began, and goes on without.
        changed: names of the images whose files are not the same as when it began.
        encoder: of the columns that are used beside the pixels; None without `--metadata`.
    """

    index: Index
    rows: pd.DataFrame
    classes: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    encoder: Encoder | None = None

    def of(self, split: str) -> pd.DataFrame:
        """Return the rows of "train", "val" or "test"."""
        return self.rows[self.rows["split"] == split]

    def labels(self, split: str) -> np.ndarray:
        """Return the class numbers of a split, int64 [N]."""
        return pd.Categorical(self.of(split)["label"], categories=list(self.classes)).codes.astype(np.int64)

    def groups(self, split: str) -> np.ndarray:
        """Return the lesion or patient of each image of a split, [N]."""
        return self.of(split)["group"].to_numpy(dtype=object)

    def dataset(
        self,
        split: str,
        preprocess: Preprocess,
        views: RandomViews = RandomViews(),
        cache: PixelCache | None = None,
        most: int | None = None,
    ) -> SkinDiseaseDataset:
        """Return the data set of a split.

        Args:
            split: "train", "val" or "test".
            views: the augmented ones, for training.
            cache: from `open_cache`.
            most: images; of a larger split they are taken evenly. None takes all.
        """
        where = np.flatnonzero(self.rows["split"] == split)
        step = -(-len(where) // most) if most else 1
        where, labels = where[::step], self.labels(split)[::step]
        paths = self.rows["path"].iloc[where].tolist()
        return SkinDiseaseDataset(paths, labels, preprocess, views, cache, where, self._metadata(where))

    def _metadata(self, where: np.ndarray) -> Metadata | None:
        if self.encoder is None:
            return None
        return Metadata(self.encoder, self.encoder.encode(self.rows.iloc[where], len(where)))

    def open_cache(
        self, preprocess: Preprocess, options: Options, checkpoint_bytes: int = 0
    ) -> PixelCache | None:
        """Return the pixel cache of all rows; None with `--cache off`, and for arrays, which need no decoding.

        Args:
            checkpoint_bytes: bytes that the run folder is going to need. If it is on the same disk, the cache
                leaves them free.
        """
        folder = cache_folder(options)
        if folder is None or any(map(is_npz_image, self.rows["path"].head(1))):
            return None
        paths = np.array([os.fsencode(path) for path in self.rows["path"]])
        limit = None if options.cache_limit is None else int(min(2**62, options.cache_limit * 2**30))
        run = options.out or options.resume or run_folders.LATEST.parent
        reserve = checkpoint_bytes if _on_one_disk(folder, run) else 0
        return PixelCache.open(paths, preprocess, folder, limit, reserve)

    def counts(self) -> pd.DataFrame:
        """Return the number of images of each class (rows) in each split (columns)."""
        table = pd.crosstab(self.rows["label"], self.rows["split"])
        return table.reindex(index=list(self.classes), columns=list(SPLITS), fill_value=0)

    def warnings(self, balanced: bool) -> list[str]:
        """Return what the user must know of the data; `balanced` as in `unknowns.of_split`."""
        return [*self.index.warnings, *unknowns.of_split(self.rows, self.classes, balanced)]

    def describe(self) -> str:
        """Return the header's lines about the data: the folder, what was found in it, the leaks of its split."""
        groups = self.rows["group"].nunique()
        where = f"{printable(self.index.root)}: {self.index.layout}"
        lines = [f"data    {where}, {len(self.rows):,} images in {groups:,} groups"]
        lines += [f"        {note}" for note in self.index.notes]
        if self.encoder is not None:
            lines.append(f"        beside the pixels: {self.encoder.describe()}")
        if leaks := split.leaks(self.rows):  # only a split that the data bring can have any
            lines.append(f"        LEAK: {len(leaks):,} lesions or patients stand in two splits of the data's own")
            lines.append(f"        split, so its figures will flatter the model; {leaks[0]}")
        return "\n".join(lines)

    def describe_classes(self, class_weights: np.ndarray, width: int | None = None) -> str:
        """Return the header's table of the classes, for a terminal of so many columns."""
        counts = self.counts()
        numbers = [
            text_table.Numbers(split, [f"{n:,}" for n in (*counts[split], counts[split].sum())], rank)
            for rank, split in enumerate(SPLITS)
        ]
        weights = text_table.Numbers("weight", [*(f"{weight:.2f}" for weight in class_weights), ""], len(SPLITS))
        names = [*(printable(readable_name(name)) for name in self.classes), "all"]
        return "\n".join(text_table.table("class", names, [*numbers, weights], width, indent=8))


def read_splits(options: Options, manifest: Path | None = None, log: Log | None = None) -> Splits:
    """Read the data folder of a run and cut it by group, or as `manifest`, a run's split.csv, has it.

    With `--folds` and no `--fold`, what the folds are cut from may all be training. With `--fold`, the manifest may
    be that of all folds.

    Args:
        log: shows how far the reading of images has come; None is silent.

    Raises:
        UserError: the data cannot be trained on. `read_index` and `split_index` name some reasons. Others are an
            image that cannot be read, as far as headers show, and images, labels or groups that are not the
            manifest's, or other pictures under their names.
    """
    assert options.data is not None
    log = log or Log(quiet=True)
    if options.cache == "auto" and default_folder() is None:
        log.say(f"note: {NO_HOME}")
    if manifest is not None:
        _refuse_gone(options, manifest.parent)
    index = index_of(options)
    unpack_arrays(options, index)
    if manifest is not None:
        return _as_before(index, options, manifest, log)
    preprocess = preprocess_for(options.model, options.image_size)
    with log.progress("reading images", len(index.rows)) as advance:
        index = _without_unreadable(index, preprocess, options.skip_bad_images, advance)
    if not options.keep_duplicates:
        with log.progress("comparing images", len(index.rows)) as advance:
            index = join_near_duplicates(index, cache_folder(options), advance)
    rows = split.split_index(index, split.parse_fractions(options.split), options.seed)
    _refuse_empty(rows, options, index.root, f"give it a share of --split {options.split}")
    return Splits(index, rows, index.classes)


def with_metadata(splits: Splits, names: Sequence[str], found: object = None) -> Splits:
    """Return the splits with the encoder of the columns of `--metadata`, fitted on the training split.

    Args:
        found: the encoder that a run has, from its config.json; its numbers are those that the network knows.

    Raises:
        UserError: a column cannot be used, or `found` is damaged.
    """
    if not names:
        return splits
    if found is None:
        return replace(splits, encoder=metadata.fit(names, splits.of("train")))
    try:
        return replace(splits, encoder=Encoder.from_list(found))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("config.json of the run is damaged: its 'metadata' are no columns of a table") from error


def index_of(options: Options, keep_going: bool = False) -> Index:
    """Read the data folder as a run's options say; `keep_going` as in `read_index`."""
    assert options.data is not None
    index = read_index(
        options.data, labels=options.labels, allow_missing=options.allow_missing, keep_going=keep_going,
        label_column=options.label_column, group_column=options.group_column, ignore_class=options.ignore_class,
        group_by=options.group_by,
    )  # fmt: skip
    metadata.check_names(options.metadata, index.rows.columns, index.columns.get("label", ""))
    return index


def _on_one_disk(one: Path, other: Path) -> bool:
    """Return True if two folders are on the same file system. Neither has to exist yet."""
    return _device(one) == _device(other)


def _device(folder: Path) -> int:
    folder = folder.absolute()
    existing = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return -1 if existing is None else existing.stat().st_dev


def cache_folder(options: Options) -> Path | None:
    """Return the folder in which `--cache` keeps what is known of images; None if it keeps nothing."""
    return folder_of(options.cache)


def _refuse_gone(options: Options, run: Path) -> None:
    """Raise `UserError` if the data of a run that goes on are no longer in their old place, or not in a new one."""
    before = run_folders.read_config(run)
    for name, path in (("data", options.data), ("labels", options.labels)):
        if path is not None and not path.exists():
            if str(path) != before.get(name):
                raise UserError(f"--{name} {path}: there is nothing of that name; check it")
            what, value = ("data folder", "DIR") if name == "data" else ("labels table", "CSV")
            raise UserError(
                f"the run's {what} {path} is gone; say where it is now: {to_go_on(run)} --{name} {value}"
            )


def _refuse_empty(rows: pd.DataFrame, options: Options, root: Path, remedy: str) -> None:
    to_be_cut = options.folds is not None and options.fold is None  # then the folds take turns in validation
    for name in ("train",) if to_be_cut else ("train", "val"):
        if not (rows["split"] == name).any():
            raise UserError(f"{root}: the {name} split is empty; {remedy}")


def unpack_arrays(options: Options, index: Index) -> None:
    """Choose where the arrays and rows of an archive are unpacked. None is kept if decoded images have a limit."""
    if any(container_of(path) != path for path in index.rows["path"].head(1)):
        unpack_in(cache_folder(options) if options.cache_limit is None else None)


def _as_before(index: Index, options: Options, manifest: Path, log: Log) -> Splits:
    """Return the splits of a run that goes on, from its split.csv.

    Images are matched by name, wherever they lie now.
    """
    before = split.read_manifest(manifest)
    if options.fold is not None and split.FOLD in before:
        before = split.of_fold(before, options.fold)
    found = before[before["image"].isin(index.rows["image"])] if options.allow_missing else before
    if found.empty:
        raise UserError(f"{index.root} has none of the images of {manifest}: name the run's data with --data DIR")
    remedy = "bring them back, name the folder that holds them (--data DIR), or go on without them: --allow-missing"
    rows = split.apply_manifest(index.rows, found, manifest, remedy)
    now = index.rows.set_index("image")["label"].reindex(found["image"]).to_numpy()
    for image, old, new in zip(found["image"], found["label"], now, strict=True):
        if old != new:
            raise UserError(
                f"{index.root}: {image} is labelled {new} now and was {old} when the run began; restore the data, "
                f"name the folder that holds them (--data DIR), or start a new run with --data "
                f"{shlex.quote(str(index.root))}"
            )
    _refuse_other_metadata(rows, options, manifest.parent / contents.NAME, index.root)
    index = replace(index, rows=rows)
    if options.skip_bad_images:
        preprocess = preprocess_for(options.model, options.image_size)
        with log.progress("reading images", len(rows)) as advance:
            index = _without_unreadable(index, preprocess, True, advance)
        rows = index.rows
    _refuse_empty(rows, options, index.root, "bring its images back")
    present = set(rows["label"])
    classes = tuple(name for name in index.classes if name in present)
    left_out = before.loc[~before["image"].isin(rows["image"]), "image"]
    return Splits(index, rows, classes, tuple(left_out), _other_files(index, options, manifest.parent))


def _refuse_other_metadata(rows: pd.DataFrame, options: Options, record: Path, root: Path) -> None:
    """Raise `UserError` if the columns of `--metadata` have other values than when the run began."""
    if record.exists() and (names := contents.with_other_metadata(rows, record, options.metadata)):
        raise UserError(
            f"{root}: --metadata {','.join(options.metadata)} has other values for {len(names):,} images than when "
            f"the run began (first: {printable(names[0])}); restore the table, or start a new run"
        )


def _other_files(index: Index, options: Options, run: Path) -> tuple[str, ...]:
    """Return the names of the images whose files are not the same as when the run began.

    A few may have been mended in their place.

    Raises:
        UserError: they are too many for that, or the data have moved, or one cannot be read.
    """
    record = run / contents.NAME
    if not record.exists():  # a run of an earlier version
        return ()
    names = contents.changed(index.rows, record)
    if not names:
        return ()
    paths = index.rows.loc[index.rows["image"].isin(names[:64]), "path"].tolist()
    bad = unreadable(paths, preprocess_for(options.model, options.image_size))
    if bad:
        raise UserError(bad[0].with_options)
    moved = run_folders.read_config(run).get("data") != str(options.data)
    if moved or len(names) > max(1, len(index.rows) // 100):
        raise UserError(
            f"{index.root} has other files for {len(names):,} images of the run (first: {printable(names[0])}): name "
            f"the folder that holds the run's own (--data DIR), or start a new run with --data "
            f"{shlex.quote(str(index.root))}; if they show the same pictures, remove {record} to go on"
        )
    return tuple(names)


def _without_unreadable(
    index: Index, preprocess: Preprocess, leave_out: bool, progress: Callable[[int], None]
) -> Index:
    """Look at the images and return the index, without those that cannot be read if `leave_out` is True.

    Raises:
        UserError: an image cannot be read, and `leave_out` is False.
    """
    paths = index.rows["path"].tolist()
    bad = unreadable(paths, preprocess if leave_out else None, progress=progress)
    if not bad:
        return index
    if not leave_out:
        more = f" (and {len(bad) - 1:,} more)" if len(bad) > 1 else ""
        raise UserError(f"{bad[0].with_options}{more}")
    rows = index.rows[~index.rows["path"].isin({error.path for error in bad})].reset_index(drop=True)
    notes = [f"left out, cannot be read: {printable(error.path)}: {error.reason}" for error in bad]
    present = set(rows["label"])
    return replace(
        index,
        rows=rows,
        classes=tuple(name for name in index.classes if name in present),
        notes=(*index.notes, *notes),
    )


def unreadable(
    paths: list[str],
    preprocess: Preprocess | None,
    seconds: float = HEADER_SECONDS,
    progress: Callable[[int], None] = lambda images: None,
) -> list[ImageError]:
    """Return the errors of the images that cannot be read.

    Without `preprocess` only headers are read, for `seconds`, so that a run on a million images starts at once.
    A bad image among the others is found when it is decoded. With `preprocess` every image is decoded, however
    long it takes. `progress` is called with the number of images just done.
    """
    deadline = time.monotonic() + seconds

    def problem(path: str) -> ImageError | None:
        try:
            if preprocess is not None:
                read_image(path, preprocess)
            elif time.monotonic() < deadline:
                read_header(path)
        except ImageError as error:
            return error
        return None

    # In blocks: one future per image would take more memory than the names of a million images.
    blocks = [paths[first : first + 256] for first in range(0, len(paths), 256)]
    found: list[ImageError] = []
    with ThreadPoolExecutor(8) as pool:
        for errors in pool.map(lambda block: [problem(path) for path in block], blocks):
            found += [error for error in errors if error is not None]
            progress(len(errors))
    return found
