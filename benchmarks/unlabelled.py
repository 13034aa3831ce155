"""How much of a module's lift is kept without any label, against training with as many labels.

    PYTHONPATH=src:benchmarks python benchmarks/unlabelled.py [--receivers NAME,NAME] [--techniques NAME,NAME]
        writes benchmarks/results/unlabelled.json, row after row: what is there already is not done again
    PYTHONPATH=src:benchmarks python benchmarks/unlabelled.py --table
        prints what is there as Markdown

A module is trained on all-MiniLM-L6-v2 with Rotten Tomatoes training texts that nothing below sees. Then, with 500 and
with 2,000 other texts:

    regress, distill   from the module and the texts, labels hidden
    resize             from the module alone
    fresh              a fresh module
    scratch            a fresh module trained on the same texts with their labels, for as many steps as distill takes
    ceiling            a fresh module trained as long on all the texts that the origin's module had

Each is tested as it is and after 10 more steps on the 2,000 texts with their labels: fresh is then what those steps
give alone. Lift: the ceiling over the bare receiver; kept: the gain over the bare receiver divided by it. 95 %
intervals over seeds and items (peftport.analysis.stats.crossed).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from machine import machine_facts

from peftport.analysis.stats.crossed import Crossed, crossed_from_items
from peftport.core.hashing import rng_for
from peftport.modules.module import Module
from peftport.porting import porter_named
from peftport.porting.base import PortCache, PortInputs
from peftport.tasks import load_task
from peftport.tasks.task import Split, Task
from peftport.techniques import TECHNIQUES, make_spec, technique_named
from peftport.techniques.base import Parameters, TechniqueSpec
from peftport.training.bound_task import BoundTask, Start, bind_task
from peftport.training.loop import TrainSettings
from peftport.workflows.distill import DistillOptions, distill

OUT = Path(__file__).parent / "results" / "unlabelled.json"
ORIGIN, TASK, SEEDS, STEPS, MORE, ITEMS = "all-MiniLM-L6-v2", "rotten_tomatoes", tuple(range(5)), 120, 10, 300
TEXTS = (500, 2000)
VERSUS = ("resize", "fresh", "scratch")
Correct = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """One technique's modules from the origin to a receiver."""

    technique: str
    receiver: str
    home: BoundTask
    away: BoundTask
    seen: Sequence[Module]

    @property
    def spec(self) -> TechniqueSpec:
        """The technique's own settings."""
        return make_spec(self.technique)

    def rate(self, bound_task: BoundTask) -> float:
        """The technique's learning rate on a host."""
        return technique_named(self.technique).learning_rates[bound_task.host.kind]

    def on(self, texts: int) -> BoundTask:
        """The receiver with the first unseen texts as its training split."""
        return replace(self.away, task=replace(self.away.task, train=unseen(load_task(TASK)).head(texts)))


def unseen(task: Task) -> Split:
    """The training texts that the origin's module does not see."""
    return task.train.head(max(TEXTS))


def others(task: Task) -> Task:
    """The task with the remaining training texts."""
    n, train = max(TEXTS), task.train
    return replace(task, train=Split(train.ids[n:], train.texts[n:], train.labels[n:]))


def trained(bound_task: BoundTask, technique: str, steps: int = STEPS) -> list[Module]:
    """A fresh module a seed, trained for so many steps."""
    spec, rate = make_spec(technique), technique_named(technique).learning_rates[bound_task.host.kind]
    kept = bound_task.train(spec, [Start(bound_task.fresh(spec, seed), seed) for seed in SEEDS], (steps,), rate)
    return [bound_task.module(spec, one[steps], seed, rate) for seed, one in zip(SEEDS, kept, strict=True)]


def regressed(case: Case, bound_task: BoundTask) -> list[Module]:
    """Every module carried by `regress`."""
    inputs = PortInputs(case.home.host, bound_task.task.train.texts, shared=PortCache())
    porter = porter_named("regress")
    return [porter.port(m, bound_task.host, rng_for(s, "port"), inputs) for s, m in zip(SEEDS, case.seen, strict=True)]


def distilled(case: Case, bound_task: BoundTask) -> list[Module]:
    """Every module distilled."""
    texts = bound_task.task.train.texts
    made = []
    for seed, module in zip(SEEDS, case.seen, strict=True):
        made.append(distill(module, case.home, bound_task, texts, DistillOptions(steps=STEPS, seed=seed)))
    return made


def resized(case: Case, bound_task: BoundTask) -> list[Module]:
    """Every module cropped or padded."""
    porter = porter_named("resize")
    return [porter.port(m, bound_task.host, rng_for(s, "port")) for s, m in zip(SEEDS, case.seen, strict=True)]


def further(case: Case, modules: Sequence[Module]) -> dict[int, Correct]:
    """Per-item results (S, N) as the modules are, and after a few steps with labels."""
    bound_task = case.on(max(TEXTS))
    starts = [Start(bound_task.startable(module), seed) for seed, module in zip(SEEDS, modules, strict=True)]
    kept = bound_task.train(case.spec, starts, (0, MORE), case.rate(bound_task))
    return {steps: tested(case, bound_task, [one[steps].matrices for one in kept]) for steps in (0, MORE)}


def tested(case: Case, bound_task: BoundTask, matrices: Sequence[Parameters]) -> Correct:
    """Per-item results, (S, N)."""
    return np.stack([scores.correct for scores in bound_task.test(case.spec, matrices)])


ARMS: dict[tuple[str, int], Callable[[Case, BoundTask], list[Module]]] = {
    ("resize", 0): resized,
    ("fresh", 0): lambda case, bound_task: trained(bound_task, case.technique, 0),
    **{("regress", texts): regressed for texts in TEXTS},
    **{("distill", texts): distilled for texts in TEXTS},
    **{("scratch", texts): lambda case, bound_task: trained(bound_task, case.technique) for texts in TEXTS},
}


def rows_of(case: Case) -> list[dict[str, Any]]:
    """Every arm of one case, with its gain and the share of the lift that it keeps."""
    [scores] = case.away.test(None, [])
    bare = np.broadcast_to(scores.correct, (len(SEEDS), len(scores.correct)))
    ceiling = tested(case, case.away, [case.away.startable(m) for m in trained(case.away, case.technique)])
    found: dict[tuple[str, int, int], Correct] = {}
    seconds: dict[tuple[str, int], float] = {}
    for (arm, texts), make in ARMS.items():
        begun = time.perf_counter()
        modules = make(case, case.on(texts))
        seconds[arm, texts] = round((time.perf_counter() - begun) / len(SEEDS), 1)
        found |= {(arm, texts, steps): correct for steps, correct in further(case, modules).items()}
    rows = []
    for (arm, texts, steps), correct in found.items():
        others = [found["resize", 0, steps], found["fresh", 0, steps], found["scratch", texts or max(TEXTS), steps]]
        crossed = crossed_from_items(np.stack([correct, bare, ceiling, *others])[None])
        row = {"technique": case.technique, "receiver": case.receiver, "method": arm, "texts": texts, "steps": steps}
        rows.append(row | measured(crossed) | {"seconds_a_module": seconds[arm, texts]})
        print(rows[-1], flush=True)
    return rows


def measured(crossed: Crossed) -> dict[str, Any]:
    """Accuracies, the gain over the bare host and over other arms, the share kept: [estimate, low, high] each."""
    method, bare, ceiling = (float(v) for v in crossed.mean[0, :3])
    rest = [0.0] * len(VERSUS)
    kept = crossed.ratio([1, -1, 0, *rest], [0, -1, 1, *rest], 0.95)
    return {
        "accuracy": method,
        "bare": bare,
        "ceiling": ceiling,
        "over_bare": _interval(crossed, 1),
        **{f"over_{name}": _interval(crossed, 3 + index) for index, name in enumerate(VERSUS)},
        "kept": [float(v[0]) for v in (kept.estimate, kept.low, kept.high)] if kept.bounded[0] else None,
    }


def _interval(crossed: Crossed, other: int) -> list[float]:
    """The first arm minus another."""
    weights = np.zeros(crossed.mean.shape[1])
    weights[0], weights[other] = 1.0, -1.0
    found = crossed.contrast(weights)
    margin = float(found.margin(0.95)[0])
    estimate = float(found.estimate[0])
    return [estimate, estimate - margin, estimate + margin]


def main() -> None:
    """Every receiver and technique that has no rows yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--receivers", default="e5-small-first6")
    parser.add_argument("--techniques", default=",".join(TECHNIQUES))
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    chosen = parser.parse_args()
    if chosen.table:
        print("\n".join(markdown(read())))
        return
    task = load_task(TASK)
    settings = TrainSettings(max_tokens=64)
    home = bind_task(ORIGIN, others(task), settings=settings, test_items=ITEMS)
    for technique in chosen.techniques.split(","):
        for receiver in chosen.receivers.split(","):
            rows = read()
            if any(row["technique"] == technique and row["receiver"] == receiver for row in rows):
                continue
            away = bind_task(receiver, others(task), settings=settings, test_items=ITEMS)
            rows_here = rows_of(Case(technique, receiver, home, away, trained(home, technique)))
            write([*read(), *rows_here])


def markdown(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Accuracy, what is kept of the lift, and gains of every arm, a line each."""
    titles = ("receiver, technique", "from", "texts", "accuracy", "kept of the lift", "over resize", "over scratch")
    yield f"| {' | '.join(titles)} | then 10 steps | over fresh |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    then = {(r["receiver"], r["technique"], r["method"], r["texts"]): r for r in rows if r["steps"]}
    for row in rows:
        if row["steps"]:
            continue
        own, after = row["method"], then[row["receiver"], row["technique"], row["method"], row["texts"]]
        cells = [
            f"{row['receiver']}, {row['technique']}",
            f"`{own}`" if own in ("regress", "distill", "resize") else own,
            str(row["texts"] or ""),
            f"{row['accuracy']:.3f}",
            _three(row["kept"], "{:.2f}") if row["kept"] else "not settled",
            "" if own == "resize" else _three(row["over_resize"]),
            "" if own == "scratch" else _three(row["over_scratch"]),
            f"{after['accuracy']:.3f}",
            "" if own == "fresh" else _three(after["over_fresh"]),
        ]
        yield f"| {' | '.join(cells)} |"


def _three(found: Sequence[float], form: str = "{:+.3f}") -> str:
    """An estimate and its interval."""
    estimate, low, high = (form.format(value) for value in found)
    return f"{estimate} [{low}, {high}]"


def read() -> list[dict[str, Any]]:
    """The rows that are there."""
    rows: list[dict[str, Any]] = json.loads(OUT.read_text())["rows"] if OUT.is_file() else []
    return rows


def write(rows: Sequence[dict[str, Any]]) -> None:
    """All rows, with what they were measured with."""
    settings = {"origin": ORIGIN, "task": TASK, "seeds": SEEDS, "steps": STEPS, "further_steps": MORE, "items": ITEMS}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"machine": machine_facts(), **settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
