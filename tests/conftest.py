"""One torch thread, since pico hosts are too small to share out, and the files that take longest first.

Two processes share the files (`make test`). pytest-xdist begins with the files of most tests; those of few tests that
start many processes would come last, where the other process has nothing left to do.
"""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
# A suite that nohup started ignores SIGHUP, one that a script put in the background SIGINT, and so would the processes
# that tests start to interrupt them.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
# Each takes a minute or more.
LONGEST = (
    "study/test_kill.py", "study/test_ray.py", "study/test_interrupted.py", "cli/test_docs.py", "cli/test_interrupt.py",
    "cli/test_notebook.py", "study/test_devices.py", "study/test_export.py", "project/test_benchmarks.py",
    "oracles/test_adapters_files.py", "modules/test_fuzz.py",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here, tests = Path(__file__).parent, Counter(item.path for item in items)
    rank = {here / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (rank.get(item.path, len(LONGEST)), -tests[item.path]))
