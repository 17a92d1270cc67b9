"""Where the model runs: one device, `DataParallel` over several GPUs, or DDP under `torchrun`.

`python train.py` with more than one GPU is DataParallel: one process, every batch scattered over the GPUs
and gathered again. `torchrun --nproc-per-node N train.py` is DDP: N processes, each with its share of
every batch (NCCL on GPUs, gloo on the CPU). Both compute the gradient of the same loss over the whole batch.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from skin.driver import cuda_available, unusable_gpus
from skin.errors import UserError

import numpy as np
import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class Topology:
    """Who this process is among those that train together."""

    device: torch.device
    gpus: int = 0  # in all; 0 is the CPU
    rank: int = 0
    world: int = 1  # processes
    control: Any = None  # a gloo group for flags, which must not wait for a GPU
    patient: Any = None  # another, for what rank 0 may take hours to read

    @property
    def distributed(self) -> bool:
        return self.world > 1

    @property
    def is_main(self) -> bool:
        """True in the one process that prints and writes files."""
        return self.rank == 0

    @property
    def replicas(self) -> int:
        """How many pieces a batch is cut into, each with BatchNorm statistics of its own."""
        return max(self.world, self.gpus, 1)

    @property
    def kind(self) -> str:
        """"CPU", "GPU", "DataParallel" or "DDP"."""
        if self.distributed:
            return "DDP"
        return "DataParallel" if self.gpus > 1 else ("GPU" if self.gpus else "CPU")

    def describe(self) -> str:
        """For people: "CPU (2 threads)", "2 x NVIDIA A100 (DataParallel)"."""
        if self.device.type == "cpu":
            processes = f" x {self.world} processes" if self.distributed else ""
            return f"CPU ({torch.get_num_threads()} threads{processes})"
        name = torch.cuda.get_device_name(self.device)
        return f"{self.gpus} x {name} ({self.kind})" if self.gpus > 1 else name

    @property
    def cuda_devices(self) -> list[torch.device]:
        """The GPUs that this process uses."""
        if self.device.type == "cpu":
            return []
        return [self.device] if self.distributed else [torch.device("cuda", i) for i in range(self.gpus)]

    def from_main(self, value: Any) -> Any:
        """Rank 0's `value` (what pickle takes), in every process."""
        if not self.distributed:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.patient)
        return box[0]

    @contextlib.contextmanager
    def first_here(self) -> Iterator[None]:
        """The first process of each machine goes through before its others, to download what they all need."""
        first = int(os.environ.get("LOCAL_RANK", "0")) == 0
        if self.distributed and not first:
            dist.barrier(group=self.patient)
        yield
        if self.distributed and first:
            dist.barrier(group=self.patient)

    def gather(self, value: Any) -> list[Any]:
        """Every process's `value` (what pickle takes), by rank, in every process."""
        if not self.distributed:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model`, which is on `device`, made parallel. Wrap again after a change of what needs gradients."""
        if self.distributed:
            return nn.parallel.DistributedDataParallel(model)
        if self.gpus > 1:
            return nn.DataParallel(model, device_ids=list(range(self.gpus)))
        return model

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The elementwise sum of `array` over all processes, in float64, the same in each."""
        if not self.distributed:
            return array
        total = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)).to(self.device)
        dist.all_reduce(total)
        return total.cpu().numpy()

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process rank 0's buffers: each has run its BatchNorm statistics on its own images."""
        if self.distributed:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def any(self, flags: list[bool]) -> list[bool]:
        """Which of `flags` are up in at least one process: how processes agree to stop at the same step."""
        if not self.distributed:
            return flags
        raised = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX, group=self.control)
        return raised.bool().tolist()

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.distributed:
            dist.barrier(group=self.control)


def usable_gpus() -> int:
    """Return how many GPUs there are to use; 0 where their driver is none for this torch (see skin.driver)."""
    return torch.cuda.device_count() if cuda_available() else 0


@contextlib.contextmanager
def setup(gpus: int | None) -> Iterator[Topology]:
    """The topology of this process, with the process group opened and closed around it.

    Args:
        gpus: how many GPUs to use; None is all that are visible, 0 the CPU. Under `torchrun` anything but 0
            means one GPU for each process.

    Raises:
        UserError: more GPUs are asked for than there are.
    """
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    world = int(os.environ.get("WORLD_SIZE", "1")) if by_torchrun else 1
    present = usable_gpus()
    if world == 1:
        wanted = present if gpus is None else gpus
        if wanted < 0 or wanted > present:
            why = unusable_gpus()
            raise UserError(
                f"--gpus {wanted}: this machine has {present} visible GPUs; 0 is the CPU{f' ({why})' if why else ''}"
            )
        wanted = min(wanted, 1) if by_torchrun else wanted
        yield Topology(torch.device("cuda", 0) if wanted else torch.device("cpu"), wanted)
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    on_gpus = gpus != 0 and present > 0
    if on_gpus and local_rank >= present:
        raise UserError(f"torchrun started process {local_rank + 1} on a machine with {present} visible GPUs; "
                        "use --nproc-per-node of at most that many, or --gpus 0")  # fmt: skip
    if on_gpus:
        torch.cuda.set_device(local_rank)
    # A peer that dies closes its connections, which shows at once. The timeout is for one that falls silent.
    patience = datetime.timedelta(minutes=10)
    dist.init_process_group("nccl" if on_gpus else "gloo", timeout=patience)
    device = torch.device("cuda", local_rank) if on_gpus else torch.device("cpu")
    control = dist.new_group(timeout=patience, backend="gloo")
    patient = dist.new_group(timeout=datetime.timedelta(days=1), backend="gloo")
    yield Topology(device, world if on_gpus else 0, rank, world, control, patient)
    dist.destroy_process_group()  # not after an error: it would wait for peers that may be gone
