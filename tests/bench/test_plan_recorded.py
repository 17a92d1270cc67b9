"""What --plan makes of measurements that were recorded, beside the epochs that followed them.

`tests/bench/plans` has nine tries by `python tests/bench/plan_tries.py --epochs 5 --keep DIR`, on 771 images of
HAM10000 at 200x150, and four plans of a B0 in which one thing is wrong: OMP_NUM_THREADS=1 at 128 px, --batch-size 1
at 64 px, and at 32 px, with no --data, --cache off and a --cache on a file system of 8 MB.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skin.bench import forecast
from skin.bench.forecast import Trace
from tests.bench.plan_tries import Try

import pytest

PLANS = Path(__file__).parent / "plans"


def recorded(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((PLANS / f"{name}.json").read_text())
    return content


def test_an_epoch_is_within_15_percent_of_its_plan_in_nine_tries_of_ten() -> None:
    off = {}
    for number in range(1, 10):
        tried = Try(**recorded(str(number)))
        off[tried.options] = forecast.forecast(Trace(**tried.trace), epochs=5).epoch / tried.later - 1
    assert len(off) == 9
    assert sum(abs(each) <= 0.15 for each in off.values()) >= 0.9 * len(off), off


@pytest.mark.parametrize(
    ("name", "limit", "remedy"),
    [
        ("one-thread", "threads", "OMP_NUM_THREADS=2"),
        ("batch-of-one", "compute", "--batch-size 4"),
        ("slow-loader", "data", "--cache auto"),
        ("full-cache", "data", "--cache DIR on a disk with 38 MiB to spare"),
    ],
)
def test_what_is_wrong_is_named_and_its_remedy_comes_first(name: str, limit: str, remedy: str) -> None:
    found = forecast.verdict(Trace(**recorded(name)["trace"]))
    assert found.limit == limit
    assert found.remedies[0].what.startswith(remedy)
