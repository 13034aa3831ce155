"""What training options for modules that travel cost at home, and gain on updates of the host.

    PYTHONPATH=src:benchmarks python benchmarks/travelling.py    writes benchmarks/results/travelling.json
    PYTHONPATH=src:benchmarks python benchmarks/travelling.py --table    prints what is there as Markdown

LoRAs on the origin of `benchmarks/upgrades.toml`, with its settings and seeds, trained plainly and with each option of
`peftport train` that is made for portability, are tested at home, and copied to the relative and the drifted receiver:
as they are, and after the further steps there. Differences to plain training are paired over seeds and test items.

"by turns" is no option of `train`: as many steps, on the relative and on the origin in turn (Adam starts anew at each
turn), so that the drifted receiver alone is an update that the module has not seen.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine_facts
from upgrades import MORE, PLAN, SEEDS, SETTINGS, bits, bound, declared, halves, interval, row, trained

from peftport.analysis.stats.crossed import crossed_from_items
from peftport.core.hashing import rng_for
from peftport.modules.module import Module
from peftport.porting import porter_named
from peftport.tasks import load_task
from peftport.tasks.kinds.classification import as_scores
from peftport.techniques import make_spec
from peftport.techniques.base import TechniqueSpec
from peftport.training.bound_task import BoundTask, Start

OUT = Path(__file__).parent / "results" / "travelling.json"
OPTIONS: dict[str, dict[str, float]] = {
    "plain": {},
    "norm_penalty=0.001": {"norm_penalty": 1e-3},
    "norm_penalty=0.01": {"norm_penalty": 1e-2},
    "drop_ffn=0.1": {"drop_ffn": 0.1},
    "mask_ffn=0.1": {"mask_ffn": 0.1},
    "drop_ffn=0.1, mask_ffn=0.1": {"drop_ffn": 0.1, "mask_ffn": 0.1},
}
BY_TURNS, TURNS, SEEN = "by turns", 4, "relative"
RECEIVERS = (SEEN, "drifted")


def by_turns(hosts: Sequence[BoundTask], spec: TechniqueSpec) -> list[Module]:
    """A fresh module a seed, trained on these hosts of one shape in turn; its numbers go on as they are."""
    rate, steps = PLAN["learning_rates"][spec.kind], PLAN["origin_steps"] // TURNS
    starts = [Start(hosts[-1].fresh(spec, seed), seed) for seed in SEEDS]
    for turn in range(TURNS):
        on = hosts[turn % len(hosts)]
        kept = [one[steps] for one in on.train(spec, starts, (steps,), rate)]
        starts = [Start(one.matrices, 1000 * (turn + 1) + seed) for seed, one in zip(SEEDS, kept, strict=True)]
    return [hosts[-1].module(spec, one, seed, rate) for seed, one in zip(SEEDS, kept, strict=True)]


def tests_away(away: BoundTask, modules: Sequence[Module]) -> Iterator[tuple[int, list[Any]]]:
    """Modules copied to a receiver: their tests as they are and after the further steps."""
    copies = [porter_named("copy").port(m, away.host, rng_for(s, "port")) for s, m in zip(SEEDS, modules, strict=True)]
    spec = copies[0].spec
    starts = [Start(away.startable(copy), seed) for seed, copy in zip(SEEDS, copies, strict=True)]
    kept = away.train(spec, starts, (0, MORE), PLAN["learning_rates"][spec.kind])
    for steps in (0, MORE):
        yield steps, away.test(spec, [each[steps].matrices for each in kept])


def rows_of(option: str, home: BoundTask, away: Mapping[str, BoundTask]) -> Iterator[dict[str, Any]]:
    """The tests of modules that were trained with an option, or by turns: at home, and on each receiver."""
    spec = make_spec("lora")
    if option == BY_TURNS:
        modules = by_turns([replace(away[SEEN], task=home.task), home], spec)
    else:
        disturbed = replace(home, settings=SETTINGS.model_copy(update=OPTIONS[option]))
        modules = trained(disturbed, spec, PLAN["origin_steps"])
    tests = [as_scores(one) for one in home.test(spec, [home.startable(module) for module in modules])]
    yield {"where": "home", **row(option, 0, tests, 0.0)}
    for name, bound_task in away.items():
        for steps, found in tests_away(bound_task, modules):
            yield {"where": name, **row(option, steps, [as_scores(one) for one in found], 0.0)}


def markdown(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Accuracy, and the difference to plain training, a line an option."""
    places = list(dict.fromkeys((each["where"], each["steps"]) for each in rows))
    titles = [where if where == "home" else f"{where}, {steps} steps" for where, steps in places]
    yield f"| trained with | {' | '.join(titles)} |"
    yield f"| --- | {' | '.join(['---:'] * len(titles))} |"
    found = {(each["arm"], each["where"], each["steps"]): each for each in rows}
    for option in dict.fromkeys(each["arm"] for each in rows):
        cells = []
        for where, steps in places:
            own, plain = found[option, where, steps], found["plain", where, steps]
            cell = f"{np.mean(own['accuracy']):.3f}"
            if option != "plain":
                crossed = crossed_from_items(np.stack([bits(own), bits(plain)])[None])
                cell += f", {interval(crossed.contrast([1.0, -1.0]))}"
            cells.append(cell)
        yield f"| {option} | {' | '.join(cells)} |"


def main() -> None:
    """Every option that has no rows yet, or the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    asked = parser.parse_args()
    rows = json.loads(OUT.read_text(encoding="utf-8"))["rows"] if OUT.is_file() else []
    if asked.table:
        print("\n".join(markdown(rows)))
        return
    torch.set_num_threads(1)
    ours, theirs = halves(load_task(PLAN["task"]))
    home = bound(PLAN["origin"], ours)
    away = {name: bound(PLAN["receivers"][name], theirs) for name in RECEIVERS}
    for option in (*OPTIONS, BY_TURNS):
        if any(each["arm"] == option for each in rows):
            continue
        rows += list(rows_of(option, home, away))
        facts = {"declared": declared(), "machine": machine_facts()}
        OUT.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
        print(option, [round(float(np.mean(r["accuracy"])), 3) for r in rows if r["arm"] == option], flush=True)


if __name__ == "__main__":
    main()
