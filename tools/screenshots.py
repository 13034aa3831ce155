"""Screenshots of report pages for the docs: what a reader sees first, on a desk, a tablet, a phone and on paper.

    PYTHONPATH=tests python tools/screenshots.py NAME=PAGE.html ...      writes docs/screenshots/NAME-LOOK.png

Needs playwright and a Chromium (tools/make_browser.sh).
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from report.browsing import ARGUMENTS, browser_path

OUT = Path(__file__).parents[1] / "docs" / "screenshots"
LOOKS = {  # width and height in CSS pixels, and how the page is looked at
    "1280": (1280, 2400, {}),
    "390": (390, 2400, {}),
    "768-dark": (768, 1600, {"color_scheme": "dark"}),
    "print": (794, 1123, {"media": "print"}),
}


def main() -> None:
    """Open every page at every width and keep what is drawn."""
    OUT.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=ARGUMENTS)
        for argument in sys.argv[1:]:
            name, _, file = argument.partition("=")
            for look, (width, height, media) in LOOKS.items():
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(Path(file).resolve().as_uri())
                page.wait_for_selector('html[data-loading="all drawn"]', state="attached")
                page.emulate_media(**media)
                page.screenshot(path=OUT / f"{name}-{look}.png")
                print(OUT / f"{name}-{look}.png")
        browser.close()


if __name__ == "__main__":
    main()
