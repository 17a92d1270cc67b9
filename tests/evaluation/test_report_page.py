"""The page, the checklist and the schema of a whole report, as evaluate.py writes them."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from skin.evaluation import deferral, pages, plots, report, report_files, schema, subgroups
from skin.evaluation.intervals import Estimate, Resampler
from skin.evaluation.population import describe
from skin.evaluation.report_types import About, Amount, Report, StandIns, Verdict, to_json
from skin.evaluation.verdict import verdict
from tests.browsing import violations
from tests.conftest import slow
from tests.evaluation.test_population import Data, rows
from tests.evaluation.test_report import HAM, Stored, answers_of

import jsonschema
import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def whole() -> Report:
    answers = answers_of()
    sexes = pd.Series(["male", "female", ""] * 50, name="sex")
    made = report.build(answers, {"sex": subgroups.bins(sexes)}, rounds=20, threshold=0.5)
    table = rows(label=[HAM[label] for label in answers.labels], sex=sexes, age=np.linspace(20, 79, 150))
    found = describe(Data(table), table, table, unknown=0)  # type: ignore[arg-type]
    about = About(
        model="efficientnet_b0", data="HAM10000", data_name="HAM10000", training={"epochs": 20, "lr": 1e-4},
        preprocess={"image_size": 224, "mean": [0.485, 0.456, 0.406]}, software={"torch": "2.14.1"},
    )  # fmt: skip
    made = replace(made, about=about, population=found, notes=["a note"])
    return replace(made, verdict=verdict(made))


@pytest.fixture(scope="module")
def pictures(whole: Report) -> dict[str, bytes]:
    return report_files.draw(whole, answers_of(), Stored(), [f"image {i}" for i in range(150)])  # type: ignore[arg-type]


# ---- the schema ---------------------------------------------------------------------------------------------


def test_the_schema_that_ships_is_that_of_the_types() -> None:
    shipped = json.loads(schema.PATH.read_text())
    assert shipped == schema.schema(), "python -m skin.evaluation.schema writes it anew"
    jsonschema.Draft202012Validator.check_schema(shipped)


def test_report_json_keeps_to_the_schema(whole: Report) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema.PATH.read_text()))
    content = json.loads(json.dumps(to_json(whole), allow_nan=False))
    assert list(validator.iter_errors(content)) == []
    for wrong in (
        {key: value for key, value in content.items() if key != "accuracy"},
        content | {"images": "many"},
        content | {"surprise": 1},
        content | {"kind": "another report"},
    ):
        assert list(validator.iter_errors(wrong)) != []


# ---- the verdict --------------------------------------------------------------------------------------------


def test_a_report_with_warnings_is_bad_and_says_why(whole: Report) -> None:
    found = verdict(replace(whole, warnings=["7 images were TRAINED ON"]))
    assert found.level == "bad"
    assert found.text == "These metrics do not tell how the model does on new images"
    assert found.reasons[0] == "7 images were TRAINED ON"
    assert "may not" in verdict(replace(whole, warnings=["8 images show lesions of the val split"])).text


def test_a_warning_is_said_once_and_loudly(whole: Report) -> None:
    warned = replace(whole, warnings=["7 images were TRAINED ON"])
    warned = replace(warned, verdict=verdict(warned))
    assert pages.markdown(warned).count("**WARNING: 7 images were TRAINED ON**") == 1
    assert pages.html(warned, {}).count("<strong>7 images were TRAINED ON</strong>") == 1
    assert pages.html(warned, {}).count("TRAINED ON") == 1


def test_the_verdict_follows_the_intervals_and_the_sizes_of_classes(whole: Report) -> None:
    balanced = whole.metrics["balanced_accuracy"]
    guess = replace(whole, metrics=whole.metrics | {"balanced_accuracy": replace(balanced, low=1 / 7)})
    assert verdict(guess).level == "bad"
    assert "not shown to be better than guessing" in verdict(guess).text
    assert verdict(whole).level == "doubt"
    assert "fewer than 30 images" in " ".join(verdict(whole).reasons)
    many = {name: replace(of_class, support=40) for name, of_class in whole.per_class.items()}
    assert verdict(replace(whole, per_class=many)).level == "fine"
    assert verdict(replace(whole, per_class=many)).reasons == []


def test_a_rule_that_treats_classes_alike_is_named_where_it_is_shown_to_do_so(whole: Report) -> None:
    assert whole.decision.balanced is not None
    assert whole.decision.difference is not None
    gain = whole.decision.difference | {"balanced_accuracy": Estimate(0.1, 0.02, 0.2)}
    found = verdict(replace(whole, decision=replace(whole.decision, difference=gain)))
    text = whole.decision.balanced["balanced_accuracy"].text()
    assert f'by the rule "balanced" the balanced accuracy is {text}' in found.reasons[-1]
    assert 'by the rule "balanced"' not in " ".join(verdict(whole).reasons)


def test_an_accuracy_by_another_rule_than_the_reports_says_so(whole: Report) -> None:
    low = replace(whole.metrics["accuracy"], low=0.0)
    found = replace(whole.decision, most_probable=whole.decision.most_probable | {"accuracy": low})
    by_balanced = verdict(replace(whole, decision=replace(found, rule="balanced")))
    assert f'Accuracy by the rule "most probable" {low.text()} is not shown' in by_balanced.reasons[0]
    assert f"Accuracy {low.text()} is not shown" in verdict(replace(whole, decision=found)).reasons[0]


def test_names_from_right_to_left_keep_the_order_of_their_line_and_the_data_path_as_it_is(whole: Report) -> None:
    about = replace(whole.about, data="/data/שומה")
    page = pages.html(replace(whole, about=about, verdict=Verdict("doubt", "few", ["few: שומה: 5, nv: 3"])), {})
    assert "<li>few: \u2068שומה\u2069: 5, nv: 3</li>" in page
    assert "/data/שומה" in page


# ---- STARD-AI -----------------------------------------------------------------------------------------------


def items(text: str) -> dict[str, list[str]]:
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if re.match(r"\| \d", line)]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_the_checklist_has_the_forty_items(whole: Report) -> None:
    found = items(pages.stard_ai(whole))
    parts = {"15": "abcd", "16": "abc", "17": "ab", "26": "ab", "40": "ab"}
    assert list(found) == [f"{n}{part}".strip() for n in range(1, 41) for part in parts.get(str(n), " ")]
    statuses = {cells[1] for cells in found.values()}
    assert statuses == {"from the run", "**you must write**"}
    own = pages.stard_ai(replace(whole, about=replace(whole.about, own_data=True)))
    assert items(own)["29"][1] == "does not apply"


def numbers_in(value: object) -> Iterator[float]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers_in(str(key))
            yield from numbers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, str):
        yield from (float(number) for number in re.findall(r"\d+(?:\.\d+)?", value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def test_every_figure_of_the_checklist_is_in_report_json(whole: Report) -> None:
    known = np.array(sorted(set(numbers_in(to_json(whole)))))
    outside = {"2", "3", "90", "95", "24", "25", "0"}  # in names of metrics ("Top-2", "at 90 %", "0 to 2")
    for number, (_, _, told) in items(pages.stard_ai(whole)).items():
        for text in re.findall(r"\d+(?:\.\d+)?", re.sub(r"\(item \d+\)", "", told)):
            digits = len(text.partition(".")[2])
            near = np.isclose(np.abs(known), float(text), rtol=0, atol=0.51 * 10**-digits)
            assert text in outside or near.any(), (number, text)


def test_the_checklist_tells_thresholds_the_decision_rule_and_what_the_flag_catches(whole: Report) -> None:
    unlike = replace(
        whole.calibration.unlike_training, stand_ins={"noise": StandIns(64, 0.25)}, cannot_tell=["noise"]
    )
    measured = replace(whole, calibration=replace(whole.calibration, unlike_training=unlike))
    found = items(pages.stard_ai(measured))
    points = whole.operating_points.malignant
    assert points is not None
    assert 'The rule is "most probable"' in found["15c"][2]
    assert f"Youden: {points['youden'].threshold:.3g}." in found["15c"][2]
    assert f"Youden: Sensitivity {points['youden'].metrics['sensitivity'].text(2)}" in found["31"][2]
    assert "noise 0.25. The flag cannot tell noise" in found["19"][2]


def test_the_checklist_invents_nothing_about_a_run_it_knows_little_of() -> None:
    made = report.build(answers_of(("mel", "nv", "psoriasis")), rounds=5)
    found = items(pages.stard_ai(made))
    assert found["24"][1:] == ["**you must write**", ""]
    assert found["21"][1] == "**you must write**"
    assert "evaluate.py --by" in found["21"][2]


def test_the_checklist_counts_benign_images_alone_as_other_diagnoses(whole: Report) -> None:
    told = items(pages.stard_ai(whole))["26b"][2]
    assert re.findall(r"\((\w+)\): (\d+)", told) == [
        (name, str(whole.per_class[name].support)) for name in HAM if name in ("bkl", "df", "nv", "vasc")
    ]


def test_the_checklist_counts_lesions_once(whole: Report) -> None:
    assert whole.population is not None
    flow = replace(whole.population.flow, groups_are="lesions", used=Amount(540, 368, 368))
    made = replace(whole, population=replace(whole.population, flow=flow))
    assert "used 540 images of 368 lesions;" in items(pages.stard_ai(made))["24"][2]
    of_patients = replace(whole, population=replace(whole.population, flow=replace(flow, groups_are="patients")))
    assert "used 540 images of 368 patients, 368 lesions;" in items(pages.stard_ai(of_patients))["24"][2]


# ---- the page -----------------------------------------------------------------------------------------------


def test_verdict_and_notice_come_before_contents_and_figures(whole: Report, pictures: dict[str, bytes]) -> None:
    page = pages.html(whole, pictures)
    places = [page.index(text) for text in ("better than guessing", "not a medical device", "<nav", "Table 1.")]
    assert places == sorted(places)
    headings = re.findall(r'<h2 id="([^"]+)"', page)
    assert re.findall(r'<a href="#([^"]+)"', page) == headings
    assert len(set(headings)) == len(headings) >= 6
    text = pages.markdown(whole)
    assert text.index("better than guessing") < text.index("not a medical device") < text.index("| Accuracy |")


def test_tables_and_figures_are_numbered_from_one_on_every_page(whole: Report) -> None:
    for _ in range(2):
        numbers = [int(n) for n in re.findall(r"<b>Table (\d+)\.</b>", pages.html(whole, {}))]
        assert numbers == list(range(1, len(numbers) + 1))


def test_the_picture_holds_the_whole_band_of_the_decision_curve(whole: Report) -> None:
    assert whole.decision_curve is not None
    wide = [replace(point, model=Estimate(0.1, -0.4, 0.6)) for point in whole.decision_curve]
    figure = plots.decision_curve(replace(whole, decision_curve=wide))
    assert figure is not None
    low, high = figure.axes[0].get_ylim()
    assert low < -0.4
    assert high > 0.6


def test_a_subgroup_without_a_metric_says_so_in_the_picture(whole: Report) -> None:
    result = whole.subgroups["sex"]
    name, group = next(iter(result.groups.items()))
    lacking = replace(group, metrics=group.metrics | {"macro_auc": Estimate(np.nan, np.nan, np.nan)})
    of_sex = replace(result, groups=result.groups | {name: lacking})
    figure = plots.subgroups(replace(whole, subgroups={"sex": of_sex}))
    assert [text.get_text() for axes in figure.axes for text in axes.texts].count("not available") == 1


def test_a_value_without_an_interval_is_in_the_picture() -> None:
    assert plots._range([Estimate(0.6, 0.5, 0.7), Estimate(0.0, np.nan, np.nan)]) == (0.0, 1.0)


def test_no_curve_of_precision_rises_to_1_at_a_recall_of_0() -> None:
    recall, precision = plots._precision_recall_points(np.array([True, False]), np.array([0.5, 0.5]))
    assert (recall.tolist(), precision.tolist()) == ([1, 0], [0.5, 0.5])


def test_gaps_and_tests_are_explained_where_they_stand(whole: Report) -> None:
    found = whole.subgroups["sex"]
    without = pages.markdown(replace(whole, subgroups={"sex": replace(found, largest_gap={}, heterogeneity={})}))
    assert "Balanced accuracy and macro AUROC are over the classes that a group has" in without
    assert "A gap is over" not in without
    assert "The test compares" not in without
    both = pages.markdown(whole)
    assert ("A gap is over" in both) == ("Largest gap" in both)


def test_the_dots_of_risk_and_coverage_are_on_the_curve_of_answers_as_sure(whole: Report) -> None:
    truth, called = np.arange(90) % 3 // 2, np.zeros(90, int)
    sure = np.linspace(0.6, 0.9, 90).round(1)  # four levels
    probabilities = np.stack([sure, 1 - sure], 1)
    made = replace(whole, deferral=deferral.deferral(truth, probabilities, Resampler(np.arange(90), 5))())
    picture = plots.risk_coverage(made, truth, probabilities, called)
    assert picture is not None
    line = picture.axes[0].lines[0]
    assert line.get_drawstyle() == "steps-pre"
    for at in made.deferral.risk:
        place = np.searchsorted(line.get_xdata(), at.coverage - 1e-9)
        assert line.get_ydata()[place] == pytest.approx(at.error.value)


@pytest.mark.browser
@pytest.mark.parametrize(
    ("width", "scheme"),
    [(390, "dark"), (1280, "light"), slow(390, "light"), slow(1280, "dark")],
)
def test_axe_finds_nothing_and_no_table_is_cut_off(
    whole: Report, pictures: dict[str, bytes], tmp_path: Path, browser: Browser, width: int, scheme: str
) -> None:
    file = tmp_path / "report.html"
    file.write_text(pages.html(replace(whole, warnings=["TRAINED ON"]), pictures), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("""[...document.querySelectorAll('table')].filter(
        table => table.getBoundingClientRect().right > innerWidth + 1).length""") == 0
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert violations(page) == []
    context.close()
