"""Measure the two limits of a device that a step is held against: its matrix products, and copying memory.

Both are what this device does here and now, in the process that has just trained, not what its data sheet says.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from skin.model.precision import Precision, convolutions_use_tf32
from skin.utils.known_errors import is_out_of_memory

import torch

TRIES = 4
_LONG = 0.02  # seconds of a product that is large enough to be timed
_SIDES = (512, 1024, 2048, 4096, 8192)  # of square matrices
_COPIED = {"cuda": 2**28, "cpu": 2**26}  # bytes, more than any cache holds


@dataclass(frozen=True)
class Peaks:
    """The limits that a device reaches: `flops` per second of a matrix product, and `bytes` per second of a copy.

    A product of two N x N matrices counts 2 N^3 operations, in the number format of the case. A copy counts each of
    its bytes twice, read and written. None if there was too little memory to measure it.
    """

    flops: float | None
    bytes: float | None


def measure(device: torch.device, precision: Precision) -> Peaks:
    """Return the peaks of a device: the best of some tries."""
    return Peaks(_or_none(lambda: _matrix_flops(device, precision)), _or_none(lambda: _copy_bytes(device)))


def _or_none(measured: Callable[[], float]) -> float | None:
    try:
        return measured()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


@torch.no_grad()
def _matrix_flops(device: torch.device, precision: Precision) -> float:
    best = 0.0
    for side in _SIDES:
        one, other = (torch.randn(side, side, device=device, dtype=precision.dtype) for _ in range(2))
        with _tf32_as_in_convolutions(device):
            seconds = _best_seconds(lambda a=one, b=other: a @ b, device)  # type: ignore[misc]
        best = max(best, 2 * side**3 / seconds)
        if seconds > _LONG:
            break
    return best


def _copy_bytes(device: torch.device) -> float:
    source = torch.ones(_COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), device)


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    work()  # kernels are chosen, pages are taken
    taken = []
    for _ in range(TRIES):
        _wait_for(device)
        begin = time.perf_counter()
        work()
        _wait_for(device)
        taken.append(time.perf_counter() - begin)
    return min(taken)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def _tf32_as_in_convolutions(device: torch.device) -> Iterator[None]:
    """Let float32 products round to TF32 if convolutions do: by default torch lets convolutions alone."""
    if device.type != "cuda" or not convolutions_use_tf32():
        yield
        return
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "tf32"
    try:
        yield
    finally:
        settings.fp32_precision = before
