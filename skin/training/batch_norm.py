"""The running statistics of BatchNorm, which each process gathers on its own images.

They are no parameters, so no gradient makes them alike. Before validation they are averaged over the processes. Each
process estimates the same mean and the same variance *within* a batch, which normalised the images in training.
Together the estimates rest on all images. The spread of the processes' means is not added to the variance: torch's
running variance is unbiased already, and the spread is only the noise of the means.
"""

from __future__ import annotations

from skin.utils.parallel import Topology

import torch
from torch import Tensor, nn


def read(network: nn.Module) -> Tensor:
    """Return all running means and variances of a network as one float32 vector, on the CPU."""
    return torch.cat([torch.zeros(0), *(buffer.detach().cpu().flatten() for buffer in _buffers(network))])


def write(network: nn.Module, statistics: Tensor) -> None:
    """Set the running means and variances of a network from a vector that `read` has returned."""
    buffers = _buffers(network)
    pieces = statistics.split([buffer.numel() for buffer in buffers])
    for buffer, piece in zip(buffers, pieces, strict=True):
        buffer.copy_(piece.view_as(buffer))


def average(network: nn.Module, topology: Topology) -> None:
    """Give every process the mean of all processes' statistics, equal to the last bit."""
    if topology.distributed:
        mean = topology.sum(read(network).double().numpy()) / topology.world
        write(network, torch.from_numpy(mean).float())


def _buffers(network: nn.Module) -> list[Tensor]:
    """Return the buffers of running means and variances.

    The counts of batches are integers. They are left out, since they are equal in all processes anyway.
    """
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]
