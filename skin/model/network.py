"""EfficientNet B0-B7: the network, its weights, its head, and its freezing.

`build` makes torchvision's network with a head of our size, and `load_weights` fills its body. The scripts call
`Classifier`: bytes in, logits out, with normalisation and autocast on the device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from skin.data.images import LARGEST_SIDE, Preprocess
from skin.data.metadata import Encoder
from skin.model.metadata import attach, with_metadata
from skin.model.precision import Precision
from skin.model.tensorfile import load
from skin.utils.errors import UserError

import torch
from torch import Tensor, nn
from torchvision.models import EfficientNet, get_model, get_model_weights

_NOT_BODY = ("classifier.", "metadata.")


def preprocess_for(name: str, image_size: int | None = None) -> Preprocess:
    """Return how a model's images are prepared: as for its ImageNet weights (B3: 320 pixels cropped to 300).

    Another `image_size` is that of the shorter side as well, so that nothing is cropped from it. Small pictures are
    for speed, and a lesion that fills its picture should still be seen with its border. The interpolation stays.
    """
    official: Any = get_model_weights(name).DEFAULT.transforms()
    crop = official.crop_size[0]
    size = crop if image_size is None else image_size
    resize = official.resize_size[0] if size == crop else size
    if size < 32:
        raise UserError(f"--image-size {size}: EfficientNet halves an image five times; 32 is the least")
    if resize > LARGEST_SIDE:
        raise UserError(f"--image-size {size}: images are kept with a shorter side of at most {LARGEST_SIDE} pixels")
    return Preprocess(
        image_size=size,
        resize_size=resize,
        interpolation=official.interpolation.value,
        mean=tuple(official.mean),
        std=tuple(official.std),
    )


def build(name: str, num_classes: int, encoder: Encoder | None = None) -> EfficientNet:
    """Build a torchvision EfficientNet with a new head for `num_classes`, randomly initialised.

    With an encoder it has a branch for metadata. Under `with torch.device("meta")` it costs nothing: shapes without
    memory.
    """
    network: EfficientNet = get_model(name, weights=None)
    network.classifier[1] = nn.Linear(network.classifier[1].in_features, num_classes)
    attach(network, encoder)
    return network


def load_weights(network: EfficientNet, name: str, weights: str) -> str:
    """Fill the network's body from `weights`, and return a line that says what was loaded.

    The head stays new, and so does a branch for metadata.

    Args:
        weights: "imagenet" (torchvision's own, downloaded once, with progress), "none", or the path of a
            state_dict or of one of our own checkpoints.

    Raises:
        UserError: the download failed, the file cannot be read, or it is of another architecture.
    """
    if weights == "none":
        return "random (trained from scratch)"
    state = _imagenet_state(name) if weights == "imagenet" else _file_state(Path(weights))
    body = {key: value for key, value in state.items() if not key.startswith(_NOT_BODY)}
    expected = {key: value for key, value in network.state_dict().items() if not key.startswith(_NOT_BODY)}
    for key in sorted(body.keys() ^ expected.keys()):
        verb = "lacks" if key in expected else "has the unknown"
        raise UserError(f"--weights {weights}: not a state_dict of {name}: it {verb} tensor {key}")
    for key, value in body.items():
        if not isinstance(value, Tensor) or value.shape != expected[key].shape:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"--weights {weights}: not a state_dict of {name}: {key} is {shape}, "
                f"{tuple(expected[key].shape)} is needed"
            )
    network.load_state_dict(body, strict=False)
    return "ImageNet (torchvision)" if weights == "imagenet" else str(weights)


def _imagenet_state(name: str) -> dict[str, Tensor]:
    official: Any = get_model_weights(name).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(official.url).path).name
    try:
        state: dict[str, Tensor] = official.get_state_dict(progress=True, check_hash=True, weights_only=True)
        return state
    except Exception as error:  # of the network, the disk or the unpickler: a file that is there may be broken
        if file.exists():
            raise UserError(f"cannot read the ImageNet weights {file}; remove it, and it is fetched anew") from error
        reason = getattr(error, "reason", error)
        raise UserError(
            f"cannot download the ImageNet weights of {name} ({reason}); put the file {file.name} into "
            f"{file.parent}, or use --weights PATH or --weights none"
        ) from error


def _file_state(path: Path) -> dict[str, Any]:
    state = load(path)
    state = state["model"] if isinstance(state.get("model"), dict) else state
    if not all(isinstance(key, str) for key in state):
        raise UserError(f"--weights {path}: not a state_dict: its keys are not names of tensors")
    return state


class Classifier(nn.Module):
    """The module from images as bytes to logits, which the scripts wrap, call and export.

    Normalisation and autocast are in here, so that both happen on the device, in each DataParallel replica, and in
    the same way everywhere. Only `network.state_dict()` is ever saved.

    A network with a branch for metadata takes them encoded, float32 [B, M]. Where they are None, as anywhere with a
    network of pixels alone, nothing is known of any image. Metadata [B, A, M] ask A times about each image, at little
    more than the cost of once: the logits are then [B, A, C].
    """

    factor: Tensor  # float32 [3]
    offset: Tensor

    def __init__(self, network: EfficientNet, preprocess: Preprocess, precision: Precision) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.preprocess = preprocess
        self.precision = precision
        self.frozen = False
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        self.register_buffer("factor", 1 / (255 * std), persistent=False)  # the images are bytes
        self.register_buffer("offset", -mean / std, persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 [B, H, W, 3] into float32 [B, 3, H, W], by rows: three channels alone would fill no vector.

        The bytes already lie in channels_last order.
        """
        b, h, w, c = images.shape
        pixels = images.reshape(b, h, w * c).float()
        torch.addcmul(self.offset.repeat(w), pixels, self.factor.repeat(w), out=pixels)  # in place: half the traffic
        return pixels.view(b, h, w, c).permute(0, 3, 1, 2)

    def features(self, images: Tensor) -> Tensor:
        """Return pooled features, float32 [B, D], of uint8 [B, H, W, 3] (D is 1280 for B0, 1536 for B3)."""
        with self.precision.autocast():
            maps = self.network.features(self.normalise(images))
        return self._pooled(maps)

    def answers(self, images: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits, float32 [B, C], and traits, float32 [B, T], of uint8 [B, H, W, 3].

        Traits are the mean of each feature map behind each of the network's stages; the last D of them are the
        pooled features. What a picture is made of shows in the early stages, which know more than the classes. They
        are of the pixels alone.
        """
        means = []
        with self.precision.autocast():
            maps = self.normalise(images)
            for stage in self.network.features:
                maps = stage(maps)
                means.append(self._pooled(maps))
        return self.head(means[-1], metadata), torch.cat(means, 1)

    def evidence(
        self, images: Tensor, classes: Tensor, metadata: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return logits, float32 [B, C], and what each cell of the last maps adds to the logit of a class per image.

        Args:
            images: uint8 [B, H, W, 3]. classes: int64 [B].

        Returns:
            The logits, and float32 [B, h, w], which add up to the class's logit without its bias, and without what
            the metadata add to it.
        """
        with self.precision.autocast():
            maps = self.network.features(self.normalise(images)).float()
        head: Any = self.network.classifier[1]
        weights = head.weight[classes].float() / (maps.shape[2] * maps.shape[3])
        return self.head(self._pooled(maps), metadata), torch.einsum("bdhw,bd->bhw", maps, weights)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        head: Any = self.network.classifier[1]
        return int(head.out_features)

    @torch.no_grad()
    def widths(self) -> list[int]:
        """Return the number of traits of each stage; the model must be in eval mode."""
        found = []
        with self.precision.autocast():  # layers made for bfloat16 take nothing else
            maps = self.normalise(torch.zeros((1, 32, 32, 3), dtype=torch.uint8, device=self.factor.device))
            for stage in self.network.features:
                maps = stage(maps)
                found.append(maps.shape[1])
        return found

    def _pooled(self, maps: Tensor) -> Tensor:
        """Return the mean of each map, float32 [B, D], of [B, D, h, w] in any precision."""
        return torch.flatten(self.network.avgpool(maps.float()), 1)

    def head(self, features: Tensor, metadata: Tensor | None = None) -> Tensor:
        """Return logits, float32 [B, C], of pooled features, float32 [B, D], and metadata.

        In float32 under autocast, too: bfloat16 has three digits, so that two classes often tied exactly, and their
        order decided.
        """
        with torch.autocast(self.precision.device_type, enabled=False):
            logits: Tensor = self.network.classifier(with_metadata(self.network, features, metadata))
            return logits

    def forward(self, images: Tensor, metadata: Tensor | None = None) -> Tensor:
        """Return logits, float32 [B, C], of uint8 [B, H, W, 3] and metadata, on the model's device."""
        return self.head(self.features(images), metadata)

    def freeze(self, frozen: bool) -> None:
        """Train the head and the branch for metadata alone (True), or everything (False).

        A frozen body's BatchNorm layers stay in eval mode: their statistics are part of what is frozen.
        """
        self.frozen = frozen
        self.network.features.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if self.frozen:
            self.network.features.eval()
        return self
