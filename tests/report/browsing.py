"""The browser of the tests, and what a test knows of a page that it opened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page

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
