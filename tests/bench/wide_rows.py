"""How long the index of a wide table takes: as many rows and columns as ISIC 2024's metadata.

    python tests/bench/wide_rows.py                  # 401,059 rows of 55 columns
    python tests/bench/wide_rows.py --images 20000

The images are empty files, as in `million_rows.py`. It ends with code 1 where five seconds are not enough.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from skin.data.layouts import read_index
from skin.utils import cli
from skin.utils.cli import option

MOST_SECONDS = 5
MEASURES = 34  # columns of a photograph's measurements, such as tbp_lv_A


@dataclass(frozen=True)
class Settings:
    images: int = option(401_059, "rows of the table, and files")
    folder: Path | None = option(None, "where to make them (default: the system's folder for temporary files)")


def write(folder: Path, images: int) -> None:
    """Write `images` files below `folder`, and a table of them."""
    generator = np.random.Generator(np.random.Philox(0))
    names = [f"ISIC_{number:07}" for number in range(images)]
    (folder / "image").mkdir()
    for name in names:
        (folder / "image" / f"{name}.jpg").touch()
    rows = np.arange(images)
    malignant = generator.random(images) < 0.02
    columns: dict[str, object] = {
        "isic_id": names,
        "target": malignant.astype(int),
        "patient_id": [f"IP_{number:07}" for number in generator.integers(0, max(1, images // 400), images)],
        "age_approx": 5.0 * (1 + rows % 17),
        "sex": np.array(["male", "female", ""])[rows % 3],
        "anatom_site_general": np.array(["posterior torso", "lower extremity", "head/neck", ""])[rows % 4],
        "lesion_id": "",
    }
    columns |= {f"tbp_lv_{number}": (100 * generator.random(images)).round(6) for number in range(MEASURES)}
    columns |= {f"iddx_{number}": np.where(malignant, "Malignant", "Benign") for number in range(1, 6)}
    columns |= {f"text_{number}": "TBP tile: close-up" for number in range(55 - len(columns))}
    pd.DataFrame(columns).to_csv(folder / "train-metadata.csv", index=False)


def main() -> int:
    settings = cli.parse(Settings, __doc__)
    with tempfile.TemporaryDirectory(dir=settings.folder, prefix="skin-wide-") as name:
        write(Path(name), settings.images)
        start = time.perf_counter()
        index = read_index(Path(name))
        seconds = time.perf_counter() - start
    print(f"{len(index.rows):,} images, {len(index.rows.columns)} columns: {seconds:.1f} s")
    return int(seconds > MOST_SECONDS)


if __name__ == "__main__":
    cli.run(main)
