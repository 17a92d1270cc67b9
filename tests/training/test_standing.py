"""Each rule on where a run stands is held against runs that were recorded (histories/README.md)."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from skin.training import standing
from skin.training.columns import Row
from skin.training.options import MACHINE, MENDS, Options
from skin.training.standing import Baseline, Course, Remark, remarks
from skin.utils import cli

import numpy as np
import pytest

HISTORIES = Path(__file__).parent / "histories"
# Of the demo set's 140 validation images 71 are nevi, of the small one's 32 images 15.
DEMO = Baseline("melanocytic nevus (nv)", 71 / 140, 0.3, 1 / 7, math.log(7))
SMALL = replace(DEMO, accuracy=15 / 32)
PHOTOGRAPHS = Baseline("melanoma", 0.5, 0.5, 0.5, math.log(2))
SCRATCH = Options(data=Path("d"), weights="none")


def recorded(name: str, epochs: int | None = None) -> list[Row]:
    with open(HISTORIES / f"{name}.csv", newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return [{**row, "epoch": int(row["epoch"])} for row in rows][:epochs]


def course(rows: list[Row], baseline: Baseline, **changed: Any) -> Course:
    """`workers`, `cores` and `ended` are the course's, the others options of the run."""
    own = {"workers": 1, "cores": 2, "ended": False}
    found = {key: changed.pop(key, usual) for key, usual in own.items()}
    return Course(rows, baseline, replace(SCRATCH, **changed), **found)


def said(found: Course) -> dict[str, Remark]:
    return {remark.kind: remark for remark in remarks(found)}


# ---- the baseline -------------------------------------------------------------------------------------------


def test_the_baseline_worked_out_by_hand() -> None:
    training, validation = np.array([0] * 6 + [1] * 3 + [2]), np.array([0, 0, 1, 1, 1])
    found = Baseline.of(training, validation, ["nv", "mel", "df"], balanced=True)
    assert found.commonest == "melanocytic nevus (nv)"
    assert found.accuracy == pytest.approx(2 / 5)
    assert found.stratified == pytest.approx(0.6 * 0.4 + 0.3 * 0.6)
    assert found.balanced_accuracy == 1 / 2, "no validation image shows the third class"
    assert found.loss == pytest.approx(math.log(3))
    unweighted = Baseline.of(training, validation, ["nv", "mel", "df"], balanced=False)
    assert unweighted.loss == pytest.approx(-0.6 * math.log(0.6) - 0.3 * math.log(0.3) - 0.1 * math.log(0.1))
    assert str(found) == (
        "validation accuracy 0.400, that of always answering melanocytic nevus (nv), and balanced accuracy 0.500; "
        "drawing answers at the shares of the classes has 0.420 and 0.500"
    )


# ---- the rules ----------------------------------------------------------------------------------------------


def test_two_epochs_are_too_early_to_say() -> None:
    (only,) = remarks(course(recorded("demo", 2), DEMO))
    assert (only.level, only.text) == ("fine", "too early to say after 2 epochs")


def test_a_run_that_learns_says_so_and_what_it_has_not_reached() -> None:
    (only,) = remarks(course(recorded("demo"), DEMO, monitor="balanced_accuracy"))
    assert only.level == "fine"
    assert only.text == (
        "learning: balanced accuracy 0.464 in epoch 11, where a guess has 0.143; accuracy 0.429 is not above 0.507, "
        "that of always melanocytic nevus (nv)"
    )
    ended = said(course(recorded("demo"), DEMO, ended=True))["learning"]
    assert ended.text.startswith("has learnt: balanced accuracy 0.368 in epoch 8")


def test_a_run_that_learns_nothing_is_told_another_rate() -> None:
    flat = recorded("rate_too_low")
    low = said(course(flat, SMALL, lr=1e-7))["below"]
    assert (low.level, low.text) == ("bad", "below the baseline after 6 epochs: try --lr 1e-6 (now 1e-7)")
    usual = said(course(flat[:3], SMALL, lr=1e-4))["below"]
    assert usual.text == "below the baseline after 3 epochs: try --lr 1e-3 (now 1e-4)"
    assert "try --lr 1e-3 (now 5e-4)" in said(course(flat, SMALL, lr=5e-4))["below"].text, "no further than that"
    assert "try --lr 1e-4 (now 1e-3)" in said(course(flat, SMALL, lr=1e-3))["below"].text, "that was too high"
    assert "try --lr 1e-3 (now 1e-4)" in said(course(flat, SMALL, lr=1e-4, optimizer="sgd"))["below"].text


def test_a_training_loss_that_rises_asks_for_a_lower_rate() -> None:
    rising = said(course(recorded("by_heart", 3), SMALL, lr=2e-3))["below"]
    assert rising.text == "below the baseline after 3 epochs: try --lr 2e-4 (now 2e-3)"


def test_a_run_that_learns_slowly_is_told_to_wait_and_at_last_what_to_try() -> None:
    slow = said(course(recorded("by_heart", 5), SMALL, epochs=18))["slow"]
    assert slow.level == "doubt"
    assert slow.text == (
        "below the baseline after 5 epochs, though the training images are being learnt (loss 1.52; a guess has "
        "1.95): wait"
    )
    late = said(course(recorded("by_heart", 9), SMALL, epochs=18))["slow and long"]
    assert late.level == "bad"
    assert late.text.endswith("try --weights imagenet (now none), or --epochs 36")
    pretrained = said(course(recorded("by_heart", 9), SMALL, epochs=18, weights="imagenet"))["slow and long"]
    assert pretrained.text.endswith(": try --epochs 36")


def test_overfitting_names_the_epoch_and_the_remedies() -> None:
    found = said(course(recorded("by_heart", 10), SMALL, augment=0.0, epochs=18))["overfitting"]
    assert found.text == (
        "overfitting since epoch 1: the validation loss has risen from 1.94 to 2.13 while that of training fell; "
        "best.pt has epoch 3; for another run: --patience 5 or --recipe strong"
    )
    later = said(course(recorded("no_augmentation"), DEMO, monitor="balanced_accuracy", patience=5))["overfitting"]
    assert later.text.startswith("overfitting since epoch 5: the validation loss has risen from 1.59 to 1.86")
    assert later.text.endswith("; best.pt has epoch 9; for another run: --recipe strong")
    strong = said(course(recorded("no_augmentation"), DEMO, monitor="balanced_accuracy", recipe="strong"))
    assert strong["overfitting"].text.endswith("; for another run: --patience 5 or --augment 2")
    assert "overfitting" not in said(course(recorded("by_heart", 5), SMALL)), "its best epoch is two epochs ago"
    assert "overfitting" not in said(course(recorded("demo"), DEMO)), "the validation loss is all but its lowest"


def test_data_that_the_model_waits_for() -> None:
    rows = recorded("large_files")
    found = said(course(rows, PHOTOGRAPHS, workers=0, cache="off"))["waiting"]
    assert found.text == "data are what it waits for, 64 % of an epoch: try --workers 2 (now 0)"
    assert said(course(rows, PHOTOGRAPHS, workers=2, cache="off"))["waiting"].text.endswith("--cache auto (now off)")
    assert "waiting" not in said(course(rows[:1], PHOTOGRAPHS, workers=0)), "the first epoch fills the cache"
    assert "waiting" not in said(course(recorded("demo"), DEMO))


def test_a_run_that_stands_still() -> None:
    rows = recorded("demo")  # by accuracy, its 8th epoch is the best
    assert "still" not in said(course(rows, DEMO))
    longer = [*rows, {**rows[-1], "epoch": 13}]
    assert said(course(longer, DEMO))["still"].text == (
        "no better validation accuracy since epoch 8, which best.pt has; for another run: --patience 5 stops it "
        "by then"
    )
    assert "--patience" not in said(course(longer, DEMO, patience=9))["still"].text


def test_a_run_that_ends_while_it_gets_better() -> None:
    rows = [{**row, "val_loss": loss} for row, loss in zip(recorded("demo", 4), (3.0, 1.0, 0.9, 0.8), strict=True)]
    found = said(course(rows, DEMO, epochs=4, ended=True))
    assert found["short"].text == "still getting better at its end: --epochs 8 may bring more"
    assert "short" not in said(course(rows, DEMO, epochs=4))
    rows[3]["val_loss"] = 0.89
    assert "short" not in said(course(rows, DEMO, epochs=4, ended=True))


def test_metrics_that_are_not_defined_disturb_no_rule() -> None:
    undefined = {"val_loss": math.nan, "val_accuracy": math.nan, "val_balanced_accuracy": math.nan}
    rows = [{**row, **undefined, "val_macro_auc": math.nan} for row in recorded("demo")]
    found = said(course(rows, DEMO, monitor="macro_auc", ended=True))
    assert list(found) == ["slow and long"]


def test_the_best_epoch_is_that_of_the_monitored_metric() -> None:
    rows = recorded("demo")
    best = {name: course(rows, DEMO, monitor=name).best_epoch for name in ("accuracy", "loss", "macro_auc")}
    assert best == {"accuracy": 8, "loss": 11, "macro_auc": 11}


# ---- the advice ---------------------------------------------------------------------------------------------


def test_every_option_that_is_advised_can_be_typed() -> None:
    courses = [
        course(recorded("rate_too_low"), SMALL, lr=1e-7),
        course(recorded("by_heart", 10), SMALL, epochs=18),
        course(recorded("large_files"), PHOTOGRAPHS, workers=0),
        course(recorded("large_files"), PHOTOGRAPHS, workers=2, cache="off"),
        course([*recorded("demo"), {**recorded("demo")[-1], "epoch": 13}], DEMO),
    ]
    typed = [found for it in courses for remark in remarks(it) for found in re.findall(r"(--\S+) (\S+)", remark.text)]
    assert {flag for flag, _ in typed} == {"--lr", "--weights", "--epochs", "--patience", "--recipe", "--workers",
                                           "--cache"}  # fmt: skip
    for flag, value in typed:
        cli.parse(Options, None, ["--data", "d", flag, value.rstrip(",;")])
    assert {"lr", "workers", "cache"} <= MACHINE | MENDS, "a run may take these over when it goes on"
    assert standing.ENOUGH == 3
