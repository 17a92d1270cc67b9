"""report.html of a run shows all of it, needs nothing but itself, and tells no place on the user's disk."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

from skin.training import run_page
from skin.training.curves import draw_curves
from skin.training.options import Options
from skin.training.run_page import State, html, worst
from skin.training.splits import Splits, read_splits
from skin.training.standing import Baseline, Course, remarks
from tests.browsing import violations
from tests.tiny import picture
from tests.training.test_standing import recorded

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

MARKUP, ARABIC = '<img src=x onerror="alert(1)"> & more', "ورم ميلانيني حميد"
LONG = "a_name_that_goes_on_and_on_" * 6
STATE = State(
    "first try", "CPU (1 threads)", "2026-11-26 15:20", "going on", "3 h 20 min left", b"", ["a warning"], None
)  # fmt: skip


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """Ten pictures of each of four classes."""
    root = tmp_path_factory.mktemp("home") / "my set"
    for number, name in enumerate((ARABIC, MARKUP, LONG, "mel")):
        (root / name).mkdir(parents=True)
        for seed in range(10 * number, 10 * number + 10):
            Image.fromarray(picture(seed)).save(root / name / f"{seed}.png")
    return read_splits(Options(data=root, cache="off", image_size=32))


@pytest.fixture(scope="module")
def probabilities(splits: Splits) -> np.ndarray:
    """Each validation image's own class gets 0.1, 0.2, ..., the rest goes to the next class."""
    labels = splits.labels("val")
    found = np.zeros((len(labels), 4))
    for row, label in enumerate(labels):
        found[row, label] = 0.1 * (row + 1)
        found[row, (label + 1) % 4] = 1 - 0.1 * (row + 1)
    return found


def page(splits: Splits, epochs: int = 12, state: State = STATE, **changed: Any) -> str:
    options = Options(data=splits.index.root, weights="/home/jane/secret/w.pth", lr=1e-3, epochs=24)
    options = replace(options, **changed)
    baseline = Baseline.of(splits.labels("train"), splits.labels("val"), splits.classes, balanced=True)
    course = Course(recorded("demo", epochs), baseline, options, 1, 2, ended=state.going == "ended")
    return html(course, remarks(course), splits, np.ones(4), state)


def whole(splits: Splits, probabilities: np.ndarray) -> str:
    baseline = Baseline.of(splits.labels("train"), splits.labels("val"), splits.classes, balanced=True)
    curves = draw_curves(recorded("demo"), 8, "accuracy", baseline)
    mistakes = worst(splits, probabilities, probabilities.argmax(1))
    return page(splits, state=replace(STATE, going="ended", curves=curves, mistakes=mistakes))


def shown(text: str) -> str:
    """Return the page's text as a reader sees it."""
    body = re.sub(r"<bdi>|</bdi>|<style>.*?</style>", "", text, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_the_first_epoch_has_a_page(splits: Splits) -> None:
    text = shown(page(splits, 1))
    assert "too early to say after 1 epoch" in text
    assert "Epochs 1 of 24 done; the run goes on: 3 h 20 min left" in text
    assert "Best validation accuracy 0.0786, in epoch 1: best.pt" in text
    assert "To beat validation accuracy 0.250, that of always answering" in text
    assert "each epoch renews this page" in text
    assert "a warning" in text
    assert "Worst mistakes" not in text


def test_epochs_stand_newest_first_and_the_oldest_are_left_to_the_file(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_page, "_EPOCHS", 10)
    found = page(splits)
    assert re.findall(r'scope="row"[^>]*>(\d+)<', found) == [f"{epoch}" for epoch in range(12, 2, -1)]
    assert "and 2 more: metrics.csv has them all." in shown(found)
    assert "MiB of memory" in found


def test_every_class_is_counted_and_settings_are_shown_without_their_places(splits: Splits) -> None:
    found = page(splits, out=Path("/home/jane/runs/x"))
    text = shown(found)
    for name in (MARKUP, ARABIC, LONG, "melanoma (mel)"):
        assert f" {name} 7 2 1 1.00 " in text
    assert "--epochs 24 , --lr 0.001 " in text
    assert "--weights w.pth" in text
    assert "/home/jane" not in found
    assert str(splits.index.root.parent) not in found


def test_the_worst_mistakes_come_first_and_right_answers_do_not(splits: Splits, probabilities: np.ndarray) -> None:
    found = worst(splits, probabilities, probabilities.argmax(1))
    # Of the eight images the first four are wrong: their own class has less than half.
    names = splits.of("val")["image"].tolist()
    assert [mistake.image for mistake in found] == names[:4]
    assert [round(mistake.of_label, 6) for mistake in found] == [0.1, 0.2, 0.3, 0.4]
    assert [round(mistake.probability, 6) for mistake in found] == [0.9, 0.8, 0.7, 0.6]
    assert found[0].label != found[0].predicted
    text = shown(whole(splits, probabilities))
    assert f"(10 %) taken for {run_page.readable_name(found[0].predicted)} (90 %) {names[0]}" in text
    none = page(splits, state=replace(STATE, going="ended", mistakes=[]))
    assert "The best model has called every validation image by its class." in shown(none)


def test_a_picture_that_has_gone_is_no_fault(splits: Splits, probabilities: np.ndarray) -> None:
    found = worst(splits, probabilities, probabilities.argmax(1))
    gone = [replace(mistake, path="/no/such/file.png") for mistake in found]
    assert "cannot be read now" in page(splits, state=replace(STATE, going="ended", mistakes=gone))


def test_the_page_needs_nothing_and_runs_nothing(splits: Splits, probabilities: np.ndarray) -> None:
    found = whole(splits, probabilities)
    assert not re.search(r"<script|https?://|<link|@import|url\(", found)
    assert "<img src=x" not in found
    assert set(re.findall(r'src="(data:image/(?:png|jpeg);base64,|[^"]*)', found)) == {
        "data:image/png;base64,", "data:image/jpeg;base64,"
    }  # fmt: skip


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_nothing_overflows_in_a_browser_and_everybody_can_read_it(
    splits: Splits, probabilities: np.ndarray, tmp_path: Path, browser: Browser, width: int, scheme: Any
) -> None:
    file = tmp_path / "report.html"
    file.write_text(whole(splits, probabilities), encoding="utf-8")
    requests: list[str] = []
    opened = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    opened.on("request", lambda sent: requests.append(sent.url))
    opened.goto(file.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    assert opened.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
    assert violations(opened) == []
    opened.close()
