"""Flip some labels of a real set, train folds on it, and see how many of them the review list finds.

    python tests/bench/label_noise.py --data HAM10000 --folds 5 -- --model efficientnet_b0 --image-size 128

What stands after `--` goes to train.py. A share of the labels becomes another class of the set, at random. The
printed figure is how many times as many flipped labels stand at the top of label_review.csv as chance would put
there: its first 5 % of the images, or all of the list if it is shorter.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from skin.data.layouts import read_index  # noqa: E402
from skin.utils import cli  # noqa: E402
from skin.utils.cli import option  # noqa: E402
from skin.utils.errors import UserError  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402


@dataclass(frozen=True)
class Settings:
    data: Path | None = option(None, "a data folder, in any layout", metavar="DIR")
    share: float = option(0.05, "of the labels that are flipped", metavar="X")
    top: float = option(0.05, "of the images that are looked at", metavar="X")
    folds: int = option(5, "models", metavar="K")
    seed: int = option(0, "of the flips")
    work: Path = option(Path("label_noise"), "folder of the table and the run", metavar="DIR")


def flipped(rows: pd.DataFrame, classes: tuple[str, ...], share: float, seed: int) -> pd.DataFrame:
    """Return `rows` with a column `flipped`, and with another label where it is True."""
    draw = np.random.Generator(np.random.Philox(seed))
    chosen = np.zeros(len(rows), bool)
    chosen[draw.permutation(len(rows))[: round(share * len(rows))]] = True
    number = pd.Categorical(rows["label"], categories=list(classes)).codes.astype(int)
    other = (number + draw.integers(1, len(classes), len(rows))) % len(classes)
    return rows.assign(label=np.asarray(classes, dtype=object)[np.where(chosen, other, number)], flipped=chosen)


def times_chance(run: Path, flips: dict[str, bool], top: float) -> tuple[int, int, float]:
    """Return the images looked at, the flipped ones among them, and how many times chance that is."""
    with (run / "out_of_fold.csv").open(newline="", encoding="utf-8") as file:
        images = [row["image"] for row in csv.DictReader(file)]
    with (run / "label_review.csv").open(newline="", encoding="utf-8") as file:
        listed = [row["image"] for row in csv.DictReader(file)]
    first = listed[: round(top * len(images))]
    found, chance = sum(flips[image] for image in first), sum(flips[image] for image in images) / len(images)
    return len(first), found, found / (chance * max(1, len(first)))


def main() -> int:
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    settings, train = cli.parse(Settings, __doc__, sys.argv[1:end]), sys.argv[end + 1 :]
    if settings.data is None:
        raise UserError("say where the images are: --data DIR")
    index = read_index(settings.data)
    rows = flipped(index.rows, index.classes, settings.share, settings.seed)
    settings.work.mkdir(parents=True, exist_ok=True)
    table = settings.work / "labels.csv"
    columns = [name for name in ("image", "label", "group", "split", "lesion_id", "patient_id") if name in rows]
    rows[columns].to_csv(table, index=False)
    run = settings.work / "run"
    command = [
        sys.executable, str(ROOT / "train.py"), "--data", str(settings.data), "--labels", str(table), "--folds",
        str(settings.folds), "--out", str(run), "--resume", "auto", *train,
    ]  # fmt: skip
    if code := subprocess.run(command).returncode:
        return code
    flips = dict(zip(rows["image"], rows["flipped"].tolist(), strict=True))
    looked, found, times = times_chance(run, flips, settings.top)
    print(f"{found:,} of the first {looked:,} images of the list have a flipped label: {times:.1f} times chance")
    return 0


if __name__ == "__main__":
    cli.run(main)
