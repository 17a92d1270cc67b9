"""The page in a browser: every state that a visitor meets, on a desk and on a telephone.

The server runs in this process, so that a test can hold an answer back and look at the page meanwhile.
"""

from __future__ import annotations

import base64
import csv
import io
import re
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import free_port
from skin import load_classifier
from skin.model.classifier import SkinClassifier
from skin.serving.outputs import csv_header
from skin.serving.words import languages
from tests import tiny
from tests.bench.app_load import upload
from tests.browsing import DESKTOP, PHONE, Visit, visiting

import pillow_heif
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
ENGLISH = languages()["en"]
LIMIT = 3_000_000  # bytes of an upload; 64 millions take the tests too long
MOST = 5  # pictures of a table


@dataclass
class Server:
    """The page's server; `hold` keeps answers back while it is not set."""

    address: str
    model: SkinClassifier
    hold: threading.Event


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from skin.serving import webpage

    calibration = tiny.calibration(temperature=1.0, threshold=0.2, unlike_threshold=1e9)
    path = tmp_path_factory.mktemp("run") / "best.pt"
    config = {"data": "/somewhere/HAM10000"}
    model = load_classifier(tiny.write_checkpoint(path, calibration=calibration, config=config), device="cpu")
    hold = threading.Event()
    hold.set()

    def held(function: Callable[..., Any]) -> Callable[..., Any]:
        def answer(*values: Any) -> Any:
            assert hold.wait(60)
            return function(*values)

        return answer

    uploads = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        patch.setattr(webpage, "UPLOAD_LIMIT", LIMIT)
        patch.setattr(webpage, "MOST_PICTURES", MOST)
        for name in ("answer_html", "answer_row"):
            patch.setattr(webpage, name, held(getattr(webpage, name)))
        site = webpage.make_site(model, [], uploads, keep_seconds=600)
        address = webpage.start(site, "127.0.0.1", free_port("127.0.0.1", 7980), 16).rstrip("/")
        yield Server(address, model, hold)
        hold.set()
        site.close()


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    with visiting(browser, server.address, **DESKTOP) as visit:
        yield visit
    server.hold.set()


@pytest.fixture
def phone(browser: Browser, server: Server) -> Iterator[Visit]:
    with visiting(browser, server.address, **PHONE) as visit:
        yield visit


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(3):
        Image.fromarray(tiny.picture(seed, 300, 240)).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


def answered(page: Page) -> str:
    page.wait_for_selector("#result article")
    return page.inner_text("#result .headline")


# ---- one picture --------------------------------------------------------------------------------------------


def test_while_it_computes_it_says_so_and_the_old_answer_is_gone(
    visit: Visit, server: Server, pictures: list[Path]
) -> None:
    page = visit.page
    visit.upload(pictures[0])
    answered(page)
    server.hold.clear()
    visit.upload(pictures[1])
    page.wait_for_selector("#result .busy")
    assert page.query_selector("#result article") is None
    assert page.get_attribute("#result", "aria-busy") == "true"
    assert page.inner_text("#said") == ENGLISH.script["busy"]
    visit.upload(pictures[2])
    server.hold.set()
    answered(page)
    assert page.get_attribute("#result", "aria-busy") == "false"
    assert page.get_attribute("#result article", "data-class") == server.model.predict(pictures[2]).label
    assert page.inner_text("#preview figcaption") == "2.png", "the answer to the picture before it came to nothing"


def test_offline_in_the_middle_is_said_and_the_same_picture_is_asked_about_again(
    visit: Visit, server: Server, pictures: list[Path]
) -> None:
    page = visit.page
    server.hold.clear()
    visit.upload(pictures[0])
    page.wait_for_selector("#result .busy")
    visit.context.set_offline(True)
    visit.upload(pictures[1])
    page.wait_for_selector("#result .problem")
    assert page.inner_text("#result .problem p") == ENGLISH.script["offline"]
    visit.context.set_offline(False)
    server.hold.set()
    page.click("button:has-text('Try again')")
    answered(page)
    assert page.get_attribute("#result article", "data-class") == server.model.predict(pictures[1]).label


def test_a_server_that_falls_silent_is_given_up(visit: Visit, server: Server, pictures: list[Path]) -> None:
    """A telephone that leaves the network keeps its connection, and hears nothing any more."""
    page = visit.page
    page.clock.install()
    server.hold.clear()
    with page.expect_response("**/call/classify/*"):
        visit.upload(pictures[0])
    page.clock.run_for(30_000)
    assert page.is_visible("#result .busy")
    for _ in range(10):  # the script may start to listen a little later
        page.clock.run_for(31_000)
        if page.is_visible("#result .problem"):
            break
    assert page.inner_text("#result .problem p") == ENGLISH.script["offline"]


@pytest.mark.parametrize(
    ("status", "body", "key"),
    [(503, '{"detail": "Queue is full."}', "crowded"), (500, "oh", "failed"), (413, "", "large")],
)
def test_what_the_server_refuses_is_a_sentence(
    status: int, body: str, key: str, visit: Visit, pictures: list[Path]
) -> None:
    visit.page.route("**/gradio_api/call/classify", lambda route: route.fulfill(status=status, body=body))
    visit.upload(pictures[0])
    visit.page.wait_for_selector("#result .problem")
    assert visit.page.inner_text("#result .problem p") == ENGLISH.script[key].format(limit=3)


def test_a_stream_that_ends_early_and_one_with_an_error_are_sentences(visit: Visit, pictures: list[Path]) -> None:
    bodies = iter(["", 'event: error\ndata: {"error": null}\n\n'])
    visit.page.route("**/call/classify/*", lambda route: route.fulfill(body=next(bodies)))
    for key in ("offline", "failed"):
        visit.upload(pictures[0])
        visit.page.wait_for_selector(f"#result .problem:has-text('{ENGLISH.script[key]}')")


def test_a_file_above_the_limit_is_not_even_sent(visit: Visit, server: Server, tmp_path: Path) -> None:
    (tmp_path / "large.jpg").write_bytes(bytes(LIMIT + 1))
    visit.upload(tmp_path / "large.jpg")
    visit.page.wait_for_selector("#result .problem")
    assert visit.page.inner_text("#result .problem p") == ENGLISH.script["large"].format(limit=3)
    assert not [url for url in visit.requests if "upload" in url]


def test_a_wrong_and_a_broken_file_are_said_without_a_broken_preview(
    visit: Visit, pictures: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "letter.jpg").write_text("a letter")
    (tmp_path / "cut.png").write_bytes(pictures[0].read_bytes()[:3000])
    for name, key in (("letter.jpg", "problem_format"), ("cut.png", "problem_damaged")):
        visit.upload(tmp_path / name)
        visit.page.wait_for_selector(f"#result .problem:has-text('{ENGLISH(key)}')")
    assert visit.violations() == []


def test_a_heic_picture_is_answered_though_the_browser_cannot_show_it(visit: Visit, tmp_path: Path) -> None:
    pillow_heif.register_heif_opener()
    Image.fromarray(tiny.picture(5, 640, 480)).save(tmp_path / "IMG_0001.HEIC", "HEIF", quality=80)
    visit.upload(tmp_path / "IMG_0001.HEIC")
    answered(visit.page)
    assert visit.page.is_hidden("#preview img")
    assert visit.page.inner_text("#preview p") == ENGLISH("no_preview")
    assert visit.page.eval_on_selector("#result img", "e => e.naturalWidth") == 64


@pytest.mark.parametrize("size", [(8160, 6120), (12_000, 9_000)], ids=["50 megapixels", "108 megapixels"])
def test_a_telephones_largest_picture_is_answered(size: tuple[int, int], visit: Visit, tmp_path: Path) -> None:
    Image.new("RGB", size, (200, 150, 120)).save(tmp_path / "large.jpg", quality=60)
    visit.upload(tmp_path / "large.jpg")
    answered(visit.page)


# ---- many pictures ------------------------------------------------------------------------------------------


def zip_of(path: Path, contents: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def rows(page: Page) -> list[list[str]]:
    return page.eval_on_selector_all(
        "#batch tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )


def finished(page: Page) -> str:
    page.wait_for_selector("#batch .tools button:has-text('CSV')")
    return page.inner_text("#progress")


def test_many_pictures_and_a_zip_become_a_table_and_a_csv_file(
    visit: Visit, server: Server, pictures: list[Path], tmp_path: Path
) -> None:
    archive = zip_of(tmp_path / "more.zip", {
        "visit/2.png": pictures[2].read_bytes(), "visit/notes.txt": b"no picture", "__MACOSX/visit/._2.png": b"",
        "visit/bomb.png": bytes(LIMIT + 1), "=1+1.png": b"a letter",
    })  # fmt: skip
    page = visit.page
    visit.upload(pictures[0], pictures[1], archive)
    assert finished(page).startswith("Pictures: 5. ")
    assert finished(page).endswith("Not readable: 2.")
    found = rows(page)
    assert [row[0] for row in found] == ["0.png", "1.png", "visit/2.png", "visit/bomb.png", "=1+1.png"]
    assert found[3][1] == ENGLISH.script["zip_bomb"].format(limit=3)
    assert found[4][1] == ENGLISH("problem_format")
    assert visit.violations() == []

    with page.expect_download() as download:
        page.click("text=Save the table as CSV")
    assert download.value.suggested_filename == "predictions.csv"
    header, *lines = csv.reader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8-sig")))
    assert header == csv_header(tiny.CLASSES)
    expected = [server.model.predict(path) for path in pictures]
    assert [line[1] for line in lines] == [*(prediction.label for prediction in expected), "", ""]
    assert [line[0] for line in lines][3:] == ["visit/bomb.png", "./=1+1.png"]
    assert lines[0][6:] == [f"{p:.6f}" for p in expected[0].probabilities]
    assert lines[3][header.index("error")] == ENGLISH.script["zip_bomb"].format(limit=3)

    page.click("#batch th button:has-text('visit/2.png')")
    answered(page)
    assert page.get_attribute("#result article", "data-class") == expected[2].label


@pytest.mark.parametrize("name", ["seborrhoeic keratosis " * 4, "keratosis_" * 9])
@pytest.mark.parametrize("device", [PHONE, DESKTOP])
def test_a_long_class_name_leaves_its_probability_in_sight(
    browser: Browser, server: Server, pictures: list[Path], device: dict[str, Any], name: str
) -> None:
    with visiting(browser, server.address, **device) as visit:
        visit.upload(*pictures[:2])
        finished(visit.page)
        cell, wide = (visit.page.locator(chosen).first for chosen in ("#batch td.number", "#batch .wide"))
        cell.evaluate("(cell, name) => cell.textContent = name + cell.textContent", name)
        assert wide.evaluate("it => it.scrollWidth - it.clientWidth") == 0
        answer = visit.page.locator("#batch td:nth-child(2)").first
        assert answer.evaluate("it => it.clientWidth") >= cell.evaluate("it => it.clientWidth")


def test_a_zip_in_a_zip_has_a_row_that_says_so(visit: Visit, pictures: list[Path], tmp_path: Path) -> None:
    inner = zip_of(tmp_path / "inner.zip", {"1.png": pictures[1].read_bytes()})
    entries = {"0.png": pictures[0].read_bytes(), "more/inner.zip": inner.read_bytes(), ".hidden/x.zip": b""}
    visit.upload(zip_of(tmp_path / "outer.zip", entries))
    assert finished(visit.page).endswith("Not readable: 1.")
    assert [row[:2] for row in rows(visit.page)][1] == ["more/inner.zip", ENGLISH.script["zip_inner"]]


def test_a_picture_is_opened_while_the_table_goes_on(visit: Visit, server: Server, pictures: list[Path]) -> None:
    page, held = visit.page, list[Route]()

    def but_the_second(route: Route) -> None:
        held.append(route)
        if len(held) != 2:
            route.continue_()

    page.route("**/gradio_api/call/row", but_the_second)
    visit.upload(*pictures[:3])
    page.click("#batch th button:has-text('0.png')")
    answered(page)
    assert page.get_attribute("#result article", "data-class") == server.model.predict(pictures[0]).label
    assert page.inner_text("#batch .tools") == "Stop"
    held[1].continue_()
    assert finished(page).startswith("Pictures: 3. ")
    assert [row[0] for row in rows(page)] == ["0.png", "1.png", "2.png"]


def test_a_table_of_too_many_pictures_says_where_it_ends(visit: Visit, tmp_path: Path) -> None:
    visit.upload(zip_of(tmp_path / "many.zip", {f"{number}.png": b"a letter" for number in range(MOST + 1)}))
    assert finished(visit.page).endswith("Only the first 5 pictures are looked at.")
    assert len(rows(visit.page)) == MOST


def drop(visit: Visit, *paths: Path) -> None:
    """Drop files or folders from the desktop onto the page."""
    devtools = visit.context.new_cdp_session(visit.page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 500, "data": data})


def test_a_picture_or_a_whole_folder_can_be_dropped_anywhere(
    visit: Visit, server: Server, pictures: list[Path], tmp_path: Path
) -> None:
    drop(visit, pictures[1])
    answered(visit.page)
    assert visit.page.inner_text("#preview figcaption") == "1.png"
    (tmp_path / "visit" / "left arm").mkdir(parents=True)
    for name, path in (("visit/a.png", pictures[0]), ("visit/left arm/b.png", pictures[1])):
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / "visit" / "letter.txt").write_text("no picture")
    drop(visit, tmp_path / "visit")
    assert finished(visit.page).startswith("Pictures: 2. ")
    assert sorted(row[0] for row in rows(visit.page)) == ["visit/a.png", "visit/left arm/b.png"]
    (tmp_path / "empty").mkdir()
    drop(visit, tmp_path / "empty")
    visit.page.wait_for_selector(f"#result .problem:has-text('{ENGLISH.script['zip_empty']}')")


def test_a_picture_can_be_pasted(visit: Visit, pictures: list[Path]) -> None:
    encoded = base64.b64encode(pictures[2].read_bytes()).decode()
    visit.page.evaluate(
        """(encoded) => {
            const clipboardData = new DataTransfer();
            const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
            clipboardData.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
            document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
        }""",
        encoded,
    )
    answered(visit.page)
    assert visit.page.inner_text("#preview figcaption") == "pasted.png"


def test_a_bomb_that_lies_about_its_size_and_other_bad_archives_are_rows(
    visit: Visit, pictures: list[Path], tmp_path: Path
) -> None:
    bomb = zip_of(tmp_path / "bomb.zip", {"a.png": bytes(LIMIT + 1)})
    content = bomb.read_bytes()
    at = content.index(b"PK\x01\x02") + 24
    bomb.write_bytes(content[:at] + struct.pack("<I", 100) + content[at + 4 :])
    locked = zip_of(tmp_path / "locked.zip", {"b.png": pictures[0].read_bytes()})
    content = locked.read_bytes()
    at = content.index(b"PK\x01\x02") + 8
    locked.write_bytes(content[:at] + b"\x01\x00" + content[at + 2 :])
    cut = tmp_path / "cut.zip"
    cut.write_bytes(content[: len(content) // 2])
    empty = zip_of(tmp_path / "empty.zip", {"readme.txt": b"nothing"})
    visit.upload(bomb, locked, cut, empty)
    finished(visit.page)
    expected = {"a.png": "zip_bomb", "b.png": "zip_locked", "cut.zip": "zip_damaged", "empty.zip": "zip_empty"}
    assert {row[0]: row[1] for row in rows(visit.page)} == {
        name: ENGLISH.script[key].format(limit=3) for name, key in expected.items()
    }


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_a_picture_that_is_not_what_the_archive_says_is_damaged(
    compression: int, visit: Visit, pictures: list[Path], tmp_path: Path
) -> None:
    sound = zip_of(tmp_path / "sound.zip", {"0.png": pictures[0].read_bytes()}, compression)
    crc, size = bytearray(sound.read_bytes()), bytearray(sound.read_bytes())
    entry = crc.index(b"PK\x01\x02")
    crc[entry + 16] ^= 1
    size[entry + 24] ^= 1
    for name, content in (("crc.zip", crc), ("size.zip", size)):
        (tmp_path / name).write_bytes(content.replace(b"0.png", name[:1].encode() + b".png"))
    bits = bytearray(sound.read_bytes())
    bits[entry // 2] ^= 0x55
    (tmp_path / "bits.zip").write_bytes(bits.replace(b"0.png", b"b.png"))
    visit.upload(sound, *(tmp_path / name for name in ("crc.zip", "size.zip", "bits.zip")))
    assert finished(visit.page).endswith("Not readable: 3.")
    found = {row[0]: row[1] for row in rows(visit.page)}
    assert found.pop("0.png") != ENGLISH.script["zip_damaged"]
    assert found == dict.fromkeys(["c.png", "s.png", "b.png"], ENGLISH.script["zip_damaged"])


def test_names_of_an_old_archive_stay_different(visit: Visit, pictures: list[Path], tmp_path: Path) -> None:
    """Without the flag for UTF-8, in the letters of some computer: these bytes are ä and ö on a DOS machine."""
    archive = zip_of(tmp_path / "old.zip", {f"{name}.png": pictures[0].read_bytes() for name in ("A", "O", "ü")})
    archive.write_bytes(archive.read_bytes().replace(b"A.png", b"\x84.png").replace(b"O.png", b"\x94.png"))
    visit.upload(archive)
    finished(visit.page)
    expected = [name.decode("cp1252") for name in (b"\x84.png", b"\x94.png")]
    assert [row[0] for row in rows(visit.page)] == [*expected, "ü.png"]


def test_a_table_that_goes_offline_goes_on_where_it_stopped(visit: Visit, pictures: list[Path]) -> None:
    page = visit.page
    answers = iter(["go", "stop"])

    def lose_the_second(route: Any) -> None:
        if next(answers, "go") == "stop":
            route.abort()
        else:
            route.continue_()

    page.route("**/gradio_api/call/row", lose_the_second)
    visit.upload(*pictures)
    page.wait_for_selector("#progress.problem")
    assert page.inner_text("#progress") == ENGLISH.script["offline"]
    assert len(rows(page)) == 1
    page.click("button:has-text('Go on')")
    page.wait_for_selector("#progress:not(.problem):has-text('Pictures: 3.')")
    assert [row[0] for row in rows(page)] == ["0.png", "1.png", "2.png"]


def test_a_table_can_be_stopped_and_goes_on(visit: Visit, server: Server, pictures: list[Path]) -> None:
    page = visit.page
    server.hold.clear()
    visit.upload(*pictures)
    page.click("button:has-text('Stop')")
    server.hold.set()
    page.wait_for_selector("#progress:has-text('Stopped after 1 of 3')")
    page.click("button:has-text('Go on')")
    page.wait_for_selector("#progress:has-text('Pictures: 3.')")


# ---- the camera, the telephone, the printer -----------------------------------------------------------------


def test_the_camera_takes_a_picture_where_the_browser_lends_it(visit: Visit) -> None:
    visit.context.grant_permissions(["camera"])
    visit.page.click("#camera")
    visit.page.wait_for_selector("#viewfinder[open]")
    assert visit.page.eval_on_selector("video", "e => e.videoWidth") > 0
    assert visit.violations() == []
    visit.page.click("text=Take the picture")
    answered(visit.page)
    assert visit.page.evaluate("document.querySelector('video').srcObject") is None, "its light goes out"


def test_a_refused_camera_is_said(visit: Visit) -> None:
    visit.page.click("#camera")
    visit.page.wait_for_selector("#result .problem")
    assert visit.page.inner_text("#result .problem p") == ENGLISH.script["camera_refused"]


def test_there_is_no_camera_button_where_the_browser_forbids_it(browser: Browser, server: Server) -> None:
    """Chromium calls a page on this machine safe, whatever its scheme, but no http page of another."""
    context = browser.new_context(**DESKTOP)
    context.add_init_script("Object.defineProperty(window, 'isSecureContext', { value: false })")
    page = context.new_page()
    page.goto(server.address)
    page.evaluate("navigator.mediaDevices?.enumerateDevices()")  # the page has asked before, and has its answer
    assert page.is_hidden("#camera")
    context.close()


def test_a_telephone_takes_or_chooses_a_photo_and_nothing_is_under_the_notice(
    phone: Visit, pictures: list[Path]
) -> None:
    page = phone.page
    assert page.inner_text("#drop strong:visible") == ENGLISH("choose_touch")
    assert page.is_hidden("#camera")
    assert page.get_attribute("#drop input", "accept") == "image/*"
    notice, title = page.locator("#notice").bounding_box(), page.locator("h1").bounding_box()
    assert notice is not None
    assert title is not None
    assert notice["y"] + notice["height"] <= title["y"]
    phone.upload(pictures[0])
    answered(page)
    picture, answer = page.locator("#drop").bounding_box(), page.locator("#answer").bounding_box()
    private = page.locator("#upload > .quiet").bounding_box()
    assert picture is not None
    assert answer is not None
    assert private is not None
    assert picture["y"] < answer["y"] < private["y"], "the answer is next to its picture"
    assert phone.violations() == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_on_a_narrow_telephone_the_marks_of_a_class_leave_its_name_the_line(
    phone: Visit, pictures: list[Path]
) -> None:
    phone.page.set_viewport_size({"width": 320, "height": 640})
    phone.upload(pictures[0])
    answered(phone.page)
    rows = phone.page.eval_on_selector_all(
        ".bars li", "them => them.map(e => ['.name', '.marks'].map(s => e.querySelector(s).getBoundingClientRect()))"
    )
    assert rows
    assert all(name["bottom"] <= marks["top"] for name, marks in rows)


def test_on_paper_there_are_bars_and_no_buttons(visit: Visit, pictures: list[Path]) -> None:
    page = visit.page
    visit.upload(pictures[0])
    answered(page)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.is_hidden("#drop")
    assert page.is_hidden("#result .tools")
    assert page.is_visible("#notice")
    assert page.is_visible("#preview img")
    bar = page.locator(".bars .share").first.bounding_box()
    assert bar is not None
    assert bar["width"] > 5
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(250, 249, 247)", "no dark paper"


# ---- what stands on it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_before_and_after_an_answer(
    scheme: str, browser: Browser, server: Server, pictures: list[Path]
) -> None:
    with visiting(browser, server.address, **DESKTOP, color_scheme=scheme) as visit:
        assert visit.violations() == []
        visit.upload(pictures[0])
        answered(visit.page)
        assert visit.violations() == []
        assert visit.complaints == []
        assert not [url for url in visit.requests if not url.startswith((server.address, "data:", "blob:"))]


@pytest.mark.parametrize("locale", ["de-AT", "es-MX", "fr-FR"])
def test_the_page_and_its_answers_are_in_the_browsers_language(
    locale: str, browser: Browser, server: Server, pictures: list[Path]
) -> None:
    words = languages().get(locale[:2], ENGLISH)
    with visiting(browser, server.address, **DESKTOP, locale=locale) as visit:
        assert visit.page.get_attribute("html", "lang") == words.language
        assert visit.page.title() == words("title")
        visit.upload(pictures[0])
        label = server.model.predict(pictures[0]).label
        assert words.names(tiny.CLASSES)[label] in answered(visit.page)


def test_the_strip_says_which_model_this_is_and_the_icon_is_its_own(visit: Visit) -> None:
    strip = visit.page.inner_text("#model")
    assert "HAM10000, 7 classes" in strip
    assert "calibrated on 100 pictures" in strip
    assert "EfficientNet-B0" in strip
    assert re.search(r"file of \d{4}-\d\d-\d\d", strip)
    icon = visit.page.eval_on_selector("link[rel=icon]", "e => e.href")
    assert visit.page.request.get(icon).headers["content-type"] == "image/svg+xml"
    assert visit.page.query_selector("#examples") is None, "drawn examples are for a demo model"


def test_the_readmes_call_over_http_answers(
    server: Server, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("img.png").write_bytes(pictures[1].read_bytes())
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    (example,) = re.findall(r"```python\n(import os\n.*?gradio_client.*?)```", (ROOT / "README.md").read_text(), re.S)
    exec(example.replace("http://127.0.0.1:7860", server.address), {})
    expected = server.model.predict(pictures[1])
    said = capsys.readouterr().out
    label, probability, *_ = said.split()
    assert (label, float(probability)) == (expected.label, pytest.approx(expected.probability, abs=1e-6))
    assert said.endswith(f"{list(expected.prediction_set)} False\n")


def test_an_upload_above_the_limit_is_refused(server: Server) -> None:
    with pytest.raises(OSError, match="413"):
        upload(server.address, "large.jpg", bytes(LIMIT + 100_000))
