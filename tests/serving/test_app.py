import io
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from app import free_port, serve
from skin import load_classifier
from skin.model.classifier import SkinClassifier
from skin.serving.settings import AppSettings
from skin.serving.words import languages
from skin.utils.errors import UserError
from tests import tiny
from tests.bench.app_load import ROOT, ask, ask_for, call, post, running_app, top_class, upload
from tests.browsing import DESKTOP, PHONE, Visit, visiting

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def best_pt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    calibration = tiny.calibration(temperature=1.0, threshold=0.2, unlike_threshold=1e9)
    path = tmp_path_factory.mktemp("run") / "best.pt"
    return tiny.write_checkpoint(path, calibration=calibration, config={"demo": True})


@pytest.fixture(scope="module")
def model(best_pt: Path) -> SkinClassifier:
    return load_classifier(best_pt, device="cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(10):
        Image.fromarray(tiny.picture(seed, 300, 240)).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


@dataclass
class App:
    address: str
    process: subprocess.Popen[str]
    taken_port: int


@pytest.fixture(scope="module")
def app(best_pt: Path) -> Iterator[App]:
    """app.py as a user starts it, on a port that turns out to be taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with running_app("--checkpoint", best_pt, "--port", port) as (address, process):
            yield App(address, process, port)


@pytest.fixture(params=[DESKTOP, pytest.param(PHONE, marks=pytest.mark.slow)], ids=["desktop", "phone"])
def visit(request: pytest.FixtureRequest, browser: Browser, app: App) -> Iterator[Visit]:
    with visiting(browser, app.address, **request.param) as visit:
        yield visit


@pytest.mark.browser
def test_a_picture_gets_its_answer_and_nothing_leaves_the_machine(
    visit: Visit, app: App, model: SkinClassifier, images: list[Path], tmp_path: Path
) -> None:
    expected = model.predict(images[3])
    page = visit.page
    visit.upload(images[3])
    article = page.wait_for_selector("#result article")
    assert article is not None
    assert article.get_attribute("data-class") == expected.label
    headline = page.inner_text("#result .headline")
    assert page.inner_text("#said[role=status]") == headline, "who cannot see the answer hears it"
    names = languages()["en"].names(tiny.CLASSES)
    assert all(names[name] in headline for name in expected.prediction_set)
    assert len(page.query_selector_all("#result .bars li")) == len(tiny.CLASSES)
    assert page.eval_on_selector("#overlay", "e => e.complete && e.naturalWidth") == 64

    renamed = tmp_path / "notes.jpg"
    renamed.write_text("a letter, no picture")
    visit.upload(renamed)
    page.wait_for_selector("#result .problem")
    assert "no picture that can be read here" in page.inner_text("#result")
    assert page.query_selector("#result article") is None

    assert not [url for url in visit.requests if not url.startswith((app.address, "data:", "blob:"))]
    assert visit.complaints == []


@pytest.mark.browser
def test_the_notice_stays_in_view_and_nothing_sticks_out(visit: Visit, images: list[Path]) -> None:
    page = visit.page
    visit.upload(images[0])
    page.wait_for_selector("#result article")
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    notice = page.locator("#notice").bounding_box()
    assert notice is not None
    assert 0 <= notice["y"] < 5
    assert "not a medical device" in page.inner_text("#notice")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.browser
def test_the_keyboard_alone_is_enough(visit: Visit) -> None:
    page = visit.page
    page.wait_for_selector("#examples button")
    for _ in range(20):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement !== document.body"), "nothing on the way is skipped"
        if page.evaluate("document.activeElement.closest('#examples') !== null"):
            break
    page.keyboard.press("Enter")
    article = page.wait_for_selector("#result article")
    assert article is not None
    assert article.get_attribute("data-class") in tiny.CLASSES


def test_many_at_once_each_get_the_answer_to_their_own_image(
    app: App, model: SkinClassifier, images: list[Path]
) -> None:
    predictions = model.predict(images)
    expected = [(path, p.label, p.probability) for path, p in zip(images, predictions, strict=True)]
    assert len({round(probability, 1) for _, _, probability in expected}) > 2, "the test needs different answers"
    times, wrong, _ = ask_for(app.address, expected, clients=10, seconds=0, process_id=app.process.pid)
    assert wrong == []
    assert len(times) == 10


def test_a_taken_port_gives_the_next_free_one(app: App) -> None:
    port = int(app.address.rpartition(":")[2])
    assert app.taken_port < port <= app.taken_port + 100


def test_the_page_forbids_itself_to_ask_other_hosts(app: App) -> None:
    with urllib.request.urlopen(app.address) as response:
        policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


def test_too_many_pixels_are_refused_with_a_sentence(app: App) -> None:
    buffer = io.BytesIO()
    Image.new("1", (12_000, 11_000)).save(buffer, "PNG")
    answer = ask(app.address, "wall.png", buffer.getvalue())
    assert "too many pixels" in answer
    assert "12000x11000 pixels" in answer


def test_no_file_of_the_server_can_be_asked_for(app: App) -> None:
    meta = {"_type": "gradio.FileData"}
    picture = str(ROOT / "docs/page.png")
    asked = [
        {"path": "/etc/hostname", "meta": meta},
        {"path": picture, "meta": meta},
        {"path": picture},  # Gradio looks at none that doesn't call itself a file
        {"path": f"{picture}::a/0"},
        {"path": None},
        {"path": app.address + "/favicon.ico", "meta": meta},  # an address, to be fetched
    ]
    for file in asked:
        for function, more in (("classify", ["en"]), ("row", ["en"]), ("predict", [])):
            said = call(app.address, function, [file, *more])
            assert "event: error" in said, (function, file)
            assert "complete" not in said
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{app.address}/gradio_api/file=/etc/hostname")
    assert refused.value.code == 403
    refused.value.close()


@pytest.mark.parametrize("path", ["call/nothing", "run/nothing"])
def test_a_function_that_is_not_there_is_not_found(path: str, app: App) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(f"{app.address}/gradio_api/{path}", b'{"data": [1]}', "application/json")
    assert refused.value.code == 404
    assert "nothing" in json.loads(refused.value.read())["detail"]


def test_a_request_of_too_few_values_is_told_so(app: App) -> None:
    assert "didn't receive enough input values (needed: 1, got: 0)" in call(app.address, "predict", [])


def test_a_page_of_another_name_cannot_ask_through_the_browser(app: App) -> None:
    """A name that its owner has made to lead to this machine (DNS rebinding)."""
    request = urllib.request.Request(app.address, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 400
    refused.value.close()


def test_an_archive_that_calls_itself_a_picture_is_not_opened(app: App) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.zeros((1, 64, 64, 3), np.uint8))
    path = upload(app.address, "x.npz", buffer.getvalue())
    for name in (path, f"{path}::a/0"):
        assert "<article" not in call(app.address, "classify", [{"path": name}, "en"])


@dataclass
class Forgetful:
    """A page in this process that keeps uploads for two seconds."""

    address: str
    uploads: Path
    close: Callable[[], None]

    def left(self) -> list[Path]:
        return list(self.uploads.rglob("*"))

    def forgets(self) -> bool:
        """Wait until nothing is left, for half a minute at most."""
        end = time.monotonic() + 30
        while self.left() and time.monotonic() < end:
            time.sleep(0.05)
        return not self.left()


@pytest.fixture
def forgetful(model: SkinClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forgetful]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    from skin.serving.webpage import make_site, start

    site = make_site(model, [], tmp_path / "uploads", keep_seconds=2)
    address = start(site, "127.0.0.1", free_port("127.0.0.1", 7950), 4).rstrip("/")
    yield Forgetful(address, tmp_path / "uploads", site.close)
    site.close()


def test_an_upload_is_deleted_when_it_is_old(forgetful: Forgetful, images: list[Path]) -> None:
    content, sent = images[5].read_bytes(), time.time()
    stored = Path(upload(forgetful.address, "private.png", content))
    assert stored.is_relative_to(forgetful.uploads)
    while stored.exists():
        assert time.time() - sent < 30
        time.sleep(0.05)
    assert time.time() - sent > 1.9, "it is kept for two seconds"
    assert forgetful.forgets(), "nor does its folder stay"
    ask(forgetful.address, "private.png", content)
    forgetful.close()
    assert forgetful.left() == [], "however young it is"


def test_no_request_ends_the_deletion_of_uploads(
    forgetful: Forgetful, images: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    stored = upload(forgetful.address, "private.png", images[5].read_bytes())
    for path in (str(Path(stored).parent), str(forgetful.uploads), f"{stored}/below"):
        call(forgetful.address, "predict", [{"path": path, "meta": {"_type": "gradio.FileData"}}])
    assert forgetful.forgets()
    upload(forgetful.address, "later.png", images[6].read_bytes())
    assert forgetful.forgets()
    forgetful.close()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [("127.0.0.1", 0, "--port 0"), ("127.0.0.1", 70000, "--port 70000"), ("192.0.2.7", 7860, "--host 192.0.2.7")],
)
def test_an_address_that_cannot_be_listened_on_is_said(host: str, port: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        free_port(host, AppSettings(host=host, port=port).port)


def test_a_port_that_is_taken_meanwhile_is_passed_over() -> None:
    asked: list[int] = []

    def start(host: str, port: int) -> str:
        asked.append(port)
        if len(asked) == 1:
            other.bind((host, port))
            raise OSError("Cannot find empty port in range")
        return f"http://{host}:{port}"

    first = free_port("127.0.0.1", 7900)
    with socket.socket() as other:
        address, port = serve(start, "127.0.0.1", first)
        assert asked == [first, port]
        assert (address, port > first) == (f"http://127.0.0.1:{port}", True)

    def broken(host: str, port: int) -> str:
        raise OSError("no such interface")

    with pytest.raises(OSError, match="no such interface"):
        serve(broken, "127.0.0.1", port)


def test_a_run_of_taken_ports_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(self: socket.socket, address: object) -> None:
        raise OSError(98, os.strerror(98))

    monkeypatch.setattr(socket.socket, "bind", taken)
    with pytest.raises(UserError, match="all ports from 8000 to 8100 are taken"):
        free_port("127.0.0.1", 8000)


def test_nothing_is_left_when_it_ends(app: App, images: list[Path]) -> None:
    """The last test of this file: it ends the page that the others share, which takes seconds to start."""
    stored = Path(upload(app.address, "private.png", images[0].read_bytes()))
    top_class(ask(app.address, "private.png", images[0].read_bytes()))
    folder = next(parent for parent in stored.parents if parent.name.startswith("skin-app-"))
    assert folder.parent == Path(tempfile.gettempdir())
    assert folder.stat().st_mode & 0o077 == 0, "nobody else can look"
    body = b'{"data": [], "fn_index": 99, "session_hash": "a"}'
    with pytest.raises(urllib.error.HTTPError, match="500"):
        post(f"{app.address}/gradio_api/queue/join", body, "application/json")
    app.process.send_signal(signal.SIGTERM)
    assert app.process.wait(timeout=30) == 143
    assert app.process.stdout is not None
    said = app.process.stdout.read()
    assert "a request failed: KeyError: 99" in said
    assert "Traceback" not in said
    assert not folder.exists()
    assert list((ROOT / "skin").glob("*.pyi")) == [], "Gradio writes one for each subclass of its components"
