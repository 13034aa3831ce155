"""Comparisons as tables and sentences. Nothing here computes an arm or prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from peftport.core.arms import BARE
from peftport.workflows.comparison import Comparison
from peftport.workflows.demo import Demo

FAMILY_LEVEL = 0.95


@dataclass(frozen=True)
class Table:
    """A titled table of text cells; the first column is text, the rest are aligned right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The table for a file."""
        lines = [self.columns, tuple(["---"] + ["---:"] * (len(self.columns) - 1)), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"{self.title}\n\n{body}\n"


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Mean accuracy over seeds, a row for each technique and arm, a column for each budget."""
    first = comparisons[0]
    budgets = sorted(first.plan.budgets)
    rows: list[tuple[str, ...]] = [("bare host", "", f"{first.bare.accuracy:.3f}", *[""] * (len(budgets) - 1))]
    for comparison in comparisons:
        for arm in comparison.plan.arms:
            cells = [_cell(comparison, arm, budget) for budget in budgets]
            rows.append((comparison.technique, arm, *cells))
    seeds, items = len(first.plan.seeds), len(first.bare.labels)
    title = f"Accuracy on {first.task}, {first.origin} -> {first.receiver}"
    title = f"{title}; {items} test items, {seeds} seeds (lowest-highest)"
    return Table(title, ("technique", "arm", *(f"{budget} steps" for budget in budgets)), tuple(rows))


def _cell(comparison: Comparison, arm: str, budget: int) -> str:
    values = [comparison.scores[arm, budget, seed].accuracy for seed in comparison.plan.seeds]
    spread = f" ({min(values):.3f}-{max(values):.3f})" if max(values) > min(values) else ""
    return f"{np.mean(values):.3f}{spread}"


def comparison_sentence(comparisons: Sequence[Comparison]) -> str:
    """What came out, in one sentence, claiming only what the intervals carry.

    Ported against sampled at the smallest budget, one paired bootstrap interval over test items a technique, at a
    level that holds for all of them together (Bonferroni).
    """
    first = comparisons[0]
    budget = min(first.plan.budgets)
    other = "sampled" if "sampled" in first.plan.arms else BARE
    if "ported" not in first.plan.arms:
        return f"No ported arm was asked for; the bare host scores {first.bare.accuracy:.3f}."
    level = 1 - (1 - FAMILY_LEVEL) / len(comparisons)
    found = {c.technique: c.difference("ported", other, budget, level) for c in comparisons}
    texts = {t: f"{t} ({i.estimate:+.3f} [{i.low:+.3f}, {i.high:+.3f}])" for t, i in found.items()}
    above = [texts[t] for t, i in found.items() if i.low > 0]
    below = [texts[t] for t, i in found.items() if i.high < 0]
    open_ = [texts[t] for t, i in found.items() if not i.excludes_zero]
    when = "without further training" if budget == 0 else f"after {budget} steps"
    parts = [
        _part(above, f"the ported module beats the {other} {when} for"),
        _part(
            below,
            f"it is worse than the {other} {when} for"
            if above
            else f"the ported module is worse than the {other} {when} for",
        ),
        _part(open_, f"the difference from the {other} {when} is not settled by these test items for"),
    ]
    said = "; ".join(part for part in parts if part)
    joint = f"jointly {FAMILY_LEVEL:.0%}" if len(comparisons) > 1 else f"{FAMILY_LEVEL:.0%}"
    how = f"difference in accuracy, {joint} intervals over {len(first.bare.labels)} test items"
    return f"{said[0].upper()}{said[1:]} ({how})."


def demo_page(demo: Demo) -> str:
    """The demonstration as one Markdown page: sentence, table, how the modules do at home."""
    table = comparison_table(demo.comparisons)
    home = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in demo.origin_accuracy.items())
    s = demo.settings
    return (
        f"# peftport demo\n\n{comparison_sentence(demo.comparisons)}\n\n{table.markdown()}\n"
        f"At home, on {s.origin} after {s.origin_steps} steps: {home}; "
        f"the bare {s.origin} scores {demo.origin_bare:.3f}.\n\n"
        f"Sampled modules are normal with each matrix's mean and standard deviation. All arms of one seed see the same "
        f"batches; every arm of a technique trains at the same learning rate. Took {demo.seconds:.0f} s.\n"
    )


def _part(names: Iterable[str], opening: str) -> str:
    listed = list(names)
    return f"{opening} {', '.join(listed)}" if listed else ""
