"""Layers that make a training step fast on the CPU, in plain PyTorch.

A step of EfficientNet on a CPU waits for four things that are not matrix products:

- oneDNN's backward of depthwise convolutions,
- passes over memory between BatchNorm, SiLU and squeeze-and-excitation,
- pages that the kernel hands out anew for each large tensor,
- Adam's loops over 340 parameters (`fused=True` helps there).

`accelerate` swaps in layers that compute the same values with fewer passes and better kernels. Parameters,
buffers and their names stay, so a state_dict fits the network before and after. The order of every sum is
fixed: the same step with the same number of threads gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from skin.utils.memory import keep_freed_memory

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

ModuleT = TypeVar("ModuleT", bound=nn.Module)

Statistics = tuple[Tensor | None, Tensor | None]  # running mean and variance

_backward = torch.ops.aten.convolution_backward.default


def accelerate(network: ModuleT, device: torch.device) -> ModuleT:
    """Make `network` train faster on the CPU, in place; on any other device it is left as it is.

    Its depthwise convolutions, its BatchNorm + SiLU pairs and its squeeze-and-excitation blocks
    (torchvision's `Conv2dNormActivation` and `SqueezeExcitation`) are replaced by the classes below.
    Gradients of gradients are not available afterwards. Also calls `keep_freed_memory`.

    Returns:
        `network` itself.
    """
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return network
    keep_freed_memory()
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and DepthwiseConv2d.fits(module):
            module.__class__ = DepthwiseConv2d
        elif type(module) is SqueezeExcitation:
            module.__class__ = FusedSqueezeExcitation
        elif isinstance(module, Conv2dNormActivation):
            for i in range(len(module) - 1):
                if type(module[i]) is nn.BatchNorm2d and type(module[i + 1]) is nn.SiLU:
                    module[i].__class__ = BatchNormSiLU
                    module[i + 1] = nn.Identity()
    return network


class DepthwiseConv2d(nn.Conv2d):
    """A 3x3 or 5x5 depthwise convolution whose gradients keep to oneDNN's fast kernels on the CPU."""

    @staticmethod
    def fits(conv: nn.Conv2d) -> bool:
        """Return True if this class can compute the convolution `conv`."""
        k, s = conv.kernel_size[0], conv.stride[0]
        same = conv.kernel_size == (k, k) and conv.stride == (s, s) and conv.padding == (k // 2, k // 2)
        depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.bias is None
        return same and depthwise and k in (3, 5) and s in (1, 2) and conv.dilation == (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        known = x.device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)
        if not (known and torch.is_grad_enabled()):
            return super().forward(x)
        y: Tensor = _Depthwise.apply(x.to(dtype), self.weight.to(dtype), self.stride[0])
        return y


class _Depthwise(torch.autograd.Function):
    """The convolution of x [N, C, H, W] by w [C, 1, k, k], padding k // 2.

    The output is [N, C, ceil(H / stride), ceil(W / stride)].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.stride = stride
        return F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, w = ctx.saved_tensors
        need_x, need_w, _ = ctx.needs_input_grad
        padding = [w.shape[-1] // 2] * 2
        wide = w.shape[-1] == 5
        stuffed = x.dtype is torch.bfloat16  # in float32 oneDNN's own input gradient is as fast
        common = ([ctx.stride] * 2, padding, [1, 1], False, [0, 0], x.shape[1])
        gx, gw, _ = _backward(g, x, w, None, *common, [need_x and not stuffed, need_w and not wide, False])
        if need_x and stuffed:
            gx = _input_gradient(g, w, ctx.stride, x.shape)
        if need_w and wide:
            gw = _weight_gradient_5x5(x, g, ctx.stride)
        return gx, gw, None


def _input_gradient(g: Tensor, w: Tensor, stride: int, shape: torch.Size) -> Tensor:
    """Return the gradient for x: a forward convolution of `g`, with zeros between its values, by the flipped `w`.

    oneDNN has fast bfloat16 kernels for the forward direction at stride 1, but none for stride 2 backward.
    """
    if stride > 1:
        stuffed = g.new_zeros(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
        stuffed[:, :, ::stride, ::stride] = g
        g = stuffed
    return F.conv2d(g, w.flip(2, 3), padding=w.shape[-1] // 2, groups=shape[1])


def _weight_gradient_5x5(x: Tensor, g: Tensor, stride: int) -> Tensor:
    """Return the gradient for a 5x5 depthwise w, [C, 1, 5, 5], in float32: columns 0-2 and 2-4 by themselves.

    oneDNN's depthwise kernel takes any height but no width above three; code for 5x5 is ten times slower. The rows
    of x are laid out with two zero columns between them. Seen from its first element, this buffer is x with the
    zeros on the left. Seen from two columns further, it is x with the zeros on the right.
    """
    n, c, h, w = x.shape
    row = w + 2
    size = n * h * row * c
    flat = torch.empty(2 * c + size)
    flat[: 2 * c] = 0
    rows = flat[2 * c :].view(n, h, row, c)
    rows[:, :, :w] = x.permute(0, 2, 3, 1)
    rows[:, :, w:] = 0
    g = g.float()
    kernel = flat.new_empty(c, 1, 5, 3)

    def columns(first: int) -> Tensor:
        shifted = flat[first * c : first * c + size].view(n, h, row, c).permute(0, 3, 1, 2)
        only_w = [False, True, False]
        found: Tensor = _backward(g, shifted, kernel, None, [stride] * 2, [2, 0], [1, 1], False, [0, 0], c, only_w)[1]
        return found

    return torch.cat((columns(0), columns(2)[..., 1:]), dim=-1).to(x.dtype)


class BatchNormSiLU(nn.BatchNorm2d):
    """BatchNorm and the SiLU behind it. Training keeps only the input for backward, not the tensor between them."""

    def forward(self, x: Tensor) -> Tensor:
        plain = not (self.training and torch.is_grad_enabled()) or self.momentum is None
        if plain or self.num_batches_tracked is None or x.device.type != "cpu" or x.numel() == x.shape[1]:
            return F.silu(super().forward(x))
        self.num_batches_tracked.add_(1)
        statistics = (self.running_mean, self.running_var)
        y: Tensor = _BatchNormSiLU.apply(x, self.weight, self.bias, statistics, self.momentum, self.eps)
        return y


class _BatchNormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, b: Tensor, statistics: Statistics, momentum: float, eps: float
    ) -> Tensor:
        y, mean, inverse_std = torch.native_batch_norm(x, w, b, *statistics, True, momentum, eps)
        ctx.save_for_backward(x, w, b, mean, inverse_std)
        ctx.eps = eps
        return F.silu(y, inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w, b, mean, inverse_std = ctx.saved_tensors
        y = F.batch_norm(x, mean, inverse_std.pow(-2), w, b, training=False, eps=0.0)
        torch.ops.aten.silu_backward.grad_input(g, y, grad_input=y)  # y's memory now holds its gradient
        grads = torch.ops.aten.native_batch_norm_backward(
            y, x, w, None, None, mean, inverse_std, True, ctx.eps, list(ctx.needs_input_grad[:3])
        )
        return *grads, None, None, None


class FusedSqueezeExcitation(SqueezeExcitation):
    """Squeeze-and-excitation whose two gradients for x, by the scale and by the mean, are one pass."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not (torch.is_grad_enabled() and x.requires_grad):
            y: Tensor = super().forward(x)
        else:
            y = _SqueezeExcitation.apply(x, self._gate, *self.parameters())
        return y

    def _gate(self, mean: Tensor) -> Tensor:
        scale: Tensor = self.scale_activation(self.fc2(self.activation(self.fc1(mean))))
        return scale


class _SqueezeExcitation(torch.autograd.Function):
    """x [N, C, H, W] times gate(its means over H and W); the gate's own graph is kept and run back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Callable[[Tensor], Tensor], *parameters: Tensor) -> Tensor:
        # `sum` adds bfloat16 up in float32, without the float32 copy of x that `mean` makes.
        mean = x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
        with torch.enable_grad():
            mean.requires_grad_()
            scale = gate(mean)
        ctx.save_for_backward(x, *parameters)
        ctx.gate = (mean, scale)
        return x * scale.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        mean, scale = ctx.gate
        wanted = [mean, *(p for p in parameters if p.requires_grad)]
        scale_grad = (g * x).sum((2, 3), keepdim=True)
        by_mean, *rest = torch.autograd.grad(scale, wanted, scale_grad.to(scale.dtype))
        gx = torch.addcmul(by_mean / (x.shape[2] * x.shape[3]), g, scale.detach())
        found = iter(rest)
        return gx, None, *(next(found) if p.requires_grad else None for p in parameters)
