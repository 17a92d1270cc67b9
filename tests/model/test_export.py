import json
import re
from pathlib import Path
from typing import Any

from skin import load_classifier
from skin.data.images import Preprocess
from skin.model import checkpoint, unlike
from skin.model import export as module
from skin.model.classifier import SkinClassifier
from skin.model.export import export
from skin.model.unlike import Training
from skin.utils.errors import UserError
from tests import tiny
from tests.conftest import slow

import numpy as np
import onnx
import onnxruntime
import pytest
import torch


@pytest.fixture(scope="module")
def best_pt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose prediction sets need the top class, and that flags about half of six pictures as unlike."""
    calibration = tiny.calibration(temperature=1.5, threshold=0.2, unlike_threshold=1e-4)
    calibration["biases"] = [1.0, -1.0, 0.0, 2.0, 0.0, 0.0, -2.0]
    calibration["sets"]["95"] = {"thresholds": [0.9] * 7, "shared": []}
    path = tiny.write_checkpoint(tmp_path_factory.mktemp("run") / "best.pt", calibration=calibration)
    model = load_classifier(path, device="cpu", amp="off")
    with torch.inference_mode():
        traits = model._model.answers(torch.from_numpy(six(model)))[1].numpy()
    labels = np.arange(6) % 2
    training = Training(traits[:4], labels[:4], model._model.widths()[:-1])
    fitted = unlike.fit(traits[:4], labels[:4], training)
    fitted["threshold"] = fitted["threshold"] * float(np.median(unlike.distance(fitted, traits)))
    state = checkpoint.load(path)
    state["calibration"]["unlike"] = fitted
    checkpoint.save(state, path)
    return path


@pytest.fixture(scope="module")
def onnx_file(best_pt: Path) -> Path:
    path = best_pt.with_name("model.onnx")
    line = export(best_pt, path)
    assert f"wrote {path}: efficientnet_b0, 7 classes, ONNX opset 20" in line
    return path


def six(model: SkinClassifier) -> np.ndarray:
    return np.stack([model.pixels(tiny.picture(seed)) for seed in range(6)])


def probabilities(session: onnxruntime.InferenceSession, squares: np.ndarray) -> np.ndarray:
    return session.run(["probabilities"], {"images": squares})[0]


@pytest.mark.parametrize(("difference", "said"), [(0.0, "exactly those"), (3e-8, "within 3e-08 of those")])
def test_the_difference_from_torch_is_said(
    difference: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "as_onnx", lambda checkpoint: (b"", difference))
    line = export(tiny.write_checkpoint(tmp_path / "best.pt"), tmp_path / "x.onnx")
    assert line.endswith(f"its probabilities are {said} of torch in float32 (--amp off)")


@pytest.mark.parametrize("count", [1, 5])
def test_onnxruntime_gives_torchs_calibrated_probabilities(best_pt: Path, onnx_file: Path, count: int) -> None:
    model = load_classifier(best_pt, device="cpu", amp="off")
    squares = np.stack([model.pixels(tiny.picture(seed)) for seed in range(count)])
    found = probabilities(onnxruntime.InferenceSession(onnx_file), squares)
    expected = [prediction.probabilities for prediction in model.predict_pixels(squares)]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    logits = onnxruntime.InferenceSession(onnx_file).run(["logits"], {"images": squares})[0]
    by_hand = np.exp(logits / 1.5 + [1.0, -1.0, 0.0, 2.0, 0.0, 0.0, -2.0])
    np.testing.assert_allclose(found, by_hand / by_hand.sum(1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("output", ["probabilities", "logits", "distance"])
def test_a_file_with_an_output_that_differs_from_torchs_is_not_written(
    output: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forward, to_onnx = module.Portable.forward, module._to_onnx

    def moved(*arguments: Any) -> tuple[torch.Tensor, ...]:
        answers = forward(*arguments)
        named = zip(module.TOLERANCES, answers, strict=True)
        return tuple(torch.ones_like(answer) if name == output else answer for name, answer in named)

    def converted(*arguments: Any) -> bytes:
        content = to_onnx(*arguments)
        monkeypatch.setattr(module.Portable, "forward", moved)
        return content

    plain = tiny.write_checkpoint(tmp_path / "best.pt", calibration=tiny.calibration(1.5, 0.2, 1.0))
    monkeypatch.setattr(module, "_to_onnx", converted)
    with pytest.raises(UserError, match=f"onnxruntime's {output} differ from torch's"):
        export(plain, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == [plain]


def test_the_file_says_how_it_is_used_and_nothing_of_where_it_was_made(onnx_file: Path) -> None:
    model = onnx.load(onnx_file)
    onnx.checker.check_model(model)
    metadata = {p.key: p.value for p in model.metadata_props}
    assert json.loads(metadata["classes"]) == list(tiny.CLASSES)
    preprocess = Preprocess.from_dict(json.loads(metadata["preprocess"]))
    assert (preprocess.image_size, preprocess.interpolation) == (64, "bicubic")
    assert json.loads(metadata["prediction_set_thresholds"]) == [0.2] * 7
    assert metadata["decision"] == "most probable"
    assert metadata["model"] == "efficientnet_b0"
    assert json.loads(metadata["versions"])["opset"] == model.opset_import[0].version == 20
    assert b"site-packages" not in onnx_file.read_bytes()


@pytest.mark.parametrize("rule", [slow("most probable"), "balanced"])
def test_the_readmes_lines_give_torchs_sets_and_flags(
    best_pt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    monkeypatch.chdir(tmp_path)
    state = checkpoint.load(best_pt)
    state["calibration"] |= {"decision": rule, "mean_probabilities": [0.5, 0.01, *[0.49 / 5] * 5]}
    checkpoint.save(state, Path("best.pt"))
    export(Path("best.pt"), Path("model.onnx"))
    model = load_classifier("best.pt", device="cpu", amp="off")
    blocks = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL)
    (lines,) = [block for block in blocks if "onnxruntime" in block]
    found: dict[str, Any] = {"squares": six(model)}
    exec(lines, found)
    expected = model.predict_pixels(six(model))
    assert [set(names) for names in found["names"]] == [set(p.prediction_set_95) for p in expected]
    assert all(len(names) <= 2 for names in found["names"])  # none reaches 0.9: the top class and the label stay
    assert [model.classes[number] for number in found["label"]] == [p.label for p in expected]
    assert found["unlike"].tolist() == [p.unlike for p in expected]
    assert 0 < found["unlike"].sum() < 6


def test_a_place_that_cannot_be_written_is_one_line(best_pt: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        export(best_pt, tmp_path / "nowhere" / "model.onnx")


@pytest.mark.real
def test_a_hundred_real_images_have_the_same_probabilities(best_pt: Path, onnx_file: Path, real_data: Path) -> None:
    model = load_classifier(best_pt, device="cpu", amp="off")
    paths = sorted((real_data / "ham10000_mini").rglob("*.jpg"))[:100]
    assert len(paths) == 100
    squares = np.stack([model.pixels(path) for path in paths])
    found = probabilities(onnxruntime.InferenceSession(onnx_file), squares)
    expected = [prediction.probabilities for prediction in model.predict_pixels(squares)]
    np.testing.assert_allclose(found, expected, atol=1e-4)
