"""What a command line of train.py resolves to: the recipe of the project's sources, and nothing said twice."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
from pathlib import Path

import train
from skin.training.options import MACHINE, Options, read_options
from skin.utils import cli
from skin.utils.errors import UserError

import pytest


def settings(*argv: object) -> Options:
    return read_options("A test.", [str(word) for word in argv])


def test_a_command_line_without_options_is_the_recipe_of_the_sources(tmp_path: Path) -> None:
    plain = cli.plain(settings("--data", tmp_path))
    recipe = {
        "model": "efficientnet_b3",
        "weights": "imagenet",
        "image_size": None,  # the model's own, 300 px
        "split": "70/20/10",
        "epochs": 20,
        "batch_size": 32,  # per GPU
        "lr": 1e-4,
        "weight_decay": 0.0,
        "warmup_epochs": 1.0,
        "freeze_epochs": 0,
        "class_weights": "balanced",
        "monitor": "accuracy",
        "patience": 0,
        "amp": "auto",
        "gpus": None,
        "seed": 0,
    }
    assert {name: plain[name] for name in recipe} == recipe
    assert plain["data"] == str(tmp_path)


def test_nothing_that_is_not_asked_for_is_on(tmp_path: Path) -> None:
    found = settings("--data", tmp_path)
    switches = [f.name for f in dataclasses.fields(Options) if isinstance(getattr(found, f.name), bool)]
    assert {"demo", "skip_bad_images", "allow_missing"} <= set(switches)
    assert not any(getattr(found, name) for name in switches)


def test_the_demo_has_settings_of_its_own_that_give_way() -> None:
    found = settings("--demo", "--epochs", "3")
    assert (found.model, found.weights, found.image_size) == ("efficientnet_b0", "none", 64)
    assert found.epochs == 3


def test_paths_are_absolute_so_that_a_run_goes_on_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = settings("--data", "d", "--labels", "l.csv", "--weights", "w.pth")
    assert (found.data, found.labels) == (tmp_path / "d", tmp_path / "l.csv")
    assert found.weights == str(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "say where the images are: --data DIR, or --demo"),
        (["--demo", "--data", "d"], "leave out --data"),
        (["--demo", "--labels", "t.csv"], "--demo makes its own data; leave out --labels"),
        (["--data", "d", "--recipe", "slow"], "argument --recipe: invalid choice: 'slow'"),
        (["--data", "d", "--model", "efficientnet_b8"], "argument --model: invalid choice: 'efficientnet_b8'"),
        (["--data", "d", "--class-weights", "some"], "argument --class-weights: invalid choice"),
        (["--data", "d", "--monitor", "f1"], "argument --monitor: invalid choice"),
        (["--data", "d", "--amp", "tf32"], "argument --amp: invalid choice"),
        (["--data", "d", "--epochs", "0"], "--epochs 0: must be 1 or more"),
        (["--data", "d", "--batch-size", "0"], "--batch-size 0: must be 1 or more"),
        (["--data", "d", "--batch-size", "1.5"], "argument --batch-size: invalid int value"),
        (["--data", "d", "--accumulate", "0"], "--accumulate 0: must be 1 or more"),
        (["--data", "d", "--mixup", "-1"], "--mixup -1.0: must be 0.0 or more"),
        (["--data", "d", "--mixup", "1e-300"], "--mixup 1e-300: must be 0 (none), or 0.01 to 100"),
        (["--data", "d", "--cutmix", "1000"], "--cutmix 1000.0: must be 0 (none), or 0.01 to 100"),
        (["--data", "d", "--ema", "1"], "--ema 1.0: must be 0 or more, and below 1"),
        (["--data", "d", "--label-smoothing", "nan"], "--label-smoothing nan: must be 0 or more, and below 1"),
        (["--data", "d", "--augment", "-1"], r"--augment -1.0: must be 0 \(none\) to 3"),
        (["--data", "d", "--augment", "nan"], r"--augment nan: must be 0 \(none\) to 3"),
        (["--data", "d", "--lr", "0"], "--lr 0.0: must be above 0"),
        (["--data", "d", "--lr", "nan"], "--lr nan: must be above 0"),
        (["--data", "d", "--lr", "inf"], "--lr inf: must be above 0"),
        (["--data", "d", "--weight-decay", "-1"], "--weight-decay -1.0: must be 0.0 or more"),
        (["--data", "d", "--warmup-epochs", "nan"], "--warmup-epochs nan: must be 0.0 or more"),
        (["--data", "d", "--save-minutes", "inf"], "--save-minutes inf: must be 0.0 or more"),
        (["--data", "d", "--workers", "-1"], "--workers -1: must be 0 or more"),
        (["--data", "d", "--seed", "-1"], "--seed -1: must be 0 or more"),
        (["--data", "d", "--seed", str(2**63)], "must be below 2**63"),
        (["--data", "d", "--epochs", str(10**9)], "--epochs 1000000000: must be 10,000 or less"),
        (["--data", "d", "--batch-size", str(10**30)], "must be 2,147,483,647 or less"),
        (["--data", "d", "--freeze-epochs", str(10**30)], "must be 10,000 or less"),
        (["--data", "d", "--patience", str(10**30)], "must be 10,000 or less"),
        (["--data", "d", "--lr", "1e-400"], "--lr 0.0: must be above 0"),
        (["--data", "d", "--workers", "100000"], "--workers 100000: at most"),
        (["--resume", "nowhere"], "no run at .*nowhere"),
        (["--resume", "nowhere", "--check"], "name the folder, --data DIR --check, without --resume"),
    ],
)
def test_options_that_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        settings(*argv)
    assert message in str(error.value) or re.search(message, str(error.value))


def test_paths_that_are_words_begin_at_home_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = settings("--data=~/d", "--weights=~/w.pth", "--cache=~/c", "--out=~/r")
    assert (found.data, found.out) == (tmp_path / "d", tmp_path / "r")
    assert (found.weights, found.cache) == (str(tmp_path / "w.pth"), str(tmp_path / "c"))


# ---- going on with a run -------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that was not trained: its config.json is all that settings look at."""
    before = settings("--data", tmp_path / "d", "--epochs", 7, "--lr", 0.01, "--model", "efficientnet_b0",
                      "--weights", "none", "--image-size", 64, "--skip-bad-images", "--workers", 2)  # fmt: skip
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**cli.plain(before), "resolved": {}}))
    (tmp_path / "runs" / "latest").symlink_to("first")
    return folder


def test_a_run_goes_on_with_its_own_settings(run: Path) -> None:
    found = settings("--resume", run)
    assert (found.epochs, found.lr, found.model, found.image_size) == (7, 0.01, "efficientnet_b0", 64)
    assert found.skip_bad_images
    assert found.workers == 2
    assert found.resume == found.out == run


def test_resume_without_a_name_is_the_newest_run_and_stays_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent.parent)
    assert settings("--resume").resume == run  # the folder itself: `latest` may point elsewhere tomorrow
    newer = run.with_name("newer")  # it has no model yet, so `latest` is not its name
    newer.mkdir()
    (newer / "config.json").write_bytes((run / "config.json").read_bytes())
    os.utime(newer / "config.json", (2**32, 2**32))
    assert settings("--resume").resume == newer


def test_what_belongs_to_the_machine_may_change(run: Path) -> None:
    found = settings("--resume", run, "--workers", 0, "--gpus", 0, "--amp", "off", "--save-minutes", 1)
    assert (found.workers, found.gpus, found.amp, found.save_minutes) == (0, 0, "off", 1)
    assert {"workers", "gpus", "amp", "save_minutes"} <= MACHINE


def test_the_same_value_said_again_is_no_contradiction(run: Path) -> None:
    assert settings("--resume", run, "--epochs", 7, "--data", run.parent.parent / "d").epochs == 7


@pytest.mark.parametrize(
    ("option", "value", "was"),
    [
        ("--model", "efficientnet_b1", "efficientnet_b0"),
        ("--epochs", "9", "7"),
        ("--image-size", "96", "64"),
        ("--seed", "1", "0"),
        ("--ema", "0.9", "0.0"),
        ("--class-weights", "none", "balanced"),
        ("--split", "80/10/10", "70/20/10"),
        ("--group-by", "P[0-9]+", "none"),
    ],
)
def test_what_would_make_it_another_run_is_refused_by_name(run: Path, option: str, value: str, was: str) -> None:
    with pytest.raises(UserError) as error:
        settings("--resume", run, option, value)
    assert str(error.value) == (
        f"{option} {shlex.quote(value)}: the run {run} has {was}; leave the option out to go on with it, or start a "
        f"new run with {option} {shlex.quote(value)}"
    )


def test_a_switch_is_refused_in_words_of_its_own(run: Path) -> None:
    with pytest.raises(UserError) as error:
        settings("--resume", run, "--keep-duplicates")
    assert str(error.value) == (
        f"--keep-duplicates: the run {run} was begun without it; leave the option out to go on with it, or start a "
        "new run with --keep-duplicates"
    )


def test_the_check_of_a_fold_goes_on_with_no_run(run: Path) -> None:
    fold = ("--data", "d", "--folds", 3, "--fold", 1, "--out", run)
    assert settings(*fold, "--check").resume is None
    with pytest.raises(UserError, match=r"--folds 3: the run .+ is of one model"):
        settings(*fold)


def test_ignored_classes_are_kept_and_said_again_they_are_the_same(run: Path) -> None:
    """The option may be repeated; a queue repeats the whole command at every start."""
    queue = ("--ignore-class", "Melanoma, NOS", "--ignore-class", "nv,df")
    before = settings("--data", run, *queue)
    assert before.ignore_class == ("Melanoma, NOS", "nv,df")
    (run / "config.json").write_text(json.dumps({**cli.plain(before), "resolved": {}}))
    for again in ((), queue):
        assert settings("--resume", run, *again).ignore_class == before.ignore_class
    with pytest.raises(UserError) as error:
        settings("--resume", run, "--ignore-class", "Melanoma, NOS", "--ignore-class", "x")
    option = "--ignore-class 'Melanoma, NOS' --ignore-class x"
    assert str(error.value) == (
        f"{option}: the run {run} has Melanoma, NOS, nv,df; leave the option out to go on with it, or start a new "
        f"run with {option}"
    )


def test_what_an_error_advises_to_change_may_change(run: Path) -> None:
    found = settings("--resume", run, "--data", "other", "--lr", 0.001, "--batch-size", 8, "--allow-missing")
    assert (found.lr, found.batch_size, found.allow_missing) == (0.001, 8, True)
    assert found.data == Path("other").resolve()


def test_a_run_goes_on_in_no_other_folder(run: Path) -> None:
    with pytest.raises(UserError, match=r"--out copy: a run goes on in its own folder, .*; leave --out away"):
        settings("--resume", run, "--out", "copy")
    assert settings("--resume", run, "--out", run).out == settings("--resume", run).out == run


def test_a_step_keeps_its_images_unless_the_command_line_says_how_many(run: Path) -> None:
    """On four GPUs a step had 128 images, 32 on each. On one GPU it has 128 still; `--batch-size 32` is 32."""
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "resolved": {"images_per_step": 128}}))
    assert settings("--resume", run).images_per_step == 128
    assert settings("--resume", run, "--batch-size", 32).images_per_step is None
    queue = ("--resume", "auto", "--out", run)  # says the same at every start, on whatever machine
    assert settings(*queue, "--batch-size", 32).images_per_step == 128
    assert settings(*queue, "--batch-size", 16).images_per_step is None


def test_a_labels_table_in_the_data_folder_moves_with_it(tmp_path: Path, run: Path) -> None:
    old, new = tmp_path / "d", tmp_path / "moved"
    new.mkdir()
    (new / "l.csv").touch()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "labels": str(old / "l.csv")}))
    assert settings("--resume", run, "--data", new).labels == new / "l.csv"
    assert settings("--resume", run).labels == old / "l.csv"


@pytest.mark.parametrize("flag", ["--data", "--labels"])
def test_the_data_of_a_demo_are_its_own(run: Path, flag: str) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "demo": True}))
    with pytest.raises(UserError, match=f"--demo makes its own data, in the run folder; leave out {flag}"):
        settings("--resume", run, flag, "other")


# ---- --resume auto --------------------------------------------------------------------------------------


def test_auto_goes_on_with_the_run_in_out(run: Path) -> None:
    found = settings("--resume", "auto", "--out", run, "--epochs", 7)
    assert (found.resume, found.out, found.auto, found.lr) == (run, run, True, 0.01)
    with pytest.raises(UserError, match=r"--epochs 9: the run .* has 7"):
        settings("--resume", "auto", "--out", run, "--epochs", 9)


@pytest.mark.parametrize("left", [[], ["split.csv", "environment.json", ".best.pt.1.tmp"]])
def test_auto_begins_where_no_run_is_or_one_was_killed_as_it_began(tmp_path: Path, left: list[str]) -> None:
    out = tmp_path / "run"
    assert settings("--resume", "auto", "--out", out, "--demo").resume is None
    out.mkdir()
    for name in left:
        (out / name).touch()
    found = settings("--resume", "auto", "--out", out, "--demo")
    assert (found.resume, found.out, found.auto) == (None, out, True)
    assert found.model == "efficientnet_b0"  # the demo's


@pytest.mark.parametrize("name", ["thesis.tex", "config.json"])
def test_auto_leaves_a_folder_alone_that_is_something_else(tmp_path: Path, name: str) -> None:
    out = tmp_path / "work"
    out.mkdir()
    (out / name).write_text("{}")
    with pytest.raises(UserError, match=f"{name} .*; (choose another --out|name another run folder)"):
        settings("--resume", "auto", "--out", out, "--demo")
    assert [(file.name, file.read_text()) for file in out.iterdir()] == [(name, "{}")]


def test_auto_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--resume auto goes on .*: add --out DIR"):
        settings("--resume", "auto", "--demo")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file: --resume auto needs a folder"):
        settings("--resume", "auto", "--demo", "--out", tmp_path / "file")


def test_a_restart_by_torchrun_says_auto_where_it_would_begin_a_second_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(UserError, match=r"add --resume auto --out DIR$"):
        settings("--demo")
    with pytest.raises(UserError, match=f"add --resume auto --out {run}$"):
        settings("--demo", "--out", run)
    assert settings("--resume", "auto", "--out", run).resume == run
    assert settings("--resume", run).resume == run
    assert settings("--demo", "--out", tmp_path / "new").out == tmp_path / "new"  # it failed before it began


def test_the_help_fits_80_columns_and_groups_the_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        train.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(f"{group}:" in lines for group in ("data", "model", "training", "machine", "run"))
    for field in cli.options(Options):
        assert any("--" + field.name.replace("_", "-") in line for line in lines), field.name
