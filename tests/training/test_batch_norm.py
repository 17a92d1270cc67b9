"""BatchNorm's running statistics, averaged over processes."""

from __future__ import annotations

from skin.training import batch_norm
from skin.utils.parallel import Topology

import numpy as np
import pytest
import torch
from torch import nn


def network(mean: float, variance: float) -> nn.Sequential:
    layers = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    layers[1].running_mean.fill_(mean)
    layers[1].running_var.fill_(variance)
    layers[1].num_batches_tracked.fill_(5)
    return layers


def test_the_mean_of_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Topology, "sum", lambda self, array: array + np.array([3.0, 3.0, 8.0, 8.0]))  # the other's
    own = network(1.0, 4.0)
    before = own[0].weight.clone()
    batch_norm.average(own, Topology(torch.device("cpu"), world=2))
    assert own[1].running_mean.tolist() == [2.0, 2.0]
    assert own[1].running_var.tolist() == [6.0, 6.0]  # (4 + 8) / 2, without the spread of the means, which is 1
    assert own[1].num_batches_tracked.item() == 5
    assert torch.equal(own[0].weight, before)


def test_what_is_read_can_be_written_back() -> None:
    one, other = network(1.0, 4.0), network(0.0, 1.0)
    batch_norm.write(other, batch_norm.read(one))
    assert batch_norm.read(other).tolist() == [1.0, 1.0, 4.0, 4.0]
