"""The branch of a network that takes what is known beside the pixels, such as age and sex."""

from __future__ import annotations

from typing import cast

from skin.data.metadata import Encoder

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import EfficientNet

HIDDEN = 32


class Branch(nn.Module):
    """Adds to the pooled features what the encoded metadata say.

    Its last layer is 0 at first: a new network answers by the pixels alone, and learns how far to trust the rest.
    """

    missing: Tensor  # float32 [M]

    def __init__(self, encoder: Encoder, features: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(encoder.width, HIDDEN)
        self.shift = nn.Linear(HIDDEN, features)
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.shift.bias)
        # On the CPU even where the layers are without memory, since it is in no state_dict.
        self.register_buffer("missing", torch.tensor(encoder.missing, device="cpu"), persistent=False)

    def forward(self, features: Tensor, metadata: Tensor | None) -> Tensor:
        """Return features, float32 [..., D], with metadata, float32 [..., M]; of None nothing is known."""
        known = self.missing.expand(len(features), -1) if metadata is None else metadata
        shift: Tensor = self.shift(F.silu(self.hidden(known)))
        return features + shift


def attach(network: EfficientNet, encoder: Encoder | None) -> None:
    """Give a network the branch of an encoder, as its module `metadata`; without an encoder it stays as it is."""
    if encoder is not None:
        network.metadata = Branch(encoder, network.classifier[1].in_features)


def branch_of(network: nn.Module) -> Branch | None:
    """Return the branch of a network; None if it takes the pixels alone."""
    return cast("Branch | None", getattr(network, "metadata", None))


def with_metadata(network: nn.Module, features: Tensor, metadata: Tensor | None) -> Tensor:
    """Return pooled features, float32 [B, D], with what the metadata say; as they are if there is no branch.

    Metadata [B, A, M], of which M may be 0, give features [B, A, D].
    """
    if metadata is not None and metadata.dim() == 3:
        features = features[:, None].expand(-1, metadata.shape[1], -1)
    branch = branch_of(network)
    return features if branch is None else branch(features, metadata)
