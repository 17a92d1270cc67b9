"""Recipes of training: that of the project's sources, and one that gets to the same quality sooner.

`fast` has few epochs, within which a higher learning rate falls to zero. Its first epochs look at smaller views,
since coarse things are learnt first (progressive resizing, as in EfficientNetV2, Tan and Le 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Recipe:
    """A way of training; the options say the rest."""

    defaults: Mapping[str, int | float] = field(default_factory=dict)  # of options that the command line does not set
    small_side: float = 1.0  # side of the first epochs' views, as a share of the full side
    small_epochs: float = 0.0  # number of those first epochs, as a share of all

    def image_size(self, epoch: int, epochs: int, full: int) -> int:
        """Return the side in pixels of the views of an epoch, counted from 0.

        A side below `full` is a multiple of 32, at least 32.
        """
        if epoch >= round(self.small_epochs * epochs):
            return full
        return min(full, max(32, 32 * round(self.small_side * full / 32)))


RECIPES = {
    "standard": Recipe(),
    "fast": Recipe(
        defaults={"epochs": 3, "lr": 5e-4, "warmup_epochs": 0.25},
        small_side=0.75, small_epochs=1 / 3,
    ),
}  # fmt: skip
