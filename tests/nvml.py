"""NVML for machines without a GPU: a stand-in for `pynvml`, as far as skin/utils/memory.py and driver.py ask it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest


@dataclass
class Gpu:
    """What NVML says of one GPU; an exception is raised in place of an answer."""

    used: int | Exception = 0  # bytes
    percent: int | Exception = 0
    milliwatts: int | Exception = 0


class Nvml:
    """GPUs by the UUIDs that NVML gives them."""

    class NVMLError(Exception):
        """As pynvml's."""

    def __init__(self, gpus: dict[str, Gpu], cuda_driver: int) -> None:
        self.gpus = gpus
        self.cuda_driver = cuda_driver

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return self.cuda_driver

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Gpu:
        if uuid not in self.gpus:
            raise self.NVMLError("Not Found")
        return self.gpus[uuid]

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> SimpleNamespace:
        return SimpleNamespace(used=_answer(gpu.used))

    def nvmlDeviceGetUtilizationRates(self, gpu: Gpu) -> SimpleNamespace:
        return SimpleNamespace(gpu=_answer(gpu.percent))

    def nvmlDeviceGetPowerUsage(self, gpu: Gpu) -> int:
        return _answer(gpu.milliwatts)


def _answer(figure: int | Exception) -> int:
    if isinstance(figure, Exception):
        raise figure
    return figure


def install(
    monkeypatch: pytest.MonkeyPatch, gpus: dict[str, Gpu], cuda_uuids: list[str], cuda_driver: int = 13000
) -> None:
    """Let `import pynvml` find `gpus`, and CUDA know those of `cuda_uuids`, in its own order."""
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(gpus, cuda_driver))
    properties = [SimpleNamespace(uuid=uuid) for uuid in cuda_uuids]
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties[device.index])
