"""A slice of the study: 48 runs by `peftport study run`, and by the peers run by run, on one core each.

    PYTHONPATH=src:benchmarks python benchmarks/peers/slice.py     writes benchmarks/results/slice.json

4 techniques x 2 pairs (MiniLM and sre, both ways) x 2 arms (ported, sampled) x 3 budgets x 1 seed. Both sides train
the origins too, and the 24 scratch baselines; ours are the origins' trainings on their way. Peers do every run by
itself, as a script over runs does: load the host, train to the budget, test. They start every module fresh, since what
numbers a run starts from costs nothing; accuracies are compared in run.py.

Ours is the whole command by the clock: starting, planning, loading, tokenising, testing the bare hosts and the ledger.
A peer's is loading, training and testing alone. A peer that lacks a technique is timed on those it has, against our
runs of the same techniques. Peers may be measured one call at a time: those that the file has are kept. `--least`
prints how far sharing could go on this machine at the most.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from contestants import CONTESTANTS, TECHNIQUES, Contestant, make_work
from machine import machine_facts
from work import Done, Run

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
OUT = RESULTS / "slice.json"
PAIRS = (("all-MiniLM-L6-v2", "sre"), ("sre", "all-MiniLM-L6-v2"))
ARMS = ("ported", "sampled")
TRAINED = (*ARMS, "scratch")  # the baselines that runs are held against, in no count of runs
BATCH, MAX_TOKENS = 16, 64


def study_file(techniques: list[str], budgets: list[int], seeds: int, origin_steps: int, items: int) -> str:
    """The slice as a study."""
    values: dict[str, Any] = {
        "name": "slice",
        "techniques": techniques,
        "pairs": [list(pair) for pair in PAIRS],
        "tasks": ["rotten_tomatoes"],
        "arms": list(TRAINED),
        "budgets": budgets,
        "seeds": list(range(seeds)),
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    lines += ['data = { receiver = "shared" }']  # the peers train everything on the same items
    lines += ["[training]", f"origin_steps = {origin_steps}", f"batch_size = {BATCH}", f"max_tokens = {MAX_TOKENS}"]
    return "\n".join([*lines, "[testing]", f"items = {items}"]) + "\n"


def ours(study: str, workers: int, load: str) -> dict[str, Any]:
    """Run the study afresh, by the clock."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "slice.toml"
        file.write_text(study, encoding="utf-8")
        options = [
            "--dir",
            f"{home}/runs",
            "--workers",
            str(workers),
            "--threads",
            "1",
            "--set",
            f"loading.{load}",
            "--json",
        ]
        command = [sys.executable, "-m", "peftport", "study", "run", str(file), *options]
        begun = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"study run failed:\n{done.stderr[-3000:]}")
    return {"seconds": seconds, **{k: json.loads(done.stdout)[k] for k in ("done", "failed", "steps")}}


def run_by_run(contestant: Contestant, techniques: list[str], asked: argparse.Namespace) -> dict[str, Any]:
    """One peer's way through the same runs: every origin once, then every run."""
    done: list[Done] = []
    for technique in techniques:
        for host, _ in PAIRS:  # each host is the origin of one pair and the receiver of the other
            work = make_work(host, technique, "rotten_tomatoes", asked.items, BATCH, MAX_TOKENS)
            runs = [Run(0, [asked.origin_steps])] + [Run(0, [budget]) for _ in TRAINED for budget in asked.budgets]
            done += contestant.do(replace(work, runs=runs), threads=1)
    load = sum(d.load_seconds for d in done)
    work_seconds = sum(d.train_seconds + d.test_seconds for d in done)
    return {"seconds": load + work_seconds, "load_seconds": load, "runs": len(done)}


def measure(contestant: Contestant, asked: argparse.Namespace) -> dict[str, Any]:
    """One peer on the techniques it has, ours on the same, interleaved."""
    able = [t for t in asked.techniques if contestant.can(t, "encoder") is None]
    if not able:
        return {"title": contestant.title, "not_run": contestant.can(asked.techniques[0], "encoder")}
    study = study_file(able, asked.budgets, 1, asked.origin_steps, asked.items)
    both = [(ours(study, 1, asked.load), run_by_run(contestant, able, asked)) for _ in range(asked.pairs)]
    return {
        "title": contestant.title,
        "techniques": able,
        "our_seconds": median(mine["seconds"] for mine, _ in both),
        "their_seconds": median(theirs["seconds"] for _, theirs in both),
        "speed_up": median(theirs["seconds"] / mine["seconds"] for mine, theirs in both),
        "speed_up_without_their_loading": median(
            (theirs["seconds"] - theirs["load_seconds"]) / mine["seconds"] for mine, theirs in both
        ),
        "pairs": [{"ours": mine, "theirs": theirs} for mine, theirs in both],
    }


def least_seconds(settings: dict[str, Any], techniques: list[str]) -> float:
    """The steps and tests that sharing leaves of the slice, were all but the kernels they need free.

    One training holds an origin and the scratch baselines, and a longer budget goes through the shorter ones. Seconds
    of one entry's steps and tests on MiniLM are those of peers.json (the other host is of its shape), the share of the
    needed kernels is that of step_profile.json, of training steps, taken for tests too.
    """
    steps = max(settings["origin_steps"], *settings["budgets"]) + len(ARMS) * max(settings["budgets"])
    texts = len(TRAINED) * len(settings["budgets"]) * settings["items"]
    peers, profile = (json.loads((RESULTS / name).read_text()) for name in ("peers.json", "step_profile.json"))
    run, seconds = peers["settings"], 0.0
    for technique in techniques:
        [alone, *_] = next(c for c in peers["comparisons"] if _measures(c, technique))["contestants"]
        needed = next(row for row in profile["rows"] if _measures(row, technique))["needed"]
        training = steps * alone["train_seconds"] / max(run["points"])
        testing = texts * alone["test_seconds"] / (len(run["points"]) * run["items"])
        seconds += len(PAIRS) * needed * (training + testing)
    return seconds


def _measures(row: dict[str, Any], technique: str) -> bool:
    return (row["host"], row["technique"]) == (PAIRS[0][0], technique)


def say_least(found: dict[str, Any]) -> None:
    """The least seconds beside every peer's, and what the speed-up would then be."""
    for peer in found["peers"]:
        least = least_seconds(found["settings"], peer["techniques"])
        print(f"{peer['title']}: {least:.0f} s, {peer['their_seconds'] / least:.1f} times")


def main() -> None:
    """Measure and write, peer after peer."""
    peers = {contestant.name: contestant for contestant in CONTESTANTS if contestant.script != "ours.py"}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", default=list(peers), choices=peers)
    parser.add_argument("--techniques", nargs="+", default=list(TECHNIQUES), choices=TECHNIQUES)
    parser.add_argument("--budgets", nargs="+", type=int, default=[0, 5, 15])
    parser.add_argument("--origin-steps", type=int, default=40)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--load", default="dtype=auto", help="how our side loads hosts")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--least", action="store_true", help="of what is there; measure nothing")
    asked = parser.parse_args()
    if asked.least:
        say_least(json.loads(asked.out.read_text(encoding="utf-8")))
        return
    settings = {key: getattr(asked, key) for key in ("budgets", "origin_steps", "items", "pairs", "load")}
    for name in asked.peers:
        row = {**measure(peers[name], asked), "machine": machine_facts()}
        print({key: value for key, value in row.items() if key not in ("pairs", "machine")}, flush=True)
        asked.out.parent.mkdir(exist_ok=True)
        kept = [each for each in others(asked.out, settings) if each["title"] != row["title"]]
        found = {"settings": settings, "peers": [*kept, row]}
        asked.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def others(file: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Peers that the file has of the same slice; a slice of other settings is written anew."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"settings": None}
    return found["peers"] if found["settings"] == settings else []


if __name__ == "__main__":
    main()
