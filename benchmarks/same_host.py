"""What ports of drawn modules between one and the same host change: the largest error, by method and technique.

python benchmarks/same_host.py [--triples 10000]

Each triple is a shape that a family allows, a technique with drawn slots and size, and a method; the error is of the
receiver's change in its logits, over the module's whole effect. Chunk after chunk is drawn by hypothesis, each by its
own seed, and added to benchmarks/results/same_host.json: the same call goes on where one was stopped. Hypothesis draws
simple triples often; each is counted once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from machine import machine_facts

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from porting.same_host import Case, draw_case, draw_shape, port  # noqa: E402

OUT = Path(__file__).parent / "results" / "same_host.json"
PER_SHAPE, PER_CHUNK = 10, 200
BOUND = 1e-4


def main() -> None:
    """Chunk after chunk, those not yet on file."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--triples", type=int, default=10_000)
    asked = options.parse_args()
    found = json.loads(OUT.read_text()) if OUT.is_file() else {"chunks": 0, "seconds": 0.0, "triples": 0, "cells": {}}
    seen = {case for number in range(found["chunks"]) for case in chunk(number)}
    while found["triples"] < asked.triples:
        began = time.perf_counter()
        fresh = [case for case in dict.fromkeys(chunk(found["chunks"])) if case not in seen]
        add(found, [(case, (outcome := port(case)).error, outcome.refused) for case in fresh])
        seen |= set(fresh)
        found["seconds"] = round(found["seconds"] + time.perf_counter() - began, 1)
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps({"machine": machine_facts(), **found}, indent=1) + "\n")
    print(table(found))


def chunk(number: int) -> list[Case]:
    """One chunk's triples, the same at every call."""
    cases: list[Case] = []

    @seed(number)
    @settings(
        max_examples=PER_CHUNK // PER_SHAPE, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )  # fmt: skip
    @given(data=st.data())
    def draw(data: st.DataObject) -> None:
        def choose(options: Any) -> Any:
            return data.draw(st.sampled_from(list(options)))

        shape = draw_shape(choose)
        cases.extend(draw_case(choose, shape) for _ in range(PER_SHAPE))

    draw()
    return cases


def add(found: dict[str, Any], outcomes: list[tuple[Case, float, str]]) -> None:
    """Count a chunk in: how many triples a cell has, how many were refused, and its worst one."""
    found["chunks"] += 1
    for case, error, refused in outcomes:
        found["triples"] += 1
        fresh = {"triples": 0, "refused": 0, "over": 0, "largest": 0.0, "where": ""}
        cell = found["cells"].setdefault(f"{case.method} {case.technique}", fresh)
        cell["triples"] += 1
        cell["refused"] += bool(refused)
        cell["over"] += error >= BOUND
        if error > cell["largest"]:
            cell |= {"largest": error, "where": f"{case.shape.model_type} {case.shape.changes} {case.settings}"}


def table(found: dict[str, Any]) -> str:
    """Largest errors, a method a row, a technique a column."""
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    for name, cell in sorted(found["cells"].items()):
        method, technique = name.split()
        rows[method][technique] = f"{cell['largest']:.0e} of {cell['triples'] - cell['refused']}"
    names = ("lora", "adapter", "compacter", "prefix")
    head = [f"| method | {' | '.join(names)} |", f"|{' --- |' * 5}"]
    body = [f"| `{m}` | {' | '.join(own.get(name, '') for name in names)} |" for m, own in rows.items()]
    over = sum(cell["over"] for cell in found["cells"].values())
    refused = sum(cell["refused"] for cell in found["cells"].values())
    said = f"{found['triples']} distinct triples, {refused} refused, {over} over {BOUND:.0e}, {found['seconds']:.0f} s"
    return "\n".join([*head, *body, "", said])


if __name__ == "__main__":
    main()
