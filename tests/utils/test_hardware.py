"""How many cores a process may use, and how its threads wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from skin.utils import hardware
from skin.utils.errors import UserError
from tests.torture import ROOT

import pytest


def test_more_workers_than_can_be_meant_are_refused_with_what_is_plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "usable_cores", lambda: 2)
    for fine in (None, 0, 2, 64):
        hardware.check_workers(fine)
    with pytest.raises(UserError, match="--workers 65: at most 64 here; 2, one per usable core, are plenty"):
        hardware.check_workers(65)
    with pytest.raises(UserError, match="--workers -1: must be 0 or more"):
        hardware.check_workers(-1)
    monkeypatch.setattr(hardware, "usable_cores", lambda: 100)
    hardware.check_workers(800)


def groups(root: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A tree of control groups; `files` maps paths under it to their text."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "membership").write_text(membership)
    return root, root / "membership"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),  # of a group above
        ("0::/of/the/host\n", {"cpu.max": "400000 100000"}, 4.0),  # a container sees its own group at the top
        ("4:memory:/x\n3:cpu,cpuacct:/j\n", {"cpu,cpuacct/j/cpu.cfs_quota_us": "300000\n",
                                             "cpu,cpuacct/j/cpu.cfs_period_us": "100000\n"}, 3.0),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("", {}, None),
    ],
)  # fmt: skip
def test_the_quota_of_a_control_group(
    tmp_path: Path, membership: str, files: dict[str, str], quota: float | None
) -> None:
    assert hardware.cpu_quota(*groups(tmp_path, membership, files)) == quota


def test_no_control_groups_are_no_limit(tmp_path: Path) -> None:
    assert hardware.cpu_quota(tmp_path, tmp_path / "missing") is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (2.5, 2), (0.5, 1), (64.0, 8)])
def test_usable_cores(monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(hardware, "cpu_quota", lambda: quota)
    assert hardware.usable_cores() == cores


def variables_seen(**given: str) -> dict[str, str | None]:
    """What a program that imports the package has in its environment when it comes to torch."""
    names = ["GOMP_SPINCOUNT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"]
    code = f"import skin, os, json; print(json.dumps([os.environ.get(n) for n in {names}]))"
    environment = {k: v for k, v in os.environ.items() if k not in names} | {"PYTHONPATH": str(ROOT)} | given
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return dict(zip(names, json.loads(done.stdout), strict=True))


def test_threads_sleep_soon_when_they_wait_and_what_the_user_says_goes_first() -> None:
    assert variables_seen()["GOMP_SPINCOUNT"] == "1000"
    assert variables_seen(GOMP_SPINCOUNT="5")["GOMP_SPINCOUNT"] == "5"
    assert variables_seen(OMP_WAIT_POLICY="ACTIVE")["GOMP_SPINCOUNT"] is None


def test_a_quota_sets_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "usable_cores", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(hardware, "cpu_quota", lambda: None)
    hardware.set_up_threads()
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setattr(hardware, "cpu_quota", lambda: 3.0)
    hardware.set_up_threads()
    assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    hardware.set_up_threads()
    assert os.environ["OMP_NUM_THREADS"] == "7"


SCRIPTS = ["train", "evaluate", "predict", "benchmark", "skin.model.classifier"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_sets_it_before_torch_comes_in(script: str) -> None:
    code = f"""
import builtins, os, sys
original = builtins.__import__
def watched(name, *more):
    if name.partition(".")[0] == "torch" and "torch" not in sys.modules:
        os._exit(os.environ.get("GOMP_SPINCOUNT") != "1000")
    return original(name, *more)
builtins.__import__ = watched
import {script}
assert False, "torch does not come in"
"""
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"} | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
