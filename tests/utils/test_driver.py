"""GPUs that are there and that this torch cannot use: said in one line, with both versions."""

from __future__ import annotations

import sys
import warnings
from types import SimpleNamespace

from skin.utils import driver, parallel
from skin.utils.errors import UserError
from tests import nvml

import pytest
import torch


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML sees two GPUs and a driver for CUDA 12.4, torch is built for 13.0 and warns that it finds none."""

    def warn() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=2)
        return False

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    nvml.install(monkeypatch, {"GPU-a": nvml.Gpu(), "GPU-b": nvml.Gpu()}, [], cuda_driver=12040)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", warn)  # a warning is an error in these tests


def test_a_driver_too_old_is_named_with_both_versions() -> None:
    assert driver.unusable_gpus() == (
        "2 NVIDIA GPUs cannot be used: the driver is for CUDA up to 12.4, this PyTorch for CUDA 13.0; "
        "update the driver, or install a PyTorch built for CUDA 12.4 or older"
    )


def test_a_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is built without CUDA; install one that is built with it" in str(driver.unusable_gpus())


@pytest.mark.parametrize("nothing", ["", "-1", "none"])
def test_gpus_that_the_user_hides_are_not_missed(monkeypatch: pytest.MonkeyPatch, nothing: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
    assert driver.unusable_gpus() is None


def test_a_number_that_no_gpu_has_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")  # of the driver's own major version: that would do
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "CUDA_VISIBLE_DEVICES=7 names no GPU of this machine" in str(driver.unusable_gpus())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "CUDA does not start (driver for CUDA 12.4, PyTorch for 12.8)" in str(driver.unusable_gpus())


def test_where_all_is_well_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert driver.unusable_gpus() is None


@pytest.mark.parametrize("module", [None, SimpleNamespace()])
def test_without_nvml_nothing_is_known(monkeypatch: pytest.MonkeyPatch, module: object) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert driver.unusable_gpus() is None


def test_a_machine_without_gpus_misses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.install(monkeypatch, {}, [], cuda_driver=12040)
    assert driver.unusable_gpus() is None


def test_gpus_that_were_asked_for_come_with_the_reason() -> None:
    message = r"--gpus 2: this machine has 0 visible GPUs; use --gpus 0, the CPU \(2 NVIDIA GPUs cannot be used"
    with pytest.raises(UserError, match=message), parallel.setup(2):
        pass
    with parallel.setup(0) as topology:  # a choice
        assert topology.kind == "CPU"
