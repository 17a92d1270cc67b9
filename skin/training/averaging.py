"""The exponential moving average of the weights, which `--ema` validates and saves in place of the last ones.

The weights of a single step jump about a good solution; their mean lies nearer to it and needs no falling learning
rate. The running statistics of BatchNorm are averaged with the same decay, so they fit the averaged weights. As those
in training they are each process's own until validation.
"""

from __future__ import annotations

from typing import TypedDict, cast

from skin.model.network import Classifier
from skin.training import batch_norm
from skin.utils.parallel import Topology

import torch
from torch import Tensor
from torch.optim.swa_utils import PARAM_LIST, AveragedModel


class AveragedState(TypedDict):
    """`averaged` in last.pt."""

    model: dict[str, Tensor]  # state_dict of the network
    statistics: Tensor  # float32 [processes, S]: BatchNorm's
    steps: int  # that are in the average


def averaged(classifier: Classifier, decay: float) -> AveragedModel | None:
    """Return a copy of a classifier that `update_parameters` moves to the mean over the steps; None without decay."""
    if decay == 0:
        return None

    @torch.no_grad()
    def update(means: PARAM_LIST, now: PARAM_LIST, steps: Tensor | int) -> None:
        """Move the means towards the tensors of now, all of one dtype. BatchNorm's counts of steps are copied."""
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, now, 1 - decay_at(int(steps), decay))
        else:
            torch._foreach_copy_(means, now)

    model = AveragedModel(classifier, multi_avg_fn=update, use_buffers=True)
    model.requires_grad_(False)
    return model


def decay_at(steps: int, decay: float) -> float:
    """Return the decay after so many steps: (1 + n) / (10 + n) at first, as in Polyak averages of TensorFlow.

    So the mean forgets the random head within the first steps, and fits runs shorter than 1 / (1 - decay) steps.
    """
    return min(decay, (1 + steps) / (10 + steps))


def state(model: AveragedModel | None, topology: Topology) -> AveragedState | None:
    """Return what last.pt keeps of an average. All processes must call it together."""
    if model is None:
        return None
    network = cast(Classifier, model.module).network
    return {
        "model": network.state_dict(),
        "statistics": torch.stack(topology.gather(batch_norm.read(network))),
        "steps": int(model.n_averaged),
    }


def restore(model: AveragedModel | None, found: AveragedState | None) -> None:
    """Take over a state that has been checked, whose statistics, [S], are those of this process."""
    if model is None or found is None:
        return
    network = cast(Classifier, model.module).network
    network.load_state_dict(found["model"])
    batch_norm.write(network, found["statistics"])
    model.n_averaged.fill_(found["steps"])
