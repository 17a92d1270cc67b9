"""What the page says of a picture: first what is possible, what to do next, and no number where it means nothing."""

from __future__ import annotations

import io
import re
from pathlib import Path

from skin import load_classifier
from skin.data.metadata import Column, Encoder
from skin.model.classifier import Prediction, SkinClassifier
from skin.serving.answer import Finding, answer_html, answer_row, finding_of
from skin.serving.words import languages
from tests import tiny

import numpy as np
import pytest
from PIL import Image

ENGLISH = languages()["en"]


def found(probabilities: dict[str, float], possible: str, unlike: bool = False, calibrated: bool = True) -> Finding:
    """The finding of a prediction; `possible` names the classes of its set."""
    names = tuple(sorted(possible.split(), key=lambda name: -probabilities[name]))
    values = np.array(list(probabilities.values()))
    return finding_of(Prediction(tuple(probabilities), values, names, names, unlike), ENGLISH, calibrated)


SEVEN = {"akiec": 0.04, "bcc": 0.02, "bkl": 0.05, "df": 0.01, "mel": 0.3, "nv": 0.55, "vasc": 0.03}


def test_a_malignant_class_of_the_set_comes_first_with_what_to_do_next() -> None:
    finding = found(SEVEN, "nv mel bkl")
    assert finding.headline == "Undecided between melanoma, nevus and benign keratosis"
    assert finding.malignant == ("melanoma",)
    assert finding.advice.startswith("Show this spot to a doctor within days")
    assert finding.advice.endswith("on the way to it: melanoma.")


def test_of_two_malignant_classes_the_more_probable_one_comes_first() -> None:
    finding = found(SEVEN, "nv bcc akiec mel")
    assert finding.headline == "Undecided between melanoma, actinic keratosis, basal cell carcinoma and nevus"
    assert "melanoma, actinic keratosis and basal cell carcinoma." in finding.advice


def test_a_set_of_one_is_most_probable() -> None:
    assert found(SEVEN, "nv").headline == "Most probably nevus"
    assert found(SEVEN, "nv").advice.startswith("No malignant class is among the possible ones")
    assert found(SEVEN, "mel").headline == "Most probably melanoma"


def test_a_set_of_all_classes_says_that_none_can_be_ruled_out() -> None:
    finding = found(SEVEN, "akiec bcc bkl df mel nv vasc")
    assert finding.headline == "Undecided: melanoma cannot be ruled out, nor any other class"
    assert finding.malignant == ("melanoma", "actinic keratosis", "basal cell carcinoma")
    benign = dict.fromkeys(("bkl", "df", "nv", "vasc", "sek"), 0.2)
    assert found(benign, " ".join(benign)).headline == "Undecided: no class can be ruled out"
    assert found({"mel": 0.4, "nv": 0.6}, "mel nv").headline == "Undecided between melanoma and nevus"


def test_a_large_set_names_four_and_counts_the_others() -> None:
    finding = found(SEVEN, "akiec bcc bkl mel nv vasc")
    assert finding.headline == (
        "Undecided between melanoma, actinic keratosis, basal cell carcinoma, nevus, and 2 other classes"
    )


def test_an_unlike_picture_has_no_class_and_no_number() -> None:
    finding = found(SEVEN, "mel", unlike=True)
    assert finding.headline == "Unlike the pictures that this model learned from"
    assert finding.malignant == ()
    assert not re.search(r"\d|melanoma", finding.headline + finding.note + finding.advice)


def test_a_model_without_calibration_gives_a_guess_and_rules_nothing_out() -> None:
    finding = found(SEVEN, "akiec bcc bkl df mel nv vasc", calibrated=False)
    assert finding.headline == "First guess: nevus, but melanoma is not ruled out"
    assert "never measured" in finding.note
    assert "melanoma" in finding.advice
    likely = {"mel": 0.9, "nv": 0.1}
    assert found(likely, "mel nv", calibrated=False).headline == "First guess: melanoma"


def test_classes_that_nobody_knows_are_not_called_benign() -> None:
    assert found({"spots": 0.9, "nv": 0.1}, "spots").advice.startswith("This page does not know which classes")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SkinClassifier:
    calibration = tiny.calibration(temperature=1.0, threshold=0.2, unlike_threshold=1e9)
    path = tmp_path_factory.mktemp("run") / "best.pt"
    return load_classifier(tiny.write_checkpoint(path, calibration=calibration), device="cpu")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("images") / "3.png"
    Image.fromarray(tiny.picture(3, 300, 240)).save(path)
    return str(path)


def shown(html: str) -> str:
    """The text that a reader sees."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_the_page_has_a_bar_per_class_and_the_square_with_its_heat(model: SkinClassifier, image: str) -> None:
    html = answer_html(model, image, ENGLISH)
    prediction = model.predict(image)
    assert html.count("<li") == 7
    assert html.count('<li class="possible"') == len(prediction.prediction_set)
    assert html.count("data:image/jpeg") == 2
    assert ENGLISH.percent(prediction.probability).replace("%", "") in html
    assert f'width="{100 * prediction.probability:.2f}%"' in html


def test_the_page_shows_no_number_and_no_class_for_an_unlike_picture(tmp_path: Path, image: str) -> None:
    calibration = tiny.calibration(temperature=1.0, threshold=0.0, unlike_threshold=1e-9)
    path = tiny.write_checkpoint(tmp_path / "best.pt", calibration=calibration)
    model = load_classifier(path, device="cpu")
    for words in languages().values():
        html = answer_html(model, image, words)
        assert words("unlike") in shown(html)
        assert not re.search(r"\d", shown(html))
        assert not [name for name in words.names(tiny.CLASSES).values() if name in shown(html)]
        assert "data-probability" not in html
        assert html.count("data:image/jpeg") == 1, "what the model looked at, without a heat map"
    row = answer_row(model, image, "3.png", ENGLISH)
    assert (row["mark"], row["first"]) == ("unlike", "")


def test_names_of_classes_are_escaped(tmp_path: Path, image: str) -> None:
    path = tiny.write_checkpoint(tmp_path / "best.pt", classes=("<script>alert(1)</script>", '"><b>'))
    html = answer_html(load_classifier(path, device="cpu"), image, ENGLISH)
    assert "<script" not in html
    assert '"><b>' not in html


def test_two_hundred_classes_without_calibration_fit_the_page(tmp_path: Path, image: str) -> None:
    names = ("黑色素瘤", "ورم ميلانيني", *(f"class {number}" for number in range(198)))
    path = tiny.write_checkpoint(tmp_path / "best.pt", classes=names)
    html = answer_html(load_classifier(path, device="cpu"), image, ENGLISH)
    assert "First guess: " in html
    assert html.count("<li") == 7
    assert "and 193 less probable" in html


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def half_a_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(tiny.picture(1, 400, 300)).save(buffer, "JPEG")
    return buffer.getvalue()[:2000]


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"", "problem_empty"),
        (b"a letter", "problem_format"),
        (png(12_000, 11_000), "problem_pixels"),
        (png(20_000, 14_000), "problem_pixels"),
        (png(2000, 20), "problem_narrow"),
        (half_a_jpeg(), "problem_damaged"),
    ],
    ids=["empty", "text", "large", "bomb", "narrow", "cut off"],
)
def test_each_way_to_fail_has_its_own_sentence(
    content: bytes, key: str, model: SkinClassifier, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for words in languages().values():
        assert words(key) in answer_html(model, str(path), words)
        row = answer_row(model, str(path), "a.jpg", words)
        assert (row["mark"], row["answer"], row["first"]) == ("unread", words(key), "")


def test_an_upload_that_is_gone_is_said(model: SkinClassifier, tmp_path: Path) -> None:
    assert ENGLISH("problem_gone") in answer_html(model, str(tmp_path / "gone.png"), ENGLISH)


def test_the_answer_says_what_of_the_metadata_it_has_used(tmp_path: Path, image: str) -> None:
    encoder = Encoder((Column("age", (), 50.0, 10.0), Column("sex", ("female", "male")), Column("site", ("back",))))
    fitted = tiny.calibration(temperature=1.0, threshold=0.2, unlike_threshold=1e9)
    path = tiny.write_checkpoint(tmp_path / "best.pt", calibration=fitted, encoder=encoder)
    model = load_classifier(path, device="cpu")
    said = shown(answer_html(model, image, ENGLISH, {"age": "61", "sex": "Male", "site": "<b>", "more": 1}))
    assert "With what was given: Age in years 61, Sex male" in said
    assert "&lt;b" not in said
    assert "With what was given: Age in years 0" in shown(answer_html(model, image, ENGLISH, {"age": 0}))
    nothing = {"age": "", "sex": "unknown", "site": None}
    assert "With what was given" not in shown(answer_html(model, image, ENGLISH, nothing))


def test_a_row_has_the_cells_of_predict_and_no_formula(model: SkinClassifier, image: str) -> None:
    prediction = model.predict(image)
    row = answer_row(model, image, "=1+1.png", ENGLISH)
    assert row["csv"][:2] == ["./=1+1.png", prediction.label]
    assert row["csv"][6:] == [f"{p:.6f}" for p in prediction.probabilities]
    name = ENGLISH.names(tiny.CLASSES)[prediction.label]
    assert row["first"] == f"{name} {ENGLISH.percent(prediction.probability)}"
