"""--export --small: what a smaller file changes, which one is written, and why none is."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import predict
from skin.data import split
from skin.data.layouts import read_index
from skin.evaluation import small
from skin.evaluation.small import Answers, Candidate, Damage
from skin.model import export, reduced
from skin.model.checkpoint import load_best
from skin.model.reduced import Way
from skin.utils import cli
from skin.utils.errors import UserError
from tests import tiny

import numpy as np
import onnx
import onnxruntime
import pytest

pytestmark = pytest.mark.usefixtures("published")

FINE = Damage(images=1000, agreement=1.0, flags=1.0, sensitivity_loss=0.0, worst="nv", calibration_loss=0.0)
FULL = Candidate("full", bytes(1000))


def tried(name: str, size: int, **different: float) -> Candidate:
    return Candidate(name, bytes(size), damage=replace(FINE, **different))  # type: ignore[arg-type]


def answers(classes: list[int], confidence: float = 0.75, distance: float = 0.5) -> Answers:
    """Answers of two classes, each with this confidence."""
    rows = [[confidence, 1 - confidence] if c == 0 else [1 - confidence, confidence] for c in classes]
    return Answers(np.array(rows), np.full(len(classes), distance))


# ---- the gate ---------------------------------------------------------------------------------------------------


def test_damage_is_worked_out() -> None:
    """Of four naevi and four melanomas the full file gets three each right, the small one loses a melanoma.

    Both are 0.75 sure: the full file's calibration error is 0, the small one's 0.75 - 5/8.
    """
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    full, less = answers([0, 0, 0, 1, 1, 1, 1, 0]), answers([0, 0, 0, 1, 1, 1, 0, 0])
    less.distance[2] = 1.5
    found = small.damage(["nv", "mel"], labels, full, less)
    assert (found.images, found.agreement, found.flags) == (8, 7 / 8, 7 / 8)
    assert (found.sensitivity_loss, found.worst) == (0.25, "melanoma (mel)")
    assert found.calibration_loss == pytest.approx(0.125)
    assert len(found.reasons) == 4


def test_a_class_without_images_and_a_gain_are_no_damage() -> None:
    labels = np.array([0, 0])
    found = small.damage(["nv", "mel"], labels, answers([0, 1]), answers([0, 0]))
    assert (found.sensitivity_loss, found.agreement) == (0.0, 0.5)


@pytest.mark.parametrize(
    ("different", "passes"),
    [
        ({"agreement": 0.99}, True),
        ({"agreement": 0.9899}, False),
        ({"flags": 0.98}, False),
        ({"sensitivity_loss": 0.99 - 0.98}, True),  # a little more than 0.01, by rounding alone
        ({"sensitivity_loss": 0.011}, False),
        ({"calibration_loss": 0.01}, True),
        ({"calibration_loss": 0.011}, False),
        ({"calibration_loss": -0.2}, True),
        ({"calibration_loss": float("nan")}, False),
    ],
)
def test_the_limits(different: dict[str, float], passes: bool) -> None:
    assert (tried("it", 500, **different).verdict == "passes") == passes


def test_the_smallest_that_passes_is_chosen() -> None:
    """Plain 8-bit activations as a normal B0 had them: the smallest, and 61 % of its answers."""
    found = [tried("float16", 500), tried("int8", 300, agreement=0.992), tried("8 bits", 250, agreement=0.61)]
    assert small.choose(FULL, found).name == "int8"


def test_if_none_passes_the_nearest_and_what_to_do_are_said() -> None:
    failed = Candidate("float16", reason="failed: no kernel")
    found = [failed, tried("int8", 300, agreement=0.9, sensitivity_loss=0.2)]
    with pytest.raises(UserError) as raised:
        small.choose(replace(FULL, content=bytes(3 * 2**20)), found)
    assert str(raised.value) == (
        "no smaller file answers like the full one; the nearest, int8 (0.0 MiB), keeps 90.0 % of the classes, "
        "loses 0.200 of the sensitivity of nv; leave out --small for the full file of 3.0 MiB"
    )


def test_a_file_that_is_no_smaller_is_not_chosen() -> None:
    with pytest.raises(UserError, match="is no smaller"):
        small.choose(FULL, [tried("float16", 1000)])


def test_if_none_can_be_made_the_reason_is_said() -> None:
    with pytest.raises(UserError, match=r"no smaller file could be made \(failed: no kernel\)"):
        small.choose(FULL, [Candidate("float16", reason="failed: no kernel")])


def test_the_table_gives_each_its_line_and_rounds_down() -> None:
    made = tried("int8", 2**20, agreement=0.99996, sensitivity_loss=0.004, calibration_loss=-0.002)
    head, full, first, second, *verdicts = small.table([FULL, made, Candidate("odd", reason="failed: x")], None)
    assert head.split() == [
        "file", "MiB", "ms", "class", "kept", "flag", "kept", "sensitivity", "calib.", "error"
    ]  # fmt: skip
    assert full.split()[:2] == ["full", "0.0"]
    assert first.split() == ["int8", "1.0", "nan", "99.9", "%", "100.0", "%", "-0.004", "-0.002"]
    assert second == "odd"
    assert verdicts == ["int8: passes", "odd: failed: x"]


# ---- fewer bits, on a network of two layers ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_layers() -> bytes:
    """The file of a network from images uint8 [N, 4, 4, 3] to probabilities [N, 2] and a distance [N]."""
    text = """<ir_version: 9, opset_import: ["" : 20]>
    two (uint8[batch, 4, 4, 3] images) => (float[batch, 2] probabilities, float[batch] distance) {
        bytes = Transpose <perm = [0, 3, 1, 2]> (images)
        pixels = Cast <to = 1> (bytes)
        maps = Conv <kernel_shape = [4, 4]> (pixels, convolution)
        traits = Flatten (maps)
        logits = Gemm <transB = 1> (traits, head)
        probabilities = Softmax (logits)
        axis = Constant <value_ints = [1]> ()
        distance = ReduceMax <keepdims = 0> (traits, axis)
    }"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    convolution, head = rng.normal(size=(8, 3, 4, 4)) / 2550, rng.normal(size=(2, 8))
    convolution[3] = 0  # a channel without a scale
    for name, values in (("convolution", convolution), ("head", head)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


SQUARES = np.random.default_rng(1).integers(0, 256, (20, 4, 4, 3), np.uint8)


def ask(content: bytes) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return small._ask(session, SQUARES).probabilities


@pytest.mark.parametrize(
    ("large", "kinds"),
    [
        (None, {"convolution_float16": "FLOAT16", "head_float16": "FLOAT16"}),
        (100, {"convolution_int8": "INT8", "convolution_scale": "FLOAT", "head_float16": "FLOAT16"}),
    ],
    ids=["float16", "int8 of large layers"],
)
def test_weights_in_fewer_bits_answer_alike(two_layers: bytes, large: int | None, kinds: dict[str, str]) -> None:
    content = reduced.fewer_bits(two_layers, large)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    assert {t.name: onnx.TensorProto.DataType.Name(t.data_type) for t in model.graph.initializer} == kinds
    np.testing.assert_allclose(ask(content), ask(two_layers), atol=2e-3 if large is None else 2e-2)


def test_in_8_bits_each_channel_has_a_scale_and_errs_by_half_of_it(two_layers: bytes) -> None:
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(two_layers).graph.initializer}
    found = onnx.load_from_string(reduced.fewer_bits(two_layers, 0)).graph.initializer
    made = {t.name: onnx.numpy_helper.to_array(t) for t in found}
    values, scale = made["convolution_int8"], made["convolution_scale"]
    assert scale.shape == (8, 1, 1, 1)
    assert np.abs(values).reshape(8, -1).max(1).tolist() == [127, 127, 127, 0, 127, 127, 127, 127]
    assert (np.abs(values * scale - weights["convolution"]) <= scale / 2 * 1.001).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_activations_in_fewer_bits_are_calibrated_by_the_squares(
    two_layers: bytes, bits: int, capfd: pytest.CaptureFixture[str]
) -> None:
    content = reduced.quantized(two_layers, SQUARES, bits)
    kinds = {t.data_type for t in onnx.load_from_string(content).graph.initializer}
    assert (onnx.TensorProto.UINT16 if bits == 16 else onnx.TensorProto.UINT8) in kinds
    np.testing.assert_allclose(ask(content), ask(two_layers), atol=0.1)
    assert capfd.readouterr().err == ""


# ---- a run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def best_pt(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as train.py leaves it: its data are the demo set, half of them to train on."""
    path = tmp_path_factory.mktemp("run") / "best.pt"
    tiny.write_checkpoint(path, image_size=32, config={"data": str(demo_folder)})
    rows = split.split_index(read_index(demo_folder), (0.5, 0.2, 0.3), seed=0)
    split.write_manifest(rows, path.with_name("split.csv"))
    return path


@pytest.fixture(scope="module")
def whole(best_pt: Path) -> Callable[[], bytes]:
    """A function that returns the full file, made once: it takes ten seconds, and many tests need none."""
    as_onnx = export.as_onnx
    return functools.cache(lambda: as_onnx(load_best(best_pt))[0])


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    best_pt: Path, whole: Callable[[], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:  # fmt: skip
    """`run("--export", "m.onnx")` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export, "as_onnx", lambda checkpoint: (whole(), 0.0))

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["predict.py", "--checkpoint", str(best_pt), *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.run(predict.main)
        return int(end.value.code or 0), *capsys.readouterr()

    return run


def only(monkeypatch: pytest.MonkeyPatch, *ways: Way) -> None:
    monkeypatch.setattr(reduced, "WAYS", ways)


@pytest.mark.slow
def test_a_real_network_in_float16_is_written_and_says_how_it_was_made(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, best_pt: Path, whole: Callable[[], bytes]
) -> None:
    def broken(content: bytes, squares: np.ndarray) -> bytes:
        raise RuntimeError("no kernel\nand more")

    def overflown(content: bytes, squares: np.ndarray) -> bytes:
        model = onnx.load_from_string(content)
        (head,) = [t for t in model.graph.initializer if t.name.endswith("classifier.1.bias")]
        head.CopyFrom(onnx.numpy_helper.from_array(np.full(7, np.nan, np.float32), head.name))
        return bytes(model.SerializeToString())

    only(monkeypatch, reduced.WAYS[0], Way("broken", False, broken), Way("overflown", False, overflown))
    code, out, err = run("--export", "small.onnx", "--small")
    assert (code, err) == (0, "")
    manifest = split.read_manifest(best_pt.with_name("split.csv"))
    images = int((manifest["split"] == "val").sum())
    assert f"judged on {images} validation images of HAM10000; so few hide a rare change of an answer\n" in out
    assert "\nbroken: failed: no kernel\noverflown: refused: its probabilities are not finite\n" in out
    assert "wrote small.onnx: efficientnet_b0, 7 classes, float16 weights, 7." in out
    model = onnx.load(tmp_path / "small.onnx")
    notes = {p.key: p.value for p in model.metadata_props}
    made = json.loads(notes["reduction"])
    assert (made["way"], made["images"]) == ("float16 weights", images)
    assert made["limits"] == {"agreement": 0.99, "sensitivity_loss": 0.01, "calibration_loss": 0.01}
    assert json.loads(notes["classes"]) == list(tiny.CLASSES)
    assert (tmp_path / "small.onnx").stat().st_size < 0.6 * len(whole())


@pytest.mark.slow
def test_a_real_network_in_8_bits_is_refused_if_it_says_other_things(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, best_pt: Path
) -> None:
    """Ranges come from training images, the verdict from those of validation."""
    plain = reduced.WAYS[-1]
    seen: list[np.ndarray] = []

    def spoilt(content: bytes, squares: np.ndarray) -> bytes:
        """Calibrate by images that are nearly black: what is brighter is cut off."""
        seen.append(squares)
        return plain.reduce(content, squares[:2] // 64)

    only(monkeypatch, plain._replace(reduce=spoilt))
    code, _, err = run("--export", "small.onnx", "--small")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "no smaller file answers like the full one; the nearest, int8 weights, 8-bit activations" in err
    assert "leave out --small for the full file of 15." in err
    assert list(tmp_path.iterdir()) == []
    (squares,) = seen
    found = load_best(best_pt)
    images = small.images_of(found, None, None, lambda line: None)
    manifest = split.read_manifest(best_pt.with_name("split.csv")).set_index("image")["split"]
    assert {manifest[Path(path).stem] for path in images.training} == {"train"}
    assert {manifest[Path(path).stem] for path in images.validation} == {"val"}
    assert len(images.training) == small.TRAINING
    np.testing.assert_array_equal(squares, small._squares(found, images.training))


@pytest.mark.slow
def test_every_way_makes_a_file_of_a_real_network_that_onnxruntime_runs(whole: Callable[[], bytes]) -> None:
    squares = np.stack([tiny.picture(seed, 32, 32) for seed in range(4)])
    for way in reduced.WAYS:
        content = way.reduce(whole(), squares)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        assert np.isfinite(small._ask(session, squares).probabilities).all()
        assert len(content) < 0.6 * len(whole())
        assert b"site-packages" not in content


@pytest.mark.slow
def test_ctrl_c_leaves_no_file(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(content: bytes, squares: np.ndarray) -> bytes:
        with monkeypatch.context() as patch:
            patch.setattr("onnxruntime.quantization.quantize_static", stop)
            return reduced.quantized(content, squares, 8)

    def stop(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    only(monkeypatch, Way("8 bits", True, interrupted))
    assert run("--export", "small.onnx", "--small")[0] == 130
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


@pytest.mark.parametrize("words", [(), ("--small",)])
def test_a_missing_onnxruntime_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        code, _, err = run("--export", "model.onnx", *words)
    assert code == 2
    assert err == "error: cannot export: onnxruntime is missing; pip install -r requirements.txt\n"


@pytest.mark.slow
def test_no_validation_images_are_one_line_whose_advice_works(
    run: Run, monkeypatch: pytest.MonkeyPatch, demo_folder: Path, best_pt: Path
) -> None:
    only(monkeypatch, reduced.WAYS[0], reduced.WAYS[-1])
    rows = split.read_manifest(best_pt.with_name("split.csv"))
    text = best_pt.with_name("split.csv").read_text()
    rows.loc[rows["split"] == "val", "split"] = "test"
    rows.to_csv(best_pt.with_name("split.csv"), index=False)
    try:
        code, out, err = run("--export", "small.onnx", "--small")
        best_pt.with_name("split.csv").unlink()  # or the run's folder has gone, and a set is named
        again = run("--export", "small.onnx", "--small")
        named = run("--export", "small.onnx", "--small", "--data", demo_folder)
    finally:
        best_pt.with_name("split.csv").write_text(text)
    assert (code, out) == (2, "")
    assert "--small is judged on validation images" in err
    assert "out of training but the test split: name another labelled set by --data DIR" in err
    assert again[0] == 2
    assert "name a set: --data DIR" in again[2]
    assert named[0] == 0
    assert "judged on 160 validation images" in named[1]
    assert "8-bit activations: not tried: the set has no training images" in named[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--small",), "--export FILE --small"),
        (("--export", "a.onnx", "--data", "d"), "--data and --labels name the images of --small"),
        (("--export", "a.onnx", "--small", "--labels", "t.csv"), "needs the images that it labels, --data DIR"),
        (("--export", "no/such/a.onnx", "--small"), "there is no folder no/such"),
    ],
)
def test_options_that_do_not_go_together(run: Run, words: tuple[str, ...], said: str) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1
