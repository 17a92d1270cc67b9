"""The eight ways to lay a square picture on itself, for averaging a prediction over them.

A dermatoscope has no up or down, so a quarter turn or a mirror image of a lesion is as good as the picture
itself. Averaging over such views is test-time augmentation (`--tta`). Logits and traits are averaged, those of an
ensemble after its members (see `averaging`).
"""

from __future__ import annotations

from collections.abc import Callable

from skin.model.choices import VIEWS

from torch import Tensor


def dihedral(images: Tensor, k: int) -> Tensor:
    """Return view `k` of a batch of square pictures: `k % 4` quarter turns anticlockwise, mirrored first from 4 on.

    Args:
        images: [B, H, W, C], any dtype, H equal to W so that the views can be stacked.
        k: 0 to 7; 0 leaves the pictures as they are.

    Returns:
        The same shape and dtype, contiguous.

    Raises:
        ValueError: `k` is not a view, or the pictures are not square.
    """
    if not 0 <= k < VIEWS:
        raise ValueError(f"view {k} does not exist: there are {VIEWS}, counted from 0")
    if images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise ValueError(f"expected square pictures [B, H, H, C], got {list(images.shape)}")
    if k >= 4:
        images = images.flip(2)
    return images.rot90(k % 4, (1, 2)).contiguous()


def averaged(
    ask: Callable[[Tensor, Tensor | None], tuple[Tensor, ...]], images: Tensor, views: int,
    metadata: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
    """Return the first tensor of the first view, and each tensor that `ask` gives averaged over the first `views`.

    `ask` is called with a view and the metadata.
    """
    first = sums = ask(images, metadata)
    for k in range(1, views):
        sums = tuple(total + more for total, more in zip(sums, ask(dihedral(images, k), metadata), strict=True))
    return first[0], tuple(total / views for total in sums) if views > 1 else sums
