"""The page of a model that takes metadata: its fields, and the same for other programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from app import free_port
from skin import load_classifier
from skin.data.metadata import Column, Encoder
from skin.model.classifier import SkinClassifier
from tests import tiny
from tests.bench.app_load import call, upload
from tests.browsing import DESKTOP, visiting

import pytest
from PIL import Image
from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
AGE_AND_SEX = Encoder((Column("age", (), 50.0, 10.0), Column("sex", ("female", "male"))))


class Server(NamedTuple):
    address: str
    model: SkinClassifier
    picture: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from skin.serving import webpage

    folder = tmp_path_factory.mktemp("beside")
    fitted = tiny.calibration(temperature=1.0, threshold=0.2, unlike_threshold=1e9)
    path = tiny.write_checkpoint(folder / "best.pt", calibration=fitted, encoder=AGE_AND_SEX)
    Image.fromarray(tiny.picture(0, 300, 240)).save(folder / "0.png")
    model = load_classifier(path, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        site = webpage.make_site(model, [], folder / "uploads", keep_seconds=600)
        address = webpage.start(site, "127.0.0.1", free_port("127.0.0.1", 8060), 16).rstrip("/")
        yield Server(address, model, folder / "0.png")
        site.close()


def test_the_fields_say_what_is_known_and_the_answer_follows_them(browser: Browser, server: Server) -> None:
    with visiting(browser, server.address, **DESKTOP, locale="de") as visit:
        page, fields = visit.page, visit.page.locator("#known")
        assert re.findall("Alter in Jahren|Geschlecht", fields.inner_text()) == ["Alter in Jahren", "Geschlecht"]
        assert fields.locator("option").all_inner_texts() == ["unbekannt", "weiblich", "männlich"]
        visit.upload(server.picture)
        page.wait_for_selector("#result article")
        assert "Mit den Angaben" not in page.inner_text("#result")
        page.fill("#known input", "70")
        page.select_option("#known select", "male")
        page.wait_for_selector("#result :text('Mit den Angaben: Alter in Jahren 70, Geschlecht männlich')")
        expected = server.model.predict(server.picture, metadata={"age": 70, "sex": "male"})
        shown = float(page.get_attribute("#result article", "data-probability") or 0)
        assert shown == pytest.approx(expected.probability, abs=1e-5)
        assert shown != pytest.approx(server.model.predict(server.picture).probability, abs=1e-3)
        assert visit.violations() == []
        assert visit.complaints == []


@pytest.mark.filterwarnings("ignore:.* counts as missing")
@pytest.mark.parametrize(
    ("known", "warnings"),
    [
        ({"age": 30, "sex": "female"}, []),
        (
            {"age": ["no number"], "sex": 3, "more": None},
            [
                "age=['no number'] counts as missing: it is not a number",
                "sex=3 counts as missing: the model knows female, male",
                "more=None counts as missing: the model uses age, sex",
            ],
        ),
    ],
)
def test_other_programs_say_what_is_known(server: Server, known: dict[str, Any], warnings: list[str]) -> None:
    said = asked(server, known)
    expected = server.model.predict(server.picture, metadata=known)
    answer = json.loads(said.partition("event: complete\ndata: ")[2])[0]
    assert answer["probability"] == pytest.approx(expected.probability, abs=1e-5)
    assert answer["warnings"] == warnings


@pytest.mark.parametrize("known", [[1], "age=30", None])
def test_metadata_that_are_no_object_are_refused(server: Server, known: object) -> None:
    assert "event: error" in asked(server, known)


def asked(server: Server, known: object) -> str:
    """The events of a call over HTTP."""
    path = upload(server.address, "0.png", server.picture.read_bytes())
    picture = {"path": path, "orig_name": "0.png", "meta": {"_type": "gradio.FileData"}}
    return call(server.address, "predict_with_metadata", [picture, known])
