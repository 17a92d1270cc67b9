"""One policy for mixed precision: what --amp becomes on each kind of device."""

from __future__ import annotations

from types import SimpleNamespace

from skin.model.precision import Precision, choose
from skin.utils.errors import UserError

import pytest
import torch

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("amp", "device", "units", "dtype"),
    [
        ("off", CPU, {"avx512_bf16": True}, None),
        ("off", CUDA, {}, None),
        ("bf16", CPU, {}, torch.bfloat16),
        ("bf16", CUDA, {}, torch.bfloat16),
        ("fp16", CPU, {}, torch.float16),
        ("fp16", CUDA, {}, torch.float16),
        ("auto", CUDA, {}, torch.float16),
        ("auto", CPU, {"avx512_bf16": True}, torch.bfloat16),
        ("auto", CPU, {"amx_bf16": True, "avx2": True}, torch.bfloat16),
        ("auto", CPU, {"avx2": True, "avx512_bf16": False}, None),
    ],
)
def test_what_amp_becomes(
    monkeypatch: pytest.MonkeyPatch, amp: str, device: torch.device, units: dict[str, bool], dtype: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert choose(amp, device) == Precision(device.type, dtype)


def test_another_word_is_refused_with_the_choices() -> None:
    with pytest.raises(UserError, match="--amp fp8: choose one of auto, fp16, bf16, off"):
        choose("fp8", CPU)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None])
def test_matrix_products_are_computed_in_the_chosen_dtype(dtype: torch.dtype | None) -> None:
    with Precision("cpu", dtype).autocast():
        product = torch.ones(2, 3) @ torch.ones(3, 2)
    assert product.dtype == (dtype or torch.float32)


@pytest.mark.parametrize(("dtype", "scales"), [(torch.float16, True), (torch.bfloat16, False), (None, False)])
def test_only_float16_gradients_are_scaled(dtype: torch.dtype | None, scales: bool) -> None:
    scaler = Precision("cpu", dtype).make_scaler()
    assert scaler.is_enabled() is scales
    assert float(scaler.scale(torch.tensor(1.0))) == (65536.0 if scales else 1.0)


def test_a_precision_says_what_it_is() -> None:
    said = [str(Precision("cuda", dtype)) for dtype in (torch.float16, torch.bfloat16, None)]
    assert said == ["float16 (autocast + GradScaler)", "bfloat16 (autocast)", "float32"]


@pytest.mark.parametrize(
    ("capability", "allowed", "said"),
    [
        ((8, 0), "tf32", "float32 (TF32 convolutions)"),
        ((9, 0), "ieee", "float32"),
        ((8, 6), "none", "float32"),  # what allow_tf32 = False reads as
        ((7, 5), "tf32", "float32"),  # a GPU without TF32
    ],
)
def test_convolutions_in_tf32_are_not_called_float32(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], allowed: str, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(type(torch.backends.cudnn), "conv", SimpleNamespace(fp32_precision=allowed))
    assert str(Precision("cuda", None)) == said
    assert str(Precision("cpu", None)) == "float32"
    assert str(Precision("cuda", torch.bfloat16)) == "bfloat16 (autocast)"


def test_a_pytorch_that_does_not_tell_the_units_of_a_cpu_has_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose("auto", torch.device("cpu")).dtype is None
