"""Training on GPUs: float16 with a scaler, DataParallel, NCCL. Runs by itself wherever there is a GPU."""

from __future__ import annotations

import copy
import csv
import json
import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import train
from skin.data.dataset import Batch, ahead, on_device
from skin.model.checkpoint import load_best
from skin.model.network import Classifier, build, preprocess_for
from skin.model.precision import Precision, choose
from skin.training.options import Options
from skin.training.records import StepRecord
from skin.training.splits import read_splits
from skin.training.trainer import Trainer
from skin.utils import memory
from skin.utils.errors import UserError
from skin.utils.parallel import Topology

import pynvml
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

pytestmark = pytest.mark.gpu
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")

BY_RANK = Path(__file__).resolve().parent / "by_rank.py"
SMALL = ("--model", "efficientnet_b0", "--weights", "none", "--image-size", "64", "--epochs", "2", "--lr", "2e-4",
         "--workers", "1", "--cache", "off")  # fmt: skip


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def resolved(run: Path) -> dict[str, object]:
    return json.loads((run / "config.json").read_text())["resolved"]


def trainer_of(demo_folder: Path, topology: Topology, **changes: object) -> Trainer:
    options = {"weights": "none", "image_size": 64, "workers": 0, "cache": "off", **changes}
    settings = Options(data=demo_folder, model="efficientnet_b0", **options)  # type: ignore[arg-type]
    trainer = train.build_trainer(settings, topology, read_splits(settings))
    trainer.classifier.train()
    return trainer


def one_step(trainer: Trainer) -> StepRecord:
    batch = on_device(next(iter(trainer.loader)), trainer.topology.device)
    trainer.seed_step(0)
    return train.train_step(trainer, batch, float(trainer.class_weights[batch.labels].sum()))


def drop_nothing(trainer: Trainer) -> None:
    for module in trainer.classifier.modules():
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0


@torch.no_grad()
def changes(one: nn.Module, other: nn.Module) -> list[tuple[str, Tensor]]:
    """By how much each number of a network differs from that of another, by parameter."""
    pairs = zip(one.named_parameters(), other.parameters(), strict=True)
    return [(name, (ours - theirs).abs()) for (name, ours), theirs in pairs]


def steps_taken(trainer: Trainer) -> int:
    """Steps that Adam has taken."""
    return int(trainer.optimizer.state[trainer.classifier.network.classifier[1].bias]["step"])


@pytest.fixture
def one_gpu() -> Topology:
    return Topology(torch.device("cuda", 0), 1)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No TF32, and cuDNN's deterministic kernels."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


# ---- one GPU -------------------------------------------------------------------------------------------


def test_a_run_takes_float16_by_itself_and_its_checkpoint_loads_without_a_gpu(
    demo_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train.main(["--data", str(demo_folder), "--out", str(run), "--gpus", "1", *SMALL]) == 0
    found = resolved(run)
    assert found["precision"] == "float16 (autocast + GradScaler)"
    assert (found["parallel"], found["images_per_step"]) == ("GPU", 32)
    assert all(float(row["peak_memory_mib"]) > 50 for row in rows(run))
    best = load_best(run / "best.pt")
    assert {tensor.device.type for tensor in best.network.state_dict().values()} == {"cpu"}
    log = (run / "train.log").read_text()
    assert "allocated" in log
    assert "reserved" in log


@pytest.mark.usefixtures("exact")
def test_a_step_with_amp_off_is_the_one_written_by_hand(demo_folder: Path, one_gpu: Topology) -> None:
    trainer = trainer_of(demo_folder, one_gpu, amp="off")
    network = copy.deepcopy(trainer.classifier.network)
    batch = next(iter(trainer.loader))
    images, labels = batch.images.cuda(), batch.labels.cuda()

    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    trainer.seed_step(0)
    loss = nn.CrossEntropyLoss(trainer.class_weights)(network(trainer.classifier.normalise(images)), labels)
    loss.backward()
    optimizer.step()

    record = one_step(trainer)
    assert float(record.loss) == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, change in changes(trainer.classifier.network, network):
        # Adam's first step is the rate times a sign, and a gradient near zero may round to either.
        assert float(change.max()) <= 2.1e-4, name
        assert float(change.mean()) <= 1e-5, name
    assert steps_taken(trainer) == 1


def test_an_infinite_gradient_skips_the_step_and_halves_the_scale(demo_folder: Path, one_gpu: Topology) -> None:
    trainer = trainer_of(demo_folder, one_gpu, amp="fp16")
    trainer.scaler = torch.amp.GradScaler("cuda", init_scale=64.0)
    one_step(trainer)
    assert steps_taken(trainer) == 1
    before = {name: p.detach().clone() for name, p in trainer.classifier.named_parameters()}
    trainer.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**60)
    one_step(trainer)
    assert trainer.scaler.get_scale() == 2.0**59
    assert steps_taken(trainer) == 1
    assert all(torch.equal(before[name], p) for name, p in trainer.classifier.named_parameters())


@pytest.mark.filterwarnings("ignore:TensorFloat32", "ignore:.torch.jit.script")  # the compiler's own
@pytest.mark.usefixtures("exact")
def test_a_compiled_step_is_the_step(demo_folder: Path, one_gpu: Topology) -> None:
    plain, compiled = (trainer_of(demo_folder, one_gpu, amp="off", compile=choice) for choice in (False, True))
    for trainer in (plain, compiled):
        drop_nothing(trainer)  # compiled layers draw otherwise
    records = [torch.stack(one_step(trainer)) for trainer in (plain, compiled)]
    assert records[1].tolist() == pytest.approx(records[0].tolist(), rel=1e-4)
    for name, change in changes(plain.classifier.network, compiled.classifier.network):
        assert float(change.mean()) <= 1e-5, name


def test_auto_is_float16_on_a_gpu() -> None:
    assert choose("auto", torch.device("cuda", 0)) == Precision("cuda", torch.float16)


def nvml_answers() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # as in some containers
        return False
    pynvml.nvmlShutdown()
    return True


def test_memory_of_the_gpu_is_counted_in_three_ways() -> None:
    device = torch.device("cuda", 0)
    memory.reset_peaks([device])
    before = memory.read([device]).gpus[0].allocated_mib
    block = torch.ones(256 * memory.MIB, dtype=torch.uint8, device=device)
    del block
    peak = memory.read([device]).gpus[0]
    assert peak.allocated_mib == pytest.approx(before + 256, abs=2)
    assert peak.reserved_mib >= peak.allocated_mib
    if nvml_answers():
        assert peak.nvml_used_mib is not None
        assert peak.nvml_used_mib >= 256  # the allocator has kept the block
    memory.reset_peaks([device])
    assert memory.read([device]).gpus[0].allocated_mib < before + 200


def test_every_epoch_copies_its_batches_into_the_same_memory() -> None:
    device = torch.device("cuda", 0)
    images = torch.zeros(32, 150, 150, 3, dtype=torch.uint8).pin_memory()
    batch = Batch(images, torch.zeros(32, dtype=torch.int64), torch.arange(32))
    reserved = []
    for _epoch in range(4):
        deque(ahead([batch, batch, batch], device), maxlen=0)
        torch.cuda.synchronize(device)
        reserved.append(torch.cuda.memory_reserved(device))
    assert len(set(reserved[1:])) == 1


def test_more_gpus_than_there_are_is_one_line(demo_folder: Path) -> None:
    present = torch.cuda.device_count()
    with pytest.raises(UserError, match=f"this machine has {present} visible GPUs"):
        train.main(["--data", str(demo_folder), "--gpus", str(present + 1), *SMALL])


# ---- two GPUs: DataParallel ----------------------------------------------------------------------------


class Spy(nn.Conv2d):
    """A convolution that notes where it ran and what it gave."""

    seen: dict[str, torch.dtype] = {}  # noqa: RUF012  replicas share it

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        self.seen[str(out.device)] = out.dtype
        return out


@two_gpus
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None])
def test_every_replica_computes_in_the_chosen_dtype(dtype: torch.dtype | None) -> None:
    """DataParallel's threads inherit that autocast is on, but not its dtype."""
    preprocess = preprocess_for("efficientnet_b0", 64)
    classifier = Classifier(build("efficientnet_b0", 7), preprocess, Precision("cuda", dtype))
    Spy.seen.clear()
    for module in classifier.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Spy
    options = Options(model="efficientnet_b0")
    model = train.make_parallel(classifier.cuda(), options, Topology(torch.device("cuda", 0), 2))
    logits = model(torch.zeros(8, 64, 64, 3, dtype=torch.uint8, device="cuda"))
    assert logits.dtype == torch.float32
    assert Spy.seen == {f"cuda:{n}": dtype or torch.float32 for n in range(2)}


@two_gpus
@pytest.mark.usefixtures("exact")
def test_two_gpus_take_the_step_of_one(demo_folder: Path, one_gpu: Topology) -> None:
    """With a frozen body, whose BatchNorm looks at no batch, halves of a batch add up to the whole."""
    records = []
    for topology in (one_gpu, Topology(torch.device("cuda", 0), 2)):
        trainer = trainer_of(demo_folder, topology, amp="off", batch_size=32 // topology.replicas)
        drop_nothing(trainer)
        trainer.freeze(True)
        records.append(torch.stack(one_step(trainer)).tolist())
    assert records[0] == pytest.approx(records[1], rel=1e-4)


@two_gpus
def test_data_parallel_takes_32_images_on_each_gpu(demo_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train.main(["--data", str(demo_folder), "--out", str(run), "--gpus", "2", *SMALL]) == 0
    found = resolved(run)
    assert (found["parallel"], found["gpus"], found["images_per_step"]) == ("DataParallel", 2, 64)
    names = torch.load(run / "best.pt", weights_only=True)["model"].keys()
    assert names == build("efficientnet_b0", 7).state_dict().keys()  # no "module." before them
    assert "GPU 1:" in (run / "train.log").read_text()


# ---- two GPUs: DDP over NCCL ---------------------------------------------------------------------------


@two_gpus
def test_two_processes_over_nccl_hold_equal_weights_after_every_epoch(demo_folder: Path, tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(BY_RANK))
    ended = subprocess.run(
        [sys.executable, *torchrun, "--data", str(demo_folder), "--out", "run", *SMALL, "--freeze-epochs", "1"],
        capture_output=True, text=True, cwd=tmp_path, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    for epoch in (1, 2):
        one, other = (torch.load(tmp_path / f"rank{rank}-epoch{epoch}.pt", weights_only=True) for rank in (0, 1))
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
    found = resolved(tmp_path / "run")
    assert (found["parallel"], found["processes"], found["images_per_step"]) == ("DDP", 2, 64)
