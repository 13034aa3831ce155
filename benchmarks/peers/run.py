"""One run, side by side: the same host, technique, texts, batches, steps, tests; interleaved; medians over pairs.

    PYTHONPATH=src:benchmarks python benchmarks/peers/run.py        writes benchmarks/results/peers.json

Hosts and techniques that this machine has measured with the same settings are not measured again; for that, take the
file away.

Each pair is one seed: every contestant trains and tests once, in a process of its own, one after another, in turned
order from pair to pair. Starting the process, loading the host and tokenising are on nobody's clock. Every side runs in
float32 and with its products in bfloat16, and is held against ours in the format in which we are faster. Where
accuracies differ by more than the seeds explain, no speed-up is given: the work was not the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

from agreement import agrees, speed_up, tolerance
from contestants import CONTESTANTS, TECHNIQUES, Contestant, make_work
from machine import machine_facts
from work import Done, Run, Work

OUT = Path(__file__).parents[1] / "results" / "peers.json"


def compare(work: Work, points: list[int], pairs: int, threads: int, asked: list[Contestant]) -> dict[str, Any]:
    """All contestants asked for that can do this work, ``pairs`` times each."""
    able = [c for c in asked if c.can(work.technique, work.kind) is None]
    done: dict[str, list[Done]] = {c.name: [] for c in able}
    for seed in range(pairs):
        turn = seed % len(able)
        for contestant in able[turn:] + able[:turn]:
            done[contestant.name] += contestant.do(replace(work, runs=[Run(seed, points)]), threads)
    rows = [_row(c, done, work, points) for c in asked]
    return {"host": work.host, "technique": work.technique, "contestants": rows}


def _row(contestant: Contestant, done: dict[str, list[Done]], work: Work, points: list[int]) -> dict[str, Any]:
    why_not = contestant.can(work.technique, work.kind)
    row: dict[str, Any] = {"name": contestant.name, "title": contestant.title}
    if why_not is not None:
        return row | {"not_run": why_not}
    own, ours = done[contestant.name], our_best(done)
    row |= {
        "seconds": median(_seconds(own)),
        "train_seconds": median(d.train_seconds for d in own),
        "test_seconds": median(d.test_seconds for d in own),
        "load_seconds": median(d.load_seconds for d in own),
        "parameters": own[0].parameters,
        "accuracy": {p: fmean(d.accuracy[p] for d in own) for p in points},
        "runs": [asdict(d) for d in own],
    }
    if contestant.script == "ours.py":
        return row
    sides = {p: ([d.accuracy[p] for d in ours], [d.accuracy[p] for d in own]) for p in points}
    same = {p: agrees(*side) for p, side in sides.items()}
    row |= {"agrees": same, "tolerance": {p: tolerance(*side) for p, side in sides.items()}}
    if not all(same.values()):
        return row | {"speed_up": None, "void": "accuracies differ by more than the seeds explain"}
    return row | {"speed_up": speed_up(_seconds(ours), _seconds(own))}


def our_best(done: dict[str, list[Done]]) -> list[Done]:
    """Our runs in the number format in which we are faster."""
    return min((runs for name, runs in done.items() if name.startswith("ours")), key=lambda d: median(_seconds(d)))


def _seconds(done: list[Done]) -> list[float]:
    return [d.train_seconds + d.test_seconds for d in done]


def main() -> None:
    """Compare on every host and technique asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", nargs="+", default=["all-MiniLM-L6-v2", "flan-t5-small"])
    parser.add_argument("--techniques", nargs="+", default=list(TECHNIQUES), choices=TECHNIQUES)
    names = [each.name for each in CONTESTANTS]
    parser.add_argument("--sides", nargs="+", default=names, choices=names, help="one of ours at least")
    parser.add_argument("--points", nargs="+", type=int, default=[0, 5, 20], help="steps after which to test")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--task", default="rotten_tomatoes")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true", help="print what is there as Markdown, measure nothing")
    asked = parser.parse_args()
    if asked.table:
        print("\n".join(markdown(json.loads(asked.out.read_text(encoding="utf-8")))))
        return
    sides = [each for each in CONTESTANTS if each.name in asked.sides]
    beside = ("out", "table", "hosts", "techniques", "sides")
    found = _found({key: value for key, value in vars(asked).items() if key not in beside}, asked.out)
    done = {(row["host"], row["technique"]) for row in found["comparisons"]}
    for host, technique in product(asked.hosts, asked.techniques):
        if (host, technique) in done:
            continue
        work = make_work(host, technique, asked.task, asked.items, asked.batch_size, asked.max_tokens)
        work = replace(work, device=asked.device)
        found["comparisons"].append(compare(work, asked.points, asked.pairs, asked.threads, sides))
        _say(found["comparisons"][-1])
        asked.out.parent.mkdir(exist_ok=True)
        asked.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _found(settings: dict[str, Any], out: Path) -> dict[str, Any]:
    """What this machine measured with the same settings and packages; else nothing."""
    there: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    machine = machine_facts()
    if there.get("settings") == settings and same_but_load(there["machine"], machine):
        return there
    return {"machine": machine, "settings": settings, "comparisons": []}


def same_but_load(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two descriptions are of one machine and its packages."""
    return {**one, "load_average": None} == {**other, "load_average": None}


def markdown(found: dict[str, Any]) -> Iterator[str]:
    """Seconds, accuracies and the speed-up over every peer with the range of its pairs, a line each."""
    points = found["settings"]["points"]
    yield f"| host, technique | side | seconds | accuracy after {', '.join(map(str, points))} steps | theirs by ours |"
    yield "| --- | --- | ---: | --- | ---: |"
    for comparison in found["comparisons"]:
        ours = _seconds(
            our_best({r["name"]: [Done(**run) for run in r["runs"]] for r in comparison["contestants"] if "runs" in r})
        )
        for row in comparison["contestants"]:
            if "not_run" in row:
                continue
            accuracy = ", ".join(f"{value:.3f}" for value in row["accuracy"].values())
            what = f"{comparison['host']}, {comparison['technique']}"
            cells = (what, row["title"], f"{row['seconds']:.2f}", accuracy, _speed(row, ours))
            yield f"| {' | '.join(cells)} |"


def _speed(row: dict[str, Any], ours: list[float]) -> str:
    """The median of the pairs and their range; nothing for our own row."""
    if "speed_up" not in row:
        return ""
    if row["speed_up"] is None:
        return "void"
    theirs = _seconds([Done(**run) for run in row["runs"]])
    pairs = [b / a for a, b in zip(ours, theirs, strict=True)]
    return f"{row['speed_up']:.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def _say(comparison: dict[str, Any]) -> None:
    print(f"{comparison['host']}, {comparison['technique']}", flush=True)
    for row in comparison["contestants"]:
        if "not_run" in row:
            print(f"  {row['title']:32} not run: {row['not_run']}", flush=True)
            continue
        speed = f"we are {row['speed_up']:.2f}x as fast" if row.get("speed_up") else row.get("void", "")
        accuracy = " ".join(f"{value:.3f}" for value in row["accuracy"].values())
        print(f"  {row['title']:32} {row['seconds']:7.2f} s   accuracy {accuracy}   {speed}", flush=True)


if __name__ == "__main__":
    main()
