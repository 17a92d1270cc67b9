"""Transfer learning with EfficientNet on skin disease images; each module is one chapter of it.

    from skin import load_classifier

    prediction = load_classifier().predict("lesion.jpg")

`load_classifier` is loaded when it is first asked for: a module that needs no torch stays without it. Import this
package before torch, as the scripts do: torch reads how its threads are to wait when it is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skin.utils.hardware import set_up_threads
from skin.utils.home import set_up_home

if TYPE_CHECKING:
    from skin.model.classifier import load_classifier

__all__ = ["load_classifier"]
__version__ = "0.1.0"

set_up_threads()
set_up_home()


def __getattr__(name: str) -> object:
    if name == "load_classifier":
        from skin.model.classifier import load_classifier

        return load_classifier
    raise AttributeError(f"module 'skin' has no attribute {name!r}")
