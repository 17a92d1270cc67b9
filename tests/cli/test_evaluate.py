import hashlib
import json
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import evaluate
from skin import load_classifier
from skin.data import split
from skin.data.dataset import Batch
from skin.data.images import centre_crop, read_image
from skin.data.layouts import read_index
from skin.evaluation import metrics, plots, report_files, schema, seen, test_set
from skin.model import calibration, checkpoint, ensemble, inference
from skin.model.checkpoint import load_best
from skin.training.options import read_options
from skin.utils import run_folders
from skin.utils.errors import UserError
from skin.utils.parallel import Topology
from tests import tiny, warm
from tests.conftest import ROOT

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="module")
def run_folder(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as train.py leaves it, made from the demo set, with a model that guesses."""
    folder = tmp_path_factory.mktemp("runs") / "guess"
    folder.mkdir()
    path = tiny.write_checkpoint(folder / "best.pt", image_size=32)
    rows = split.split_index(read_index(demo_folder), (0.5, 0.2, 0.3), seed=0)
    split.write_manifest(rows, folder / "split.csv")
    model = load_classifier(path, device="cpu", amp="off")
    pixels = np.stack([model.pixels(image) for image in rows.loc[rows["split"] == "val", "path"]])
    with torch.inference_mode():
        features = model._model.features(torch.from_numpy(pixels))
        logits = model._model.head(features)
    labels = np.array([tiny.CLASSES.index(c) for c in rows.loc[rows["split"] == "val", "label"]])
    state = checkpoint.load(path)
    state["config"] |= {"data": str(demo_folder), "labels": None, "allow_missing": False, "image_size": 32}
    state["calibration"] = calibration.fit(logits.numpy(), labels, features.numpy())
    checkpoint.save(state, path)
    return folder


@pytest.fixture
def run(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`run("--by", "sex")`, in this process, without loader processes: the report and what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "DPI", 30)
    draw = report_files.draw

    def run(*words: object, out: Path | None = tmp_path / "out", pictures: bool = False) -> tuple[dict, str]:
        monkeypatch.setattr(report_files, "draw", draw if pictures else lambda *inputs: {})  # drawing takes seconds
        argv = ["--checkpoint", run_folder / "best.pt", "--amp", "off", "--workers", 0, "--rounds", 20, *words]
        argv += ["--out", out] if out else []
        assert evaluate.main(list(map(str, argv))) == 0
        folder = out or run_folder / "evaluation"
        return json.loads((folder / "report.json").read_text()), capsys.readouterr().out

    return run


Run = Callable[..., tuple[dict, str]]


def test_the_runs_own_test_part_is_the_default(run: Run, run_folder: Path, tmp_path: Path) -> None:
    made, said = run(out=None, pictures=True)
    manifest = split.read_manifest(run_folder / "split.csv")
    test = manifest[manifest["split"] == "test"]
    assert made["images"] == len(test)
    assert made["groups"] == test["group"].nunique()
    assert made["warnings"] == []
    assert made["about"]["split"] == "test"
    files = {path.name for path in (run_folder / "evaluation").iterdir()}
    assert files == {
        "report.json", "report.md", "report.html", "stard_ai.md", "predictions.csv", "isic_submission.csv",
        "confusion_matrix.png", "per_class.png", "roc.png", "precision_recall.png", "decision_curve.png",
        "risk_coverage.png", "reliability.png", "flow.png", "mistakes.png",
    }  # fmt: skip
    assert "Balanced accuracy" in said
    assert "WARNING" not in said
    assert f"{made['balanced_accuracy']['value']:.3f}" in (run_folder / "model_card.md").read_text()
    assert list(tmp_path.iterdir()) == []


def test_figures_follow_from_predictions_csv_and_agree_with_the_library(
    run: Run, run_folder: Path, demo_folder: Path, tmp_path: Path
) -> None:
    made, _ = run()
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    head = ["image", "label", "predicted", "group", "unlike", "prediction_set"]
    assert list(table.columns) == [*head, *tiny.CLASSES, *(f"logit_{name}" for name in tiny.CLASSES)]
    labels = np.array([tiny.CLASSES.index(c) for c in table["label"]])
    probabilities = table[list(tiny.CLASSES)].to_numpy()
    assert made["accuracy"]["value"] == pytest.approx((table["label"] == table["predicted"]).mean())
    assert made["macro_auc"]["value"] == pytest.approx(metrics.macro_auc(labels, probabilities), abs=1e-9)
    model = load_classifier(run_folder / "best.pt", device="cpu", amp="off")
    paths = read_index(demo_folder).rows.set_index("image")["path"]
    one = model.predict(paths[table["image"].iloc[3]])
    np.testing.assert_allclose(one.probabilities, probabilities[3], atol=1e-6)


def test_bfloat16_answers_nearly_as_float32(run: Run, tmp_path: Path) -> None:
    found = []
    for amp in ("off", "bf16"):
        run("--amp", amp)
        found.append(pd.read_csv(tmp_path / "out/predictions.csv")[list(tiny.CLASSES)].to_numpy())
    # The median, since the network is untrained: a rounding may turn its answer to a picture over.
    assert 0 < np.median(np.abs(found[0] - found[1]).max(1)) < 0.05


def test_a_model_that_was_trained_in_float32_is_measured_in_it(
    run: Run, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    state = checkpoint.load(run_folder / "best.pt")
    state["config"] |= {"resolved": {"precision": "float32"}}
    checkpoint.save(state, tmp_path / "float32.pt")
    data = ("--data", state["config"]["data"])
    assert run("--amp", "auto", *data)[0]["about"]["precision"] == "bfloat16 (autocast)"
    made, _ = run("--amp", "auto", *data, "--checkpoint", tmp_path / "float32.pt")
    assert made["about"]["precision"] == "float32"


def test_with_amp_off_the_probabilities_are_those_of_a_plain_loop(run: Run, run_folder: Path, tmp_path: Path) -> None:
    run("--amp", "off")
    written = pd.read_csv(tmp_path / "out/predictions.csv")
    found = load_best(run_folder / "best.pt")
    rows = read_index(Path(found.config["data"])).rows.set_index("image").loc[written["image"]]
    views = np.stack([centre_crop(read_image(path, found.preprocess), 32) for path in rows["path"]])
    images = torch.from_numpy(views).permute(0, 3, 1, 2).contiguous() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (found.preprocess.mean, found.preprocess.std))
    with torch.inference_mode():
        logits = found.network.eval()((images - mean) / std)
    biases = torch.tensor(found.calibration["biases"])
    expected = (logits / found.calibration["temperature"] + biases).softmax(1).numpy()
    assert np.ptp(expected, axis=0).max() > 0.1, "the test needs images with different answers"
    # This model's logits run into hundreds, of which float32 has no more than four decimals.
    np.testing.assert_allclose(written[list(found.classes)].to_numpy(), expected, atol=2e-4)


def test_milk10k_has_one_answer_per_lesion(run: Run, tmp_path: Path) -> None:
    classes = ("AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC")
    data = tmp_path / "milk"
    marks = [",".join(str(int(cls == diagnosis)) for cls in classes) for diagnosis in ("MEL", "NV", "INF")]
    truth = "".join(f"IL_{n},{row}\n" for n, row in enumerate(marks))
    data.mkdir()
    (data / "MILK10k_Training_GroundTruth.csv").write_text(f"lesion_id,{','.join(classes)}\n{truth}")
    images = "".join(f"IL_{n // 2},dermoscopic,ISIC_{n}\n" for n in range(6))
    (data / "MILK10k_Training_Metadata.csv").write_text(f"lesion_id,image_type,isic_id\n{images}")
    for n in range(6):
        Image.fromarray(tiny.picture(n)).save(data / f"ISIC_{n}.png")
    made, _ = run("--data", data)

    # The model does not know INF, and IL_2 is such a lesion: it has an answer, and counts in no metric.
    assert (made["images"], made["per_lesion"]["lesions"]) == (4, 2)
    answers = pd.read_csv(tmp_path / "out/predictions.csv")
    submission = pd.read_csv(tmp_path / "out/isic_submission.csv").set_index("lesion_id")
    assert list(submission.columns) == list(classes)
    assert submission.index.tolist() == ["IL_0", "IL_1", "IL_2"]
    of_melanoma = answers["mel"].to_numpy().reshape(3, 2).mean(1)
    np.testing.assert_allclose(submission["MEL"], of_melanoma)
    assert (submission["SCCKA"] == 0).all()
    assert "isic_submission.csv has 0 for BEN_OTH, INF, MAL_OTH, SCCKA" in " ".join(made["notes"])


def test_reports_carry_names_and_hashes_and_no_paths(run: Run, run_folder: Path, demo_folder: Path, tmp_path: Path):
    made, _ = run()
    about = made["about"]
    assert about["checkpoint"] == f"{run_folder.name}/best.pt"
    assert about["checkpoint_sha256"] == hashlib.sha256((run_folder / "best.pt").read_bytes()).hexdigest()
    assert about["data"] == demo_folder.name
    again, _ = run("--data", demo_folder, "--split", "all")
    assert again["about"]["images_sha256"] != about["images_sha256"]
    for name in ("report.json", "report.md", "report.html", "stard_ai.md"):
        text = (tmp_path / "out" / name).read_text()
        assert str(demo_folder.parent) not in text
        assert str(run_folder.parent) not in text
    validator = jsonschema.Draft202012Validator(json.loads(schema.PATH.read_text()))
    assert list(validator.iter_errors(made)) == []


def test_the_flow_and_table_1_are_those_of_the_run(run: Run, run_folder: Path, demo_folder: Path, tmp_path: Path):
    made, _ = run()
    manifest = split.read_manifest(run_folder / "split.csv")
    counts = manifest["split"].value_counts().to_dict()
    population = made["population"]
    assert {name: found["images"] for name, found in population["flow"]["splits"].items()} == counts
    assert population["flow"]["evaluated"]["images"] == counts["test"] == made["images"]
    assert population["flow"]["groups_are"] == "lesions"
    titles = [it["title"] for it in population["characteristics"]]
    assert titles == ["Class", "Age", "Sex", "Site"]
    rows = read_index(demo_folder).rows.set_index("image").loc[manifest["image"]]
    sexes = rows["sex"].to_numpy()[manifest["split"] == "train"]
    assert population["characteristics"][2]["values"]["female"]["train"] == (sexes == "female").sum()
    made, _ = run("--data", copied(read_index(demo_folder).rows, tmp_path / "other", "{}.jpg"))
    assert next(iter(made["population"]["columns"])) == "evaluated"
    assert made["population"]["columns"]["train"]["images"] == counts["train"]


def test_operating_points_and_prevalence_are_asked_on_the_command_line(run: Run, tmp_path: Path) -> None:
    made, said = run("--cost-ratio", 20, "--prevalence", "mel=0.02,malignant=0.05")
    assert made["prevalence"]["stated"] == {"mel": 0.02, "malignant": 0.05}
    assert list(made["prevalence"]["targets"]) == ["mel", "malignant"]
    assert made["operating_points"]["cost_ratio"] == 20
    assert set(made["operating_points"]["malignant"]) == {"sensitivity_90", "sensitivity_95", "youden", "cost_ratio"}
    assert "malignant, A miss costs 20 false alarms" in said
    assert made["per_lesion"]["lesions"] == made["groups"]
    assert "per_patient" not in made
    assert "At a stated prevalence" in (tmp_path / "out" / "report.md").read_text()


def test_a_prevalence_is_refused_before_the_model_runs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "collect", None)
    refused = {"psoriasis=0.1": "the model has no such class", "mel=0.2,malignant=0.1": "add up to more"}
    for text, message in refused.items():
        with pytest.raises(UserError, match=message):
            run("--prevalence", text)


def test_averages_over_the_views(run: Run, run_folder: Path, demo_folder: Path, tmp_path: Path) -> None:
    made, _ = run("--tta", 8)
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").iloc[0]
    paths = read_index(demo_folder).rows.set_index("image")["path"]
    model = load_classifier(run_folder / "best.pt", device="cpu", amp="off")
    expected = model.predict(paths[table["image"]], views=8).probabilities
    np.testing.assert_allclose(table[list(tiny.CLASSES)].to_numpy(float), expected, atol=1e-6)
    assert made["about"]["tta"] == 8
    answers = pd.read_csv(tmp_path / "out" / "predictions.csv")
    called = [model.predict(paths[image]).label for image in answers["image"]]
    assert made["views"]["before"]["accuracy"]["value"] == pytest.approx((answers["label"] == called).mean())
    assert made["views"]["after"]["accuracy"] == made["accuracy"]


def test_another_model_is_compared_in_pairs(run: Run, run_folder: Path, tmp_path: Path) -> None:
    state = checkpoint.load(run_folder / "best.pt")
    head = state["model"]["classifier.1.weight"]
    noise = torch.randn(head.shape, generator=torch.manual_seed(0))
    state["model"]["classifier.1.weight"] = head + head.std() * noise
    (tmp_path / "other").mkdir()
    checkpoint.save(state, tmp_path / "other" / "best.pt")
    made, said = run("--against", tmp_path / "other" / "best.pt")
    assert "WARNING: --against" in said
    assert "no split.csv beside the checkpoint" in said
    found = made["against"]
    assert found["checkpoint"] == "other/best.pt"
    assert found["overall"]["after"]["accuracy"] == made["accuracy"]
    for name, difference in found["overall"]["difference"].items():
        before, after = (found["overall"][side][name]["value"] for side in ("before", "after"))
        assert difference["value"] == pytest.approx(after - before)
    assert found["balanced"]["after"] == made["decision"]["balanced"]
    assert f"against other/best.pt: {found['conclusion']}" in said
    assert 'by the rule "balanced" the difference of the balanced accuracy is' in said
    assert '\n  Balanced accuracy, by the rule "balanced"     ' in said
    assert "## Against other/best.pt" in (tmp_path / "out" / "report.md").read_text()


def test_the_model_itself_and_models_of_other_classes_are_not_compared(
    run: Run, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "collect", None)  # refused before the model runs
    (tmp_path / "copy.pt").write_bytes((run_folder / "best.pt").read_bytes())
    for path in (run_folder / "best.pt", tmp_path / "copy.pt"):
        with pytest.raises(UserError, match="is the model itself"):
            run("--against", path)
    tiny.write_checkpoint(tmp_path / "two.pt", classes=("mel", "nv"))
    with pytest.raises(UserError, match=r"--against .*two\.pt: its classes \(mel, nv\) are not those of the model"):
        run("--against", tmp_path / "two.pt")


def another_head(run_folder: Path, folder: Path, answers: bool = True, seed: int = 0) -> Path:
    """A run like `run_folder`'s, in `folder`, whose model has another head; return its best.pt."""
    shutil.copytree(run_folder, folder, ignore=shutil.ignore_patterns("evaluation*"))
    state = checkpoint.load(folder / "best.pt")
    head = state["model"]["classifier.1.weight"]
    noise = torch.randn(head.shape, generator=torch.Generator().manual_seed(seed))
    state["model"]["classifier.1.weight"] = head + head.std() * noise
    if not answers:
        del state["calibration"]["answers"]
    checkpoint.save(state, folder / "best.pt")
    return folder / "best.pt"


def test_several_checkpoints_are_one_model(
    run: Run, run_folder: Path, demo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [run_folder / "best.pt", another_head(run_folder, tmp_path / "b")]
    made, _ = run("--checkpoint", *both)
    (joined,) = tmp_path.glob("runs/ensemble-*/best.pt")
    about, answers = made["about"], pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert (about["model"], about["checkpoint"]) == ("2 x efficientnet_b0", f"{joined.parent.name}/best.pt")
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in both]
    assert [member["checkpoint_sha256"] for member in about["members"]] == hashes
    assert all(member["ms_per_image"] > 0 for member in about["members"])
    sizes = [round(member["weights_mib"], 2) for member in about["members"]]
    assert sizes == [0.18, 0.18]  # 48,791 numbers, less those of BatchNorm, which is folded
    val = (split.read_manifest(run_folder / "split.csv")["split"] == "val").sum()
    assert made["calibration"]["validation_images"] == val
    paths = {path.stem: path for path in demo_folder.rglob("*.jpg")}
    images = [paths[image] for image in answers["image"][:8]]
    averages = np.mean([asked(path, images) for path in both], axis=0)
    logits = answers[[f"logit_{name}" for name in tiny.CLASSES]].to_numpy()[:8]
    np.testing.assert_allclose(logits, np.log(averages), atol=1e-4)
    np.testing.assert_allclose(answers[list(tiny.CLASSES)].to_numpy()[:8], asked(joined, images), atol=1e-4)
    report = (tmp_path / "out" / "report.md").read_text().replace("\\", "")
    assert "The model is an ensemble of 2: guess/best.pt (efficientnet_b0" in report
    assert evaluate.main(["--list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["recipe"], listed["model"], listed["state"]) == ("ensemble", "2 x b0", "done")
    assert run_folders.newest_run() == run_folders.LATEST  # it is no run to go on with
    with pytest.raises(UserError, match=r"--resume .*ensemble-.*: an ensemble of the models of other runs"):
        read_options(None, ["--resume", str(joined.parent)])
    assert run_folders.newest_model() == run_folders.LATEST / "best.pt"


def asked(path: Path, images: list[Path]) -> np.ndarray:
    model = load_classifier(path, device="cpu", amp="off")
    return np.stack([prediction.probabilities for prediction in model.predict(images)])


def test_what_one_model_of_several_was_trained_on_is_said(run: Run, run_folder: Path, tmp_path: Path) -> None:
    second = another_head(run_folder, tmp_path / "b")
    manifest = split.read_manifest(second.parent / "split.csv")
    turned = manifest.replace({"split": {"test": "train", "train": "test"}})
    split.write_manifest(turned, second.parent / "split.csv")
    third = another_head(run_folder, tmp_path / "c", seed=1)
    (third.parent / "split.csv").unlink()
    made, said = run("--checkpoint", run_folder / "best.pt", second, third)
    number = (manifest["split"] == "test").sum()
    assert f"member 2 (b/best.pt): {number} of {number} images were TRAINED ON" in said
    assert "member 3 (c/best.pt): no split.csv beside the checkpoint" in said
    assert made["calibration"]["temperature"] is None
    report = (tmp_path / "out" / "report.md").read_text()
    assert "here it is not, for want of validation images that all of them share" in report
    joined, own = load_best(next(Path("runs").glob("ensemble-*/best.pt"))), manifest["split"] == "test"
    assert test_set.trained_on_by_others(joined, manifest["image"]).tolist() == own.tolist()
    assert not test_set.trained_on_by_others(load_best(second), manifest["image"]).any()
    split.write_manifest(in_a_folder(turned), joined.path.parent / "split-2.csv")
    assert test_set.trained_on_by_others(joined, manifest["image"]).tolist() == own.tolist()


def in_a_folder(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the split.csv of a run of the same images in class folders, which are part of their names then."""
    return manifest.assign(image=manifest["label"] + "/" + manifest["image"] + ".jpg")


def test_models_whose_answers_were_not_kept_are_asked_for_them(run: Run, run_folder: Path, tmp_path: Path) -> None:
    made, _ = run("--checkpoint", run_folder / "best.pt", another_head(run_folder, tmp_path / "b", answers=False))
    manifest = split.read_manifest(run_folder / "split.csv")
    assert made["calibration"]["validation_images"] == (manifest["split"] == "val").sum()
    (joined,) = tmp_path.glob("runs/ensemble-*/best.pt")
    assert 0 < load_best(joined).metrics["val_accuracy"] < 1


def test_an_ensemble_can_be_told_from_a_run_before_it_has_its_best_pt(
    run: Run, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ensemble, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run("--checkpoint", run_folder / "best.pt", another_head(run_folder, tmp_path / "b"))
    (made,) = tmp_path.glob("runs/ensemble-*")
    assert not (made / "best.pt").exists()
    assert run_folders.is_joined(run_folders.read_config(made))


def test_mixtures_are_refused_by_name(
    run: Run, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_folder / "best.pt"
    with monkeypatch.context() as patch:
        patch.chdir(run_folder)  # two paths of one part may be one object
        with pytest.raises(UserError, match=r"best\.pt is the same model as best\.pt"):
            ensemble.joinable([Path("best.pt"), Path("best.pt")])
    (tmp_path / "copy.pt").write_bytes(first.read_bytes())
    tiny.write_checkpoint(tmp_path / "two.pt", classes=("mel", "nv"), image_size=32)
    tiny.write_checkpoint(tmp_path / "large.pt")
    for name, reason in {
        "copy.pt": r"copy\.pt is the same model as .*guess/best\.pt: name each model once",
        "two.pt": r"two\.pt: its classes \(mel, nv\) are not those of .*guess/best\.pt",
        "large.pt": r"large\.pt: its images are prepared with image_size 64, those of .* with 32; train them with",
        "gone.pt": r"no checkpoint at .*gone\.pt",
    }.items():
        with pytest.raises(UserError, match=reason):
            run("--checkpoint", first, tmp_path / name)
    assert not (tmp_path / "runs").exists()


def test_lesions_of_another_set_are_found_in_its_paths(run: Run, demo_folder: Path, tmp_path: Path) -> None:
    rows = read_index(demo_folder).rows.groupby("label").head(2)
    for number, row in enumerate(rows.itertuples()):
        target = tmp_path / "other" / row.label / f"P{number // 2}_{number % 2}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(row.path).read_bytes())
    made, said = run("--data", tmp_path / "other", "--group-by", r"(P\d+)_")
    assert (made["images"], made["groups"]) == (14, 7)
    assert "--group-by finds 7 lesions or patients" in said
    with pytest.raises(UserError, match="--group-by is a pattern for --data: name the folder, too"):
        run("--group-by", "P")


def test_another_set_is_matched_by_name(run: Run, demo_folder: Path, tmp_path: Path) -> None:
    rows = read_index(demo_folder).rows.groupby("label").head(2)
    names = {"mel": "MEL", "nv": "Nevus", "akiec": "AK", "bcc": "BCC", "bkl": "psoriasis"}
    for row in rows[rows["label"].isin(names)].itertuples():
        target = tmp_path / "other" / names[row.label] / f"copy of {row.image}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(row.path).read_bytes())
    made, said = run("--data", tmp_path / "other")
    supports = {name: of_class["support"] for name, of_class in made["per_class"].items()}
    assert supports == {"akiec": 2, "bcc": 2, "bkl": 0, "df": 0, "mel": 2, "nv": 2, "vasc": 0}
    assert made["images"] == 8
    assert made["per_class"]["df"]["sensitivity"]["value"] is None
    assert "note: Nevus is taken for the model's nv" in said
    assert "the model does not know psoriasis: its 2 images" in said
    assert "no image of bkl, df, vasc" in said
    assert made["calibration"]["unlike_training"]["unknown_class_images"] == 2
    labels = pd.read_csv(tmp_path / "out" / "predictions.csv")["label"]
    assert sorted(labels.unique()) == ["akiec", "bcc", "mel", "nv", "psoriasis"]


def test_images_that_were_trained_on_are_said_loudly(run: Run, demo_folder: Path, tmp_path: Path) -> None:
    made, said = run("--split", "train")
    assert f"WARNING: {made['images']} of {made['images']} images were TRAINED ON" in said
    assert "TRAINED ON" in made["warnings"][0]
    assert "WARNING" in (tmp_path / "out" / "report.md").read_text()
    copies = tmp_path / "copies"
    for row in read_index(demo_folder).rows.groupby("label").head(4).itertuples():
        target = copies / row.label / Path(row.path).name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(row.path).read_bytes())
    made, _ = run("--data", copies)
    assert "TRAINED ON" in made["warnings"][0]
    assert not made["about"]["own_data"]


def copied(rows: pd.DataFrame, folder: Path, name: str) -> Path:
    """The images of `rows` as class folders in `folder`, called by `name`, a format of the image's name."""
    for row in rows.itertuples():
        target = folder / row.label / name.format(row.image)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(row.path).read_bytes())
    return folder


def test_copies_of_training_images_are_known_by_their_bytes(
    run: Run, run_folder: Path, demo_folder: Path, tmp_path: Path
) -> None:
    rows = read_index(demo_folder).rows
    manifest = split.read_manifest(run_folder / "split.csv").set_index("image")
    of_part = rows["image"].map(manifest["split"])
    few = [rows[of_part == part].groupby("label").head(1) for part in ("train", "val", "test")]
    numbered = pd.concat(few).assign(image=lambda r: range(len(r)))  # names that say nothing
    made, _ = run("--data", copied(numbered, tmp_path / "renamed", "{}.jpg"))
    assert [len(part) for part in few] == [7, 7, 7]
    assert made["warnings"][0].startswith("7 of 21 images were TRAINED ON")
    assert made["warnings"][1].startswith("7 of 21 images were used to choose and calibrate")
    assert len(made["warnings"]) == 2
    assert "by name and by the bytes of files" in str(made["notes"])
    again = copied(numbered, tmp_path / "encoded", "{}.jpg")
    for path in again.rglob("*.jpg"):  # other bytes, at another size
        with Image.open(path) as picture:
            smaller = picture.resize((200, 150))
        smaller.save(path, quality=60)
    made, _ = run("--data", again)
    assert made["warnings"][0].startswith("7 of 21 images were TRAINED ON")
    assert made["warnings"][1].startswith("7 of 21 images were used to choose and calibrate")


def test_patients_of_another_set_may_be_called_alike() -> None:
    ours = [("a/1.jpg", "P01", "train"), ("a/2.jpg", "P02", "val"), ("a/3.jpg", "PATIENT_3", "train")]
    manifest = pd.DataFrame(ours, columns=["image", "group", "split"])
    images = [f"b/{number}.jpg" for number in range(1, 5)]
    part = pd.DataFrame({"image": images, "group": ["P01", "P02", "P03", "P03"]})
    none = pd.Series("", part.index)
    assert seen.seen_in_training(part, manifest, False, none) == []
    assert seen.alike_by_chance(part, manifest) == [
        "2 of 4 images have the names of the run's lesions or patients, such as P01: if they are the same ones, the "
        "metrics are too good"
    ]
    kin = ["1 of 4 images show lesions or patients of the train split"]
    of_val = ["1 of 4 images show lesions or patients of the val split"]
    assert seen.seen_in_training(part, manifest, True, none) == kin + of_val
    copy = pd.Series(["", "a/2.jpg", "", ""])  # one image is the run's, so its names are
    assert [words[:34] for words in seen.seen_in_training(part, manifest, False, copy)] == [
        kin[0][:34], "1 of 4 images were used to choose ",
    ]  # fmt: skip
    two = part.assign(group=["P03", "P02", "P02", "P03"])  # one more of the patient whose image is seen
    assert seen.seen_in_training(two, manifest, False, copy)[1][:26] == "1 more of 4 images show le"
    telling = part.assign(group=["PATIENT_3", "x", "y", "z"])
    assert seen.seen_in_training(telling, manifest, False, none) == kin
    assert seen.alike_by_chance(part.assign(group=["x", "y", "z", "z"]), manifest) == []


def test_copies_within_a_set_count_as_one_picture(run: Run, demo_folder: Path, tmp_path: Path) -> None:
    rows = read_index(demo_folder).rows.groupby("label").head(2)
    folder = copied(rows, tmp_path / "twice", "{}.jpg")
    once, _ = run("--data", folder)
    copied(rows, folder, "copy of {}.jpg")
    twice, said = run("--data", folder)
    assert (twice["images"], twice["groups"]) == (2 * once["images"], once["groups"])
    assert [*twice["accuracy"].values()] == pytest.approx([*once["accuracy"].values()], abs=0.01)
    assert f"{len(rows)} images of the set are copies of others: their groups are joined" in said


def test_a_set_that_holds_the_runs_images_and_others_is_another_set(
    run: Run, demo_folder: Path, tmp_path: Path
) -> None:
    bigger = tmp_path / "bigger"
    shutil.copytree(demo_folder, bigger)
    table = bigger / "HAM10000_metadata.csv"
    lines = table.read_text().splitlines()
    picture = next(bigger.rglob("*.jpg"))
    for number in range(10):
        picture.with_name(f"NEW_{number}.jpg").write_bytes(picture.read_bytes())
        lines.append(",".join([f"HAM_NEW{number}", f"NEW_{number}", *lines[1].split(",")[2:]]))
    table.write_text("\n".join(lines) + "\n")
    made, said = run("--data", bigger)
    assert made["images"] == 170
    assert "holds every image of the run and 10 others: taken for another set" in said
    assert "TRAINED ON" in said


def test_the_runs_own_data_are_known_wherever_they_are(
    run: Run, run_folder: Path, demo_folder: Path, tmp_path: Path
) -> None:
    test = split.read_manifest(run_folder / "split.csv")["split"].eq("test").sum()
    shutil.copytree(demo_folder, tmp_path / "moved")
    for folder in (demo_folder, tmp_path / "moved"):
        made, said = run("--data", folder)
        assert made["images"] == test
        assert "these are the run's own data" in said
        assert made["warnings"] == []


def test_a_table_of_some_of_the_runs_images_is_taken_as_it_is(run: Run, demo_folder: Path, tmp_path: Path) -> None:
    rows = read_index(demo_folder).rows.groupby("label").head(5)
    table = rows[["image", "label"]].assign(group=[f"P{n // 3}" for n in range(len(rows))], split="test")
    table.to_csv(tmp_path / "table.csv", index=False)
    made, said = run("--data", demo_folder, "--labels", tmp_path / "table.csv")
    assert (made["images"], made["groups"]) == (35, 12)
    assert "TRAINED ON" in said
    assert "no longer in the data" not in said


def test_a_table_with_other_parts_of_the_runs_images_is_another_set(
    run: Run, demo_folder: Path, tmp_path: Path
) -> None:
    read_index(demo_folder).rows[["image", "label"]].assign(split="test").to_csv(tmp_path / "table.csv", index=False)
    made, said = run("--data", demo_folder, "--labels", tmp_path / "table.csv")
    assert made["images"] == 160
    assert "the set splits the run's images in another way: taken for another set" in said


def test_a_run_that_cut_its_validation_from_a_table_knows_its_data_when_they_move(
    run: Run, run_folder: Path, demo_folder: Path, tmp_path: Path
) -> None:
    moved, lone = tmp_path / "moved", tmp_path / "lone"
    shutil.copytree(demo_folder, moved)
    shutil.copytree(run_folder, lone, ignore=shutil.ignore_patterns("evaluation*"))
    state = checkpoint.load(lone / "best.pt")
    state["config"] |= {"labels": str(demo_folder / "table.csv")}
    checkpoint.save(state, lone / "best.pt")
    manifest = split.read_manifest(lone / "split.csv")
    parts = manifest["split"].replace("val", "train")
    manifest.assign(split=parts)[["image", "label", "split"]].to_csv(moved / "table.csv", index=False)
    words = ("--data", moved, "--labels", moved / "table.csv", "--split", "val")
    made, said = run("--checkpoint", lone / "best.pt", *words)
    assert made["images"] == (manifest["split"] == "val").sum()
    assert "these are the run's own data" in said


@pytest.mark.parametrize(("option", "value"), [("--group-column", "dx_type"), ("--group-by", r"ISIC_0+(\d)")])
def test_groups_that_are_asked_for_are_those_of_the_runs_own_data_too(
    run: Run, run_folder: Path, demo_folder: Path, option: str, value: str
) -> None:
    manifest = split.read_manifest(run_folder / "split.csv").query("split == 'test'")
    asked = read_index(demo_folder, **{option[2:].replace("-", "_"): value}).rows  # type: ignore[arg-type]
    groups = asked.loc[asked["image"].isin(manifest["image"]), "group"].nunique()
    assert groups < manifest["group"].nunique()
    made, said = run("--data", demo_folder, option, value)
    assert (made["images"], made["groups"]) == (len(manifest), groups)
    assert f"groups are those of {option}" in said


def test_a_comparison_says_that_either_model_was_trained_on_the_set(
    run: Run, run_folder: Path, tmp_path: Path
) -> None:
    other = another_head(run_folder, tmp_path / "other")
    (tmp_path / "other" / "split.csv").unlink()
    made, _ = run("--split", "train", "--against", other)
    said = made["against"]["conclusion"]
    assert re.search(r"This comparison is not fair\. This model: \d+ of \d+ images were TRAINED ON", said)
    assert "Whether this comparison is fair is not known. The other model: no split.csv beside the checkpoint" in said
    manifest = split.read_manifest(run_folder / "split.csv")
    split.write_manifest(in_a_folder(manifest), tmp_path / "other" / "split.csv")
    made, _ = run("--split", "train", "--against", other)
    assert re.search(r"The other model: (\d+) of \1 images were TRAINED ON", made["against"]["conclusion"])


def test_other_labels_for_the_runs_images_are_kept(run: Run, demo_folder: Path, tmp_path: Path) -> None:
    """A table that someone has corrected."""
    corrected = tmp_path / "corrected"
    shutil.copytree(demo_folder, corrected)
    table = corrected / "HAM10000_metadata.csv"
    table.write_text(table.read_text().replace(",mel,", ",bkl,"))
    made, said = run("--data", corrected)
    assert "the set has other labels for the run's images: taken for another set" in said
    assert made["images"] == 160
    assert "TRAINED ON" in said


def test_other_pictures_of_the_same_names_are_another_set(run: Run, demo_folder: Path, tmp_path: Path) -> None:
    """Numbered names, such as 000.jpg, are those of many sets."""
    other = tmp_path / "other"
    shutil.copytree(demo_folder, other)
    pictures = sorted(other.rglob("*.jpg"))
    first = pictures[0].read_bytes()
    for path in pictures:
        path.write_bytes(first)
    made, said = run("--data", other)
    assert "files of the set have the run's names and other contents: taken for another set" in said
    assert made["images"] == 160


def test_each_evaluation_has_a_folder_of_its_own(run_folder: Path, tmp_path: Path) -> None:
    best = checkpoint.load_best(run_folder / "best.pt")

    def folder(own: bool, split: str, root: str = "/a/PAD.v1", views: int = 1) -> str:
        test = SimpleNamespace(own=own, split=split, name=Path(root).name, images_sha256=f"of {root}")
        return report_files.default_folder(views, best, test).name  # type: ignore[arg-type]

    assert folder(True, "test") == "evaluation"
    assert folder(True, "val") == "evaluation-val"
    assert folder(True, "test", views=8) == "evaluation-tta8"
    assert folder(False, "all") == "evaluation-PAD.v1"
    assert folder(False, "test") == "evaluation-PAD.v1-test"
    assert folder(False, "all", "/a/PAD: 1?") == "evaluation-PAD_ 1_"
    earlier = run_folder / "evaluation-images"
    earlier.mkdir()
    try:
        about = {"images_sha256": "of /a/images"}
        (earlier / "report.json").write_text(json.dumps({"kind": report_files.KIND, "about": about}))
        assert folder(False, "all", "/a/images") == "evaluation-images"
        assert folder(False, "all", "/b/images") == "evaluation-images-2"
    finally:
        shutil.rmtree(earlier)


def test_images_that_have_gone_stop_the_evaluation_unless_it_is_told_to_go_on(
    run: Run, run_folder: Path, demo_folder: Path, tmp_path: Path
) -> None:
    test = split.read_manifest(run_folder / "split.csv").query("split == 'test'")["image"]
    lone, moved = tmp_path / "lone", tmp_path / "moved"
    shutil.copytree(demo_folder, moved)
    shutil.copytree(run_folder, lone, ignore=shutil.ignore_patterns("evaluation*"))
    state = checkpoint.load(lone / "best.pt")
    state["config"] |= {"data": str(moved)}
    checkpoint.save(state, lone / "best.pt")
    next(moved.rglob(f"{test.iloc[0]}.jpg")).unlink()
    with pytest.raises(UserError, match=rf"first: {test.iloc[0]}\): .* go on without them: --allow-missing"):
        run("--checkpoint", lone / "best.pt")
    made, said = run("--checkpoint", lone / "best.pt", "--allow-missing")
    assert made["images"] == len(test) - 1
    assert "left out: 1 image of the run's split.csv" in said


def test_subgroups_and_threshold_are_asked_for(run: Run, tmp_path: Path) -> None:
    made, _ = run("--by", "sex, Age", "--threshold", 0.5, pictures=True)
    assert list(made["subgroups"]) == ["sex", "age"]
    assert sum(g["images"] for g in made["subgroups"]["sex"]["groups"].values()) == made["images"]
    assert made["per_class"]["mel"]["at_threshold"]["threshold"] == 0.5
    assert (tmp_path / "out" / "subgroups.png").exists()
    run()
    assert not (tmp_path / "out" / "subgroups.png").exists()  # nothing of the earlier report is left


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tta", 9], "there are 8 views"),
        (["--rounds", 1], "the bootstrap takes 2 to 100000"),
        (["--rounds", 10**9], "the bootstrap takes 2 to 100000"),
        (["--workers", 100_000], "--workers 100000: at most "),
        (["--threshold", 2], "between 0 and 1"),
        (["--by", "hair"], "no such column; there are: dx_type, age, sex, localization"),
        (["--labels", "x.csv"], "--labels is a table for --data"),
        (["--data", "nowhere"], "nowhere"),
        (["--batch-size", 0], "must be 1 or more"),
        (["--seed", 2**63], "must be below"),
    ],
)
def test_wrong_options_are_one_line(run: Run, words: list[object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*words)


def test_a_card_without_room_for_results_stops_before_the_work(
    run: Run, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "collect", lambda *inputs, **options: pytest.fail("the model was asked"))
    card = run_folder / "model_card.md"
    before = card.read_text() if card.exists() else None
    card.write_text("my own card")
    try:
        with pytest.raises(UserError, match=r"model_card\.md has no place for results"):
            run()
        assert card.read_text() == "my own card"
    finally:
        card.unlink()
        if before is not None:
            card.write_text(before)


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "too little memory for 8 images .*--batch-size 4"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "loader process 7 is killed"),
        (RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)"), "/dev/shm"),
    ],
)
def test_a_fault_of_the_machine_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, fault: Exception, line: str
) -> None:
    def collect(*inputs: object, **options: object) -> None:
        raise fault

    monkeypatch.setattr(inference, "collect", collect)
    with pytest.raises(UserError, match=line):
        run("--batch-size", 8)


def test_unlabelled_images_are_shown_the_way_to_predict(run: Run, tmp_path: Path, demo_folder: Path) -> None:
    image = read_index(demo_folder).rows["path"].iloc[0]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(Path(image).read_bytes())
    with pytest.raises(UserError, match=r"python predict\.py"):
        run("--data", tmp_path / "photos")


def test_a_folder_of_other_peoples_files_is_left_alone(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text('{"mine": true}')
    with pytest.raises(UserError, match="not of an evaluation; choose another --out"):
        run()
    assert (out / "report.json").read_text() == '{"mine": true}'
    (out / "report.json").unlink()
    (out / "notes.txt").write_text("kept")
    run()
    assert (out / "notes.txt").read_text() == "kept"


def test_a_set_of_strangers_classes_is_refused(run: Run, tmp_path: Path, demo_folder: Path) -> None:
    image = Path(read_index(demo_folder).rows["path"].iloc[0]).read_bytes()
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "1.jpg").write_bytes(image)
    with pytest.raises(UserError, match=r"none of its classes \(cat, dog\)"):
        run("--data", tmp_path / "pets")


def test_without_split_csv_the_set_must_be_named(
    run: Run, run_folder: Path, demo_folder: Path, tmp_path: Path
) -> None:
    lone = tmp_path / "lone.pt"
    lone.write_bytes((run_folder / "best.pt").read_bytes())
    with pytest.raises(UserError, match="name a set: --data DIR"):
        run("--checkpoint", lone)
    made, _ = run("--checkpoint", lone, "--data", demo_folder)
    assert made["images"] == 160
    assert "nobody knows" in made["warnings"][0]


@pytest.mark.slow
def test_processes_share_the_images_and_give_the_same_report(run: Run, run_folder: Path, tmp_path: Path) -> None:
    alone, _ = run("--by", "sex", "--threshold", 0.5)
    script = [ROOT / "evaluate.py", "--checkpoint", run_folder / "best.pt", "--amp", "off", "--workers", 0]
    script += ["--rounds", 20, "--by", "sex", "--threshold", 0.5, "--gpus", 0, "--out", tmp_path / "together"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    done = warm.run([*map(str, launcher), *map(str, script)], timeout=240)
    assert done.returncode == 0, done.stderr
    together = json.loads((tmp_path / "together" / "report.json").read_text())
    figures, expected = ({k: v for k, v in flat(report).items() if k[0] != "about"} for report in (together, alone))
    assert figures.keys() == expected.keys()
    numbers = {key for key, value in expected.items() if isinstance(value, float)}
    assert len(numbers) > 300
    for key, value in expected.items():  # batches of other images round otherwise
        assert figures[key] == (pytest.approx(value, rel=1e-4, abs=1e-5) if key in numbers else value), key


def flat(report: object, path: tuple[object, ...] = ()) -> dict[tuple[object, ...], object]:
    """Each number and text of a report under the keys that lead to it."""
    if not isinstance(report, dict | list):
        return {path: report}
    items = report.items() if isinstance(report, dict) else enumerate(report)
    return {k: v for key, value in items for k, v in flat(value, (*path, key)).items()}


def test_features_are_used_at_once_and_let_go() -> None:
    """Memory must not grow with the set beyond its logits and distances: 2,560 numbers an image would be as much."""
    kept: list[weakref.ref] = []

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.num_classes = torch.nn.Linear(3, 2), 2

        def widths(self) -> list[int]:
            return [3]

        def answers(self, images: torch.Tensor, metadata: None) -> tuple[torch.Tensor, torch.Tensor]:
            pooled = images.float().mean((1, 2))
            kept.append(weakref.ref(pooled))
            return self.head(pooled), pooled

    class Images(list):
        metadata = None

    class Loader(list):
        dataset = Images(range(40))

    def distance(features: np.ndarray) -> np.ndarray:
        if len(features):
            kept.append(weakref.ref(features))
        return features.sum(1)

    pixels = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 4, 4, 3)
    loader = Loader(Batch(pixels[i : i + 4], torch.zeros(4), torch.arange(i, i + 4)) for i in range(0, 40, 4))
    alive: list[int] = []

    def count(images: int) -> None:
        alive.append(sum(reference() is not None for reference in kept))

    device = Topology(torch.device("cpu"))
    found = inference.collect(Classifier(), loader, device, distance, count, views=2)  # type: ignore[arg-type]
    assert found.logits.shape == found.one_view.shape == (40, 2)
    np.testing.assert_allclose(found.features, 3 * np.arange(40))
    assert len(kept) == 30  # of ten batches the features of two views, and their mean
    assert max(alive) <= 2


def test_a_part_without_images_is_named_with_those_that_there_are(run: Run, run_folder: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone"
    shutil.copytree(run_folder, lone, ignore=shutil.ignore_patterns("evaluation*"))
    manifest = split.read_manifest(lone / "split.csv")
    split.write_manifest(manifest.replace({"split": {"val": "train"}}), lone / "split.csv")
    with pytest.raises(UserError, match="has no val split, only test, train; choose with --split"):
        run("--checkpoint", lone / "best.pt", "--split", "val")


def test_a_checkpoint_that_is_cut_off_or_of_other_classes_is_one_line(run: Run, run_folder: Path, tmp_path: Path):
    whole = (run_folder / "best.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.pt"):
        run("--checkpoint", tmp_path / "cut.pt")
    state = checkpoint.load(run_folder / "best.pt")
    checkpoint.save(state | {"classes": [*tiny.CLASSES, "scc"]}, tmp_path / "more.pt")
    with pytest.raises(UserError, match=r"more\.pt"):
        run("--checkpoint", tmp_path / "more.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_checkpoint_that_is_not_ours_ends_with_one_line(
    run_script: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "best.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"best\.pt"):
        evaluate.main(["--checkpoint", str(tmp_path / "best.pt")])
    if content:
        done = run_script("evaluate.py", "--checkpoint", tmp_path / "best.pt")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: ")
