"""Memory figures: peaks that rise and can be reset, and a GPU's as far as it tells them."""

from __future__ import annotations

import mmap
import sys

from skin.utils import memory
from skin.utils.memory import GpuMemory, Memory
from skin.utils.parallel import Topology
from tests import nvml

import pytest
import torch

FIRST = torch.device("cuda", 0)

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux's")


@linux
def test_the_peak_counts_what_is_gone_again_until_it_is_reset() -> None:
    memory.reset_peaks([])
    before = memory.peak_rss_mib()
    with mmap.mmap(-1, 64 * memory.MIB) as block:  # past the allocator, which may keep what it is given back
        for _ in range(64):
            block.write(b"x" * memory.MIB)
    assert memory.peak_rss_mib() >= before + 60
    memory.reset_peaks([])
    assert memory.peak_rss_mib() < before + 60


def test_without_proc_the_peak_is_the_whole_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*args: object, **keywords: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(memory.Path, "read_text", gone)
    monkeypatch.setattr(memory.Path, "write_text", gone)
    memory.reset_peaks([])
    assert 50 < memory.peak_rss_mib() < 100_000


def test_a_reading_of_the_cpu_is_its_rss() -> None:
    reading = memory.read([])
    assert reading.gpus == ()
    assert reading.peak_mib == reading.peak_rss_mib > 50
    assert str(Memory((), 1234.5)) == "1,234 MiB RSS"
    assert reading.to_dict() == {"gpus": (), "peak_rss_mib": reading.peak_rss_mib}


def test_a_reading_of_gpus_is_compared_by_the_fullest() -> None:
    reading = Memory((GpuMemory(1000.0, 1500.0, 2000.0), GpuMemory(1200.0, 1400.0, None)), 900.0)
    assert reading.peak_mib == 1200.0
    assert str(reading) == (
        "GPU 0: 1,000 MiB allocated, 1,500 reserved, 2,000 NVML; GPU 1: 1,200 MiB allocated, 1,400 reserved"
    )


@pytest.fixture
def torchs_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * memory.MIB)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 4 * memory.MIB)


@pytest.mark.usefixtures("torchs_figures")
def test_nvml_that_fails_is_a_figure_less(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.install(monkeypatch, {"GPU-a": nvml.Gpu(used=5 * memory.MIB)}, ["a"])
    assert memory.read([FIRST]).gpus == (GpuMemory(3.0, 4.0, 5.0),)
    nvml.install(monkeypatch, {"GPU-a": nvml.Gpu(used=RuntimeError("Driver/library version mismatch"))}, ["a"])
    assert memory.read([FIRST]).gpus == (GpuMemory(3.0, 4.0, None),)


def test_without_pynvml_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.install(monkeypatch, {}, ["a"])
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it raises
    assert memory.nvml_used_mib(FIRST) is None


def test_nvml_is_asked_about_the_gpu_that_cuda_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's first GPU is the faster one, NVML's the one in the first slot; a slice is named by another prefix."""
    slow, fast, part = (nvml.Gpu(used=n * memory.MIB) for n in (1, 2, 3))
    nvml.install(monkeypatch, {"GPU-slow": slow, "GPU-fast": fast, "MIG-part": part}, ["fast", "slow", "part"])
    assert [memory.nvml_used_mib(torch.device("cuda", n)) for n in range(3)] == [2.0, 1.0, 3.0]


def test_cuda_is_started_before_its_counters_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "init", lambda: calls.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append(str(device)))
    memory.reset_peaks([])
    assert calls == []
    memory.reset_peaks([FIRST])
    assert calls == ["init", "cuda:0"]


def test_a_run_of_several_processes_has_the_gpus_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = GpuMemory(1.0, 2.0, None), GpuMemory(3.0, 4.0, None)
    readings = [Memory((first,), 100.0), Memory((second,), 200.0)]
    monkeypatch.setattr(Topology, "gather", lambda self, value: readings)
    assert memory.read_all(Topology(torch.device("cpu"), world=2)) == Memory((first, second), 200.0)
