"""Find the launcher of this process: torchrun, whose processes know one another, or one whose do not."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from skin.utils.errors import UserError

# Launchers, by the variable that tells each process how many there are. A job script's own shell is one process and
# has SLURM_NTASKS, too; only srun sets SLURM_STEP_NUM_TASKS.
_COUNTS = {"srun": "SLURM_STEP_NUM_TASKS", "mpirun": "OMPI_COMM_WORLD_SIZE", "mpiexec": "PMI_SIZE"}


def by_torchrun(environment: Mapping[str, str] = os.environ) -> bool:
    """Return True if torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in environment


def restarted_by_torchrun() -> bool:
    """Return True if `torchrun --max-restarts` has started this process again."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")


def to_go_on(run: Path, environment: Mapping[str, str] = os.environ) -> str:
    """Return the command that goes on with a run by as many processes as this one is of, so to the same bits."""
    words = f"train.py --resume {shlex.quote(str(run))}"
    processes = int(environment.get("WORLD_SIZE", "1")) if by_torchrun(environment) else 1
    if processes == 1:
        return f"python {words}"
    nodes = environment.get("GROUP_WORLD_SIZE", "1")
    if nodes == "1":
        return f"torchrun --standalone --nproc-per-node {processes} -- {words}"
    return f"torchrun --nnodes {nodes} … -- {words}"  # the rest differs from machine to machine


def refuse_bare_launcher(environment: Mapping[str, str], script: str) -> None:
    """Raise `UserError` in one of several processes that each would do all of the work, into the same files.

    Args:
        environment: of this process.
        script: its name, for the advice.
    """
    if by_torchrun(environment):
        return
    for launcher, name in _COUNTS.items():
        count = environment.get(name, "")
        if count.isdecimal() and int(count) > 1:
            raise UserError(
                f"{launcher} has started {count} processes of {script}, which do not know of one another: have it "
                "start torchrun, once on each machine, as docs/queues.md shows; or start one process: "
                f"{launcher} -n 1 python {script}"
            )
