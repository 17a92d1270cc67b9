"""The run folder: who may write where, and files that other programs can read."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

from skin.data import contents
from skin.data.split import read_manifest
from skin.training import columns, run_folder
from skin.utils import files, run_folders
from skin.utils.errors import UserError

import pandas as pd
import pytest


def test_a_new_folder_is_named_by_time_and_model_and_not_made_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run_folder.new_folder(None, "efficientnet_b3")
    assert re.fullmatch(r"runs/\d{8}-\d{6}-efficientnet_b3", str(folder))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_run_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="already holds a run; go on with it by --resume"):
        run_folder.new_folder(tmp_path, "efficientnet_b0")


@pytest.mark.parametrize("name", ["best.pt", "last.pt", "metrics.csv", "report.html"])
def test_a_file_that_a_run_would_overwrite_is_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").touch()
    assert run_folder.new_folder(tmp_path, "efficientnet_b0") == tmp_path
    (tmp_path / name).touch()
    assert run_folder.new_folder(tmp_path, "check", checks=True) == tmp_path
    with pytest.raises(UserError, match=rf"holds {name} and no config\.json of a run: .*; choose another --out"):
        run_folder.new_folder(tmp_path, "efficientnet_b0")


def test_latest_points_at_the_newest_run(tmp_path: Path) -> None:
    for name in ("first", "second"):
        run_folder.point_latest(run_folder.create(tmp_path / "runs" / name))
        assert (tmp_path / "runs" / "latest").readlink() == Path(name)
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["first", "latest", "second"]


def test_a_folder_elsewhere_is_nobodys_latest(tmp_path: Path) -> None:
    run_folder.point_latest(run_folder.create(tmp_path / "elsewhere" / "run"))
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == ["run"]
    assert list((tmp_path / "elsewhere" / "run").iterdir()) == []  # the probe is gone


def test_a_folder_named_latest_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "runs" / "latest").mkdir(parents=True)
    (tmp_path / "runs" / "latest" / "mine.txt").write_text("kept")
    run_folder.point_latest(run_folder.create(tmp_path / "runs" / "new"))
    assert (tmp_path / "runs" / "latest" / "mine.txt").read_text() == "kept"
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["latest", "new"]


def test_a_name_that_was_taken_meanwhile_is_left_to_the_run_that_has_it(tmp_path: Path) -> None:
    folders = [run_folder.create(tmp_path / "runs" / "now", own=True) for _ in range(3)]
    assert [folder.name for folder in folders] == ["now", "now-2", "now-2-2"]
    assert run_folder.create(folders[0]) == folders[0]  # what the user names may be there already


@pytest.mark.parametrize("where", ["taken", "taken/below"])
def test_a_file_in_the_way_of_the_run_folder(tmp_path: Path, where: str) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write the run folder .*; choose another --out"):
        run_folder.create(tmp_path / where)
    assert (tmp_path / "taken").read_text() == "a file"


def test_json_holds_no_number_that_is_none(tmp_path: Path) -> None:
    content = {"a": math.nan, "b": [1.5, -math.inf], "c": {"d": (math.inf, 2)}, "e": True, "f": "ä\udce9"}
    files.write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    expected = {"a": None, "b": [1.5, None], "c": {"d": [None, 2]}, "e": True, "f": "ä\udce9"}
    assert json.loads(text) == expected
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_path_that_is_no_utf_8_comes_back_from_config_json(tmp_path: Path) -> None:
    config = {"data": "/data/caf\udce9", "resolved": {}}
    files.write_json(tmp_path / "config.json", config)
    assert '"/data/caf\\udce9"' in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert run_folders.read_config(tmp_path) == config


def test_metrics_are_a_table_of_the_promised_columns(tmp_path: Path) -> None:
    row = dict.fromkeys(columns.NAMES, 0.123456789) | {"epoch": 3, "val_macro_auc": math.nan, "lr": 1e-4}
    columns.write_metrics(tmp_path / "metrics.csv", [row, {**row, "epoch": 4}])
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == (
        "epoch,lr,train_loss,train_accuracy,val_loss,val_accuracy,val_balanced_accuracy,val_macro_auc,"
        "seconds,images_per_second,data_wait_seconds,peak_memory_mib,grad_norm"
    )
    read = list(csv.DictReader(lines))
    assert [r["epoch"] for r in read] == ["3", "4"]
    assert (read[0]["lr"], read[0]["train_loss"], read[0]["val_macro_auc"]) == ("0.0001", "0.123457", "nan")


def test_an_epoch_is_one_line() -> None:
    row = dict.fromkeys(columns.NAMES, 0.25) | {"epoch": 3, "seconds": 61.2, "images_per_second": 123.456}
    assert columns.epoch_line(row, 20) == (
        "epoch  3/20  loss 0.2500 accuracy 0.2500  val loss 0.2500 accuracy 0.2500 balanced 0.2500 AUC 0.2500"
        "  61 s  123.5 images/s  wait 0.2 s"
    )


def test_a_column_that_a_run_lacked_when_it_began_stays_empty_for_its_epochs(tmp_path: Path) -> None:
    whole = dict.fromkeys(columns.NAMES, 0.5) | {"epoch": 1}
    old = {name: value for name, value in whole.items() if name != "grad_norm"}
    rows = columns.checked_rows([old, whole], 2)
    columns.write_metrics(tmp_path / "metrics.csv", rows)
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert [row["grad_norm"] for row in csv.DictReader(file)] == ["", "0.5"]


@pytest.mark.parametrize("change", [{"accuracy_of_whom": 1.0}, {"val_loss": "low"}, {"val_loss": None}])
def test_a_row_that_is_not_of_metrics_csv_is_refused(change: dict[str, object]) -> None:
    row: dict[str, object] = {**dict.fromkeys(columns.NAMES, 0.5), **change}
    del row["train_loss" if change == {"val_loss": None} else "grad_norm"]
    with pytest.raises(UserError, match="history"):
        columns.checked_rows([row], 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no run at .*No such file"),
        ("{", "is not JSON"),
        ("[]", "is not the config.json of a run"),
        ('{"epochs": 3}', "is not the config.json of a run"),
    ],
)
def test_a_run_that_is_none(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        run_folders.read_config(tmp_path)


def test_a_pipe_in_place_of_a_file_of_a_run_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    rows, pipe = pd.DataFrame({"image": [], "path": []}), tmp_path / "config.json"
    os.mkfifo(pipe)
    readers: list[Callable[[], object]] = [
        lambda: run_folders.read_config(tmp_path), lambda: read_manifest(pipe), lambda: contents.changed(rows, pipe)
    ]  # fmt: skip
    for read in readers:
        with pytest.raises(UserError, match="it is a pipe or a device, not a file"):
            read()
    assert not run_folders.is_ours(tmp_path, ["config.json", "split.csv"])


def test_the_environment_is_written_as_json_with_versions_and_machine(tmp_path: Path) -> None:
    files.write_json(tmp_path / "environment.json", run_folder.environment())
    found = json.loads((tmp_path / "environment.json").read_text())
    for name in ("python", "torch", "torchvision", "numpy", "opencv", "pillow", "cpu", "cores", "platform"):
        assert found[name], name
    assert isinstance(found["gpus"], list)
    assert found["git_commit"] is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", found["git_commit"])


def test_outside_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_folder.git_commit() is None
