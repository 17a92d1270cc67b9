"""`--metadata` from the command line: a training, its resumption, its report, and predictions with what is known."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import evaluate
import predict
from skin.data.metadata import Column, Encoder
from skin.evaluation import plots, report_files, test_set
from skin.model.checkpoint import SingleCheckpoint, load_best
from skin.serving import metadata
from skin.utils.errors import UserError
from tests.cli.runs import SHORT, at_step, call, changes_from

import pandas as pd
import pytest

pytestmark = pytest.mark.usefixtures("work")


def evaluated(monkeypatch: pytest.MonkeyPatch, *words: object) -> dict:
    """The report of evaluate.py in the working folder, without pictures."""
    monkeypatch.setattr(plots, "DPI", 30)
    monkeypatch.setattr(report_files, "draw", lambda *inputs: {})
    argv = ["--amp", "off", "--workers", 0, "--rounds", 20, "--out", "out", *words]
    assert evaluate.main(list(map(str, argv))) == 0
    return json.loads(Path("out/report.json").read_text())


def predicted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[str, str]:
    """What predict.py says on stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["predict.py", "--amp", "off", *map(str, words)])
    assert predict.main() == 0
    said = capsys.readouterr()
    return said.out, said.err


def image_of(data: Path) -> Path:
    return min(data.rglob("*.jpg"))


# ---- training -------------------------------------------------------------------------------------------


def test_the_model_keeps_how_values_become_numbers(undisturbed: Path, data: Path) -> None:
    best = load_best(undisturbed / "best.pt")
    assert isinstance(best, SingleCheckpoint)
    assert best.encoder is not None
    with (data / "HAM10000_metadata.csv").open(newline="") as file:
        table = {row["image_id"]: row for row in csv.DictReader(file)}
    with (undisturbed / "split.csv").open(newline="") as file:
        training = [table[row["image"]] for row in csv.DictReader(file) if row["split"] == "train"]
    age, sex, site = best.encoder.columns
    ages = [float(row["age"]) for row in training if row["age"]]
    assert age.mean == pytest.approx(sum(ages) / len(ages))
    assert sex.categories == tuple(sorted({row["sex"] for row in training} - {"unknown"}))
    assert site.categories == tuple(sorted({row["localization"] for row in training} - {"unknown"}))
    assert best.network.metadata.shift.weight.any()  # it has been trained  # type: ignore[union-attr]
    assert best.calibration["metadata_alone"]["chance"] == pytest.approx(1 / 7)
    assert "takes beside the pixels, where they are known: age, sex, localization" in (
        undisturbed / "model_card.md"
    ).read_text()
    log = (undisturbed / "train.log").read_text()
    assert "beside the pixels: age; sex (female, male); localization (" in log
    assert "metadata alone, without the picture: balanced accuracy" in log


def test_a_run_with_metadata_goes_on_to_the_same_bits(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert call(*SHORT) == 143
    assert call("--resume", "run", "--workers", 1) == 0
    assert changes_from(undisturbed) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("age,weight", "--metadata weight: the data have no such column; they have age, sex, localization"),
        ("dx", "--metadata dx: it tells the class that is to be predicted; leave it out"),
        ("age,,sex", "--metadata: a name between its commas is empty"),
    ],
)
def test_columns_that_cannot_be_used_are_refused_before_anything_is_written(names: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call("--epochs", 1, "--metadata", names)
    assert not Path("run").exists()


def test_a_run_that_goes_on_keeps_its_columns(undisturbed: Path) -> None:
    with pytest.raises(UserError, match=r"--metadata age: the run .*run has age, sex, localization"):
        call("--resume", undisturbed, "--metadata", "age")


def test_a_run_goes_on_with_the_values_that_it_began_with(undisturbed: Path, data: Path) -> None:
    shutil.copytree(undisturbed, "run")
    shutil.copytree(data, "moved")
    path = Path("moved/HAM10000_metadata.csv")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert call("--resume", "run", "--data", "moved") == 0
    table.loc[3, "age"] = "99"
    table.assign(dx_type="histo").to_csv(path, index=False)
    said = rf"age,sex,localization has other values for 1 images .*\(first: {table['image_id'][3]}\); restore"
    with pytest.raises(UserError, match=said):
        call("--resume", "run", "--data", "moved")


def test_a_damaged_encoder_of_a_run_is_one_line(undisturbed: Path) -> None:
    shutil.copytree(undisturbed, "run")
    config = json.loads(Path("run/config.json").read_text())
    config["resolved"]["metadata"][0]["deviation"] = 0.0
    Path("run/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json of the run is damaged: its 'metadata' are no columns"):
        call("--resume", "run")


# ---- evaluation -----------------------------------------------------------------------------------------


def test_the_report_says_what_metadata_add(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = evaluated(monkeypatch, "--checkpoint", undisturbed / "best.pt", "--split", "train")
    found = made["metadata"]
    assert found["known"].keys() == {"age", "sex", "localization"}
    assert all(0.5 < share <= 1 for share in found["known"].values())
    after, before = found["overall"]["after"]["log_loss"], found["overall"]["before"]["log_loss"]
    assert after == made["log_loss"]
    assert after["value"] != before["value"]
    difference = found["overall"]["difference"]["log_loss"]
    assert difference["value"] == pytest.approx(after["value"] - before["value"], abs=1e-12)
    assert difference["low"] < difference["high"]
    text = Path("out/report.md").read_text()
    assert "## With and without metadata" in text
    assert "Metadata alone, without the picture: balanced accuracy" in text
    checklist = Path("out/stard_ai.md").read_text()
    assert "The model was given the pixels of each image and, where they are known, " in checklist
    assert "its age, sex and localization, and not its label" in checklist
    assert "split if none is brought 70/20/10" in checklist
    assert "The model takes metadata where they are known: age of " in checklist


def test_a_set_without_the_columns_has_them_missing(
    undisturbed: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (data / "HAM10000_metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in [next(row for row in rows if row["dx"] == dx) for dx in ("mel", "nv")]:
        folder = Path("other") / row["dx"]
        folder.mkdir(parents=True)
        shutil.copy(next(data.rglob(f"{row['image_id']}.jpg")), folder / f"{row['dx']}.jpg")
    made = evaluated(monkeypatch, "--checkpoint", undisturbed / "best.pt", "--data", "other")
    assert "the set has no column age, sex, localization: missing for all images" in made["notes"]
    assert "metadata" not in made  # there is nothing to do without


def test_values_that_the_model_does_not_know_are_noted() -> None:
    encoder = Encoder((Column("age", (), 50.0, 10.0, 20.0, 85.0), Column("sex", ("f", "m"))))
    checkpoint: Any = SimpleNamespace(encoder=encoder)
    ages, sexes = ["40-50", "40-50", "50-60", "45", "", "450"], ["F", "m", "unknown", "", "f", "f"]
    notes = test_set._without_metadata(checkpoint, pd.DataFrame({"age": ages, "sex": sexes}))
    assert notes == [
        "age of 3 images, such as 40-50, counts as missing: it is not a number",
        "age of 1 image, such as 450, is used, but the model has learned from 20 to 85 alone",
    ]


# ---- prediction -----------------------------------------------------------------------------------------


def test_predictions_take_values_or_a_table(
    undisturbed: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image, model = image_of(data), ("--checkpoint", undisturbed / "best.pt")
    with (data / "HAM10000_metadata.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["image_id"] == image.stem)
    values = ",".join(f"{name}={row[name.lower()]}" for name in ("Age", "sex", "LOCALIZATION"))
    of_values, said = predicted(monkeypatch, capsys, image, *model, "--json", "--metadata", values)
    assert "WARNING" not in said
    of_table, said = predicted(
        monkeypatch, capsys, image, *model, "--json", "--metadata", data / "HAM10000_metadata.csv"
    )
    assert not re.search("no row|no column", said)
    assert of_values == of_table
    assert predicted(monkeypatch, capsys, image, *model, "--json")[0] != of_values


def test_what_counts_as_missing_is_said(
    undisturbed: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image, model = image_of(data), ("--checkpoint", undisturbed / "best.pt")
    nothing = predicted(monkeypatch, capsys, image, *model, "--json")[0]
    found, said = predicted(
        monkeypatch, capsys, image, *model, "--json", "--metadata", "age=old,sex=robot,weight=80"
    )
    assert json.loads(found) == json.loads(nothing)
    assert re.findall("WARNING: (.*)", said) == [
        "age=old counts as missing: it is not a number",
        "sex=robot counts as missing: the model knows female, male",
        "weight=80 counts as missing: the model uses age, sex, localization",
    ]
    Path("few.csv").write_text("image,age,sex\nothers.jpg,40,robot\n")
    found, said = predicted(monkeypatch, capsys, image, *model, "--json", "--metadata", "few.csv")
    assert json.loads(found) == json.loads(nothing)
    assert re.findall("WARNING: (.*)", said) == [
        "few.csv has no column localization: missing for all images",
        "sex=robot counts as missing: the model knows female, male",
        f"few.csv has no row of {image}: its metadata, and those of others like it, are missing",
    ]


def test_a_row_is_that_of_one_image_however_it_is_written(
    undisturbed: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image, model = image_of(data), ("--checkpoint", undisturbed / "best.pt", "--json")
    names = ["a/L\u00e4sion.jpg", "b/La\u0308sion.JPG", "c/1.jpg"]  # one name as Linux and as macOS write it
    for name in names:
        Path(name).parent.mkdir()
        shutil.copy(image, name)
    words = ("--metadata", "t.csv")

    def answers(rows: dict[str, str]) -> list[dict]:
        lines = [f"{name},{known}" for name, known in rows.items()]
        Path("t.csv").write_text("\n".join(["image,age,sex,localization", *lines]))
        out, said = predicted(monkeypatch, capsys, *names, *model, *words)
        assert "WARNING" not in said
        return [json.loads(line)["top"] for line in out.splitlines()]

    young, old = "30,female,face", "80,male,back"
    one, two, three = answers({"a/L\u00e4sion": young, "b\\La\u0308sion.jpg": old, "1.JPG": old})
    assert one != two == three
    shutil.copy("c/1.jpg", "c/1.JPEG")  # one picture in two formats
    names[:2] = ["c/1.JPEG"]
    assert answers({"1": old}) == [three, three]
    names.append("a/L\u00e4sion.jpg")
    names.append("b/La\u0308sion.JPG")
    with pytest.raises(UserError, match=r"t.csv names 'Läsion', which may be a/L.*sion.jpg or b/L.*sion.JPG: write"):
        answers({"L\u00e4sion": young, "1": old})


def test_a_value_may_have_a_comma() -> None:
    encoder = Encoder((Column("size", (), 3.0, 1.0, 1.0, 5.0), Column("site", ("head, neck", "trunk"))))
    given = "site=Head, neck,size=3,5"
    assert metadata.values_of(given, encoder) == {"site": "Head, neck", "size": "3,5"}
    assert metadata.values_of("size=9,5", encoder) == {"size": "9,5"}
    with pytest.raises(UserError, match="'leg' is not COLUMN=VALUE"):
        metadata.values_of("site=head,leg,size=3", encoder)


def test_two_columns_of_one_name_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    encoder = Encoder((Column("age", (), 50.0, 10.0),))
    Path("two.csv").write_text("File Path,age,Age\na.jpg,40,60\n")
    known = metadata.known_of("two.csv", encoder)
    assert known is not None
    assert known("a.jpg") == {"age": "40"}
    assert capsys.readouterr().err == "WARNING: two.csv has the columns age, Age: age is the one that is used\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.csv", "--metadata nowhere.csv: there is no such table; values are like age=55,sex=female"),
        ("age=55,sex", "--metadata age=55,sex: 'sex' is not COLUMN=VALUE"),
        ("age=55,,sex=male", "--metadata age=55,,sex=male: '' is not COLUMN=VALUE"),
        ("age=55,age=60", "--metadata age=55,age=60: age has two values; give one"),
        ("twice.csv", "twice.csv has several rows of a.jpg, which do not agree; keep one of them"),
        ("bare.csv", "bare.csv has no column 'image'; its columns are: age, sex; rename one of them"),
    ],
)
def test_what_is_neither_values_nor_a_table_is_refused(
    undisturbed: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    given: str, message: str,
) -> None:  # fmt: skip
    Path("bare.csv").write_text("age,sex\n40,male\n")
    agree = "b.jpg,40,male,X\nb.jpg,40.0,MALE,Y\n"  # as the model is told; "by" is not used
    Path("twice.csv").write_text(f"image,age,sex,by\n{agree}a.jpg,40,male,X\na.jpg,50,male,X\n")
    with pytest.raises(UserError, match=message):
        predicted(monkeypatch, capsys, image_of(data), "--checkpoint", undisturbed / "best.pt", "--metadata", given)
