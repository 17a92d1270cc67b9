"""EfficientNet with six small blocks where torchvision's B0 has sixteen: most of a tiny training is the network.

The folder is on PYTHONPATH, so that Python runs this first in every process that a test starts, and in each that such
a process starts in its turn. Kinds of blocks, features and head are torchvision's own, and B1 to B7 are wider and
deeper than B0, as ever. Tests on real images take the published networks, and modules with the fixture `published`.
"""

from __future__ import annotations

import functools
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

MODULE = "torchvision.models.efficientnet"


class Finder(MetaPathFinder):
    """Replaces the table of blocks as soon as torchvision is imported, which most processes never do."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != MODULE:
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def load_and_replace(module: ModuleType) -> None:
            load(module)
            module._published = module._efficientnet_conf  # type: ignore[attr-defined]
            module._efficientnet_conf = functools.partial(_small, module)  # type: ignore[attr-defined]

        spec.loader.exec_module = load_and_replace  # type: ignore[method-assign]
        return spec


def _small(torchvision: Any, arch: str, width_mult: float, depth_mult: float) -> tuple[list[Any], int]:
    block = functools.partial(torchvision.MBConvConfig, width_mult=width_mult, depth_mult=depth_mult)
    blocks = [  # expand_ratio, kernel, stride, input_channels, out_channels, num_layers
        block(1, 3, 1, 32, 8, 1),
        block(4, 3, 2, 8, 16, 2),
        block(4, 5, 2, 16, 24, 1),
        block(4, 3, 2, 24, 32, 1),
        block(4, 3, 2, 32, 40, 1),
    ]
    return blocks, torchvision.MBConvConfig.adjust_channels(320, width_mult)


sys.meta_path.insert(0, Finder())
