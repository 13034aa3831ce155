"""Aggregates against the `rliable` library, which runs in an environment of its own (tools/make_env.sh rliable)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peftport.analysis.stats.resampling import interquartile_mean, probability_of_improvement, stratified_bootstrap

ROOT = Path(__file__).parents[2]
ORACLE = Path(os.environ.get("PEFTPORT_RLIABLE_PYTHON", ROOT / ".rliable-venv" / "bin" / "python"))


def ask(x: Any, y: Any, resamples: int, fewer: int) -> dict[str, list[float]]:
    if not ORACLE.is_file():
        pytest.fail(
            f"{ORACLE}: expected the interpreter of the rliable library, found none; "
            "run tools/make_env.sh rliable, or name one in PEFTPORT_RLIABLE_PYTHON",
            pytrace=False,
        )
    request = json.dumps({"x": x.tolist(), "y": y.tolist(), "resamples": resamples, "fewer": fewer})
    command = [str(ORACLE), str(ROOT / "tools" / "oracle_rliable.py")]
    done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, list[float]] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(("seeds", "other_seeds", "cells"), [(5, 5, 8), (3, 4, 7), (10, 5, 3)])
def test_aggregates_are_rliable_s(seeds: int, other_seeds: int, cells: int) -> None:
    """Point estimates to twelve digits; ends of 95 % intervals to 7 % of their width (both random).

    With 4,000 resamples; 20 % with the 300 that the library's probability of improvement can do in seconds.
    """
    rng = np.random.default_rng(seeds)
    level = rng.normal(0.7, 0.05, cells)
    x = level + 0.02 + rng.normal(0, 0.03, (seeds, cells))
    y = level + rng.normal(0, 0.03, (other_seeds, cells))
    theirs = ask(x, y, 4000, 300)
    for name, statistic, samples, tolerance in (
        ("iqm", interquartile_mean, (x,), 0.07),
        ("improvement", probability_of_improvement, (x, y), 0.2),
    ):
        ours = stratified_bootstrap(statistic, samples, level=0.95, rng=rng, resamples=4000)
        estimate, low, high = theirs[name]
        assert ours.estimate == pytest.approx(estimate, abs=1e-12)
        assert (ours.low, ours.high) == pytest.approx((low, high), abs=tolerance * (high - low))
