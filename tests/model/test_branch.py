"""The branch for what is known beside the pixels: at first it adds nothing, and it never touches the features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skin import load_classifier
from skin.data.dataset import Metadata
from skin.data.metadata import Column, Encoder
from skin.model import checkpoint, export
from skin.model.averaging import as_one
from skin.model.checkpoint import load_best
from skin.model.classifier import SkinClassifier
from skin.model.ensemble import save_ensemble
from skin.model.metadata import branch_of
from skin.model.network import Classifier, build, load_weights, preprocess_for
from skin.model.precision import Precision
from skin.utils.errors import UserError
from tests import tiny

import numpy as np
import pytest
import torch

AGE_AND_SEX = Encoder((Column("age", (), 50.0, 10.0), Column("sex", ("female", "male"))))
SITE = Encoder((Column("site", ("back", "face", "foot")), Column("age", (), 60.0, 5.0)))
CPU = Precision("cpu", None)
IMAGES = torch.from_numpy(np.stack([tiny.picture(seed, 32, 32) for seed in range(3)]))
KNOWN = {"age": 70, "sex": "male"}


@pytest.fixture(scope="module")
def best_pt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fitted = tiny.calibration(1.0, 0.2, 1.0)
    return tiny.write_checkpoint(
        tmp_path_factory.mktemp("known") / "best.pt", image_size=32, encoder=AGE_AND_SEX, calibration=fitted
    )


@pytest.fixture(scope="module")
def model(best_pt: Path) -> SkinClassifier:
    return load_classifier(best_pt, device="cpu", amp="off")


def test_a_new_network_answers_by_the_pixels_alone() -> None:
    torch.manual_seed(0)
    alone = Classifier(build("efficientnet_b0", 3), preprocess_for("efficientnet_b0", 32), CPU).eval()
    torch.manual_seed(0)
    beside = build("efficientnet_b0", 3, AGE_AND_SEX)
    known = torch.from_numpy(AGE_AND_SEX.encode({"age": [20, 50, None], "sex": ["male", "", "female"]}, 3))
    joined = Classifier(beside, alone.preprocess, CPU).eval()
    assert torch.equal(joined(IMAGES, known), alone(IMAGES))
    assert torch.equal(joined(IMAGES), alone(IMAGES))


def test_none_is_an_image_of_which_nothing_is_known(best_pt: Path) -> None:
    single = as_one(load_best(best_pt), lambda one: Classifier(one.network, one.preprocess, CPU)).eval()
    missing = torch.from_numpy(AGE_AND_SEX.encode({}, 3))
    male = torch.from_numpy(AGE_AND_SEX.encode({"sex": ["male"] * 3}, 3))
    assert torch.allclose(single(IMAGES, missing), single(IMAGES), rtol=0, atol=1e-6)
    assert not torch.allclose(single(IMAGES, male), single(IMAGES), atol=1e-2)


def test_traits_and_evidence_are_of_the_pixels_alone(best_pt: Path) -> None:
    single = as_one(load_best(best_pt), lambda one: Classifier(one.network, one.preprocess, CPU)).eval()
    male, classes = torch.from_numpy(AGE_AND_SEX.encode({"sex": ["male"] * 3}, 3)), torch.tensor([0, 1, 2])
    with torch.no_grad():
        (with_both, traits), (alone, of_pixels) = single.answers(IMAGES, male), single.answers(IMAGES)
        assert torch.equal(traits, of_pixels)
        assert torch.equal(with_both, single(IMAGES, male))
        assert not torch.equal(with_both, alone)
        assert torch.equal(single.evidence(IMAGES, classes, male)[1], single.evidence(IMAGES, classes)[1])


def test_a_model_may_be_asked_twice_at_once(best_pt: Path, tmp_path: Path) -> None:
    plain = tiny.write_checkpoint(tmp_path / "plain.pt", image_size=32, config={"seed": 1})
    save_ensemble([best_pt, plain], tmp_path / "both.pt")
    male = torch.from_numpy(AGE_AND_SEX.encode({"sex": ["male"] * 3}, 3))
    known = Metadata(AGE_AND_SEX, male.numpy()).and_without()
    assert known.ways == (2,)
    for path in (best_pt, tmp_path / "both.pt"):
        model = as_one(load_best(path), lambda one: Classifier(one.network, one.preprocess, CPU)).eval()
        logits, traits = model.answers(IMAGES, torch.from_numpy(known.rows))
        (one, of_pixels), (other, _) = model.answers(IMAGES, male), model.answers(IMAGES)
        assert torch.allclose(logits, torch.stack([one, other], 1), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(one, other, atol=1e-2)
        assert torch.equal(traits, of_pixels)
        assert torch.equal(model(IMAGES, torch.from_numpy(known.rows)), logits)


def test_it_is_trained_with_the_head() -> None:
    joined = Classifier(build("efficientnet_b0", 3, AGE_AND_SEX), preprocess_for("efficientnet_b0", 32), CPU)
    joined.freeze(True)
    free = {name for name, parameter in joined.network.named_parameters() if parameter.requires_grad}
    assert free == {"metadata.hidden.weight", "metadata.hidden.bias", "metadata.shift.weight", "metadata.shift.bias",
                    "classifier.1.weight", "classifier.1.bias"}  # fmt: skip


def test_a_new_training_may_start_from_such_a_model(best_pt: Path) -> None:
    plain, beside = build("efficientnet_b0", 3), build("efficientnet_b0", 3, SITE)
    for network in (plain, beside):
        assert load_weights(network, "efficientnet_b0", str(best_pt)) == str(best_pt)
    assert torch.equal(plain.features[0][0].weight, beside.features[0][0].weight)
    assert not branch_of(beside).shift.weight.any()  # type: ignore[union-attr]


def test_the_library_takes_them_by_name(model: SkinClassifier) -> None:
    picture = tiny.picture(1)
    alone, male = model.predict(picture), model.predict(picture, metadata=KNOWN)
    assert model.encoder == AGE_AND_SEX
    assert np.abs(alone.probabilities - male.probabilities).max() > 1e-3
    assert male.unlike == alone.unlike
    for nothing in ({}, {"age": None, "sex": "unknown"}):
        assert model.predict(picture, metadata=nothing).probabilities == pytest.approx(alone.probabilities, abs=1e-6)
    with pytest.warns(UserWarning, match="site=back counts as missing: the model uses age, sex"):
        other = model.predict([picture], metadata={"site": "back"})[0]
    assert other.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
    (streamed,) = model.stream([picture], metadata=lambda source: KNOWN)
    assert streamed.prediction is not None
    assert streamed.prediction.probabilities == pytest.approx(male.probabilities, abs=1e-6)
    views = model.predict(picture, views=2, metadata=KNOWN).probabilities
    assert np.abs(views - model.predict(picture, views=2).probabilities).max() > 1e-3
    assert "with age, sex beside the pixels" in model.description


@pytest.mark.filterwarnings("ignore:.*(the model uses|takes the pixels alone)")  # each is told what all are
def test_the_members_of_an_ensemble_each_take_their_own(best_pt: Path, tmp_path: Path) -> None:
    paths = [best_pt, tiny.write_checkpoint(tmp_path / "site.pt", image_size=32, encoder=SITE)]
    paths.append(tiny.write_checkpoint(tmp_path / "alone.pt", image_size=32, config={"seed": 1}))
    save_ensemble(paths, tmp_path / "best.pt")
    known = {"age": 40, "sex": "female", "site": "face"}
    together = load_classifier(tmp_path / "best.pt", device="cpu", amp="off")
    assert together.encoder is not None
    assert together.encoder.names == ["age", "sex", "site"]
    each = [load_classifier(path, device="cpu", amp="off") for path in paths]
    picture = tiny.picture(2)
    expected = np.mean([one.predict(picture, metadata=known).probabilities for one in each], axis=0)
    assert together.predict(picture, metadata=known).probabilities == pytest.approx(expected, abs=1e-6)
    with pytest.warns(UserWarning, match="age, sex, site: this model takes the pixels alone"):
        each[-1].predict(picture, metadata=known)
    missing = np.mean([one.predict(picture).probabilities for one in each], axis=0)
    assert together.predict(picture).probabilities == pytest.approx(missing, abs=1e-6)
    assert together.explain(picture).heat.max() == 1


@pytest.mark.parametrize("damage", [[], [{"name": "age"}], "age", 3, [None], {"age": 1}])
def test_a_damaged_encoder_is_one_line(best_pt: Path, tmp_path: Path, damage: Any) -> None:
    state = checkpoint.load(best_pt)
    state["config"]["resolved"]["metadata"] = damage
    checkpoint.save(state, tmp_path / "best.pt")
    with pytest.raises(UserError, match="damaged checkpoint: its 'metadata' are not the columns of a table"):
        load_best(tmp_path / "best.pt")


@pytest.mark.parametrize("damage", [{}, [], {"low": 0.1}, "good"])
def test_a_damaged_measurement_is_one_line(best_pt: Path, tmp_path: Path, damage: Any) -> None:
    state = checkpoint.load(best_pt)
    state["calibration"]["metadata_alone"] = damage
    checkpoint.save(state, tmp_path / "best.pt")
    with pytest.raises(UserError, match="damaged checkpoint: its calibration does not fit its model"):
        load_best(tmp_path / "best.pt")


def test_weights_and_encoder_must_fit_together(best_pt: Path, tmp_path: Path) -> None:
    state = checkpoint.load(best_pt)
    state["config"]["resolved"]["metadata"] = SITE.to_list()
    checkpoint.save(state, tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"tensor metadata\.hidden\.weight is not torch.float32 \(32, 5\)"):
        load_best(tmp_path / "best.pt")
    del state["config"]["resolved"]
    checkpoint.save(state, tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"tensor metadata\.hidden\.bias is unknown"):
        load_best(tmp_path / "best.pt")


@pytest.mark.slow
def test_an_exported_model_has_a_second_input(best_pt: Path, model: SkinClassifier, tmp_path: Path) -> None:
    import onnxruntime

    said = export.export(best_pt, tmp_path / "model.onnx")
    assert said.endswith("a second input, metadata, takes age; sex (female, male)")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [it.name for it in session.get_inputs()] == ["images", "metadata"]
    notes = json.loads(session.get_modelmeta().custom_metadata_map["metadata"])
    assert notes == {"columns": AGE_AND_SEX.to_list(), "missing": [0, 1, 0, 0]}
    pixels = np.stack([model.pixels(tiny.picture(seed)) for seed in (1, 2, 3)])
    (alone,) = export.ask(session, ["probabilities"], pixels)
    expected = [prediction.probabilities for prediction in model.predict_pixels(pixels)]
    assert alone == pytest.approx(np.stack(expected), abs=1e-5)
    (male,) = session.run(["probabilities"], {"images": pixels, "metadata": AGE_AND_SEX.encode(
        {"age": [70] * 3, "sex": ["male"] * 3}, 3)})  # fmt: skip
    expected = [prediction.probabilities for prediction in model.predict_pixels(pixels, metadata=[KNOWN] * 3)]
    assert male == pytest.approx(np.stack(expected), abs=1e-5)
