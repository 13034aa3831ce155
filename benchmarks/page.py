"""Size of the page and time to make and draw it, for studies of growing size.

    PYTHONPATH=src:tests python benchmarks/page.py [RUNS ...]      writes benchmarks/results/page.json

Findings are simulated (5 seeds; tests/report/simulated.py): what is measured is the report alone. Each size runs in a
process of its own, so that its peak of memory is its own. Drawing is timed in headless Chromium.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

SIZES = (1_440, 100_000, 1_000_000)
OUT = Path(__file__).parent / "results" / "page.json"


def measure(runs: int, folder: Path) -> dict[str, object]:
    """Make one page and open it."""
    import numpy as np

    from peftport.report.digest import cells
    from peftport.report.html import render
    from report.browsing import ARGUMENTS, browser_path
    from report.simulated import simulated

    findings = simulated(runs=runs, rng=np.random.default_rng(0))
    begun, worked = time.perf_counter(), time.process_time()
    file = folder / f"page-{runs}.html"
    file.write_text(render(findings), encoding="utf-8")
    made, cpu = time.perf_counter() - begun, time.process_time() - worked
    return {
        "runs": findings.runs.height,
        "cells": cells(findings).height,
        "page_bytes": file.stat().st_size,
        "render_seconds": round(made, 1),
        "render_cpu_seconds": round(cpu, 1),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "load_average": round(os.getloadavg()[0], 1),  # of the machine: what seconds of a busy one are worth
        "draw_seconds": round(drawn(file, browser_path(), ARGUMENTS), 1),
    }


def drawn(file: Path, browser: str, arguments: list[str]) -> float:
    """Seconds from opening a page to its last chart."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=browser, args=arguments).new_page()
        begun = time.perf_counter()
        page.goto(file.as_uri())
        page.wait_for_selector('html[data-loading="all drawn"]', state="attached", timeout=300_000)
        return time.perf_counter() - begun


def main() -> None:
    """Measure every size asked for and write the results."""
    import tempfile

    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]), Path(sys.argv[3]))))
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for runs in [int(word) for word in sys.argv[1:]] or SIZES:
            command = [sys.executable, __file__, "--one", str(runs), folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout))
            print(found[-1], flush=True)
    OUT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
