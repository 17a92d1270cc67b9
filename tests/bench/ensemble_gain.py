"""What an ensemble of folds gains over its members, on the test split that none of them has seen.

    python tests/bench/ensemble_gain.py --run runs/folds --tta 8

evaluate.py answers the test split with the ensemble and with each of its members. Printed are their metrics, and the
ensemble's less the mean over its members': paired, with 95 % percentiles of 2,000 rounds over lesions or
patients. The labels are those of each model's own rule, as in its report.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from skin.evaluation import metrics  # noqa: E402
from skin.evaluation.intervals import Estimates, Resampler  # noqa: E402
from skin.utils import cli  # noqa: E402
from skin.utils.cli import option  # noqa: E402
from skin.utils.run_folders import BEST  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402


@dataclass(frozen=True)
class Settings:
    run: Path = option(Path("runs/latest"), "folder of a run with --folds", metavar="DIR")
    tta: int = option(1, "views of each image")


def answers(checkpoint: Path, tta: int, out: Path, data: Path | None = None) -> pd.DataFrame:
    """Return predictions.csv of a checkpoint on its own test split, whose images may be in another folder by now."""
    command = [sys.executable, "evaluate.py", "--checkpoint", str(checkpoint), "--tta", str(tta), "--out", str(out)]
    command += [] if data is None else ["--data", str(data.resolve())]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return pd.read_csv(out / "predictions.csv", dtype={"image": str, "label": str, "group": str})


def _codes(names: pd.Series, classes: Sequence[str]) -> np.ndarray:
    """Return the number of each image's class, int64 [N]."""
    return pd.Categorical(names, categories=classes).codes.astype(np.int64)


def estimates(tables: Sequence[pd.DataFrame], stream: int = 0) -> list[Estimates]:
    """Return the metrics of each of several answers to the same images, in the same 2,000 rounds over groups.

    Args:
        stream: of the rounds; those of two streams are drawn apart.

    Raises:
        SystemExit: the images are not the same.
    """
    first = tables[0]
    if not all(table["image"].equals(first["image"]) for table in tables):
        raise SystemExit("the models have other test splits")
    classes = [name.removeprefix("logit_") for name in first if name.startswith("logit_")]
    resampler = Resampler(first["group"].to_numpy(dtype=object), 2000, 0, stream)
    labels = _codes(first["label"], classes)
    return [
        Estimates(labels, table[classes].to_numpy(float), resampler, called=_codes(table["predicted"], classes))
        for table in tables
    ]


def main() -> None:
    settings = cli.parse(Settings, __doc__)
    run = settings.run.resolve()
    members = sorted(run.glob(f"fold-*/{BEST}"))
    with tempfile.TemporaryDirectory() as folder:
        tables = [
            answers(path, settings.tta, Path(folder) / str(number))
            for number, path in enumerate([run / BEST, *members])
        ]
    ensemble, *single = estimates(tables)
    print(f"{len(ensemble.labels):,} images, {len(single)} members, {settings.tta} views")
    for metric in metrics.OF_A_COMPARISON:
        of_members = [float(one.values[metric.name]) for one in single]
        rounds = np.mean([one.rounds[metric.name] for one in single], axis=0)
        low, high = np.nanpercentile(ensemble.rounds[metric.name] - rounds, [2.5, 97.5])
        print(f"{metric.title:28} {ensemble.values[metric.name]:.3f}; members {np.mean(of_members):.3f} "
              f"({min(of_members):.3f} to {max(of_members):.3f}); difference "
              f"{ensemble.values[metric.name] - np.mean(of_members):+.3f} ({low:+.3f} to {high:+.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
