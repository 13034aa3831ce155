"""The browser of the tests, and what a test knows of a page that it opened."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Locator, Page

ROOT = Path(__file__).parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def browser_path() -> str:
    """The browser that tools/make_browser.sh finds or makes."""
    named = [os.environ.get("PEFTPORT_BROWSER"), str(ROOT / ".browser" / "chromium"), *map(shutil.which, NAMES)]
    found = [path for path in named if path and Path(path).exists()]
    assert found, "no browser: run tools/make_browser.sh, or name a Chromium in PEFTPORT_BROWSER"
    return found[0]


@dataclass
class Opened:
    """A page in the browser, and everything it complained about or asked for."""

    page: Page
    file: Path
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def outward(self) -> list[str]:
        """Requests for anything but the file itself and what it made in memory."""
        return [url for url in self.requests if url != self.file.as_uri() and not url.startswith(("data:", "blob:"))]


Open = Callable[..., Opened]


def table(page: Page, name: str) -> Locator:
    return page.locator(f'[data-table="{name}"]')


def column(page: Page, name: str, index: int) -> list[str]:
    return table(page, name).locator(f"tbody tr td:nth-child({index})").all_inner_texts()


def heading(page: Page, name: str, title: str) -> Locator:
    return table(page, name).locator("thead button", has_text=title).first


def downloaded(page: Page, name: str) -> list[dict[str, str]]:
    with page.expect_download() as found:
        table(page, name).locator(".download").click()
    text = Path(found.value.path()).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))
