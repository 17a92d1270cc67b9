"""The web page: its parts, its server, and the HTML of an answer.

Gradio brings the upload widget, the queue and the server. The answer is HTML of our own, with the pictures inside
it, so that no picture of an answer is ever written to disk.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from html import escape
from pathlib import Path
from typing import Any

from skin.data.class_names import readable_name
from skin.data.images import ImageError
from skin.model.classifier import Prediction, SkinClassifier
from skin.utils.errors import UserError

import gradio as gr
import numpy as np
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder
from PIL import Image

TITLE = "Skin image classifier"
NOTICE = (
    "<strong>Research software, not a medical device.</strong> "
    "It can be wrong, and it does not replace a doctor’s look at your skin."
)
LOCAL = ["127.0.0.1", "localhost", "[::1]", "::1"]
SHOWN = 7  # classes that get a bar; the rest are counted
CSS = Path(__file__).with_name("webpage.css")

# Only this server: no script, font, picture or request from anywhere else, even if a dependency tries.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)

Message = MutableMapping[str, Any]
_Move = Callable[[str | Path | None], Coroutine[Any, Any, str | None]]


class SecurityHeaders:
    """ASGI middleware that tells the browser to hold the page to `POLICY`."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def make_page(model: SkinClassifier, examples: list[Path], keep_seconds: int) -> gr.Blocks:
    """Build the page of `model`.

    Args:
        examples: pictures to try it with.
        keep_seconds: an uploaded file is deleted when it is this old.
    """

    def answer(path: str | None) -> str:
        return answer_html(model, path)

    keep = (max(1, keep_seconds // 6), keep_seconds)
    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=keep) as page:
        gr.HTML(f'<p role="note">{NOTICE}</p>', elem_id="notice")
        gr.HTML(_header(model), elem_id="header")
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=4, min_width=300):
                upload = gr.Image(
                    label="Picture",
                    type="filepath",
                    sources=["upload", "clipboard", "webcam"],
                    placeholder="Drop a picture of a skin lesion\nor click to choose one",
                    buttons=[],
                    height=320,
                    elem_id="upload",
                )
                # A subclass would be plainer, but Gradio writes a .pyi file beside the code for each one.
                upload.preprocess = _as_it_came  # type: ignore[method-assign]
                upload.async_move_resource_to_block_cache = _of_files(  # type: ignore[assignment, method-assign]
                    upload.async_move_resource_to_block_cache
                )
                gr.Examples(
                    [[str(path)] for path in examples],
                    inputs=upload,
                    label="Drawn examples, for trying it out",
                    examples_per_page=len(examples),
                    elem_id="examples",
                )
            with gr.Column(scale=6, min_width=300):
                result = gr.HTML(_waiting(), elem_id="result")
        upload.change(answer, upload, result, api_name="classify", show_progress="minimal")
        page.load(None, js="() => document.getElementById('result').setAttribute('aria-live', 'polite')")
    return page


def _as_it_came(payload: ImageData | None) -> str | None:
    """Return the path of the uploaded file. Gradio would open it; here, `skin.data.images` alone opens images.

    Gradio checks a path only if the request says that it is a file's. Here every path is checked.
    """
    if payload is None:
        return None
    path = Path(payload.path or "").resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()):
        raise gr.Error("This is no picture that was given to this page.")
    return str(path)


def _of_files(move: _Move) -> _Move:
    """Return Gradio's own `move` of an upload, for files only: it would fetch a URL given in place of a path."""

    async def move_file(path: str | Path | None) -> str | None:
        if str(path).lower().startswith(("http:", "https:")):
            raise gr.Error("This page fetches nothing from the network.")
        return await move(path)

    return move_file


def start(page: gr.Blocks, host: str, port: int, upload_limit: str, queue_limit: int) -> str:
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
    logging.getLogger("httpx").setLevel(logging.WARNING)
    page.queue(max_size=queue_limit, default_concurrency_limit=1)  # one forward pass takes all cores
    _, address, _ = page.launch(
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
        max_file_size=upload_limit,
        theme=_theme(),
        css_paths=[CSS],
        app_kwargs={"middleware": guards, "docs_url": None, "redoc_url": None},
    )
    return address


def _theme() -> gr.themes.Base:
    """Return Gradio's plain theme with the fonts of the reader's system."""
    return gr.themes.Base(
        primary_hue="teal",
        neutral_hue="stone",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
        radius_size=gr.themes.sizes.radius_sm,
    )


def answer_html(model: SkinClassifier, path: str | None) -> str:
    """Return the HTML for the picture at `path`, or a sentence if it cannot be read."""
    if path is None:
        return _waiting()
    try:
        with open(path, "rb") as file:  # not by its name, which may be that of an image in an archive
            pixels = model.pixels(file)
        prediction = model.predict_pixels(pixels[None])[0]
        explanation = model.explain_pixels(pixels[None], [prediction.label])[0]
    except ImageError as error:
        return _sentence(f"This file cannot be read as a picture: {error.reason}.")
    except UserError as error:
        return _sentence(f"{error}.")
    except OSError:
        return _sentence("This picture is no longer here.")
    return (
        f'<article data-class="{escape(prediction.label)}" data-probability="{prediction.probability:.6f}">'
        + _headline(prediction)
        + (_caution() if prediction.unlike else "")
        + _bars(prediction)
        + f"<p>{_set_in_words(prediction)}</p>"
        + _pictures(explanation.image, explanation.overlay, prediction.label, bool(explanation.heat.max() > 0))
        + "</article>"
    )


def _header(model: SkinClassifier) -> str:
    name = model.model_name.replace("efficientnet_b", "EfficientNet-B")
    return (
        f"<h1>{TITLE}</h1><p>{escape(name)}, trained to tell {len(model.classes)} classes apart. "
        "Pictures stay on the computer that runs this page and are deleted after about a minute.</p>"
    )


def _waiting() -> str:
    return (
        '<p class="quiet">The answer will stand here: the classes with their probabilities, and the parts of '
        "the picture that spoke for the first of them.</p>"
    )


def _sentence(text: str) -> str:
    return f'<p class="problem" role="alert">{escape(text)} Try a JPEG or PNG photograph.</p>'


def _caution() -> str:
    return (
        '<p class="caution" role="alert"><strong>Unlike the training images.</strong> The model has not seen '
        "pictures like this one. Do not rely on what it says here.</p>"
    )


def _headline(prediction: Prediction) -> str:
    return (
        f'<h2><span class="kicker">Most probable</span>{escape(readable_name(prediction.label))} '
        f"<b>{_percent(prediction.probability)}</b></h2>"
    )


def _bars(prediction: Prediction) -> str:
    rows = []
    for name, probability in prediction.top(SHOWN):
        inside = ' class="inside"' if name in prediction.prediction_set else ""
        rows.append(
            f"<li{inside}><span>{escape(readable_name(name))}</span><span>{_percent(probability)}</span>"
            f'<i style="--share:{probability:.4f}"></i></li>'
        )
    more = len(prediction.classes) - len(rows)
    rest = f'<p class="quiet">and {more} less probable</p>' if more > 0 else ""
    return f'<ol class="bars">{"".join(rows)}</ol>{rest}'


def _set_in_words(prediction: Prediction) -> str:
    """Return the 90 % prediction set as a sentence."""
    names = [f"<strong>{escape(readable_name(name))}</strong>" for name in prediction.prediction_set]
    if len(names) == len(prediction.classes):
        return "The model cannot rule out any of its classes for this picture."
    listed = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]
    only = "only " if len(names) == 1 else ""
    return (
        f"Possible by the model’s own measure: {only}{listed}. Of ten pictures like those it was trained on, "
        "nine have their true class among the ones it calls possible."
    )


def _pictures(image: np.ndarray, overlay: np.ndarray, label: str, evidence: bool) -> str:
    name = escape(readable_name(label))
    found = f"What spoke for {name}: the brighter, the more" if evidence else f"Nothing speaks for {name}"
    return (
        '<div class="pictures">'
        f'<figure><img src="{_data_url(image)}" alt="The middle of the picture"><figcaption>What the model '
        "looked at</figcaption></figure>"
        f'<figure><img id="overlay" src="{_data_url(overlay)}" alt="Heat map: {found}"><figcaption>{found}'
        "</figcaption></figure></div>"
    )


def _percent(probability: float) -> str:
    """Return a share as `92.1 %`; only an exact 0 or 1 becomes `0.0 %` or `100.0 %`."""
    if 0 < probability < 0.001:
        return "&lt; 0.1 %"
    return "&gt; 99.9 %" if 0.999 < probability < 1 else f"{100 * probability:.1f} %"


def _data_url(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
