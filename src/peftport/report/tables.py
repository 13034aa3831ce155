"""Comparisons as tables and sentences. Nothing here computes an arm or prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from peftport.analysis.verdict.choice import Contrast
from peftport.analysis.verdict.sentence import difference_in
from peftport.core.arms import BARE, FEW_SHOT
from peftport.metrics import metric_named
from peftport.metrics.choice import items_text
from peftport.report.table import Table
from peftport.workflows.compare_tables import ComparisonAnalysis
from peftport.workflows.comparison import Comparison
from peftport.workflows.demo import Demo
from peftport.workflows.references import ReferenceArm

UNDEFINED = "undefined"  # such as the correlation of numbers that are all the same


def comparison_table(analysis: ComparisonAnalysis) -> Table:
    """Mean of the judged metric over seeds, a row for each technique and arm, a column for each budget."""
    first, judged = analysis.first, analysis.judged
    budgets = sorted(first.plan.budgets)
    rows: list[tuple[str, ...]] = [("bare host", "", _bare(first), *[""] * (len(budgets) - 1))]
    if first.few_shot:
        values = [metric_named(judged.name).aggregate(test) for test in first.few_shot.values()]
        rows.append((f"with {first.plan.shots} examples", "", _spread(values), *[""] * (len(budgets) - 1)))
    rows += [("reference", arm.name, *_reference_cells(arm, judged.name, budgets)) for arm in first.references]
    for comparison in analysis.comparisons:
        for arm in comparison.plan.arms:
            cells = [_cell(comparison, arm, budget) for budget in budgets]
            rows.append((comparison.technique, arm, *cells))
    title = f"{judged.title[0].upper()}{judged.title[1:]} on {first.task}, {first.origin} -> {first.receiver}"
    title = f"{title}; {items_text(judged, first.bare)}, {len(first.plan.seeds)} seeds (lowest-highest)"
    return Table(title, ("technique", "arm", *(f"{budget} steps" for budget in budgets)), tuple(rows))


def _cell(comparison: Comparison, arm: str, budget: int) -> str:
    metric = metric_named(comparison.judged.name)
    scores = [metric.aggregate(comparison.scores[arm, budget, seed]) for seed in comparison.plan.seeds]
    return _spread(scores)


def _spread(scores: Sequence[float | None]) -> str:
    """The mean of the seeds' values, and the lowest and the highest."""
    values = [value for value in scores if value is not None]
    spread = f" ({min(values):.3f}-{max(values):.3f})" if values and max(values) > min(values) else ""
    return f"{np.mean(values):.3f}{spread}" if values else UNDEFINED


def _bare(comparison: Comparison) -> str:
    value = metric_named(comparison.judged.name).aggregate(comparison.bare)
    return UNDEFINED if value is None else f"{value:.3f}"


def comparison_sentence(analysis: ComparisonAnalysis) -> str:
    """The result in one sentence, which claims only what the analysis settles.

    It compares ported with sampled at the smallest budget. Each difference has its own interval and is called settled
    if p after Holm's correction (over all budgets and techniques) is small enough. If no sampled arm was run, it states
    the comparison that the verdict considers.
    """
    first, judged = analysis.first, analysis.judged
    if "ported" not in first.plan.arms:
        return f"No ported arm was asked for; the bare host scores {_bare(first)} in {judged.title}."
    budget, level = min(first.plan.budgets), analysis.evidence.declared.level
    sampled = "sampled" in first.plan.arms
    other = "sampled" if sampled else BARE if budget == 0 else "scratch"
    claims = list(_sampled_claims(analysis, budget) if sampled else _verdict_claims(analysis))
    if not claims:
        return f"There is no arm to compare the ported module with after {budget} steps."
    when = "without further training" if budget == 0 else f"after {budget} steps"
    above, below, open_ = ([text for text, sign in claims if sign == wanted] for wanted in (1, -1, 0))
    worse = "it is" if above else "the ported module is"
    parts = [
        _part(above, f"the ported module beats the {other} {when} for"),
        _part(below, f"{worse} worse than the {other} {when} for"),
        _part(open_, f"the difference from the {other} {when} is not settled by these seeds and test items for"),
    ]
    said = "; ".join(part for part in parts if part)
    how = f"{level:.0%} intervals, settled by Holm over all budgets and techniques" if sampled else (
        f"jointly {level:.0%} intervals"
    )  # fmt: skip
    over = f"over {len(first.plan.seeds)} seeds and {judged.items(first.bare)} test items"
    return f"{said[0].upper()}{said[1:]} ({difference_in(judged.name)}, {how}, {over})."


def few_shot_sentence(analysis: ComparisonAnalysis) -> str | None:
    """The ported module against the bare host with examples in its prompt; None where one of them was not tested."""
    first, judged = analysis.first, analysis.judged
    if not first.few_shot or "ported" not in first.plan.arms:
        return None
    budgets = sorted({min(first.plan.budgets), max(first.plan.budgets)})
    gains = [(budget, analysis.difference("ported", FEW_SHOT, budget)) for budget in budgets]
    said = ", ".join(f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] after {at} steps" for at, gain in gains)
    return (
        f"Compared with the bare host that reads {first.plan.shots} examples in its prompt, the ported module is ahead "
        f"by {said} ({difference_in(judged.name)}, {gains[0][1].level:.0%} intervals)."
    )


def _reference_cells(arm: ReferenceArm, metric: str, budgets: Sequence[int]) -> list[str]:
    """The mean and spread of a reference arm at each budget where it was tested, for a row of the table."""
    values = [(budget, seed, metric_named(metric).aggregate(test)) for (budget, seed), test in arm.tests.items()]
    if any(seed is None for _, seed, _ in values):  # one test for all budgets
        return [_spread([value for *_, value in values]), *[""] * (len(budgets) - 1)]
    by_budget = [[value for at, _, value in values if at == budget] for budget in budgets]
    return [_spread(of_budget) if of_budget else "" for of_budget in by_budget]


def reference_sentences(analysis: ComparisonAnalysis) -> list[str]:
    """Each reference arm: what it is, that it is no port, what it costs, and how far the ported module is ahead."""
    first = analysis.first
    budgets = sorted(first.plan.budgets)
    sentences = []
    for arm in first.references:
        at_all = any(seed is None for _, seed in arm.tests)
        at = [b for b in budgets if at_all or any(budget == b for budget, _ in arm.tests)]
        ends = sorted({at[0], at[-1]}) if at and "ported" in first.plan.arms else []
        gains = [(budget, analysis.difference("ported", arm.name, budget)) for budget in ends]
        said = ", ".join(f"{g.estimate:+.3f} [{g.low:+.3f}, {g.high:+.3f}] after {b} steps" for b, g in gains)
        ahead = f" The ported module is ahead of it by {said} ({difference_in(analysis.judged.name)}, " if gains else ""
        ahead += f"{gains[0][1].level:.0%} intervals)." if gains else ""
        sentences.append(f"Reference {arm.name}, no port: {arm.title}. Cost: {arm.cost}.{ahead}")
    return sentences


def _sampled_claims(analysis: ComparisonAnalysis, budget: int) -> Iterator[tuple[str, int]]:
    """Each technique's gain over the sampled arm as text, with its sign if it is settled and 0 otherwise."""
    level = analysis.evidence.declared.level
    rows = {row["technique"]: row for row in analysis.gains.filter(versus="sampled", budget=budget).rows(named=True)}
    for comparison in analysis.comparisons:
        row = rows[comparison.technique]
        if row["gain"] is not None:
            contrast = Contrast(budget, row["gain"], row["low"], row["high"])
            yield _claim(comparison.technique, contrast), contrast.sign if row["p_holm"] < 1 - level else 0


def _verdict_claims(analysis: ComparisonAnalysis) -> Iterator[tuple[str, int]]:
    for comparison in analysis.comparisons:
        contrast = analysis.by_technique.get(comparison.technique)
        if contrast is not None:
            yield _claim(comparison.technique, contrast), contrast.sign


def _claim(technique: str, contrast: Contrast) -> str:
    return f"{technique} ({contrast.gain:+.3f} [{contrast.low:+.3f}, {contrast.high:+.3f}])"


def demo_page(demo: Demo) -> str:
    """The demonstration as one Markdown page: sentence, table, how the modules do at home."""
    analysis = demo.analysis
    table = comparison_table(analysis)
    home = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in demo.origin_accuracy.items())
    s = demo.settings
    return (
        f"# peftport demo\n\n{comparison_sentence(analysis)}\n\n{table.markdown()}\n"
        f"Accuracy at home, on {s.origin} after {s.origin_steps} steps: {home}; "
        f"the bare {s.origin} scores {demo.origin_bare:.3f}.\n\n"
        f"Sampled modules are normal with each matrix's mean and standard deviation. All arms of one seed see the same "
        f"batches; every arm of a technique trains at the same learning rate. Took {demo.seconds:.0f} s.\n"
    )


def _part(names: Iterable[str], opening: str) -> str:
    listed = list(names)
    return f"{opening} {', '.join(listed)}" if listed else ""
