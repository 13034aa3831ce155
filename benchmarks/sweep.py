"""The learning rates of a study, chosen on validation items: its trainings from scratch at several rates.

    python benchmarks/sweep.py STUDY.toml [--hosts HOST ...] [--rates RATE ...] [--seeds SEED ...] [--tasks TASK ...]

Writes benchmarks/results/sweep.json, prints what each rate came to and the lines to paste into the study file. The
study itself is run, with values replaced: techniques at every rate, from scratch only, on the tasks that its origins
are trained for, for as many steps as these, with seeds of the sweep's own, tested on validation items. Of the rates
whose mean over tasks and seeds at the last step is within .005 of the highest, in the metric that the study declares,
the lowest is chosen: so small a difference is noise, and at a lower rate a ported module is less easily destroyed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from machine import machine_facts

from peftport import Study
from peftport.study.grid import StudySpec, read_study

OUT = Path(__file__).parent / "results" / "sweep.json"
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (100, 101)
BESIDE = ("accuracy", "auroc")
NOISE = 0.005  # a difference of means that decides nothing


def toml(value: Any) -> str:
    """A value as a study file has it; a key without a value is left out."""
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items() if each is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


def changes(
    study: StudySpec,
    host: str,
    rates: tuple[float, ...],
    seeds: tuple[int, ...],
    tasks: Sequence[str] = (),
    device: str = "cpu",
) -> dict[str, str]:
    """What is replaced in the study file to try these rates on a host; without tasks, on those that origins learn."""
    each = [(technique, rate) for technique in study.techniques for rate in rates]
    values = {
        "name": f"{study.name}-sweep",
        "arms": ["scratch"],
        "control_samplers": {},
        "pairs": [[host, host]],
        "tasks": tasks or list(dict.fromkeys(pair.origin for pair in study.tasks)),
        "budgets": [budget for budget in study.budgets if 0 < budget < study.origin_steps(host)] or [0],
        "seeds": seeds,
        "techniques": [{"name": named(t.name, rate), **t.spec.model_dump(mode="json")} for t, rate in each],
        "training.learning_rates": {named(t.name, rate): rate for t, rate in each},
        "training.origin_steps": study.origin_steps(host),
        "training.hosts": {},
        "testing.split": "validation",
        "loading.device": device,
    }
    return {key: toml(value) for key, value in values.items()}


def named(technique: str, rate: float) -> str:
    """A technique at one rate, as the sweep's tables name it."""
    return f"{technique} at {rate:g}"


def summarised(runs: pl.DataFrame, study: StudySpec, host: str, rates: tuple[float, ...]) -> list[dict[str, Any]]:
    """A row for each technique and rate: means over tasks and seeds at every budget; what did not finish has none."""
    metrics = list(dict.fromkeys((study.testing.metric or BESIDE[0], *BESIDE)))
    bare = runs.filter(pl.col("arm") == "bare").group_by("receiver_task").first().sort("receiver_task")
    rows: list[dict[str, Any]] = [
        {
            "host": host,
            "technique": None,
            "tasks": {row["receiver_task"]: {m: row[m] for m in metrics} for row in bare.to_dicts()},
        }
    ]
    for technique in study.techniques:
        for rate in rates:
            own = runs.filter(pl.col("technique") == named(technique.name, rate), pl.col("arm") != "home")
            done = own.filter(state="done")
            tasks = {
                task: means(part, metrics) for (task,), part in done.sort("receiver_task").group_by("receiver_task")
            }
            rows.append(
                {"host": host, "technique": technique.name, "learning_rate": rate, "failed": own.height - done.height}
                | means(done, metrics)
                | {"tasks": tasks}
            )
    return rows


def means(runs: pl.DataFrame, metrics: list[str]) -> dict[str, dict[str, float]]:
    """The mean of each metric at every budget."""
    return {
        name: {str(b): v for b, v in runs.group_by("budget").agg(pl.col(name).mean()).sort("budget").iter_rows()}
        for name in metrics
    }


def chosen(rows: list[dict[str, Any]], metric: str, steps: int) -> dict[str, float]:
    """The rate of each technique; one that failed in some run is not chosen."""
    rates: dict[str, float] = {}
    for technique in dict.fromkeys(row["technique"] for row in rows if row["technique"]):
        means = {
            row["learning_rate"]: row[metric][str(steps)]
            for row in rows
            if row["technique"] == technique and not row["failed"] and str(steps) in row[metric]
        }
        near = [rate for rate, mean in means.items() if mean >= max(means.values()) - NOISE]
        rates |= {technique: min(near)} if near else {}
    return rates


def main() -> None:
    """Sweep, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("study", type=Path)
    parser.add_argument("--hosts", nargs="+")
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--tasks", nargs="+", help="instead of those that the study's origins learn")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dir", type=Path, default=Path("runs"))
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    study = read_study(asked.study)
    rates = tuple(sorted(asked.rates))
    hosts = asked.hosts or list(dict.fromkeys((study.pairs[0][0], *study.training.hosts)))
    metric, rows = study.testing.metric or BESIDE[0], []
    for host in hosts:
        sweep = Study.from_file(
            asked.study,
            dir=asked.dir / f"{study.name}-sweep-{host}",
            set=changes(study, host, rates, tuple(asked.seeds), asked.tasks or (), asked.device),
        )
        sweep.run(workers=asked.workers)
        of_host = summarised(sweep.export().runs, study, host, rates)
        for row in of_host:
            print(row, flush=True)
        rows += of_host
        print(f"# {host}: chosen on validation items, {metric} after {study.origin_steps(host)} steps")
        print(f"learning_rates = {toml(chosen(of_host, metric, study.origin_steps(host)))}")
    facts = {
        "study": study.name,
        "metric": metric,
        "seeds": asked.seeds,
        "items": study.testing.items,
        "split": "validation",
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({**facts, "machine": machine_facts(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
