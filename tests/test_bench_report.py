"""The benchmark's rows: means and spreads, what follows from them, what is shown, compared and refused."""

from __future__ import annotations

import copy
import csv
import io
import json
from pathlib import Path
from typing import Any

from skin.bench import cases as cells
from skin.bench import plot as bench_plot
from skin.bench import report as bench_report
from skin.bench.options import RECIPES
from skin.utils.errors import UserError

import pytest
from PIL import Image
from rich.console import Console

ENVIRONMENT = {
    "python": "3.11", "torch": "2.14.1", "torchvision": "0.29.1", "cuda": None, "cudnn": None, "driver": None,
    "cpu": "A CPU", "cpu_flags": ["avx2"], "cores": 2, "usable_cores": 2, "threads": 2, "memory_mib": 1000.0,
    "platform": "Linux", "git_commit": None, "gpu_devices": [], "gpus_in_use_by_others": [],
}  # fmt: skip


def key(**different: Any) -> dict[str, Any]:
    return {
        "gpus": 0, "parallel": "single", "amp": "on", "recipe": "ours", "model": "efficientnet_b0", "image_size": 64,
        "batch_size": 8, "device": "A CPU", **different,
    }  # fmt: skip


def sample(speed: float, memory: float = 1024.0, gpus: int = 0) -> dict[str, Any]:
    figures: dict[str, Any] = dict.fromkeys(bench_report.FIGURES, 1.0)
    gpu = {"allocated_mib": memory, "reserved_mib": 2 * memory, "nvml_used_mib": None}
    gpu |= {"utilisation_percent": 90.0, "power_watts": None}
    figures |= {"images_per_second": speed, "memory": {"gpus": [gpu] * gpus, "rss_mib": memory}}
    return figures | {"precision": "bfloat16", "whole_epoch": False, "workers": 1, "cached": True}


def row(speeds: list[float], memory: float = 1024.0, **different: Any) -> dict[str, Any]:
    made = key(**different)
    return bench_report.row_of(made, [sample(s, memory, made["gpus"]) for s in speeds])


def report(*rows: dict[str, Any]) -> dict[str, Any]:
    bench_report.derive(list(rows))
    return {
        "schema": bench_report.SCHEMA, "kind": "training", "complete": True, "time": "", "command": "",
        "settings": {}, "train_images": 100, "environment": copy.deepcopy(ENVIRONMENT), "cells": list(rows),
    }  # fmt: skip


def shown(*rows: dict[str, Any]) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100).print(bench_report.table(list(rows)))
    return stream.getvalue()


def test_a_row_is_the_mean_over_rounds_with_its_spread() -> None:
    found = row([10.0, 14.0, 12.0])
    assert found["images_per_second"] == 12.0
    assert found["spread"]["images_per_second"] == {"low": 10.0, "high": 14.0, "std": 2.0}
    assert found["samples"]["images_per_second"] == [10.0, 14.0, 12.0]
    assert found["rounds"] == 3


def test_one_round_has_no_standard_deviation() -> None:
    assert row([10.0])["spread"]["images_per_second"]["std"] is None


def test_of_each_gpu_the_highest_peak_the_mean_activity_and_the_spread() -> None:
    """Two rounds on two GPUs; NVML is silent about the second's power in the first round."""
    rounds = [sample(1.0, gpus=2), sample(1.0, gpus=2)]
    figures = [[(1000.0, 80.0, 200.0), (500.0, 70.0, None)], [(1100.0, 90.0, 300.0), (500.0, 70.0, 150.0)]]
    for one, gpus in zip(rounds, figures, strict=True):
        one["memory"]["gpus"] = [
            {**gpu, "allocated_mib": mib, "utilisation_percent": percent, "power_watts": watts}
            for gpu, (mib, percent, watts) in zip(one["memory"]["gpus"], gpus, strict=True)
        ]
    made = bench_report.row_of(key(gpus=2), rounds)
    first, second = made["memory"]["gpus"]
    assert (first["allocated_mib"], first["utilisation_percent"], first["power_watts"]) == (1100.0, 85.0, 250.0)
    assert (second["power_watts"], second["nvml_used_mib"]) == (150.0, None)
    spread = made["spread"]["gpus"]
    assert spread[0]["power_watts"] == {"low": 200.0, "high": 300.0, "std": pytest.approx(100 / 2**0.5)}
    assert spread[1]["power_watts"] == {"low": 150.0, "high": 150.0, "std": None}
    assert spread[1]["nvml_used_mib"] == {"low": None, "high": None, "std": None}
    assert made["samples"]["gpus"][1]["power_watts"] == [None, 150.0]


def test_scaling_amp_and_plain_are_compared_with_the_right_cells() -> None:
    rows = [
        row([100.0], gpus=1, device="G"),
        row([50.0], 2048.0, gpus=1, amp="off", device="G"),
        row([20.0], 4096.0, gpus=1, amp="off", recipe="plain", device="G"),
        row([180.0], gpus=2, parallel="ddp", device="G"),
        row([40.0], gpus=2, parallel="dp", amp="off", recipe="plain", device="G"),
    ]
    bench_report.derive(rows)
    assert rows[0]["amp_speedup"] == 2.0
    assert rows[0]["amp_memory_ratio"] == 0.5
    assert rows[0]["speedup_over_plain"] == 5.0
    assert rows[0]["scaling_efficiency"] is None
    assert rows[2]["speedup_over_plain"] is None
    assert rows[3]["scaling_efficiency"] == 0.9
    assert rows[3]["speedup_over_plain"] == 4.5  # the plain recipe knows DataParallel only


def test_the_fullest_gpu_counts_and_without_gpus_the_process() -> None:
    made = row([1.0], 700.0, gpus=2)
    made["memory"]["gpus"][1]["allocated_mib"] = 900.0
    assert bench_report.peak_mib(made) == 900.0
    assert bench_report.peak_mib(row([1.0], 700.0)) == 700.0


def test_a_report_fits_its_schema_and_survives_json() -> None:
    whole = report(row([1.0, 2.0]), row([3.0], gpus=1), bench_report.empty_row(key(gpus=4), "skipped", "no GPU"))
    assert bench_report.problems(json.loads(json.dumps(whole))) == []


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (lambda r: r.pop("cells"), "report lacks cells"),
        (lambda r: r.update(schema="1"), "report.schema is str"),
        (lambda r: r["environment"].update(cores=True), "report.environment.cores is bool"),
        (lambda r: r["cells"][0].update(loss="low"), "report.cells[0].loss is str"),
        (lambda r: r["cells"][0]["memory"].update(gpus={}), "report.cells[0].memory.gpus is dict, not a list"),
        (lambda r: r.update(environment=[]), "report.environment is list, not an object"),
    ],
)
def test_what_does_not_fit_the_schema_is_named(break_it: Any, problem: str) -> None:
    broken = report(row([1.0]))
    break_it(broken)
    assert bench_report.problems(broken) == [problem]


def test_the_table_says_how_it_came_by_the_epochs_seconds() -> None:
    part, whole = row([1.0]), {**row([1.0]), "whole_epoch": True}
    assert "epoch s: reckoned from images/s" in " ".join(shown(part).split())
    assert "epoch s: of an epoch timed whole" in " ".join(shown(whole).split())


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"schema": 3}', '{"schema": "x"}'])
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "old.json").write_text(content)
    with pytest.raises(UserError, match=r"old\.json"):
        bench_report.read(tmp_path / "old.json")


def test_the_table_fits_a_hundred_columns_and_says_why_rows_are_empty() -> None:
    rows = [
        row([12345.6, 12345.0], 81234.0, gpus=4, parallel="ddp", recipe="plain-channels-last", amp="off"),
        *(bench_report.empty_row(key(gpus=2, parallel="dp", amp=amp), "skipped", "no GPU") for amp in ("on", "off")),
        bench_report.empty_row(key(), "oom", "out of memory"),
    ]
    lines = shown(*rows).splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in shown(*rows)
    assert sum("skipped" in line for line in lines) == 1
    assert bench_report.notes(rows)[:2] == ["2 GPUs dp skipped: no GPU", "CPU ours amp on oom: out of memory"]


def test_the_csv_has_a_line_for_each_cell(tmp_path: Path) -> None:
    bench_report.write_csv([row([2.0, 4.0], gpus=1), bench_report.empty_row(key(), "oom", "big")], tmp_path / "b.csv")
    lines = list(csv.DictReader((tmp_path / "b.csv").read_text().splitlines()))
    assert [line["status"] for line in lines] == ["ok", "oom"]
    assert lines[0]["images_per_second"] == "3"
    assert lines[0]["images_per_second_std"] == "1.41421"
    assert lines[0]["gpu_allocated_mib"] == "1024"
    assert lines[1]["images_per_second"] == ""


@pytest.mark.parametrize(
    ("speeds", "verdict"), [([9.0, 9.2], "SLOWER"), ([12.0, 12.2], "FASTER"), ([10.0, 10.6], "within the spread")]
)
def test_a_change_beyond_the_spread_of_both_is_called_one(speeds: list[float], verdict: str) -> None:
    old = report(row([10.0, 10.4]))  # spread 2 %
    lines = bench_report.compare(report(row(speeds)), old)
    assert lines[-1].endswith(verdict)


def test_another_machine_is_said_and_only_ratios_are_compared() -> None:
    plain: dict[str, Any] = {"recipe": "plain", "amp": "off"}
    old = report(row([30.0]), row([10.0], **plain))
    old["environment"]["cpu"] = "Another CPU"
    now = report(row([120.0]), row([20.0], **plain))
    lines = bench_report.compare(now, old)
    assert "another machine" in lines[0]
    assert len(lines) == 2
    assert "3.00 -> 6.00 times the plain recipe" in lines[1]


def test_gpus_that_an_earlier_run_did_not_measure_are_no_other_machine() -> None:
    """Then the CPU alone, now the CPU and a GPU of the same machine."""
    gpu = {"name": "A GPU", "uuid": None, "memory_mib": 1, "compute_capability": "9.0"}
    now = report(row([10.0]), row([90.0], gpus=1, device="A GPU"))
    now["environment"]["gpu_devices"] = [gpu]
    lines = bench_report.compare(now, report(row([10.0])))
    assert lines == ["CPU ours amp on: 10.00 -> 10.00 images/s (+0.0%, spread 10.0%): within the spread"]


def test_another_gpu_is_another_machine_for_its_rows_alone() -> None:
    plain: dict[str, Any] = {"recipe": "plain", "amp": "off", "gpus": 1}
    old = report(row([10.0]), row([300.0], gpus=1, device="Old GPU"), row([100.0], **plain, device="Old GPU"))
    now = report(row([10.0]), row([900.0], gpus=1, device="New GPU"), row([150.0], **plain, device="New GPU"))
    lines = bench_report.compare(now, old)
    assert "another machine (A CPU, Old GPU)" in lines[0]
    assert [line.partition(" (")[0] for line in lines[1:]] == [
        "CPU ours amp on: 10.00 -> 10.00 images/s",
        "1 GPU ours amp on: 3.00 -> 6.00 times the plain recipe",
    ]


def test_a_ratio_is_as_uncertain_as_both_of_its_speeds() -> None:
    """Half the range over the mean: ours 1 % then, 0 % now; the plain recipe 10 % then, 2 % now."""
    plain: dict[str, Any] = {"recipe": "plain", "amp": "off"}
    old = report(row([99.0, 101.0]), row([9.0, 11.0], **plain))
    old["environment"]["cpu"] = "Another CPU"
    now = report(row([90.0, 90.0]), row([9.8, 10.2], **plain))
    lines = bench_report.compare(now, old)
    assert lines[1].endswith("10.00 -> 9.00 times the plain recipe (-10.0%, spread 13.0%): within the spread")


def test_another_schema_is_said() -> None:
    assert bench_report.compare(report(), {"schema": 99, "kind": "training"}) == [
        "not compared: that report has schema 99 (training), this program writes 3 (training)"
    ]


def test_no_common_cell_is_said() -> None:
    lines = bench_report.compare(report(row([1.0], batch_size=4)), report(row([1.0])))
    assert lines == ["no cell of that report can be compared"]


def test_a_cell_that_ran_and_no_longer_does_is_said() -> None:
    now = report(bench_report.empty_row(key(), "oom", "out of memory"))
    assert bench_report.compare(now, report(row([5.0]))) == ["CPU ours amp on: then ok, now oom (out of memory)"]


def test_memory_is_compared_as_well() -> None:
    lines = bench_report.compare(report(row([5.0], 3072.0)), report(row([5.0], 2048.0)))
    assert lines[1] == "CPU ours amp on: peak memory 2.00 -> 3.00 GiB (+50.0%)"


def test_what_makes_two_reports_unlike_is_said() -> None:
    old, now = report(row([5.0])), report({**row([5.0]), "cached": False})
    old["settings"]["data"], now["settings"]["data"] = "/a", "/b"
    lines = bench_report.compare(now, old)
    assert lines[0] == "not alike: data /a then, /b now"
    assert lines[-1] == "CPU ours amp on: not alike: cached True then, False now"


def test_batches_that_were_searched_for_are_compared_though_they_differ() -> None:
    """AMP lets a larger one in."""
    on = {**row([100.0], batch_size=64), "largest_batch_size": 64}
    off = {**row([50.0], batch_size=24, amp="off"), "largest_batch_size": 24}
    bench_report.derive([on, off])
    assert on["amp_speedup"] == 2.0


def test_the_notes_tell_of_a_round_that_failed_and_of_how_the_images_came() -> None:
    made = {**row([1.0]), "reason": "failed rounds: 1 (out of memory)"}
    assert bench_report.notes([made]) == [
        "CPU ours amp on failed rounds: 1 (out of memory)",
        "CPU ours amp on: bfloat16, 1 loader process, images decoded before, last loss 1.000",
    ]


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    places: list[dict[str, Any]] = [{"gpus": 1}, {"gpus": 2, "parallel": "dp"}, {"gpus": 2, "parallel": "ddp"}]
    rows = [row([2.0, 4.0], amp=amp, **place) for place in places for amp in ("on", "off")]
    bench_plot.draw(rows, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width > 800
    bench_plot.draw(rows, tmp_path / "plot.svg")
    assert b"<svg" in (tmp_path / "plot.svg").read_bytes()


def test_every_recipe_can_be_drawn(tmp_path: Path) -> None:
    bench_plot.draw([row([2.0, 4.0], recipe=recipe) for recipe in RECIPES], tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("<!-- ours-compiled, AMP on -->") == 1


def test_nothing_measured_is_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing was measured"):
        bench_plot.draw([bench_report.empty_row(key(), "oom", "big")], tmp_path / "plot.png")


def test_this_machines_environment_fits_the_schema() -> None:
    found = report()
    found["environment"] = cells.environment()
    assert bench_report.problems(found) == []
