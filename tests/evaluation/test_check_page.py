"""check.html shows every class and finding, needs nothing but itself, and tells no place on the user's disk."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from skin.data.audit import CheckReport, check
from skin.data.layouts import read_index
from skin.evaluation.check_page import Advice, html

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import Browser

MARKUP = '<img src=x onerror="alert(1)"> & "quoted"'
ARABIC = "ورم ميلانيني حميد"
LONG = "a_name_that_goes_on_and_on_" * 8
ADVICE = Advice("python train.py --data 'my & set'", ["the class \u2068x\u2069 is odd"], ["About 3 min."])


class Made:
    """A labels table of noise pictures, of 20 lesions a class; faults are added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[tuple[str, str, str, str]] = []
        self.draw = np.random.default_rng(0)
        folder.mkdir(parents=True)

    def add(self, name: str, label: str, lesion: str, split: str = "") -> Path:
        self.rows.append((name, label, lesion, split))
        path = self.folder / name
        coarse = Image.fromarray(self.draw.integers(0, 256, (5, 6, 3), np.uint8))
        coarse.resize((60, 50), Image.Resampling.BICUBIC).save(path)
        return path

    def classes(self, names: list[str], images: int = 20) -> None:
        for name in names:
            for _ in range(images):
                number = len(self.rows)
                self.add(f"i{number:04d}.png", name, f"lesion{number}", ("train", "train", "val", "test")[number % 4])

    def report(self) -> CheckReport:
        labels = self.folder / "labels.csv"
        pd.DataFrame(self.rows, columns=["image", "dx", "lesion_id", "split"]).to_csv(labels, index=False)
        return check(read_index(self.folder, labels=labels, keep_going=True), (0.7, 0.2, 0.1), 0)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "user" / "my set")


def faulty(made: Made) -> CheckReport:
    made.classes(["melanoma", MARKUP, ARABIC, LONG])
    made.add("few.png", "train_set", "lesion of few", "train")
    made.add("half.png", "melanoma", "lesion0", "test")  # lesion0 is in train
    made.add("copy.png", ARABIC, "another", "test").write_bytes((made.folder / "i0000.png").read_bytes())
    made.add("broken.png", "melanoma", "l1", "train").write_bytes(b"")
    made.add(f"{LONG}.png", "melanoma", "l2", "train").write_bytes(b"no picture")
    made.rows.append(("gone.png", "melanoma", "l3", "train"))
    made.rows.append(("i0001.png", ARABIC, "lesion1", "train"))  # under another label
    made.add("stray.png", "", "")
    made.rows.pop()
    return made.report()


def shown(page: str) -> str:
    """Return the page's text as a reader sees it, without what keeps directions apart."""
    body = re.sub(r"<bdi>|</bdi>|<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_a_sound_set_says_so_and_how_it_was_read(made: Made) -> None:
    made.classes(["melanoma", "naevus"])
    text = shown(html(made.report(), ADVICE, 0))
    assert "Nothing wrong: no leak, no conflict, no unreadable image" in text
    assert "Layout labels table Images 40 images in 2 classes Read from labels.csv Class column dx" in text
    assert "each image counts alone" not in text
    assert "by the column lesion_id Split the data bring train, val, test (column split )" in text
    assert "melanoma 20 train 10 · val 5 · test 5" in text
    for absent in ("To mend", "Classes to look at", "Leaks", "Copies"):
        assert absent not in text


def test_a_doubtful_class_is_no_fault_and_not_all_right(made: Made) -> None:
    made.classes(["melanoma", "train_set"])
    report = made.report()
    text = shown(html(report, ADVICE, 0))
    assert report.exit_code == 0
    assert "Nothing wrong" not in text
    assert "no leak, no conflict, no unreadable image; but look at the classes below" in text


def test_folders_that_are_classes_have_no_columns(made: Made) -> None:
    made.classes(["melanoma", "naevus"])
    for name, label, *_ in made.rows:
        (made.folder / label).mkdir(exist_ok=True)
        (made.folder / name).rename(made.folder / label / name)
    text = shown(html(check(read_index(made.folder), (0.7, 0.2, 0.1), 0), ADVICE, 0))
    assert "Read from the folders of my set" in text
    assert "Kept together nothing: no lesion or patient is known" in text
    assert "Split cut here as training cuts it: the data bring none" in text


def test_every_class_and_every_finding_is_shown(made: Made) -> None:
    report = faulty(made)
    page = html(report, ADVICE, 0)
    text = shown(page)
    for name in report.index.classes:
        assert f" {name} " in text
    assert report.verdict in text
    assert "broken.png an empty file (0 bytes)" in text
    assert f"{LONG}.png not an image" in text
    assert "gone.png" in text
    assert "stray.png" in text
    assert "two values of label" in text
    assert f"named like a split or a piece of a download: is it a disease? {MARKUP}, train_set" in text
    assert "leak group lesion0 stands in 2 splits half.png" in text
    assert "leak two labels exact copies copy.png" in text
    assert "60x50 " in text
    assert "PNG " in text
    assert "About 3 min." in text
    assert text.endswith("python train.py --data 'my & set'")


def test_the_page_needs_nothing_and_runs_nothing(made: Made) -> None:
    page = html(faulty(made), ADVICE, 0)
    assert not re.search(r"<script|https?://|<link|@import|url\(", page)
    assert set(re.findall(r'src="(data:image/jpeg;base64,|[^"]*)', page)) == {"data:image/jpeg;base64,"}
    assert "<img src=x" not in page
    assert "\u2068" not in page, "a mark that changes the direction of the text is shown as its code"


def test_the_page_does_not_tell_where_the_data_lie(made: Made) -> None:
    report = faulty(made)
    page = html(report, ADVICE, 0)
    assert str(made.folder) not in page
    assert str(made.folder.parent) not in page
    assert "<bdi>my set: " in page, "a fault begins with the folder, which has its name now"
    typed = f"python train.py --data '{made.folder}'"
    assert typed in unescape(html(report, Advice(typed, [], []), 0)), "the command is as it was typed"


def test_examples_are_chosen_by_the_seed(made: Made) -> None:
    made.classes(["melanoma", "naevus"])
    report = made.report()

    def chosen(seed: int) -> list[str]:
        return re.findall(r'title="([^"]*)"', html(report, ADVICE, seed))

    assert chosen(0) == chosen(0)
    assert chosen(0) != chosen(1)
    assert len(set(chosen(0))) == 16, "eight of each class"


def test_many_classes_are_all_named_and_the_page_stays_small(made: Made) -> None:
    made.classes([f"disease {chr(97 + number)}" for number in range(26)], 9)
    made.classes([f"syndrome {chr(97 + number)}" for number in range(16)], 8)
    made.classes([f"code {number}" for number in range(60)], 1)
    noise = made.folder / "i0000.png"
    Image.fromarray(made.draw.integers(0, 256, (192, 256, 3), np.uint8)).save(noise)
    for path in made.folder.iterdir():
        path.write_bytes(noise.read_bytes())
    for number in range(12):
        made.rows[2 * number + 1] = (*made.rows[2 * number + 1][:2], f"lesion{2 * number + 2}", "train")
    page = html(made.report(), ADVICE, 0)
    assert page.count('<article class="class">') == 102
    assert page.count('<div class="strip">') == 40
    assert page.count('<figure class="pair') > 24
    assert len(page) < 5e6, "in spite of pictures of noise, which JPEG cannot make small"


def test_an_image_that_has_gone_since_the_audit_is_left_out(made: Made) -> None:
    report = faulty(made)
    (made.folder / "copy.png").unlink()
    assert "cannot be read now copy.png" in shown(html(report, ADVICE, 0))


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_in_a_browser_and_nothing_is_asked_for(
    made: Made, tmp_path: Path, browser: Browser, width: int
) -> None:
    file = tmp_path / "check.html"
    file.write_text(html(faulty(made), ADVICE, 0), encoding="utf-8")
    complaints: list[str] = []
    requests: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda sent: requests.append(sent.url))
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("""[...document.querySelectorAll('body *')].filter(
        e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('pre')).map(e => e.outerHTML)""") == []
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
    page.close()
