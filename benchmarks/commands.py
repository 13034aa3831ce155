"""What each command costs before it works: listings, refusals, ports by copy, and what is imported beside torch.

    python benchmarks/commands.py [--as now] [--source src] [--times 3]     writes benchmarks/results/commands.json

Every command runs in a process of its own, once without being counted and then ``--times`` times; the least seconds of
the processor (user and system, worker processes too) and the least seconds on the clock are kept. Several versions
stand side by side in the file: ``--as before --source OTHER/src`` measures another checkout. It needs the offline hosts
all-MiniLM-L6-v2 and sre and the texts movie_reviews.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine_facts

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
ROOT = Path(__file__).parents[1]
OUT = Path(__file__).parent / "results" / "commands.json"
ORIGIN, RECEIVER, TASK = "all-MiniLM-L6-v2", "sre", "rotten_tomatoes"
QUICK, DRIFT = (str(ROOT / "studies" / f"{name}.toml") for name in ("quick", "drift"))
SMALL = ("--set", "training.origin_steps=1", "--set", "testing.items=8")
TO = ("--to", RECEIVER)
# What the interpreter and the two libraries take themselves, which no command can do without that uses them.
LIBRARIES = {"python": "pass", "import torch, transformers": "import torch, transformers"}
USES: dict[str, str] = {
    "import peftport, and what train imports": "import peftport, peftport.workflows.train; peftport.train",
    "import peftport, and what port imports": "import peftport, peftport.workflows.port; peftport.port",
    "a study's driver": "import peftport.study.execute; from peftport.api import Study",
    "a study's worker": "import peftport.study.work",
    "the measures of a report": "import peftport.report.studied, peftport.report.html",
}
LISTED: dict[str, tuple[str, ...]] = {
    "--help": ("--help",),
    "train --help": ("train", "--help"),
    "study run --help": ("study", "run", "--help"),
    "techniques": ("techniques",),
    "methods": ("methods",),
    "hosts list": ("hosts", "list"),
    "hosts show": ("hosts", "show", RECEIVER),
    "tasks list": ("tasks", "list"),
    "tasks show": ("tasks", "show", TASK),
}
PLAIN: dict[str, tuple[str, ...]] = {
    "check": ("check", "lora", *TO),
    "port by copy": ("port", "lora", *TO, "--out", "NEW"),
    "port by copy to peft": ("port", "lora", *TO, "--format", "peft", "--out", "NEW"),
    "port by copy, origin named": ("port", "lora", *TO, "--from", ORIGIN, "--out", "NEW"),
    "port by resize": ("port", "lora", *TO, "--method", "resize", "--out", "NEW"),
    "evaluate, 8 items": ("evaluate", RECEIVER, TASK, "--module", "lora-on-sre", "--test-items", "8"),
    "train, 1 step": ("train", ORIGIN, TASK, "-t", "lora", "--steps", "1", "--test-items", "8", "--out", "NEW"),
    "study plan": ("study", "plan", QUICK),
    "study status": ("study", "status", QUICK, "--dir", "begun", *SMALL),
    "study run, 1 job": ("study", "run", QUICK, "--dir", "NEW", "--max-jobs", "1", "--workers", "1", *SMALL),
    "study report": ("study", "report", DRIFT, "--results", str(ROOT / "results" / "drift"), "--out", "NEW.html"),
}
_TRAIN = ("train", ORIGIN, TASK, "--out", "NEW", "-t", "lora")
REFUSED: dict[str, tuple[str, ...]] = {
    "train: host": ("train", "all-MiniLM-L6", TASK, "--out", "NEW", "-t", "lora"),
    "train: task": ("train", ORIGIN, "rotten_tomatos", "--out", "NEW", "-t", "lora"),
    "train: technique": ("train", ORIGIN, TASK, "--out", "NEW", "-t", "lorra"),
    "train: setting": (*_TRAIN, "--set", "rank=0"),
    "train: steps": (*_TRAIN, "--steps", "0"),
    "train: load": (*_TRAIN, "--load", "dtype=float8"),
    "train: metric": (*_TRAIN, "--metric", "acuracy"),
    "train: readout": (*_TRAIN, "--readout", "linaer"),
    "train: out": ("train", ORIGIN, TASK, "--out", "lora", "-t", "lora"),
    "evaluate: host": ("evaluate", "sree", TASK),
    "evaluate: task": ("evaluate", RECEIVER, "rotten_tomatos"),
    "evaluate: module": ("evaluate", RECEIVER, TASK, "--module", "lorra"),
    "evaluate: metric": ("evaluate", RECEIVER, TASK, "--metric", "acuracy"),
    "check: host": ("check", "lora", "--to", "sree"),
    "check: module": ("check", "lorra", *TO),
    "check: texts": ("check", "lora", *TO, "--texts", "nothing.txt"),
    "port: host": ("port", "lora", "--to", "sree", "--out", "NEW"),
    "port: module": ("port", "lorra", *TO, "--out", "NEW"),
    "port: method": ("port", "lora", *TO, "--method", "copi", "--out", "NEW"),
    "port: origin": ("port", "lora", *TO, "--from", "all-MiniLM-L6", "--out", "NEW"),
    "port: out": ("port", "lora", *TO, "--out", "lora-on-sre"),
    "port: format": ("port", "lora", *TO, "--out", "NEW", "--format", "pfet"),
    "port: texts": ("port", "lora", *TO, "--method", "theseus", "--texts", "nothing.txt", "--out", "NEW"),
    "compare: host": ("compare", "lora", "--to", "sree", "--task", TASK),
    "compare: module": ("compare", "lorra", *TO, "--task", TASK),
    "compare: task": ("compare", "lora", *TO, "--task", "rotten_tomatos"),
    "compare: method": ("compare", "lora", *TO, "--task", TASK, "--method", "copi"),
    "compare: arms": ("compare", "lora", *TO, "--task", TASK, "--arms", "portd"),
    "compare: sampler": ("compare", "lora", *TO, "--task", TASK, "--sampler", "gausian"),
    "upgrade: host": ("upgrade", ORIGIN, "sree", "lora", "--out", "NEW"),
    "merge: host": ("merge", "sree", "lora-on-sre", "--out", "NEW"),
    "merge: module": ("merge", RECEIVER, "lorra", "--out", "NEW"),
    "gguf: module": ("gguf", RECEIVER, "lorra", "--out", "NEW.gguf"),
    "hosts show: host": ("hosts", "show", "sree"),
    "hosts update: host": ("hosts", "update", "sree", "--text", "texts.txt", "--steps", "1", "--out", "NEW"),
    "hosts update: text": ("hosts", "update", RECEIVER, "--text", "nothing.txt", "--steps", "1", "--out", "NEW"),
    "tasks show: task": ("tasks", "show", "rotten_tomatos"),
    "demo: out": ("demo", "--out", "texts.txt"),
    "study plan: file": ("study", "plan", "nothing.toml"),
    "study run: setting": ("study", "run", QUICK, "--dir", "NEW", "--set", "training.batch_size=0"),
}


class Place:
    """A folder with a small LoRA on both hosts, and new names for what commands write."""

    def __init__(self, folder: Path, source: Path) -> None:
        """Train the LoRA and port it."""
        self.folder, self._made = folder, 0
        given = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        self.environment = given | {"PYTHONPATH": str(source)}
        (folder / "texts.txt").write_text("a fine film\n" * 64, encoding="utf-8")
        for words in (("train", *_TRAIN[1:3], "-t", "lora", "--steps", "1", "--test-items", "8", "--out", "lora"),
                      ("port", "lora", *TO, "--out", "lora-on-sre"),
                      ("study", "run", QUICK, "--dir", "begun", "--max-jobs", "1", *SMALL)):  # fmt: skip
            self.run(["-m", "peftport", *words], refused=False)

    def run(self, words: list[str], *, refused: bool) -> tuple[float, float]:
        """Run Python once; returns seconds of the processor and on the clock."""
        self._made += 1
        words = [word.replace("NEW", f"new-{self._made}") for word in words]
        with tempfile.TemporaryFile() as said:
            begun = time.perf_counter()
            child = subprocess.Popen(
                [sys.executable, *words], cwd=self.folder, env=self.environment, stdout=said, stderr=said
            )
            _, status, used = os.wait4(child.pid, 0)
            clock, child.returncode = time.perf_counter() - begun, os.waitstatus_to_exitcode(status)
            if child.returncode != (2 if refused else 0):
                said.seek(0)
                raise RuntimeError(f"{' '.join(words)}: exit code {child.returncode}: {said.read().decode()}")
        return used.ru_utime + used.ru_stime, clock


def measure(place: Place, words: list[str], times: int, *, refused: bool = False) -> dict[str, float]:
    """The least of several runs, after one that compiles and fills caches."""
    place.run(words, refused=refused)
    runs = [place.run(words, refused=refused) for _ in range(times)]
    processor, clock = (min(column) for column in zip(*runs, strict=True))
    return {"processor_seconds": round(processor, 2), "clock_seconds": round(clock, 2)}


def measure_all(source: Path, times: int) -> list[dict[str, Any]]:
    """A row for each command, and for each use of the package in Python."""
    groups = (
        ("libraries", {name: ["-c", code] for name, code in (LIBRARIES | USES).items()}),
        ("command", {name: ["-m", "peftport", *words] for name, words in (LISTED | PLAIN).items()}),
        ("refusal", {name: ["-m", "peftport", *words] for name, words in REFUSED.items()}),
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), source)
        for kind, commands in groups:
            for name, words in commands.items():
                rows.append({"kind": kind, "name": name, **measure(place, words, times, refused=kind == "refusal")})
                print(rows[-1], flush=True)
    return rows


def table(found: dict[str, Any]) -> str:
    """The versions side by side, in seconds of the processor; of the refusals the quickest and the slowest."""
    versions = sorted(found)  # before, now
    cells = {version: {row["name"]: row["processor_seconds"] for row in found[version]["rows"]} for version in versions}
    lines = [f"| | {' | '.join(versions)} |", f"| --- |{' ---: |' * len(versions)}"]
    for name in (*LIBRARIES, *USES, *LISTED, *PLAIN):
        seconds = (cells[version].get(name) for version in versions)
        lines.append(f"| {name} | {' | '.join('' if s is None else f'{s:.2f}' for s in seconds)} |")
    spans = ([cells[version][name] for name in REFUSED if name in cells[version]] for version in versions)
    lines.append(f"| refusals | {' | '.join(f'{min(s):.2f} to {max(s):.2f} ({len(s)})' for s in spans)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure one version, and show it beside those in the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--as", dest="version", default="now")
    parser.add_argument("--source", type=Path, default=ROOT / "src")
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    found = json.loads(OUT.read_text(encoding="utf-8")) if OUT.is_file() else {}
    rows = measure_all(asked.source.resolve(), asked.times)
    found[asked.version] = {"machine": machine_facts(), "rows": rows}
    OUT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
