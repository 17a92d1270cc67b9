"""Where a run runs. What two processes do together is in tests/cli/test_train.py, GPUs in tests/test_gpu.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from skin.utils import parallel
from skin.utils.errors import UserError
from skin.utils.parallel import Topology
from tests import warm
from tests.conftest import ROOT

import numpy as np
import pytest
import torch

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process that torchrun did not start."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    return monkeypatch


@pytest.mark.parametrize(("present", "asked", "gpus"), [(0, None, 0), (0, 0, 0), (4, 0, 0), (4, None, 4), (4, 2, 2)])
def test_the_gpus_of_one_process(alone: pytest.MonkeyPatch, present: int, asked: int | None, gpus: int) -> None:
    alone.setattr(parallel, "usable_gpus", lambda: present)
    with parallel.setup(asked) as topology:
        assert topology == Topology(CUDA if gpus else CPU, gpus)


@pytest.mark.parametrize(("present", "asked", "gpus"), [(4, None, 1), (4, 4, 1), (4, 0, 0), (0, None, 0)])
def test_the_one_process_of_torchrun_has_one_gpu(
    monkeypatch: pytest.MonkeyPatch, present: int, asked: int | None, gpus: int
) -> None:
    monkeypatch.setattr(parallel, "usable_gpus", lambda: present)
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with parallel.setup(asked) as topology:
        assert topology == Topology(CUDA if gpus else CPU, gpus)


def test_processes_that_cannot_meet_say_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **keywords: object) -> None:
        raise torch.distributed.DistNetworkError("The client socket has failed to connect")

    monkeypatch.setattr(parallel, "rendezvous", refused)
    names = ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    for name, value in zip(names, ("1", "2", "1", "1", "gone.example", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"cannot meet at gone\.example:29500: check"), parallel.setup(0):
        pass


def test_a_gpu_whose_driver_is_none_for_this_torch_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # NVML counts them
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert parallel.usable_gpus() == 0


@pytest.mark.parametrize(("present", "asked"), [(0, 3), (2, 3), (2, -1)])
def test_more_gpus_than_there_are(alone: pytest.MonkeyPatch, present: int, asked: int) -> None:
    alone.setattr(parallel, "usable_gpus", lambda: present)
    message = f"--gpus {asked}: this machine has {present} visible GPUs; use --gpus {present}"
    with pytest.raises(UserError, match=message), parallel.setup(asked):
        pass


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "usable_gpus", lambda: 1)
    monkeypatch.setattr(Topology, "together", lambda self, make: [make()])
    with pytest.raises(UserError, match="process 2 on a machine with 1 visible GPUs"):
        parallel.on_devices(Topology(CPU, rank=1, world=2, local_rank=1), None)


def test_a_machine_with_gpus_and_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL on one and gloo on the other would wait for each other."""
    monkeypatch.setattr(parallel, "usable_gpus", lambda: 1)
    monkeypatch.setattr(Topology, "together", lambda self, make: [make(), False])
    with pytest.raises(UserError, match=r"process 0 has a GPU and process 1 has none: .* or use --gpus 0"):
        parallel.on_devices(Topology(CPU, rank=0, world=2), None)


@pytest.mark.parametrize(
    ("topology", "kind", "replicas", "devices"),
    [
        (Topology(CPU), "CPU", 1, []),
        (Topology(CUDA, 1), "GPU", 1, [CUDA]),
        (Topology(CUDA, 4), "DataParallel", 4, [torch.device("cuda", n) for n in range(4)]),
        (Topology(torch.device("cuda", 1), 2, rank=1, world=2), "DDP", 2, [torch.device("cuda", 1)]),
        (Topology(CPU, 0, rank=0, world=2), "DDP", 2, []),
    ],
)
def test_kinds_of_topology(topology: Topology, kind: str, replicas: int, devices: list[torch.device]) -> None:
    assert topology.kind == kind
    assert topology.replicas == replicas
    assert topology.cuda_devices == devices
    assert topology.is_main == (topology.rank == 0)


def test_one_process_has_nobody_to_ask() -> None:
    topology = Topology(CPU)
    assert topology.any([True, False]) == [True, False]
    assert topology.sum(np.array([1.0, 2.0])).tolist() == [1.0, 2.0]
    assert topology.from_main({"a": 1}) == {"a": 1}
    assert topology.gather({"a": 1}) == [{"a": 1}]
    assert topology.together(lambda: 3) == [3]
    topology.barrier()


def test_two_processes_gather_what_each_has_and_share_an_error(tmp_path: Path) -> None:
    script = tmp_path / "gather.py"
    script.write_text(
        "from pathlib import Path\n"
        "from skin.utils import parallel\n"
        "from skin.utils.errors import UserError\n"
        "with parallel.setup(0) as topology:\n"
        "    found = topology.gather({'rank': topology.rank})\n"
        "    def own():\n"
        "        if topology.rank == 1: raise UserError('no such file')\n"
        "    try: topology.together(own)\n"
        "    except UserError as error: found.append(str(error).split(' on ')[0] + str(error)[-14:])\n"
        "    Path(__file__).with_name(f'{topology.rank}').write_text(str(found))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = warm.run(command, cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    for rank in ("0", "1"):
        assert (tmp_path / rank).read_text() == "[{'rank': 0}, {'rank': 1}, 'process 1: no such file']"


def test_the_cpu_is_described_with_its_threads() -> None:
    assert Topology(CPU).describe() == f"CPU ({torch.get_num_threads()} threads)"
    assert Topology(CPU, world=2).describe() == f"CPU ({torch.get_num_threads()} threads x 2 processes)"
