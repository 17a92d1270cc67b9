"""The network as inference calls it, held against torchvision's own layers."""

from __future__ import annotations

import copy

from skin.model.fold_batchnorm import ConvolutionSiLU, MatrixSqueezeExcitation, fuse
from skin.model.network import Classifier, build, preprocess_for
from skin.model.precision import Precision

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import EfficientNet
from torchvision.ops import StochasticDepth

FLOAT32, BFLOAT16 = Precision("cpu", None), Precision("cpu", torch.bfloat16)
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN")

pytestmark = pytest.mark.usefixtures("published")

IMAGES = torch.randint(0, 256, (16, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def trained(name: str) -> EfficientNet:
    """A network whose BatchNorms know `IMAGES`, so that no layer shrinks or blows up what it is given."""
    torch.manual_seed(0)
    network = build(name, 5)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.uniform_(0.7, 1.3)
                module.bias.uniform_(-0.3, 0.3)
            elif isinstance(module, (nn.Dropout, StochasticDepth)):
                module.p = 0.0
        Classifier(network, preprocess_for(name, 64), FLOAT32).train()(IMAGES)
    return network.eval()


def logits(network: EfficientNet, name: str, precision: Precision, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return Classifier(network, preprocess_for(name, 64), precision).eval()(images)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b5"])
@pytest.mark.parametrize("count", [1, 6])
def test_float32_stays_what_it_was_but_for_rounding(name: str, count: int) -> None:
    network, images = trained(name), IMAGES[:count]
    expected = logits(copy.deepcopy(network), name, FLOAT32, images)
    found = logits(fuse(network, FLOAT32), name, FLOAT32, images)
    assert expected.std() > 0.1  # a size at which an error shows
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_bfloat16_is_no_further_from_float32_than_the_separate_layers() -> None:
    network = trained("efficientnet_b0")
    exact = logits(copy.deepcopy(network), "efficientnet_b0", FLOAT32, IMAGES)
    separate = logits(copy.deepcopy(network), "efficientnet_b0", BFLOAT16, IMAGES)
    found = logits(fuse(network, BFLOAT16), "efficientnet_b0", BFLOAT16, IMAGES)
    assert found.dtype is torch.float32
    assert (found - exact).square().mean() < 2 * (separate - exact).square().mean()


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16], ids=str)
def test_traits_are_counted_in_the_layers_own_precision(precision: Precision) -> None:
    network = trained("efficientnet_b0")
    expected = Classifier(copy.deepcopy(network), preprocess_for("efficientnet_b0", 64), FLOAT32).eval().widths()
    found = Classifier(fuse(network, precision), preprocess_for("efficientnet_b0", 64), precision).eval()
    assert found.widths() == expected
    with torch.inference_mode():
        assert found.answers(IMAGES)[1].shape == (len(IMAGES), sum(expected))


@needs_onednn
def test_the_cpu_has_layers_of_its_own() -> None:
    network = fuse(trained("efficientnet_b0"), FLOAT32)
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(ConvolutionSiLU) == 49
    assert kinds.count(MatrixSqueezeExcitation) == 16
    assert nn.BatchNorm2d not in kinds
    active = [module.activation for module in network.modules() if isinstance(module, ConvolutionSiLU)]
    assert active.count("none") == 16  # the last convolution of each block
    assert not any(name.startswith("features") for name, _ in network.named_parameters() if ".fc" not in name)


@pytest.mark.parametrize("precision", [Precision("cuda", torch.float16), Precision("cpu", torch.float16)])
def test_elsewhere_batchnorm_is_folded_and_the_layers_are_torchs(precision: Precision) -> None:
    network = trained("efficientnet_b0")
    expected = logits(copy.deepcopy(network), "efficientnet_b0", FLOAT32, IMAGES)
    fused = fuse(network, precision)
    torch.testing.assert_close(logits(fused, "efficientnet_b0", FLOAT32, IMAGES), expected, rtol=0, atol=2e-4)
    kinds = {type(module) for module in fused.modules()}
    assert nn.BatchNorm2d not in kinds
    assert not kinds & {ConvolutionSiLU, MatrixSqueezeExcitation}


@needs_onednn
def test_the_means_are_those_of_each_channel() -> None:
    block = fuse(trained("efficientnet_b0"), FLOAT32).features[2][0].block[2]
    assert isinstance(block, MatrixSqueezeExcitation)
    channels = block.fc2.out_channels
    x = torch.randn(3, channels, 5, 7).contiguous(memory_format=torch.channels_last)
    mean = x.mean((2, 3), keepdim=True)
    with torch.inference_mode():
        expected = x * block.scale_activation(block.fc2(block.activation(block.fc1(mean))))
        torch.testing.assert_close(block(x.clone(memory_format=torch.preserve_format)), expected)
