"""The flag of `skin.model.unlike` as layers: on the model's device, and in an exported graph."""

from __future__ import annotations

import itertools
import math

from skin.model.calibration import Calibration
from skin.model.unlike import OfMembers, Unlike

import numpy as np
import torch
from torch import Tensor, nn


def log_distance(calibration: Calibration) -> nn.Module:
    """Return the layers from traits, float32 [B, T], to the logarithm of `unlike.distance`, [B]; above 0 is flagged.

    Without a calibration it is minus infinity.
    """
    flag = calibration.get("unlike")
    if flag is None:
        return _OfNothing()
    return _OfNetwork(flag) if "means" in flag else _OfMembers(flag)


class _OfNothing(nn.Module):
    def forward(self, traits: Tensor) -> Tensor:
        return torch.full_like(traits[:, -1], -math.inf)


class _OfMembers(nn.Module):
    def __init__(self, flag: OfMembers) -> None:
        super().__init__()
        self.threshold = math.log(flag["threshold"])

    def forward(self, traits: Tensor) -> Tensor:
        return traits[:, -1] - self.threshold


class _OfNetwork(nn.Module):
    """The distance of each stage's traits, as `unlike.fit` has measured them."""

    means: Tensor
    directions: Tensor
    precision: Tensor
    scales: Tensor

    def __init__(self, flag: Unlike) -> None:
        super().__init__()
        stages = flag.get("stages", [])
        self.sizes = [len(stage["mean"]) for stage in stages]
        for number, stage in enumerate(stages):
            self.register_buffer(f"mean_{number}", stage["mean"], persistent=False)
            self.register_buffer(f"whitening_{number}", stage["whitening"], persistent=False)
        self.register_buffer("means", flag["means"], persistent=False)
        self.register_buffer("directions", flag["directions"], persistent=False)
        self.register_buffer("precision", 1 / torch.tensor(flag["variances"]), persistent=False)
        self.register_buffer("scales", torch.tensor(flag.get("scales", [[0.0, 1.0]])), persistent=False)
        self.rest, self.threshold = flag["rest"], math.log(flag["threshold"])

    def forward(self, traits: Tensor) -> Tensor:
        pooled = traits[:, traits.shape[1] - self.means.shape[1] :]
        first = traits.shape[1] - pooled.shape[1] - sum(self.sizes)
        ends = np.cumsum([first, *self.sizes]).tolist()
        distances = []
        for number, (a, b) in enumerate(itertools.pairwise(ends)):
            apart = traits[:, a:b] - self.get_buffer(f"mean_{number}")
            distances.append((apart @ self.get_buffer(f"whitening_{number}")).square().mean(1))
        units = pooled / pooled.norm(dim=1, keepdim=True).clamp_min(1e-12)
        from_means = units[:, None] - self.means
        along = (from_means @ self.directions.T).square()
        rest = (from_means.square().sum(2) - along.sum(2)).clamp_min(0) / self.rest
        distances.append((along @ self.precision + rest).amin(1) / units.shape[1])
        logs = torch.stack(distances, 1).clamp_min(1e-12).log()
        return ((logs - self.scales[:, 0]) / self.scales[:, 1]).amax(1) - self.threshold
