"""How fast the pictures in an HDF5 file are read, beside the same pictures as files: both in turns.

    python tests/bench/hdf5_speed.py                       # 400 drawn JPEGs of 600x450, 5 rounds
    python tests/bench/hdf5_speed.py --width 130 --height 130    # the size of ISIC 2024's
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from skin.data.containers import hdf5_pictures
from skin.data.images import Preprocess, read_image
from skin.utils import cli
from skin.utils.cli import option

import cv2
import h5py


@dataclass(frozen=True)
class Settings:
    images: int = option(400, "pictures")
    width: int = option(600, "of each, in pixels")
    height: int = option(450, "of each, in pixels")
    size: int = option(128, "shorter side of the stored image")
    rounds: int = option(5, "rounds, in each of which both are read")


def main() -> None:
    settings = cli.parse(Settings, __doc__)
    cv2.setNumThreads(1)
    preprocess = Preprocess(settings.size, settings.size, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    with tempfile.TemporaryDirectory() as folder:
        files, members = _write(Path(folder), settings)
        start = time.perf_counter()
        hdf5_pictures(Path(folder, "train-image.hdf5"))
        looked = (time.perf_counter() - start) / settings.images
        rates: dict[str, list[float]] = {"files": [], "HDF5": []}
        for _ in range(settings.rounds):
            for what, paths in (("files", files), ("HDF5", members)):
                rates[what].append(_rate(paths, preprocess))
    for what, found in rates.items():
        print(f"{what:6} {statistics.median(found):,.0f} images a second")
    ratios = [one / other for one, other in zip(rates["HDF5"], rates["files"], strict=True)]
    print(f"HDF5 against files: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"to look through the file once: {looked * 1e6:.0f} µs a picture")


def _write(folder: Path, settings: Settings) -> tuple[list[str], list[str]]:
    """Write the same pictures as files and into one HDF5 file; return the paths of both."""
    draw = np.random.Generator(np.random.Philox(0))
    files, members = [], []
    with h5py.File(folder / "train-image.hdf5", "w") as archive:
        for number in range(settings.images):
            coarse = draw.integers(0, 256, (9, 12, 3), np.uint8)
            pixels = cv2.resize(coarse, (settings.width, settings.height), interpolation=cv2.INTER_CUBIC)
            content = cv2.imencode(".jpg", pixels)[1].tobytes()
            name = f"ISIC_{number:07}"
            (folder / f"{name}.jpg").write_bytes(content)
            archive[name] = np.void(content)
            files.append(f"{folder}/{name}.jpg")
            members.append(f"{folder}/train-image.hdf5::{name}")
    return files, members


def _rate(paths: Sequence[str], preprocess: Preprocess) -> float:
    start = time.perf_counter()
    for path in paths:
        read_image(path, preprocess)
    return len(paths) / (time.perf_counter() - start)


if __name__ == "__main__":
    cli.run(main)
