"""Every porting method and what could be done instead of porting, on base-model upgrades of several kinds.

    PYTHONPATH=src:benchmarks python benchmarks/upgrades.py [--receivers NAME,NAME] [--techniques NAME,NAME]
        writes benchmarks/results/upgrades/RECEIVER-TECHNIQUE.json, arm after arm: what is there is not done again
    PYTHONPATH=src:benchmarks python benchmarks/upgrades.py --table
        prints what is there as Markdown, and whether a method passes the gate
    PYTHONPATH=src:benchmarks python benchmarks/upgrades.py --between RECEIVER-TECHNIQUE ARM STEPS ARM STEPS
        prints the difference of two arms, after so many further steps each, of which the table has none
    DECLARED=upgrades_confirmed ...
        does either for another declaration of this folder

`benchmarks/upgrades.toml` says what is run and what is called a win; `benchmarks/upgrades.md` has what came out.
Modules are trained on the origin on texts that nothing on the receivers sees. On a receiver all arms have the same
further texts: without labels for methods that read texts and for distilling, with labels for the further steps.
What answers with a text is right where the whole answer is (`exact_match`).

    METHOD     every method of `peftport methods` that can carry the module to this receiver
    distill    trained without labels to predict what the module predicts, also into the other technique, and by every
               lesson that is declared: what of answers is taught, which texts are kept, prompts that the origin makes
    offset     both hosts at test time: the receiver's scores and what the module changes in the origin's
    sampled, fresh, equal, few_shot, ceiling, bare     what a port has to beat, and what frames it (upgrades.toml)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from machine import machine_facts

from peftport.analysis.stats.crossed import Estimates, crossed_from_items, crossed_from_means
from peftport.analysis.stats.permutation import holm
from peftport.core.errors import PeftportError
from peftport.core.hashing import rng_for
from peftport.core.progress import Silent
from peftport.hosts.loading import Loading
from peftport.metrics import metric_named
from peftport.modules.module import Module
from peftport.porting import METHODS, porter_named, sampler_named
from peftport.porting.base import Anchor, PortCache, Porter, PortInputs
from peftport.tasks import load_task
from peftport.tasks.kinds.classification import as_scores
from peftport.tasks.kinds.completion import Answers, Completion
from peftport.tasks.spec import Example, Predictions
from peftport.tasks.task import Split, Task
from peftport.techniques import make_spec
from peftport.techniques.base import TechniqueSpec
from peftport.training.bound_task import BoundTask, Start, bind_task
from peftport.training.loop import Entry, TrainSettings, train_entries
from peftport.workflows.answers import SHOTS, few_shot
from peftport.workflows.distill import DistillOptions, distill
from peftport.workflows.host_prompts import made_prompts
from peftport.workflows.lesson import Teaching
from peftport.workflows.port_inputs import MOST_TEXTS, TaskLosses, open_port_inputs
from peftport.workflows.references import few_shot_of_classes, labelled_items, logit_offset

HERE = Path(__file__).parent
NAME = os.environ.get("DECLARED", "upgrades")
DECLARED, RESULTS = HERE / f"{NAME}.toml", HERE / "results" / NAME
PLAN: dict[str, Any] = tomllib.loads(DECLARED.read_text(encoding="utf-8"))
SEEDS, MORE = tuple(PLAN["seeds"]), int(PLAN["further_steps"])
SETTINGS = TrainSettings(batch_size=PLAN.get("batch_size", 16), max_tokens=PLAN.get("max_tokens", 64))
MEASURE = metric_named(PLAN.get("measure", "auroc"))  # beside how much is right
OTHER = {"lora": "adapter", "adapter": "lora"}
Bits = npt.NDArray[np.uint8]


def bound(host: str, task: Task) -> BoundTask:
    """A task on a host, as everything here is trained and tested."""
    return bind_task(host, task, None, SETTINGS, PLAN["items"], Loading(dtype=PLAN["dtype"]), PLAN["items"])


def halves(task: Task) -> tuple[Task, Task]:
    """The task with the texts that origins learn from, and with those that receivers have."""
    n, train = PLAN["texts"], task.train
    rest = Split(train.ids[n:], train.examples[n:], train.targets[n:])
    return replace(task, train=rest), replace(task, train=train.head(n))


def trained(on: BoundTask, spec: TechniqueSpec, steps: int, seeds: Sequence[int] = SEEDS) -> list[Module]:
    """A fresh module a seed, trained for so many steps."""
    rate = PLAN["learning_rates"][spec.kind]
    kept = on.train(spec, [Start(on.fresh(spec, seed), seed) for seed in seeds], (steps,), rate)
    return [on.module(spec, one[steps], seed, rate) for seed, one in zip(seeds, kept, strict=True)]


@dataclass(frozen=True, eq=False)
class Pair:
    """One technique's modules, from the origin to a receiver."""

    receiver: str
    technique: str
    home: BoundTask
    away: BoundTask  # with the texts that receivers have
    modules: Sequence[Module]
    cache: PortCache

    @cached_property
    def spec(self) -> TechniqueSpec:
        """The technique's own settings."""
        return make_spec(self.technique)

    @cached_property
    def anchors(self) -> list[Anchor]:
        """Modules of other tasks on both hosts; only a LoRA can be carried by them."""
        if self.technique != "lora":
            return []
        hosts = (PLAN["origin"], PLAN["receivers"][self.receiver])
        tasks = [load_task(name) for name in PLAN["anchors"]]
        return [Anchor(*(trained(bound(h, t), self.spec, PLAN["anchor_steps"], (0,))[0] for h in hosts)) for t in tasks]

    def inputs(self, module: Module, porter: Porter) -> PortInputs:
        """All that a method may use."""
        texts, losses = self.away.task.train.texts[:MOST_TEXTS], TaskLosses(self.away, module)
        anchors = self.anchors if porter.needs == "anchors" else ()
        most = SETTINGS.max_tokens
        return PortInputs(self.home.host, texts, losses, shared=self.cache, anchors=anchors, max_tokens=most)


# --- arms: what each seed's further steps begin with -----------------------------------------------------------------


def ported(porter: Porter) -> Callable[[Pair], list[Module]]:
    """Every module carried by a method."""
    return lambda pair: [
        porter.port(module, pair.away.host, rng_for(seed, "port"), pair.inputs(module, porter))
        for seed, module in zip(SEEDS, pair.modules, strict=True)
    ]


def bico_with_labels(pair: Pair) -> list[Module]:
    """Every module carried by `bico` with the losses of 128 labelled texts on both hosts."""
    made, porter = [], porter_named("bico")
    for seed, module in zip(SEEDS, pair.modules, strict=True):
        inputs = open_port_inputs(
            porter, module, pair.away.host, origin=pair.home.host, bound_task=pair.away, shared=pair.cache,
            max_tokens=SETTINGS.max_tokens,
        )  # fmt: skip
        made.append(porter.port(module, pair.away.host, rng_for(seed, "port"), inputs))
    return made


def sampled(pair: Pair) -> list[Module]:
    """Random numbers like those of the module, resized first where the receiver has another shape."""
    resized = ported(porter_named("resize"))(pair)
    draw = sampler_named("gaussian")
    return [draw.port(m, pair.away.host, rng_for(s, "sample")) for s, m in zip(SEEDS, resized, strict=True)]


def distilled(
    into: str | None = None, prompts: int = 0, teach: Teaching = "sequences", keep: float = 1.0
) -> Callable[[Pair], list[Module]]:
    """Every module distilled, into its own technique or another one, on the texts or on so many made prompts."""

    def make(pair: Pair) -> list[Module]:
        kind, made = into or pair.technique, []
        how = DistillOptions(PLAN["distill_steps"], 0, PLAN["learning_rates"][kind], make_spec(kind), teach, keep)
        for seed, module in zip(SEEDS, pair.modules, strict=True):
            texts: Sequence[Example] = pair.away.task.train.examples
            if prompts:
                texts = made_prompts(module, pair.home, prompts, seed, Silent())
            made.append(distill(module, pair.home, pair.away, texts, replace(how, seed=seed)))
        return made

    return make


def equal(steps: int) -> Callable[[Pair], list[Module]]:
    """A fresh module trained for so many steps on the texts of the further steps, with their labels."""

    def make(pair: Pair) -> list[Module]:
        away, rate, split = pair.away, PLAN["learning_rates"][pair.technique], pair.away.train_split
        entries = []
        for seed in SEEDS:
            own = labelled_items(away, MORE, seed)
            rows = [split.rows[place] for place in own]
            entries.append(Entry(away.fresh(pair.spec, seed), rows, np.asarray(split.targets)[own], seed, rate))
        kept = train_entries(away.host, away.readout, pair.spec, entries, [steps], SETTINGS)
        return [away.module(pair.spec, one[steps], seed, rate) for seed, one in zip(SEEDS, kept, strict=True)]

    return make


def fresh(pair: Pair) -> list[Module]:
    """A fresh module a seed."""
    return trained(pair.away, pair.spec, 0)


def ceiling(pair: Pair) -> list[Module]:
    """A fresh module trained as long as the origin's, on the texts that the origin's learnt from."""
    return trained(replace(pair.away, task=pair.home.task), pair.spec, PLAN["origin_steps"])


EQUAL = f"equal, {MORE + PLAN['distill_steps']} steps"  # what distilling is held against, as fresh is what others are
LONGER = {f"equal, {steps} steps": steps for steps in PLAN.get("longer", ())}  # as much time as distilling takes
LESSONS: dict[str, dict[str, Any]] = PLAN.get("lessons", {})
# Every arm, whether it gets the further steps, and how many steps it has taken before.
ARMS: dict[str, tuple[Callable[[Pair], list[Module]], bool, int]] = {
    "fresh": (fresh, True, 0),
    "sampled": (sampled, True, 0),
    **{porter.name: (ported(porter), True, 0) for porter in METHODS},
    "bico, 128 labels": (bico_with_labels, True, 0),
    "distill": (distilled(), True, PLAN["distill_steps"]),
    **{f"distill, {name}": (distilled(**how), True, PLAN["distill_steps"]) for name, how in LESSONS.items()},
    "distill into the other technique": (lambda p: distilled(OTHER[p.technique])(p), True, PLAN["distill_steps"]),
    EQUAL: (equal(MORE + PLAN["distill_steps"]), False, MORE + PLAN["distill_steps"]),
    **{name: (equal(steps), False, steps) for name, steps in LONGER.items()},
    "ceiling": (ceiling, False, PLAN["origin_steps"]),
}
UNTRAINED = ("bare", "few_shot", "offset")
PLANNED: list[str] = PLAN.get("arms", [*UNTRAINED, *ARMS])
FRAMES = ("bare", "fresh", "sampled", EQUAL, *LONGER, "few_shot", "offset", "ceiling")
RIVALS = ("resize", "sampled", "equal", *LONGER, "few_shot")


# --- running ---------------------------------------------------------------------------------------------------------


def rows_of_arm(pair: Pair, arm: str) -> Iterator[dict[str, Any]]:
    """The tests of one arm as it is, and after the further steps where it gets them."""
    if arm in UNTRAINED:
        begun = time.process_time()
        yield row(arm, MORE if arm == "few_shot" else 0, untrained(pair, arm), time.process_time() - begun)
        return
    make, goes_on, _ = ARMS[arm]
    begun = time.process_time()
    try:
        modules = make(pair)
    except PeftportError as error:
        yield {"arm": arm, "refused": str(error)}
        return
    seconds = time.process_time() - begun
    spec = modules[0].spec
    budgets = (0, MORE) if goes_on else (0,)
    starts = [Start(pair.away.startable(module), seed) for seed, module in zip(SEEDS, modules, strict=True)]
    kept = pair.away.train(spec, starts, budgets, PLAN["learning_rates"][spec.kind])
    for steps in budgets:
        tests = pair.away.test(spec, [each[steps].matrices for each in kept])
        notes = {seed: module.ports[-1].slots for seed, module in zip(SEEDS, modules, strict=True) if module.ports}
        yield row(arm, steps, tests, seconds) | ({"slots": notes[0]} if 0 in notes and steps == 0 else {})


def untrained(pair: Pair, arm: str) -> Sequence[Predictions]:
    """The tests of an arm that trains nothing, one a seed."""
    answers = isinstance(pair.away.task.spec, Completion)
    if arm == "few_shot" and answers:
        by_seed = few_shot(pair.away, SHOTS, SEEDS, Silent())
        return [by_seed[seed] for seed in SEEDS]
    if arm == "few_shot":
        tests = few_shot_of_classes(pair.away, (MORE,), SEEDS, Silent()).tests
        return [tests[MORE, seed] for seed in SEEDS]
    [bare] = pair.away.test(None, [])
    if arm == "bare":
        return [bare] * len(SEEDS)
    bare = as_scores(bare)
    arms = [logit_offset(module, pair.home, pair.away, bare, 1.0, "accuracy", Silent()) for module in pair.modules]
    return [each.tests[0, None] for each in arms]


def row(arm: str, steps: int, tests: Sequence[Predictions], seconds: float) -> dict[str, Any]:
    """One arm after so many further steps: measures by seed, and which items were right."""
    correct = [right(test) for test in tests]
    return {
        "arm": arm, "steps": steps, "seconds_a_module": round(seconds / len(SEEDS), 1),
        "accuracy": [float(each.mean()) for each in correct],
        MEASURE.name: [MEASURE.aggregate(test) for test in tests],
        "correct": ["".join(map(str, each.astype(int))) for each in correct],
    }  # fmt: skip


def right(test: Predictions) -> npt.NDArray[Any]:
    """Which items were predicted right, (N,): the class, or the whole answer."""
    if not isinstance(test, Answers):
        return as_scores(test).correct
    exact = metric_named("exact_match").per_item(test)
    assert exact is not None, "the items of upgrades are all answered"
    return exact


def run(receiver: str, technique: str, home: BoundTask, modules: Sequence[Module], arms: Sequence[str]) -> None:
    """Every arm of one receiver and technique that has no rows yet."""
    file = RESULTS / f"{receiver}-{technique}.json"
    away = bound(PLAN["receivers"][receiver], halves(load_task(PLAN["task"]))[1])
    pair = Pair(receiver, technique, home, away, modules, PortCache())
    for arm in arms:
        rows = read(file)
        if any(each["arm"] == arm for each in rows):
            continue
        rows += rows_of_arm(pair, arm)
        write(file, rows, pair)
        for each in rows:
            if each["arm"] == arm:
                said = each.get("refused") or f"{each['steps']:3d} {np.mean(each['accuracy']):.3f}"
                print(f"{receiver} {technique} {arm}: {said}", flush=True)


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file. Refuses those of another declaration."""
    if not file.is_file():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))
    if found["declared"] != declared():
        raise SystemExit(f"{file}: expected results of {DECLARED.name} as it is, got those of another; move them away")
    rows: list[dict[str, Any]] = found["rows"]
    return rows


def write(file: Path, rows: Sequence[Mapping[str, Any]], pair: Pair) -> None:
    """All rows, with what they were measured with."""
    file.parent.mkdir(parents=True, exist_ok=True)
    at_home = [float(right(t).mean()) for t in home_tests(pair)] if not file.is_file() else None
    kept = {"at_home": at_home} if at_home else {"at_home": json.loads(file.read_text())["at_home"]}
    head = {"declared": declared(), "machine": machine_facts(), "hosts": [pair.home.host.name, pair.away.host.name]}
    file.write_text(json.dumps({**head, **kept, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def home_tests(pair: Pair) -> list[Any]:
    """The tests of every module on its origin, the bare origin last."""
    of_modules = pair.home.test(pair.spec, [pair.home.startable(module) for module in pair.modules])
    return [*of_modules, *pair.home.test(None, [])]


def declared() -> str:
    """The hash of the declaration."""
    return hashlib.sha256(DECLARED.read_bytes()).hexdigest()


# --- what came out ---------------------------------------------------------------------------------------------------


def contrasts(rows: Sequence[Mapping[str, Any]], arm: str, steps: int) -> dict[str, Estimates]:
    """The difference of an arm to each of what the gate holds it against, where that was run."""
    found = {(each["arm"], each["steps"]): bits(each) for each in rows if "refused" not in each}
    against = {
        "resize": ("resize", steps), "equal": (EQUAL, 0) if arm.startswith("distill") else ("fresh", steps),
        "few_shot": ("few_shot", MORE), "sampled": ("sampled", steps), "bare": ("bare", 0),
        **{name: (name, 0) for name in LONGER},
    }  # fmt: skip
    differences = {}
    for name, key in against.items():
        if key not in found:
            continue
        crossed = crossed_from_items(np.stack([found[arm, steps], found[key]])[None])
        differences[name] = crossed.contrast([1.0, -1.0])
    return differences


def bits(of_row: Mapping[str, Any]) -> Bits:
    """Which items were right, (S, N)."""
    return np.array([[int(each) for each in seed] for seed in of_row["correct"]], dtype=np.uint8)


def passes(rows: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Whether each method passes the gate on one pair and technique, by Holm over methods and rivals."""
    methods = [a for a in arms_of(rows) if a not in FRAMES and a != "resize"]
    found, above = {arm: contrasts(rows, arm, MORE) for arm in methods}, PLAN["gate"]["above"]
    if not methods or any(name not in of_arm for of_arm in found.values() for name in above):
        return {}  # not all was run yet
    p = holm(np.array([float(found[arm][name].p[0]) for arm in methods for name in above])).reshape(len(methods), -1)
    return {
        arm: bool((p[i] < 0.05).all() and all(found[arm][n].estimate[0] >= PLAN["gate"]["margin"] for n in above))
        for i, arm in enumerate(methods)
    }


def arms_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The arms that were run, in their order."""
    return list(dict.fromkeys(each["arm"] for each in rows if "refused" not in each))


def markdown() -> Iterator[str]:
    """A table a pair and technique."""
    for file in sorted(RESULTS.glob("*.json")):
        rows = read(file)
        found = json.loads(file.read_text(encoding="utf-8"))
        *own, alone = found["at_home"]
        yield f"### {file.stem}\n\nAt home {np.mean(own):.3f}, the origin alone {alone:.3f}.\n"
        over = " | ".join(f"over {name}" for name in RIVALS)
        title = {"auroc": "AUROC", "negative_log_likelihood": "nats"}[MEASURE.name]
        yield f"| arm | as it is | after {MORE} steps | {over} | {title}, as it is | after {MORE} | seconds |"
        yield f"| --- |{' ---: |' * (5 + len(RIVALS))}"
        gate = passes(rows)
        lacking = [arm for arm in PLANNED if all(each["arm"] != arm for each in rows)]
        for arm in arms_of(rows):
            yield line(rows, arm, gate.get(arm, False))
        if lacking:
            yield f"\nNot run yet: {', '.join(lacking)}."
        refused = [each for each in rows if "refused" in each]
        if refused:
            yield "\nCannot carry this module to this receiver: " + ", ".join(f"`{r['arm']}`" for r in refused) + "."
        yield ""


def line(rows: Sequence[Mapping[str, Any]], arm: str, won: bool) -> str:
    """One arm's row; bold where it passes the gate."""
    own = {each["steps"]: each for each in rows if each["arm"] == arm}
    name = arm if arm in FRAMES or arm.startswith("distill") else f"`{arm}`"
    cells = [f"**{name}**" if won else name]
    cells += [f"{np.mean(own[s]['accuracy']):.3f}" if s in own else "" for s in (0, MORE)]
    if MORE in own and arm not in FRAMES:
        found = contrasts(rows, arm, MORE)
        cells += [interval(found[each]) if each in found and each != arm else "" for each in RIVALS]
    else:
        cells += [""] * len(RIVALS)
    cells += [f"{np.mean(own[s][MEASURE.name]):.3f}" if s in own else "" for s in (0, MORE)]
    cells.append(f"{own[max(own)]['seconds_a_module']:.0f}")
    return f"| {' | '.join(cells)} |"


def between(stem: str, one: str, steps: str, other: str, other_steps: str) -> str:
    """The difference of two rows of a file: of what is right over seeds and items, and of the measure over seeds."""
    found = {(each["arm"], str(each["steps"])): each for each in read(RESULTS / f"{stem}.json") if "steps" in each}
    pair = [found[one, steps], found[other, other_steps]]
    right = crossed_from_items(np.stack([bits(each) for each in pair])[None])
    measured = np.array([each[MEASURE.name] for each in pair])[None]  # (1, 2, S)
    seeds = crossed_from_means(measured, np.zeros((1, 2)), np.array([PLAN["items"]]))
    of_right, of_measure = (interval(each.contrast([1.0, -1.0])) for each in (right, seeds))
    return f"right {of_right}; {MEASURE.title}, over seeds, {of_measure}"


def interval(of: Estimates) -> str:
    """An estimate and its 95 % interval."""
    estimate, margin = float(of.estimate[0]), float(of.margin(0.95)[0])
    return f"{estimate:+.3f} [{estimate - margin:+.3f}, {estimate + margin:+.3f}]"


def main() -> None:
    """Run what has no rows yet, or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--receivers", default=",".join(reversed(PLAN["receivers"])))
    parser.add_argument("--techniques", default=",".join(PLAN["techniques"]))
    parser.add_argument("--arms", nargs="+", default=PLANNED, choices=[*UNTRAINED, *ARMS], metavar="ARM")
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    parser.add_argument("--between", nargs=5, metavar=("FILE", "ARM", "STEPS", "ARM", "STEPS"), help="two rows")
    asked = parser.parse_args()
    if asked.between:
        print(between(*asked.between))
        return
    if asked.table:
        print("\n".join(markdown()))
        return
    torch.set_num_threads(1)
    home = bound(PLAN["origin"], halves(load_task(PLAN["task"]))[0])
    for technique in asked.techniques.split(","):
        modules = trained(home, make_spec(technique), PLAN["origin_steps"])
        for receiver in asked.receivers.split(","):
            run(receiver, technique, home, modules, asked.arms)


if __name__ == "__main__":
    main()
