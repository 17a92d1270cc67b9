"""gpu_day.sh: its steps, their limits, and that none of them keeps the others from running."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.conftest import ROOT

import pytest

SCRIPT = ROOT / "tests" / "bench" / "gpu_day.sh"
STEPS = [
    "machine", "training", "figure", "tests", "matrix-1-b3", "matrix-2-b0", "matrix-3-b4", "compile", "find-batch",
    "infer",
]  # fmt: skip


def run(folder: Path, python: str, *words: object) -> subprocess.CompletedProcess[str]:
    """The script with another interpreter: a few lines of sh."""
    fake = folder / "python"
    fake.write_text(f"#!/bin/sh\n{python}\n")
    fake.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(fake)}
    command = ["bash", str(SCRIPT), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("present", "gpus"), [(0, "0"), (1, "1"), (2, "1,2"), (4, "1,2,4"), (8, "1,2,4")])
def test_the_steps_are_listed_and_their_limits_add_up_to_25_minutes(tmp_path: Path, present: int, gpus: str) -> None:
    done = run(tmp_path, f"echo {present}", "--dry-run", tmp_path / "day")
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    listed = [re.fullmatch(r"(\S+) +(\d+) s  (.*)", line) for line in lines]
    found = [match.groups() for match in listed if match]
    assert [name for name, _, _ in found] == STEPS
    total = sum(int(limit) for _, limit, _ in found)
    assert total <= 25 * 60
    assert last == f"in total at most {total} s on GPUs {gpus}"
    assert f"--gpus {gpus} " in found[4][2]
    assert not (tmp_path / "day").exists()


def test_steps_that_fail_do_not_keep_the_others_from_running(tmp_path: Path) -> None:
    """Every command of Python's fails, and the machine's versions, which bash asks for, too."""
    done = run(tmp_path, "echo broken; exit 3", "--small", tmp_path / "day")
    assert done.returncode == 1
    summary = (tmp_path / "day" / "summary.txt").read_text().splitlines()
    assert len(summary) == len(STEPS)
    assert all("failed (" in line for line in summary)
    assert (tmp_path / "day" / "training.log").read_text() == "broken\n"
    assert (tmp_path / "day.tar.gz").stat().st_size > 0


def test_a_step_that_hangs_is_ended_at_its_limit_and_the_next_one_runs(tmp_path: Path) -> None:
    """With limits of a second: of each step's, all but one are for its end."""
    quick = tmp_path / "quick.sh"
    text = SCRIPT.read_text().replace('cd "$(dirname "${BASH_SOURCE[0]}")/../.."', f'cd "{tmp_path}"')
    (before, after) = text.split("# shellcheck disable=SC2016  # the commands")
    steps = "step hangs 21 sleep 100\nstep ends 21 echo well\n"
    quick.write_text(before + steps + after[after.index("if [ $total") :])
    command = ["bash", str(quick), str(tmp_path / "day")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    first, second = (tmp_path / "day" / "summary.txt").read_text().splitlines()
    assert first.endswith("out of time")
    assert second.endswith("ok")


@pytest.mark.parametrize("words", [["--dryrun"], ["-h"]])
def test_another_option_is_refused(tmp_path: Path, words: list[str]) -> None:
    done = run(tmp_path, "echo 0", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: bash tests/bench/gpu_day.sh [--dry-run | --small] [FOLDER]")
