import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from skin import load_classifier
from skin.data.images import ImageError
from skin.model import classifier as classifier_module
from skin.model.classifier import SkinClassifier
from skin.utils.errors import UserError
from tests import tiny
from tests.conftest import ROOT

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import efficientnet_b0


@pytest.fixture(scope="module")
def best_pt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("run") / "best.pt")


@pytest.fixture(scope="module")
def model(best_pt: Path) -> SkinClassifier:
    return load_classifier(best_pt, device="cpu", amp="off")


@pytest.fixture(scope="module")
def pngs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pngs")
    paths = [folder / f"{seed}.png" for seed in range(12)]
    for seed, path in enumerate(paths):
        Image.fromarray(tiny.picture(seed)).save(path)
    return paths


def by_torchvision_alone(best_pt: Path, squares: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities by the plain means: torchvision's network, its normalisation, a softmax."""
    state = torch.load(best_pt, weights_only=True)
    network = efficientnet_b0(num_classes=len(tiny.CLASSES)).eval()
    network.load_state_dict(state["model"])
    images = torch.from_numpy(squares).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        logits = network((images - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    return (logits / temperature).softmax(1).numpy()


def test_answers_that_are_no_numbers_are_an_error(model: SkinClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 may overflow where the model was trained in another precision."""
    broken = torch.full((1, len(tiny.CLASSES)), torch.nan), torch.zeros(1, tiny.FEATURES)
    monkeypatch.setattr(model, "_forward", lambda *inputs: broken)
    with pytest.raises(UserError, match="not finite; try --amp off"):
        model.predict_pixels(model.pixels(tiny.picture(0))[None])


def test_probabilities_are_those_of_the_plain_network(best_pt: Path, model: SkinClassifier) -> None:
    squares = np.stack([model.pixels(tiny.picture(seed)) for seed in range(4)])
    predictions = model.predict_pixels(squares)
    expected = by_torchvision_alone(best_pt, squares)
    assert len({p.label for p in predictions}) > 1, "the test needs images with different answers"
    np.testing.assert_allclose([p.probabilities for p in predictions], expected, atol=2e-5)
    assert [p.label for p in predictions] == [tiny.CLASSES[i] for i in expected.argmax(1)]


@pytest.mark.parametrize(
    ("trained", "asked", "dtype"),
    [
        ("float32", "auto", None),
        ("float32 (TF32 convolutions)", "auto", None),
        ("float32", "bf16", torch.bfloat16),
        ("bfloat16 (autocast)", "auto", torch.bfloat16),
        (None, "auto", torch.bfloat16),  # a checkpoint of an older version
    ],
)
def test_a_model_answers_in_float32_if_it_was_trained_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: str | None, asked: str, dtype: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    config = {} if trained is None else {"resolved": {"precision": trained}}
    path = tiny.write_checkpoint(tmp_path / "best.pt", config=config)
    assert load_classifier(path, device="cpu", amp=asked)._model.precision.dtype is dtype


def test_path_open_file_pillow_image_and_array_give_the_same(model: SkinClassifier, pngs: list[Path]) -> None:
    expected = model.predict(pngs[0]).probabilities
    picture = tiny.picture(0)
    for source in (str(pngs[0]), io.BytesIO(pngs[0].read_bytes()), Image.fromarray(picture), picture):
        np.testing.assert_array_equal(model.predict(source).probabilities, expected)


def test_a_list_gives_a_list_in_its_order(model: SkinClassifier, pngs: list[Path]) -> None:
    together = model.predict(pngs[::-1])
    for path, prediction in zip(pngs[::-1], together, strict=True):
        np.testing.assert_allclose(prediction.probabilities, model.predict(path).probabilities, atol=1e-5)
    assert model.predict([]) == []


def test_calibration_gives_temperature_set_and_flag(tmp_path: Path, best_pt: Path) -> None:
    calibrated = tiny.write_checkpoint(
        tmp_path / "best.pt", calibration=tiny.calibration(temperature=4.0, threshold=0.15, unlike_threshold=1e-9)
    )
    model = load_classifier(calibrated, device="cpu", amp="off")
    prediction = model.predict(tiny.picture(0))
    (expected,) = by_torchvision_alone(best_pt, model.pixels(tiny.picture(0))[None], temperature=4.0)
    np.testing.assert_allclose(prediction.probabilities, expected, atol=2e-5)
    order = np.argsort(-expected)
    assert prediction.prediction_set == tuple(tiny.CLASSES[i] for i in order if expected[i] >= 0.15)
    assert prediction.unlike


def test_top_gives_the_most_probable_first_and_no_more_than_there_are(model: SkinClassifier) -> None:
    prediction = model.predict(tiny.picture(1))
    top = prediction.top(3)
    assert [p for _, p in top] == sorted(prediction.probabilities, reverse=True)[:3]
    assert top[0] == (prediction.label, prediction.probability)
    assert len(prediction.top(100)) == len(tiny.CLASSES)


def test_by_the_rule_balanced_the_label_is_most_probable_beside_its_mean(tmp_path: Path) -> None:
    means = [0.5, 0.01, *[0.49 / 5] * 5]
    own = tiny.calibration(temperature=4.0, threshold=0.99, unlike_threshold=1e9)
    own |= {"decision": "balanced", "mean_probabilities": means}
    model = load_classifier(tiny.write_checkpoint(tmp_path / "best.pt", calibration=own), device="cpu", amp="off")
    prediction = model.predict(tiny.picture(0))
    scores = prediction.probabilities / means
    assert prediction.decision == "balanced"
    assert prediction.label == tiny.CLASSES[scores.argmax()] != tiny.CLASSES[prediction.probabilities.argmax()]
    assert prediction.probability == prediction.probabilities[scores.argmax()]
    assert [name for name, _ in prediction.top(7)] == [tiny.CLASSES[i] for i in np.argsort(-scores)]
    most_probable = tiny.CLASSES[prediction.probabilities.argmax()]
    assert prediction.prediction_set == (prediction.label, most_probable)  # no probability reaches 0.99
    assert 'labels by the rule "balanced"' in model.description


def test_a_prediction_cannot_be_written_over(model: SkinClassifier) -> None:
    with pytest.raises(ValueError, match="read-only"):
        model.predict(tiny.picture(0)).probabilities[0] = 1


def test_eight_views_do_not_care_how_the_picture_is_turned(model: SkinClassifier) -> None:
    square = model.pixels(tiny.picture(2))
    turned = np.ascontiguousarray(np.rot90(square)[:, ::-1])
    once, twice = (model.predict_pixels(pixels[None], views=8)[0] for pixels in (square, turned))
    np.testing.assert_allclose(once.probabilities, twice.probabilities, atol=1e-5)
    plain = model.predict_pixels(turned[None])[0]
    assert np.abs(plain.probabilities - once.probabilities).max() > 1e-3, "the views must make a difference"
    with pytest.raises(UserError, match="1 to 8"):
        model.predict(square, views=9)


def test_an_unreadable_image_is_named(model: SkinClassifier, tmp_path: Path) -> None:
    broken = tmp_path / "notes.jpg"
    broken.write_text("no image")
    with pytest.raises(ImageError) as caught:
        model.predict([tiny.picture(0), broken])
    assert caught.value.path == str(broken)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images to a batch, so that a dozen images keep several threads busy."""
    monkeypatch.setattr(classifier_module, "_BATCH_PIXELS", 2 * 64 * 64)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_stream_gives_every_image_its_own_answer_in_order(
    model: SkinClassifier, pngs: list[Path], tmp_path: Path, workers: int
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(pngs[0].read_bytes()[:200])
    sources = [*pngs[:5], broken, *pngs[5:]]
    answers = list(model.stream(sources, workers=workers, explain=True))
    assert [a.source for a in answers] == sources
    for answer in answers:
        if answer.source == broken:
            assert answer.error is not None
            assert (answer.prediction, answer.explanation) == (None, None)
            continue
        alone = model.predict(answer.source)
        assert answer.prediction is not None
        assert answer.explanation is not None
        np.testing.assert_allclose(answer.prediction.probabilities, alone.probabilities, atol=1e-5)
        assert answer.explanation.class_name == alone.label
        np.testing.assert_array_equal(answer.explanation.image, model.pixels(answer.source))


@pytest.mark.usefixtures("small_batches")
def test_a_stream_takes_only_a_few_batches_ahead(model: SkinClassifier, pngs: list[Path]) -> None:
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield pngs[taken % len(pngs)]

    stream = model.stream(endless(), workers=2)
    for given in range(1, 40):
        next(stream)
        assert taken <= given + 2 * (2 + 1 + 2), "two workers hold at most a few batches of two"
    stream.close()


@pytest.mark.usefixtures("small_batches")
def test_a_stream_leaves_the_number_of_threads_as_it_was(model: SkinClassifier, pngs: list[Path]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        stream = model.stream(pngs, workers=4)
        next(stream)
        stream.close()
        assert torch.get_num_threads() == 4
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 4
    finally:
        torch.set_num_threads(before)


def test_threads_do_not_mix_their_answers_up(model: SkinClassifier) -> None:
    pictures = [tiny.picture(seed) for seed in range(24)]

    def ask(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return model.predict(picture).probabilities, model.explain(picture, "mel").heat

    one_by_one = [ask(picture) for picture in pictures]
    with ThreadPoolExecutor(6) as pool:
        at_once = list(pool.map(ask, pictures))
    for alone, among in zip(one_by_one, at_once, strict=True):
        np.testing.assert_allclose(among[0], alone[0], atol=1e-6)
        np.testing.assert_allclose(among[1], alone[1], atol=1e-5)


def test_explain_takes_the_most_probable_class_or_any_known_one(model: SkinClassifier, tmp_path: Path) -> None:
    picture = tiny.picture(3)
    assert model.explain(picture).class_name == model.predict(picture).label
    explanation = model.explain(picture, "df")
    assert explanation.class_name == "df"
    explanation.save(tmp_path / "why.png")
    with Image.open(tmp_path / "why.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), explanation.overlay)
    with pytest.raises(UserError, match="no class 'wart'"):
        model.explain(picture, "wart")
    with pytest.raises(UserError, match=r"end its name in"):
        explanation.save(tmp_path / "why.unknown")
    with pytest.raises(UserError, match="No such file"):
        explanation.save(tmp_path / "nowhere" / "why.png")


def test_a_missing_checkpoint_says_what_to_type_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train one first: python train\.py"):
        load_classifier(tmp_path / "best.pt")


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path, best_pt: Path) -> None:
    state = torch.load(best_pt, weights_only=True)
    torch.save({**state, "format_version": 99}, tmp_path / "best.pt")
    with pytest.raises(UserError, match="format version"):
        load_classifier(tmp_path / "best.pt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_a_device_that_is_not_there_is_said(best_pt: Path) -> None:
    with pytest.raises(UserError, match="cannot run the model on 'cuda'"):
        load_classifier(best_pt, device="cuda")


@pytest.mark.gpu
def test_a_gpu_gives_the_same_answers(best_pt: Path, model: SkinClassifier, pngs: list[Path]) -> None:
    on_gpu = load_classifier(best_pt, device="cuda", amp="off")
    for there, here in zip(on_gpu.stream(pngs), model.predict(pngs), strict=True):
        assert there.prediction is not None
        np.testing.assert_allclose(there.prediction.probabilities, here.probabilities, atol=1e-3)


def test_importing_the_package_does_not_load_torch() -> None:
    code = "import sys, skin, skin.utils.cli, skin.data.image_files; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
