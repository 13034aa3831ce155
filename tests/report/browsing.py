"""What a test knows of a page that it opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page


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
