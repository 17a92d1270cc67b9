"""Find GPUs that torch cannot use: it would take the CPU instead, many times slower."""

from __future__ import annotations

import os
import warnings

import torch

_NONE = {"", "-1", "none", "NoDevFiles"}  # values of CUDA_VISIBLE_DEVICES by which users ask for the CPU


def cuda_available() -> bool:
    """Return True if torch can use a GPU, without torch's own warning; `unusable_gpus` says more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def unusable_gpus() -> str | None:
    """Return one line on why torch cannot use the NVIDIA GPUs of this machine; None if it can, or there are none."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if cuda_available() or chosen in _NONE:
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        gpus, number = pynvml.nvmlDeviceGetCount(), pynvml.nvmlSystemGetCudaDriverVersion_v2()
    except Exception:  # no library, no driver, or NVML has failed in one of its many ways: nothing is known of a GPU
        return None
    if not gpus:
        return None
    driver, built = f"{number // 1000}.{number % 1000 // 10}", torch.version.cuda
    found = f"{gpus} NVIDIA GPU{'s' if gpus > 1 else ''} cannot be used: "
    if built is None:
        return f"{found}this PyTorch ({torch.__version__}) is built without CUDA; install one that is built with it"
    if number // 1000 < int(built.split(".")[0]):  # within one major version any driver will do
        return (
            f"{found}the driver is for CUDA up to {driver}, this PyTorch for CUDA {built}; "
            f"update the driver, or install a PyTorch built for CUDA {driver} or older"
        )
    if chosen is not None:
        unknown = f"CUDA_VISIBLE_DEVICES={chosen} names no GPU of this machine"
        return f"{found}{unknown}; unset it, or name GPUs that there are"
    return f"{found}CUDA does not start (driver for CUDA {driver}, PyTorch for {built}); see what nvidia-smi says"
