"""The tree of a data folder: which of its folders are classes, which are splits, and which merely hold them.

Nothing of a download becomes a class in silence. Folders that are named like splits or like pieces of a download
are read as such where the class folders repeat in them, and refused otherwise.
"""

from __future__ import annotations

import itertools
import posixpath
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from skin.data import folder_names as names
from skin.data.containers import is_member
from skin.data.folder import Folder, image_suffix
from skin.data.image_files import IMAGE_SUFFIXES
from skin.data.index import count
from skin.data.thumbnails import fitted, square
from skin.utils.errors import UserError, printable

import numpy as np

_HALF = 0.5
_NEARLY_ALL = 0.9
_LOOKED_AT = 3  # pictures, to see if those of a format are masks, or the same as those of another
_TWO_VALUES = 0.8  # of the pixels
_SAME = 6  # grey levels between thumbnails: one picture as PNG and as JPEG differs by 2, two pictures by 10 or more
_MANY_FOLDERS, _FEW_IMAGES = 10, 10  # so many numbered folders with fewer images each are of patients or lesions


class Place(NamedTuple):
    """An image in a class folder: its path from the data folder, its class, and its split (`""` if none)."""

    path: str
    label: str
    split: str


@dataclass(frozen=True)
class Tree:
    """The class folders of a data folder.

    Attributes:
        base: the folder under which splits or classes lie, relative to the data folder.
        places: the images in class folders, sorted by path.
        masks: images that are masks of others, or the same pictures in another format.
        empty: folders beside the class folders that hold no images of a class.
        notes: lines that the user should see.
    """

    base: str
    places: list[Place]
    masks: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> dict[str, int]:
        """Return the number of images of each class."""
        return dict(Counter(place.label for place in self.places))


class NoClassFolders(UserError):
    """Folders hold the images, but are no classes. `remedy` tells what to do; `""` if only a table can tell."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


@dataclass
class _Node:
    """A folder: its images, and the folders in it that hold images. `path` is relative to the data folder."""

    path: str
    images: list[str] = field(default_factory=list)
    folders: dict[str, _Node] = field(default_factory=dict)

    def all_images(self) -> Iterator[str]:
        yield from self.images
        for inside in self.folders.values():
            yield from inside.all_images()


def read_tree(folder: Folder) -> Tree | None:
    """Return the class folders of a data folder; None if its images lie in none.

    Raises:
        NoClassFolders: its folders hold the images, and cannot be classes or cannot be told from them.
    """
    masks = _mask_files(folder)
    again, of_masks = _same_names(folder, folder.images.difference(masks))
    masks += of_masks
    masks += sorted(folder.masks.keys() - {*masks, *again})
    top = _nodes(folder, masks + again)
    reader = _Reader(folder)
    places = reader.read(top, "", frozenset())
    if not places:
        return None
    tree = Tree(reader.base or "", sorted(places), tuple(sorted(masks + again)))
    _refuse_patients(folder, tree)
    notes = [*reader.notes, *_of_copies(folder, tree), *_of_doubtful(tree)]
    if masks:
        number, first = count(len(masks), "image"), printable(min(masks))
        remedy = f"; if {printable(min(folder.masks.values()))} holds others, rename it" if folder.masks else ""
        notes.append(f"the folder holds {number} that are masks of others (first: {first}): left out{remedy}")
    if again:
        number, first = count(len(again), "image"), printable(min(again))
        notes.append(f"the folder holds {number} beside one of the same name (first: {first}): left out")
    used = {path for place in places for path in folders_above(place.path)}
    empty = [path for path in folder.folders if posixpath.dirname(path) in reader.parents and path not in used]
    return replace(tree, empty=tuple(empty), notes=tuple(notes))


def _nodes(folder: Folder, left_out: list[str]) -> _Node:
    top = _Node("")
    for path in sorted(folder.images.difference(left_out)):
        if is_member(path):
            continue  # the pictures in an HDF5 file lie in no folder: their names are for tables
        node = top
        for part in path.split("/")[:-1]:
            name = names.as_name(part)
            inside = node.folders.get(name)
            if inside is None:
                inside = node.folders[name] = _Node(posixpath.join(node.path, part))
            node = inside
        node.images.append(path)
    return top


def folders_above(path: str) -> Iterator[str]:
    """Yield the folders that a path lies in, from the deepest on, without the data folder itself."""
    while path := posixpath.dirname(path):
        yield path


def _mask_files(folder: Folder) -> list[str]:
    """List the images that are masks by words in their names; most masks of a kind must lie beside their image.

    A few are looked at if the word is glued on: `P1seg.jpg` may be the follow-up (`seguimiento`) of `P1.jpg`.
    """
    stems = {path: posixpath.splitext(posixpath.basename(path))[0] for path in folder.images}
    known = set(stems.values())
    kinds: dict[str, list[str]] = {}
    paired: Counter[str] = Counter()
    for path, stem in stems.items():
        if found := names.mask_of(stem):
            of, kind = found
            kinds.setdefault(kind, []).append(path)
            paired[kind] += of in known or f"{of}_orig" in known
    masks = []
    for kind, paths in kinds.items():
        looked_at = sorted(paths)[:_LOOKED_AT] if kind.startswith("…") else []
        if paired[kind] >= _HALF * len(paths) and all(_is_mask(folder, path) for path in looked_at):
            masks += paths
    return masks


def _same_names(folder: Folder, images: set[str]) -> tuple[list[str], list[str]]:
    """List images that lie beside one of the same name in another format, if nearly all of the format do so.

    Returns:
        Those that are the same pictures once more, since nearly each is there twice and the first few look the same;
        and those that are masks.
    """
    names_of: dict[str, dict[str, str]] = {}
    for path in images:
        if not is_member(path):
            suffix = image_suffix(path)
            names_of.setdefault(suffix, {})[path[: -len(suffix)]] = path
    formats = sorted(names_of, key=IMAGE_SUFFIXES.index)
    again: list[str] = []
    masks: list[str] = []
    for kept, other in itertools.permutations(formats, 2):
        here, there = names_of[kept], names_of[other]
        both = sorted(here.keys() & there.keys())
        if not both or len(both) < _NEARLY_ALL * len(there):
            continue
        shown = [(here[name], there[name]) for name in both[:_LOOKED_AT]]
        if all(_is_mask(folder, mask) > _is_mask(folder, image) for image, mask in shown):
            masks += map(there.pop, both)
        elif (
            len(both) >= _NEARLY_ALL * len(here)
            and not _is_mask(folder, shown[0][0])
            and all(_look_the_same(folder, *pair) for pair in shown)
        ):
            again += map(there.pop, both)
    return again, masks


def _is_mask(folder: Folder, path: str) -> bool:
    """Return True if a picture has two grey values, but for its edges; False if not, or if it cannot be read."""
    try:
        folder.refuse_link(path)
        grey = fitted(str(folder.root / path), 64, 64).mean(axis=2).round().astype(np.int64)
    except UserError:
        return False
    return bool(np.sort(np.bincount(grey.ravel()))[-2:].sum() >= _TWO_VALUES * grey.size)


def _look_the_same(folder: Folder, *paths: str) -> bool:
    """Return True if two files show the same picture, but for JPEG's error; True, too, if one cannot be read."""
    try:
        for path in paths:
            folder.refuse_link(path)
        one, other = (square(str(folder.root / path), 16).astype(np.int64) for path in paths)
    except UserError:
        return True
    return bool(np.abs(one - other).mean() < _SAME)


class _Reader:
    """Walks down from the data folder to the class folders.

    Attributes:
        base: the folder in which the first splits or classes lie.
        parents: the folders in which class folders lie.
        notes: lines that the user should see.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.base: str | None = None
        self.parents: set[str] = set()
        self.notes: list[str] = []

    def read(self, node: _Node, split: str, known: frozenset[str]) -> list[Place]:
        """Return the images in the class folders below `node`.

        Args:
            split: the one that `node` lies in, `""` if none.
            known: classes of the other splits.
        """
        folders = node.folders
        if not folders:
            return []
        if len(folders) == 1:
            name, only = next(iter(folders.items()))
            inside = len(only.folders) > (1 if only.images else 0)
            if inside and name not in known:  # what an archive made, or a split repeated: train/train
                return self.read(only, self._inner(node, split, name, names.is_plain(name)), known)
        if self.base is None:
            self.base = node.path
        common = names.common_words(folders)
        if found := self._splits(node, split, common):
            return found
        pieces = [name for name in folders if names.is_piece(name, common)]
        if pieces:
            return self._pieces(node, split, known, pieces)
        self._refuse_copies(node)
        if self._is_repeated_below(node):
            return self._merged(node, split, known)
        return self._classes(node, split)

    def _inner(self, node: _Node, split: str, name: str, counts: bool = True) -> str:
        """Return the split of a folder in one of the split `split`: train/val is val, and test/train is refused.

        Args:
            counts: the folder's name may tell a split.
        """
        own = names.split_of(name) if counts else ""
        if own and self.base is None:
            self.base = node.path
        if own and split not in ("", "train", own):
            where = posixpath.join(node.path, name)
            remedy = "rename it, or name a table image,label,split with --labels"
            raise NoClassFolders(f"the folder {where} is named like two splits", remedy)
        return own or split

    def _splits(self, node: _Node, split: str, common: frozenset[str]) -> list[Place]:
        """Return the images of the folders in `node` that are splits; none if there are no such folders."""
        holding = [name for name, it in node.folders.items() if names.split_of(name, common) and it.folders]
        training = [name for name in holding if names.split_of(name, common) == "train"]
        parts = [name for name in training if not names.is_train_and_val(name)]
        if parts:  # trainval holds the images of train once more
            holding = [name for name in holding if name not in training or name in parts]
        holding.sort(key=lambda name: -len(node.folders[name].folders))  # one with a single class comes last
        places: dict[str, list[Place]] = {}
        known: frozenset[str] = frozenset()
        for name in holding:
            places[name] = self.read(node.folders[name], self._inner(node, split, name), known)
            known |= {place.label for place in places[name]}
        for name in holding:
            if not names.is_plain(name):  # BCN_20k_train is a split only if another has the same classes
                others = {place.label for other in holding if other != name for place in places[other]}
                if not others.intersection(place.label for place in places[name]):
                    return []
        for name in sorted(node.folders.keys() - set(holding) - set(training)):
            if known.intersection(node.folders[name].folders) and not names.is_made_of_others(name):
                self.notes.append(
                    f"left out: the folder {name} holds class folders, but its name tells no split; to use it, "
                    f"rename it, such as {name}_test"
                )
        return [place for name in holding for place in places[name]]

    def _pieces(self, node: _Node, split: str, known: frozenset[str], pieces: list[str]) -> list[Place]:
        """Return the images of pieces of a download, if the class folders lie in them."""
        holding = [name for name in pieces if node.folders[name].folders]
        if not holding and len(pieces) == len(node.folders):
            return []  # all images lie flat: no folder tells a class
        if len(pieces) == len(node.folders) == len(holding) and all(map(names.is_merged, pieces)):
            return self._merged(node, split, known)
        shown = _shown(pieces)
        if len(pieces) < len(node.folders) and not holding:
            raise NoClassFolders(
                f"{self._at(node)} holds {shown} beside class folders, named like a split or a piece of a download",
                "move it out of the data folder; if it is a class, rename it",
            )
        raise NoClassFolders(
            f"{self._at(node)} holds {shown}, which are named like pieces of a download, not like classes",
            self._remedy(node),
        )

    def _remedy(self, node: _Node) -> str:
        """Return the option that names the one folder in `node` with all the classes; `""` if there is none."""
        readable = []
        for name, inside in node.folders.items():
            alone = _Node("", folders={name: inside})
            try:
                labels = {place.label for place in _Reader(self.folder).read(alone, "", frozenset())}
            except NoClassFolders:
                continue
            if len(labels) > 1:
                readable.append((-len(labels), names.is_made_of_others(name), "orig" not in name.lower(), name))
        if not readable:
            return ""
        (classes, of_others, _, best), *others = sorted(readable)
        if of_others or any(fewer != classes for fewer, *_ in others):
            return ""
        where = self.folder.root / node.folders[best].path
        return (
            f"if one of them holds the whole set, name it: --data {shlex.quote(str(where))}; otherwise name a table "
            "image,label with --labels"
        )

    def _is_repeated_below(self, node: _Node) -> bool:
        """Return True if the class folders lie one level deeper: site_a/mel, site_a/nv, site_b/mel, site_b/nv.

        Raises:
            NoClassFolders: either level may be the classes.
        """
        below = [
            {name for name in it.folders if not (names.is_piece(name) or names.is_numbered(name))}
            for it in node.folders.values()
        ]
        repeated = {name for name, times in Counter(name for inside in below for name in inside).items() if times > 1}
        deeper = all(it.folders and not it.images for it in node.folders.values())
        above, inside = list(node.folders), sorted(set().union(*below))
        told = any(map(names.names_disease, above))
        of_disease = not told and sum(map(names.names_disease, inside)) > 1
        if deeper and len(repeated) > 1 and of_disease:
            return True
        if not told and (len(repeated) > 1 or (deeper and of_disease)):
            raise NoClassFolders(
                f"{self._at(node)} holds the folders {_shown(above)}, and in them {_shown(inside)}: either may be "
                "the classes",
                "put the class folders side by side into one folder, or name a table image,label with --labels; "
                "splits are called train, val and test",
            )
        if inside and (deeper or any(map(names.names_disease, inside))):
            self.notes.append(
                f"the classes are the folders {_shown(above)}; the folders inside them ({_shown(inside)}) are merged"
            )
        return False

    def _merged(self, node: _Node, split: str, known: frozenset[str]) -> list[Place]:
        """Return the images of folders in `node` that each hold class folders: parts of a download, or sites."""
        places = {name: self.read(inside, split, known) for name, inside in node.folders.items()}
        files = [
            {(place.split, place.label, posixpath.basename(place.path)) for place in found}
            for found in places.values()
        ]
        smallest = min(map(len, files))
        again = Counter(file for one in files for file in one)
        shown = _shown(list(places))
        if smallest and sum(times > 1 for times in again.values()) >= _HALF * smallest:
            raise NoClassFolders(
                f"{self._at(node)} holds {shown}, whose images have the same names, as copies of one set have",
                self._remedy(node),
            )
        self.notes.append(
            f"the folders {shown} hold class folders each: read together, as parts of one set; splits are called "
            "train, val and test"
        )
        return [place for found in places.values() for place in found]

    def _refuse_copies(self, node: _Node) -> None:
        beside = names.by_words(node.folders)
        for name, it in node.folders.items():
            if of := names.copied_from(name, beside, numbered=not it.folders):
                raise NoClassFolders(
                    f"{self._at(node)} holds the folders {of} and {name}, which is named like copies of its images",
                    f"move {name} out of the data folder; if it holds other images of {of}, put them into {of}; if "
                    "it is a class, rename it",
                )

    def _classes(self, node: _Node, split: str) -> list[Place]:
        self.parents.add(node.path)
        splits = {} if split else self._splits_in_classes(node)
        return [
            Place(path, label, splits.get(deeper.path, split))
            for label, it in node.folders.items()
            for deeper in (it.folders.values() if splits else (it,))
            for path in deeper.all_images()
        ]

    def _splits_in_classes(self, node: _Node) -> dict[str, str]:
        """Return the splits of the folders in class folders, `<class>/train` and `<class>/test`, by path, if any.

        Raises:
            NoClassFolders: some of the images are in such folders, and some are not.
        """
        splits, others = {}, []
        for label, it in node.folders.items():
            others += it.images
            for name, deeper in it.folders.items():
                if found := names.split_in_class(name, label):
                    splits[deeper.path] = found
                else:
                    others += deeper.all_images()
        if len(set(splits.values())) < 2:
            return {}
        if others:
            raise NoClassFolders(
                f"{self._at(node)} holds class folders with a folder for each split, such as {next(iter(splits))}, "
                f"and {count(len(others), 'image')} beside these (first: {printable(others[0])})",
                "put each image into the folder of a split",
            )
        return splits

    def _at(self, node: _Node) -> str:
        return str(self.folder.root / node.path)


def _refuse_patients(folder: Folder, tree: Tree) -> None:
    """Raise `NoClassFolders` if the folders are numbered, many, and hold few images each: patients or lesions."""
    labels = tree.labels
    numbered = [re.sub(r"\d+", "#", label) for label in labels]
    kind, alike = Counter(numbered).most_common(1)[0]
    if kind == "#":  # numbers may be classes: 0, 1, 2, …
        numbers = [label for label in labels if label.isdigit() and len(label) > 2]
        alike = len(numbers)
    few = len(tree.places) < _FEW_IMAGES * len(labels)
    many = "#" in kind and alike >= max(_MANY_FOLDERS, 0.9 * len(labels))
    if many and few and not names.NUMBERED_CLASSES.intersection(names.words_of(kind)):
        raise NoClassFolders(
            f"{folder.root / tree.base} holds {count(len(labels), 'folder')} such as {next(iter(labels))} with "
            f"{count(len(tree.places), 'image')}, which seem to be patients or lesions, not classes"
        )


def _of_copies(folder: Folder, tree: Tree) -> list[str]:
    """Return a note if the class folders, or one above or in them, are named like copies of images."""
    labels = tree.labels
    if all(map(names.is_made_of_others, labels)):
        return [
            f"the folders {_shown(list(labels))} are named like images made of others: copies of one image may stand "
            "in training and test"
        ]
    places = tree.places
    if any(place.split == "val" for place in places):  # only the training split is altered copies: that is usual
        places = [place for place in places if place.split != "train"]
    folders = sorted({posixpath.dirname(place.path) for place in places})
    above = [folder.root.name, *(part for path in folders for part in path.split("/"))]
    name = names.copies_above(part for part in above if names.as_name(part) not in labels)
    return [
        f"the folder {name} is named like altered copies of images: those of one may stand on both sides of a split"
    ] if name else []  # fmt: skip


def _of_doubtful(tree: Tree) -> list[str]:
    """Return notes on folders that may have been put aside, and not be classes."""
    labels = tree.labels
    usual = sorted(labels.values())[len(labels) // 2]
    if all(map(names.is_way_of_imaging, labels)):
        return [
            f"the folders {_shown(list(labels))} are named after ways to take images and are learnt as classes: if "
            "they are not classes, name a table image,label with --labels"
        ]
    beside = names.by_words(labels)
    return [
        f"the folder '{label}' ({count(number, 'image')}) is learnt as a class: if it is not one, move it out of the "
        "data folder"
        for label, number in labels.items()
        if (names.is_doubtful(label) and number < _HALF * usual) or names.is_masks(label, beside)
    ]


def _shown(folders: list[str]) -> str:
    return ", ".join(folders[:4]) + (", …" if len(folders) > 4 else "")
