"""All that a training step needs, and its description for people. train.py builds it, for benchmark.py as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import NotRequired, TypedDict, cast

from skin.data import demo
from skin.data.dataset import Batch, EpochBatches, SkinDiseaseDataset, least_piece
from skin.data.metadata import ColumnDict
from skin.model import precision
from skin.model.network import Classifier, load_weights
from skin.model.precision import Precision
from skin.training import losses
from skin.training.ema import Average
from skin.training.loading import TrainingData
from skin.training.options import Options
from skin.utils.errors import UserError
from skin.utils.parallel import Topology

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torchvision.models import EfficientNet


class Resolved(TypedDict):
    """`resolved` in config.json."""

    image_size: int
    weights: str
    precision: str
    parallel: str
    gpus: int
    processes: int
    workers: int
    images_per_step: int
    steps_per_epoch: int
    parameters: int
    metadata: NotRequired[list[ColumnDict]]  # the encoder, with --metadata
    drawn: NotRequired[bool]  # the data are a demo set, also if --data names it


@dataclass
class Trainer:
    """Model, optimizer, scaler and data of a run."""

    options: Options
    topology: Topology
    classifier: Classifier  # the network with its preprocessing, on its device
    make_parallel: Callable[[Classifier, Options, Topology], nn.Module]  # makes `model` of `classifier`
    model: nn.Module  # the classifier as the steps call it: compiled, or wrapped for several GPUs or processes
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    averaged: Average | None  # the mean of the classifier over the steps, with --ema
    class_weights: Tensor  # float32 [C], on the device
    data: TrainingData
    origin: str  # where the weights come from

    @property
    def dataset(self) -> SkinDiseaseDataset:
        """The training split."""
        return self.data.dataset

    @property
    def batches(self) -> EpochBatches:
        """The batches of an epoch."""
        return self.data.batches

    @property
    def loader(self) -> DataLoader[Batch]:
        """The loader of those batches."""
        return self.data.loader

    @cached_property
    def logit_offsets(self) -> Tensor:
        """The offsets of the logits in the loss, float32 [C], on the device; see `losses.logit_offsets`."""
        offsets = losses.logit_offsets(self.dataset.labels, len(self.class_weights), self.options.class_weights)
        return offsets.to(self.class_weights.device)

    @property
    def validated(self) -> Classifier:
        """The classifier that is validated and saved: that of the averaged weights, if there is one."""
        return self.classifier if self.averaged is None else self.averaged.classifier

    def validating(self) -> nn.Module:
        """Return that classifier as validation calls it: all GPUs of DataParallel take part."""
        on_gpus = self.topology.kind == "DataParallel"
        return self.make_parallel(self.validated, self.options, self.topology) if on_gpus else self.validated

    def passes(self, batch: Batch) -> Iterator[tuple[Batch, AbstractContextManager[None]]]:
        """Cut a batch into the passes of `--accumulate`, near equal; each with the context that it is to run in.

        DDP sums the gradients of the processes up in the last pass, once for all.
        """
        pieces = self._passes(len(batch.labels))
        tensors = [tensor for tensor in (batch.images, batch.labels, batch.metadata) if tensor is not None]
        cut = zip(*(tensor.tensor_split(pieces) for tensor in tensors), strict=True)
        for number, (images, labels, *known) in enumerate(cut, start=1):
            waits = number < pieces and isinstance(self.model, DistributedDataParallel)
            piece = batch._replace(images=images, labels=labels, metadata=known[0] if known else None)
            yield piece, cast(DistributedDataParallel, self.model).no_sync() if waits else nullcontext()

    def schedule(self) -> tuple[int, int, float, int]:
        """Return what `learning_rate` in train.py asks for: steps in total and of the warm-up, peak, frozen steps."""
        options, each = self.options, len(self.batches)
        steps = options.epochs * each
        frozen = options.freeze_epochs * each if options.freeze_epochs < options.epochs else 0
        return steps, int(min(options.warmup_epochs * each, 0.3 * (steps - frozen))), options.lr, frozen

    def images_per_pass(self) -> int:
        """Return the most images that a device has in a forward pass."""
        most = self.batches.largest
        return -(-most // (self._passes(most) * self._gpus))

    @property
    def _gpus(self) -> int:
        """The GPUs of this process: DataParallel has several."""
        return self.topology.replicas // self.topology.world

    def _passes(self, images: int) -> int:
        """Return the number of passes for this process's share of a batch.

        The last batch of an epoch may have the images of another one, too: with `--accumulate`, which is for want of
        memory, it gets as many more passes. No GPU has a single image in one of them, which BatchNorm could not take.
        """
        usual = self.options.accumulate
        if usual == 1:
            return 1
        each = -(-self.batches.batch_size // (self.topology.world * usual))
        more = range(-(-images // each), usual, -1)
        return next((passes for passes in more if least_piece(images, self._gpus, 1, passes) > 1), usual)

    def freeze(self, frozen: bool) -> None:
        """Freeze or free the body. DDP looks only once at which parameters need gradients, so it is made anew."""
        if frozen != self.classifier.frozen:
            self.classifier.freeze(frozen)
            self.model = self.make_parallel(self.classifier, self.options, self.topology)

    def seed_step(self, step: int) -> None:
        """Make the draws of dropout and mixing a function of (seed, step, rank, GPU): nothing to save or restore.

        Args:
            step: counted from the beginning of the run.
        """
        key = (self.options.seed, step, self.topology.rank)
        torch.manual_seed(_draw(key))
        if self.topology.kind == "DataParallel":  # its replicas are seeded alike now, each on a GPU of its own
            for device in self.topology.cuda_devices:
                torch.cuda.default_generators[device.index].manual_seed(_draw((*key, device.index)))

    def batch_weights(self, epoch: int) -> list[float]:
        """Return the sum of the class weights in each batch of an epoch, over all processes."""
        weights = self.class_weights.cpu()[self.dataset.labels]
        return [float(weights[rows].sum()) for rows in self.batches.plan(epoch)]

    def refuse_unread(self, batch: Batch) -> None:
        """Raise `UserError` in all processes if one of them could not read an image of the batch."""
        if self.topology.any([bool(batch.error)])[0]:
            raise UserError(batch.error or "another process could not read an image; see its message")

    def plan(self) -> dict[str, int]:
        """Return the settings that decide, beside the seed, which images a step of an epoch takes."""
        return {"images a step": self.batches.batch_size, "images to train on": self.batches.size}

    def machine(self) -> dict[str, str | int]:
        """Return the facts on which the last bits of a result depend."""
        return {
            "device": self.topology.describe(),
            "precision": str(self.classifier.precision),
            "compiled": self.options.compile,
            "steps an epoch": len(self.batches),
            "torch": str(torch.__version__),
        }

    def resolved(self) -> Resolved:
        """Return the values that "auto" and the defaults became, for config.json."""
        found: Resolved = {
            "image_size": self.classifier.preprocess.image_size,
            "weights": self.origin,
            "precision": str(self.classifier.precision),
            "parallel": self.topology.kind,
            "gpus": self.topology.gpus,
            "processes": self.topology.world,
            "workers": self.loader.num_workers,
            "images_per_step": self.batches.batch_size,
            "steps_per_epoch": len(self.batches),
            "parameters": sum(p.numel() for p in self.classifier.network.parameters()),
        }
        if self.dataset.metadata is not None:
            found["metadata"] = self.dataset.metadata.encoder.to_list()
        if self.options.data is not None and demo.is_drawn(self.options.data):
            found["drawn"] = True
        return found

    def describe(self) -> str:
        """Return the header's lines about model and machine."""
        found = self.resolved()
        images = min(found["images_per_step"], self.batches.size)
        return (
            f"model   {self.options.model}, {found['parameters'] / 1e6:.1f} M parameters, {found['image_size']} px; "
            f"weights: {found['weights']}\n"
            f"device  {self.topology.describe()}, {found['precision']}, {images} images a step, "
            f"{found['workers']} loader workers"
            + "".join(f"\n        {note}" for note in [*self.data.notes, *self._frozen()])
        )

    def _frozen(self) -> list[str]:
        """Return a note if the body is never trained; the schedule is then that of a whole run."""
        asked, epochs = self.options.freeze_epochs, self.options.epochs
        if asked < epochs:
            return []
        return [f"--freeze-epochs {asked} of {epochs} epochs: the head alone is trained, with the warm-up"]


def _draw(key: tuple[int, ...]) -> int:
    """Return a seed of 64 bits that is a function of `key`."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def starting_weights(network: EfficientNet, options: Options, topology: Topology) -> str:
    """Load the weights that training starts from and say where they come from.

    Rank 0 alone loads them; they become everyone's when the model is made parallel. Raises `UserError`.
    """
    return str(topology.from_main(
        load_weights(network, options.model, options.weights) if topology.is_main else ""
    ))  # fmt: skip


def common_precision(amp: str, topology: Topology) -> Precision:
    """Return the precision that `--amp` asks for. Raises `UserError` if "auto" differs between the machines."""
    chosen = precision.choose(amp, topology.device)
    names = topology.gather(str(chosen))
    if len(set(names)) > 1:
        other = next(name for name in names if name != names[0])
        raise UserError(f"--amp {amp} is {names[0]} on one machine and {other} on another; try --amp off")
    return chosen


def cannot_compile(topology: Topology) -> str:
    """Say why `--compile` is refused on these devices; `""` if it is not."""
    if topology.device.type == "cpu":
        return "--compile is for GPUs: on the CPU a step has layers of its own; leave it out"
    if topology.kind == "DataParallel":
        return "--compile does not reach DataParallel's replicas; start with torchrun, or use --gpus 1"
    return ""


def compiled(classifier: Classifier, topology: Topology) -> nn.Module:
    """Return the classifier compiled. Raises `UserError` for the CPU and for DataParallel."""
    if reason := cannot_compile(topology):
        raise UserError(reason)
    # An epoch has two sizes of batches at most. torch says that the result is a function; it is a module.
    return cast(nn.Module, torch.compile(classifier, dynamic=False))
