"""Checkpoints: written so that a kill never leaves half a file, read so that a stranger's never runs.

A checkpoint holds tensors, numbers, strings, lists and dicts, nothing else, so `weights_only=True` always
loads it. `best.pt` is what inference needs; `last.pt` is what `--resume` needs.
"""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision.models import EfficientNet

from skin import model as models
from skin.errors import UserError
from skin.images import Preprocess

FORMAT_VERSION = 1


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state` to `path` atomically: whoever looks sees the old file or the new one, whole.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old file stays.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(buffer.getbuffer(), path)


def write_atomically(content: bytes | memoryview, path: Path) -> None:
    """Temporary file in the same folder, flush, fsync, rename, fsync of the folder.

    Raises:
        UserError: with the system's reason; nothing half-written is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error.strerror}; the file that was there is kept") from error


def load(path: Path) -> dict[str, Any]:
    """The dict in a file that `torch.save` wrote, on the CPU. Never runs code from the file.

    Raises:
        UserError: there is no such file, or it is not one that can be loaded safely.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # the unpickler raises whatever a broken or hostile file leads it to
        raise UserError(f"{path} is not a file of tensors that torch can load safely; is it whole?") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a checkpoint or a state_dict")
    return state


@dataclass(frozen=True)
class Checkpoint:
    """A validated `best.pt`: the network with its weights, on the CPU in eval mode, and what goes with it."""

    path: Path
    network: EfficientNet
    model_name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    config: dict[str, Any]
    metrics: dict[str, Any]
    calibration: dict[str, Any]


_KEYS = {"model": dict, "classes": list, "preprocess": dict, "config": dict, "metrics": dict, "calibration": dict}


def load_best(path: Path) -> Checkpoint:
    """Read and validate a `best.pt`.

    Raises:
        UserError: no such file, another format version, or contents that do not fit the declared model.
    """
    if not Path(path).exists():
        raise UserError(f"no checkpoint at {path}; train one first: python train.py --data DIR (or --demo)")
    state = load(Path(path))
    if state.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: not a best.pt of format version {FORMAT_VERSION}; was it written by train.py?")
    for key, kind in _KEYS.items():
        if not isinstance(state.get(key), kind):
            raise UserError(f"{path}: damaged checkpoint: {key!r} is not a {kind.__name__}")
    name, classes = state["config"].get("model"), state["classes"]
    if name not in models.MODELS:
        raise UserError(f"{path}: unknown model {name!r}; known are {models.MODELS[0]} to {models.MODELS[-1]}")
    if not classes or not all(isinstance(c, str) for c in classes):
        raise UserError(f"{path}: damaged checkpoint: 'classes' is not a list of names")
    with torch.device("meta"):
        network = models.build(name, len(classes))
    _check_tensors(state["model"], network.state_dict(), path)
    network.load_state_dict(state["model"], assign=True)
    return Checkpoint(
        path=Path(path),
        network=network.eval(),
        model_name=name,
        classes=tuple(classes),
        preprocess=Preprocess.from_dict(state["preprocess"]),
        config=state["config"],
        metrics=state["metrics"],
        calibration=state["calibration"],
    )


def _check_tensors(state: dict[str, Any], expected: dict[str, torch.Tensor], path: Path) -> None:
    for key in sorted(state.keys() ^ expected.keys()):
        raise UserError(f"{path}: damaged checkpoint: tensor {key} is {'missing' if key in expected else 'unknown'}")
    for key, value in expected.items():
        tensor = state[key]
        if not isinstance(tensor, torch.Tensor) or tensor.shape != value.shape or tensor.dtype != value.dtype:
            raise UserError(f"{path}: damaged checkpoint: tensor {key} is not {value.dtype} {tuple(value.shape)}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: damaged checkpoint: tensor {key} holds numbers that are not finite")
