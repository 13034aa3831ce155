"""2,000 spoiled folders a run; `python benchmarks/fuzz.py --inputs 10000` does more, with a count of what came out."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from modules.fuzzing import SEEDS, Files, check, spoiled, whole

MANY = settings(max_examples=2_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def test_a_spoiled_folder_is_refused_or_a_right_module() -> None:
    outcomes: Counter[str] = Counter()

    @MANY
    @given(files=spoiled())
    def fuzz(files: Files) -> None:
        with tempfile.TemporaryDirectory() as home:
            outcomes[check(files, Path(home))] += 1

    fuzz()
    assert outcomes.keys() == {"refused", "read"}  # both happen, or the fuzzing would show nothing


@pytest.mark.parametrize(("file_format", "technique"), sorted(set(SEEDS)))
def test_the_folders_it_starts_from_are_right(file_format: str, technique: str, tmp_path: Path) -> None:
    assert check(whole(file_format, technique), tmp_path) == "read"
