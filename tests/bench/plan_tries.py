"""How far `benchmark.py --plan` is from the epoch that follows it.

    python tests/bench/plan_tries.py --data HAM10000

Each try plans a run, then trains its first epochs with the same options and an empty cache. Printed are the planned
and the measured seconds of the first epoch and of a later one, the mean if there are several, and how many tries are
within 15 % of the latter. On a virtual machine both change with what its host does: the cores that it kept are told.
"""

from __future__ import annotations

import csv
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from skin.bench.machine import StolenTime  # noqa: E402
from skin.utils import cli  # noqa: E402
from skin.utils.cli import option  # noqa: E402

TRIES = (
    "--model efficientnet_b0 --image-size 128 --batch-size 32",
    "--model efficientnet_b0 --image-size 128 --batch-size 32 --cache off",
    "--model efficientnet_b0 --image-size 64 --batch-size 32",
    "--model efficientnet_b0 --image-size 64 --batch-size 32 --cache off --workers 1",
    "--model efficientnet_b0 --image-size 224 --batch-size 16",
    "--model efficientnet_b0 --image-size 96 --batch-size 8 --workers 0",
    "--model efficientnet_b1 --image-size 128 --batch-size 16",
    "--model efficientnet_b2 --image-size 96 --batch-size 64",
    "--model efficientnet_b3 --image-size 128 --batch-size 32",
)
NEAR = 0.15


@dataclass(frozen=True)
class Settings:
    data: Path = option(Path("data"), "a data folder, in any layout", metavar="DIR")
    epochs: int = option(2, "of each run, after its plan; two or more", metavar="N")
    first: int = option(1, "number of the first of the nine tries")
    keep: Path | None = option(None, "folder for each try's plan.json and metrics.csv", metavar="DIR")


class Epochs(NamedTuple):
    """Seconds of the first epoch and of a later one, and the cores that a virtual machine's host kept meanwhile."""

    first: float
    later: float
    stolen: float | None


def seconds_of(options: str, settings: Settings, work: Path) -> tuple[Epochs, Epochs]:
    """Return the epochs as planned, and as measured."""
    cache = [] if "--cache" in options else ["--cache", str(work / "cache")]
    common = ["--data", str(settings.data), *options.split(), *cache]
    plan, run = work / "plan.json", work / "run"

    def call(*command: str) -> float | None:
        stolen = StolenTime()
        with (work / "said").open("w") as said:
            done = subprocess.run(
                [sys.executable, *command, *common], cwd=ROOT, stdout=said, stderr=said, check=False
            )
        if done.returncode:
            raise SystemExit(f"{' '.join([*command, *common])}\n{(work / 'said').read_text()[-2000:]}")
        return stolen.cores()

    call("benchmark.py", "--plan", "--json", str(plan))
    stolen = call("train.py", "--weights", "none", "--epochs", str(settings.epochs), "--out", str(run))
    content = json.loads(plan.read_text())
    forecast = content["forecast"]
    with (run / "metrics.csv").open(newline="") as file:
        measured = [float(row["seconds"]) for row in csv.DictReader(file)]
    return (
        Epochs(forecast["first_epoch"], forecast["epoch"], content["trace"]["stolen_cores"]),
        Epochs(measured[0], statistics.fmean(measured[1:]), stolen),
    )


def main() -> None:
    settings = cli.parse(Settings, __doc__)
    near = 0
    tries = TRIES[settings.first - 1 :]
    for number, options in enumerate(tries, start=settings.first):
        with tempfile.TemporaryDirectory() as folder:
            planned, measured = seconds_of(options, settings, Path(folder))
            if settings.keep is not None:
                kept = settings.keep / str(number)
                kept.mkdir(parents=True, exist_ok=True)
                for file in (Path(folder) / "plan.json", Path(folder) / "run" / "metrics.csv"):
                    shutil.copy(file, kept)
        off = planned.later / measured.later - 1
        near += abs(off) <= NEAR
        stolen = " and ".join("?" if it.stolen is None else f"{it.stolen:.2f}" for it in (planned, measured))
        print(f"{number}  {options}\n   first epoch: planned {planned.first:.1f} s, took {measured.first:.1f}; "
              f"later: planned {planned.later:.1f} s, took {measured.later:.1f} ({off:+.0%}); "
              f"cores kept by the host: {stolen}", flush=True)  # fmt: skip
    print(f"{near} of {len(tries)} within {NEAR:.0%}")


if __name__ == "__main__":
    main()
