"""The devices that the model runs on: one, several GPUs under `DataParallel`, or DDP under `torchrun`.

`python train.py` with more than one GPU is DataParallel: one process scatters every batch over the GPUs
and gathers the outputs. `torchrun --nproc-per-node N train.py` is DDP: N processes, each with its share of
every batch (NCCL on GPUs, gloo on the CPU). Both compute the gradient of the same loss over the whole batch.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from skin.utils.driver import cuda_available, unusable_gpus
from skin.utils.errors import UserError
from skin.utils.launchers import by_torchrun
from skin.utils.signals import waiting
from skin.utils.signs_of_life import SignsOfLife

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")

# If a peer dies, its connections close, which shows at once. The timeout is for a peer that falls silent.
PEER = "another process of the run"
PATIENCE = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class Topology:
    """The place of this process among those that train together."""

    device: torch.device
    gpus: int = 0  # in total; 0 is the CPU
    rank: int = 0
    world: int = 1  # processes
    local_rank: int = 0  # of this process in its node, which is one agent of torchrun
    nodes: int = 1
    control: Any = None  # a gloo group for flags, which must not wait for a GPU
    patient: Any = None  # another, for waits of hours: rank 0 may read as long; see skin.utils.signs_of_life
    devices: Any = None  # an NCCL group for tensors on GPUs; None on the CPU, where torch's own group does

    @property
    def distributed(self) -> bool:
        return self.world > 1

    @property
    def is_main(self) -> bool:
        """True in the one process that prints and writes files."""
        return self.rank == 0

    @property
    def replicas(self) -> int:
        """The number of pieces that a batch is cut into, each with BatchNorm statistics of its own."""
        return max(self.world, self.gpus, 1)

    @property
    def kind(self) -> str:
        """"CPU", "GPU", "DataParallel" or "DDP"."""
        if self.distributed:
            return "DDP"
        return "DataParallel" if self.gpus > 1 else ("GPU" if self.gpus else "CPU")

    def describe(self) -> str:
        """Return the devices for people, such as "CPU (2 threads)" or "2 x NVIDIA A100 (DataParallel)"."""
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

    def from_main(self, value: T | None) -> T:
        """Return rank 0's `value` in every process; the others' is dropped. Pickle must be able to take it."""
        box: list[Any] = [value]
        if self.distributed:
            with waiting(PEER):
                dist.broadcast_object_list(box, src=0, group=self.patient)
        of_main: T = box[0]
        return of_main

    def gather(self, value: T) -> list[T]:
        """Return all processes' `value`, by rank, in every process. Pickle must be able to take it."""
        if not self.distributed:
            return [value]
        values: list[Any] = [None] * self.world
        with waiting(PEER):
            dist.all_gather_object(values, value, group=self.control)
        return values

    def together(self, make: Callable[[], T]) -> list[T]:
        """Call `make` in each process, and return all its results, by rank, in every process.

        Raises:
            UserError: `make` raised it in one process; all raise it, so that none is left waiting for another.
        """
        if not self.distributed:
            return [make()]
        value, error = None, ""
        try:
            value = make()
        except UserError as problem:
            error = f"process {self.rank} on {platform.node()}: {problem}"
        found: list[Any] = [None] * self.world
        with waiting(PEER):
            dist.all_gather_object(found, (value, error), group=self.patient)
        for _, error in found:
            if error:
                raise UserError(error)
        return [value for value, _ in found]

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Return the elementwise sum of `array` over all processes, in float64, the same in each."""
        if not self.distributed:
            return array
        total = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)).to(self.device)
        with waiting(PEER):
            dist.all_reduce(total, group=self.devices)
            return total.cpu().numpy()

    def any(self, flags: list[bool]) -> list[bool]:
        """Return for each of `flags` if it is up in at least one process: so all agree to stop at the same step."""
        if not self.distributed:
            return flags
        raised = torch.tensor(flags, dtype=torch.uint8)
        with waiting(PEER):
            dist.all_reduce(raised, op=dist.ReduceOp.MAX, group=self.control)
        return raised.bool().tolist()

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.distributed:
            with waiting(PEER):
                dist.barrier(group=self.control)


def usable_gpus() -> int:
    """Return how many GPUs there are to use; 0 if their driver does not suit this torch (see skin.utils.driver)."""
    return torch.cuda.device_count() if cuda_available() else 0


@contextlib.contextmanager
def setup(gpus: int | None) -> Iterator[Topology]:
    """Yield `processes` on their devices; `gpus` as in `on_devices`. Raises `UserError` as that does."""
    with processes() as found:
        yield on_devices(found, gpus)


@contextlib.contextmanager
def processes() -> Iterator[Topology]:
    """Yield the processes that train together, joined so that they can agree; this one alone without torchrun.

    They have no devices yet, since they must first agree on the settings that name them.
    """
    world = int(os.environ.get("WORLD_SIZE", "1")) if by_torchrun() else 1
    if world == 1:
        yield Topology(torch.device("cpu"))
        return
    rank = int(os.environ["RANK"])
    store = _store_of_this_start(rank, world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=PATIENCE)
    topology = Topology(
        torch.device("cpu"),
        rank=rank,
        world=world,
        local_rank=int(os.environ["LOCAL_RANK"]),
        nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        control=dist.new_group(timeout=PATIENCE, backend="gloo"),
        patient=dist.new_group(timeout=datetime.timedelta(days=1), backend="gloo"),
    )
    signs = SignsOfLife(PATIENCE)
    yield topology
    signs.leave(PEER)
    dist.destroy_process_group()  # not after an error: it would wait for peers that may be gone


def on_devices(processes: Topology, gpus: int | None) -> Topology:
    """Return the same processes, each with its device.

    Args:
        gpus: how many GPUs to use; None is all that are visible, 0 the CPU. Under `torchrun` anything but 0
            means one GPU per process.

    Raises:
        UserError: more GPUs are asked for than there are, or some processes have a GPU and others none.
    """
    present = usable_gpus()
    if not processes.distributed:
        wanted = present if gpus is None else gpus
        if wanted < 0 or wanted > present:
            least = f"--gpus {present}, or 0 for the CPU" if present else "--gpus 0, the CPU"
            why = f" ({reason})" if (reason := unusable_gpus()) else ""
            raise UserError(f"--gpus {wanted}: this machine has {present} visible GPUs; use {least}{why}")
        wanted = min(wanted, 1) if by_torchrun() else wanted
        return replace(processes, device=torch.device("cuda", 0) if wanted else torch.device("cpu"), gpus=wanted)
    local_rank = processes.local_rank

    def on_gpu() -> bool:
        if gpus != 0 and 0 < present <= local_rank:
            raise UserError(f"torchrun started process {local_rank + 1} on a machine with {present} visible GPUs; "
                            "use --nproc-per-node of at most that many, or --gpus 0")  # fmt: skip
        return gpus != 0 and present > 0

    found = processes.together(on_gpu)
    if len(set(found)) > 1:
        raise UserError(f"process {found.index(True)} has a GPU and process {found.index(False)} has none: leave out "
                        "the machine without, or use --gpus 0")  # fmt: skip
    if not found[0]:
        return processes
    torch.cuda.set_device(local_rank)
    devices = dist.new_group(timeout=PATIENCE, backend="nccl")
    return replace(processes, device=torch.device("cuda", local_rank), gpus=processes.world, devices=devices)


def _store_of_this_start(rank: int, world: int) -> dist.Store:
    """Return a store that these processes share, and that no process of an earlier attempt has used.

    `torchrun --max-restarts` starts them anew on a store that still holds the addresses of dead groups.
    TORCHELASTIC_RESTART_COUNT does not tell attempts apart, since each machine's agent counts for itself. So rank 0
    draws a name for this attempt and gives it to every process that asks. A question of a dead process is answered,
    too, but nobody hears the answer.
    """
    try:
        store = next(iter(rendezvous("env://", rank, world, timeout=PATIENCE)))[0]
    except dist.DistError as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"the processes cannot meet at {place}: check that this is the first machine, that the others reach it, "
            "and that no other program uses the port (--rdzv-endpoint, --master-addr, --master-port of torchrun)"
        ) from error
    deadline, name = time.monotonic() + PATIENCE.total_seconds(), uuid.uuid4().hex

    def look(key: str) -> bool:
        # `store.wait` would let no signal through to Python meanwhile.
        if time.monotonic() > deadline:
            raise dist.DistStoreError("timed out before all processes had come")
        return bool(store.check([key]))

    if rank > 0:
        store.set(f"skin/asks/{rank}", name)
        while not look(f"skin/answer/{name}"):
            time.sleep(0.01)
        name = store.get(f"skin/answer/{name}").decode()
        store.set(f"skin/heard/{name}/{rank}", "")
        return dist.PrefixStore(name, store)
    for other in range(1, world):
        while not look(f"skin/heard/{name}/{other}"):
            if look(f"skin/asks/{other}"):
                store.set("skin/answer/" + store.get(f"skin/asks/{other}").decode(), name)
            time.sleep(0.01)
    return dist.PrefixStore(name, store)
