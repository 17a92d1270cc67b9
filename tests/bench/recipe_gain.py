"""What one way of training gains over another, on the test splits of several seeds.

    python tests/bench/recipe_gain.py --checkpoint S0/best.pt S1/best.pt --against N0/best.pt N1/best.pt

The first of each list have the same split, the second have another, and so on. evaluate.py answers each test split
with both. Printed are the means over the seeds and the difference, with its 95 % percentiles of 2,000 rounds. In a
round both ways get the same lesions or patients of a seed's test split, and each seed has a draw of its own.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from skin.evaluation import metrics  # noqa: E402
from skin.utils import cli  # noqa: E402
from skin.utils.cli import option  # noqa: E402
from tests.bench.ensemble_gain import answers, estimates  # noqa: E402

import numpy as np  # noqa: E402


@dataclass(frozen=True)
class Settings:
    checkpoint: tuple[Path, ...] = option((), "models of the one way", nargs="+", metavar="FILE")
    against: tuple[Path, ...] = option((), "models of the other, in the same order", nargs="+", metavar="FILE")
    tta: int = option(1, "views of each image")
    data: Path | None = option(None, "the same images in another folder, such as without metadata", metavar="DIR")


def main() -> None:
    settings = cli.parse(Settings, __doc__)
    if not settings.checkpoint or len(settings.checkpoint) != len(settings.against):
        raise SystemExit("--checkpoint and --against need as many files each, and at least one")
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed, pair in enumerate(zip(settings.checkpoint, settings.against, strict=True)):
            tables = [
                answers(path.resolve(), settings.tta, Path(folder) / f"{seed}-{way}", settings.data)
                for way, path in enumerate(pair)
            ]
            pairs.append(estimates(tables, seed))
    for metric in metrics.OF_A_COMPARISON:
        ours, theirs = (np.mean([pair[way].values[metric.name] for pair in pairs]) for way in (0, 1))
        rounds = np.mean([one.rounds[metric.name] - other.rounds[metric.name] for one, other in pairs], axis=0)
        low, high = np.nanpercentile(rounds, [2.5, 97.5])
        print(f"{metric.title:28} {ours:.3f}; against {theirs:.3f}; difference {ours - theirs:+.3f} "
              f"({low:+.3f} to {high:+.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
