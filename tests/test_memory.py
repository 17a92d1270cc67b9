"""Memory figures: peaks that rise and can be reset, and a GPU's as far as it tells them."""

from __future__ import annotations

import mmap
import sys

import pytest
import torch

from skin import memory
from skin.memory import GpuMemory, Memory

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux's")


@linux
def test_the_peak_counts_what_is_gone_again_until_it_is_reset() -> None:
    memory.reset_peaks([])
    before = memory.peak_rss_mib()
    with mmap.mmap(-1, 64 * memory.MIB) as block:  # past the allocator, which may have as much lying idle
        block.write(b"x" * len(block))
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


def test_nvml_that_fails_is_a_figure_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(device: torch.device) -> int:
        raise RuntimeError("Driver/library version mismatch")

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * memory.MIB)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 4 * memory.MIB)
    monkeypatch.setattr(torch.cuda, "device_memory_used", lambda device: 5 * memory.MIB)
    assert memory.read([torch.device("cuda", 0)]).gpus == (GpuMemory(3.0, 4.0, 5.0),)
    monkeypatch.setattr(torch.cuda, "device_memory_used", failing)
    assert memory.read([torch.device("cuda", 0)]).gpus == (GpuMemory(3.0, 4.0, None),)
