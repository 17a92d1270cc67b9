"""The benchmark's rows: means and spreads, what follows from them, what is shown, compared and refused."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from skin.bench import columns, machine, plot, report, work
from skin.bench.cases import Case, Key
from skin.bench.columns import Column, Row
from skin.bench.compare import compare
from skin.bench.measurement import GpuReading, Measurement, Window
from skin.bench.options import RECIPES, BenchmarkOptions
from skin.bench.phases import Phases
from skin.bench.roofline import Peaks
from skin.utils.errors import UserError

import pytest
import torch
from PIL import Image
from rich.console import Console

pytestmark = pytest.mark.usefixtures("published")

ENVIRONMENT = {
    "python": "3.11", "torch": "2.14.1", "torchvision": "0.29.1", "cuda": None, "cudnn": None, "driver": None,
    "cpu": "A CPU", "cpu_flags": ["avx2"], "cores": 2, "usable_cores": 2, "threads": 2, "memory_mib": 1000.0,
    "platform": "Linux", "git_commit": None, "gpu_devices": [], "gpus_in_use_by_others": [],
}  # fmt: skip


def key(**different: Any) -> Key:
    return replace(Key(0, "single", "on", "ours", "efficientnet_b0", 64, 8), **different)


def gpu(memory: float = 1024.0, percent: float | None = 90.0, watts: float | None = None) -> GpuReading:
    return {
        "allocated_mib": memory, "reserved_mib": 2 * memory, "nvml_used_mib": None, "utilisation_percent": percent,
        "power_watts": watts,
    }  # fmt: skip


def sample(speed: float, memory: float = 1024.0, gpus: int = 0, cached: bool = True) -> columns.Round:
    values: dict[str, columns.Value] = {column.name: 1.0 for column in columns.COLUMNS if column.metric}
    values |= {"precision": "bfloat16", "whole_epoch": False, "workers": 1, "cached": cached, "stolen_cores": None}
    values["images_per_second"] = speed
    return columns.Round(values, {"gpus": [gpu(memory)] * gpus, "rss_mib": memory})


def row(
    speeds: list[float], memory: float = 1024.0, device: str = "A CPU", cached: bool = True, **different: Any
) -> Row:
    made = key(**different)
    return Row(made, device, "ok", rounds=[sample(s, memory, made.gpus, cached) for s in speeds])


def empty(status: columns.Status, reason: str, **different: Any) -> Row:
    return Row(key(**different), "A CPU", status, reason)


def of(*rows: Row, data: str | None = None, **environment: Any) -> report.Report:
    heading = report.Heading("training", "", "", {"data": data}, {**ENVIRONMENT, **environment})
    return report.Report(heading, 100, list(rows), True)


def value(name: str, rows: list[Row], number: int = 0) -> columns.Value:
    return columns.column(name).value(rows[number], rows)


def shown(*rows: Row) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100).print(report.table(list(rows)))
    return stream.getvalue()


def test_a_row_is_the_mean_over_rounds_with_its_spread() -> None:
    found = row([10.0, 14.0, 12.0])
    assert value("images_per_second", [found]) == 12.0
    cell = found.to_json([found])
    assert cell["images_per_second"] == 12.0
    assert cell["spread"]["images_per_second"] == {"low": 10.0, "high": 14.0, "std": 2.0}
    assert cell["samples"]["images_per_second"] == [10.0, 14.0, 12.0]
    assert cell["rounds"] == 3


def test_one_round_has_no_standard_deviation() -> None:
    assert columns.spread_of([10.0]) == {"low": 10.0, "high": 10.0, "std": None}


def test_of_each_gpu_the_highest_peak_the_mean_activity_and_the_spread() -> None:
    """Two rounds on two GPUs; NVML is silent about the second's power in the first round."""
    first = [gpu(1000.0, 80.0, 200.0), gpu(500.0, 70.0, None)]
    second = [gpu(1100.0, 90.0, 300.0), gpu(500.0, 70.0, 150.0)]
    rounds = [replace(sample(1.0), memory={"gpus": gpus, "rss_mib": 1.0}) for gpus in (first, second)]
    made = Row(key(gpus=2), "A GPU", "ok", rounds=rounds)
    cell = made.to_json([made])
    one, two = cell["memory"]["gpus"]
    assert (one["allocated_mib"], one["utilisation_percent"], one["power_watts"]) == (1100.0, 85.0, 250.0)
    assert (two["power_watts"], two["nvml_used_mib"]) == (150.0, None)
    spread = cell["spread"]["gpus"]
    assert spread[0]["power_watts"] == {"low": 200.0, "high": 300.0, "std": pytest.approx(100 / 2**0.5)}
    assert spread[1]["power_watts"] == {"low": 150.0, "high": 150.0, "std": None}
    assert spread[1]["nvml_used_mib"] == {"low": None, "high": None, "std": None}
    assert cell["samples"]["gpus"][1]["power_watts"] == [None, 150.0]


def test_scaling_amp_and_plain_are_compared_with_the_right_rows() -> None:
    rows = [
        row([100.0], gpus=1),
        row([50.0], 2048.0, gpus=1, amp="off"),
        row([20.0], 4096.0, gpus=1, amp="off", recipe="plain"),
        row([180.0], gpus=2, parallel="ddp"),
        row([40.0], gpus=2, parallel="dp", amp="off", recipe="plain"),
    ]
    assert value("amp_speedup", rows, 0) == 2.0
    assert value("amp_memory_ratio", rows, 0) == 0.5
    assert value("speedup_over_plain", rows, 0) == 5.0
    assert value("scaling_efficiency", rows, 0) is None
    assert value("speedup_over_plain", rows, 2) is None
    assert value("scaling_efficiency", rows, 3) == 0.9
    assert value("speedup_over_plain", rows, 3) == 4.5  # the plain recipe knows DataParallel only


def test_the_fullest_gpu_counts_and_without_gpus_the_process() -> None:
    found = replace(sample(1.0), memory={"gpus": [gpu(700.0), gpu(900.0)], "rss_mib": 5000.0})
    assert Row(key(gpus=2), "A GPU", "ok", rounds=[found]).peak_mib == 900.0
    assert row([1.0], 700.0).peak_mib == 700.0


def test_a_report_survives_json() -> None:
    whole = of(row([1.0, 2.0]), row([3.0], gpus=1), empty("skipped", "no GPU", gpus=4))
    assert report.Report.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_a_metric_that_a_report_does_not_have_yet_is_unknown() -> None:
    content = of(row([1.0, 2.0])).to_json()
    del content["cells"][0]["samples"]["loss"]
    (made,) = report.Report.from_json(content).rows
    assert made.mean("loss") is None
    assert made.mean("images_per_second") == 1.5


def test_metrics_are_computed_from_the_windows() -> None:
    """Bare 40 images in 2 s; fed 30 in 3 s, of which 0.6 waiting, in steps of 1, 2 and 6 ms; 100 images an epoch.

    The 30 images took 60 J. At 7.20 an hour an epoch of 10 s costs 0.02, and 1,000 images 0.20.
    """
    case = Case(key(), data="", labels=None, workers=0, cache="off", steps=3, warmup=1, price_per_hour=7.2)
    bare, fed = Window(2.0, (1.0,), 40, 0.0, 0.5), Window(3.0, (1.0, 2.0, 6.0), 30, 0.6, 0.25)
    measured = Measurement(
        case, 100, "float32", 2, False, 9.0, bare, fed, {"gpus": [], "rss_mib": 1.0}, 60.0, 0.25,
        Phases(1.0, 2.0, 0.5), Peaks(3e12, None),
    )  # fmt: skip
    assert columns.take(measured).values == {
        "precision": "float32", "whole_epoch": False, "workers": 2, "cached": False, "images_per_second": 10.0,
        "step_images_per_second": 20.0, "end_to_end_share": 0.5, "data_wait_share": pytest.approx(0.2),
        "step_ms_median": 2.0, "step_ms_p95": pytest.approx(5.6), "epoch_seconds": 10.0, "first_step_seconds": 9.0,
        "loss": 0.25, "joules_per_image": 2.0, "epoch_kwh": pytest.approx(200 / 3.6e6),
        "data_ms": pytest.approx(200.0), "forward_ms": 1.0, "backward_ms": 2.0, "optimizer_ms": 0.5,
        "matrix_tflops": 3.0, "copy_gigabytes_per_second": None, "epoch_cost": pytest.approx(0.02),
        "cost_per_1000_images": pytest.approx(0.2), "stolen_cores": 0.25,
    }  # fmt: skip
    whole = replace(measured, case=replace(case, whole_epoch=True))
    assert columns.take(whole).values["epoch_seconds"] == 3.0


@pytest.mark.parametrize(("busy", "waited", "said"), [(46.0, 0.0, True), (46.0, 0.5, False), (90.0, 0.0, False)])
def test_a_gpu_that_idles_without_waiting_for_data_wants_more_images(busy: float, waited: float, said: bool) -> None:
    found = sample(1.0, gpus=1)
    found.values["data_wait_share"] = waited
    found.memory["gpus"] = [gpu(percent=busy)]
    (line,) = report.notes([Row(key(gpus=1), "A GPU", "ok", rounds=[found])])
    assert ("the GPU was idle 54% of the time, and not for lack of data: try a larger --batch-size" in line) == said


def test_the_energy_of_a_short_epoch_is_not_rounded_to_nothing() -> None:
    made = row([1.0])
    made.rounds[0].values["epoch_kwh"] = 0.000157
    assert "0.00016 kWh an epoch" in report.notes([made])[0]


def test_energy_that_no_counter_tells_is_not_measured() -> None:
    made = row([1.0])
    assert "energy not measured" not in report.notes([made])[0]
    made.rounds[0].values["joules_per_image"] = None
    assert "energy not measured" in report.notes([made])[0]
    assert made.to_json([made])["samples"]["joules_per_image"] == [None]


@pytest.mark.parametrize(("cores", "said"), [(None, False), (0.05, False), (0.25, True)])
def test_cores_that_the_host_kept_are_told_if_they_are_many(cores: float | None, said: bool) -> None:
    made = row([1.0])
    made.rounds[0].values["stolen_cores"] = cores
    line = "the host of this virtual machine took 0.25 cores away meanwhile"
    assert (line in report.notes([made])[0]) == said
    assert made.to_json([made])["samples"]["stolen_cores"] == [cores]


def test_stolen_time_is_that_of_the_usable_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2}, raising=False)
    stat, tick = tmp_path / "stat", 1 / os.sysconf("SC_CLK_TCK")
    cores = "".join(f"cpu{n} 1 2 3 4 5 6 7 {40 + n} 0 0\n" for n in range(4))
    stat.write_text(f"cpu  1 2 3 4 5 6 7 999 0 0\n{cores}")
    assert machine.stolen_seconds(stat) == pytest.approx(82 * tick)
    stat.write_text("cpu0 1 2 3 4\n")
    assert machine.stolen_seconds(stat) is None
    assert machine.stolen_seconds(tmp_path / "none") is None


def test_arithmetic_is_that_of_the_network_three_times_a_step() -> None:
    """B0 at 224 pixels: 0.384 GMACs an image with a head of seven classes."""
    made = row([1.0], image_size=224)
    assert value("step_tflops", [made]) == pytest.approx(6 * 0.3845e-3, rel=1e-3)


def test_the_least_traffic_of_two_convolutions_is_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of 3 x 8 x 8 becomes 4 x 8 x 8 and then 2 x 8 x 8: 2 * 192 + 2 * 256, and 3 * 256 + 2 * 128."""
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(4, 2, 1))
    monkeypatch.setattr(work, "build", lambda name, classes: layers.to("meta"))
    assert work.numbers_moved.__wrapped__("two", 8) == 384 + 512 + 768 + 256


def test_a_b3_moves_five_times_the_numbers_that_its_convolutions_compute() -> None:
    """23.8 million per image of 300 pixels. In float32 at 10 images a second that is 4.8 GB."""
    made = row([1.0], model="efficientnet_b3", image_size=300)
    made.rounds[0].values.update({"step_images_per_second": 10.0, "precision": "float32"})
    assert value("step_gigabytes_per_second", [made]) == pytest.approx(10 * 4 * 5 * 23.83e6 / 1e9, rel=2e-3)
    made.rounds[0].values["precision"] = "bfloat16"
    assert value("step_gigabytes_per_second", [made]) == pytest.approx(10 * 2 * 5 * 23.83e6 / 1e9, rel=2e-3)


def test_shares_are_of_the_peaks_of_all_devices() -> None:
    made = row([1.0], image_size=224, gpus=2, parallel="ddp")
    made.rounds[0].values.update({"step_images_per_second": 1000.0, "matrix_tflops": 10.0})
    tflops = value("step_tflops", [made])
    assert isinstance(tflops, float)
    assert value("matrix_share", [made]) == pytest.approx(tflops / 20)
    made.rounds[0].values["copy_gigabytes_per_second"] = None
    assert value("copy_share", [made]) is None


def test_the_second_table_fits_and_says_what_was_not_measured() -> None:
    made = row([1.0], gpus=4, parallel="ddp", recipe="plain-channels-last")
    parts = {"forward_ms": 1234.0, "backward_ms": None, "optimizer_ms": 12345.0, "data_ms": 123.0}
    made.rounds[0].values.update(parts)
    stream = io.StringIO()
    Console(file=stream, width=100).print(report.second_table([made, empty("oom", "big")]))
    head, line, *_ = stream.getvalue().splitlines()
    assert head.split()[3:7] == ["data", "forward", "backward", "optimizer"]
    assert line.split()[:8] == ["4", "GPUs", "ddp", "plain-cl", "on", "123", "1,234", "?"]
    assert "…" not in stream.getvalue()


def test_a_report_of_schema_4_is_read_and_lacks_the_new_columns(tmp_path: Path) -> None:
    content = {**of(row([1.0])).to_json(), "schema": 4}
    for name in ("forward_ms", "matrix_tflops", "epoch_cost"):
        del content["cells"][0]["samples"][name]
    (tmp_path / "old.json").write_text(json.dumps(content))
    found = report.read(tmp_path / "old.json")
    assert isinstance(found, report.Report)
    assert value("forward_ms", found.rows) is None
    assert value("matrix_share", found.rows) is None


def test_a_new_column_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the JSON, the CSV, the table, the notes and --compare."""
    how = columns.Comparison("kittens", "MORE", "FEWER", "any")
    new = Column("kittens", metric=lambda m: 1.0, heading="cats", note="{:.0f} kittens", compare=how)
    for module in ("columns", "report", "compare"):
        monkeypatch.setattr(f"skin.bench.{module}.COLUMNS", (*columns.COLUMNS, new))
    made, was = row([1.0]), row([1.0])
    made.rounds[0].values["kittens"], was.rounds[0].values["kittens"] = 7.0, 2.0
    now = of(made)
    now.write(BenchmarkOptions(csv=tmp_path / "b.csv"))
    assert now.to_json()["cells"][0]["kittens"] == 7.0
    assert next(csv.DictReader((tmp_path / "b.csv").read_text().splitlines()))["kittens"] == "7"
    assert "cats" in shown(made)
    assert report.notes([made])[0].endswith(", 7 kittens")
    assert compare(now, of(was))[-1] == "CPU ours amp on: 2.00 -> 7.00 kittens (+250.0%, spread 10.0%): MORE"


def test_the_table_says_how_it_came_by_the_epochs_seconds() -> None:
    part, whole = row([1.0]), row([1.0])
    whole.rounds[0].values["whole_epoch"] = True
    assert "epoch s: computed from images/s" in " ".join(shown(part).split())
    assert "epoch s: of an epoch timed whole" in " ".join(shown(whole).split())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is no benchmark report"),
        ("{}", "is no benchmark report"),
        ('{"schema": "x"}', "is no benchmark report"),
        ('{"schema": 3}', "is damaged"),
        ('{"schema": 3, "cells": 5}', "is damaged"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "old.json").write_text(content)
    with pytest.raises(UserError, match=rf"old\.json {words}"):
        report.read(tmp_path / "old.json")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "old.json")
    with pytest.raises(UserError, match=r"old\.json: it is a pipe"):
        report.read(tmp_path / "old.json")


@pytest.mark.parametrize(
    "break_it",
    [
        lambda r: r["cells"][0].pop("gpus"),
        lambda r: r["cells"][0].update(samples={}),
        lambda r: r["cells"][0].update(rounds=2),
        lambda r: r.pop("time"),
    ],
)
def test_a_damaged_report_is_refused(tmp_path: Path, break_it: Callable[[dict[str, Any]], object]) -> None:
    content = of(row([1.0])).to_json()
    break_it(content)
    (tmp_path / "old.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"old\.json is damaged"):
        report.read(tmp_path / "old.json")


def test_the_table_fits_a_hundred_columns_and_says_why_rows_are_empty() -> None:
    rows = [
        row([12345.6, 12345.0], 81234.0, gpus=4, parallel="ddp", recipe="plain-channels-last", amp="off"),
        *(empty("skipped", "no GPU", gpus=2, parallel="dp", amp=amp) for amp in ("on", "off")),
        empty("oom", "out of memory"),
    ]
    lines = shown(*rows).splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in shown(*rows)
    assert sum("skipped" in line for line in lines) == 1
    assert report.notes(rows)[:2] == ["2 GPUs dp skipped: no GPU", "CPU ours amp on oom: out of memory"]


def test_the_csv_has_a_line_for_each_cell(tmp_path: Path) -> None:
    of(row([2.0, 4.0], gpus=1), empty("oom", "big")).write(BenchmarkOptions(csv=tmp_path / "b.csv"))
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
    old = of(row([10.0, 10.4]))  # spread 2 %
    lines = compare(of(row(speeds)), old)
    assert lines[-1].endswith(verdict)


def test_another_machine_is_said_and_only_ratios_are_compared() -> None:
    plain: dict[str, Any] = {"recipe": "plain", "amp": "off"}
    old = of(row([30.0]), row([10.0], **plain), cpu="Another CPU")
    now = of(row([120.0]), row([20.0], **plain))
    lines = compare(now, old)
    assert "another machine" in lines[0]
    assert len(lines) == 2
    assert "3.00 -> 6.00 times the plain recipe" in lines[1]


def test_gpus_that_an_earlier_run_did_not_measure_are_no_other_machine() -> None:
    """Then the CPU alone, now the CPU and a GPU of the same machine."""
    found = {"name": "A GPU", "uuid": None, "memory_mib": 1, "compute_capability": "9.0"}
    now = of(row([10.0]), row([90.0], gpus=1, device="A GPU"), gpu_devices=[found])
    lines = compare(now, of(row([10.0])))
    assert lines == ["CPU ours amp on: 10.00 -> 10.00 images/s (+0.0%, spread 10.0%): within the spread"]


def test_another_gpu_is_another_machine_for_its_rows_alone() -> None:
    plain: dict[str, Any] = {"recipe": "plain", "amp": "off", "gpus": 1}
    old = of(row([10.0]), row([300.0], gpus=1, device="Old GPU"), row([100.0], **plain, device="Old GPU"))
    now = of(row([10.0]), row([900.0], gpus=1, device="New GPU"), row([150.0], **plain, device="New GPU"))
    lines = compare(now, old)
    assert "another machine (A CPU, Old GPU)" in lines[0]
    assert [line.partition(" (")[0] for line in lines[1:]] == [
        "CPU ours amp on: 10.00 -> 10.00 images/s",
        "1 GPU ours amp on: 3.00 -> 6.00 times the plain recipe",
    ]


def test_a_ratio_is_as_uncertain_as_both_of_its_speeds() -> None:
    """Half the range over the mean: ours 1 % then, 0 % now; the plain recipe 10 % then, 2 % now."""
    plain: dict[str, Any] = {"recipe": "plain", "amp": "off"}
    old = of(row([99.0, 101.0]), row([9.0, 11.0], **plain), cpu="Another CPU")
    now = of(row([90.0, 90.0]), row([9.8, 10.2], **plain))
    lines = compare(now, old)
    assert lines[1].endswith("10.00 -> 9.00 times the plain recipe (-10.0%, spread 13.0%): within the spread")


@pytest.mark.parametrize(("schema", "kind"), [(99, "training"), (3, "input")])
def test_another_schema_is_said(tmp_path: Path, schema: int, kind: str) -> None:
    (tmp_path / "old.json").write_text(json.dumps({"schema": schema, "kind": kind}))
    line = f"not compared: that report has schema {schema} ({kind}), this program writes 6 (training)"
    assert report.read(tmp_path / "old.json") == line


def test_no_common_case_is_said() -> None:
    lines = compare(of(row([1.0], batch_size=4)), of(row([1.0])))
    assert lines == ["no case of that report can be compared"]


def test_a_case_that_ran_and_no_longer_does_is_said() -> None:
    now = of(empty("oom", "out of memory"))
    assert compare(now, of(row([5.0]))) == ["CPU ours amp on: then ok, now oom (out of memory)"]


def test_memory_is_compared_as_well() -> None:
    lines = compare(of(row([5.0], 3072.0)), of(row([5.0], 2048.0)))
    line = "CPU ours amp on: 2048.00 -> 3072.00 MiB of peak memory (+50.0%, spread 5.0%): MORE"
    assert lines[1] == line


def test_what_makes_two_reports_unlike_is_said() -> None:
    lines = compare(of(row([5.0], cached=False), data="/b"), of(row([5.0]), data="/a"))
    assert lines[0] == "not alike: data /a then, /b now"
    assert lines[1] == "CPU ours amp on: not alike: cached True then, False now"


def test_batches_that_were_searched_for_are_compared_though_they_differ() -> None:
    """AMP lets a larger one in."""
    on = replace(row([100.0], batch_size=64), largest_batch_size=64)
    off = replace(row([50.0], batch_size=24, amp="off"), largest_batch_size=24)
    assert value("amp_speedup", [on, off]) == 2.0


def test_the_notes_tell_of_a_round_that_failed_and_of_how_the_images_came() -> None:
    made = replace(row([1.0]), reason="failed rounds: 1 (out of memory)")
    assert report.notes([made]) == [
        "CPU ours amp on failed rounds: 1 (out of memory)",
        "CPU ours amp on: bfloat16, 1 loader process, images decoded before, cost 1 an epoch, "
        "1 per 1,000 images, 1.00 J an image, 1 kWh an epoch, "
        "last loss 1.000",
    ]


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    places: list[dict[str, Any]] = [{"gpus": 1}, {"gpus": 2, "parallel": "dp"}, {"gpus": 2, "parallel": "ddp"}]
    rows = [row([2.0, 4.0], amp=amp, **place) for place in places for amp in ("on", "off")]
    plot.draw(rows, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width > 800
    plot.draw(rows, tmp_path / "plot.svg")
    assert b"<svg" in (tmp_path / "plot.svg").read_bytes()


def test_every_recipe_can_be_drawn(tmp_path: Path) -> None:
    plot.draw([row([2.0, 4.0], recipe=recipe) for recipe in RECIPES], tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("<!-- ours-compiled, AMP on -->") == 1


def test_nothing_measured_is_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing was measured"):
        plot.draw([empty("oom", "big")], tmp_path / "plot.png")


def test_this_machines_environment_has_what_is_compared() -> None:
    found = of(row([1.0]), **machine.environment())
    assert compare(found, found)[0].endswith("within the spread")
    assert set(ENVIRONMENT) <= set(found.heading.environment)
