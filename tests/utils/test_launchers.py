"""Which processes are refused because a launcher has started several of them without torchrun, and their commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

from skin.utils.errors import UserError
from skin.utils.launchers import refuse_bare_launcher, to_go_on
from tests.conftest import ROOT

import pytest

STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1"}


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({**STEP, "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}, "srun"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "mpirun"),
        ({"PMI_SIZE": "8", "PMI_RANK": "3"}, "mpiexec"),
    ],
)
def test_several_processes_of_a_launcher_are_told_what_to_type(environment: dict[str, str], launcher: str) -> None:
    with pytest.raises(UserError, match=rf"^{launcher} has started \d processes of train\.py.* -n 1 python"):
        refuse_bare_launcher(environment, "train.py")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # the shell of a job script
        {**STEP, "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"},  # srun -n 1 in it, as the advice has it
        {**STEP, "SLURM_STEP_NUM_TASKS": "2", "TORCHELASTIC_RUN_ID": "7"},  # srun torchrun
        {"OMPI_COMM_WORLD_SIZE": "1", "PMI_SIZE": "1"},
    ],
)
def test_one_process_and_torchruns_are_let_through(environment: dict[str, str]) -> None:
    refuse_bare_launcher(environment, "train.py")


def test_a_script_notices_before_it_does_anything(run_script: Callable[..., CompletedProcess[str]]) -> None:
    done = run_script("predict.py", "--help", env={"SLURM_STEP_NUM_TASKS": "2"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: srun has started 2 processes of predict.py")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "predict.py", "benchmark.py", "app.py"])
def test_every_script_begins_there(script: str) -> None:
    assert "    cli.run(main" in (ROOT / script).read_text()


@pytest.mark.parametrize(
    ("environment", "command"),
    [
        ({}, "python"),
        ({"WORLD_SIZE": "4"}, "python"),  # of another launcher
        ({"TORCHELASTIC_RUN_ID": "7", "WORLD_SIZE": "1", "GROUP_WORLD_SIZE": "1"}, "python"),
        (
            {"TORCHELASTIC_RUN_ID": "7", "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "1"},
            "torchrun --standalone --nproc-per-node 4 --",
        ),
        ({"TORCHELASTIC_RUN_ID": "7", "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}, "torchrun --nnodes 2 … --"),
    ],
)
def test_a_run_goes_on_with_as_many_processes_as_it_has(environment: dict[str, str], command: str) -> None:
    assert to_go_on(Path("runs/a run"), environment) == f"{command} train.py --resume 'runs/a run'"
