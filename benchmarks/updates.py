"""How far updates of a host may go before it is no longer close to what it was: bare hosts on validation items.

    python benchmarks/updates.py HOST [--texts TASK ...] [--rates RATE ...] [--steps N ...] [--tasks TASK ...]

Writes benchmarks/results/updates.json. Every update continues the host's pretraining on the training texts of a task,
as a study's `[hosts]` does; each checkpoint is tested bare, and its accuracy and AUROC are held against the host's own.
A study's `[gates] closeness` asks the same of the hosts that it uses.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from machine import machine_facts

from peftport.hosts.loading import Loading
from peftport.tasks import load_task
from peftport.training.bound_task import bind_task
from peftport.training.loop import TrainSettings
from peftport.workflows import update_host
from peftport.workflows.requests import HostUpdateRequest

OUT = Path(__file__).parent / "results" / "updates.json"
MEASURES = ("accuracy", "auroc")


def bare(host: str, task: str, items: int, device: str) -> dict[str, float | None]:
    """Accuracy and AUROC of the bare host on the first validation items."""
    loading = Loading(device=device)  # type: ignore[arg-type]
    bound = bind_task(host, load_task(task), settings=TrainSettings(max_tokens=64), test_items=items, loading=loading)
    measures = bound.validate(None, [])[0].measures()
    return {name: measures[name] for name in MEASURES}


def main() -> None:
    """Update, test, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("--texts", nargs="+", default=["imdb"])
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-6, 1e-5, 3e-5])
    parser.add_argument("--steps", nargs="+", type=int, default=[30, 100])
    parser.add_argument("--tasks", nargs="+", default=["rotten_tomatoes", "vader_amazon", "vader_tweets", "headlines"])
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    before = {task: bare(asked.host, task, asked.items, asked.device) for task in asked.tasks}
    print(json.dumps({"host": asked.host, **before}), flush=True)
    rows: list[dict[str, Any]] = []
    for text, rate in product(asked.texts, asked.rates):
        with tempfile.TemporaryDirectory() as home:
            lines = Path(home) / "text"
            texts = (" ".join(each.split()) for each in load_task(text).train.texts)
            lines.write_text("\n".join(texts), encoding="utf-8")
            steps = sorted(asked.steps)
            made = update_host(
                HostUpdateRequest(
                    asked.host,
                    lines,
                    steps=steps[-1],
                    save_at=steps[:-1],
                    learning_rate=rate,
                    max_tokens=64,
                    out=Path(home) / "out",
                )  # fmt: skip
            )
            for each in made:
                after = {task: bare(str(each.folder), task, asked.items, asked.device) for task in asked.tasks}
                distance = each.record.distance.model_dump(mode="json")
                rows.append({"text": text, "rate": rate, "steps": each.record.steps, "distance": distance, **after})
                print(json.dumps(rows[-1]), flush=True)
    found = {"host": asked.host, "items": asked.items, "before": before, "rows": rows, "machine": machine_facts()}
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
