"""The average of several models, which is asked like one: the module that an `EnsembleCheckpoint` is run by.

In this order: each member's logits become probabilities by its own temperature and biases; these are averaged over
the members, with equal weights; the logarithm of the average is the ensemble's logits. Views of an image (`--tta`)
are averaged last, as those of a single model are: logits and traits, over views. The ensemble's own calibration is
applied to what comes out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from skin.data.class_names import order_of
from skin.model.checkpoint import Checkpoint, EnsembleCheckpoint, SingleCheckpoint
from skin.model.log_distance import log_distance

import torch
from torch import Tensor, nn

_TIMED = 4  # images

ModelT = TypeVar("ModelT", bound=nn.Module)


def as_one(checkpoint: Checkpoint, make: Callable[[SingleCheckpoint], ModelT]) -> ModelT | Ensemble:
    """Return what `make` makes of a single model; for an ensemble, the average of what it makes of each member."""
    if isinstance(checkpoint, EnsembleCheckpoint):
        return Ensemble(checkpoint, [make(member) for member in checkpoint.members])
    assert isinstance(checkpoint, SingleCheckpoint)
    return make(checkpoint)


class Ensemble(nn.Module):
    """Several models with the interface that a `Classifier` has for inference."""

    def __init__(self, checkpoint: EnsembleCheckpoint, models: Sequence[nn.Module]) -> None:
        """Take models with the methods of `Classifier` that are going to be asked, one per member."""
        super().__init__()
        members = zip(checkpoint.members, models, strict=True)
        self.members = nn.ModuleList([_Member(member, model, checkpoint.classes) for member, model in members])
        self.preprocess = checkpoint.preprocess
        self.num_classes = len(checkpoint.classes)

    def forward(self, images: Tensor, metadata: Tensor | None = None) -> Tensor:
        """Return logits, float32 [B, C], the log of the average probabilities, of uint8 [B, H, W, 3].

        Metadata, float32 [B, M], are those of all members, one after another; [B, A, M] give logits [B, A, C].
        """
        return _log_average([member(images, known) for member, known in self._each(metadata)])

    def answers(self, images: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits, float32 [B, C], and one trait, [B, 1]: the mean of the log distances of the members.

        Each distance is 1 at its member's own limit. Members that have none do not count.
        """
        answers = [member.answers(images, known) for member, known in self._each(metadata)]
        logits = _log_average([logs for logs, _ in answers])
        known = [distance for member, (_, distance) in zip(self._all(), answers, strict=True) if member.calibration]
        mean = torch.stack(known).mean(0) if known else logits.new_full((len(logits),), -math.inf)
        return logits, mean[:, None]

    def widths(self) -> list[int]:
        """Return [1], the number of traits."""
        return [1]

    def evidence(
        self, images: Tensor, classes: Tensor, metadata: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return logits and what each cell adds to the logit of a class per image, as `Classifier.evidence` does.

        The gradient of the ensemble's logit with respect to a member's is the member's share of the class's
        probability, divided by its temperature. By that its map is weighed, so a member that does not believe in
        the class says little of where it is.
        """
        found = [member.evidence(images, classes, known) for member, known in self._each(metadata)]
        logs, parts = zip(*found, strict=True)
        of_class = torch.stack([each.gather(1, classes[:, None])[:, 0] for each in logs])
        temperatures = of_class.new_tensor([member.temperature for member in self._all()])
        weights = of_class.softmax(0) / temperatures[:, None]
        return _log_average(logs), torch.einsum("mb,mbhw->bhw", weights, torch.stack(parts))

    @torch.inference_mode()
    def costs(self) -> list[tuple[float, float]]:
        """Return, per member, the MiB of its weights and the milliseconds that it takes for an image.

        The time is that of a batch of `_TIMED` blank images, after one that chooses kernels.
        """
        size = self.preprocess.image_size
        device = self._all()[0].order.device
        images = torch.zeros((_TIMED, size, size, 3), dtype=torch.uint8, device=device)
        found = []
        for member in self._all():
            seconds = 0.0
            for _ in range(2):
                start = time.perf_counter()
                float(member.answers(images)[1].sum())  # waits for a GPU, too
                seconds = time.perf_counter() - start
            tensors = [*member.model.parameters(), *member.model.buffers()]
            mib = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20
            found.append((mib, 1000 * seconds / _TIMED))
        return found

    def _all(self) -> list[_Member]:
        return cast(list[_Member], list(self.members))

    def _each(self, metadata: Tensor | None) -> list[tuple[_Member, Tensor | None]]:
        """Return the members, each with its own columns of the metadata."""
        if metadata is None:
            return [(member, None) for member in self._all()]
        widths = [member.metadata_width for member in self._all()]
        return list(zip(self._all(), metadata.split(widths, -1), strict=True))


class _Member(nn.Module):
    """A model of an ensemble, whose answers are calibrated, with the classes in the order of the ensemble's."""

    order: Tensor  # int64 [C], the place of each class among the model's own
    biases: Tensor  # float32 [C], in the model's own order

    def __init__(self, checkpoint: SingleCheckpoint, model: nn.Module, classes: Sequence[str]) -> None:
        super().__init__()
        self.model: Any = model
        self.metadata_width = 0 if checkpoint.encoder is None else checkpoint.encoder.width
        self.calibration = checkpoint.calibration
        self.temperature = float(self.calibration.get("temperature", 1.0))
        biases = self.calibration.get("biases", [0.0] * len(classes))
        self.register_buffer("biases", torch.tensor(biases, dtype=torch.float32), persistent=False)
        order = torch.tensor(order_of(classes, checkpoint.classes))
        self.register_buffer("order", order, persistent=False)
        self.log_distance = log_distance(self.calibration)

    def forward(self, images: Tensor, metadata: Tensor | None) -> Tensor:
        """Return the logarithms of the probabilities, float32 [B, C] or [B, A, C]."""
        return self._calibrated(self.model(images, metadata))

    def answers(self, images: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits, traits = self.model.answers(images, metadata)
        return self._calibrated(logits), self.log_distance(traits)

    def evidence(self, images: Tensor, classes: Tensor, metadata: Tensor | None) -> tuple[Tensor, Tensor]:
        logits, cells = self.model.evidence(images, self.order[classes], metadata)
        return self._calibrated(logits), cells

    def _calibrated(self, logits: Tensor) -> Tensor:
        return (logits.float() / self.temperature + self.biases).log_softmax(-1)[..., self.order]


def _log_average(logs: Sequence[Tensor]) -> Tensor:
    """Return the logarithm of the mean of probabilities whose logarithms, float32 of one shape, are given."""
    return torch.stack(list(logs)).logsumexp(0) - math.log(len(logs))
