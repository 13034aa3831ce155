"""Does a spoiled module folder ever do anything but be refused, or read right? Prints counts; fails at the first.

python benchmarks/fuzz.py [--inputs 10000] [--seed 0]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from modules.fuzzing import Files, check, spoiled  # noqa: E402


def main() -> None:
    """Spoil folders, check each, count."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--inputs", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    outcomes: Counter[str] = Counter()
    slowest = 0.0

    @seed(asked.seed)
    @settings(
        max_examples=asked.inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    @given(files=spoiled())
    def fuzz(files: Files) -> None:
        nonlocal slowest
        with tempfile.TemporaryDirectory() as home:
            began = time.perf_counter()
            outcomes[check(files, Path(home))] += 1
            slowest = max(slowest, time.perf_counter() - began)

    began = time.perf_counter()
    fuzz()
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(
        f"{outcomes.total()} inputs: {counts}; slowest {slowest:.2f} s, altogether {time.perf_counter() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
