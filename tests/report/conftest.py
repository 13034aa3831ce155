"""A real headless Chromium (tools/make_browser.sh), and pages of simulated findings opened in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright

from peftport.report.findings import Findings
from peftport.report.html import render
from report.browsing import ARGUMENTS, Open, Opened, browser_path
from report.simulated import simulated


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=browser_path(), args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def findings() -> Findings:
    """1,440 runs with hostile names, failed runs and cells that are not eligible."""
    return simulated(runs=1440, rng=np.random.default_rng(7))


@pytest.fixture(scope="session")
def report(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render(findings), encoding="utf-8")
    return file


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Open a file and wait until everything is drawn; after the test nothing may have gone wrong or out."""
    seen: list[Opened] = []

    def opened(file: Path, *, width: int = 1280, scheme: str = "light") -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        found = Opened(context.new_page(), file)
        found.page.set_default_timeout(300_000)  # a machine may be busy
        seen.append(found)
        found.page.on("console", lambda message: found.complaints.append(f"{message.type}: {message.text}"))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("dialog", lambda dialog: (found.complaints.append(dialog.message), dialog.dismiss()))
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.goto(file.as_uri())
        found.page.wait_for_selector('html[data-loading="all drawn"]', state="attached")
        return found

    yield opened
    for one in seen:
        one.page.context.close()
        assert one.complaints == []
        assert one.outward == []
