"""A browser for the tests of the page: how it is started, and a visit with all that it asks for and complains of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
# Without these, Chromium looks for its maker's servers at every start. The last one makes a camera of a test picture.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
]  # fmt: skip
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def violations(page: Page) -> list[str]:
    """Return what axe-core finds wrong for people who read with other means than their eyes and a mouse."""
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]


@dataclass
class Visit:
    """A page, and what it asked the network for and complained of."""

    page: Page
    context: BrowserContext
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def upload(self, *paths: Path) -> None:
        self.page.set_input_files("#upload input[type=file]", list(paths))

    def violations(self) -> list[str]:
        return violations(self.page)


@contextlib.contextmanager
def visiting(browser: Browser, address: str, **options: Any) -> Iterator[Visit]:
    context = browser.new_context(**options)
    context.set_default_timeout(90_000)  # milliseconds; a busy machine is slow to load a page
    visit = Visit(context.new_page(), context)
    visit.page.on("request", lambda sent: visit.requests.append(sent.url))
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    visit.page.on(
        "console", lambda said: visit.complaints.append(said.text) if said.type == "error" else None
    )
    visit.page.goto(address)
    yield visit
    context.close()
