"""How far `benchmark.py --plan` is from the epoch that follows it.

    python tests/bench/plan_tries.py --data HAM10000

Each try plans a run, then trains its first epochs with the same options and an empty cache. Printed are the planned
and the measured seconds of the first epoch and of a later one, the mean if there are several, and how many tries are
within 15 % of the latter. On a virtual machine both change with what its host does: the cores that it kept are told.
`--keep` writes the measurements of each, as in `tests/bench/plans`, where test_plan_recorded.py plans them anew.
"""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
    keep: Path | None = option(None, "folder for the measurements of each try, a JSON file", metavar="DIR")


class Try(NamedTuple):
    """A plan and the epochs after it.

    Attributes:
        cpu: the processor's name.
        trace, forecast: of the plan.
        epochs: seconds of each that was trained.
        stolen_cores: that the host of a virtual machine kept from it meanwhile; None if nobody says it.
    """

    options: str
    cpu: str
    trace: dict[str, Any]
    forecast: dict[str, float]
    epochs: list[float]
    stolen_cores: float | None

    @property
    def later(self) -> float:
        """Seconds of an epoch after the first, the mean if there are several."""
        return statistics.fmean(self.epochs[1:])


def take(options: str, settings: Settings, work: Path) -> Try:
    """Plan a run and train its first epochs."""
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
    with (run / "metrics.csv").open(newline="") as file:
        epochs = [float(row["seconds"]) for row in csv.DictReader(file)]
    return Try(options, content["environment"]["cpu"], content["trace"], content["forecast"], epochs, stolen)


def main() -> None:
    settings = cli.parse(Settings, __doc__)
    near = 0
    tries = TRIES[settings.first - 1 :]
    for number, options in enumerate(tries, start=settings.first):
        with tempfile.TemporaryDirectory() as folder:
            tried = take(options, settings, Path(folder))
        if settings.keep is not None:
            settings.keep.mkdir(parents=True, exist_ok=True)
            (settings.keep / f"{number}.json").write_text(json.dumps(tried._asdict(), indent=1) + "\n")
        planned = tried.forecast["epoch"]
        off = planned / tried.later - 1
        near += abs(off) <= NEAR
        stolen = (tried.trace["stolen_cores"], tried.stolen_cores)
        print(f"{number}  {options}\n"
              f"   first epoch: planned {tried.forecast['first_epoch']:.1f} s, took {tried.epochs[0]:.1f}; "
              f"later: planned {planned:.1f} s, took {tried.later:.1f} ({off:+.0%}); cores kept by the host: "
              f"{' and '.join('?' if it is None else f'{it:.2f}' for it in stolen)}", flush=True)  # fmt: skip
    print(f"{near} of {len(tries)} within {NEAR:.0%}")


if __name__ == "__main__":
    main()
