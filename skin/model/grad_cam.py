"""Grad-CAM: the parts of a picture that are evidence for a class.

Grad-CAM (Selvaraju et al. 2017) weighs each feature map of the last block by the mean gradient of the
class's logit with respect to that map, adds the maps up, and keeps the values above zero. EfficientNet's
head is a mean over the map and one linear layer. So that gradient is known without a backward pass: it is the
class's row of weights, divided by the number of map cells (`Classifier.evidence`). The heat map therefore takes
only a forward pass, in the model's own precision and memory format. It needs no hooks and no state that two threads
could share. The tests compare it with gradients from autograd.
"""

from __future__ import annotations

from skin.model.averaging import Ensemble
from skin.model.network import Classifier

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# From nothing over violet and orange to pale yellow: dark to light, so that it also reads in grey.
_RAMP = np.array(
    [[30, 8, 60], [92, 18, 110], [165, 44, 96], [225, 84, 60], [250, 150, 40], [250, 240, 150]], np.float32
)
_STRIDE = 32  # pixels from one cell of the last block to the next
_OPACITY = 0.65  # of the strongest evidence; the picture stays visible beneath


@torch.no_grad()
def grad_cam(
    classifier: Classifier | Ensemble, images: Tensor, classes: Tensor, metadata: Tensor | None = None
) -> Tensor:
    """Return heat maps of the evidence for one class per image, by Grad-CAM on the last feature block.

    Args:
        classifier: in eval mode.
        images: uint8 [B, H, W, 3], RGB, on the classifier's device.
        classes: int64 [B], the class to explain for each image.
        metadata: float32 [B, M], encoded, which decide how much a member of an ensemble has to say.

    Returns:
        float32 [B, H, W], 0 to 1: each map is divided by its own maximum. All 0 if the
        picture holds no evidence for the class.
    """
    heat = classifier.evidence(images, classes, metadata)[1].clamp_min(0)
    peak = heat.amax((1, 2), keepdim=True)
    heat = heat / torch.where(peak > 0, peak, 1)
    return _over_pixels(heat, images.shape[1], images.shape[2])


def _over_pixels(cells: Tensor, height: int, width: int) -> Tensor:
    """Spread a map of cells, [B, h, w], over the pixels they stand for, [B, height, width].

    Cell i looks at the pixels around 32 i, not around 32 i + 15.5: each of the five strided layers pads both
    sides alike and starts at its first pixel. The map is often stretched over the picture, but this would show
    the evidence half a cell too far down and to the right.

    Beyond the last cell up to 31 pixels remain at the bottom and at the right. There the map goes on as it was about
    to, half as steep. Its last row repeated would be stripes; mirrored it would show evidence where there is none.
    """
    cells = _with_one_more(_with_one_more(cells, 1), 2)
    span = [_STRIDE * (n - 1) + 1 for n in cells.shape[1:]]
    spread = F.interpolate(cells[:, None], span, mode="bicubic", align_corners=True).clamp(0, 1)
    return spread[:, 0, :height, :width]


def _with_one_more(cells: Tensor, axis: int) -> Tensor:
    """Return cells with one more at the end of an axis, from the last two."""
    last, before = cells.narrow(axis, -1, 1), cells.narrow(axis, max(0, cells.shape[axis] - 2), 1)
    return torch.cat([cells, (1.5 * last - 0.5 * before).clamp(0, 1)], axis)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return a picture with its heat map laid over it; pixels without evidence stay the same.

    Args:
        image: uint8 [H, W, 3], RGB.
        heat: float32 [H, W], 0 to 1.

    Returns:
        uint8 [H, W, 3], RGB.
    """
    position = np.clip(heat, 0, 1) * (len(_RAMP) - 1)
    below = np.minimum(position.astype(np.intp), len(_RAMP) - 2)
    share = (position - below)[..., None]
    colour = _RAMP[below] * (1 - share) + _RAMP[below + 1] * share
    alpha = _OPACITY * np.clip(heat, 0, 1)[..., None]
    pixels: np.ndarray = np.rint(image * (1 - alpha) + colour * alpha)
    return pixels.astype(np.uint8)
