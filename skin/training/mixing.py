"""Mixup and cutmix: each image of a batch gets a share of another one, and of its label.

Mixup (Zhang et al. 2018) blends two pictures, cutmix (Yun et al. 2019) pastes a piece of one into the other. The
larger share is always the image's own. Otherwise each pair would be seen from both sides, and nobody could say what
a right answer in training is.
"""

from __future__ import annotations

import math

from skin.data.dataset import Batch
from skin.training.options import Options

import torch
from torch import Tensor
from torch.nn import functional as F


def mixed(batch: Batch, classes: int, options: Options) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mix each image of a batch with the one before it, as `--mixup` or `--cutmix` asks; with both, by a coin.

    The pairs are a permutation of the batch. So the sum of the class weights in it stays what it was. The draws are
    torch's, on the CPU, which the trainer seeds for each step.

    Args:
        batch: images uint8 [B, H, W, 3], labels int64 [B], metadata float32 [B, M] or None.
        classes: their number, C.

    Returns:
        The images (uint8, or float32 if blended), the shares of the classes in each, float32 [B, C], and the
        metadata, mixed with these shares. All as they came if nothing is to be mixed.
    """
    images, labels, metadata = batch.images, batch.labels, batch.metadata
    if not (options.mixup or options.cutmix) or len(labels) < 2:
        return images, labels, metadata
    blend = bool(options.mixup) and (not options.cutmix or bool(torch.rand(()) < 0.5))
    alpha = torch.tensor(options.mixup if blend else options.cutmix)
    drawn = float(torch.distributions.Beta(alpha, alpha).sample())
    own = max(drawn, 1 - drawn)
    others = images.roll(1, 0)
    if blend:
        images = torch.lerp(others.float(), images.float(), own)
    else:
        images, own = _pasted(images, others, own)
    shares = F.one_hot(labels, classes).float()
    if metadata is not None:
        metadata = torch.lerp(metadata.roll(1, 0), metadata, own)
    return images, torch.lerp(shares.roll(1, 0), shares, own), metadata


def _pasted(images: Tensor, others: Tensor, own: float) -> tuple[Tensor, float]:
    """Paste a box of the others into the images, [B, H, W, 3]; return them and the share that is left of their own.

    The box has the pictures' proportions, an area of 1 - `own` or a little less, and lies wholly within them.
    """
    height, width = images.shape[1:3]
    tall, wide = (int(side * math.sqrt(1 - own)) for side in (height, width))
    top, left = (int(torch.randint(side + 1, ())) for side in (height - tall, width - wide))
    images = images.clone()
    images[:, top : top + tall, left : left + wide] = others[:, top : top + tall, left : left + wide]
    return images, 1 - tall * wide / (height * width)
