"""Threads spin on free cores and sleep on crowded ones: when, and that libgomp does as it is told."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from skin.utils import hardware
from skin.utils.core_watch import CROWDED, CROWDED_SECONDS, FREE, MOST_PATIENCE, PATIENCE, PERIOD, Policy, Pressure
from tests.conftest import slow

import pytest

ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's schedstat")


def free_for(policy: Policy, seconds: float) -> bool:
    asleep = policy.asleep
    for _ in range(round(seconds / PERIOD)):
        asleep = policy.look(0.0, PERIOD)
    return asleep


def test_threads_sleep_until_the_cores_have_been_free_for_some_seconds() -> None:
    policy = Policy()
    assert policy.asleep
    assert free_for(policy, PATIENCE - PERIOD)
    assert policy.look(FREE, PERIOD)  # not free enough: the time counts anew
    assert free_for(policy, PATIENCE - PERIOD)
    assert not policy.look(0.0, PERIOD)
    assert not policy.look(CROWDED, PERIOD)  # a loader's process may have its share


def crowd(policy: Policy, seconds: float = CROWDED_SECONDS) -> bool:
    asleep = policy.asleep
    for _ in range(round(seconds / PERIOD)):
        asleep = policy.look(CROWDED + 0.01, PERIOD)
    return asleep


def test_threads_sleep_soon_on_crowded_cores_and_longer_each_time() -> None:
    policy = Policy()
    free_for(policy, PATIENCE)
    for patience in (2 * PATIENCE, 4 * PATIENCE):
        assert crowd(policy)
        assert free_for(policy, patience - PERIOD)
        assert not policy.look(0.0, PERIOD)
    for _ in range(10):
        crowd(policy)
        free_for(policy, MOST_PATIENCE)
        assert not policy.asleep
    assert not free_for(policy, MOST_PATIENCE)  # relapses are forgotten
    assert crowd(policy)
    assert not free_for(policy, PATIENCE)


def test_a_moment_is_no_crowd() -> None:
    policy = Policy()
    free_for(policy, PATIENCE)
    for _ in range(5):
        assert not crowd(policy, CROWDED_SECONDS - PERIOD)
        assert not policy.look(CROWDED, PERIOD)


def test_pressure_is_the_number_of_threads_that_wait(tmp_path: Path) -> None:
    def task(number: int, waited_seconds: float) -> None:
        (tmp_path / str(number)).mkdir(exist_ok=True)
        (tmp_path / str(number) / "schedstat").write_text(f"5000 {round(1e9 * waited_seconds)} 7\n")

    task(1, 3.0)
    task(2, 1.0)
    pressure = Pressure(tmp_path)
    task(1, 3.5)
    task(2, 1.25)
    task(3, 0.25)  # a new thread
    assert pressure(0.5) == pytest.approx(2.0)
    (tmp_path / "2" / "schedstat").unlink()  # it has ended
    task(1, 3.6)
    assert pressure(0.5) == pytest.approx(0.2)
    assert Pressure(tmp_path / "none")(0.5) == 0


def run(code: str, **given: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process that inherits no setting of OpenMP but those that are `given`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    environment = inherited | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])} | given
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment, check=False
    )


def count_given(**given: str) -> str:
    """The spin count that a script sets."""
    code = "from skin.utils.hardware import let_threads_spin; let_threads_spin()"
    return run(f"{code}; import os; print(os.environ.get('GOMP_SPINCOUNT'))", **given).stdout.strip()


@linux
def test_a_script_lets_threads_spin_and_what_the_user_says_goes_first() -> None:
    assert count_given() == hardware.LONG_SPIN_COUNT
    assert count_given(GOMP_SPINCOUNT="1000") == "1000"
    assert count_given(OMP_WAIT_POLICY="PASSIVE") == "None"
    assert count_given(OMP_DYNAMIC="TRUE") == hardware.SPIN_COUNT
    assert count_given(OMP_THREAD_LIMIT="2") == hardware.SPIN_COUNT


SLEEPS = """
import time
from pathlib import Path
from skin.utils.core_watch import SleepingTeam, loaded_libgomp
assert loaded_libgomp() is None
import torch

def rests() -> int:
    "How often the threads of torch's team go to sleep, over 200 sums with a pause after each."
    def count() -> int:
        states = [Path(f"/proc/self/task/{thread}/status").read_text() for thread in team]
        return sum(int(state.split("voluntary_ctxt_switches:")[1].split()[0]) for state in states)
    before = count()
    for _ in range(200):
        numbers.sum()
        end = time.perf_counter() + 2e-4
        while time.perf_counter() < end:
            pass
    return count() - before

alone = {path.name for path in Path("/proc/self/task").iterdir()}
numbers = torch.ones(100_000)
numbers.sum()
team = {path.name for path in Path("/proc/self/task").iterdir()} - alone
assert len(team) == 1, team
library = loaded_libgomp()
spinning = min(rests() for _ in range(5))
sleeping_team = SleepingTeam(library)
asleep = max(rests() for _ in range(5))
sleeping_team.end()
print(spinning, asleep, min(rests() for _ in range(5)))
"""


@linux
def test_libgomp_lets_threads_sleep_while_there_is_a_sleeping_team() -> None:
    done = run(SLEEPS, GOMP_SPINCOUNT="300000000", OMP_NUM_THREADS="2")
    assert not done.returncode, done.stderr
    spinning, asleep, spinning_again = map(int, done.stdout.split())
    assert asleep > 100  # also beside other tests, which take the cores from it
    assert max(spinning, spinning_again) < asleep / 2


WATCHES = """
import threading, time
from skin.utils import core_watch
core_watch.PERIOD, core_watch.CROWDED_SECONDS, core_watch.PATIENCE = 0.02, 0.04, 0.5
pressure = [0.0]
core_watch.Pressure.__call__ = lambda self, seconds: pressure[0]
import torch

def wait_until(there: bool) -> None:
    end = time.monotonic() + 20
    while any(thread.name == "sleeping team" for thread in threading.enumerate()) != there:
        assert time.monotonic() < end, there
        time.sleep(0.01)

with core_watch.CoreWatch():
    wait_until(True)
    wait_until(False)
    pressure[0] = 1.0
    wait_until(True)
wait_until(False)
"""
UNWATCHED = """
import threading, torch
from skin.utils.core_watch import CoreWatch
with CoreWatch():
    assert threading.active_count() == 1
"""


@linux
@pytest.mark.parametrize(("count", "code"), [(hardware.LONG_SPIN_COUNT, WATCHES), slow("1000", UNWATCHED)])
def test_the_watch_lets_threads_sleep_while_others_need_the_cores(count: str, code: str) -> None:
    done = run(code, GOMP_SPINCOUNT=count, OMP_NUM_THREADS="2")
    assert not done.returncode, done.stderr


@linux
@pytest.mark.slow
def test_a_run_that_is_watched_trains_to_the_same_numbers(tmp_path: Path) -> None:
    rows = []
    for count in (hardware.LONG_SPIN_COUNT, hardware.SPIN_COUNT):
        command = ["train.py", "--demo", "--epochs", "1", "--image-size", "32", "--out", str(tmp_path / count)]
        done = run(
            f"import runpy, sys; sys.argv = {command}; runpy.run_path('train.py', run_name='__main__')",
            GOMP_SPINCOUNT=count, OMP_NUM_THREADS="2",
        )  # fmt: skip
        assert not done.returncode, done.stderr
        with (tmp_path / count / "metrics.csv").open(newline="") as file:
            rows.append([(row["train_loss"], row["val_loss"], row["grad_norm"]) for row in csv.DictReader(file)])
    assert rows[0] == rows[1]
