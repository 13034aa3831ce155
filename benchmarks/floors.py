"""Whether a goal of speed can be reached on a machine at all: what its matrix products alone take there, at its best.

    PYTHONPATH=src:benchmarks python benchmarks/floors.py      prints a table, of files that are there; measures nothing

A goal is a number of times as fast as something that was measured, so it allows so many seconds. The floor is what the
products of our own steps and tests take at the rate of the machine's largest products in bfloat16 (`ceilings.json`),
were all else free. A test is a forward pass, which has at least half the products of a step that trains no weights of
the host. The slice's floor has the products of a LoRA for every technique, and the start of one process
(`load_seconds`); its entry-steps are those that sharing leaves (`peers/slice.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from slice import ARMS, BATCH, PAIRS, RESULTS, TRAINED

PEERS_FILE, SLICE_FILE = "peers_avx512_bf16.json", "slice_avx512_bf16.json"
MINILM, FLAN = "all-MiniLM-L6-v2", "flan-t5-small"
GOALS = {(MINILM, "trainer"): 3.5, (MINILM, "lean"): 2.5, (FLAN, "trainer"): 3.0, (FLAN, "lean"): 2.5}
SLICE_GOALS = {"trainer": 6.0, "lean": 4.0}
STEP_GOAL = 3.0
PEERS = {"trainer": "peft + transformers.Trainer, bfloat16", "lean": "peft + a lean loop, bfloat16"}


class Figure(NamedTuple):
    """One goal: what it is held against and the floor, in seconds."""

    what: str
    goal: float
    against: float
    ours: float
    floor: float

    def line(self) -> str:
        """A row of the table."""
        allowed = self.against / self.goal
        verdict = "out of reach" if self.floor > allowed else "not excluded"
        return (
            f"| {self.what} | {self.goal:g} | {self.against / self.ours:.2f} | {self.ours:.2f} | {allowed:.2f} | "
            f"{self.floor:.2f} | {verdict} |"
        )


def read(name: str) -> Any:
    """One file of results."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def last_step(host: str, entries: int, dtype: str, processor: str) -> tuple[float, float]:
    """Seconds of a step, and of its products alone, in the newest run of the log on such a processor."""
    rows = [
        row
        for run in read("ceilings.json")
        for row in run["rows"]
        if run["machine"]["processor"] == processor and "accelerator" not in run["machine"]
    ]
    row = [r for r in rows if (r["host"], r["entries"], r["dtype"]) == (host, entries, dtype)][-1]
    return row["seconds"], row["products"] * row["seconds"]


def single_runs(peers: dict[str, Any], processor: str) -> Iterator[Figure]:
    """One run of a LoRA on each host, beside each peer."""
    settings = peers["settings"]
    passes = max(settings["points"]) + 0.5 * len(settings["points"]) * settings["items"] / settings["batch_size"]
    for comparison in peers["comparisons"]:
        host, by_name = comparison["host"], {each["name"]: each for each in comparison["contestants"]}
        floor = passes * last_step(host, 1, "mixed", processor)[1]
        ours = by_name["ours_bfloat16"]["seconds"]
        for peer in PEERS:
            theirs = by_name[f"{peer}_bfloat16"]["seconds"]
            yield Figure(f"{host}, one run beside {peer}", GOALS[host, peer], theirs, ours, floor)


def slices(found: dict[str, Any], peers: dict[str, Any], processor: str) -> Iterator[Figure]:
    """The slice of a study beside each peer."""
    settings, [ours, *_] = found["settings"], [
        c for each in peers["comparisons"] for c in each["contestants"] if c["name"] == "ours_bfloat16"
    ]  # fmt: skip
    longest = max(settings["budgets"])
    steps = max(settings["origin_steps"], longest) + len(ARMS) * longest
    texts = len(TRAINED) * len(settings["budgets"]) * settings["items"]
    product = last_step(MINILM, 1, "mixed", processor)[1]
    for peer, title in PEERS.items():
        for row in found["peers"]:
            if row["title"] == title:
                each = product * (steps + 0.5 * texts / BATCH)
                floor = ours["load_seconds"] + len(PAIRS) * len(row["techniques"]) * each
                yield Figure(
                    f"the slice beside {peer}", SLICE_GOALS[peer], row["their_seconds"], row["our_seconds"], floor
                )


def table(peers_file: str = PEERS_FILE, slice_file: str = SLICE_FILE) -> str:
    """Every figure that there is, as Markdown."""
    peers, found = read(peers_file), read(slice_file)
    processor = found["peers"][0]["machine"]["processor"]
    wide, narrow = (last_step(MINILM, 8, dtype, processor) for dtype in ("float32", "mixed"))
    step = Figure("a step of 8 entries on MiniLM beside float32", STEP_GOAL, wide[0], narrow[0], narrow[1])
    head = [
        "| what | goal, times | reached | our seconds | the goal allows | products alone | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    figures = (step, *single_runs(peers, processor), *slices(found, peers, processor))
    return "\n".join([*head, *(figure.line() for figure in figures)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=PEERS_FILE)
    parser.add_argument("--slice", default=SLICE_FILE)
    asked = parser.parse_args()
    print(table(asked.peers, asked.slice))


if __name__ == "__main__":
    main()
