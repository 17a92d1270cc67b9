"""Several models as one: their file, their average, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skin import load_classifier
from skin.evaluation import several
from skin.model import calibration, checkpoint, ensemble
from skin.model.checkpoint import EnsembleCheckpoint, load_best
from skin.model.ensemble import Unseen, save_ensemble
from skin.model.export import export
from skin.utils.errors import UserError
from tests import tiny

import numpy as np
import onnxruntime
import pytest
import torch

PICTURES = np.stack([tiny.picture(seed, 64, 64) for seed in range(6)])
SWAPPED = ("nv", "mel", *(name for name in tiny.CLASSES if name not in ("nv", "mel")))


def fitted(temperature: float, biases: list[float], seed: int) -> dict[str, Any]:
    """A calibration with answers to twelve images; its flag's distance is 1 for every image."""
    found = tiny.calibration(temperature, threshold=0.2, unlike_threshold=1 / tiny.FEATURES)
    logits = torch.randn(12, 7, generator=torch.Generator().manual_seed(seed))
    answers = {"logits": logits, "labels": torch.arange(12) % 7, "groups": torch.arange(12) // 2}
    return {**found, "biases": biases, "answers": answers}


def other(path: Path, state: dict[str, Any], seed: int, **changes: Any) -> Path:
    """Write another model: the same network with another head."""
    head = state["model"]["classifier.1.weight"]
    noise = torch.randn(head.shape, generator=torch.Generator().manual_seed(seed))
    path.parent.mkdir()
    model = {**state["model"], "classifier.1.weight": head + head.std() * noise}
    checkpoint.save({**state, **changes, "model": model}, path)
    return path


def swapped(state: dict[str, Any]) -> dict[str, Any]:
    """The same model with its classes in the order `SWAPPED`."""
    order = [tiny.CLASSES.index(name) for name in SWAPPED]
    model = dict(state["model"])
    for name in ("classifier.1.weight", "classifier.1.bias"):
        model[name] = model[name][order]
    own = dict(state["calibration"])
    answers = own["answers"]
    labels = torch.tensor([order.index(int(label)) for label in answers["labels"]])
    own |= {"biases": [own["biases"][n] for n in order],
            "answers": {**answers, "logits": answers["logits"][:, order], "labels": labels}}  # fmt: skip
    return {**state, "model": model, "classes": list(SWAPPED), "calibration": own}


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two calibrated models of the same classes, B0 at 64 pixels."""
    folder = tmp_path_factory.mktemp("members")
    (folder / "a").mkdir()
    own = fitted(1.5, [1.0, -1.0, 0.0, 2.0, 0.0, 0.0, -2.0], 1)
    first = tiny.write_checkpoint(folder / "a" / "best.pt", calibration=own)
    state = checkpoint.load(first)
    changed = fitted(0.8, [0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0], 2)
    return [first, other(folder / "b" / "best.pt", state, 1, calibration=changed)]


@pytest.fixture(scope="module")
def two(members: list[Path], tmp_path_factory: pytest.TempPathFactory) -> EnsembleCheckpoint:
    """The two as one, calibrated on the answers that they keep."""
    path = tmp_path_factory.mktemp("two") / "two.pt"
    return save_ensemble(members, path, ensemble.kept_answers(models(members)))


def with_rules(members: list[Path], folder: Path, rules: tuple[str, str]) -> list[Path]:
    """Write the members with these decision rules; `""` is none."""
    paths = []
    for number, (member, own) in enumerate(zip(members, rules, strict=True)):
        state = checkpoint.load(member)
        if own:
            state["calibration"] |= {"decision": own, "mean_probabilities": [1 / 7] * 7}
        paths.append(folder / f"{number}.pt")
        checkpoint.save(state, paths[-1])
    return paths


@pytest.mark.parametrize(("rules", "rule"), [(("balanced",) * 2, "balanced"), (("balanced", ""), "most probable")])
def test_the_rule_is_that_of_the_members_if_they_have_one(
    members: list[Path], tmp_path: Path, rules: tuple[str, str], rule: str
) -> None:
    paths = with_rules(members, tmp_path, rules)
    made = save_ensemble(paths, tmp_path / "best.pt", ensemble.kept_answers(models(paths)))
    assert made.calibration["decision"] == rule


def test_checkpoints_that_are_joined_are_scored_by_their_own_rule(
    members: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine images in ten are of class 0. By the most probable class all are, so that 1/7 is right on average."""
    monkeypatch.chdir(tmp_path)
    draw, labels = np.random.default_rng(0), np.repeat(np.arange(7), [180, 4, 4, 3, 3, 3, 3])
    logits = np.eye(7)[labels] + np.eye(7)[0] * 6 + draw.normal(0, 0.1, (200, 7))
    unseen = Unseen(logits, labels, np.arange(200))
    found = several.join(models(with_rules(members, tmp_path, ("balanced", "balanced"))), unseen).metrics
    assert found["val_balanced_accuracy"] > 0.9
    found = several.join(models(members), unseen).metrics
    assert found["val_balanced_accuracy"] == pytest.approx(1 / 7)


def probabilities(path: Path, views: int = 1) -> np.ndarray:
    model = load_classifier(path, device="cpu", amp="off")
    return np.stack([p.probabilities for p in model.predict_pixels(PICTURES, views=views)])


@pytest.mark.parametrize("views", [1, 2])
def test_an_ensemble_of_one_model_answers_as_the_model(members: list[Path], tmp_path: Path, views: int) -> None:
    save_ensemble(members[:1], tmp_path / "one.pt")
    np.testing.assert_allclose(probabilities(tmp_path / "one.pt", views), probabilities(members[0], views), atol=2e-6)


def test_an_ensemble_answers_in_float32_if_a_member_was_trained_so(members: list[Path], tmp_path: Path) -> None:
    state = checkpoint.load(members[1])
    state["config"] |= {"resolved": {"precision": "float32"}}
    checkpoint.save(state, tmp_path / "float32.pt")
    save_ensemble(members, tmp_path / "unsaid.pt")
    save_ensemble([members[0], tmp_path / "float32.pt"], tmp_path / "two.pt")
    assert load_best(tmp_path / "unsaid.pt").amp("auto") == "auto"
    assert load_best(tmp_path / "two.pt").amp("auto") == "off"
    assert load_best(tmp_path / "two.pt").amp("bf16") == "bf16"


def test_of_two_the_calibrated_probabilities_are_averaged(members: list[Path], tmp_path: Path) -> None:
    made = save_ensemble(members, tmp_path / "two.pt")  # without a calibration of its own
    assert made.model_name == "2 x efficientnet_b0"
    assert [source["file"] for source in made.sources] == ["a/best.pt", "b/best.pt"]
    expected = (probabilities(members[0]) + probabilities(members[1])) / 2
    assert np.abs(probabilities(members[0]) - probabilities(members[1])).max() > 0.1
    np.testing.assert_allclose(probabilities(tmp_path / "two.pt"), expected, atol=2e-6)


def test_classes_in_another_order_are_matched_by_name(
    members: list[Path], two: EnsembleCheckpoint, tmp_path: Path
) -> None:
    checkpoint.save(swapped(checkpoint.load(members[1])), tmp_path / "swapped.pt")
    paths = [members[0], tmp_path / "swapped.pt"]
    turned = save_ensemble(paths, tmp_path / "turned.pt", ensemble.kept_answers(models(paths)))
    assert turned.classes == tiny.CLASSES
    assert turned.calibration["temperature"] == pytest.approx(two.calibration["temperature"])
    np.testing.assert_allclose(probabilities(turned.path), probabilities(two.path), atol=2e-6)


def models(paths: list[Path]) -> list[checkpoint.SingleCheckpoint]:
    return [checkpoint.load_single(path) for path in paths]


def test_kept_answers_are_averaged_after_each_models_calibration(members: list[Path]) -> None:
    found = ensemble.kept_answers(models(members))
    assert found is not None
    own = [calibration.probabilities_of(m.calibration, m.calibration["answers"]["logits"]) for m in models(members)]
    np.testing.assert_allclose(np.exp(found.logits), (own[0] + own[1]) / 2)
    np.testing.assert_array_equal(found.labels, np.arange(12) % 7)
    np.testing.assert_array_equal(found.groups, np.arange(12) // 2)


def test_answers_of_folds_stand_one_after_another_and_share_no_lesion(members: list[Path]) -> None:
    found = ensemble.out_of_fold(models(members))
    own = [calibration.probabilities_of(m.calibration, m.calibration["answers"]["logits"]) for m in models(members)]
    np.testing.assert_allclose(np.exp(found.logits), np.concatenate(own))
    np.testing.assert_array_equal(found.groups, [*(np.arange(12) // 2), *(6 + np.arange(12) // 2)])


def test_the_flag_is_the_mean_of_the_logarithms_of_the_members_distances(members: list[Path], tmp_path: Path) -> None:
    states = [checkpoint.load(path) for path in members]
    for number, state in enumerate(states):
        state["calibration"]["unlike"]["threshold"] = [0.5, 4.0][number]
        checkpoint.save(state, tmp_path / f"{number}.pt")
    paths = [tmp_path / "0.pt", tmp_path / "1.pt"]
    distances = []
    for path in paths:
        model = load_classifier(path, device="cpu", amp="off")
        traits = model._forward(torch.from_numpy(PICTURES))[1].numpy()
        distances.append(calibration.distance(load_best(path).calibration, traits))
    expected = np.sqrt(distances[0] * distances[1])
    unseen = Unseen(np.zeros((6, 7)), np.arange(6), np.arange(6), np.log(expected))
    for given, limit in ((None, 1.0), (np.log(expected), expected.max())):  # of six, the largest is the limit
        save_ensemble(paths, tmp_path / "both.pt", unseen._replace(log_distances=given))
        model = load_classifier(tmp_path / "both.pt", device="cpu", amp="off")
        traits = model._forward(torch.from_numpy(PICTURES))[1].numpy()
        found = calibration.distance(load_best(tmp_path / "both.pt").calibration, traits)
        np.testing.assert_allclose(found, expected / limit, rtol=1e-4)


def test_the_heat_map_is_that_of_the_gradient_of_the_average(members: list[Path], two: EnsembleCheckpoint) -> None:
    """Against autograd: of the log of the mean probability, the normalising sums held fixed as Grad-CAM does."""
    model = load_classifier(two.path, device="cpu", amp="off")
    images, cls = torch.from_numpy(PICTURES), torch.full((6,), 4)
    with torch.no_grad():
        logits, cells = model._model.evidence(images, cls)
    maps, terms = [], []
    for member in models(members):
        single = load_classifier(member.path, device="cpu", amp="off")._model
        with torch.no_grad():
            of_member = single.network.features(single.normalise(images))
        maps.append(of_member.requires_grad_())
        temperature, biases = member.calibration["temperature"], torch.tensor(member.calibration["biases"])
        scaled = single.head(single._pooled(of_member)) / temperature + biases
        terms.append(scaled[:, 4] - scaled.logsumexp(1).detach())
    average = torch.stack(terms).logsumexp(0) - np.log(2)
    average.sum().backward()
    expected = sum((m.grad.mean((2, 3), keepdim=True) * m).sum(1) for m in maps)
    torch.testing.assert_close(logits[:, 4], average.detach())
    torch.testing.assert_close(cells, expected.detach(), rtol=1e-3, atol=1e-5)


def test_of_one_model_the_heat_is_the_models(members: list[Path], tmp_path: Path) -> None:
    save_ensemble(members[:1], tmp_path / "one.pt")
    ours, theirs = (load_classifier(path, device="cpu", amp="off") for path in (tmp_path / "one.pt", members[0]))
    np.testing.assert_allclose(ours.explain(PICTURES[0]).heat, theirs.explain(PICTURES[0]).heat, atol=1e-4)


@pytest.mark.slow
def test_onnx_gives_the_ensembles_answers_in_one_file(members: list[Path], tmp_path: Path) -> None:
    checkpoint.save(swapped(checkpoint.load(members[1])), tmp_path / "swapped.pt")
    paths = [members[0], tmp_path / "swapped.pt"]
    made = save_ensemble(paths, tmp_path / "two.pt", ensemble.kept_answers(models(paths)))
    assert "2 x efficientnet_b0, 7 classes" in export(tmp_path / "two.pt", tmp_path / "two.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "two.onnx", providers=["CPUExecutionProvider"])
    found, _, distance = session.run(None, {"images": PICTURES})
    np.testing.assert_allclose(found, probabilities(tmp_path / "two.pt"), atol=1e-4)
    traits = load_classifier(made.path, device="cpu", amp="off")._forward(torch.from_numpy(PICTURES))[1].numpy()
    np.testing.assert_allclose(distance, calibration.distance(made.calibration, traits), rtol=1e-3)
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["classes"]) == list(tiny.CLASSES)


def test_networks_of_other_depths_go_together(members: list[Path], tmp_path: Path) -> None:
    tiny.write_checkpoint(tmp_path / "b2.pt", name="efficientnet_b2")
    made = save_ensemble([members[0], tmp_path / "b2.pt"], tmp_path / "both.pt")
    assert made.model_name == "efficientnet_b0 + efficientnet_b2"
    expected = (probabilities(members[0]) + probabilities(tmp_path / "b2.pt")) / 2
    np.testing.assert_allclose(probabilities(tmp_path / "both.pt"), expected, atol=2e-6)


def test_an_ensemble_is_no_member_of_another(members: list[Path], two: EnsembleCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"two\.pt is an ensemble itself; name its models instead"):
        save_ensemble([members[0], two.path], tmp_path / "three.pt")
    assert not (tmp_path / "three.pt").exists()


def test_members_see_the_same_square_of_an_image(members: list[Path], tmp_path: Path) -> None:
    tiny.write_checkpoint(tmp_path / "small.pt", image_size=32)
    with pytest.raises(UserError, match=r"small\.pt: its images are prepared with image_size 32, .*the same"):
        save_ensemble([members[0], tmp_path / "small.pt"], tmp_path / "two.pt")


# ---- files of strangers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(two: EnsembleCheckpoint) -> dict[str, Any]:
    return checkpoint.load(two.path)


SPOILT: list[tuple[str, Any, str]] = [
    ("members", [], r"member 1 \(a/best\.pt\) is missing"),
    ("members", lambda s: s["members"][:1], r"member 2 \(b/best\.pt\) is missing"),
    ("members", lambda s: [s["members"][0], None], r"member 2 \(b/best\.pt\) is missing"),
    ("members", lambda s: [*s["members"], *s["members"]], "more members than sources"),
    ("members", lambda s: [s["members"][0], {**s["members"][1], "model": {}}], r"member 2 .*: tensor .* is missing"),
    ("members", lambda s: [s["members"][0], {"members": []}], r"member 2 \(b/best\.pt\): not a best.pt of format"),
    ("members", lambda s: [s["members"][0], {**s["members"][1], "format_version": 2}],
     r"member 2 \(b/best\.pt\): is of format version 2, and this program reads 1"),
    ("members", lambda s: [s["members"][0], {**s["members"][1], "preprocess": {}}],
     r"member 2 \(b/best\.pt\): damaged checkpoint: the preprocessing must have the fields"),
    ("members", lambda s: [s["members"][0], swapped(s["members"][1]) | {"classes": list("abcdefg")}],
     r"member 2 .*: its classes \(a, b, c, d, e, f, g\) are not those"),
    ("members", 3, "'members' is not a list"),
    ("sources", [], "not 1 to 100 different members"),
    ("sources", [{"file": 1, "sha256": "a"}], "do not name files"),
    ("sources", lambda s: [s["sources"][0]] * 2, "not 1 to 100 different members"),
    ("classes", ["a", "b"], "are not those"),
    ("config", {"seed": "one"}, "config's 'seed' is a str"),
    ("calibration", lambda s: s["calibration"] | {"temperature": 0.0}, "calibration does not fit"),
    ("calibration", lambda s: s["members"][0]["calibration"], "calibration does not fit"),
    ("calibration", lambda s: s["calibration"] | {"unlike": {"threshold": -1.0}}, "calibration does not fit"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "reason"), SPOILT)
def test_an_unsound_ensemble_is_one_line(
    key: str, value: Any, reason: str, sound: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {**sound, key: value(sound) if callable(value) else value}
    monkeypatch.setattr(checkpoint, "load", lambda path: state)
    (tmp_path / "best.pt").touch()
    with pytest.raises(UserError, match=reason):
        load_best(tmp_path / "best.pt")
