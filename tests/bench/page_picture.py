"""A picture of the web page with an answer on it, for the README.

    python tests/bench/page_picture.py --checkpoint runs/latest/best.pt --out page.png [--image img.png]

With no --image the first of the page's own drawn examples is asked about.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.app_load import running_app  # noqa: E402

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/latest/best.pt"))
    parser.add_argument("--image", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=1180, help="of the window, in pixels; 390 is a phone")
    options = parser.parse_args()
    with running_app("--checkpoint", options.checkpoint) as (address, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": options.width, "height": 800})
        page.goto(address)
        page.wait_for_selector("#examples button img")
        if options.image:
            page.set_input_files("#upload input[type=file]", options.image)
        else:
            page.click("#examples button")
        page.wait_for_selector("#result article")
        page.eval_on_selector_all("img", "images => Promise.all(images.map(i => i.decode().catch(() => {})))")
        page.screenshot(path=options.out, full_page=True, animations="disabled")
        browser.close()


if __name__ == "__main__":
    main()
