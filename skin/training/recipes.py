"""Recipes of training: that of the project's sources, one as good that is done sooner, and one for the best model.

`fast` has few epochs, within which a higher learning rate falls to zero. Its first epochs look at smaller views,
since coarse things are learnt first (progressive resizing, as in EfficientNetV2, Tan and Le 2021).

`strong` averages the weights over the steps and moves the images further, both against overfitting. Against imbalance
it shifts the logits, where `standard` weighs the images: by weights, an image of the scarcest class decides the step
that it is in. Mixing images and smoothing labels are left out: they may cost ranking and calibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Recipe:
    """A way of training; the options say the rest."""

    defaults: Mapping[str, int | float | str] = field(default_factory=dict)  # of options that are not given
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
    "strong": Recipe(
        defaults={
            "lr": 1e-3, "optimizer": "adamw", "weight_decay": 0.01, "ema": 0.998, "augment": 1.5, "cutout": 0.4,
            "class_weights": "logits", "monitor": "balanced_accuracy",
        },
    ),
}  # fmt: skip


def described(recipe: str) -> str:
    """Return the options that a recipe sets, for people."""
    given = RECIPES[recipe].defaults.items()
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given)
