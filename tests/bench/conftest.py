"""What the timings share: one thread, seeded bytes, a few JPEGs."""

from __future__ import annotations

from pathlib import Path

from skin.bench import images
from skin.data.images import Preprocess
from skin.model.network import preprocess_for

import cv2
import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Timings of one core vary less between runs and machines than those of a busy pair."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


@pytest.fixture(scope="session")
def preprocess() -> Preprocess:
    return preprocess_for("efficientnet_b3")


@pytest.fixture(scope="session")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Thirty-two 600x450 JPEGs."""
    return sorted(images.write(tmp_path_factory.mktemp("jpegs"), 32).rglob("*.jpg"))


@pytest.fixture(scope="session")
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
