"""Count the work and the memory of a network on paper: no weight is drawn and nothing is computed."""

from __future__ import annotations

import functools
from typing import NamedTuple

from skin.model.network import build

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


class Work(NamedTuple):
    """The work of a network on one image.

    Attributes:
        gmacs: multiplications with an addition, in 10^9, of a forward pass. A training step takes three times them.
        parameters: weights in total.
        kept_mib: what torchvision's network keeps of a forward pass in float32 for the way back.
    """

    gmacs: float
    parameters: int
    kept_mib: float


@functools.cache
def work_of(model: str, image_size: int, classes: int = 7) -> Work:
    """Return the work of `model` on an image of that size."""
    with torch.device("meta"):
        network, image = build(model, classes).train(), torch.empty(2, 3, image_size, image_size)
    counter, kept = FlopCounterMode(display=False), KeptForBackward(network)
    with counter, kept:
        network(image)
    parameters = sum(p.numel() for p in network.parameters())
    return Work(counter.get_total_flops() / 2 / len(image) / 1e9, parameters, kept.mib / len(image))


@functools.cache
def numbers_moved(model: str, image_size: int) -> int:
    """Return how many numbers of activations a training step must at least read or write per image.

    It counts the convolutions alone, and what each must move even if all that lies between two of them (BatchNorm,
    SiLU, squeeze-and-excitation, the sum with a shortcut) were done in passing. On the way there a convolution reads
    its input and writes its output. On the way back it reads the gradient of its output and its input again, and
    writes the gradient of its input. So that is three times its input and twice its output, or twice its input for
    the first one. Weights, gradients of weights and the optimizer's state do not count: they are moved once per
    batch. Real kernels move more.
    """
    with torch.device("meta"):
        network, image = build(model, 7).train(), torch.empty(2, 3, image_size, image_size)
    moved = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal moved
        passes = 2 if inputs[0] is image else 3
        moved += passes * inputs[0].numel() + 2 * output.numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    network(image)
    return moved // len(image)


class KeptForBackward:
    """Adds up the tensors that autograd keeps while the block runs, without the weights of `network`."""

    def __init__(self, network: nn.Module) -> None:
        self._weights = {id(p) for p in network.parameters()}
        self._bytes: dict[int, int] = {}  # by storage
        self._alive: list[Tensor] = []  # otherwise another tensor could get the place of one that has gone
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    @property
    def mib(self) -> float:
        return sum(self._bytes.values()) / 2**20

    def __enter__(self) -> KeptForBackward:
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.__exit__(*exception)
        self._alive.clear()

    def _note(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._weights:
            storage = tensor.untyped_storage()
            self._bytes[storage._cdata] = storage.nbytes()
            self._alive.append(tensor.detach())
        return tensor
