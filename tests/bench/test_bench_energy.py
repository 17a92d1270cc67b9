"""Energy by counters that wrap, go backwards or are not there."""

from __future__ import annotations

from pathlib import Path

from skin.bench import energy
from skin.bench.energy import Reading

import pytest
import torch


@pytest.mark.parametrize(
    ("before", "after", "joules"),
    [
        ([Reading(10.0), Reading(5.0)], [Reading(12.0), Reading(5.5)], 2.5),
        ([Reading(9.9e4, 1e5)], [Reading(10.0, 1e5)], 1010.0),  # over its range
        ([Reading(90.0)], [Reading(10.0)], None),  # backwards: the driver was reset
        ([Reading(5e3, 1e5)], [Reading(10.0, 1e5)], None),  # so was this one, far from its range
        ([Reading(10.0)], [Reading(10.0)], None),
        ([Reading(1e3, 9e3)], [Reading(5e3, 9e3)], None),  # at 500 W it could have gone over its range
        ([Reading(10.0), None], [Reading(12.0), Reading(1.0)], None),
        ([Reading(10.0)], [None], None),
        ([], [], None),
    ],
    ids=["sum", "overflow", "backwards", "reset", "stands still", "too long", "silent", "gone", "no counter"],
)
def test_the_joules_between_two_readings(
    before: list[Reading | None], after: list[Reading | None], joules: float | None
) -> None:
    assert energy.spent(before, after, seconds=20.0) == joules


def zone(folder: Path, name: str, kind: str, microjoules: str) -> None:
    (folder / name).mkdir()
    (folder / name / "name").write_text(kind + "\n")
    (folder / name / "energy_uj").write_text(microjoules + "\n")
    (folder / name / "max_energy_range_uj").write_text("262143328850\n")


def test_rapl_counts_each_processor_once(tmp_path: Path) -> None:
    """Its cores are part of it, and it is part of the whole machine; the second processor's file cannot be read."""
    zone(tmp_path, "intel-rapl:0", "package-0", "1500000")
    zone(tmp_path, "intel-rapl:0:0", "core", "700000")
    zone(tmp_path, "intel-rapl:1", "package-1", "busy")
    zone(tmp_path, "intel-rapl:2", "psys", "2100000")
    assert energy.read([], tmp_path) == [Reading(1.5, 262143.32885), None]
    assert energy.read([], tmp_path / "nowhere") == []


def test_nvml_counts_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {torch.device("cuda", 0): 2500, torch.device("cuda", 1): None}
    monkeypatch.setattr(energy, "ask_nvml", lambda question, device: answers[device])
    assert energy.read(list(answers)) == [Reading(2.5), None]
