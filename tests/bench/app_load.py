"""Many people at once on the web page: is every answer right, each to its own image, and is memory flat?

    python tests/bench/app_load.py --checkpoint runs/latest/best.pt --folder DIR [--clients 10] [--seconds 60]

Starts app.py, uploads images from the folder as the page does, and compares each answer with what the
library says of that image. Speaks Gradio's HTTP interface with the standard library alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

_ARTICLE = re.compile(r'data-class="([^"]*)" data-probability="([^"]*)"')


@contextlib.contextmanager
def running_app(*words: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """app.py as a process: its address, and the process, which is ended on leaving."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"open (http://\S+?)/? \(", line):
                yield found.group(1), process
                return
        raise RuntimeError("app.py did not start:\n" + "".join(said))
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


def post(url: str, body: bytes, content_type: str) -> Any:
    request = urllib.request.Request(url, body, {"Content-Type": content_type})
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def upload(address: str, name: str, content: bytes) -> str:
    """Send a file as the page does; its path on the server."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return post(f"{address}/gradio_api/upload", body, f"multipart/form-data; boundary={boundary}")[0]


def ask(address: str, name: str, content: bytes) -> str:
    """Upload an image and wait for the answer: the HTML that the page would show."""
    file = {"path": upload(address, name, content), "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    text = call(address, "classify", [file, "en"])
    if "event: complete" not in text:
        raise RuntimeError(f"the page answered {text[:500]!r}")
    return json.loads(text.split("data: ")[-1])[0]


def call(address: str, function: str, values: list[Any]) -> str:
    """Call a function of the page's server, and wait for the events that it sends."""
    url = f"{address}/gradio_api/call/{function}"
    event = post(url, json.dumps({"data": values}).encode(), "application/json")["event_id"]
    with urllib.request.urlopen(f"{url}/{event}", timeout=120) as stream:
        return stream.read().decode()


def top_class(html: str) -> tuple[str, float]:
    """The most probable class that an answer shows, and its probability."""
    found = _ARTICLE.search(html)
    if not found:
        raise RuntimeError(f"no answer in {html[:300]!r}")
    return found.group(1), float(found.group(2))


def ask_for(
    address: str, expected: Sequence[tuple[Path, str, float]], clients: int, seconds: float, process_id: int
) -> tuple[list[float], list[str], list[float]]:
    """Let `clients` ask, each image after image, for `seconds`, at least one each.

    Args:
        expected: images with their right class and its probability.

    Returns:
        The seconds each answer took, what went wrong, and the server's memory in MiB over time.
    """
    times: list[float] = []
    wrong: list[str] = []
    memory: list[float] = []
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        for turn in range(number, 10**9, clients):
            path, label, probability = expected[turn % len(expected)]
            start = time.monotonic()
            try:
                found = top_class(ask(address, path.name, path.read_bytes()))
            except (OSError, RuntimeError) as error:
                wrong.append(f"{path.name}: {error}")
                return
            times.append(time.monotonic() - start)
            if found[0] != label or abs(found[1] - probability) > 0.02:
                wrong.append(f"{path.name}: {found}, not {(label, probability)}")
            if time.monotonic() > end:
                return

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(timeout=1)
            memory.append(rss_mib(process_id))
    return times, wrong, memory


def rss_mib(process_id: int) -> float:
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    from skin import load_classifier

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/latest/best.pt"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    model = load_classifier(options.checkpoint)
    paths = sorted(options.folder.rglob("*.jpg"))[:100]
    answers = zip(paths, model.predict(paths), strict=True)
    expected = [(path, answer.label, answer.probability) for path, answer in answers if not answer.unlike]
    with running_app("--checkpoint", options.checkpoint) as (address, process):
        times, wrong, memory = ask_for(address, expected, options.clients, options.seconds, process.pid)
    for line in wrong[:10]:
        print("wrong:", line)
    quarter = len(memory) // 4
    print(f"{options.clients} clients, {len(times)} answers, {len(wrong)} wrong or missing")
    print(f"an answer: median {statistics.median(times):.2f} s, longest {max(times):.2f} s")
    print(f"memory of the server: {memory[quarter]:.0f} MiB after a quarter, {memory[-1]:.0f} MiB at the end")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
