"""A checkpoint to predict with in the tests: EfficientNet (B0, at 64 pixels) with random weights.

Random weights with random BatchNorm statistics give every image the same answer. So the statistics are
measured on pictures, and the head is scaled until answers differ from image to image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skin.data.metadata import Encoder
from skin.model import checkpoint
from skin.model import network as networks
from skin.model.metadata import attach, branch_of
from skin.model.precision import Precision

import numpy as np
import torch
from PIL import Image

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
FEATURES = networks.build("efficientnet_b0", 1).classifier[1].in_features  # those of a published B0 are 1,280


def picture(seed: int, width: int = 90, height: int = 80) -> np.ndarray:
    """uint8 [height, width, 3]: smooth random colours under some noise, different for each seed."""
    generator = np.random.Generator(np.random.Philox(seed))
    coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    return np.clip(smooth + generator.integers(-40, 41, smooth.shape), 0, 255).astype(np.uint8)


def write_checkpoint(
    path: Path,
    classes: tuple[str, ...] = CLASSES,
    image_size: int = 64,
    calibration: dict[str, Any] | None = None,
    name: str = "efficientnet_b0",
    config: dict[str, Any] | None = None,
    encoder: Encoder | None = None,
) -> Path:
    """Write a `best.pt` with random weights to `path`; `config` is what it has besides the model's name.

    With an encoder the answers depend on metadata, too.
    """
    preprocess = networks.preprocess_for(name, image_size)
    pictures = torch.from_numpy(np.stack([picture(s, image_size, image_size) for s in range(100, 116)]))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = networks.build(name, len(classes))
        classifier = networks.Classifier(network, preprocess, Precision("cpu", None)).train()
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
        features = classifier.features(pictures)
        logits = classifier.eval().head(features)
        network.classifier[1].weight.mul_(2 / logits.std(0).mean())
        attach(network, encoder)
        if (branch := branch_of(network)) is not None:
            torch.nn.init.normal_(branch.shift.weight)
    known = {} if encoder is None else {"resolved": {"metadata": encoder.to_list()}}
    checkpoint.save(
        {
            "model": network.state_dict(),
            "classes": list(classes),
            "preprocess": preprocess.to_dict(),
            "config": {"model": name, **known, **(config or {})},
            "metrics": {},
            "calibration": calibration or {},
            "format_version": checkpoint.FORMAT_VERSION,
        },
        path,
    )
    return path


def calibration(temperature: float, threshold: float, unlike_threshold: float) -> dict[str, Any]:
    """A calibration with one set threshold for all classes, and a Gaussian at the origin."""
    thresholds = {"thresholds": [threshold] * len(CLASSES), "shared": []}
    return {
        "images": 100,
        "temperature": temperature,
        "sets": {"90": thresholds, "95": thresholds},
        "unlike": {
            "means": torch.zeros(1, FEATURES),
            "directions": torch.zeros(0, FEATURES),
            "variances": [],
            "rest": 1.0,
            "threshold": unlike_threshold,
        },
    }
