"""`train.py --folds`: several models in one folder, stopped and resumed to the same bits, and what is refused."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import re
import shutil
import signal
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import train
from skin.data import demo
from skin.evaluation import run_list
from skin.model.checkpoint import load_best
from skin.training import folds, run_folder
from skin.training.options import Options, read_options
from skin.utils import parallel
from skin.utils.errors import UserError
from skin.utils.signals import Interrupts
from tests.cli.runs import at_step, call, left_over
from tests.conftest import slow
from tests.torture import RECIPE, differences, outcome

import numpy as np
import pytest

TWO = ("--folds", 2, "--epochs", 1)
pytestmark = pytest.mark.usefixtures("work")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.write(tmp_path_factory.mktemp("folds") / "data", images=70)


@pytest.fixture(scope="module")
def networks() -> list[int]:
    """How many networks of folds before are alive as the next fold builds its own."""
    return []


@pytest.fixture(scope="module")
def folded(data: Path, networks: list[int]) -> Path:
    """The folder of a run of two folds that nobody disturbed."""
    built: list[weakref.ref[Any]] = []
    build = train.build_trainer

    def noted(*arguments: Any, **keywords: Any) -> Any:
        networks.append(sum(network() is not None for network in built))
        trainer = build(*arguments, **keywords)
        built.append(weakref.ref(trainer.classifier.network))
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(data.parent)
        patch.setattr(train, "build_trainer", noted)
        assert call(*TWO) == 0
    return data.parent / "run"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ---- what a run of folds leaves -----------------------------------------------------------------------------


def test_every_image_beside_the_test_split_is_answered_once_by_the_model_that_has_not_seen_it(folded: Path) -> None:
    cut = {row["image"]: row for row in rows_of(folded / "split.csv")}
    answers = rows_of(folded / "out_of_fold.csv")
    assert list(answers[0])[:5] == ["image", "label", "predicted", "group", "fold"]
    assert [row["image"] for row in answers] == [name for name, row in cut.items() if row["split"] == "train"]
    assert all(row["fold"] == cut[row["image"]]["fold"] for row in answers)
    for number in ("1", "2"):
        own = rows_of(folded / f"fold-{number}" / "split.csv")
        assert {row["image"] for row in own if row["split"] == "val"} == {
            row["image"] for row in answers if row["fold"] == number
        }
        assert {row["image"] for row in own if row["split"] == "test"} == {
            name for name, row in cut.items() if row["fold"] == "0"
        }
    classes = load_best(folded / "best.pt").classes
    assert sum(float(answers[0][name]) for name in classes) == pytest.approx(1)


def test_the_report_tells_the_pooled_metrics_from_the_spread_over_folds(folded: Path) -> None:
    made = json.loads((folded / "report.json").read_text())
    answers = rows_of(folded / "out_of_fold.csv")
    right = np.array([row["label"] == row["predicted"] for row in answers])
    fold = np.array([row["fold"] for row in answers])
    each = [right[fold == number].mean() for number in ("1", "2")]
    assert made["accuracy"]["value"] == pytest.approx(right.mean())
    assert made["accuracy"]["low"] < made["accuracy"]["high"]
    assert [one["accuracy"] for one in made["folds"]["folds"]] == pytest.approx(each)
    assert made["folds"]["mean"]["accuracy"] == pytest.approx(sum(each) / 2)
    assert made["folds"]["standard_deviation"]["accuracy"] == pytest.approx(abs(each[0] - each[1]) / 2**0.5)
    page = (folded / "report.html").read_text()
    assert "The spread over folds" in page
    assert "The list says little, for the models are not shown to be better than guessing." in page
    assert "holds no calibration" not in page


def test_the_folder_holds_an_ensemble_of_the_folds_and_config_json_both_options(folded: Path) -> None:
    ensemble = load_best(folded / "best.pt")
    assert ensemble.model_name == "2 x efficientnet_b0"
    assert ensemble.calibration["images"] == len(rows_of(folded / "out_of_fold.csv"))
    config, own = (json.loads((folder / "config.json").read_text()) for folder in (folded, folded / "fold-2"))
    assert (config["folds"], config["fold"], own["folds"], own["fold"]) == (2, None, 2, 2)


def test_the_memory_of_a_fold_is_given_back_before_the_next(folded: Path, networks: list[int]) -> None:
    assert networks == [0, 0]


def test_the_list_of_runs_shows_a_run_of_folds_as_one(folded: Path) -> None:
    (run,) = run_list.found(folded.parent)
    assert (run.name, run.state, run.folds, run.epochs, run.of_epochs) == ("run", "done", 2, 2, 2)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (Path.unlink, "no checkpoint at "),
        slow(lambda best: best.write_bytes(b""), "is not a checkpoint or state_dict that can be loaded safely: "),
    ],
)
def test_a_fold_whose_model_is_damaged_is_trained_again_as_the_error_advises(
    folded: Path, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    copy = shutil.copytree(folded, tmp_path / "damaged")
    damage(copy / "fold-1" / "best.pt")
    with pytest.raises(UserError, match=said) as caught:
        call("--resume", copy)
    what, advice = str(caught.value).split("; ")
    assert "train" not in what
    again = re.fullmatch(r"put it back from a copy, or remove (.*fold-1) and train .*: --resume (.*)", advice)
    assert again is not None
    shutil.rmtree(again[1])
    assert call("--resume", again[2]) == 0
    assert (copy / "fold-1" / "best.pt").is_file()


def test_a_done_run_has_nothing_to_go_on_with(folded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--resume", "auto", "--out", folded, *RECIPE, "--data", "data", *TWO) == 0
    assert "is done: there is nothing to go on with" in capsys.readouterr().out


# ---- stopped, and in parts ----------------------------------------------------------------------------------


def test_folds_in_another_order_stopped_and_resumed_come_to_the_same_bits(
    folded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*TWO, "--fold", 2) == 0
    said = capsys.readouterr().out
    assert "fold 1 is not done yet" in said
    assert not Path("run/best.pt").exists()
    (run,) = run_list.found(Path())
    assert (run.state, run.epochs, run.of_epochs) == ("1 of 2 folds", 1, 2)
    monkeypatch.setattr(folds.out_of_fold.report_files, "draw", lambda *arguments: {})
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert call(*TWO, "--fold", 1) == 143
    said = capsys.readouterr().out
    assert f"Go on with: python train.py --resume {Path('run').resolve()}\n" in said
    assert call("--resume", "run") == 0
    said = capsys.readouterr().out
    assert "0 epochs and 2 steps are done" in said
    assert "fold 2 of 2 is done" in said
    expected, found = (outcome(run) for run in (folded, Path("run")))
    for result in (expected, found):
        for fold in ("fold-1", "fold-2"):
            del result[fold]["best.pt"]["config"]["data"]
    assert list(differences(expected, found)) == []
    assert left_over(Path("run")) == []


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[int]]]:
    """`folds.run` with a stand-in for the training, which notes the folds that are trained and done."""
    done: set[Path] = set()
    monkeypatch.setattr(folds, "is_done", lambda folder: folder in done)
    monkeypatch.setattr(folds.out_of_fold, "write", lambda *arguments: done.add(Path("pooled")))

    def run(*arguments: object, within: Callable[[int], object] = lambda fold: None) -> tuple[int, list[int]]:
        trained: list[int] = []

        def train_one(options: Options, *others: object) -> int:
            assert options.fold is not None
            assert options.out is not None
            interrupts.hold()
            trained.append(options.fold)
            within(options.fold)
            done.add(options.out)
            return 0

        options = read_options(None, [*RECIPE, "--data", "data", "--out", "run", *map(str, arguments)])
        with Interrupts() as interrupts, parallel.setup(0) as topology:
            return folds.run(options, topology, interrupts, train_one), trained

    return run


def test_a_fold_that_another_process_trains_is_left_to_it(
    tried: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run/fold-1").mkdir(parents=True)
    with run_folder.hold(Path("run/fold-1")):
        assert tried("--folds", 3) == (0, [2, 3])
    said = capsys.readouterr().out
    assert "fold 1 of 3 is trained by another process: left to it" in said
    assert "fold 1 is not done yet" in said
    assert tried("--folds", 3, "--fold", 1) == (0, [1])


def test_what_is_changed_when_all_folds_are_done_is_not_noted_as_what_they_were_trained_with(
    tried: Callable[..., Any],
) -> None:
    def noted() -> tuple[int, str]:
        config = json.loads(Path("run/config.json").read_text())
        return config["accumulate"], Path(config["data"]).name

    assert tried("--folds", 2) == (0, [1, 2])
    shutil.copytree("data", "moved")
    assert tried("--resume", "run", "--accumulate", 4, "--data", "moved") == (0, [])
    assert noted() == (1, "moved")


def test_the_images_of_a_step_are_noted_when_the_batch_is_changed(
    tried: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """As the advice after a lack of memory changes it. The folds to come must have the same steps."""

    def images() -> int:
        return json.loads(Path("run/config.json").read_text())["resolved"]["images_per_step"]

    assert tried("--folds", 3, "--fold", 1) == (0, [1])
    before = images()
    assert tried("--resume", "run", "--batch-size", before // 2, "--accumulate", 2) == (0, [2, 3])
    assert images() == before
    assert "note: folds" not in capsys.readouterr().out


def test_folds_with_other_steps_than_those_before_them_are_noted(
    tried: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    begun = Path("run/fold-1")
    assert tried("--folds", 3, "--fold", 1, within=lambda fold: begun.mkdir(parents=True)) == (0, [1])
    (begun / "config.json").write_text("{}")
    assert tried("--resume", "run", "--batch-size", 64) == (0, [2, 3])
    assert "folds that have not begun get --lr 0.002 and 64 images a step, the others had" in capsys.readouterr().out


def test_a_signal_between_two_folds_ends_the_run_there(tried: Callable[..., Any]) -> None:
    stop = lambda fold: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    assert tried("--folds", 3, within=stop) == (143, [1])
    assert tried("--folds", 3, "--resume", "auto") == (0, [2, 3])


def test_a_run_whose_first_fold_cannot_begin_leaves_no_folder(tried: Callable[..., Any]) -> None:
    def fail(fold: int) -> None:
        raise UserError("no such weights")

    with pytest.raises(UserError, match="no such weights"):
        tried("--folds", 2, within=fail)
    assert not Path("run").exists()
    assert tried("--folds", 2) == (0, [1, 2])


@pytest.mark.parametrize(("seed", "refused"), [(0, False), (1, True)])
def test_two_processes_that_begin_a_run_at_once_share_its_folder(
    seed: int, refused: bool, tried: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = folds.read_splits

    def overtaken(*arguments: Any, **keywords: Any) -> Any:
        monkeypatch.setattr(folds, "read_splits", read)
        assert tried("--folds", 2, "--fold", 2) == (0, [2])
        return read(*arguments, **keywords)

    monkeypatch.setattr(folds, "read_splits", overtaken)
    expected = pytest.raises(UserError, match=r"--seed 1: the run .* has 0") if refused else contextlib.nullcontext()
    with expected:
        assert tried("--folds", 2, "--fold", 1, "--seed", seed) == (0, [1])


def test_the_folder_of_a_fold_goes_on_with_that_fold_of_its_run(folded: Path) -> None:
    options = read_options(None, ["--resume", str(folded / "fold-2")])
    assert (options.resume, options.out, options.folds, options.fold) == (folded, folded, 2, 2)


# ---- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--folds", 1), "--folds 1: must be 2 or more"),
        (("--folds", 101), "--folds 101: must be 100 or less"),
        (("--fold", 1), "--fold 1: say of how many, by --folds K"),
        (("--folds", 3, "--fold", 0), "--fold 0: must be 1 or more"),
        (("--folds", 3, "--fold", 4), "--fold 4: must be 1 to 3, the folds that there are"),
    ],
)
def test_numbers_of_folds_that_cannot_be_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(*arguments)
    assert not Path("run").exists()


def test_one_fold_alone_needs_the_folder_that_the_folds_share() -> None:
    with pytest.raises(UserError, match="--fold 1: say by --out DIR which folder the folds share"):
        train.main([*RECIPE, "--data", "data", "--folds", "2", "--fold", "1"])


def test_more_folds_than_lesions_of_a_class_name_the_class_and_how_many_it_has() -> None:
    named = r"--folds 9: class '\w+' has images of (\d) lesions.* use --folds \1 at most"
    with pytest.raises(UserError, match=named):
        call("--folds", 9)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*TWO,), "run already holds a run; go on with it by --resume run"),
        (("--folds", 3, "--fold", 1, "--epochs", 1), "--folds 3: the run .* has 2; .* --folds 3 and another --out"),
        ((*TWO, "--fold", 1, "--seed", 7), "--seed 7: the run .* has 0"),
        ((*TWO, "--fold", 1, "--lr", 0.5), "--fold 1: the run .* has --lr .* and this fold would have 0.5 and"),
        ((*TWO, "--fold", 1, "--batch-size", 3), "--fold 1: the run .* would have .* and 3; leave --lr"),
    ],
)
def test_a_folder_that_another_run_has_begun_is_refused(
    arguments: tuple[object, ...], message: str, folded: Path
) -> None:
    Path("run").mkdir()
    shutil.copy(folded / "config.json", "run")
    with pytest.raises(UserError, match=message):
        call(*arguments)


def test_a_folder_with_a_run_of_one_model_is_refused(folded: Path) -> None:
    Path("run").mkdir()
    config = json.loads((folded / "config.json").read_text()) | {"folds": None}
    Path("run/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"--folds 2: the run .* is of one model; choose another --out"):
        call(*TWO, "--fold", 1)


def test_a_column_that_one_fold_alone_lacks_is_refused_before_the_first_is_trained() -> None:
    """Its only value is an image's that some fold is trained without."""
    rows = rows_of(Path("data/HAM10000_metadata.csv"))
    table = Path("table.csv")
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "group", "size"])
        sizes = itertools.chain(["7"], itertools.repeat(""))
        writer.writerows([row["image_id"], row["dx"], row["lesion_id"], next(sizes)] for row in rows)
    for more in ((), ("--check",)):
        with pytest.raises(UserError, match="--metadata size: no image of the training split has a value"):
            call("--folds", 3, "--labels", table, "--metadata", "size", "--split", "100/0/0", *more)
    assert not Path("run/config.json").exists()


def test_a_check_says_what_the_folds_will_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.check.speed, "estimate", lambda *arguments: [])
    assert call("--folds", 3, "--check") == 0
    said = capsys.readouterr().out
    cut = "3 folds, cut from training and validation together; the 8 images of the test split are in none"
    assert cut in said
    sizes = [int(line.split()[2]) for line in said.splitlines() if line.startswith("  fold ")]
    assert sum(sizes) == 62
    assert max(sizes) - min(sizes) <= 4
    page = Path("run/check.html").read_text()
    assert "That is for one model, and --folds 3 trains as many." in page
    assert "--folds 3 --out" not in page
