"""train.py from end to end on the drawn set, small: what it writes, that it repeats itself, what it refuses."""

from __future__ import annotations

import contextlib
import csv
import gc
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import train
from skin.data import demo
from skin.data.images import centre_crop, read_image
from skin.model import checkpoint
from skin.model.checkpoint import load_best
from skin.model.network import Classifier, build, preprocess_for
from skin.model.precision import Precision, choose
from skin.training import follow
from skin.training.columns import NAMES
from skin.training.options import Options
from skin.training.run import Run
from skin.training.run_folder import LOCK
from skin.utils import cli
from skin.utils.errors import UserError
from tests import by_rank, warm
from tests.conftest import ROOT

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from torch import Tensor, nn
from torchvision.transforms import functional as F

SMALL = ("--model", "efficientnet_b0", "--weights", "none", "--image-size", 32, "--batch-size", 16, "--amp", "off",
         "--gpus", 0, "--lr", 2e-4, "--seed", 20240101)  # fmt: skip
OF_THE_CLOCK = {"seconds", "images_per_second", "data_wait_seconds", "peak_memory_mib"}
WRITTEN = {"config.json", "environment.json", "split.csv", "metrics.csv", "train.log", "curves.png", "best.pt",
           "last.pt", "model_card.md", "contents.csv", "warnings.txt", "report.html"}  # fmt: skip


def main(*argv: object) -> int:
    return train.main([str(word) for word in argv])


def trained(data: Path, out: Path, *more: object) -> Path:
    """The folder of a run that has ended well; what it said is in said.txt beside it."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main("--data", data, "--out", out, "--workers", 0, "--cache", "off", *SMALL, *more) == 0
    out.with_suffix(".said").write_text(said.getvalue())
    return out


@pytest.fixture(scope="module")
def settled(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a B0 whose BatchNorm has seen the drawn set.

    Without that, a few steps leave a network whose outputs in eval mode are one number for every image, and
    their order is rounding.
    """
    preprocess = preprocess_for("efficientnet_b0", 32)
    files = sorted(demo_folder.rglob("*.jpg"))[:64]
    views = np.stack([centre_crop(read_image(path, preprocess), 32) for path in files])
    torch.manual_seed(0)
    model = Classifier(build("efficientnet_b0", 1000), preprocess, Precision("cpu", None)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(torch.from_numpy(views))
    path = tmp_path_factory.mktemp("weights") / "settled.pth"
    torch.save(model.network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def run(demo_folder: Path, settled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs on the drawn set, in this process, with no workers and no cache."""
    return trained(demo_folder, tmp_path_factory.mktemp("train") / "run", "--epochs", 2, "--weights", settled)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def weights(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "best.pt", weights_only=True)["model"]


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


# ---- what a run leaves behind --------------------------------------------------------------------------


def test_every_file_of_the_run_folder_is_written_and_nothing_half(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= WRITTEN
    assert not [name for name in names - {LOCK} if name.startswith(".") or name.endswith(".tmp")]
    assert all((run / name).stat().st_size > 0 for name in names - {LOCK})


def test_config_json_holds_every_option_and_what_auto_became(run: Path, demo_folder: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config.keys() == {f.name for f in cli.options(Options)} | {"resolved"}
    assert (config["lr"], config["batch_size"], config["seed"], config["amp"]) == (2e-4, 16, 20240101, "off")
    assert config["data"] == str(demo_folder)
    assert config["resolved"]["images_per_step"] == 16
    assert config["resolved"]["precision"] == "float32"


def test_split_csv_has_every_image_once_and_no_lesion_on_two_sides(run: Path, demo_folder: Path) -> None:
    rows = table(run / "split.csv")
    assert list(rows[0]) == ["image", "label", "group", "split"]
    metadata = {row["image_id"]: row for row in table(demo_folder / "HAM10000_metadata.csv")}
    assert sorted(row["image"] for row in rows) == sorted(metadata)
    sides: dict[str, set[str]] = {}
    for row in rows:
        assert row["label"] == metadata[row["image"]]["dx"]
        sides.setdefault(metadata[row["image"]]["lesion_id"], set()).add(row["split"])
    assert {len(parts) for parts in sides.values()} == {1}
    assert set().union(*sides.values()) == {"train", "val", "test"}


def test_metrics_csv_has_a_row_an_epoch(run: Path) -> None:
    rows = table(run / "metrics.csv")
    assert tuple(rows[0]) == NAMES
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(np.isfinite(float(row[name])) for row in rows for name in NAMES)
    assert all(0 < float(row["train_loss"]) < 4 for row in rows)  # seven classes by chance are ln 7 = 1.95
    assert float(rows[1]["lr"]) < float(rows[0]["lr"]) <= 2e-4


def test_best_pt_holds_all_that_inference_needs(run: Path) -> None:
    best = load_best(run / "best.pt")
    assert best.classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert (best.preprocess.image_size, best.preprocess.resize_size) == (32, 32)
    assert best.calibration
    assert best.config == json.loads((run / "config.json").read_text())
    rows = table(run / "metrics.csv")
    highest = max(rows, key=lambda row: float(row["val_accuracy"]))  # of equals the first
    assert best.metrics["epoch"] == int(highest["epoch"])
    assert best.metrics["val_accuracy"] == pytest.approx(float(highest["val_accuracy"]), rel=1e-5)


def test_environment_json_names_versions_and_machine(run: Path) -> None:
    found = json.loads((run / "environment.json").read_text())
    assert found["torch"] == torch.__version__
    assert found["cpu"]


def test_the_end_of_a_run_tells_its_goodput(run: Path) -> None:
    found = json.loads((run / "environment.json").read_text())["goodput"]
    useful = sum(float(row["seconds"]) for row in table(run / "metrics.csv"))
    assert found["useful_seconds"] == pytest.approx(useful, rel=1e-5)
    assert 0 < found["goodput"] < 1
    assert found["starts"] == 1
    assert f"goodput {found['goodput']:.0%}: " in (run / "train.log").read_text()
    assert f"goodput {found['goodput']:.0%}: " in (run / "report.html").read_text()


def test_the_curves_are_a_picture(run: Path) -> None:
    with Image.open(run / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_off_a_terminal_an_epoch_is_a_line_and_the_end_says_what_to_type(run: Path) -> None:
    said = run.with_suffix(".said").read_text()
    assert "\x1b" not in said
    assert "\r" not in said
    lines = said.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 2
    assert f"next:  python evaluate.py --checkpoint {run}/best.pt" in lines
    for words in ("melanocytic nevus (nv)", "efficientnet_b0", "float32", "160 images", "MiB RSS"):
        assert words in said
    log = (run / "train.log").read_text()
    assert all(line in log for line in lines if line)


# ---- figures that another program finds again ----------------------------------------------------------


def recomputed(run: Path, data: Path) -> dict[str, float]:
    """The validation figures of best.pt, by plain PyTorch, torchvision and scikit-learn, an image at a time."""
    best = load_best(run / "best.pt")
    files = {path.stem: path for path in data.rglob("*.jpg")}
    rows = table(run / "split.csv")
    labels = {part: [best.classes.index(r["label"]) for r in rows if r["split"] == part] for part in ("train", "val")}
    logits = []
    for row in rows:
        if row["split"] == "val":
            view = centre_crop(read_image(files[row["image"]], best.preprocess), best.preprocess.image_size)
            pixels = F.normalize(F.to_tensor(view), best.preprocess.mean, best.preprocess.std)
            with torch.no_grad():
                logits.append(best.network(pixels[None])[0])
    scores, truth = torch.stack(logits), torch.tensor(labels["val"])
    probabilities = scores.double().softmax(1).numpy()
    balance = len(labels["train"]) / (7 * np.bincount(labels["train"], minlength=7))
    predicted = probabilities.argmax(1)
    present = np.unique(truth)
    return {
        "val_loss": float(nn.CrossEntropyLoss(torch.tensor(balance).float())(scores, truth)),
        "val_accuracy": accuracy_score(truth, predicted),
        "val_balanced_accuracy": balanced_accuracy_score(truth, predicted),
        "val_macro_auc": float(np.mean([roc_auc_score(truth == c, probabilities[:, c]) for c in present])),
    }


def assert_figures_found_again(run: Path, data: Path) -> None:
    row = table(run / "metrics.csv")[load_best(run / "best.pt").metrics["epoch"] - 1]
    found, expected = {name: float(value) for name, value in row.items()}, recomputed(run, data)
    for name in ("val_accuracy", "val_balanced_accuracy"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    # One image at a time the logits, up to 20 here, differ by 0.006: float64 lies between the two.
    assert found["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-3)
    assert found["val_macro_auc"] == pytest.approx(expected["val_macro_auc"], abs=0.01)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_the_epochs_figures_are_those_of_the_checkpoint(run: Path, demo_folder: Path) -> None:
    assert_figures_found_again(run, demo_folder)


# ---- the same again ------------------------------------------------------------------------------------


def figures(run: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in OF_THE_CLOCK} for row in table(run / "metrics.csv")]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("workers", "cached"), [(2, False), pytest.param(0, True, marks=pytest.mark.slow)])
def test_the_same_seed_gives_the_same_bits_whatever_the_workers_and_the_cache(
    run: Path, demo_folder: Path, settled: Path, tmp_path: Path, workers: int, cached: bool
) -> None:
    again = trained(
        demo_folder, tmp_path / "again", "--epochs", 2, "--weights", settled, "--workers", workers,
        "--cache", tmp_path / "cache" if cached else "off",
    )  # fmt: skip
    assert differing(weights(run), weights(again)) == []
    assert figures(run) == figures(again)
    assert (run / "split.csv").read_bytes() == (again / "split.csv").read_bytes()


@pytest.mark.slow
def test_memory_stays_flat_over_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted to the byte after each epoch, since the process's size would not show a batch that is kept."""
    data = demo.write(tmp_path / "data", images=70)
    end_epoch = train.end_epoch
    tensors: list[int] = []  # bytes of all tensors that live
    traced: list[int] = []  # bytes that Python and numpy hold

    def look(run: Run, *more: Any) -> None:
        end_epoch(run, *more)
        run.saver.wait()
        gc.collect()
        living = [value.untyped_storage() for value in gc.get_objects() if issubclass(type(value), Tensor)]
        tensors.append(sum({storage.data_ptr(): storage.nbytes() for storage in living}.values()))
        traced.append(tracemalloc.get_traced_memory()[0])

    monkeypatch.setattr(train, "end_epoch", look)
    monkeypatch.setattr(follow, "draw_curves", lambda *arguments: b"")  # drawn now and then, and the last is kept
    tracemalloc.start()
    try:
        rows = table(trained(data, tmp_path / "run", "--epochs", 6) / "metrics.csv")
    finally:
        tracemalloc.stop()
    batch = 16 * 32 * 32 * 3  # bytes
    assert tensors[1:] == [tensors[1]] * 5
    assert traced[-1] - traced[1] < 2 * batch  # in four epochs, the first having filled caches
    peaks = [float(row["peak_memory_mib"]) for row in rows]
    assert max(peaks[2:]) - peaks[1] < 30, peaks  # what is kept outside of both


# ---- other ways to begin, and to end -------------------------------------------------------------------


@pytest.mark.slow
def test_without_a_better_epoch_the_run_ends_when_its_patience_does(tmp_path: Path) -> None:
    """With a frozen body and steps of nearly nothing all epochs are alike: the first is the best one."""
    data = demo.write(tmp_path / "data", images=70)
    out = trained(data, tmp_path / "run", "--epochs", 9, "--freeze-epochs", 9, "--lr", 1e-12,
                  "--monitor", "balanced_accuracy", "--patience", 2)  # fmt: skip
    figures = [float(row["val_balanced_accuracy"]) for row in table(out / "metrics.csv")]
    assert figures == [figures[0]] * 3  # epochs 2 and 3 were no better
    assert load_best(out / "best.pt").metrics["epoch"] == 1
    said = out.with_suffix(".said").read_text()
    assert f"best validation balanced_accuracy: {figures[0]:.4f}, epoch 1" in said
    assert "ends after epoch 3 of 9: --patience 2, and no better validation balanced accuracy since epoch 1" in said
    assert "--freeze-epochs 9 of 9 epochs: the head alone is trained, with the warm-up" in said
    assert load_best(out / "best.pt").calibration["decision"] == "balanced"


def test_the_check_as_a_command_names_what_is_wrong_and_writes_its_report(
    run_script: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    data = demo.write(tmp_path / "data", images=70)
    rows = table(data / "HAM10000_metadata.csv")
    mole, melanoma = (next(r["image_id"] for r in rows if r["dx"] == label) for label in ("nv", "mel"))
    files = {path.stem: path for path in data.rglob("*.jpg")}
    shutil.copy(files[mole], files[melanoma])  # one picture under two labels
    ended = run_script("train.py", "--data", "data", "--check", "--out", "report", "--cache", "off",
                       "--model", "efficientnet_b0", "--image-size", 32)  # fmt: skip
    assert (ended.returncode, ended.stderr) == (1, "")
    assert ended.stdout.splitlines()[-3:] == [
        "found 1 conflict", "written: report/check.json", "to look at: report/check.html",
    ]  # fmt: skip
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"check.json", "check.html"}
    page = (tmp_path / "report" / "check.html").read_text()
    assert "<code>python train.py --data data --model efficientnet_b0 --image-size 32 --cache off</code>" in page
    assert re.search(r"About \d+ (s|min) for 20 epochs of efficientnet_b0 on .*: \d+ s an epoch", page)
    report = json.loads((tmp_path / "report" / "check.json").read_text())
    (conflict,) = report["conflicts"]
    assert (report["ok"], report["images"], sorted(conflict["images"])) == (False, 70, sorted([mole, melanoma]))
    assert sorted(conflict["labels"]) == ["mel", "nv"]


@pytest.mark.slow
def test_the_demo_in_a_folder_of_its_own_one_image_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = demo.write
    monkeypatch.setattr(demo, "write", lambda folder: write(folder, images=70))
    monkeypatch.chdir(tmp_path)
    assert main("--demo", "--epochs", 1, "--image-size", 33, "--batch-size", 1, "--workers", 0, "--amp", "off",
                "--cache", "off", "--gpus", 0) == 0  # fmt: skip
    latest = (tmp_path / "runs" / "latest").resolve()
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == [latest.name, "latest"]
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]  # nothing is written anywhere else
    assert {p.name for p in latest.iterdir()} >= WRITTEN | {"demo"}
    assert all(torch.isfinite(value).all() for value in weights(latest).values())


@pytest.mark.slow
def test_an_image_that_cannot_be_read_stops_the_run_or_is_left_out(demo_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "Fotos du \n café"  # a name that must break neither a line nor a path
    shutil.copytree(demo_folder, data)
    empty, cut = sorted(data.rglob("*.jpg"))[:2]
    empty.write_bytes(b"")
    with pytest.raises(UserError) as error:
        trained(data, tmp_path / "run", "--epochs", 1)
    assert empty.name in str(error.value)
    assert "--skip-bad-images" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()

    cut.write_bytes(cut.read_bytes()[:-500])  # its header is whole
    run = trained(data, tmp_path / "run", "--epochs", 1, "--skip-bad-images")
    used = {row["image"] for row in table(run / "split.csv")}
    assert {path.stem for path in data.rglob("*.jpg")} - used == {empty.stem, cut.stem}
    said = run.with_suffix(".said").read_text()
    assert said.count("left out, cannot be read:") == 2
    assert "Fotos du \\n café: HAM10000, 158 images" in said


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_whose_header_is_whole_stops_the_run_when_it_is_decoded(
    demo_folder: Path, tmp_path: Path, workers: int
) -> None:
    data = tmp_path / "data"
    shutil.copytree(demo_folder, data)
    for path in data.rglob("*.jpg"):
        path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"cannot read the image .*\.jpg: .*--skip-bad-images"):
        trained(data, tmp_path / "run", "--epochs", 1, "--workers", workers)
    assert not (tmp_path / "run" / "best.pt").exists()


# ---- what is refused, before anything is written -------------------------------------------------------


def one_class(folder: Path) -> None:
    (folder / "nevus").mkdir(parents=True)
    for n in range(20):
        Image.new("RGB", (40, 40), (n, 0, 0)).save(folder / "nevus" / f"{n}.png")


def few_of_a_class(folder: Path) -> None:
    one_class(folder)
    (folder / "melanoma").mkdir()
    Image.new("RGB", (40, 40)).save(folder / "melanoma" / "only.png")


def nothing_known(folder: Path) -> None:
    folder.mkdir()
    (folder / "readme.txt").write_text("no images here")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda folder: None, "does not exist"),
        (Path.mkdir, "empty"),
        (nothing_known, "give each class a folder"),
        (one_class, "one class"),
        (few_of_a_class, "melanoma"),
    ],
)
def test_data_that_cannot_be_trained_on(tmp_path: Path, make: Callable[[Path], Any], named: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(UserError) as error:
        trained(tmp_path / "data", tmp_path / "run")
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus", 3], "--gpus 3: this machine has 0 visible GPUs"),
        (["--image-size", 8], "--image-size 8: "),
        (["--batch-size", 1], "a batch of one 32-pixel image"),
        (["--split", "70/20"], "--split 70/20 is not three numbers"),
        (["--split", "80/0/20"], "the val split is empty"),
        (["--weights", "absent.pth"], "absent.pth"),
        (["--weights", "other.pth"], r"other.pth: not a state_dict of efficientnet_b0: .* tensor features"),
        (["--out", "taken"], "cannot write the run folder taken"),
        (["--out", "taken/run"], "cannot write the run folder taken/run"),
    ],
)
def test_options_that_cannot_be_met(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[object], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("a file in the way")
    torch.save({"features.0.0.weight": torch.zeros(3)}, "other.pth")
    with pytest.raises(UserError, match=message):
        main("--data", demo_folder, "--out", "run", "--workers", 0, "--cache", "off", *SMALL, *options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.pth", "taken"]


def test_a_folder_with_a_run_is_not_trained_over(run: Path, demo_folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(UserError, match="already holds a run; go on with it by --resume"):
        trained(demo_folder, run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_another_model_does_not_go_on_with_a_run(run: Path) -> None:
    with pytest.raises(UserError, match=f"--model efficientnet_b1: the run {run} has efficientnet_b0; leave"):
        main("--resume", run, "--model", "efficientnet_b1")


def test_a_mistake_is_one_line_on_stderr_and_code_2(
    run_script: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    # matplotlib keeps its list of fonts: without it, each process of a test makes one of its own
    ended = run_script("train.py", "--data", "nowhere", env={"MPLCONFIGDIR": matplotlib.get_configdir()})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert "nowhere" in ended.stderr
    assert not (tmp_path / "runs").exists()


# ---- two processes -------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def by_two(demo_folder: Path, settled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes under torchrun trained together: `run`, and each one's weights after each epoch."""
    folder = tmp_path_factory.mktemp("torchrun")
    script = str(ROOT / "tests" / "by_rank.py")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script)
    options = ("--data", demo_folder, "--out", "run", "--workers", 0, "--cache", "off", *SMALL, "--batch-size", 8,
               "--epochs", 2, "--freeze-epochs", 1, "--weights", settled)  # fmt: skip
    ended = warm.run([sys.executable, *torchrun, *map(str, options)], cwd=folder, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("epoch  1/2") == 1  # one voice
    return folder


@pytest.mark.slow
def test_two_processes_hold_equal_weights_after_every_epoch(by_two: Path) -> None:
    for epoch in (1, 2):
        one, other = (torch.load(by_two / f"rank{rank}-epoch{epoch}.pt", weights_only=True) for rank in (0, 1))
        assert differing(one, other) == []
    first, last = (torch.load(by_two / f"rank0-epoch{epoch}.pt", weights_only=True) for epoch in (1, 2))
    assert "features.0.0.weight" in differing(first, last)  # freed after the first


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_one_process_finds_the_figures_of_two_again(by_two: Path, demo_folder: Path) -> None:
    assert {path.name for path in (by_two / "run").iterdir()} >= WRITTEN
    assert_figures_found_again(by_two / "run", demo_folder)


@pytest.mark.slow
def test_torchrun_trains_on_the_demo_set(tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "train.py"))
    options = ("--demo", "--epochs", "1", "--image-size", "32", "--gpus", "0", "--workers", "0", "--cache", "off")
    ended = warm.run([sys.executable, *torchrun, *options], cwd=tmp_path, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("epoch  1/1") == 1
    run = (tmp_path / "runs" / "latest").resolve()
    assert {path.name for path in run.iterdir()} >= WRITTEN | {"demo"}
    found = json.loads((run / "config.json").read_text())["resolved"]
    assert (found["parallel"], found["processes"], found["images_per_step"]) == ("DDP", 2, 32)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_with_their_images_together(
    by_two: Path, demo_folder: Path, settled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a frozen body, whose BatchNorm looks at no batch, halves of a batch must add up to the whole."""
    monkeypatch.setattr(train, "build_trainer", by_rank.without_dropout)
    alone = trained(demo_folder, tmp_path / "alone", "--epochs", 2, "--freeze-epochs", 1, "--weights", settled)
    one, two = table(alone / "metrics.csv")[0], table(by_two / "run" / "metrics.csv")[0]
    for name in ("lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-4), name


# ---- the recipe of the project's sources ---------------------------------------------------------------


@pytest.mark.real
def test_what_is_not_known_of_real_images_is_trained_without(real_data: Path, tmp_path: Path) -> None:
    """Seven of them have no age."""
    run = trained(real_data / "ham10000_mini", tmp_path / "run", "--epochs", 1, "--metadata", "age,sex,localization")
    log = (run / "train.log").read_text()
    assert "beside the pixels: age; sex (female, male); localization (" in log
    assert (run / "best.pt").is_file()


@pytest.mark.real
@pytest.mark.timeout(1500)
def test_the_recipe_as_it_stands_trains_on_the_cpu(real_data: Path, tmp_path: Path) -> None:
    """An epoch of B3 at 300 pixels from random weights; some minutes."""
    options = ("--data", str(real_data / "ham10000_mini"), "--weights", "none", "--epochs", "1")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    ended = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *options], capture_output=True, text=True, cwd=tmp_path,
        env=environment, timeout=1400,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    run = (tmp_path / "runs" / "latest").resolve()
    slow = {"last-previous.pt", LOCK}  # the former of a machine that has saved within the epoch
    assert {path.name for path in run.iterdir()} - slow == WRITTEN

    config = json.loads((run / "config.json").read_text())
    assert (config["model"], config["resolved"]["image_size"], config["resolved"]["images_per_step"]) == (
        "efficientnet_b3", 300, 32,
    )  # fmt: skip
    assert config["resolved"]["precision"] == str(choose("auto", torch.device("cpu")))
    assert json.loads((run / "environment.json").read_text())["torch"] == torch.__version__
    images = {path.stem for path in (real_data / "ham10000_mini").rglob("*.jpg")}
    assert {row["image"] for row in table(run / "split.csv")} == images
    (row,) = table(run / "metrics.csv")
    assert all(np.isfinite(float(row[name])) for name in NAMES)
    best = load_best(run / "best.pt")
    assert (best.config, best.preprocess.image_size, len(best.classes)) == (config, 300, 7)
    assert checkpoint.load(run / "last.pt")["progress"]["epoch"] == 1
    with Image.open(run / "curves.png") as picture:
        assert picture.format == "PNG"
    assert "epoch  1/1" in (run / "train.log").read_text()
    assert r"efficientnet\_b3" in (run / "model_card.md").read_text()  # as Markdown writes it


@pytest.mark.parametrize("options", [("--lr", "1e300"), ("--weight-decay", "1e300")])
def test_a_run_that_breaks_before_its_first_save_does_not_speak_of_one(
    demo_folder: Path, tmp_path: Path, options: tuple[str, str]
) -> None:
    with pytest.raises(UserError, match=r"not finite .*; nothing was saved yet; try a smaller --lr"):
        trained(demo_folder, tmp_path / "run", "--epochs", 1, *options)
    assert not (tmp_path / "run" / "best.pt").exists()


@pytest.mark.slow
def test_absurd_numbers_that_have_a_meaning_train(demo_folder: Path, tmp_path: Path) -> None:
    out = trained(demo_folder, tmp_path / "run", "--epochs", 1, "--batch-size", 10**9, "--cache", tmp_path / "cache",
                  "--cache-limit", 1e300, "--save-minutes", 1e300, "--warmup-epochs", 1e308)  # fmt: skip
    assert load_best(out / "best.pt").config["batch_size"] == 10**9
