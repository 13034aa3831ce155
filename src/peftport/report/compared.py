"""Comparisons as findings, so that ``compare`` and ``demo`` have the same page as a study.

A comparison trains no ceiling: it has learning curves and gains, and no retention, savings or directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from peftport.analysis.stats import Interval, paired_difference
from peftport.core.arms import BARE
from peftport.core.environment import installed_versions, this_machine
from peftport.core.hashing import rng_for
from peftport.report.findings import Findings, frame
from peftport.report.html import render
from peftport.report.tables import comparison_sentence
from peftport.workflows.comparison import Comparison
from peftport.workflows.demo import Demo


def comparison_findings(
    comparisons: Sequence[Comparison], *, study: str, about: str, command: str, notes: Sequence[str] = ()
) -> Findings:
    """What some comparisons on one receiver and task found. At least one comparison."""
    first = comparisons[0]
    seeds = first.plan.seeds
    return Findings(
        study=study,
        about=about,
        command=command,
        versions=installed_versions(),
        machine=this_machine(),
        seeds=seeds,
        headlines=(comparison_sentence(comparisons),),
        scale=f"{len(seeds)} seeds and {len(first.bare.labels)} test items; intervals are over test items, "
        "with each item's correctness averaged over seeds.",
        notes=tuple(notes),
        runs=frame("runs", [row for one in comparisons for row in _runs(one)]),
        curves=frame("curves", [row for one in comparisons for row in _curves(one)]),
        gains=frame("gains", [row for one in comparisons for row in _gains(one)]),
    )


def comparison_page(found: Comparison, command: str) -> str:
    """One comparison as a page."""
    about = f"A {found.technique} module from {found.origin}, ported to {found.receiver}, on {found.task}."
    return render(comparison_findings([found], study="peftport compare", about=about, command=command))


def demo_findings(demo: Demo) -> Findings:
    """The demonstration as findings."""
    s = demo.settings
    home = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in demo.origin_accuracy.items())
    return comparison_findings(
        demo.comparisons,
        study="peftport demo",
        about=f"A module of each technique, trained on {s.origin} for {s.origin_steps} steps and copied to "
        f"{s.receiver}, against parameters sampled from the same distribution and against training from scratch, "
        f"on {s.task}.",
        command="peftport demo",
        notes=(
            f"At home, on {s.origin}: {home}; the bare {s.origin} scores {demo.origin_bare:.3f}.",
            "Sampled modules are normal with each matrix's mean and standard deviation.",
            "All arms of one seed see the same batches; every arm of a technique trains at the same learning rate.",
        ),
    )


def _place(one: Comparison, arm: str) -> dict[str, Any]:
    origin = {"origin": one.origin, "origin_task": None} if arm in ("ported", "sampled") else {}
    method = {"ported": one.plan.method, "sampled": one.plan.sampler}.get(arm)
    technique = None if arm == "bare" else one.technique
    receiver = {"receiver": one.receiver, "receiver_task": one.task}
    return {"technique": technique, "arm": arm, "method": method, **origin, **receiver}


def _runs(one: Comparison) -> Iterator[dict[str, Any]]:
    for row in one.rows:
        name = f"{row.technique}/{row.arm}/{row.budget}/{row.seed}"
        done = {"run": name, "job": name, "state": "done", "steps": row.budget, "train_seconds": row.seconds}
        yield {**asdict(row), **_place(one, row.arm), **done, "test_seconds": 0.0}


def _curves(one: Comparison) -> Iterator[dict[str, Any]]:
    items, seeds = len(one.bare.labels), len(one.plan.seeds)
    for arm, budget in [("bare", 0), *((arm, budget) for arm in one.plan.arms for budget in one.plan.budgets)]:
        found = _accuracy(one, BARE if arm == "bare" else arm, budget)
        ends = {"mean": found.estimate, "low": found.low, "high": found.high}
        yield {**_place(one, arm), **ends, "budget": budget, "seeds": 1 if arm == "bare" else seeds, "items": items}


def _accuracy(one: Comparison, arm: str, budget: int) -> Interval:
    correct = one.mean_correct(arm, budget)  # (N,)
    rng = rng_for(0, "bootstrap", one.technique, arm, budget)
    return paired_difference(correct, np.zeros_like(correct), level=0.95, rng=rng)


def _gains(one: Comparison) -> Iterator[dict[str, Any]]:
    others = [arm for arm in ("sampled", "scratch") if arm in one.plan.arms and "ported" in one.plan.arms]
    for budget in one.plan.budgets:
        for other in others:
            found = one.difference("ported", other, budget)
            ends = {"gain": found.estimate, "low": found.low, "high": found.high}
            yield {**_place(one, "ported"), **ends, "budget": budget, "versus": other, "seeds": len(one.plan.seeds)}
