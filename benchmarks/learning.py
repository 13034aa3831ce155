"""Is learning real? Each technique against the bare host on Rotten Tomatoes test items, on MiniLM and Flan-T5-small.

    python benchmarks/learning.py [HOST ...]      writes benchmarks/results/learning.json

Two seeds, stacked; the technique's own learning rate (chosen on validation items by learning_rates.py); paired BCa
intervals over test items of the gain, jointly 95 % for the four techniques of a host (Bonferroni).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from peftport.analysis.stats import paired_difference
from peftport.core.hashing import rng_for
from peftport.tasks import load_task
from peftport.techniques import TECHNIQUES, make_spec
from peftport.training.bound_task import Start, bind_task
from peftport.training.loop import TrainSettings

HOSTS = {"all-MiniLM-L6-v2": 120, "flan-t5-small": 80}  # steps of 16 texts
SEEDS, ITEMS = (0, 1), 1000
OUT = Path(__file__).parent / "results" / "learning.json"


def learn(host: str, steps: int) -> list[dict[str, object]]:
    """Train and test every technique on one host."""
    task = load_task("rotten_tomatoes")
    bound_task = bind_task(host, task, settings=TrainSettings(max_tokens=64), test_items=ITEMS)
    [bare] = bound_task.test(None, [])
    found: list[dict[str, object]] = []
    for technique in TECHNIQUES.values():
        begun = time.perf_counter()
        spec = make_spec(technique.name)
        starts = [Start(bound_task.fresh(spec, seed), seed) for seed in SEEDS]
        kept = bound_task.train(spec, starts, (steps,), technique.learning_rates[bound_task.host.kind])
        scores = bound_task.test(spec, [k[steps].matrices for k in kept])
        correct = np.mean([s.correct for s in scores], axis=0)
        rng = rng_for(0, "bootstrap", host, technique.name)
        gain = paired_difference(correct, bare.correct.astype(float), level=1 - 0.05 / len(TECHNIQUES), rng=rng)
        found.append(
            {
                "host": host,
                "technique": technique.name,
                "steps": steps,
                "learning_rate": technique.learning_rates[bound_task.host.kind],
                "bare": bare.accuracy,
                "accuracy": [s.accuracy for s in scores],
                "gain": gain.estimate,
                "gain_low": gain.low,
                "gain_high": gain.high,
                "seconds": round(time.perf_counter() - begun, 1),
            }
        )
        print(found[-1], flush=True)
    return found


if __name__ == "__main__":
    hosts = sys.argv[1:] or list(HOSTS)
    rows = [row for host in hosts for row in learn(host, HOSTS[host])]
    before = json.loads(OUT.read_text())["rows"] if OUT.is_file() else []
    rows = [row for row in before if row["host"] not in hosts] + rows  # other hosts' rows stay
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"items": ITEMS, "seeds": SEEDS, "rows": rows}, indent=2) + "\n")
