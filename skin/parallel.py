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

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from skin.errors import UserError


@dataclass(frozen=True)
class Topology:
    """Who this process is among those that train together."""

    device: torch.device
    gpus: int = 0  # in all; 0 is the CPU
    rank: int = 0
    world: int = 1  # processes
    control: Any = None  # a gloo group for flags, which must not wait for a GPU

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
        """Rank 0's `value` (plain Python data), in every process."""
        if not self.distributed:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

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


@contextlib.contextmanager
def setup(gpus: int | None) -> Iterator[Topology]:
    """The topology of this process, with the process group opened and closed around it.

    Args:
        gpus: how many GPUs to use; None is all that are visible, 0 the CPU. Under `torchrun` anything but 0
            means one GPU for each process.

    Raises:
        UserError: more GPUs are asked for than there are.
    """
    world = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    present = torch.cuda.device_count()
    if world == 1:
        wanted = present if gpus is None else gpus
        if wanted < 0 or wanted > present:
            raise UserError(f"--gpus {wanted}: this machine has {present} visible GPUs; 0 is the CPU")
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
    yield Topology(device, world if on_gpus else 0, rank, world, dist.new_group(timeout=patience, backend="gloo"))
    dist.destroy_process_group()  # not after an error: it would wait for peers that may be gone
