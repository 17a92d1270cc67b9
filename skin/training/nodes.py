"""Training on several machines: each reads its own copy of the data set, and all copies must be the same.

The first process reads the table of the images and shares it. Each other machine names the folder of its copy by its
own `--data`. The copies are compared before the first step, so that a difference does not show after a night.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from skin.data import demo
from skin.data.cache import default_folder
from skin.data.containers import container_of
from skin.data.contents import digest, file_bytes
from skin.data.index import PATHS
from skin.training.options import Options
from skin.training.splits import Splits
from skin.utils.errors import UserError, printable
from skin.utils.parallel import Topology

import numpy as np

DIGESTS = 16


class Copy(NamedTuple):
    """The sizes and digests that tell copies of the images apart, one row per file."""

    sizes: np.ndarray  # int64 [N], bytes; -1 if the file is not there
    digests: dict[int, str]  # of some of the files, by row


def on_this_machine(splits: Splits, options: Options, topology: Topology) -> Splits:
    """Return the splits that rank 0 has read, with the paths of this machine's copy of the images.

    Args:
        options: those of this process; `data` is the folder of this machine's copy.

    Raises:
        UserError: in all processes, if a machine does not have the same images.
    """
    if topology.nodes == 1:
        return splits
    first = topology.local_rank == 0 and not topology.is_main
    root = topology.together(lambda: _folder(options, draw=first))[topology.rank]
    files = _files(splits)
    expected: Copy = topology.from_main(_look(files, splits.index.root) if topology.is_main else None)
    topology.together(lambda: _compare(files, root, expected) if first else None)
    if root == splits.index.root:
        return splits
    start = len(f"{splits.index.root}/")
    rows = splits.rows.assign(path=[f"{root}/{path[start:]}" for path in splits.rows["path"]])
    return replace(splits, rows=rows.astype({"path": PATHS}))


def _folder(options: Options, draw: bool) -> Path:
    """Return the root of this machine's copy.

    If a demo set is not there, it is in the folder of the cache, where `draw` makes it.
    """
    folder = options.data
    assert folder is not None
    if options.demo and not folder.is_dir():
        cache = default_folder()
        if cache is None:
            raise UserError("no home folder is known (HOME is not set) to draw the demo set in: set it")
        folder = cache / "demo"
        if draw:
            demo.write(folder)
    return folder.parent if folder.is_file() else folder


def _files(splits: Splits) -> list[str]:
    """Return the files of the images, relative to the root. The images of an archive are in one file."""
    start = len(f"{splits.index.root}/")
    return list(dict.fromkeys(container_of(path)[start:] for path in splits.rows["path"]))


def _look(files: list[str], root: Path) -> Copy:
    with ThreadPoolExecutor(16) as pool:  # a network file system answers many requests at once
        sizes = np.array(list(pool.map(lambda file: file_bytes(f"{root}/{file}"), files, chunksize=256)), np.int64)
    rows = np.unique(np.linspace(0, len(files) - 1, DIGESTS, dtype=np.int64)).tolist()
    return Copy(sizes, {row: digest(f"{root}/{files[row]}") for row in rows if sizes[row] >= 0})


def _compare(files: list[str], root: Path, expected: Copy) -> None:
    """Raise `UserError` if the copy at `root` is not the one that rank 0 has seen."""
    found = _look(files, root)
    missing = found.sizes < 0
    differ = (found.sizes != expected.sizes) & ~missing
    differ[[row for row in found.digests if found.digests[row] != expected.digests.get(row)]] = True
    if not (missing | differ).any():
        return
    where = Path(root, files[int((missing | differ).argmax())])
    raise UserError(
        f"of {len(files):,} images of the first machine {missing.sum():,} are not here and {differ.sum():,} are "
        f"other files (first: {printable(where)}); give every machine the same data, by its own --data"
    )
