"""One walk over a data folder: its images and tables, and the file that a table means by a name.

Nothing outside the folder is ever read: a name with `..`, an absolute path or a link that leads out is
refused by name.
"""

from __future__ import annotations

import filecmp
import os
import posixpath
import re
import unicodedata
from collections import Counter
from pathlib import Path, PureWindowsPath

from skin.data.containers import HDF5_SUFFIXES, PARQUET, TAR, container_of, hdf5_pictures, is_member, read_member
from skin.data.folder_names import by_words, has_word_of_masks, is_masks, is_of_table, mask_of, may_hold_images
from skin.data.image_files import IMAGE_SUFFIXES
from skin.data.tables import header
from skin.utils.errors import UserError
from skin.utils.run_folders import is_ours

_TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
# Folders of file servers and systems, with thumbnails and deleted files. Hidden folders are passed over anyway.
_SYSTEM = frozenset((
    "__macosx", "@eadir", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "@tmp", "$recycle.bin",
    "recycler", "system volume information", "lost+found", "network trash folder", "temporary items", "__pycache__",
    "thumbs", "thumbnails",
))  # fmt: skip
_DICOM = (".dcm", ".dicom")
_PLAIN_SUFFIXES = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
_HALF = 0.5
_LARGEST = 2**27  # bytes of a picture that are compared
_DOWNLOADED_AGAIN = re.compile(r" ?\(\d+\)(?=\.[a-z]+$|$)")
_NOT_PLAIN = re.compile(r"[/\\:]|^\.")  # a name that may be a path, and lead anywhere


class Folder:
    """One walk over a data folder: its images, its tables, and the place of a named image.

    Hidden files are passed over, and so are the folders of systems and file servers (`__MACOSX`, `@eaDir`, `Thumbs`)
    and those of runs, reports and checks (`ours`): their pictures must not be learnt. Files that are neither image,
    table nor archive are `others`. Links inside the folder are files like any other. A link that leads out of it is
    refused if it is a folder, or if a row needs it; one that leads nowhere is `broken`. A link to another folder of
    the data is passed over (`links`: its path, and the folder), since that is read under its own name; if that is
    hidden, the link is its name. `group_column` is the column of lesions or patients that the user names.

    The pictures in an HDF5 file are images, too: `train-image.hdf5::ISIC_0015670` (see `skin.data.containers`).
    `unread` has a line for each HDF5 file that holds none. Images in folders of masks, by the folders' names, are
    `masks`, with the folder that tells. If its name may be that of other images (`annotated`, `binary`), most of its
    images must have the names of images outside of it.
    """

    def __init__(self, root: Path, group_column: str | None = None) -> None:
        self.root = root.resolve()
        self.group_column = group_column
        if not self.root.exists():
            raise UserError(f"the data folder {root} does not exist: check --data")
        self.images: set[str] = set()
        self.tables: list[str] = []
        self.archives: list[str] = []
        self.others: list[str] = []
        self.folders: list[str] = []
        self.ours: list[str] = []
        self.broken: list[str] = []
        self.links: dict[str, str] = {}
        self.copies: dict[str, str] = {}
        self.unread: list[str] = []
        self.masks: dict[str, str] = {}
        self._columns: dict[str, list[str]] = {}
        self._links_out: set[str] = set()
        self._read_by_link: list[str] = []
        self._names: dict[str, str | tuple[str, ...]] = {}
        if self.root.is_file() and self.root.suffix.lower() in (".npz", PARQUET, TAR):  # a folder of its own
            name, self.root = self.root.name, self.root.parent
            self._add_file(name, name)
            return
        if not self.root.is_dir():
            raise UserError(f"{root} is not a folder: --data takes the folder that holds the images")
        self._walk()
        self._drop_emptied()
        for paths in (self.tables, self.archives, self.others, self.folders, self.ours, self.broken):
            paths.sort()
        self._tell_masks()
        self._look_into_hdf5()

    def _walk(self) -> None:
        pending = [""]
        hidden: dict[str, str] = {}  # links to folders that are passed over, by path
        while pending or hidden:
            folder = pending.pop() if pending else self._followed(hidden)
            if folder is None:
                break
            images: list[str] = []
            others: list[os.DirEntry[str]] = []
            try:
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        if _is_plain_image(entry):  # the usual case, a million times over
                            images.append(entry.name)
                        else:
                            others.append(entry)
            except OSError as error:
                raise UserError(f"cannot read the folder {self.root / folder}: {error.strerror}") from error
            if folder and is_ours(self.root / folder, [entry.name for entry in others]):
                self.ours.append(folder)
                continue
            above = f"{folder}/" if folder else ""
            for name in images:
                self._add_image(above + name, name[: name.rindex(".")])
            for entry in others:
                name = entry.name
                path = above + name
                if _is_passed_over(name):
                    continue
                if entry.is_symlink():
                    if not Path(entry.path).exists():
                        self.broken.append(path)
                        continue
                    target = Path(os.path.realpath(entry.path))
                    if not target.is_relative_to(self.root):
                        self._links_out.add(path)
                    if target.is_dir():
                        self.refuse_link(path)
                        real = target.relative_to(self.root).as_posix()
                        known = hidden if any(map(_is_passed_over, real.split("/"))) else self.links
                        known[path] = real
                        continue
                if entry.is_dir():
                    self.folders.append(path)
                    pending.append(path)
                elif entry.is_file():
                    self._add_file(path, name)

    def _followed(self, hidden: dict[str, str]) -> str | None:
        """Choose a link to a hidden folder that is to be read under the link's name; None if there is none left.

        Each folder is read once: the widest first, and of several links to one that with the first name. The others
        are noted in `links`.
        """
        for path in sorted(hidden, key=lambda path: (hidden[path].count("/"), path)):
            real = hidden.pop(path)
            if not any(_overlap(real, read) for read in self._read_by_link):
                self._read_by_link.append(real)
                self.folders.append(path)
                return path
            self.links[path] = real
        return None

    def _drop_emptied(self) -> None:
        """Drop our own folders, and those that hold nothing else (`runs`), from `folders`."""
        kept = set(self.folders) - set(self.ours)
        above = {path[: slash.start()] for path in self.ours for slash in re.finditer("/", path)}
        for path in sorted(above, key=len, reverse=True):
            others = (*kept, *self.images, *self.tables, *self.archives)
            if not any(other.startswith(f"{path}/") for other in others):
                kept.discard(path)
        self.folders = list(kept)

    def _add_file(self, path: str, name: str) -> None:
        if suffix := image_suffix(name):
            self._add_image(path, composed(name[: -len(suffix)]))
            return
        suffix = posixpath.splitext(name)[1].lower()
        if is_table(name):
            self.tables.append(path)
        elif suffix == ".npz":
            self.archives.append(path)
        else:
            self.others.append(path)

    def _add_image(self, path: str, stem: str) -> None:
        self.images.add(path)
        known = self._names.setdefault(stem, path)  # a tuple only if there are several: data sets are large
        if known is not path:
            self._names[stem] = (*((known,) if isinstance(known, str) else known), path)

    def _tell_masks(self) -> None:
        inside: dict[str, list[str]] = {path: [] for path in self._named_like_masks()}
        if not inside:
            return
        doubtful = dict.fromkeys(path for path in inside if may_hold_images(posixpath.basename(path)))
        outside: Counter[tuple[str, str]] = Counter()
        for image in sorted(self.images):
            above = [path for slash in re.finditer("/", image) if (path := image[: slash.start()]) in inside]
            for path in above:
                inside[path].append(image)
            if sure := [path for path in above if path not in doubtful]:
                self.masks[image] = sure[0]
            elif doubtful:
                outside.update(_names_of(image))
        for path in doubtful:
            images = [image for image in inside[path] if image not in self.masks]
            own = Counter(name for image in images for name in _names_of(image))
            if sum(_has_pair(image, path, outside, own) for image in images) > _HALF * len(images):
                self.masks.update(dict.fromkeys(images, path))
                outside.subtract(own)
        for path in self.masks:
            stem = without_suffix(posixpath.basename(path))
            known = self._names[stem]
            self._names[stem] = (known,) if isinstance(known, str) else known  # `find` looks closer at a tuple

    def _named_like_masks(self) -> list[str]:
        named = [path for path in self.folders if has_word_of_masks(posixpath.basename(path))]
        beside: dict[str, list[str]] = {posixpath.dirname(path): [] for path in named}
        for path in self.folders if named else ():
            if (above := posixpath.dirname(path)) in beside:
                beside[above].append(posixpath.basename(path))
        words = {above: by_words(names) for above, names in beside.items()}
        return [path for path in named if is_masks(posixpath.basename(path), words[posixpath.dirname(path)])]

    def _look_into_hdf5(self) -> None:
        for path in [path for path in self.others if path.lower().endswith(HDF5_SUFFIXES)]:
            try:
                found = hdf5_pictures(self.root / path)
            except UserError as error:
                self.unread.append(str(error))
                continue
            for name in found:
                self._add_image(f"{path}::{name}", without_suffix(name.rpartition("/")[2]))
            if not found:
                self.unread.append(f"{path} holds no pictures (datasets of JPEG or PNG bytes): save its own as files")

    def refuse_link(self, path: str) -> None:
        """Raise `UserError` if `path` (relative to the root) is a link that leads out of the folder."""
        if self._links_out and (path := container_of(path)) in self._links_out:
            raise UserError(
                f"{self.root / path} is a link that leads out of the data folder: "
                "put its target into the folder instead, or point --data at a folder that holds both"
            )

    def table(self, *names: str) -> Path | None:
        """Return the table or the workbook with one of these file names, wherever it lies in the folder.

        A second download of it, `name (1).csv`, is taken if the first is not there.

        Raises:
            UserError: there are several, and they differ, or it is a link that leads out of the folder.
        """
        wanted = {name.lower() for name in names}
        files = self.tables if any(map(is_table, names)) else self.others
        named = [path for path in files if posixpath.basename(path).lower() in wanted]
        found = self.distinct(named or [path for path in files if name_of_first(path) in wanted])
        if len(found) > 1:
            raise UserError(
                f"{self.root} holds {' and '.join(found)}, which disagree: keep one, "
                "or name the right one with --labels"
            )
        return self.root / found[0] if found else None

    def columns(self, path: str) -> list[str]:
        """Return the column names of the table at `path` (relative to the root); none if it cannot be a table.

        Raises:
            UserError: it is a link that leads out of the folder.
        """
        if path not in self._columns:  # each of many readers asks for them
            self.refuse_link(path)
            self._columns[path] = header(self.root / path)
        return self._columns[path]

    def distinct(self, paths: list[str]) -> list[str]:
        """Return `paths` (relative to the root) without those that hold the same bytes as one before.

        Raises:
            UserError: one is a link that leads out of the folder.
        """
        kept: list[str] = []
        for path in paths:
            self.refuse_link(path)
            if not any(self._same(other, path) for other in kept):
                kept.append(path)
        return kept

    def find(
        self, name: str, *, converted: bool = False, masks: bool = False, table: str = ""
    ) -> str | None:
        """Find the image that a table calls `name` (with or without extension or folders), relative to the root.

        Return None if the folder has no such image. A name with an extension means a file of that extension, in
        large or small letters: `masks/i4.png` is no `i4.jpg`. With `converted`, any other extension will do. Of a
        picture and its DICOM file, it is the picture. A name without folders means no image in a folder of masks,
        unless `masks` is set. Of several images, it is the one in the folder that has the name of the `table`.

        Raises:
            UserError: the name leaves the folder, or several different files could be meant.
        """
        if not (self._links_out or "." in name or "/" in name or "\\" in name):
            bare = self._names.get(name)  # the usual case, a million times over
            if isinstance(bare, str):
                return bare
        path = self._checked(name)
        if path in self.images:
            self.refuse_link(path)
            return path
        found = self._preferred(self._candidates(path, converted, masks), path.rpartition("/")[2])
        return self._the_one(found, name, table) if found else None

    def _candidates(self, path: str, converted: bool, masks: bool) -> list[str]:
        """Return the images that a table may mean by `path`: those of its stem, folders and extension."""
        named = self._names.get(without_suffix(path.rpartition("/")[2]), ())
        found = sorted((named,) if isinstance(named, str) else named)
        if "/" in path:
            found = [f for f in found if without_suffix(composed(f)) == without_suffix(path)]
        elif not masks:
            found = [f for f in found if f not in self.masks]
        if not converted and (suffix := image_suffix(path)):
            found = [f for f in found if image_suffix(f) == suffix or (is_member(f) and not image_suffix(f))]
        return found

    def _preferred(self, found: list[str], name: str) -> list[str]:
        """Return files before members of containers, those called `name`, and pictures before DICOM files.

        The others are noted in `copies`: a download may have its pictures in two forms.
        """
        files = [f for f in found if not is_member(f)]
        if files and len(files) < len(found):
            self.copies.update((f, files[0]) for f in found if is_member(f))
            found = files
        if len(found) > 1:
            found = [f for f in found if _name(f) == name] or found
            if pictures := [f for f in found if image_suffix(f) not in _DICOM]:  # made of the DICOM files beside them
                self.copies |= {f: pictures[0] for f in found if f not in pictures}
                found = pictures
        return found

    def _the_one(self, found: list[str], name: str, table: str) -> str:
        """Return the first of the images `found` if all are the same, or the one in the folder named like the table.

        Raises:
            UserError: several could be meant, or one is a link that leads out of the folder.
        """
        for path in found:
            self.refuse_link(path)
        # Downloads hold whole folders twice, under two spellings. The size alone would not do: two uncompressed
        # pictures have the same size if they are equally wide and high.
        other = next((other for other in found[1:] if not self._same(found[0], other)), None)
        if other is None:
            self.copies.update((copy, found[0]) for copy in found[1:])
            return found[0]
        near = [f for f in found if any(is_of_table(part, table) for part in f.split("/")[:-1])]
        if len(near) == 1:
            return near[0]
        raise UserError(
            f"{self.root}: '{name}' could be {found[0]} or {other}, which differ: "
            "remove one, or give the path of each image in a table with --labels"
        )

    def _same(self, one: str, other: str) -> bool:
        """Return True if two files of the folder have the same bytes; files of different sizes are not read."""
        try:
            if is_member(one):
                return read_member(self.root / one, _LARGEST) == read_member(self.root / other, _LARGEST)
            return filecmp.cmp(self.root / one, self.root / other, shallow=False)
        except OSError as error:
            raise UserError(f"cannot compare {self.root / one} with {other}: {error.strerror}") from error

    def find_all(self, names: list[str], *, masks: bool = False, table: str = "") -> list[str | None]:
        """Return `find` of each name. A million plain names, without a dot or a folder, take it a second less."""
        if self._links_out or not are_plain(names):
            return [self.find(name, masks=masks, table=table) for name in names]
        pairs = zip(names, map(self._names.get, names), strict=True)
        return [
            file if isinstance(file, str) else self.find(name, masks=masks, table=table) for name, file in pairs
        ]

    def _checked(self, name: str) -> str:
        name = composed(name)
        if not _NOT_PLAIN.search(name):
            return name
        path = posixpath.normpath(name.replace("\\", "/"))
        if posixpath.isabs(path) or PureWindowsPath(name).drive or path == ".." or path.startswith("../"):
            raise UserError(
                f"the table names the image '{name}', which is outside the data folder {self.root}: "
                "give paths relative to the data folder, without '..'"
            )
        return path


def _names_of(image: str) -> tuple[tuple[str, str], ...]:
    """Return an image's stem, alone and with the name of its folder."""
    folder, name = posixpath.split(image)
    stem = without_suffix(name)
    return ("", stem), (posixpath.basename(folder), stem)


def _has_pair(image: str, folder: str, images: Counter[tuple[str, str]], own: Counter[tuple[str, str]]) -> bool:
    """Return True if an image in `folder` is called like one outside of it, but for a word of masks.

    If it is in a folder in `folder`, `segmented/mel/i1.png`, the other one is in a folder of that name: `mel/i1.jpg`.

    Args:
        images: how many images have a name, as of `_names_of`.
        own: how many of these are in `folder`.
    """
    inner, stem = _names_of(image)[posixpath.dirname(image) != folder]
    stems = (stem, of[0]) if (of := mask_of(stem)) else (stem,)
    return any(images[inner, name] > own[inner, name] for name in stems)


def _overlap(one: str, other: str) -> bool:
    """Return True if one of two folders is, or is in, the other."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _is_passed_over(name: str) -> bool:
    return (name.startswith(".") and name != ".") or name.lower() in _SYSTEM


def _name(path: str) -> str:
    """Return the name of an image without its folders, and without the file that holds it."""
    return path[len(container_of(path)) + 2 if is_member(path) else 0 :].rpartition("/")[2]


def are_plain(names: list[str]) -> bool:
    """Return True if no name has an extension or folders."""
    joined = "\0".join(names)  # one look at all of them
    return not any(mark in joined for mark in "./\\")


def _is_plain_image(entry: os.DirEntry[str]) -> bool:
    """Return True if a folder's entry is an image and no link, and its name is of ASCII; False says nothing."""
    stem, _, suffix = entry.name.rpartition(".")
    return (
        suffix in _PLAIN_SUFFIXES
        and stem.isascii() and stem != "" and stem[0] != "." != stem[-1]
        and entry.is_file(follow_symlinks=False)
    )  # fmt: skip


def composed(name: str) -> str:
    """Return a name with é as one character; macOS stores it as e and an accent."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def is_table(name: str) -> bool:
    """Return True if a file is a table, by its name."""
    name = posixpath.basename(name)
    suffix = posixpath.splitext(name)[1].lower()
    return suffix in _TABLE_SUFFIXES or name == "HAM10000_metadata"  # as the Harvard Dataverse names it


def name_of_first(path: str) -> str:
    """Return the name that a file had, in small letters, before a browser numbered it: `a.csv` for `A (1).csv`."""
    return _DOWNLOADED_AGAIN.sub("", posixpath.basename(path).lower())


def image_suffix(name: str) -> str:
    """Return the extension of an image's name, in small letters; `""` if it has none that images have."""
    dot = name.rfind(".")  # quicker than splitext: a data set may have a million names
    suffix = name[dot:].lower() if dot > 0 else ""
    return suffix if suffix in IMAGE_SUFFIXES and name[dot - 1] not in "/." else ""


def without_suffix(path: str) -> str:
    """Return a path without the extension of an image, composed."""
    return composed(path[: -len(suffix)] if (suffix := image_suffix(path)) else path)
