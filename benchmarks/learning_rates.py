"""Choose each technique's learning rate: train from scratch at several rates, compare on validation items only.

    python benchmarks/learning_rates.py [HOST ...]      writes benchmarks/results/learning_rates.json

One seed, 80 steps of 16 texts, 400 validation items of Rotten Tomatoes. No test item is touched.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from peftport.tasks import load_task
from peftport.techniques import make_spec
from peftport.training.bound_task import Start, bind_task
from peftport.training.evaluation import score_entries
from peftport.training.loop import TrainSettings

RATES = {
    "encoder": {
        "lora": (1e-3, 3e-3, 1e-2),
        "adapter": (3e-4, 1e-3, 3e-3),
        "compacter": (3e-3, 1e-2, 3e-2),
        "prefix": (3e-4, 1e-3, 3e-3),
    },
    "encoder_decoder": {
        "lora": (1e-4, 3e-4, 1e-3),
        "adapter": (1e-4, 3e-4, 1e-3),
        "compacter": (3e-4, 1e-3, 3e-3),
        "prefix": (3e-4, 1e-3, 3e-3),
    },
}
STEPS, ITEMS = 80, 400
OUT = Path(__file__).parent / "results" / "learning_rates.json"


def sweep(host: str) -> list[dict[str, object]]:
    """Train every technique at every rate on one host, test on validation items."""
    bound_task = bind_task(host, load_task("rotten_tomatoes"), settings=TrainSettings(max_tokens=64))
    valid = bound_task.valid_split
    rows, labels = valid.rows[:ITEMS], valid.targets[:ITEMS]
    [bare] = score_entries(bound_task.host, bound_task.readout, None, [], rows, labels)
    print(f"{host}: bare host {bare.accuracy:.3f}")
    found: list[dict[str, object]] = []
    for name, rates in RATES[bound_task.host.kind].items():
        for rate in rates:
            begun = time.perf_counter()
            spec = make_spec(name)
            [kept] = bound_task.train(spec, [Start(bound_task.fresh(spec, 0), 0)], (20, STEPS), rate)
            scores = score_entries(
                bound_task.host, bound_task.readout, spec, [kept[b].matrices for b in (20, STEPS)], rows, labels
            )
            found.append(
                {
                    "host": host,
                    "technique": name,
                    "learning_rate": rate,
                    "bare": bare.accuracy,
                    "accuracy_at_20": scores[0].accuracy,
                    f"accuracy_at_{STEPS}": scores[1].accuracy,
                    "loss": kept[STEPS].loss,
                    "seconds": round(time.perf_counter() - begun, 1),
                }
            )
            print(found[-1], flush=True)
    return found


if __name__ == "__main__":
    hosts = sys.argv[1:] or ["all-MiniLM-L6-v2", "flan-t5-small"]
    rows = [row for host in hosts for row in sweep(host)]
    before = json.loads(OUT.read_text())["rows"] if OUT.is_file() else []
    rows = [row for row in before if row["host"] not in hosts] + rows  # other hosts' rows stay
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"items": ITEMS, "split": "valid", "seed": 0, "rows": rows}, indent=2) + "\n")
