import copy

from skin.model import network as networks
from skin.model.grad_cam import _over_pixels, grad_cam, overlay
from skin.model.network import Classifier
from skin.model.precision import Precision
from tests import tiny

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops.misc import SqueezeExcitation

SIZE = 256  # the last feature block is 8 x 8


@pytest.fixture(scope="module", params=[None, torch.bfloat16], ids=["float32", "bfloat16"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    """Random weights in channels_last, with BatchNorm statistics of the tests' own pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = networks.build("efficientnet_b0", 3)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    preprocess = networks.preprocess_for("efficientnet_b0", SIZE)
    classifier = Classifier(network, preprocess, Precision("cpu", request.param)).train()
    pictures = np.stack([tiny.picture(seed, SIZE, SIZE) for seed in range(8)])
    with torch.no_grad():
        classifier.features(torch.from_numpy(pictures))
    return classifier.eval()


def maps(classifier: Classifier, images: Tensor) -> Tensor:
    with classifier.precision.autocast():
        return classifier.network.features(classifier.normalise(images))


def grad_cam_by_autograd(classifier: Classifier, images: Tensor, cls: int) -> Tensor:
    """Grad-CAM to the letter (Selvaraju et al. 2017, equations 1 and 2), by a backward pass: [B, 8, 8]."""
    with torch.no_grad():
        activations = maps(classifier, images).float()
    activations.requires_grad_()
    pooled = torch.flatten(classifier.network.avgpool(activations), 1)
    classifier.network.classifier(pooled)[:, cls].sum().backward()
    assert activations.grad is not None
    weights = activations.grad.mean((2, 3), keepdim=True)
    heat = (weights * activations).sum(1).clamp_min(0).detach()
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-30)


def test_equals_grad_cam_by_a_backward_pass(classifier: Classifier) -> None:
    images = torch.from_numpy(np.stack([tiny.picture(seed, SIZE, SIZE) for seed in (20, 21)]))
    for cls in range(3):
        expected = grad_cam_by_autograd(classifier, images, cls)
        found = grad_cam(classifier, images, torch.tensor([cls, cls]))
        torch.testing.assert_close(found[:, ::32, ::32], expected, atol=1e-4, rtol=0)
        assert found.shape == (2, SIZE, SIZE)
        assert found.dtype == torch.float32


def made_local(classifier: Classifier) -> Classifier:
    """A copy in which each cell of the last block sees one pixel, the one in the middle of its view.

    The kernels keep their centre alone, and squeeze-and-excitation, which looks at all cells, a constant.
    """
    local = copy.deepcopy(classifier)
    for layer in local.network.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size != (1, 1):
            middle = layer.kernel_size[0] // 2
            centre = layer.weight.data.sum((2, 3))
            layer.weight.data.zero_()
            layer.weight.data[:, :, middle, middle] = centre
        if isinstance(layer, SqueezeExcitation):
            layer.fc2.weight.data.zero_()
    return local


@pytest.mark.parametrize("size", [256, 300, 224])
def test_the_middle_of_a_cells_view_is_32_times_its_index(classifier: Classifier, size: int) -> None:
    """By autograd: which pixel a cell depends on, for the sizes of several models."""
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    made_local(classifier).network.features(pixels)[0, :, 3, 5].sum().backward()
    assert pixels.grad is not None
    seen = pixels.grad.abs().sum((0, 1)).nonzero()
    assert seen.tolist() == [[3 * 32, 5 * 32]]


def red_at(row: int, column: int) -> Tensor:
    """A grey picture with a red spot of 41 x 41 pixels: uint8 [1, SIZE, SIZE, 3]."""
    image = torch.full((1, SIZE, SIZE, 3), 128, dtype=torch.uint8)
    image[0, row - 20 : row + 21, column - 20 : column + 21] = torch.tensor([220, 30, 30], dtype=torch.uint8)
    return image


@pytest.mark.parametrize("row", [64, 192], ids=["top", "bottom"])
@pytest.mark.parametrize("column", [64, 192], ids=["left", "right"])
def test_the_evidence_is_found_in_the_corner_where_it_is(classifier: Classifier, row: int, column: int) -> None:
    local = made_local(classifier)
    with torch.no_grad():  # class 1 is made to mean "red": what a red spot adds to the features of grey
        grey = local.features(torch.full((1, SIZE, SIZE, 3), 128, dtype=torch.uint8))[0]
        added = local.features(red_at(128, 128))[0] - grey
        local.network.classifier[1].weight[1] = added - grey * (added @ grey) / (grey @ grey)
    heat = grad_cam(local, red_at(row, column), torch.tensor([1]))[0]
    assert divmod(int(heat.argmax()), SIZE) == (row, column)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    far = (abs(rows - row) >= 32) | (abs(columns - column) >= 32)
    assert heat[far].max() < 0.05
    assert heat[row, column] == 1


def test_no_evidence_is_an_empty_map(classifier: Classifier) -> None:
    with torch.no_grad():
        classifier.network.classifier[1].weight[2] = 0
    heat = grad_cam(classifier, red_at(64, 64), torch.tensor([2]))
    assert heat.abs().max() == 0


def test_the_overlay_leaves_the_picture_where_there_is_no_heat() -> None:
    image = np.full((1, 2, 3), 100, np.uint8)
    laid = overlay(image, np.array([[0, 1]], np.float32))
    assert laid[0, 0].tolist() == [100, 100, 100]
    # 35 % of 100 and 65 % of the ramp's last colour, 250, 240, 150: 197.5, 191, 132.5.
    assert np.abs(laid[0, 1] - [197.5, 191, 132.5]).max() <= 0.51


@pytest.mark.parametrize("size", [224, 300])
def test_no_stripes_run_into_the_edges(size: int) -> None:
    """The pixels beyond the last cell change as those before it do: no row or column there repeats the one before."""
    generator = torch.Generator().manual_seed(3)
    cells = torch.rand(1, -(-size // 32), -(-size // 32), generator=generator)
    heat = _over_pixels(cells, size, size)[0]
    torch.testing.assert_close(heat[::32, ::32], cells[0])
    for edge in (heat, heat.T):
        step = (edge[1:] - edge[:-1]).abs().mean(1)
        assert step[-8:-1].min() > 0.1 * step.mean()


def test_a_picture_of_one_cell_has_one_value() -> None:
    assert (_over_pixels(torch.full((1, 1, 1), 0.5), 32, 30) == 0.5).all()
