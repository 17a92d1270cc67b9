"""The exponential moving average of the weights, which `--ema` validates and saves in place of the last ones.

The weights of a single step jump about a good solution; their mean lies nearer to it and needs no falling learning
rate. The running statistics of BatchNorm are averaged with the same decay, so they fit the averaged weights. As those
in training they are each process's own until validation.
"""

from __future__ import annotations

import copy
from typing import TypedDict

from skin.model.network import Classifier
from skin.training import batch_norm
from skin.utils.parallel import Topology

import torch
from torch import Tensor, nn


class AveragedState(TypedDict):
    """`averaged` in last.pt."""

    model: dict[str, Tensor]  # state_dict of the network
    statistics: Tensor  # float32 [processes, S]: BatchNorm's
    steps: int  # that are in the average


class Average:
    """The mean of a classifier over the steps.

    `torch.optim.swa_utils.AveragedModel` counts the steps in a tensor and looks at its value at each of them, for
    which a GPU's whole queue has to be waited for; here a step waits for nothing.
    """

    def __init__(self, classifier: Classifier, decay: float) -> None:
        self.classifier = copy.deepcopy(classifier).requires_grad_(False)
        self.decay = decay
        self.steps = 0  # that are in the mean

    @torch.no_grad()
    def update(self, classifier: Classifier) -> None:
        """Move the mean towards a classifier that has taken a step. BatchNorm's counts of steps are copied."""
        (means, counts), (now, counted) = _tensors(self.classifier), _tensors(classifier)
        if self.steps:
            torch._foreach_lerp_(means, now, 1 - decay_at(self.steps, self.decay))
        else:
            torch._foreach_copy_(means, now)
        torch._foreach_copy_(counts, counted)
        self.steps += 1


def averaged(classifier: Classifier, decay: float) -> Average | None:
    """Return the mean of a classifier, which no step is in yet; None without decay."""
    return Average(classifier, decay) if decay else None


def _tensors(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the weights and running statistics of a network, and its counts of steps."""
    tensors = [*module.parameters(), *module.buffers()]
    return [t for t in tensors if t.is_floating_point()], [t for t in tensors if not t.is_floating_point()]


def decay_at(steps: int, decay: float) -> float:
    """Return the decay after so many steps: (1 + n) / (10 + n) at first, as in Polyak averages of TensorFlow.

    So the mean forgets the random head within the first steps, and fits runs shorter than 1 / (1 - decay) steps.
    """
    return min(decay, (1 + steps) / (10 + steps))


def state(average: Average | None, topology: Topology) -> AveragedState | None:
    """Return what last.pt keeps of an average. All processes must call it together."""
    if average is None:
        return None
    network = average.classifier.network
    return {
        "model": network.state_dict(),
        "statistics": torch.stack(topology.gather(batch_norm.read(network))),
        "steps": average.steps,
    }


def restore(average: Average | None, found: AveragedState | None) -> None:
    """Take over a state that has been checked, whose statistics, [S], are those of this process."""
    if average is None or found is None:
        return
    network = average.classifier.network
    network.load_state_dict(found["model"])
    batch_norm.write(network, found["statistics"])
    average.steps = found["steps"]
