"""Train as a notebook would: the baseline that benchmark.py compares ours with.

It has Pillow and torchvision transforms, one image at a time, float32 batches and the default memory layout. The loss
is read after every step. With AMP, autocast is around the forward pass. It is written as it is found everywhere and
must not be improved, except for the memory layout of `plain-channels-last`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from skin.bench.measurement import Step
from skin.model import precision
from skin.model.network import build, load_weights, preprocess_for
from skin.training import losses
from skin.training.options import Options
from skin.training.splits import Splits
from skin.utils.parallel import Topology

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

WORKERS = 2


class PlainImages(Dataset[tuple[Tensor, int]]):
    """Normalised images, float32 [3, size, size], and their labels, decoded and transformed each time."""

    def __init__(self, paths: list[str], labels: np.ndarray, size: int, augmented: bool = True) -> None:
        self.paths, self.labels = paths, labels
        moves = [
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.RandomRotation(30),
        ]
        self.transform = transforms.Compose([
            transforms.Resize((size, size)),
            *(moves if augmented else []),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.open(self.paths[index]).convert("RGB")), int(self.labels[index])


class PlainLoop:
    """The plain training loop, a `TrainingLoop`, over the training split of `splits`: the same images as ours.

    Args:
        settings: model, weights, image_size, batch_size (per GPU), lr, amp, workers and seed are used.
        channels_last: the one improvement that notebooks know.
    """

    cached = False

    def __init__(self, settings: Options, topology: Topology, splits: Splits, channels_last: bool = False) -> None:
        torch.manual_seed(settings.seed)
        self.topology = topology
        self.precision = precision.choose(settings.amp, topology.device)
        self.layout = torch.channels_last if channels_last else torch.preserve_format
        model = build(settings.model, len(splits.classes))
        load_weights(model, settings.model, settings.weights)
        self.model: nn.Module = model.to(topology.device, memory_format=self.layout).train()
        if topology.distributed:
            group = topology.devices
            self.model = DistributedDataParallel(self.model, process_group=group, forward_sync_buffers=False)
        elif topology.gpus > 1:
            self.model = nn.DataParallel(self.model, device_ids=list(range(topology.gpus)))
        labels = splits.labels("train")
        size = preprocess_for(settings.model, settings.image_size).image_size
        self.loader = DataLoader(
            PlainImages(splits.of("train")["path"].tolist(), labels, size),
            settings.batch_size * topology.replicas,
            shuffle=True,
            drop_last=True,
            num_workers=WORKERS if settings.workers is None else settings.workers,
            persistent_workers=settings.workers != 0,
            pin_memory=topology.device.type == "cuda",
        )
        weights = losses.class_weights(labels, len(splits.classes))
        self.criterion = nn.CrossEntropyLoss(weight=weights.to(topology.device))
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.lr)
        self.scaler = self.precision.make_scaler()
        self.ready: tuple[Tensor, Tensor] | None = None
        self.workers = self.loader.num_workers
        self.steps_per_epoch = len(self.loader)
        self.train_images = len(self.loader) * (self.loader.batch_size or 0)

    def prepare(self, steps: int) -> None:
        """Do nothing: it decodes each image anew."""

    def train_step(self, images: Tensor, labels: Tensor) -> Step:
        """Take one optimizer step on a batch of any device."""
        images, labels = images.to(self.topology.device), labels.to(self.topology.device)
        images = images.contiguous(memory_format=self.layout)
        self.optimizer.zero_grad()
        with self.precision.autocast():
            loss = self.criterion(self.model(images), labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return Step(len(images), 0.0, loss.item())

    def ready_step(self) -> Step:
        """Take a step on a batch that is on the device already, always the same."""
        if self.ready is None:
            dataset: Dataset[tuple[Tensor, int]] = self.loader.dataset
            batch = [dataset[i] for i in range(self.loader.batch_size or 0)]
            images = torch.stack([image for image, _ in batch]).to(self.topology.device)
            self.ready = images, torch.tensor([label for _, label in batch]).to(self.topology.device)
        return self.train_step(*self.ready)

    def last_step(self) -> None:
        """Do nothing: what is left of an epoch is dropped."""

    def epoch_steps(self, epoch: int) -> Iterator[Step]:
        """Take the steps of an epoch. A notebook draws its order anew each time, so `epoch` does not matter."""
        mark = time.perf_counter()
        for images, labels in self.loader:
            wait_seconds = time.perf_counter() - mark
            yield self.train_step(images, labels)._replace(wait_seconds=wait_seconds)
            mark = time.perf_counter()
