"""What a run says of itself. Whole runs are in tests/cli."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from skin.training.options import Options
from skin.training.run import Run
from skin.utils.parallel import Topology

import pytest
import torch


def failing(folder: Path, rank: int, nodes: int) -> Run:
    """A run in which a process of two has met a fault."""
    run = object.__new__(Run)
    run.folder = folder
    topology = Topology(torch.device("cpu"), rank=rank, world=2, nodes=nodes)
    run.trainer = SimpleNamespace(topology=topology, options=Options())  # type: ignore[assignment]
    return run


@pytest.mark.parametrize(
    ("rank", "nodes", "left"),
    [
        (0, 1, "nothing was saved yet"),
        (1, 1, "nothing was saved yet"),
        (0, 2, "nothing was saved yet"),
        (1, 2, "what was saved is on the machine of process 0"),
    ],
)
def test_a_machine_without_the_run_folder_does_not_say_that_nothing_was_saved(
    rank: int, nodes: int, left: str, tmp_path: Path
) -> None:
    assert failing(tmp_path, rank, nodes).how_to_go_on().startswith(f"{left}; go on with: ")
