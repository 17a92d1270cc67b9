"""Transfer learning with EfficientNet on skin disease images; each module is one chapter of it.

    from skin import load_classifier

    prediction = load_classifier("runs/latest/best.pt").predict("lesion.jpg")

`load_classifier` is loaded when it is first asked for: a module that needs no torch stays without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skin.classifier import load_classifier

__all__ = ["load_classifier"]


def __getattr__(name: str) -> object:
    if name == "load_classifier":
        from skin.classifier import load_classifier

        return load_classifier
    raise AttributeError(f"module 'skin' has no attribute {name!r}")
