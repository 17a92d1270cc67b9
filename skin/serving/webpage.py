"""The web page's server: the page in the reader's language, and the functions that it and other programs call.

Gradio brings the uploads, the queue and the HTTP interface; the page itself is `web/`, and its script asks as any
client does. The pictures of an answer are inside its HTML, so that none of them is ever written to disk.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skin.data.image_files import IMAGE_SUFFIXES
from skin.model.classifier import Known, SkinClassifier
from skin.model.facts import Facts
from skin.serving.address import LOCAL
from skin.serving.answer import WEB, answer_html, answer_of, answer_row, render
from skin.serving.outputs import csv_header, json_row
from skin.serving.words import Words, words_for
from skin.utils.errors import UserError, printable

import gradio as gr
from gradio.blocks import BlockFunction
from gradio.data_classes import FileData
from gradio.route_utils import FnIndexInferError
from gradio.utils import get_upload_folder
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

UPLOAD_LIMIT = 64_000_000  # bytes: a telephone's picture of 108 million pixels has half of it
MOST_PICTURES = 1000  # of a table

# Only this server: no script, font, picture or request from anywhere else, even if a dependency tries.
POLICY = (
    "default-src 'self'; style-src 'self'; script-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY, "referrer-policy": "no-referrer", "x-content-type-options": "nosniff",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}  # fmt: skip

Message = MutableMapping[str, Any]


class SecurityHeaders:
    """ASGI middleware that tells the browser to hold the page to `HEADERS`."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        await self.app(scope, receive, send_with_headers)


class Functions(gr.Blocks):
    """The functions. What does not fit one of them is refused as a picture is: told, and without a traceback here."""

    async def preprocess_data(self, block_fn: BlockFunction, *rest: Any, **options: Any) -> list[Any]:
        """Return the values that a function takes; raise `gr.Error` if a request has too few or others."""
        try:
            values: list[Any] = await super().preprocess_data(block_fn, *rest, **options)
            return values
        except Exception as error:  # Gradio and what it calls raise many kinds
            raise _refusal(f"{block_fn.api_name}: {printable(str(error).partition(chr(10))[0])}") from error


class OneLine(logging.Filter):
    """Makes one line of an error in answering a request, such as one that no page sends: anybody can cause many."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the traceback from a record."""
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1].__cause__ or record.exc_info[1]
            record.msg, record.args = "a request failed: %s", (printable(f"{type(error).__name__}: {error}"),)
            record.exc_info = record.exc_text = None
        return True


async def _no_such_function(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=404)


@dataclass(frozen=True)
class Site:
    """The parts of the site: Gradio's functions, the pages and files beside them, and the folder of the uploads."""

    functions: Functions
    routes: list[BaseRoute]
    uploads: Path
    keep_seconds: int
    ended: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """End the server, and delete the uploads."""
        self.functions.close(verbose=False)
        self.ended.set()
        shutil.rmtree(self.uploads, ignore_errors=True)


def make_site(model: SkinClassifier, examples: list[Path], uploads: Path, keep_seconds: int) -> Site:
    """Build the page of `model`, and the functions that answer for it.

    Args:
        examples: pictures to try it with, in one folder.
        uploads: the folder that GRADIO_TEMP_DIR names. It must be this site's alone: all in it is deleted.
        keep_seconds: an uploaded file is deleted when it is this old.
    """

    def classify(picture: FileData, language: str = "en") -> str:
        """Return the answer about a picture as the page shows it, HTML."""
        return answer_html(model, _uploaded(picture), words_for(str(language)))

    def row(picture: FileData, language: str = "en") -> dict[str, Any]:
        """Return a picture's row in the page's table and in its CSV file."""
        with _told():
            return answer_row(model, _uploaded(picture), _name(picture), words_for(str(language)))

    def predict(picture: FileData) -> dict[str, Any]:
        """Return the answer about a picture as `predict.py --json` does, with the probabilities of all classes."""
        return answered(picture, {})

    def classify_with_metadata(picture: FileData, language: str, metadata: dict[str, Any]) -> str:
        """Return what `classify` does, with what is known beside the pixels, such as `{"age": 55}`."""
        return answer_html(model, _uploaded(picture), words_for(str(language)), _known(metadata))

    def predict_with_metadata(picture: FileData, metadata: dict[str, Any]) -> dict[str, Any]:
        """Return what `predict` does, with what is known beside the pixels, and `warnings`.

        They are lines on what was not used as it is, or not at all.
        """
        known = _known(metadata)
        return answered(picture, known) | {"warnings": model.problems(known)}

    def answered(picture: FileData, known: Known) -> dict[str, Any]:
        with _told():
            answer, _ = answer_of(model, _uploaded(picture), _name(picture), known)
            return json_row(answer, len(model.classes))

    asked: list[Callable[..., Any]] = [classify, row, predict]
    if model.encoder is not None:
        asked += [classify_with_metadata, predict_with_metadata]
    with Functions(analytics_enabled=False) as functions:
        for function in asked:  # one forward pass takes all cores, so one at a time
            gr.api(function, api_name=function.__name__, concurrency_id="model", concurrency_limit=1)

    async def home(request: Request) -> HTMLResponse:
        words = words_for(request.headers.get("accept-language", ""))
        headers = {"cache-control": "no-store", "vary": "accept-language", "content-language": words.language}
        return HTMLResponse(_page(model, words, [path.name for path in examples]), headers=headers)

    routes: list[BaseRoute] = [Route("/", home), Mount("/page", StaticFiles(directory=WEB))]
    if examples:
        routes.append(Mount("/examples", StaticFiles(directory=examples[0].parent)))
    return Site(functions, routes, uploads, keep_seconds)


def start(site: Site, host: str, port: int, queue_limit: int) -> str:
    """Serve the page in a thread of its own, and return its address.

    If it listens on this machine alone, it answers only to this machine's names. Otherwise a page of another site,
    whose name is made to lead here, could ask through the reader's browser.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    names = LOCAL if host in LOCAL else ["*"]
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False), Middleware(SecurityHeaders),
    ]  # fmt: skip
    app = {
        "routes": site.routes, "middleware": guards, "docs_url": None, "redoc_url": None,
        "exception_handlers": {FnIndexInferError: _no_such_function},
    }  # fmt: skip
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(OneLine())
    site.functions.queue(max_size=queue_limit, default_concurrency_limit=1)
    _, address, _ = site.functions.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        max_file_size=UPLOAD_LIMIT,
        app_kwargs=app,
    )
    threading.Thread(target=_delete_old_uploads, args=(site,), name="uploads", daemon=True).start()
    return address


# ---- the uploads ----------------------------------------------------------------------------------------


def _delete_old_uploads(site: Site) -> None:
    """Delete what is older than `site.keep_seconds` in the folder of the uploads, until the site ends.

    Gradio's own deletion (`delete_cache`) would end at the first path that it cannot delete, and it takes paths
    from requests.
    """
    while not site.ended.wait(max(1, site.keep_seconds // 6)):
        long_ago = time.time() - site.keep_seconds
        for parent, folders, files in os.walk(site.uploads, topdown=False):
            for path in [Path(parent, name) for name in files + folders]:
                with suppress(OSError):  # a folder that is not empty, or a file that is just being moved
                    if path.lstat().st_ctime < long_ago:
                        path.rmdir() if path.is_dir() else path.unlink()


# ---- what a request holds -------------------------------------------------------------------------------


def _uploaded(picture: Any) -> str:
    """Return the path of an uploaded file. Any other path that a request names is refused, and so is an address."""
    path = picture.get("path") if isinstance(picture, dict) else None
    if not isinstance(path, str) or "\0" in path:
        raise _refusal("This is no picture that was given to this page.")
    found = Path(path).resolve()
    if not found.is_relative_to(Path(get_upload_folder()).resolve()):
        raise _refusal("This is no picture that was given to this page.")
    return str(found)


def _name(picture: Any) -> str:
    """Return the name that the sender gave a picture; otherwise that of its file."""
    return printable(picture.get("orig_name") or Path(picture["path"]).name, limit=500)


def _known(metadata: Any) -> Known:
    """Return metadata by their column; what the model does not know counts as missing."""
    if not isinstance(metadata, dict):
        raise _refusal('Metadata are an object such as {"age": 55, "sex": "female"}.')
    return metadata


def _refusal(reason: str) -> gr.Error:
    return gr.Error(reason, print_exception=False)


@contextmanager
def _told() -> Iterator[None]:
    """Turn a `UserError` into an error that a client is told; Gradio keeps all others to itself."""
    try:
        yield
    except UserError as error:
        raise _refusal(str(error)) from error


# ---- the page -------------------------------------------------------------------------------------------


def _page(model: SkinClassifier, words: Words, examples: list[str]) -> str:
    settings = {
        "words": words.script, "limit": UPLOAD_LIMIT, "most": MOST_PICTURES, "suffixes": IMAGE_SUFFIXES,
        "csvHeader": csv_header(model.classes),
    }  # fmt: skip
    network = model.model_name.replace("efficientnet_b", "EfficientNet-B")
    facts = _facts(model.facts, network, len(model.classes), words)
    fields = [] if model.encoder is None else [
        (name, words.known_as(name), [(value, words.known_as(value)) for value in values])
        for name, values in model.encoder.fields.items()
    ]  # fmt: skip
    return render("page.html", words=words, settings=settings, facts=facts, examples=examples, fields=fields)


def _facts(facts: Facts, network: str, classes: int, words: Words) -> list[tuple[str, str, str]]:
    """Return what is said of the model: terms, values, and what is said more quietly of them."""
    data = printable(facts.data) if facts.data else words("model_unnamed")
    trained = words("model_data_value", data=data, classes=classes)
    certainty = words("model_uncalibrated")
    if facts.calibration_images:
        certainty = words("model_calibrated", images=facts.calibration_images)
    saved = words("model_saved", date=facts.saved.isoformat())
    return [
        (words("model_data"), words("model_demo") if facts.demo else trained, ""),
        (words("model_found"), *_found(facts, words)),
        (words("model_probabilities"), certainty, ""),
        (words("model_network"), network, saved),
    ]


def _found(facts: Facts, words: Words) -> tuple[str, str]:
    found = facts.found
    if not facts.malignant:
        return words("model_found_none"), ""
    if found is None:
        return words("model_found_unknown"), ""
    if found.share is None:
        return words("model_found_few", images=found.images), ""
    kind = "model_found_melanoma" if found.melanoma else "model_found_malignant"
    if facts.demo:
        kind = "model_found_drawn"
    on = "model_found_on_folds" if found.over_folds else "model_found_on"
    return words(kind, share=round(100 * found.share)), words(on, images=found.images)
