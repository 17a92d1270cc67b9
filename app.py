"""A web page for a trained model: drop photographs, read what they may show and what to do next.

    python app.py                                    then open http://127.0.0.1:7860
    python app.py --checkpoint runs/NAME/best.pt --port 8000
    python app.py --host 0.0.0.0                     for telephones, too

It needs no network: fonts, scripts and examples come from this machine, and nothing is reported to anybody.
Only this user can read the folder of the uploads. Each is deleted after about a minute, and all are deleted
when the page ends. The page listens on this machine alone, unless --host says otherwise: then it prints
its address on the network, and a QR code of it.

This is research software, not a medical device.
"""

from __future__ import annotations

import csv
import errno
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from skin.serving.address import LOCAL, network_address, qr_code
from skin.serving.settings import AppSettings
from skin.utils import cli
from skin.utils.errors import UserError

if TYPE_CHECKING:
    from skin.model.classifier import SkinClassifier

QUEUE_LIMIT = 32  # pictures that wait, at most; whoever comes later is asked to try again
KEEP_SECONDS = 60  # an upload is deleted when it is older, so no more may wait than are answered in half this time
PORTS_TRIED = 100
EXAMPLE_CLASSES = ("nv", "mel", "bcc", "vasc")


def main() -> int:
    settings = cli.parse(AppSettings, __doc__)
    port = free_port(settings.host, settings.port)
    with tempfile.TemporaryDirectory(prefix="skin-app-", ignore_cleanup_errors=True) as folder:
        uploads = Path(folder) / "uploads"
        set_up_gradio(uploads)

        from skin.model.classifier import load_classifier
        from skin.utils.driver import unusable_gpus

        if warning := unusable_gpus():
            print(f"WARNING: {warning}", file=sys.stderr)
        model = load_classifier(settings.checkpoint, device="cpu" if warning else None)
        print(f"model {model.description}", file=sys.stderr, flush=True)

        from skin.serving.webpage import make_site, start  # takes seconds: a missing checkpoint is said first

        examples = draw_examples(Path(folder) / "examples") if model.facts.demo else []
        site = make_site(model, examples, uploads, KEEP_SECONDS)
        waiting = min(QUEUE_LIMIT, max(1, int(KEEP_SECONDS / 2 / seconds_an_answer(model))))
        address, port = serve(partial(start, site, queue_limit=waiting), settings.host, port)
        if port != settings.port:
            print(f"port {settings.port} is taken; using {port}")
        invite(settings.host, port)
        print(f"open {address} (Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        finally:
            site.close()
    return 0


def set_up_gradio(uploads: Path) -> None:
    """Set what gradio reads from the environment when it is imported: its folder, no reports, no proxy.

    Gradio asks its own server over HTTP if it is up. A proxy must not get that question.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    for name in ("NO_PROXY", "no_proxy"):
        others = os.environ.get(name, "")
        os.environ[name] = f"{others},127.0.0.1,localhost".lstrip(",")


def serve(start: Callable[[str, int], str], host: str, port: int) -> tuple[str, int]:
    """Return the address of a page, and the port that it is at; the next free one if `port` has been taken meanwhile.

    Args:
        start: serves the page at a host and a port, and returns its address.
    """
    while True:
        try:
            return start(host, port), port
        except OSError:
            taken, port = port, free_port(host, port)
            if port == taken:  # that was not the reason
                raise


def free_port(host: str, wanted: int) -> int:
    """Return `wanted`, or the next port after it that nobody listens on.

    Raises:
        UserError: the address is none of this machine, or all the ports tried are taken.
    """
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, wanted, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(f"--host {host}: {error.strerror or error}") from error
    last = min(wanted + PORTS_TRIED, 65535)
    for port in range(wanted, last + 1):
        with socket.socket(family, socket.SOCK_STREAM) as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind((address[0], port, *address[2:]))
            except OSError as error:
                if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise UserError(f"--host {host}: not an address of this machine") from error
                continue
            return port
    raise UserError(f"all ports from {wanted} to {last} are taken; choose another --port")


def invite(host: str, port: int) -> None:
    """Print how other machines reach the page, if they can."""
    if host in LOCAL:
        return
    print("whoever can reach this machine can use the page: it asks for no password")
    if address := network_address(host, port):
        print(f"on this network: {address}")
        if code := qr_code(address, sys.stdout):
            print(code)


def seconds_an_answer(model: SkinClassifier) -> float:
    """Return the seconds that this machine takes for a picture and its heat map, after one to warm up."""
    import numpy as np

    picture = np.random.Generator(np.random.Philox(0)).integers(0, 256, (450, 600, 3), np.uint8)
    model.explain(picture)
    start = time.perf_counter()
    model.explain(picture)
    return time.perf_counter() - start


def draw_examples(folder: Path) -> list[Path]:
    """Paint four lesions of different classes, as in the demo set, and return their paths. It takes a second."""
    from skin.data import demo

    demo.write(folder, images=demo.FEWEST_IMAGES, seed=1)
    with (folder / "HAM10000_metadata.csv").open(encoding="utf-8", newline="") as table:
        names = {row["dx"]: row["image_id"] for row in csv.DictReader(table)}
    wanted = [f"{names[dx]}.jpg" for dx in EXAMPLE_CLASSES]
    found = {path.name: path for path in folder.rglob("*.jpg")}
    return [found[name].rename(folder / name) for name in wanted]  # side by side, for one address


if __name__ == "__main__":
    cli.run(main)
