import json
import os
import zipfile
from pathlib import Path

import evaluate
from skin.evaluation import run_list
from skin.utils.errors import UserError

import pytest
from rich.text import Text


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs: one that has ended and was evaluated, one under way, one that has no epoch yet."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs"
    write_run(folder / "done", [0.5, 0.7, 0.6], epochs=3, data="/somewhere/ham")
    as_checkpoint(folder / "done" / "best.pt")
    (folder / "done" / "model_card.md").touch()
    (folder / "done" / "evaluation").mkdir()
    report = {"kind": "skin evaluation report", "balanced_accuracy": {"value": 0.74, "low": 0.68, "high": 0.79}}
    (folder / "done" / "evaluation" / "report.json").write_text(json.dumps(report))
    write_run(folder / "going on", [0.8], epochs=20, data="/other/ddi")
    as_checkpoint(folder / "going on" / "best.pt")
    write_run(folder / "begun", [], epochs=20, data="/other/ddi")
    for second, name in enumerate(("going on", "done", "begun")):
        os.utime(folder / name / "config.json", (10**9 + 60 * second,) * 2)
    (folder / "latest").symlink_to("done")
    (folder / "notes").mkdir()
    (folder / "notes" / "config.json").write_text("{}")
    return folder


def as_checkpoint(path: Path) -> None:
    with zipfile.ZipFile(path, "w"):
        pass


def write_run(folder: Path, accuracies: list[float], epochs: int, data: str) -> None:
    folder.mkdir(parents=True)
    config = {"model": "efficientnet_b0", "data": data, "epochs": epochs, "monitor": "accuracy", "recipe": "standard",
              "resolved": {"image_size": 128}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    rows = "".join(f"{number},{value},61.5\n" for number, value in enumerate(accuracies, 1))
    (folder / "metrics.csv").write_text("epoch,val_accuracy,seconds\n" + rows)


def listed(capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, object]]:
    assert evaluate.main(["--list", "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_run_tells_its_state_score_and_duration(capsys: pytest.CaptureFixture[str]) -> None:
    going_on, done, begun = listed(capsys)
    assert (done["name"], done["data"], done["model"], done["image_size"]) == ("done", "ham", "b0", 128)
    assert (done["epochs"], done["of_epochs"], done["seconds"]) == (3, 3, 184.5)
    assert (done["validation"], done["score"]) == (0.7, {"value": 0.74, "low": 0.68, "high": 0.79})
    assert [run["state"] for run in (going_on, done, begun)] == ["unfinished", "done", "no model"]
    assert (begun["validation"], begun["score"], begun["seconds"]) == (None, None, 0)


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("score", ["begun", "going on", "done"]),
        ("validation", ["begun", "done", "going on"]),
        ("duration", ["begun", "going on", "done"]),
        ("name", ["begun", "done", "going on"]),
    ],
)
def test_runs_are_sorted_the_last_at_the_end(
    order: str, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [run["name"] for run in listed(capsys, "--sort", order)] == names


@pytest.mark.parametrize(
    "option", [("--checkpoint", "best.pt"), ("--by", "sex"), ("--tta", "8"), ("--allow-missing",), ("--out", "here")]
)
def test_an_option_of_an_evaluation_is_refused(option: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=f"^{option[0]} is not for --list, which shows every run in runs"):
        evaluate.main(["--list", *option])


def test_names_of_runs_are_shown_as_they_are(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(runs / "é [bold]run", [0.5], epochs=3, data="/somewhere/[red]ham")
    assert evaluate.main(["--list", "--sort", "name"]) == 0
    assert capsys.readouterr().out.splitlines()[-3].startswith("é [bold]run  [red]ham")


def test_the_table_has_a_line_a_run_and_says_what_its_numbers_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["done", "ham", "b0", "128", "standard", "3/3", "0:03:04", "0.700", "0.740",
                                "(0.680-0.790)", "done"]  # fmt: skip
    assert "test: balanced accuracy on the run's own test split" in " ".join(lines)


def test_a_long_name_is_folded_and_what_a_narrow_terminal_lacks_is_said(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (runs / "done").rename(runs / "20261128-001234-efficientnet_b0-with-a-long-name")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    def shown(width: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        assert evaluate.main(["--list"]) == 0
        return [line.strip() for line in Text.from_ansi(capsys.readouterr().out).plain.splitlines()]

    header, *lines = shown(80)
    assert header.split() == ["run", "data", "model", "epochs", "val", "test", "state"]
    assert lines[-1] == "too narrow for recipe, time: --json has all"
    narrow = shown(50)
    assert "too narrow for recipe, time, epochs, val" in " ".join(narrow)
    assert not any(line.startswith("val:") for line in narrow)
    assert any(line.startswith("test: balanced accuracy") for line in narrow)


def test_an_ensemble_of_some_folds_is_no_run_of_folds(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its config.json has what the options of its models agree on, `--folds` among them."""
    write_run(runs / "ensemble-1", [], epochs=3, data="/somewhere/ham")
    config = json.loads((runs / "ensemble-1" / "config.json").read_text()) | {"folds": 5}
    config["resolved"]["joined"] = ["runs/f/fold-1/best.pt", "runs/f/fold-2/best.pt"]
    (runs / "ensemble-1" / "config.json").write_text(json.dumps(config))
    as_checkpoint(runs / "ensemble-1" / "best.pt")
    (made,) = (run for run in listed(capsys) if run["name"] == "ensemble-1")
    assert (made["recipe"], made["state"], made["folds"], made["of_epochs"]) == ("ensemble", "done", None, 0)


def test_a_config_json_with_other_values_leaves_the_rest_of_the_list(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(runs / "folds", [], epochs=3, data="/somewhere/ham")
    (runs / "folds" / "config.json").write_text(json.dumps({"epochs": "3 or 4", "folds": 2, "resolved": {}}))
    write_run(runs / "folds" / "fold-1", [0.5], epochs=3, data="/somewhere/ham")
    write_run(runs / "folds" / "fold-2", [], epochs=3, data="/somewhere/ham")
    (runs / "folds" / "fold-2" / "config.json").write_text('{"epochs":')
    (found,) = (run for run in listed(capsys, "--sort", "model") if run["name"] == "folds")
    assert (found["state"], found["epochs"], found["of_epochs"]) == ("0 of 2 folds", 1, 0)


def test_no_run_and_json_without_a_list_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--json is for --list"):
        evaluate.main(["--json"])
    with pytest.raises(UserError, match="--sort score is for --list"):
        evaluate.main(["--sort", "score"])
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match=r"no run in .*runs: train one with train.py"):
        evaluate.main(["--list"])
    assert set(run_list.ORDERS) >= {"began", "score"}


def test_what_is_damaged_is_said(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "done" / "best.pt").write_bytes(b"")
    (runs / "begun" / "split.csv").touch()
    (runs / "begun" / "config.json").write_text("{cut off")
    assert evaluate.main(["--list", "--json"]) == 0
    out, err = capsys.readouterr()
    states = {run["name"]: run["state"] for run in json.loads(out)}
    assert states == {"done": "damaged model", "going on": "unfinished"}
    assert err.startswith("WARNING: ")
    assert "begun/config.json is not JSON" in err
