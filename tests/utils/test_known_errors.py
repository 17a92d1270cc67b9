"""Faults of machine and processes, each as one line that says what to do."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import re
import subprocess
import sys
import venv
from pathlib import Path

from skin.utils import known_errors, memory
from skin.utils.errors import UserError
from skin.utils.known_errors import advice_on, as_user_errors, is_out_of_memory
from tests import nvml

import pytest
import torch
import torch.distributed as dist

WORKER = "DataLoader worker (pid 123) is killed by signal: Killed. "
GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4242"
LATE = "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), r"for 32 images .*-size 16$"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "--batch-size 16"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "fewer --workers"),
        (RuntimeError("std::bad_alloc"), "this machine has too little memory"),
        (MemoryError(), "this machine has too little memory"),
        (OSError(12, "Cannot allocate memory"), "this machine has too little memory"),
        (RuntimeError(WORKER), r"loader process 123 is killed by signal: Killed .*fewer --workers"),
        (RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"), "loader process 12, 13 exited"),
        (RuntimeError("DataLoader worker (pid 1) is killed by signal: Bus error. It is possible that"), "/dev/shm"),
        (RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"), "/dev/shm"),
        (RuntimeError(GLOO), "another of the training processes has ended"),
        (RuntimeError(LATE), "has not answered in time"),
        (dist.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited"), "has ended"),
        (dist.DistNetworkError("The client socket has timed out after 60000ms"), "has not answered in time"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure\nmore"), r"unspecified launch failure$"),
        (RuntimeError("Symlink loop from '/a/b'"), "'/a/b': a link that leads back to itself"),
        (RuntimeError("Too many open files. Communication"), r"by ulimit -n 4096, or fewer --workers$"),
        (OSError(24, "Too many open files", "/a/b.jpg"), "by ulimit -n 4096, or fewer --workers$"),
        (OSError(28, "No space left on device", "/a/curves.png"), "No space left on device: /a/curves.png"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line(error: Exception, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught, as_user_errors(batch_size=32):
        raise error
    assert str(caught.value).isprintable()


def test_it_says_how_to_go_on() -> None:
    with pytest.raises(UserError, match=r"; --resume goes on$"), as_user_errors(32, lambda: "--resume goes on"):
        raise RuntimeError(WORKER)


def test_a_batch_of_one_cannot_be_halved() -> None:
    line = advice_on(torch.OutOfMemoryError("CUDA out of memory."), 1)
    assert line is not None
    assert "--image-size" in line


def test_a_script_without_batches_is_not_told_of_loaders() -> None:
    assert advice_on(MemoryError()) == (
        "this machine has too little memory: end what else uses it, or use a smaller model"
    )


def test_no_room_for_a_lock_between_processes_is_too_little_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", full)
    said = r"shared memory \(/dev/shm\): enlarge it, or use --workers 0"
    with pytest.raises(UserError, match=said), as_user_errors():
        multiprocessing.Event()


def test_what_is_not_known_is_left_as_it_is() -> None:
    """A mistake in the program is a traceback, not a line that hides it."""
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught, as_user_errors():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize("failure", [ModuleNotFoundError("pynvml"), RuntimeError("GPU is lost"), OSError(5, "io")])
def test_nvml_that_is_missing_or_fails_halfway_costs_a_figure(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = {"GPU-a": nvml.Gpu(used=2 * memory.MIB), "GPU-b": nvml.Gpu(used=failure)}
    nvml.install(monkeypatch, gpus, ["a", "b"])
    for name in ("max_memory_allocated", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda device: memory.MIB)
    usage = memory.read([torch.device("cuda", 0), torch.device("cuda", 1)])
    assert [gpu.nvml_used_mib for gpu in usage.gpus] == [2.0, None]
    assert str(usage).count("NVML") == 1


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("shape mismatch"), False),
        ("torch.OutOfMemoryError: CUDA out of memory.", True),
        ("RuntimeError: shape mismatch", False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception | str, is_one: bool) -> None:
    assert is_out_of_memory(error) == is_one


def test_a_package_is_missing_since_the_environment_is_not_activated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.create(tmp_path / ".venv", symlinks=True)
    monkeypatch.setattr(known_errors, "_ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    line = advice_on(ModuleNotFoundError("No module named 'cv2'", name="cv2")) or ""
    command = re.fullmatch(r"the package cv2 is not installed for \S+: run `(.+)` first", line)
    assert command is not None
    assert command[1] == "source .venv/bin/activate"
    followed = ["bash", "-c", f"{command[1]} && python -c 'import sys; print(sys.prefix)'"]
    done = subprocess.run(followed, capture_output=True, text=True, timeout=60)
    assert Path(done.stdout.strip()).resolve() == (tmp_path / ".venv").resolve()


@pytest.mark.parametrize("active", [True, False], ids=["in-the-environment", "no-environment"])
def test_a_package_is_missing_since_it_was_never_installed(
    active: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_errors, "_ROOT", tmp_path)
    if active:
        venv.create(tmp_path / ".venv", symlinks=True)
        monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.chdir(tmp_path)
    line = advice_on(ModuleNotFoundError("No module named 'cv2.x'", name="cv2.x"))
    install = f"{sys.executable} -m pip install -r requirements.txt"
    assert line == f"the package cv2 is not installed: run `{install}`"


def test_a_module_of_ours_that_is_missing_is_a_bug() -> None:
    assert advice_on(ModuleNotFoundError("No module named 'skin.none'", name="skin.none")) is None
    assert advice_on(ModuleNotFoundError("none is named")) is None
