"""Train, validation and test splits: stratified by class, no lesion or patient in two of them.

`deal` is the algorithm on plain arrays. `split_index` applies it to a data set and keeps the splits that the data
bring. `cut_folds` cuts training and validation anew, into the folds of a run with several models. `leaks` looks for
groups in two splits. The manifest (`split.csv`) is the record of a run's split; it is a labels table itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skin.data.index import Index
from skin.utils.errors import UserError, printable
from skin.utils.files import refuse_pipe, write_atomically

import numpy as np
import pandas as pd

SPLITS = ("train", "val", "test")
MANIFEST_COLUMNS = ["image", "label", "group", "split"]
FOLD = "fold"  # a column more in the manifest of a run of folds: 1 to K, or 0 in the test split


class TooFewGroups(UserError):
    """A class cannot stand in every part. `label` is its number."""

    def __init__(self, label: int, groups: int, splits: int) -> None:
        super().__init__(f"class {label} has too few groups for the split: {groups}, and {splits} are needed")
        self.label, self.groups, self.splits = label, groups, splits

    def no_cut(self, classes: Sequence[str]) -> str:
        """Return what is wrong if there are enough groups and yet no cut was found; "" if there are too few."""
        if self.groups < self.splits:
            return ""
        return (
            f"no cut was found that has class '{printable(classes[self.label])}' in each part, though images of it "
            f"are of {self.groups} lesions, patients or single images: some of them have other classes, too; "
            "use another --seed"
        )


def parse_fractions(text: str) -> tuple[float, float, float]:
    """Return `'70/20/10'` (any positive scale; val or test may be 0) as three fractions that add up to 1.

    Raises:
        UserError: it is not three numbers, one is negative, or that of training is 0.
    """
    try:
        numbers = [float(number) for number in text.split("/")]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not math.isfinite(sum(numbers)) or min(numbers) < 0 or numbers[0] == 0:
        raise UserError(f"--split {text} is not three numbers train/val/test such as 70/20/10")
    total = sum(numbers)
    return numbers[0] / total, numbers[1] / total, numbers[2] / total


def assign(
    labels: np.ndarray, groups: np.ndarray, fractions: tuple[float, float, float], seed: int
) -> np.ndarray:
    """Return `'train'`, `'val'` or `'test'` for each row, [N] of `<U5`: `deal` into these three splits."""
    names: np.ndarray = np.asarray(SPLITS)[deal(labels, groups, fractions, seed)]
    return names


def deal(labels: np.ndarray, groups: np.ndarray, fractions: Sequence[float], seed: int) -> np.ndarray:
    """Return the number of a part for each row, int64 [N]: no group is in two, each class is near its fractions.

    Groups are taken in an order drawn from (`seed`, the set of groups), those of several classes first, then the
    larger ones. Each goes to the part that lacks most images of its classes, by the fractions of the images dealt
    so far. So large and small groups alike are spread by the fractions. The result depends on the set of rows and
    the seed, not on the order of the rows.

    Args:
        labels: int [N], from 0.
        groups: [N], names.
        fractions: of the parts; they add up to 1, and a part of fraction 0 stays empty.
        seed: of the draw.

    Raises:
        TooFewGroups: a class cannot have a group in every part.
    """
    dealt = _Deal(np.asarray(labels), np.asarray(groups), fractions)
    for group in dealt.order(seed):
        dealt.put(group, dealt.neediest(group))
    dealt.fill_empty_splits()
    parts: np.ndarray = np.asarray(dealt.split_of)[dealt.group_of_row]
    return parts


class _Deal:
    """The groups (as `[(label, images), ...]`), and the images of each class in each split while they are dealt."""

    def __init__(self, labels: np.ndarray, groups: np.ndarray, fractions: Sequence[float]) -> None:
        self.group_of_row, names = pd.factorize(groups, sort=True)
        classes = int(labels.max()) + 1
        pairs, images = np.unique(self.group_of_row.astype(np.int64) * classes + labels, return_counts=True)
        self.contents: list[list[tuple[int, int]]] = [[] for _ in range(len(names))]
        for pair, count in zip(pairs.tolist(), images.tolist(), strict=True):
            self.contents[pair // classes].append((pair % classes, count))
        self.splits = [split for split in range(len(fractions)) if fractions[split] > 0]
        self.fractions = fractions
        self.class_size = np.bincount(labels, minlength=classes).tolist()
        self.dealt = [0] * classes
        self.held = [[0] * classes for _ in fractions]
        self.images = [0] * len(fractions)
        self.alike = len({fractions[split] for split in self.splits}) == 1
        self.split_of = [0] * len(names)

    def order(self, seed: int) -> list[int]:
        shuffled = np.random.Generator(np.random.Philox(key=seed)).permutation(len(self.contents))
        kinds = np.array([len(content) for content in self.contents])[shuffled]
        sizes = np.array([sum(count for _, count in content) for content in self.contents])[shuffled]
        groups: list[int] = shuffled[np.lexsort((-sizes, -kinds))].tolist()
        return groups

    def neediest(self, group: int) -> int:
        best, most = self.splits[0], -np.inf
        # Folds often need the same. Then the emptiest comes first, or the first would get the rest of each class.
        for split in sorted(self.splits, key=self.images.__getitem__) if self.alike else self.splits:
            held, fraction = self.held[split], self.fractions[split]
            need = 0.0
            for label, count in self.contents[group]:
                need += (fraction * (self.dealt[label] + count) - held[label]) * count / self.class_size[label]
            if need > most + 1e-12:
                best, most = split, need
        return best

    def put(self, group: int, split: int) -> None:
        self.split_of[group] = split
        for label, count in self.contents[group]:
            self.dealt[label] += count
            self.held[split][label] += count
            self.images[split] += count

    def fill_empty_splits(self) -> None:
        """Move the smallest group that can be spared into each split that lacks a class, or swap two if none can."""
        while lacking := self._lacking():  # each turn leaves fewer
            _, label, split = min(lacking)
            groups = [g for g, content in enumerate(self.contents) if any(known == label for known, _ in content)]
            spare = [g for g in groups if self._can_leave(g)]
            if spare:
                self._move(min(spare, key=self._size), split)
            elif not self._swap(groups, split):
                raise TooFewGroups(label, len(groups), len(self.splits))

    def _swap(self, groups: list[int], split: int) -> bool:
        """Exchange one of `groups` for one of `split` so that fewer classes are lacking; return False if none is."""
        before = len(self._lacking())
        residents = [group for group, home in enumerate(self.split_of) if home == split]
        for group, other in itertools.product(sorted(groups, key=self._size), sorted(residents, key=self._size)):
            home = self.split_of[group]
            self._move(group, split)
            self._move(other, home)
            if len(self._lacking()) < before:
                return True
            self._move(other, split)
            self._move(group, home)
        return False

    def _lacking(self) -> list[tuple[int, int, int]]:
        """Return each class that a split lacks: its images, its number, the split."""
        sizes = enumerate(self.class_size)
        return [(size, label, split) for label, size in sizes if size for split in self._empty(label)]

    def _size(self, group: int) -> tuple[int, int]:
        return len(self.contents[group]), sum(count for _, count in self.contents[group])

    def _empty(self, label: int) -> list[int]:
        return [split for split in self.splits if not self.held[split][label]]

    def _can_leave(self, group: int) -> bool:
        held = self.held[self.split_of[group]]
        return all(held[label] > count for label, count in self.contents[group])

    def _move(self, group: int, split: int) -> None:
        for label, count in self.contents[group]:
            self.held[self.split_of[group]][label] -= count
            self.images[self.split_of[group]] -= count
            self.dealt[label] -= count
        self.put(group, split)


def split_index(index: Index, fractions: tuple[float, float, float], seed: int) -> pd.DataFrame:
    """Return `index.rows` with `split` filled in.

    A split that the data bring stays. One that they lack is cut from the training split, by group, in
    proportion to `fractions`. Rows without a split go to the split of their group; others are dealt.

    Raises:
        UserError: there is one class only, or a class has too few groups; it names the class.
    """
    if len(index.classes) < 2:
        raise UserError(f"{index.root} has one class only ('{index.classes[0]}'): training needs two at least")
    rows = index.rows.copy()
    brought = set(rows["split"]) - {""}
    if brought and "train" not in brought and not (rows["split"] == "").any():
        raise UserError(
            f"{index.root} brings splits without a training split (only {', '.join(sorted(brought))}): "
            "add one, or name a table with --labels"
        )
    _follow_group(rows)
    lacking = [split for split in ("val", "test") if split not in brought]
    pool = (rows["split"] == "") | ((rows["split"] == "train") if lacking else False)
    dealt = {"train", *lacking} if lacking else set(SPLITS)
    share = [fraction if split in dealt else 0.0 for split, fraction in zip(SPLITS, fractions, strict=True)]
    if not pool.any():
        return rows
    whole = sum(share)
    labels = pd.Categorical(rows.loc[pool, "label"], categories=index.classes).codes.astype(np.int64)
    groups = rows.loc[pool, "group"].to_numpy()
    try:
        splits = assign(labels, groups, (share[0] / whole, share[1] / whole, share[2] / whole), seed)
    except TooFewGroups as error:
        if no_cut := error.no_cut(index.classes):
            raise UserError(f"{index.root}: {no_cut}, add images, or leave the class out (--ignore-class)") from error
        fewer = "leave the class out, or ask for fewer splits (--split 80/20/0)"
        remedy = fewer if error.groups > 1 else "or leave the class out (--ignore-class)"
        raise UserError(
            f"{index.root}: class '{index.classes[error.label]}' has images of {error.groups} lesions, patients or "
            f"single images to be split, and each of {error.splits} splits needs one of its own: add images, {remedy}"
        ) from error
    rows.loc[pool, "split"] = splits
    return rows


def cut_folds(rows: pd.DataFrame, classes: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """Return the fold of each row of a split data set, int64 [N]: 1 to `folds`, or 0 in the test split.

    The folds cut training and validation together, whatever the data bring.

    Raises:
        UserError: a class has too few groups; it names the class.
    """
    cut = (rows["split"] != "test").to_numpy()
    labels = pd.Categorical(rows.loc[cut, "label"], categories=list(classes)).codes.astype(np.int64)
    try:
        parts = deal(labels, rows.loc[cut, "group"].to_numpy(), [1 / folds] * folds, seed)
    except TooFewGroups as error:
        if no_cut := error.no_cut(classes):
            raise UserError(
                f"--folds {folds}: {no_cut} or fewer --folds, or leave the class out (--ignore-class)"
            ) from error
        most = f"--folds {error.groups} at most" if error.groups > 1 else "no --folds"
        raise UserError(
            f"--folds {folds}: class '{printable(classes[error.label])}' has images of {error.groups} lesions, "
            f"patients or single images beside the test split, and each fold needs one of its own: use {most}, add "
            "images, or leave the class out (--ignore-class)"
        ) from error
    fold = np.zeros(len(rows), np.int64)
    fold[cut] = 1 + parts
    return fold


def _follow_group(rows: pd.DataFrame) -> None:
    """Put rows without a split into the split of their group, in place."""
    placed = rows[rows["split"] != ""]
    if placed.empty or len(placed) == len(rows):
        return
    known = placed.groupby("group")["split"].first()
    open_rows = rows["split"] == ""
    rows.loc[open_rows, "split"] = rows.loc[open_rows, "group"].map(known).fillna("")


@dataclass(frozen=True)
class Leak:
    """One group that stands in several splits: its name, the splits, and an image of it in each."""

    group: str
    splits: tuple[str, ...]
    images: tuple[str, ...]

    def __str__(self) -> str:
        where = ", ".join(f"{image} in {split}" for image, split in zip(self.images, self.splits, strict=True))
        return f"group {self.group} stands in {len(self.splits)} splits: {where}"


def leaks(rows: pd.DataFrame) -> list[Leak]:
    """List the groups that stand in more than one split, by name. Rows without a split do not count."""
    placed = rows.loc[rows["split"] != "", ["image", "group", "split"]]
    once = placed.drop_duplicates(["group", "split"])
    both = once[once.duplicated("group", keep=False)].sort_values(["group", "split"])
    return [
        Leak(str(group), tuple(found["split"]), tuple(found["image"]))
        for group, found in both.groupby("group", sort=True)
    ]


def write_manifest(rows: pd.DataFrame, path: Path, folds: np.ndarray | None = None) -> None:
    """Write `image,label,group,split` of `rows` as CSV, the record of a run's split; `fold` too, from `cut_folds`."""
    table = rows[MANIFEST_COLUMNS]
    if folds is not None:
        table = table.assign(**{FOLD: folds})
    write_atomically(table.to_csv(index=False, lineterminator="\n").encode("utf-8"), path)


def read_manifest(path: Path) -> pd.DataFrame:
    """Return the manifest at `path`: the columns image, label, group, split, as text, and `fold` if it has folds.

    Raises:
        UserError: it cannot be read, lacks a column, names an image twice, names a split that is none, or a fold
            that is no number.
    """
    try:
        refuse_pipe(path)
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:
        damaged = f"{path} cannot be read as the split.csv of a run: {error}"
        raise UserError(damaged, "put it back from a copy") from error
    lacking = [name for name in MANIFEST_COLUMNS if name not in table.columns]
    if lacking:
        raise UserError(f"{path} has no column '{lacking[0]}': it is not the split.csv of a run")
    twice = table["image"].duplicated()
    if twice.any():
        name = printable(table.loc[twice, "image"].iloc[0])
        raise UserError(f"{path} names the image '{name}' twice: keep one of the rows, the one that the run wrote")
    wrong = ~table["split"].isin(SPLITS)
    if wrong.any():
        other = printable(table.loc[wrong, "split"].iloc[0])
        raise UserError(f"{path} has the split '{other}', which is not train, val or test")
    if FOLD not in table:
        return table[MANIFEST_COLUMNS]
    folds = pd.to_numeric(table[FOLD], errors="coerce")
    if (folds.isna() | (folds < 0) | (folds % 1 != 0)).any():
        raise UserError(f"{path} has folds that are no numbers: it is not the split.csv of a run")
    return table[MANIFEST_COLUMNS].assign(**{FOLD: folds.astype(np.int64)})


def of_fold(manifest: pd.DataFrame, fold: int) -> pd.DataFrame:
    """Return the manifest of a run of folds as the model of one has it: the fold is validation, others train."""
    splits = np.where(manifest[FOLD] == fold, "val", np.where(manifest[FOLD] > 0, "train", "test"))
    return manifest.assign(split=splits)[MANIFEST_COLUMNS]


def apply_manifest(
    rows: pd.DataFrame, manifest: pd.DataFrame, source: Path, remedy: str = "bring them back"
) -> pd.DataFrame:
    """Return the rows of an index that a run's manifest names, with label, group and split as the run had them.

    Raises:
        UserError: an image of the manifest is no longer in the data; `remedy` tells the user what to do.
    """
    known = manifest.set_index("image")
    gone = manifest.loc[~manifest["image"].isin(rows["image"]), "image"]
    if len(gone):
        raise UserError(
            f"{len(gone):,} images of {source} are no longer in the data (first: {gone.iloc[0]}): {remedy}"
        )
    kept = rows[rows["image"].isin(known.index)].copy()
    for column in ("label", "group", "split"):
        kept[column] = kept["image"].map(known[column])
    return kept.reset_index(drop=True)
