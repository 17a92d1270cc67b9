"""How long the index and the group-safe split of a million images take, and how much memory.

    python tests/bench/million_rows.py                  # a labels table, 1,000,000 images in 1,000 folders
    python tests/bench/million_rows.py --images 20000

The images are empty files: an index asks where they are, not what is in them. Making and removing them takes
longer than what is measured. It ends with code 1 where a minute or 2 GB are not enough.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from skin.data import split
from skin.data.layouts import read_index
from skin.utils import cli
from skin.utils.cli import option

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
IMAGES_IN_A_FOLDER = 1000
MOST_SECONDS, MOST_MIB = 60, 2000e6 / 2**20


@dataclass(frozen=True)
class Settings:
    images: int = option(1_000_000, "rows of the table, and files")
    folder: Path | None = option(None, "where to make them (default: the system's folder for temporary files)")


def write(folder: Path, images: int) -> Path:
    """`images` files below `folder` and a table of them, with a lesion for four images in three; its path."""
    generator = np.random.Generator(np.random.Philox(0))
    labels = generator.integers(0, len(CLASSES), images).tolist()
    lesions = generator.integers(0, max(1, images * 3 // 4), images).tolist()
    table = folder / "labels.csv"
    with table.open("w") as file:
        file.write("image,label,lesion_id,age\n")
        for number, (label, lesion) in enumerate(zip(labels, lesions, strict=True)):
            part = folder / f"part_{number // IMAGES_IN_A_FOLDER:04}"
            if number % IMAGES_IN_A_FOLDER == 0:
                part.mkdir()
            (part / f"ISIC_{number:07}.jpg").touch()
            file.write(f"ISIC_{number:07},{CLASSES[label]},L{lesion:07},{20 + number % 60}\n")
    return table


def main() -> int:
    settings = cli.parse(Settings, __doc__)
    with tempfile.TemporaryDirectory(dir=settings.folder, prefix="skin-million-") as name:
        table = write(Path(name), settings.images)
        start = time.perf_counter()
        index = read_index(Path(name), labels=table)
        indexed = time.perf_counter()
        rows = split.split_index(index, split.parse_fractions("70/20/10"), seed=0)
        done = time.perf_counter()
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    shares = ", ".join(f"{part} {share:.2%}" for part, share in rows["split"].value_counts(normalize=True).items())
    print(f"{len(rows):,} images, {rows['group'].nunique():,} lesions: {shares}")
    print(f"index {indexed - start:.1f} s, split {done - indexed:.1f} s, at most {peak_mib:,.0f} MiB")
    if leaks := split.leaks(rows):
        print(f"{len(leaks):,} lesions stand on two sides, such as {leaks[0]}")
    return int(bool(leaks) or done - start > MOST_SECONDS or peak_mib > MOST_MIB)


if __name__ == "__main__":
    cli.run(main)
