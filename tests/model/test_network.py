"""EfficientNet B0-B7: each model's own pictures, weights from wherever they come, and what is frozen."""

from __future__ import annotations

import hashlib
import urllib.error
from pathlib import Path
from typing import Any

from skin.data.images import Preprocess
from skin.model.choices import MODELS
from skin.model.network import Classifier, build, load_weights, preprocess_for
from skin.model.precision import Precision
from skin.utils.errors import UserError

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import functional as F

FILE_B0 = "efficientnet_b0_rwightman-7f5810bc.pth"  # the name torchvision 0.29 gives it
pytestmark = pytest.mark.usefixtures("published")


# ---- pictures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "resize", "crop", "interpolation"),
    [  # torchvision's table of EfficientNet weights; B1's DEFAULT is its second version
        ("efficientnet_b0", 256, 224, "bicubic"),
        ("efficientnet_b1", 255, 240, "bilinear"),
        ("efficientnet_b2", 288, 288, "bicubic"),
        ("efficientnet_b3", 320, 300, "bicubic"),
        ("efficientnet_b4", 384, 380, "bicubic"),
        ("efficientnet_b5", 456, 456, "bicubic"),
        ("efficientnet_b6", 528, 528, "bicubic"),
        ("efficientnet_b7", 600, 600, "bicubic"),
    ],
)
def test_each_models_own_preprocessing(name: str, resize: int, crop: int, interpolation: str) -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert preprocess_for(name) == Preprocess(crop, resize, interpolation, *imagenet)


def test_there_are_eight_models() -> None:
    assert tuple(f"efficientnet_b{n}" for n in range(8)) == MODELS


@pytest.mark.parametrize(
    ("name", "size", "resize"),
    [
        ("efficientnet_b0", 128, 128),
        ("efficientnet_b3", 301, 301),
        ("efficientnet_b3", 300, 320),  # its own
    ],
)
def test_another_size_is_the_shorter_sides(name: str, size: int, resize: int) -> None:
    found = preprocess_for(name, size)
    assert (found.image_size, found.resize_size) == (size, resize)


@pytest.mark.parametrize(("size", "message"), [(31, "32 is the least"), (5000, "at most 4096 pixels")])
def test_sizes_that_are_refused(size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        preprocess_for("efficientnet_b0", size)


def test_whatever_size_is_accepted_can_be_read_back_from_a_checkpoint() -> None:
    largest = preprocess_for("efficientnet_b2", 4096)
    assert Preprocess.from_dict(largest.to_dict()) == largest


# ---- the classifier ------------------------------------------------------------------------------------


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(build("efficientnet_b0", 5), preprocess_for("efficientnet_b0", 32), Precision("cpu", None))


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_normalisation_is_torchvisions(classifier: Classifier, images: Tensor) -> None:
    expected = F.normalize(
        images.permute(0, 3, 1, 2) / 255, classifier.preprocess.mean, classifier.preprocess.std
    )
    torch.testing.assert_close(classifier.normalise(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_bytes_in_float32_logits_out(images: Tensor, dtype: torch.dtype | None) -> None:
    network = build("efficientnet_b0", 5)
    model = Classifier(network, preprocess_for("efficientnet_b0", 32), Precision("cpu", dtype)).eval()
    with torch.no_grad():
        features = model.features(images)
        logits = model(images)
    assert (features.shape, features.dtype) == ((4, 1280), torch.float32)
    assert (logits.shape, logits.dtype) == ((4, 5), torch.float32)
    torch.testing.assert_close(model.head(features), logits)


def test_the_classifier_is_the_network_on_normalised_images(classifier: Classifier, images: Tensor) -> None:
    classifier.eval()
    with torch.no_grad():
        expected = classifier.network(classifier.normalise(images))
        torch.testing.assert_close(classifier(images), expected)


def test_only_the_network_is_saved(classifier: Classifier) -> None:
    assert all(name.startswith("network.") for name in classifier.state_dict())


@pytest.mark.parametrize(("name", "features"), [("efficientnet_b0", 1280), ("efficientnet_b3", 1536)])
def test_the_head_has_an_output_for_each_class(name: str, features: int) -> None:
    with torch.device("meta"):
        head: Any = build(name, 7).classifier[1]
    assert (head.in_features, head.out_features) == (features, 7)


# ---- freezing ------------------------------------------------------------------------------------------


def statistics(classifier: Classifier) -> list[Tensor]:
    return [buffer.clone() for buffer in classifier.network.buffers()]


def test_a_frozen_body_keeps_its_weights_and_its_batchnorm_statistics(classifier: Classifier, images: Tensor) -> None:
    classifier.train()
    classifier.freeze(True)
    before = statistics(classifier)
    classifier.train()  # as the loop does in every epoch
    classifier(images).sum().backward()
    assert all(map(torch.equal, before, statistics(classifier)))
    trained = [name for name, p in classifier.named_parameters() if p.grad is not None]
    assert trained == ["network.classifier.1.weight", "network.classifier.1.bias"]
    assert classifier.network.classifier[0].training  # dropout of the head goes on


def test_a_freed_body_learns_again(classifier: Classifier, images: Tensor) -> None:
    classifier.train()
    classifier.freeze(True)
    classifier.freeze(False)
    before = statistics(classifier)
    classifier(images).sum().backward()
    assert not any(map(torch.equal, before[:2], statistics(classifier)[:2]))
    assert all(p.grad is not None for p in classifier.parameters())


def test_freezing_outside_training_does_not_start_it(classifier: Classifier) -> None:
    classifier.eval()
    classifier.freeze(True)
    classifier.freeze(False)
    assert not any(module.training for module in classifier.modules())


# ---- weights -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imagenet_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like torchvision's: a B0's state_dict with a head of 1000 classes."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "b0.pth"
    torch.save(build("efficientnet_b0", 1000).state_dict(), path)
    return path


def fingerprint(module: nn.Module) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in module.state_dict().values())).hexdigest()


def test_a_head_of_1000_classes_is_dropped_and_the_body_taken(imagenet_like: Path) -> None:
    network = build("efficientnet_b0", 7)
    head = fingerprint(network.classifier)
    assert load_weights(network, "efficientnet_b0", str(imagenet_like)) == str(imagenet_like)
    expected = torch.load(imagenet_like, weights_only=True)
    for name, value in network.features.state_dict().items():
        assert torch.equal(value, expected[f"features.{name}"])
    assert fingerprint(network.classifier) == head


def test_the_weights_of_a_checkpoint_of_ours_are_taken(imagenet_like: Path, tmp_path: Path) -> None:
    state = torch.load(imagenet_like, weights_only=True)
    torch.save({"format_version": 1, "model": state, "classes": ["a"]}, tmp_path / "best.pt")
    one, other = build("efficientnet_b0", 7), build("efficientnet_b0", 7)
    load_weights(one, "efficientnet_b0", str(imagenet_like))
    load_weights(other, "efficientnet_b0", str(tmp_path / "best.pt"))
    assert fingerprint(one.features) == fingerprint(other.features)


def test_no_weights_touch_nothing() -> None:
    network = build("efficientnet_b0", 7)
    before = fingerprint(network)
    assert load_weights(network, "efficientnet_b0", "none") == "random (trained from scratch)"
    assert fingerprint(network) == before


def refused(name: str, weights: Path) -> str:
    network = build(name, 7)
    before = fingerprint(network)
    with pytest.raises(UserError) as error:
        load_weights(network, name, str(weights))
    assert fingerprint(network) == before  # nothing half-loaded
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_of_a_deeper_model_name_the_tensor(imagenet_like: Path) -> None:
    assert refused("efficientnet_b1", imagenet_like) == (
        f"--weights {imagenet_like}: not a state_dict of efficientnet_b1: "
        "it lacks tensor features.1.1.block.0.0.weight"
    )


def test_weights_of_a_wider_model_name_the_tensor_and_both_shapes(tmp_path: Path) -> None:
    state = build("efficientnet_b0", 7).state_dict()
    state["features.0.0.weight"] = torch.zeros(40, 3, 3, 3)
    torch.save(state, tmp_path / "wide.pth")
    assert refused("efficientnet_b0", tmp_path / "wide.pth").endswith(
        "features.0.0.weight is (40, 3, 3, 3), (32, 3, 3, 3) is needed"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"features.0.0.weight": "none"}, "it lacks tensor"),
        ({"module.features.0.0.weight": torch.zeros(1)}, "it lacks tensor features.0.0.weight"),
        ({1: torch.zeros(1)}, "its keys are not names of tensors"),
        ([1, 2], "holds a list"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=message):
        load_weights(build("efficientnet_b0", 7), "efficientnet_b0", str(tmp_path / "odd.pth"))


def test_a_file_that_is_not_there_or_not_torchs(tmp_path: Path) -> None:
    assert "no.pth" in refused("efficientnet_b0", tmp_path / "no.pth")
    (tmp_path / "text.pth").write_text("weights")
    assert "text.pth" in refused("efficientnet_b0", tmp_path / "text.pth")


# ---- ImageNet's, without a network ---------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache folder, empty, on a machine without a network."""

    def offline(*args: object, **keywords: object) -> None:
        raise urllib.error.URLError("Temporary failure in name resolution")

    monkeypatch.setattr(torch.hub, "urlopen", offline)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_offline_the_file_its_folder_and_the_option_are_named_in_one_line(hub: Path) -> None:
    with pytest.raises(UserError) as error:
        load_weights(build("efficientnet_b0", 7), "efficientnet_b0", "imagenet")
    assert str(error.value) == (
        "cannot download the ImageNet weights of efficientnet_b0 (Temporary failure in name resolution); "
        f"put the file {FILE_B0} into {hub}, or use --weights PATH or --weights none"
    )


def test_a_file_put_where_it_is_looked_for_is_used(hub: Path, imagenet_like: Path) -> None:
    hub.mkdir(parents=True)
    (hub / FILE_B0).write_bytes(imagenet_like.read_bytes())
    network, expected = build("efficientnet_b0", 7), build("efficientnet_b0", 7)
    assert load_weights(network, "efficientnet_b0", "imagenet") == "ImageNet (torchvision)"
    load_weights(expected, "efficientnet_b0", str(imagenet_like))
    assert fingerprint(network.features) == fingerprint(expected.features)


@pytest.mark.parametrize("content", [b"", b"half a file", b"PK\x03\x04" + bytes(100)])
def test_a_broken_file_there_is_named(hub: Path, content: bytes) -> None:
    hub.mkdir(parents=True)
    (hub / FILE_B0).write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read the ImageNet weights .*; remove it, and it is fetched anew"):
        load_weights(build("efficientnet_b0", 7), "efficientnet_b0", "imagenet")


def test_the_head_is_float32_under_autocast_and_answers_agree_with_it() -> None:
    network = build("efficientnet_b0", 7).eval()
    classifier = Classifier(network, preprocess_for("efficientnet_b0", 64), Precision("cpu", torch.bfloat16))
    classifier.eval()
    features = torch.randn(300, 1280, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(classifier.head(features), network.classifier(features), rtol=0, atol=0)
        images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
        logits, traits = classifier.answers(images)
        torch.testing.assert_close(logits, classifier(images), rtol=0, atol=0)
        torch.testing.assert_close(traits[:, -1280:], classifier.features(images), rtol=0, atol=0)
    assert traits.shape[1] == sum(classifier.widths())
    assert (traits[:, -1280:] != traits[:, -1280:].bfloat16().float()).any()  # the mean is not rounded, either
