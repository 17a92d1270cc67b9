"""--infer: what is timed and for how long, what the answers are compared with, and what is shown, written, drawn."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import benchmark
from skin.bench import infer, infer_plot, tables
from skin.bench.infer import Row, Way
from skin.bench.infer_quality import Reference
from skin.bench.options import BenchmarkOptions
from skin.model.checkpoint import load_best
from skin.model.classifier import SkinClassifier
from skin.model.ensemble import save_ensemble
from skin.model.precision import Precision
from skin.utils.errors import UserError
from tests import tiny

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

SQUARES = np.stack([tiny.picture(seed, 64, 64) for seed in range(6)])


def way(name: str = "plain", ask: infer.Ask = lambda squares: squares, device: str = "cpu", threads: int = 1) -> Way:
    return Way(name, "off", "float32", device, threads, ask)


@pytest.fixture(scope="module")
def best_pt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("infer") / "best.pt")


# ---- timing -----------------------------------------------------------------------------------------------------


def test_a_percentile_needs_enough_calls() -> None:
    """Of 1 to 20 ms in two rounds: the median lies between 10 and 11, and 99 % cannot be told from twenty."""
    row = Row(way(), 4, None, [[*map(float, range(1, 11))], [*map(float, range(11, 21))]])
    assert row.percentile(50) == 10.5
    assert row.percentile(95) == pytest.approx(19.05)
    assert row.percentile(99) is None
    assert row.speeds == pytest.approx([4 * 10 / 0.055, 4 * 10 / 0.155])


def test_the_largest_batch_is_that_from_which_twice_as_many_are_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 ms of each call and 1 ms per 64 images; from 512 on a call takes longer by its images."""
    monkeypatch.setattr(infer, "_time", lambda ask, batch, calls: [max(10 + len(batch) / 64, len(batch) / 28)])
    gpu, options = way(device="cuda"), BenchmarkOptions()
    assert infer._sizes(gpu, SQUARES, options, print) == [1, 8, 32, 512]
    assert infer._sizes(way(), SQUARES, options, print) == [1, 8, 32, 128]  # a CPU is not asked for more
    assert infer._sizes(gpu, SQUARES, BenchmarkOptions(batch_size=16), print) == [1, 8, 16]


def test_batches_that_do_not_fit_are_left_out() -> None:
    def ask(squares: np.ndarray) -> np.ndarray:
        if len(squares) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return squares

    assert infer._sizes(way(ask=ask, device="cuda"), SQUARES, BenchmarkOptions(steps=1), print) == [1, 8]


def test_a_batch_of_more_images_than_there_are_takes_them_again() -> None:
    assert (infer._batch(SQUARES, 8) == SQUARES[[0, 1, 2, 3, 4, 5, 0, 1]]).all()


# ---- answers ----------------------------------------------------------------------------------------------------


def test_the_ways_say_the_same(best_pt: Path) -> None:
    model = load_best(best_pt)
    plain = infer.plain(model, Precision("cpu", None))(SQUARES)
    fused = infer._as_predict(SkinClassifier(load_best(best_pt), torch.device("cpu"), "off"))(SQUARES)
    assert plain.sum(1) == pytest.approx(np.ones(6))
    assert fused == pytest.approx(plain, abs=1e-4)


def test_predict_py_is_measured_in_mixed_precision_even_if_the_model_was_trained_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(infer, "_as_predict", lambda model: model)
    path = tiny.write_checkpoint(tmp_path / "best.pt", config={"resolved": {"precision": "float32"}})
    first = next(infer._ways(path, BenchmarkOptions(gpus="0", amp="on"), tmp_path, print))
    assert (first.title, first.precision) == ("predict.py amp on", "bfloat16")
    assert first.ask._model.precision.dtype is torch.bfloat16  # type: ignore[attr-defined]


def test_the_ways_of_an_ensemble_say_the_same(best_pt: Path, tmp_path: Path) -> None:
    path = save_ensemble([best_pt], tmp_path / "one.pt").path
    single = infer.plain(load_best(best_pt), Precision("cpu", None))(SQUARES)
    assert infer.plain(load_best(path), Precision("cpu", None))(SQUARES) == pytest.approx(single, abs=1e-5)


def test_agreement_change_and_the_paired_difference_are_worked_out() -> None:
    """Four images of each of two classes. The reference has three of each right; the way errs at one more of them."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    first = np.array([0.9, 0.9, 0.9, 0.2, 0.1, 0.1, 0.1, 0.8])
    reference = Reference(np.stack([first, 1 - first], 1), labels, np.arange(8))
    other = np.where(np.arange(8) == 0, 0.4, first)
    found = reference.of(np.stack([other, 1 - other], 1))
    assert found is not None
    assert found.agreement == 7 / 8
    assert found.largest_change == pytest.approx(0.5)
    assert found.balanced_accuracy == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert found.difference == pytest.approx(-1 / 8)
    assert found.difference_low is not None
    assert found.difference_high is not None
    assert found.difference_low < -1 / 8 < found.difference_high


def test_the_same_answers_differ_by_nothing() -> None:
    reference = Reference(np.array([[0.7, 0.3], [0.2, 0.8]]), np.array([0, 1]), np.arange(2))
    found = reference.of(np.array([[0.7, 0.3], [0.2, 0.8]]))
    assert found is not None
    assert (found.agreement, found.largest_change, found.difference) == (1.0, 0.0, 0.0)


def test_without_labels_only_the_answers_are_compared_and_without_weights_nothing() -> None:
    found = Reference(np.array([[0.7, 0.3]])).of(np.array([[0.6, 0.4]]))
    assert found is not None
    assert (found.agreement, found.balanced_accuracy) == (1.0, None)
    assert Reference(None).of(np.array([[0.6, 0.4]])) is None


# ---- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


ONCE = ("--infer", "--amp", "off", "--rounds", "1", "--steps", "2", "--batch-size", "2")


@pytest.mark.usefixtures("no_onnx")
def test_every_way_is_timed_compared_shown_and_written(
    best_pt: Path, demo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"infer.{name}" for name in ("json", "csv", "png")}
    outputs = ["--json", str(files["json"]), "--csv", str(files["csv"]), "--plot", str(files["png"])]
    assert benchmark.main([*ONCE, "--checkpoint", str(best_pt), "--data", str(demo_folder), *outputs]) == 0
    content = json.loads(files["json"].read_text())
    assert (content["schema"], content["kind"], content["complete"]) == (6, "infer", True)
    cells = content["cells"]
    assert [(cell["way"], cell["batch_size"], cell["calls"]) for cell in cells] == [
        ("predict.py", 1, 2), ("predict.py", 2, 2), ("plain", 1, 2), ("plain", 2, 2),
    ]  # fmt: skip
    assert content["images_compared"] > 100
    assert all(cell["agreement"] == 1.0 and abs(cell["difference"]) < 1e-9 for cell in cells)
    assert cells[2]["largest_change"] == 0
    assert 0 < cells[0]["largest_change"] < 1e-3
    assert len(cells[0]["samples_ms"][0]) == 2
    assert len(list(csv.DictReader(files["csv"].read_text().splitlines()))) == 4
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "onnx: not measured, onnxruntime is missing; pip install -r requirements.txt\n" in shown
    assert "no split.csv beside the checkpoint" in shown
    assert "bal.acc" in shown


@pytest.mark.slow
def test_onnx_is_timed_with_one_thread_and_with_all(
    best_pt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer, "usable_cores", lambda: 2)
    out = tmp_path / "infer.json"
    assert benchmark.main([*ONCE, "--checkpoint", str(best_pt), "--json", str(out)]) == 0
    cells = json.loads(out.read_text())["cells"]
    onnx = [cell for cell in cells if cell["way"] == "onnx"]
    assert [(cell["threads"], cell["batch_size"]) for cell in onnx] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert all(cell["agreement"] == 1.0 and cell["largest_change"] < 1e-3 for cell in onnx)


@pytest.mark.usefixtures("no_onnx")
def test_ctrl_c_keeps_what_was_timed(best_pt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes in the second round's first row; before the first round each of the four was tried."""
    calls = 0

    def timed(ask: infer.Ask, batch: np.ndarray, steps: int | None) -> list[float]:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise KeyboardInterrupt
        return [1.0]

    monkeypatch.setattr(infer, "_time", timed)
    out = tmp_path / "infer.json"
    with pytest.raises(KeyboardInterrupt):
        benchmark.main([*ONCE, "--rounds", "2", "--checkpoint", str(best_pt), "--json", str(out)])
    content = json.loads(out.read_text())
    assert not content["complete"]
    assert [cell["calls"] for cell in content["cells"]] == [1, 1, 1, 1]


@pytest.mark.usefixtures("no_onnx")
def test_random_weights_are_timed_and_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "infer.json"
    model = ["--model", "efficientnet_b0", "--image-size", "32"]
    assert benchmark.main([*ONCE, *model, "--json", str(out)]) == 0
    assert {cell["agreement"] for cell in json.loads(out.read_text())["cells"]} == {None}
    assert "agreement and accuracy need --checkpoint FILE" in capsys.readouterr().out


def test_a_checkpoint_of_another_version_is_refused(best_pt: Path, tmp_path: Path) -> None:
    state = torch.load(best_pt, weights_only=True)
    torch.save({**state, "format_version": 99}, tmp_path / "best.pt")
    with pytest.raises(UserError, match="is of format version 99, and this program reads 1; use the program"):
        benchmark.main([*ONCE, "--checkpoint", str(tmp_path / "best.pt")])


def test_a_batch_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those ways that have the memory are measured, and so is ONNX where its allocator gives up."""

    class Full:
        def run(self, names: list[str], feed: object) -> list[np.ndarray]:
            raise Exception("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer")

    monkeypatch.setattr(infer.export, "feed", lambda session, squares: squares)
    ways = [way("plain", ask=lambda squares: squares), way("onnx", ask=infer._as_onnx(Full()))]
    said: list[str] = []
    squares = np.zeros((2, 4, 4, 3), np.uint8)
    options = BenchmarkOptions(batch_size=2, steps=1)
    assert [infer._sizes(each, squares, options, said.append) for each in ways] == [[1, 2], []]
    assert said == [f"{ways[1].title}: a batch of 1 does not fit in memory"]


def test_the_first_call_is_not_counted() -> None:
    """It chooses kernels and takes memory, by a hundredth of a second here."""
    seen: list[int] = []

    def ask(squares: np.ndarray) -> np.ndarray:
        seen.append(len(squares))
        time.sleep(0.01 * (len(seen) == 1))
        return squares

    assert len(infer._time(ask, np.zeros(3), 4)) == 4
    assert len(seen) == 5


# ---- shown ------------------------------------------------------------------------------------------------------


def filled(number: int, size: int, **different: Any) -> dict[str, Any]:
    row = Row(way("onnx", threads=number + 1), size, None, [[20.0 * (number + 1) * size**0.5] * 100])
    return {**{column.name: column.of(row) for column in infer.COLUMNS}, **different}


def test_the_table_fits_a_hundred_columns(best_pt: Path) -> None:
    quality = Reference(np.array([[0.7, 0.3], [0.2, 0.8]]), np.array([0, 1]), np.arange(2)).of(
        np.array([[0.6, 0.4], [0.9, 0.1]])
    )
    stream = io.StringIO()
    rows = [Row(way("predict.py", device="cuda"), 1024, quality, [[1234.5] * 100])]
    Console(file=stream, width=100).print(tables.table(infer.COLUMNS, rows))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "…" not in stream.getvalue()


@pytest.mark.parametrize("known", [True, False])
def test_accuracy_is_drawn_where_it_is_known(tmp_path: Path, known: bool) -> None:
    accuracy = {"balanced_accuracy": 0.8, "balanced_accuracy_low": 0.7, "balanced_accuracy_high": 0.85}
    cells = [filled(number, size, **(accuracy if known else {})) for number in range(2) for size in (1, 8, 32)]
    infer_plot.draw(cells, "efficientnet_b0, 64 px; A CPU", tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert (picture.width > 1000) == known
