"""How long every figure of a large set takes, with the memory it needs.

    python tests/bench/report_speed.py                 # 400,000 images of 7 classes, 1,000 rounds
    python tests/bench/report_speed.py --images 20000 --classes 20
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from skin.evaluation import report
from skin.evaluation.answers import Predictions
from skin.model import calibration
from skin.utils import cli
from skin.utils.cli import option


@dataclass(frozen=True)
class Settings:
    images: int = option(400_000, "rows of probabilities")
    classes: int = option(7, "classes; at 7 they are HAM10000's, and malignant against benign is asked, too")
    rounds: int = option(1000, "rounds of the bootstrap")


def main() -> None:
    settings = cli.parse(Settings, __doc__)
    generator = np.random.Generator(np.random.Philox(0))
    ham = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    classes = ham if settings.classes == 7 else tuple(f"class {c}" for c in range(settings.classes))
    labels = generator.integers(0, len(classes), settings.images)
    logits = 2 * generator.standard_normal((settings.images, len(classes)), np.float32)
    logits[np.arange(settings.images), labels] += 3
    groups = generator.integers(0, settings.images * 3 // 4, settings.images)
    some = slice(None, None, 20)
    fitted = calibration.fit(logits[some], labels[some], generator.standard_normal((len(labels[some]), 16)))
    predictions = Predictions(classes, labels, logits, np.zeros(settings.images), groups, fitted)
    start, worked = time.perf_counter(), time.process_time()
    made = report.build(predictions, rounds=settings.rounds)
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{settings.images:,} images, {len(classes)} classes, {made.groups:,} groups, {settings.rounds} rounds")
    print(f"{seconds:.1f} s ({worked:.1f} s of processor time), at most {peak_mib:,.0f} MiB")


if __name__ == "__main__":
    cli.run(main)
