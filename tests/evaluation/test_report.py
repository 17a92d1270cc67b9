import base64
import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from skin.evaluation import metrics, model_card, pages, plots, report, report_files, subgroups
from skin.evaluation.answers import Predictions
from skin.evaluation.malignant import malignant_classes
from skin.evaluation.report_types import About, Report, to_json
from skin.model import calibration
from skin.utils.errors import UserError

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

HAM = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


def answers_of(classes: tuple[str, ...] = HAM, size: int = 150, seed: int = 0) -> Predictions:
    """What a fair model would say of `size` images of two a lesion."""
    generator = np.random.Generator(np.random.Philox(seed))
    count = len(classes)
    labels = np.repeat(generator.integers(0, count, size // 2), 2)
    logits = generator.standard_normal((len(labels), count))
    logits[np.arange(len(labels)), labels] += 1.5
    features = generator.standard_normal((len(labels), 16)).astype(np.float32) + np.eye(16)[labels % 16]
    made = calibration.fit(logits, labels, features)
    groups = np.array([f"lesion {i // 2}" for i in range(len(labels))], dtype=object)
    return Predictions(classes, labels, logits, calibration.distance(made, features), groups, made)


def build(*arguments: Any, **options: Any) -> dict:
    """The report as report.json has it."""
    return to_json(report.build(*arguments, **options))


@pytest.fixture(scope="module")
def whole() -> Report:
    answers = answers_of()
    by = {
        "sex": subgroups.bins(pd.Series(["male", "female", ""] * 50, name="sex")),
        "age": subgroups.bins(pd.Series([*np.linspace(20, 79, 149), np.nan], name="age")),
    }
    return report.build(answers, by, rounds=50, threshold=0.5)


@pytest.fixture(scope="module")
def made(whole: Report) -> dict:
    return to_json(whole)


def test_every_figure_has_a_value_between_its_ends(made: dict) -> None:
    figures = [made[metric.name] for metric in metrics.OVERALL]
    figures += [of_class[metric.name] for of_class in made["per_class"].values() for metric in metrics.PER_CLASS]
    figures += [made["malignant"][metric.name] for metric in metrics.OF_TWO_CLASSES]
    assert made["format_version"] == 1
    for figure in figures:
        assert list(figure) == ["value", "low", "high"]
        assert figure["low"] <= figure["value"] <= figure["high"]
    json.dumps(made, allow_nan=False)


def test_counts_and_groups_are_those_of_the_set(made: dict) -> None:
    answers = answers_of()
    assert (made["images"], made["groups"]) == (150, 75)
    assert made["intervals"]["resampled"] == "lesions or patients"
    supports = [made["per_class"][name]["support"] for name in HAM]
    assert supports == np.bincount(answers.labels, minlength=7).tolist()
    assert np.array(made["confusion_matrix"]["counts"]).sum(1).tolist() == supports


def test_figures_are_of_the_calibrated_probabilities() -> None:
    answers = answers_of()
    made = build(answers, rounds=5)
    own = answers.calibrated.probabilities[np.arange(150), answers.labels]
    assert made["log_loss"]["value"] == pytest.approx(-np.log(own).mean())
    raw = calibration.softmax(answers.logits)[np.arange(150), answers.labels]
    assert made["calibration"]["before"]["log_loss"]["value"] == pytest.approx(-np.log(raw).mean())
    assert made["calibration"]["after"]["log_loss"] == made["log_loss"]


def test_a_threshold_asks_each_class_by_itself() -> None:
    answers = answers_of()
    figures = build(answers, rounds=5, threshold=0.5)["per_class"]["nv"]["at_threshold"]
    called, true = answers.calibrated.probabilities[:, 5] > 0.5, answers.labels == 5
    assert figures["threshold"] == 0.5
    assert figures["sensitivity"]["value"] == (called & true).sum() / true.sum()
    assert figures["specificity"]["value"] == (~called & ~true).sum() / (~true).sum()
    assert figures["ppv"]["value"] == (called & true).sum() / called.sum()


def test_a_threshold_is_exceeded_not_met() -> None:
    # Of the two "mel" 0.6 is called and 0.5 is not; of the two "nv" 0.7 is, and 0.5 is not.
    risk = np.array([0.5, 0.6, 0.5, 0.7])
    logits = np.log(np.stack([risk, 1 - risk], 1))
    answers = Predictions(("mel", "nv"), np.array([0, 0, 1, 1]), logits, np.zeros(4), np.arange(4), {})
    assert answers.calibrated.probabilities[0, 0] == 0.5
    figures = build(answers, rounds=5, threshold=0.5)["per_class"]["mel"]["at_threshold"]
    assert [figures[name]["value"] for name in ("sensitivity", "specificity", "ppv", "npv")] == [0.5, 0.5, 0.5, 0.5]


def test_subgroups_draw_by_the_seed_and_independently() -> None:
    # Two subgroups of the same answers, each image a lesion: only what is drawn tells them apart.
    half = answers_of(size=60)
    two = {"logits": np.tile(half.logits, (2, 1)), "labels": np.tile(half.labels, 2)}
    answers = replace(half, **two, distance=np.zeros(120), groups=np.arange(120))
    sides = subgroups.bins(pd.Series(["a"] * 60 + ["b"] * 60, name="side"))

    def ends(seed: int) -> tuple[list[float], dict]:
        made = build(answers, {"side": sides}, rounds=30, seed=seed)["subgroups"]["side"]
        return [made["groups"][name]["macro_auc"]["low"] for name in "ab"], made["largest_gap"]["macro_auc"]

    (first, second), gap = ends(0)
    assert first != second
    assert (gap["value"], gap["low"] < 0 < gap["high"]) == (0, True)
    assert ends(0)[0] == [first, second]
    assert ends(1)[0] != [first, second]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (HAM, [1, 1, 0, 0, 1, 0, 0]),
        (("ACK", "BCC", "MEL", "NEV", "SCC", "SEK"), [1, 1, 1, 0, 1, 0]),
        (("benign", "malignant"), [0, 1]),
        (("mel", "nv", "psoriasis"), None),
        (("nv", "df"), None),
    ],
)
def test_malignant_classes_are_known_or_not_guessed(classes: tuple[str, ...], expected: list[int] | None) -> None:
    found = malignant_classes(classes)
    assert (found if found is None else found.tolist()) == expected


def test_risk_is_the_sum_of_the_malignant_classes() -> None:
    labels = np.array([0, 1, 2, 2])
    probabilities = np.array([[0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.2, 0.2, 0.6], [0.5, 0.15, 0.35]])
    classes = ("mel", "bcc", "nv")
    answers = Predictions(classes, labels, np.log(probabilities), np.zeros(4), np.arange(4), {})
    two = build(answers, rounds=5)["malignant"]
    # Risks 0.6 and 0.3 of the malignant, 0.4 and 0.65 of the benign.
    assert two["sensitivity"]["value"] == 0.5
    assert two["specificity"]["value"] == 0.5
    assert two["auc"]["value"] == 1 / 4
    assert two["support"] == 2


def test_images_of_classes_the_model_lacks_count_in_no_figure() -> None:
    answers = answers_of()
    labels = np.where(answers.labels == 3, -1, answers.labels)
    distance = np.where(labels == -1, 2.0, 0.5)
    other = Predictions(answers.classes, labels, answers.logits, distance, answers.groups, answers.calibration)
    made = build(other, {"sex": subgroups.bins(pd.Series(["f"] * 150, name="sex"))}, rounds=5)
    assert made["images"] == (labels >= 0).sum()
    assert made["per_class"]["df"]["support"] == 0
    nothing = {"value": None, "low": None, "high": None}
    assert made["per_class"]["df"]["sensitivity"] == nothing
    assert made["per_class"]["df"]["auc"] == nothing
    flags = made["calibration"]["unlike_training"]
    assert (flags["stand_ins"], flags["cannot_tell"]) == ({}, [])  # not measured
    assert (flags["flagged"]["value"], flags["unknown_class_flagged"]) == (0.0, 1.0)
    assert made["subgroups"]["sex"]["groups"]["f"]["images"] == made["images"]


def test_subgroups_are_counted_marked_and_compared(made: dict) -> None:
    sex = made["subgroups"]["sex"]
    assert {name: group["images"] for name, group in sex["groups"].items()} == {
        "female": 50, "male": 50, "not recorded": 50,
    }  # fmt: skip
    gap = sex["largest_gap"]["accuracy"]
    assert ({gap["best"], gap["worst"]}, gap["compared"]) == ({"female", "male"}, 2)
    assert set(gap["classes"]) <= set(HAM)
    assert sex["heterogeneity"]["accuracy"]["degrees_of_freedom"] == 1
    assert {"malignant_sensitivity", "malignant_specificity"} < set(sex["largest_gap"])
    age = made["subgroups"]["age"]["groups"]
    assert list(age) == ["20–39", "40–59", "60–79", "not recorded"]
    assert age["not recorded"]["small"] is True
    assert age["20–39"]["small"] is False


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.Series([1.0, 6.0, 2.0, np.nan], name="fitzpatrick_scale"), ["1", "6", "2", "not recorded"]),
        (pd.Series([0.0, 19.9, 20.0, 85.0, *range(30, 39)], name="age")[:4], ["0", "19.9", "20", "85"]),
        (pd.Series([0.0, 19.0, 20.0, 85.0, *range(30, 39)], name="AGE_approx"), ["0–19"] * 2 + ["20–39", "80–99"]),
        (pd.Series(np.arange(1.0, 101), name="size_mm"), ["1 to 25.75"] * 25 + ["25.75 to 50.5"] * 25),
        (pd.Series(np.arange(1.0, 101), name="image_width"), ["1 to 25.75"] * 25),
        # Days, not years: bins of twenty would be two thousand.
        (pd.Series(np.arange(0.0, 40_001, 400), name="age_days"), ["0 to 10000"] * 26),
        (pd.Series([20180101.0, 20180102.0, 20180101.0], name="date"), ["20180101", "20180102", "20180101"]),
        # To six digits a quartile would be 1.00002e+06.
        (pd.Series(np.arange(1_000_000.0, 1_000_101), name="number"), ["1000000 to 1000025"] * 26),
        (pd.Series(["b", "unknown", "a", "not specified"], name="site"), ["b", "not recorded", "a", "not recorded"]),
        (pd.Series(["Not recorded", "", "a"], name="site"), ["not recorded", "not recorded", "a"]),
        (pd.Series(["-", "a", ""], name="site"), ["not recorded", "a", "not recorded"]),
        (pd.Series(["-", "+", "?"], name="finding"), ["-", "+", "not recorded"]),
        (pd.Series(["Missing", "Present", ""], name="finding"), ["Missing", "Present", "not recorded"]),
    ],
)
def test_bins_are_readable(values: pd.Series, expected: list[str]) -> None:
    assert subgroups.bins(values).tolist()[: len(expected)] == expected


def test_rare_texts_are_put_together() -> None:
    found = subgroups.bins(pd.Series([f"site {i}" for i in range(14)] * 2 + ["x", "y"], name="site"))
    assert found.value_counts()["other (2 values)"] == 2
    assert len(found.cat.categories) == 15


def test_an_unknown_column_is_named_with_those_that_there_are() -> None:
    assert subgroups.column("Age-Approx".replace("-", "_"), ["sex", "age_approx"]) == "age_approx"
    with pytest.raises(UserError, match=r"--by skin: .* there are: sex, age_approx"):
        subgroups.column("skin", ["sex", "age_approx"])


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_stands_alone_and_runs_nothing() -> None:
    name = "<script>alert(1)</script> & \"co\" | `x` \x1b[31m"
    made = report.build(answers_of(("mel", name, "nv")), rounds=5)
    made = replace(made, warnings=["seen <b>before</b>"], about=About(data_name="<img src=x>"))
    pictures = {"roc.png": b"\x89PNG" * 3000}  # as long as a picture
    page = _Page()
    page.feed(pages.html(made, pictures))
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    inside = [source for source in page.sources if not source.startswith("#")]
    assert inside == ["data:image/png;base64," + base64.b64encode(pictures["roc.png"]).decode()]
    assert "<script>alert(1)</script>" in page.text
    assert "\x1b" not in page.text
    assert "seen <b>before</b>" in page.text


def test_markdown_tables_keep_their_columns_whatever_a_class_is_called() -> None:
    made = report.build(answers_of(("mel", "a|b *c*", "nv")), rounds=5)
    text = pages.markdown(made)
    rows = [line for line in text.splitlines() if line.startswith("| a")]
    assert rows
    assert all(row.startswith(r"| a\|b \*c\* |") for row in rows)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_predictions_csv_is_safe_in_a_spreadsheet_and_exact(tmp_path: Path) -> None:
    logits = np.log(np.array([[0.1, 0.9], [1 / 3, 2 / 3]]))
    answers = Predictions(("-mel", "nv"), np.array([0, 1]), logits, np.zeros(2), np.array(["+g", "h"], object), {})
    path = tmp_path / "predictions.csv"
    report_files.write_predictions(path, ["=1+1.jpg", "b"], ["@x", "nv"], answers)
    rows = read_csv(path)
    head = ["image", "label", "predicted", "group", "unlike", "prediction_set"]
    assert rows[0] == [*head, "'-mel", "nv", "logit_-mel", "logit_nv"]
    assert rows[1][:6] == ["'=1+1.jpg", "'@x", "nv", "'+g", "false", "'-mel|nv"]  # without a calibration: all
    assert [float(cell) for cell in rows[2][6:8]] == answers.calibrated.probabilities[1].tolist()
    assert [float(cell) for cell in rows[2][8:]] == logits[1].tolist()


def test_predictions_csv_can_be_analysed_again_without_us(tmp_path: Path) -> None:
    """pandas and scikit-learn alone give the report's metrics, subgroups and prediction sets."""
    answers = answers_of()
    by = {"age": subgroups.bins(pd.Series(np.linspace(20, 79, 150), name="age"))}
    made = build(answers, by, rounds=5)
    labels = [HAM[label] for label in answers.labels]
    report_files.write_predictions(tmp_path / "p.csv", [f"image {i}" for i in range(150)], labels, answers, by)
    table = pd.read_csv(tmp_path / "p.csv")
    assert table["group"].nunique() == made["groups"]
    right = table["label"] == table["predicted"]
    assert right.mean() == pytest.approx(made["accuracy"]["value"])
    of_groups = {name: found["accuracy"]["value"] for name, found in made["subgroups"]["age"]["groups"].items()}
    assert right.groupby(table["age"]).mean().to_dict() == pytest.approx(of_groups)
    sets = zip(table["label"], table["prediction_set"], strict=True)
    covered = [label in members.split("|") for label, members in sets]
    assert np.mean(covered) == pytest.approx(made["calibration"]["prediction_sets"]["90"]["coverage"]["value"])
    scaled = table[[f"logit_{name}" for name in HAM]].to_numpy() / made["calibration"]["temperature"]
    np.testing.assert_allclose(np.exp(scaled) / np.exp(scaled).sum(1, keepdims=True), table[list(HAM)])
    auc = roc_auc_score(table["label"], table[list(HAM)], multi_class="ovr", labels=list(HAM))
    assert auc == pytest.approx(made["macro_auc"]["value"])
    assert (table["unlike"].sum() / 150) == pytest.approx(
        made["calibration"]["unlike_training"]["flagged"]["value"]
    )


def test_no_two_columns_of_predictions_csv_have_one_name(tmp_path: Path) -> None:
    classes = ("label", "probability_label", "logit_x", "x", "sex", "a|b")
    answers = answers_of(classes, size=60)
    by = {name: subgroups.bins(pd.Series(["m", "f"] * 30, name=name)) for name in ("sex", "unlike")}
    report_files.write_predictions(tmp_path / "p.csv", [str(i) for i in range(60)], ["x"] * 60, answers, by)
    head, *rows = read_csv(tmp_path / "p.csv")
    assert len(set(head)) == len(head) == 6 + 2 + 12
    assert head[6 + 2 :][:6] == ["probability_probability_label", *classes[1:]]
    assert head[4:6] == ["subgroup_sex", "subgroup_unlike"]
    assert any("a\\|b" in row[7] for row in rows)


def test_isic_submission_has_the_challenges_columns(tmp_path: Path) -> None:
    probabilities = np.eye(7)[:2]
    path = tmp_path / "isic_submission.csv"
    assert report_files.write_isic_submission(path, ["ISIC_1", "sub/ISIC_2.jpg"], HAM, probabilities)
    header, first, second = read_csv(path)
    assert header == ["image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    assert first == ["ISIC_1", "0.0", "0.0", "0.0", "1.0", "0.0", "0.0", "0.0"]
    assert (second[0], second[3]) == ("ISIC_2", "1.0")
    assert not report_files.write_isic_submission(path, ["a"], ("mel", "nv"), np.eye(2)[:1])
    assert report_files.write_isic_submission(path, ["a"], (*HAM, "scc"), np.eye(8)[:1])
    assert read_csv(path)[0][-2:] == ["SCC", "UNK"]


MILK = ("MEL", "AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "NV", "SCCKA", "VASC")  # not its order


def test_a_challenges_scorer_calls_what_the_model_calls() -> None:
    usual = answers_of().calibrated
    assert report_files.as_scored(usual) is usual.probabilities
    other = replace(usual, rule="balanced", scores=usual.probabilities / np.array([0.5, 0.05, *[0.09] * 5]))
    scored = report_files.as_scored(other)
    assert (scored.argmax(1) == other.called).all()
    assert (other.called != usual.called).any()
    np.testing.assert_allclose(scored.sum(1), 1)


def test_the_submission_to_milk10k_has_one_row_per_lesion(tmp_path: Path) -> None:
    path = tmp_path / "isic_submission.csv"
    probabilities = np.eye(11)[[0, 8, 2]]  # MEL, NV, BCC
    lesions = np.array(["IL_2", "IL_2", "IL_1"], dtype=object)
    assert report_files.write_milk10k_submission(path, lesions, MILK, probabilities)
    assert read_csv(path) == [
        ["lesion_id", "AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC"],
        ["IL_1", "0.0", "1.0", "0.0", "0.0", "0.0", "0.0", "0.0", "0.0", "0.0", "0.0", "0.0"],
        ["IL_2", "0.0", "0.0", "0.0", "0.0", "0.0", "0.0", "0.0", "0.5", "0.5", "0.0", "0.0"],
    ]
    assert report_files.submission_notes([], MILK, "MILK10k") == []
    assert not report_files.write_milk10k_submission(path, lesions, ("mel", "acne"), np.eye(2)[[0, 1, 1]])
    assert not report_files.write_isic_submission(path, ["a"], MILK, np.eye(11)[:1])


def test_a_class_of_milk10k_that_the_model_lacks_has_the_probability_0(tmp_path: Path) -> None:
    path, few = tmp_path / "isic_submission.csv", ("BCC", "nv")
    lesions = np.array(["IL_1"], dtype=object)
    assert report_files.write_milk10k_submission(path, lesions, few, np.array([[0.25, 0.75]]))
    values = dict(zip(*read_csv(path), strict=True))
    assert {name: value for name, value in values.items() if value != "0.0"} == {
        "lesion_id": "IL_1", "BCC": "0.25", "NV": "0.75",
    }  # fmt: skip
    assert len(values) == 12
    lacking = "AKIEC, BEN_OTH, BKL, DF, INF, MAL_OTH, MEL, SCCKA, VASC"
    assert report_files.submission_notes([], few, "MILK10k") == [
        f"isic_submission.csv has 0 for {lacking}: the model does not know them"
    ]
    assert report_files.submission_notes([], ("mel", "acne"), "MILK10k") == []


def test_metrics_per_lesion_are_of_the_mean_of_its_images() -> None:
    answers = answers_of(size=20)
    assert "per_lesion" not in build(answers, rounds=5)
    # Lesion 9 has images of two classes, and the class of one image is unknown to the model.
    labels = answers.labels.copy()
    labels[18], labels[19], labels[0] = 0, 1, -1
    lesions = np.array([f"L{i // 2}" for i in range(20)], dtype=object)
    made = report.build(replace(answers, labels=labels, lesions=lesions), rounds=5)

    probabilities = answers.calibrated.probabilities
    means = [probabilities[1], *(probabilities[2 * i : 2 * i + 2].mean(0) for i in range(1, 9))]
    right = [mean.argmax() == labels[2 * i + 1] for i, mean in enumerate(means)]
    assert made.per_lesion is not None
    assert made.per_lesion.lesions == 9
    assert made.per_lesion.metrics["accuracy"].value == pytest.approx(np.mean(right))
    assert to_json(made)["per_lesion"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert "All 9 lesions" in pages.markdown(made)


def test_lesions_of_one_image_have_no_figures_of_their_own() -> None:
    answers = answers_of(size=20)
    names = np.array([f"L{i}" for i in range(20)], dtype=object)
    made = build(replace(answers, lesions=names, patients=names), rounds=5)
    assert "per_lesion" not in made
    assert "per_patient" not in made


def test_a_patient_counts_once_and_is_as_ill_as_the_riskiest_lesion() -> None:
    # Patient A: four images of lesion 1 (nevus), one of lesion 2 (melanoma). B: two of a nevus. C: one of each class.
    labels = np.array([1, 1, 1, 1, 0, 1, 1, 0, 1])
    risk = np.array([0.6, 0.2, 0.2, 0.2, 0.7, 0.4, 0.2, 0.45, 0.1])
    patients = np.array(list("AAAAABBCC"), dtype=object)
    lesions = np.array(list("111123345"), dtype=object)
    lesions[5:7] = "B1"
    logits = np.log(np.stack([risk, 1 - risk], 1))
    answers = Predictions(("mel", "nv"), labels, logits, np.zeros(9), patients, {}, lesions, patients)
    found = report.build(answers, rounds=30).per_patient
    assert found is not None
    assert (found.patients, found.with_malignant) == (3, 2)
    # A has 4 of 5 right, B all, C one of two.
    assert found.accuracy.value == pytest.approx((4 / 5 + 1 + 1 / 2) / 3)
    assert found.malignant is not None
    # Risks: A 0.7 (lesion 1 has 0.3 in the mean), B 0.3, C 0.45; so C is missed at one half.
    assert found.malignant["sensitivity"].value == 0.5
    assert found.malignant["specificity"].value == 1.0
    assert found.malignant["auc"].value == 1.0
    assert "All 3 patients" in pages.markdown(report.build(answers, rounds=5))


def test_operating_points_are_of_the_calibrations_answers(made: dict) -> None:
    answers = answers_of()
    point = made["operating_points"]["per_class"]["nv"]["youden"]
    called = answers.calibrated.probabilities[:, 5] >= point["threshold"] - 1e-7
    assert point["sensitivity"]["value"] == pytest.approx(called[answers.labels == 5].mean())
    assert point["validation"]["sensitivity"] == pytest.approx(called[answers.labels == 5].mean())
    assert made["operating_points"]["cost_ratio"] is None
    risk = answers.calibrated.probabilities[:, [0, 1, 4]].sum(1)
    malignant = made["operating_points"]["malignant"]["sensitivity_90"]
    called = risk >= malignant["threshold"] - 1e-7
    assert malignant["specificity"]["value"] == pytest.approx(1 - called[~np.isin(answers.labels, [0, 1, 4])].mean())


def test_without_answers_or_malignant_classes_the_points_are_left_out_and_it_is_said() -> None:
    answers = answers_of(("mel", "nv", "psoriasis"))
    text = pages.markdown(report.build(answers, rounds=5))
    assert "There are none for malignant" in text
    assert "Decision curve" not in text
    older = {name: value for name, value in answers.calibration.items() if name != "answers"}
    made = report.build(replace(answers, calibration=older), rounds=5, cost_ratio=3)  # type: ignore[arg-type]
    assert "None: the checkpoint keeps no answers to validation images" in pages.markdown(made)
    assert to_json(made)["operating_points"]["malignant"] is None
    few = build(answers_of(size=16), rounds=5)["operating_points"]["per_class"]["mel"]["youden"]
    assert few["threshold"] is None
    assert "10 are needed" in few["reason"]


def test_the_labels_of_both_rules_have_their_metrics(made: dict) -> None:
    answers = answers_of()
    decision, balanced = made["decision"], calibration.balanced(answers.calibration, answers.calibrated.probabilities)
    assert decision["rule"] == answers.calibration["decision"] == "most probable"
    assert decision["most_probable"]["accuracy"] == made["accuracy"]
    assert decision["balanced"]["accuracy"]["value"] == (balanced == answers.labels).mean()
    assert decision["difference"]["accuracy"]["value"] == pytest.approx(
        decision["balanced"]["accuracy"]["value"] - made["accuracy"]["value"]
    )
    assert build(replace(answers, calibration={}), rounds=5)["decision"]["balanced"] is None


def test_a_model_with_the_rule_balanced_is_measured_by_what_it_calls() -> None:
    usual = answers_of()
    own = {**usual.calibration, "decision": "balanced", "mean_probabilities": [0.5, 0.05, *[0.09] * 5]}
    answers = replace(usual, calibration=own, lesions=usual.groups, patients=usual.groups)  # type: ignore[arg-type]
    called = answers.calibrated.called
    right = (called == answers.labels).mean()
    assert right != (answers.calibrated.probabilities.argmax(1) == answers.labels).mean()
    sexes = subgroups.bins(pd.Series(["male", "female", "male"] * 50, name="sex"))
    made = build(answers, {"sex": sexes}, rounds=20)
    assert made["decision"]["rule"] == "balanced"
    assert made["accuracy"] == made["decision"]["balanced"]["accuracy"]
    assert made["accuracy"]["value"] == pytest.approx(right)
    most = made["decision"]["most_probable"]["accuracy"]["value"]
    assert most == (answers.calibrated.probabilities.argmax(1) == answers.labels).mean()
    assert made["decision"]["difference"]["accuracy"]["value"] == pytest.approx(right - most)
    counts = np.array(made["confusion_matrix"]["counts"])
    assert counts.sum(0).tolist() == np.bincount(called, minlength=7).tolist()
    assert made["deferral"]["risk"][0]["error"]["value"] == pytest.approx(1 - right)
    of_groups = [made["subgroups"]["sex"]["groups"][name] for name in ("female", "male")]
    shares = sum(group["images"] * group["accuracy"]["value"] for group in of_groups)
    assert shares == pytest.approx(150 * right)
    assert made["per_patient"]["accuracy"]["value"] == pytest.approx(right)
    mean = answers.calibrated.probabilities.reshape(75, 2, 7).mean(1) / own["mean_probabilities"]
    of_lesions = (mean.argmax(1) == answers.labels[::2]).mean()
    assert made["per_lesion"]["accuracy"]["value"] == pytest.approx(of_lesions)
    usual_made = build(usual, rounds=20)
    for name in ("log_loss", "macro_auc", "expected_calibration_error"):
        assert made[name] == usual_made[name]
    shown = report.build(answers, rounds=5)
    text = pages.markdown(shown)
    assert 'The rule is "balanced": the label is the class whose probability is largest beside' in text
    assert f"Accuracy, most probable class {most:.3f}" in " ".join(pages.summary(shown, Path("out")).split())


def test_calibration_and_views_are_compared_in_pairs() -> None:
    answers = answers_of()
    noise = np.random.Generator(np.random.Philox(1)).standard_normal(answers.logits.shape)
    made = report.build(replace(answers, one_view=answers.logits + noise), rounds=50)
    found = made.calibration
    for name, difference in found.difference.items():
        assert difference.value == pytest.approx(found.after[name].value - found.before[name].value)
        assert difference.low <= difference.value <= difference.high
    assert found.difference["log_loss"].high < found.after["log_loss"].high - found.before["log_loss"].low
    assert made.views is not None
    assert made.views.after["accuracy"] == made.metrics["accuracy"]
    noisy = calibration.probabilities_of(answers.calibration, answers.logits + noise)
    assert made.views.before["accuracy"].value == (noisy.argmax(1) == answers.labels).mean()
    assert "One view of each image" in pages.markdown(made)


def test_ppv_at_a_stated_prevalence() -> None:
    answers = answers_of()
    made = build(answers, rounds=20, prevalence={"melanoma": 0.02}, cost_ratio=10)
    found = made["prevalence"]["targets"]
    assert made["prevalence"]["stated"] == {"melanoma": 0.02}
    assert list(found) == ["mel"]
    assert list(found["mel"]["called"]) == ["label", "sensitivity_90", "sensitivity_95", "youden", "cost_ratio"]
    se, sp = (made["per_class"]["mel"][name]["value"] for name in ("sensitivity", "specificity"))
    label = found["mel"]["called"]["label"]
    assert label["ppv"]["value"] == pytest.approx(0.02 * se / (0.02 * se + 0.98 * (1 - sp)))
    assert label["npv"]["value"] == pytest.approx(0.98 * sp / (0.98 * sp + 0.02 * (1 - se)))
    with pytest.raises(UserError, match="psoriasis: the model has no such class"):
        build(answers, rounds=5, prevalence={"psoriasis": 0.1})


def test_malignant_at_a_stated_prevalence_is_called_by_the_label_and_by_a_risk_above_a_half() -> None:
    answers = answers_of()
    made = report.build(answers, rounds=5, prevalence={"malignant": 0.05})
    assert made.prevalence is not None
    is_malignant = np.isin(HAM, ["akiec", "bcc", "mel"])
    probabilities = calibration.probabilities_of(answers.calibration, answers.logits)
    truth, half = is_malignant[answers.labels], probabilities[:, is_malignant].sum(1) > 0.5
    label = is_malignant[probabilities.argmax(1)]
    assert (label != half).any()
    for name, called in (("label", label), ("half", half)):
        found = made.prevalence.targets["malignant"].called[name].metrics
        assert found["specificity"].value == pytest.approx((~called[~truth]).mean())
    text = pages.markdown(made)
    assert "| Risk above a half |" in text
    assert "weigh the classes by these shares" in text


def test_isic_submission_keeps_folders_where_bare_names_are_alike(tmp_path: Path) -> None:
    path, names = tmp_path / "isic_submission.csv", ["nv/1.jpg", "mel/1.jpg"]
    assert report_files.write_isic_submission(path, names, HAM, np.eye(7)[:2])
    assert [row[0] for row in read_csv(path)] == ["image", *names]
    assert "with their folders" in report_files.submission_notes(names, HAM)[0]
    assert report_files.submission_notes(["nv/1.jpg", "mel/2.jpg"], HAM) == []
    assert report_files.submission_notes(names, ("mel", "nv")) == []


def test_each_level_names_the_classes_without_a_threshold_of_their_own() -> None:
    answers = answers_of(("mel", "nv", "bkl"))
    sets = {level: values | {"shared": shared} for (level, values), shared in zip(
        answers.calibration["sets"].items(), ([], [1]), strict=True)}  # fmt: skip
    shared = replace(answers, calibration=answers.calibration | {"sets": sets})
    text = pages.markdown(report.build(shared, rounds=5))
    assert "too few validation images for a 95 % threshold of their own, so that they share one: nv." in text
    assert "90 % threshold" not in text


def test_a_validation_split_that_is_too_small_for_sets_is_said() -> None:
    answers = answers_of(("mel", "nv", "bkl"), size=8)
    made = report.build(answers, rounds=5)
    sets = made.calibration.prediction_sets["90"]
    assert (sets.no_threshold, sets.shared_threshold) == (["mel", "nv", "bkl"], [])
    assert (sets.coverage.value, sets.mean_size.value) == (1, 3)
    text = pages.markdown(made)
    assert "In every 90 % set, because the validation split is too small for a threshold: mel, nv, bkl." in text


def test_reliability_is_of_the_calibrated_probabilities_of_each_event() -> None:
    answers = answers_of(size=600)
    made = build(answers, rounds=5)["calibration"]
    probabilities, labels = answers.calibrated.probabilities, answers.labels
    lowest = probabilities[:, 5] <= 0.1
    first = made["per_class"]["nv"]["bins"][0]
    assert (first["above"], first["up_to"], first["images"]) == (0, 0.1, lowest.sum())
    assert first["observed"]["value"] == pytest.approx((labels[lowest] == 5).mean())
    assert sum(b["images"] for b in made["confidence"]["bins"]) == 600
    malignant = probabilities[:, [0, 1, 4]].sum(1)
    said = sum(b["mean_probability"] * b["images"] for b in made["malignant"]["bins"])
    assert said == pytest.approx(malignant.sum())
    slope = made["confidence"]["slope"]
    assert slope["low"] < slope["value"] < slope["high"]
    assert build(answers_of(("mel", "acne")), rounds=5)["calibration"]["malignant"] is None


def test_averaging_over_views_is_said_as_it_is_done(whole: Report) -> None:
    text = pages.markdown(replace(whole, about=About(tta=8)))
    assert "Logits are averaged over 8 turned and mirrored views" in text
    assert "fitted on one view" in text
    assert "fitted on one view" not in pages.markdown(whole)


class Stored:
    """A data set of grey images."""

    preprocess = type("P", (), {"image_size": 8})

    def stored(self, row: int) -> np.ndarray:
        return np.full((8, 10, 3), row % 256, np.uint8)


def test_a_set_of_one_class_has_no_curves_and_nothing_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "DPI", 30)
    answers = answers_of(("mel", "nv", "bkl"), size=30)
    one = replace(answers, labels=np.zeros_like(answers.labels))
    made = report.build(one, rounds=5)
    pictures = report_files.draw(made, one, Stored(), [f"image {i}" for i in range(30)])  # type: ignore[arg-type]
    lacking = set(report_files.PICTURES) - set(pictures)
    assert lacking == {"roc.png", "precision_recall.png", "subgroups.png", "flow.png"}
    text = pages.markdown(made, pictures)
    assert "roc.png" not in text
    assert "precision_recall.png" not in text
    assert all(f"]({name})" in text for name in pictures)


MANY = tuple(f"class {i} with a long name" for i in range(20))


@pytest.mark.parametrize("classes", [("mel", "nv", "bkl"), pytest.param(MANY, marks=pytest.mark.slow)])
def test_pictures_are_drawn_for_few_and_many_classes(
    classes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "DPI", 40)  # small is quick
    answers = answers_of(classes, size=2 * len(classes) * 4)
    labels = np.where(answers.labels == 1, -1, answers.labels)  # a class without images
    answers = Predictions(classes, labels, answers.logits, answers.distance, answers.groups, answers.calibration)
    by = {"sex": subgroups.bins(pd.Series(["f", "m"] * (len(labels) // 2), name="sex"))}
    made = report.build(answers, by, rounds=5)

    pictures = report_files.draw(made, answers, Stored(), [f"image {i}" for i in range(len(labels))])  # type: ignore[arg-type]
    lacking = {"flow.png"} if made.malignant else {"flow.png", "decision_curve.png"}
    assert set(pictures) == set(report_files.PICTURES) - lacking
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())


def test_card_keeps_what_people_wrote_and_takes_new_results(whole: Report, tmp_path: Path) -> None:
    path = tmp_path / "model_card.md"
    config = {"model": "efficientnet_b3", "data": "/private/place/HAM", "lr": 1e-4, "recipe": "strong", "ema": 0.998,
              "weights": "/private/place/own.pth", "folds": 3, "fold": 1}  # fmt: skip
    model_card.write_model_card(path, config, HAM, {"epoch": 7, "val_accuracy": 0.81})
    first = path.read_text()
    assert "Not evaluated yet" in first
    assert "0.810" in first
    settings = {"recipe": "strong", "ema": "0.998", "weights": "own.pth", "folds": "3", "fold": "1", "lr": "0.0001"}
    assert all(f"| {name} | {value} |" in first for name, value in settings.items())
    assert "/private" not in first
    path.write_text(first + "\nWritten by hand.\n")
    for _ in range(2):
        model_card.write_model_card(path, config, HAM, {}, whole)
    text = path.read_text()
    assert "Not evaluated yet" not in text
    assert text.count("All images, with 95 % intervals") == 1
    assert text.endswith("Written by hand.\n")
    path.write_text("my own card")
    with pytest.raises(UserError, match="no place for results"):
        model_card.write_model_card(path, config, HAM, {}, whole)
    assert path.read_text() == "my own card"


def test_the_card_tells_the_images_of_each_split_not_the_shares_that_were_asked_for(
    whole: Report, tmp_path: Path
) -> None:
    path, config = tmp_path / "model_card.md", {"model": "efficientnet_b3", "data": "HAM", "split": "70/20/10"}

    def card(images: dict[str, int], **more: int) -> str:
        path.unlink(missing_ok=True)
        model_card.write_model_card(path, config | more, HAM, {}, images=images)
        return path.read_text()

    assert "HAM; 16 training, 8 validation and 24 test images, no lesion" in card({"train": 16, "val": 8, "test": 24})
    assert "HAM; 694 training images in 3 folds and 77 test images, no" in card({"train": 694, "test": 77}, folds=3)
    assert "HAM; 12 training and 6 validation images, no lesion" in card({"train": 12, "val": 6}, folds=3)
    assert "HAM; no lesion" in card({})


def test_the_flag_says_which_pictures_of_no_skin_it_catches() -> None:
    answers = answers_of()
    caught = {"noise": {"images": 32, "flagged": 1.0}, "text": {"images": 32, "flagged": 0.25}}
    fitted: Any = {**answers.calibration, "unlike": {**answers.calibration["unlike"], "caught": caught}}
    made = report.build(replace(answers, calibration=fitted), rounds=5)
    flags = to_json(made)["calibration"]["unlike_training"]
    assert flags["stand_ins"] == caught
    assert flags["cannot_tell"] == ["text"]
    text = pages.markdown(made)
    assert "noise 1.00, text 0.25." in text
    assert "The flag cannot tell text from the training images." in text
