"""The fast CPU layers compute torch's own values and gradients, and repeat them bit for bit."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

from skin.model.cpu_kernels import BatchNormSiLU, DepthwiseConv2d, FusedSqueezeExcitation, accelerate

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import EfficientNet, get_model
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

pytestmark = pytest.mark.usefixtures("published")

CPU = torch.device("cpu")


def depthwise_shapes() -> list[tuple[int, int, int]]:
    """Every (channels, kernel, stride) of a depthwise layer in B0-B7."""
    shapes = set()
    for n in range(8):
        with torch.device("meta"):
            network = get_model(f"efficientnet_b{n}", weights=None)
        for m in network.modules():
            if isinstance(m, nn.Conv2d) and m.groups > 1:
                shapes.add((m.in_channels, m.kernel_size[0], m.stride[0]))
    return sorted(shapes)


def small_network(seed: int = 0) -> EfficientNet:
    """B0 without what is random in training, so that two passes can be compared."""
    torch.manual_seed(seed)
    network: EfficientNet = get_model(
        "efficientnet_b0", num_classes=3, stochastic_depth_prob=0.0, dropout=0.0
    )
    return network.to(memory_format=torch.channels_last)


def images(count: int = 4, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size, size, generator=generator).to(memory_format=torch.channels_last)


def gradients(network: nn.Module, x: Tensor, autocast: bool = False) -> Tensor:
    """All gradients of a training step as one vector."""
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = network(x).float()
    F.cross_entropy(logits, torch.arange(len(x)) % 3).backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.float() - expected.float()).norm() / expected.float().norm()).item()


def run(layer: nn.Module, x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Output, input gradient and parameter gradients of `layer`, against a fixed random cotangent."""
    layer.zero_grad()
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        y = layer(leaf)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float32)
    y.backward(cotangent.to(y.dtype).contiguous(memory_format=torch.channels_last))
    return [y.detach(), leaf.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]


@pytest.mark.parametrize("size", [7, pytest.param(10, marks=pytest.mark.slow)])
def test_every_depthwise_shape_of_b0_to_b7_has_torchs_gradients_in_float32(size: int) -> None:
    shapes = depthwise_shapes()
    assert len(shapes) > 50
    for channels, kernel, stride in shapes:
        torch.manual_seed(0)
        plain = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
        fast = accelerate(copy.deepcopy(plain), CPU)
        assert type(fast) is DepthwiseConv2d
        x = torch.randn(2, channels, size, size).to(memory_format=torch.channels_last)
        for found, expected in zip(run(fast, x, torch.float32), run(plain, x, torch.float32), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "kernel", "stride"), [(32, 3, 1), (96, 3, 2), (240, 5, 1), (144, 5, 2)])
@pytest.mark.parametrize("size", [5, 8])
def test_bfloat16_gradients_are_as_near_to_float32_as_torchs_own(
    channels: int, kernel: int, stride: int, size: int
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
    fast = accelerate(copy.deepcopy(plain), CPU)
    x = torch.randn(4, channels, size, size).to(memory_format=torch.channels_last)
    exact = run(plain, x, torch.float32)
    own = run(plain, x, torch.bfloat16)
    for found, torchs, expected in zip(run(fast, x, torch.bfloat16), own, exact, strict=True):
        assert relative_error(found, expected) <= 1.1 * relative_error(torchs, expected) + 1e-4


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_depthwise_layer_takes_images_that_are_not_channels_last(kernel: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(24, 24, kernel, 2, kernel // 2, groups=24, bias=False)
    fast = accelerate(copy.deepcopy(plain), CPU)
    x = torch.randn(2, 24, 9, 6)
    for found, expected in zip(run(fast, x, torch.float32), run(plain, x, torch.float32), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=True),
        nn.Conv2d(8, 16, 3, padding=1, groups=8, bias=False),
        nn.Conv2d(8, 8, 3, padding=0, groups=8, bias=False),
        nn.Conv2d(8, 8, 3, padding=2, groups=8, bias=False, dilation=2),
        nn.Conv2d(8, 8, 7, padding=3, groups=8, bias=False),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.Conv2d(8, 8, 3, padding="same", groups=8, bias=False),
    ],
)
def test_a_convolution_of_another_kind_is_left_as_it_is(conv: nn.Conv2d) -> None:
    assert type(accelerate(conv, CPU)) is nn.Conv2d


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_and_silu_in_one_keep_values_gradients_and_running_statistics(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    block = Conv2dNormActivation(8, 16, 1, activation_layer=nn.SiLU)
    nn.init.normal_(block[1].weight)
    nn.init.normal_(block[1].bias)
    fast = accelerate(copy.deepcopy(block), CPU)
    assert type(fast.get_submodule("1")) is BatchNormSiLU
    x = 3 * torch.randn(4, 8, 6, 6).to(memory_format=torch.channels_last) + 1
    tolerance = 1e-4 if dtype is torch.float32 else 2e-2
    for found, expected in zip(run(fast, x, dtype), run(block, x, dtype), strict=True):
        assert relative_error(found, expected) < tolerance
    for found, expected in zip(fast.buffers(), block.buffers(), strict=True):
        torch.testing.assert_close(found, expected)
    fast.eval(), block.eval()
    torch.testing.assert_close(fast(x), block(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frozen", [False, True])
def test_squeeze_and_excitation_in_one_keeps_values_and_gradients(dtype: torch.dtype, frozen: bool) -> None:
    torch.manual_seed(0)
    block = SqueezeExcitation(16, 4, activation=nn.SiLU)
    block.fc1.weight.requires_grad_(not frozen)
    fast = accelerate(copy.deepcopy(block), CPU)
    assert type(fast) is FusedSqueezeExcitation
    x = torch.randn(4, 16, 6, 6).to(memory_format=torch.channels_last)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    found, expected = run(fast, x, dtype), run(block, x, dtype)
    assert len(found) == len(expected) == (5 if frozen else 6)
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < tolerance


def test_a_whole_step_has_torchs_gradients() -> None:
    plain = small_network()
    fast = accelerate(copy.deepcopy(plain), CPU)
    assert relative_error(gradients(fast, images()), gradients(plain, images())) < 1e-4
    bfloat = relative_error(gradients(plain, images(), autocast=True), gradients(plain, images()))
    assert relative_error(gradients(fast, images(), autocast=True), gradients(plain, images())) < 1.2 * bfloat


@pytest.mark.parametrize("autocast", [False, True])
def test_the_same_step_gives_the_same_bits(autocast: bool) -> None:
    network = accelerate(small_network(), CPU)
    first = gradients(copy.deepcopy(network), images(), autocast)
    assert torch.equal(first, gradients(copy.deepcopy(network), images(), autocast))


def test_a_layer_used_twice_adds_its_gradients_up() -> None:
    torch.manual_seed(0)
    plain = Conv2dNormActivation(8, 8, 5, groups=8, activation_layer=nn.SiLU)
    twice = nn.Sequential(plain, plain)
    fast = accelerate(copy.deepcopy(twice), CPU)
    x = torch.randn(2, 8, 6, 6)
    for found, expected in zip(run(fast, x, torch.float32), run(twice, x, torch.float32), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_names_saving_loading_copying_and_pickling_survive(tmp_path: Path) -> None:
    plain = small_network(seed=3)
    fast = accelerate(small_network(seed=4), CPU)
    assert list(fast.state_dict()) == list(plain.state_dict())
    fast.load_state_dict(plain.state_dict())
    for network in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        torch.testing.assert_close(network.eval()(images()), plain.eval()(images()))
    get_model("efficientnet_b0", num_classes=3).load_state_dict(fast.state_dict())


def test_evaluation_and_no_grad_are_torchs_own_to_the_bit() -> None:
    plain = small_network()
    fast = accelerate(copy.deepcopy(plain), CPU)
    assert torch.equal(fast.eval()(images()), plain.eval()(images()))
    with torch.no_grad():
        assert torch.equal(fast.train()(images()), plain.train()(images()))
    for found, expected in zip(fast.buffers(), plain.buffers(), strict=True):
        assert torch.equal(found, expected)


def test_frozen_features_get_no_gradients_and_the_head_gets_its_own() -> None:
    plain = small_network()
    plain.get_submodule("features").requires_grad_(False)
    fast = accelerate(copy.deepcopy(plain), CPU)
    torch.testing.assert_close(gradients(fast, images()), gradients(plain, images()), rtol=1e-4, atol=1e-5)
    assert all(p.grad is None for p in fast.get_submodule("features").parameters())


def test_gradients_for_activations_in_evaluation_mode_are_there() -> None:
    """What Grad-CAM asks for."""
    plain = small_network().eval()
    fast = accelerate(copy.deepcopy(plain), CPU)
    cams = []
    for network in (plain, fast):
        maps = network.features(images())
        cams.append(torch.autograd.grad(network.classifier(network.avgpool(maps).flatten(1)).sum(), maps)[0])
    torch.testing.assert_close(cams[0], cams[1])


def test_another_device_leaves_the_network_alone() -> None:
    network = accelerate(small_network(), torch.device("cuda"))
    assert not any(isinstance(m, (DepthwiseConv2d, BatchNormSiLU)) for m in network.modules())


def test_one_value_a_channel_in_training_is_refused_as_torch_refuses_it() -> None:
    block = accelerate(Conv2dNormActivation(8, 8, 1, activation_layer=nn.SiLU), CPU)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block(torch.randn(1, 8, 1, 1))


@pytest.fixture
def process_group(tmp_path: Path) -> Any:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or os.name == "nt", reason="no gloo in this build of torch")
@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel_trains_it() -> None:
    network = accelerate(small_network(), CPU)
    alone = gradients(copy.deepcopy(network), images())
    torch.testing.assert_close(gradients(nn.parallel.DistributedDataParallel(network), images()), alone)
