"""The table in docs/families.md: it shows what was measured, and what a drawn row says is so here too."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pico import CONFIGS

pytestmark = pytest.mark.filterwarnings("ignore")  # of peft and transformers, about tiny models
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FEWEST = 44  # types that are shown and copied, on queries and values and on all maps


@pytest.fixture(scope="module")
def measuring() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import families
    finally:
        sys.path.remove(str(BENCHMARKS))
    return families


@pytest.fixture(scope="module")
def recorded(measuring: Any) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(measuring.OUT.read_text(encoding="utf-8"))["types"]
    return found


def test_the_page_shows_what_was_measured(measuring: Any, recorded: Any) -> None:
    page = measuring.PAGE.read_text(encoding="utf-8")
    assert page.partition(f"{measuring.BEGIN}\n")[2].partition(measuring.END)[0] == measuring.table(recorded)


def test_nearly_all_types_are_shown_and_copied(measuring: Any, recorded: Any) -> None:
    assert recorded.keys() <= set(measuring.TYPES) and CONFIGS.keys() < set(measuring.TYPES)
    columns = measuring.COLUMNS[:3]
    unable = [name for name, row in recorded.items() if any(measuring.failed(row[column]) for column in columns)]
    assert len(measuring.TYPES) - len(unable) >= FEWEST
    assert not [text for row in recorded.values() for text in row.values() if text.startswith("fault:")]


@settings(max_examples=1, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_drawn_row_is_so(data: st.DataObject, measuring: Any, recorded: Any, tmp_path_factory: Any) -> None:
    name, scratch = data.draw(st.sampled_from(sorted(recorded))), tmp_path_factory.mktemp("drawn")
    folder = measuring.made_host(name, scratch / "host", False)
    for column, targets in (("q, v", measuring.names_of_qv(folder)), ("all-linear", "all-linear")):
        measure = partial(measuring.copied, folder, scratch / column[0], targets)
        assert measuring.or_refusal(measure) == recorded[name][column], name
