"""Count the cores that this process may use, and set how its threads wait. Needs the standard library alone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from skin.utils.errors import UserError

SPIN_COUNT = "1000"
"""Turns of the loop in which an OpenMP thread waits for the others before it sleeps.

libgomp's default is 300,000 turns. If another program computes on the same cores, a step then takes up to ten times
as long, since spinning threads wait for one that was put aside. With a thousand turns it takes little longer than its
share of the cores, but on free cores up to a quarter longer (tests/bench/shared_machine.py measures both). So the
scripts let threads spin for long, and `skin.utils.core_watch` sees to it that they do so on free cores alone.
"""
LONG_SPIN_COUNT = "300001"
"""Turns under the eyes of a `CoreWatch`: one more than the default, so that it is no user's own number."""

_spin_count_is_ours = False
_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return how many cores this process may use, by its affinity and the CPU quota of its control group.

    A container or a job of a queue sees all cores of its machine, but is held back if it uses more than its quota.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_quota(root: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return the least CPU quota of this process's control groups (v1 and v2), in cores; None if there is none.

    Args:
        root: where control groups are mounted.
        membership: lists the groups of this process, one per line: `number:controllers:path`.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            quotas += [_quota_v2(group) for group in _with_parents(root, path)]
        elif "cpu" in controllers.split(","):
            for mount in ("cpu", controllers):
                quotas += [_quota_v1(group) for group in _with_parents(root / mount, path)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _with_parents(root: Path, path: str) -> list[Path]:
    """Return the folders of a control group and of those above it. In a container the path may be the host's."""
    group = root / path.lstrip("/")
    return [group, *(parent for parent in group.parents if parent.is_relative_to(root))]


def _quota_v2(group: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)  # "max" is no number: there is no limit
    return None


def _quota_v1(group: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return quota / int((group / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    return None


def check_workers(workers: int | None) -> None:
    """Raise `UserError` if `--workers` cannot be meant. None is fine: the number is then chosen for the machine.

    Each worker is a process of some 200 MiB. Thousands fill a machine's memory before the first image is read.
    """
    cores = usable_cores()
    most = max(64, 8 * cores)
    if workers is None or 0 <= workers <= most:
        return
    if workers < 0:
        raise UserError(f"--workers {workers}: must be 0 or more")
    raise UserError(f"--workers {workers}: at most {most} here; {cores}, one per usable core, are plenty")


def set_up_threads() -> None:
    """Set how OpenMP's threads wait and how many there are, for this process and those that it starts.

    Call it before torch is imported, which reads both then. Settings of the user stay.
    """
    global _spin_count_is_ours
    if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
        _spin_count_is_ours = True
    if cpu_quota() is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def let_threads_spin() -> None:
    """Let OpenMP's threads spin for long if they can be watched; a script that does so must run a `CoreWatch`.

    Call it before torch is imported. It needs Linux, which tells how long threads wait for a core. Settings of the
    user stay.
    """
    limited = any(name in os.environ for name in ("OMP_THREAD_LIMIT", "OMP_DYNAMIC"))
    if _spin_count_is_ours and not limited and Path("/proc/self/schedstat").exists():
        os.environ["GOMP_SPINCOUNT"] = LONG_SPIN_COUNT
