"""The command that --check advises is one that train.py takes; the time it names is worked out as by hand."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import train
from skin.data import demo
from skin.data.audit import CheckReport, check
from skin.data.layouts import read_index
from skin.training import pace, speed
from skin.training.check import command, look_at
from skin.training.options import Options, read_options
from skin.training.splits import Splits, read_splits
from skin.utils import cli, parallel
from skin.utils.parallel import Topology

import pandas as pd
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="module")
def report(demo_folder: Path) -> CheckReport:
    return check(read_index(demo_folder), (0.7, 0.2, 0.1), 0)


def advised(report: CheckReport, *typed: str) -> str:
    options = cli.parse(Options, None, typed)
    return shlex.join(command(options, report))


def test_the_command_is_what_was_typed_without_the_check(report: CheckReport) -> None:
    typed = ["--data", "my & set", "--labels", "it's.csv", "--recipe", "fast", "--lr", "0.0003", "--gpus", "0"]
    said = advised(report, *typed, "--check", "--out", "here")
    python, script, *words = shlex.split(said)
    assert (python, script) == ("python", "train.py")
    assert cli.parse(Options, None, words) == cli.parse(Options, None, typed)


@pytest.mark.parametrize("out", [[], ["--out", "a folder"]])
def test_the_command_for_one_fold_names_the_folder_that_the_folds_share(report: CheckReport, out: list[str]) -> None:
    said = advised(report, "--data", "d", "--folds", "3", "--fold", "2", "--check", *out)
    read = read_options(None, shlex.split(said)[2:])
    assert (read.fold, read.out) == (2, Path(out[1]) if out else Path("runs/folds"))


def test_a_class_with_a_comma_in_its_name_stays_one(report: CheckReport) -> None:
    typed = ["--data", "d", "--ignore-class", "Melanoma, NOS", "--ignore-class", "nv,df", "--metadata", "age"]
    words = shlex.split(advised(report, *typed))[2:]
    assert cli.parse(Options, None, words) == cli.parse(Options, None, typed)


def test_a_name_that_looks_like_an_option_and_the_home_folder(
    report: CheckReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/users/jane")
    said = advised(report, "--data=-odd", "--labels", "/users/jane/table.csv")
    assert said == "python train.py --data=-odd --labels '~/table.csv'"
    read = cli.parse(Options, None, shlex.split(said)[2:])
    assert (read.data, read.labels) == (Path("-odd"), Path("/users/jane/table.csv"))


def test_the_command_goes_on_without_what_cannot_be_used(report: CheckReport) -> None:
    unread = replace(report, unreadable=[("a.jpg", "empty")])
    assert advised(unread, "--data", "d") == "python train.py --data d --skip-bad-images"
    gaps = replace(report, faults=["d: 3 images are gone: over 1 %; --allow-missing goes on without them"])
    assert advised(gaps, "--data", "d") == "python train.py --data d --allow-missing"
    assert advised(replace(report, faults=["another"]), "--data", "d") == "python train.py --data d"


def estimate(report: CheckReport, monkeypatch: pytest.MonkeyPatch, *typed: str) -> list[str]:
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    monkeypatch.setattr(speed, "_INPUT_SECONDS", 0.0)
    options = cli.parse(Options, None, ["--data", "d", "--gpus", "0", "--model", "efficientnet_b0", *typed])
    splits = Splits(report.index, report.rows, report.index.classes)
    with parallel.processes() as processes:
        return speed.estimate(options, processes, splits, train.build_trainer, train.train_step)


def test_an_estimate_takes_steps_of_the_run_itself(
    report: CheckReport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    total, how = estimate(report, monkeypatch, "--image-size", "32", "--batch-size", "8", "--epochs", "5")
    assert total.startswith("About ")
    assert "for 5 epochs of efficientnet_b0 on CPU" in total
    assert "worked out from 1 training step of 8 images at 32 pixels" in how
    assert list(tmp_path.iterdir()) == []
    _, how = estimate(report, monkeypatch, "--image-size", "128", "--batch-size", "8", "--recipe", "fast")
    assert "of 8 images at 96 pixels" in how


def test_where_nothing_can_be_measured_the_reason_is_said(
    report: CheckReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = estimate(report, monkeypatch, "--image-size", "16")
    assert line == "Not measured: --image-size 16: EfficientNet halves an image five times; 32 is the least"


def test_the_drawn_set_can_be_checked_and_the_command_draws_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed, "estimate", lambda *arguments: [])
    monkeypatch.setattr(demo, "write", partial(demo.write, images=70))
    assert train.main(["--demo", "--check", "--cache", "off", "--gpus", "0", "--out", "report"]) == 0
    assert "70 images" in capsys.readouterr().out
    assert "python train.py --demo --gpus 0 --cache off<" in Path("report/check.html").read_text()


def test_a_set_that_cannot_be_split_is_checked_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [("mel", 12), ("nv", 12), ("df", 1)]
    names = [(f"{label}{number}.png", label) for label, images in rows for number in range(images)]
    for place, (name, _) in enumerate(names):
        Image.effect_noise((40, 32), 20 + place).save(name)
    table = "".join(f"{name},{label},{'fm'[place % 2]}\n" for place, (name, label) in enumerate(names))
    Path("labels.csv").write_text("image,label,sex\n" + table)
    typed = ["--data", ".", "--labels", "labels.csv", "--cache", "off", "--gpus", "0", "--out", "report"]
    assert train.main([*typed, "--check", "--metadata", "sex", "--folds", "3"]) == 1
    said = capsys.readouterr().out
    assert "class 'df' has images of 1 lesions" in said
    assert said.endswith("to look at: report/check.html\n")
    page = Path("report/check.html").read_text()
    assert "Not measured: the data are not split, so there are no training images yet." in page
    assert "leave the class out (--ignore-class)" in said
    assert "--split" not in said  # a class with one image cannot be in two parts, either
    read_splits(read_options(None, [*typed[:4], "--ignore-class", "df"]))


def test_the_first_call_warms_up_and_counts_only_if_it_takes_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    assert speed._seconds_per_image(lambda: 10, 3.0) == (0.5, 1)
    clock = iter([0.0, 2.0, 2.5, 3.5, 3.5])
    assert speed._seconds_per_image(lambda: 10, 3.0) == (1.5 / 20, 2)


def of_run(topology: Topology, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> float:
    monkeypatch.setattr(speed, "usable_cores", lambda: 4)
    splits: Any = SimpleNamespace(rows=pd.DataFrame({"split": ["train"] * 100 + ["val"] * 30 + ["test"] * 10}))
    options = replace(Options(image_size=64, epochs=2), **changed)
    return speed._run_seconds(options, topology, splits, step_seconds=0.3, input_seconds=0.4)


def test_the_time_of_a_run_worked_out_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = Topology(torch.device("cpu")), Topology(torch.device("cuda"), gpus=1)
    # On a CPU the loader takes its share of the cores: 100 * (0.3 + 0.4 / 4) + 30 * (0.1 + 0.4 / 4), twice.
    assert of_run(cpu, monkeypatch) == pytest.approx(2 * (40 + 6))
    assert of_run(cpu, monkeypatch, workers=0) == pytest.approx(2 * (70 + 15))
    # On a GPU the slower of the two counts: 100 * max(0.3, 0.4 / 2) + 30 * max(0.1, 0.4 / 2).
    assert of_run(gpu, monkeypatch, workers=2) == pytest.approx(2 * (30 + 6))


def test_small_views_of_the_first_epochs_are_reckoned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = Topology(torch.device("cpu"))
    # `fast` at 128 px: one epoch of three has views of 96, as the steps that were timed. Validation has full ones.
    full = (128 / 96) ** 2
    expected = 100 * (0.3 * (1 + 2 * full) + 3 * 0.1) + 3 * 30 * (0.1 * full + 0.1)
    assert of_run(cpu, monkeypatch, recipe="fast", epochs=3, image_size=128) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (89, "89 s"), (300, "5 min"), (5400, "1 h 30 min"), (36_000, "10 h 0 min"), (400_000, "5 days")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert pace.duration(seconds) == words


def test_the_terminal_names_the_classes_to_look_at_as_the_page_does(report: CheckReport) -> None:
    label = report.rows["label"].replace("vasc", "to sort")
    classes = (*report.index.classes[:-1], "to sort")
    renamed = replace(report.index, rows=report.index.rows.assign(label=label), classes=classes)
    odd = replace(report, index=renamed, rows=report.rows.assign(label=label))
    assert look_at(odd)[-1] == "look at to sort: very few images to learn from: fewer than 10"
    assert len(look_at(odd)) == len(look_at(report))
