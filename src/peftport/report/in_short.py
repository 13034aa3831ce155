"""What the first screen of a page says: the question in words, the verdict, and the few numbers behind it on one axis.

A comparison has a card for each technique: the means of its arms without further training and after the longest. A
study of many cells has a card for the cells that stay on one task and one for those that cross tasks: how many cells
have which verdict, and the pooled gains over each opponent.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from peftport.core.libraries import pl
from peftport.report.cards import Card, on_axis
from peftport.report.findings import Findings

MOST_CARDS = 6  # with more cells, pooled gains are shown in their place
ARMS = ("ported", "sampled", "shuffled", "scratch", "bare")
OPPONENTS = ("sampled", "shuffled", "scratch", "bare")
MOST_MARKS = 12  # with more gains, only those over one opponent are shown


def cards(findings: Findings) -> list[Card]:
    """The cards of a page; none where no verdict was given."""
    verdicts = findings.verdicts
    if 0 < verdicts.height <= MOST_CARDS:
        return [_of_cell(findings, row) for row in verdicts.iter_rows(named=True)]
    kinds: list[str] = findings.pooled["tasks"].unique(maintain_order=True).to_list() if verdicts.height else []
    return [_of_cells(findings, kind) for kind in kinds]


def _of_cell(findings: Findings, verdict: dict[str, Any]) -> Card:
    """One module on one receiver: its arms without further training and after the most of it."""
    curves = findings.curves.filter(receiver=verdict["receiver"], receiver_task=verdict["receiver_task"])
    own = curves.filter((pl.col("technique") == verdict["technique"]) | (pl.col("arm") == "bare"))
    if verdict["method"] is not None:  # none where no method is to be used
        own = own.filter((pl.col("arm") != "ported") | (pl.col("method") == verdict["method"]))
    rows = []
    for budget in sorted({0, *own["budget"].drop_nulls().sort().tail(1).to_list()}):
        for arm in ARMS:
            found = own.filter(arm=arm, budget=budget)
            when = "" if arm == "bare" else ", not trained on" if not budget else f", after {budget} steps"
            rows += [(f"{arm}{when}", arm, *found.select("mean", "low", "high").row(0))] if found.height else []
    marks, zero = on_axis(rows, signed=False)
    task = verdict["receiver_task"] or "the task"
    question = (
        f"Is this {verdict['technique']} module of {verdict['origin']} of use on {verdict['receiver']}, for {task}?"
    )
    steps = verdict["cost_steps"]
    below = "" if steps is None else "It costs no training." if not steps else f"It costs {steps:.0f} training steps."
    return Card(question, verdict["verdict"], verdict["sentence"], marks, zero, below)


def _of_cells(findings: Findings, kind: str) -> Card:
    """All cells of a kind: their verdicts, and the pooled gains at the ends of training."""
    same = (pl.col("origin_task") == pl.col("receiver_task")) == (kind == "same-task")
    counts = Counter(findings.verdicts.filter(same)["verdict"].to_list())
    whole = findings.pooled.filter(pl.col("beside").is_null(), scope="all", tasks=kind)
    whole = whole.filter(pl.col("budget").is_in([whole["budget"].min(), whole["budget"].max()]))
    whole = whole.filter(pl.col("versus").is_in(OPPONENTS), (pl.col("versus") != "bare") | (pl.col("budget") == 0))
    if whole.height > MOST_MARKS:  # of several methods
        whole = whole.filter(versus="scratch" if "scratch" in whole["versus"] else whole["versus"][0])
    methods = whole["method"].n_unique() > 1
    rows = [
        (
            f"over {row['versus']}" + (f" by {row['method']}" if methods else "") + _after(row["budget"]),
            row["versus"],
            *(row[name] for name in ("gain", "low", "high")),
        )
        for row in whole.sort("budget", maintain_order=True).iter_rows(named=True)
    ]
    marks, zero = on_axis(rows, signed=True)
    [(verdict, most)] = counts.most_common(1) or [("not enough evidence", 0)]
    what = "the task that it was trained for" if kind == "same-task" else "another task than its own"
    others = ", ".join(f"{count} {word}" for word, count in counts.most_common()[1:])
    sentence = f"{most} of {counts.total()} cells: {verdict}" + (f" ({others})." if others else ".")
    question = f"Is a module of use on another host, for {what}?"
    return Card(question, verdict, sentence, marks, zero, "Gains of ported modules, over all cells of this kind.")


def _after(budget: int) -> str:
    return f", after {budget} steps" if budget else ", not trained on"
