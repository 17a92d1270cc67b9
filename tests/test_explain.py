import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops.misc import SqueezeExcitation

from skin import model
from skin.explain import grad_cam, overlay
from skin.model import Classifier
from skin.precision import Precision
from tests import tiny

SIZE = 256  # the last feature block is 8 x 8


@pytest.fixture(scope="module", params=[None, torch.bfloat16], ids=["float32", "bfloat16"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    """Random weights in channels_last, with BatchNorm statistics of the tests' own pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = model.build("efficientnet_b0", 3)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    preprocess = model.preprocess_for("efficientnet_b0", SIZE)
    classifier = Classifier(network, preprocess, Precision("cpu", request.param)).train()
    pictures = np.stack([tiny.picture(seed, SIZE, SIZE) for seed in range(8)])
    with torch.no_grad():
        classifier.features(torch.from_numpy(pictures))
    return classifier.eval()


def maps(classifier: Classifier, images: Tensor) -> Tensor:
    with classifier.precision.autocast():
        return classifier.network.features(classifier.normalise(images))


def grad_cam_by_autograd(classifier: Classifier, images: Tensor, cls: int) -> Tensor:
    """Grad-CAM to the letter (Selvaraju et al. 2017, equations 1 and 2), by a backward pass."""
    with torch.no_grad():
        activations = maps(classifier, images).float()
    activations.requires_grad_()
    pooled = torch.flatten(classifier.network.avgpool(activations), 1)
    classifier.network.classifier(pooled)[:, cls].sum().backward()
    assert activations.grad is not None
    weights = activations.grad.mean((2, 3), keepdim=True)
    heat = (weights * activations).sum(1).clamp_min(0).detach()
    heat = heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-30)
    return torch.nn.functional.interpolate(heat[:, None], (SIZE, SIZE), mode="bilinear")[:, 0]


def test_equals_grad_cam_by_a_backward_pass(classifier: Classifier) -> None:
    images = torch.from_numpy(np.stack([tiny.picture(seed, SIZE, SIZE) for seed in (20, 21)]))
    for cls in range(3):
        expected = grad_cam_by_autograd(classifier, images, cls)
        found = grad_cam(classifier, images, torch.tensor([cls, cls]))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        assert found.shape == (2, SIZE, SIZE)
        assert found.dtype == torch.float32


def red_in(rows: slice, columns: slice) -> Tensor:
    """A grey picture with a red part: uint8 [1, SIZE, SIZE, 3]."""
    image = torch.full((1, SIZE, SIZE, 3), 128, dtype=torch.uint8)
    image[0, rows, columns] = torch.tensor([220, 30, 30], dtype=torch.uint8)
    return image


@torch.no_grad()
def made_local(classifier: Classifier) -> Classifier:
    """A copy in which each cell of the last block sees its own part of the picture and nothing else.

    The kernels keep their centre alone, and squeeze-and-excitation, which looks at all cells, a constant.
    """
    local = copy.deepcopy(classifier)
    for layer in local.network.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size != (1, 1):
            centre = torch.zeros_like(layer.weight)
            middle = layer.kernel_size[0] // 2
            centre[:, :, middle, middle] = layer.weight.sum((2, 3))
            layer.weight.copy_(centre)
        if isinstance(layer, SqueezeExcitation):
            layer.fc2.weight.zero_()
    return local


FIRST, LAST = slice(0, SIZE // 2), slice(SIZE // 2, SIZE)


@pytest.mark.parametrize("rows", [FIRST, LAST], ids=["top", "bottom"])
@pytest.mark.parametrize("columns", [FIRST, LAST], ids=["left", "right"])
def test_the_evidence_is_found_in_the_corner_where_it_is(
    classifier: Classifier, rows: slice, columns: slice
) -> None:
    local = made_local(classifier)
    with torch.no_grad():  # class 1 is made to mean "red": what red adds to the features of grey
        red = local.features(red_in(slice(None), slice(None)))[0]
        grey = local.features(red_in(slice(0), slice(0)))[0]
        local.network.classifier[1].weight[1] = (red - grey) - grey * ((red - grey) @ grey) / (grey @ grey)
    heat = grad_cam(local, red_in(rows, columns), torch.tensor([1]))[0]
    seen = heat > 0.5
    expected = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    expected[rows, columns] = True
    assert (seen == expected).float().mean() > 0.97, "all but a rim, where the map is interpolated"


def test_no_evidence_is_an_empty_map(classifier: Classifier) -> None:
    with torch.no_grad():
        classifier.network.classifier[1].weight[2] = 0
    heat = grad_cam(classifier, red_in(FIRST, FIRST), torch.tensor([2]))
    assert heat.abs().max() == 0


def test_the_overlay_leaves_the_picture_where_there_is_no_heat() -> None:
    image = np.full((1, 2, 3), 100, np.uint8)
    laid = overlay(image, np.array([[0, 1]], np.float32))
    assert laid[0, 0].tolist() == [100, 100, 100]
    # 35 % of 100 and 65 % of the ramp's last colour, 250, 240, 150: 197.5, 191, 132.5.
    assert np.abs(laid[0, 1] - [197.5, 191, 132.5]).max() <= 0.51
