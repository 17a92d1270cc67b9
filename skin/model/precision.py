"""One policy for mixed precision: the dtype of autocast, and the scaling of gradients.

float16 has five exponent bits: small gradients vanish, so the loss is scaled up by a `GradScaler`
before backward. bfloat16 has float32's range and needs no scaling. Both take the same code path as float32,
where autocast and the scaler are switched off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from skin.utils.errors import UserError

import torch

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "off": None}


@dataclass(frozen=True)
class Precision:
    """The dtype of a forward pass on `device_type` ("cpu" or "cuda"); `dtype` None is float32."""

    device_type: str
    dtype: torch.dtype | None

    def autocast(self) -> torch.autocast:
        """Return the autocast context for one forward pass.

        Enter it inside the module's `forward`: `nn.DataParallel` runs its replicas in threads of their
        own, which inherit that autocast is on but not its dtype.
        """
        enabled = self.dtype is not None
        return torch.autocast(self.device_type, dtype=self.dtype or torch.bfloat16, enabled=enabled)

    def make_scaler(self) -> torch.amp.GradScaler:
        """Return a `GradScaler` that scales for float16; otherwise it passes everything through."""
        return torch.amp.GradScaler(self.device_type, enabled=self.dtype is torch.float16)

    @property
    def amp(self) -> str:
        """The `--amp` that asks for it: "fp16", "bf16" or "off"."""
        return next(name for name, dtype in _DTYPES.items() if dtype is self.dtype)

    def __str__(self) -> str:
        if self.dtype is torch.float16:
            return "float16 (autocast + GradScaler)"
        if self.dtype is torch.bfloat16:
            return "bfloat16 (autocast)"
        return "float32 (TF32 convolutions)" if self.device_type == "cuda" and convolutions_use_tf32() else "float32"


def convolutions_use_tf32() -> bool:
    """Return True if float32 convolutions may round their inputs to TF32 on this GPU (Ampere and later have it).

    Torch does so by default. `conv.fp32_precision` also answers if `allow_tf32`, its older name, would raise.
    """
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        return False
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return bool(convolutions.fp32_precision == "tf32")


def choose(amp: str, device: torch.device) -> Precision:
    """Return the precision that `--amp` asks for: "auto", "fp16", "bf16" or "off".

    "auto" is float16 with a GradScaler on CUDA, bfloat16 on a CPU with bfloat16 units, otherwise float32.
    """
    if amp != "auto" and amp not in _DTYPES:
        raise UserError(f"--amp {amp}: choose one of auto, fp16, bf16, off")
    return Precision(device.type, _automatic(device) if amp == "auto" else _DTYPES[amp])


def _automatic(device: torch.device) -> torch.dtype | None:
    if device.type == "cuda":
        return torch.float16
    # PyTorch 2.9, which a hosted notebook may have, lacks the function.
    units: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if any(units.get(u) for u in ("avx512_bf16", "amx_bf16", "bf16")) else None
