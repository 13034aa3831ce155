"""The tables of a results page as Markdown, from what `study report` says as JSON.

peftport study report STUDY.toml --results results/NAME --json | python tools/study_tables.py

Gains are differences in the study's metric; bold: settled after Holm's correction within the table's claim.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

CLAIMS = ("sampled", "scratch", "shuffled")


def gain(row: dict[str, Any]) -> str:
    """A gain with its interval, such as ``+.076 [.064, .087]``, bold where it is settled."""
    text = f"{signed(row['gain'])} [{short(row['low'])}, {short(row['high'])}]"
    settled = row["p_holm"] is not None and row["p_holm"] < 0.05
    return f"**{signed(row['gain'])}**{text.removeprefix(signed(row['gain']))}" if settled else text


def signed(value: float) -> str:
    """Three places with a sign, without the zero before the point."""
    return f"{value:+.3f}".replace("0.", ".", 1)


def short(value: float) -> str:
    """Three places without the zero before the point."""
    return f"{value:.3f}".replace("0.", ".", 1)


def pooled(found: dict[str, Any], scope: str, tasks: str, beside: str | None = None) -> Iterator[str]:
    """Gains over every opponent of a claim at every budget, a row for each technique or pair of hosts."""
    rows = [r for r in found["pooled"] if r["tasks"] == tasks and r["beside"] == beside and r["versus"] in CLAIMS]
    budgets = sorted({row["budget"] for row in rows})
    yield f"| {tasks} | " + " | ".join(f"over {v}, {b}" for v in CLAIMS for b in budgets) + " |"
    yield "| --- |" + " ---: |" * len(CLAIMS) * len(budgets)
    named = {name(row): row for row in rows if row["scope"] in (scope, "all")}
    for label in named:
        cells = {(r["versus"], r["budget"]): r for r in rows if r["scope"] in (scope, "all") and name(r) == label}
        yield f"| {label} | " + " | ".join(gain(cells[v, b]) for v in CLAIMS for b in budgets) + " |"


def name(row: dict[str, Any]) -> str:
    """The technique or the pair that a row is of."""
    return row["technique"] or (f"{row['origin']} → {row['receiver']}" if row["origin"] else "all")


def other_metric(found: dict[str, Any]) -> Iterator[str]:
    """The same gains in the metric beside, by pair of hosts: where accuracy and it disagree, a threshold moved."""
    rows = [r for r in found["pooled"] if r["tasks"] == "same-task" and r["beside"] is None and r["versus"] in CLAIMS]
    rows = [row for row in rows if row["scope"] in ("pair", "all")]
    budgets = sorted({row["budget"] for row in rows})
    yield (
        f"| same-task, in {rows[0]['other_metric']} | "
        + " | ".join(f"over {v}, {b}" for v in CLAIMS for b in budgets)
        + " |"
    )
    yield "| --- |" + " ---: |" * len(CLAIMS) * len(budgets)
    for label in dict.fromkeys(map(name, rows)):
        cells = {(r["versus"], r["budget"]): r["other_gain"] for r in rows if name(r) == label}
        yield f"| {label} | " + " | ".join(signed(cells[v, b]) for v in CLAIMS for b in budgets) + " |"


def verdicts(found: dict[str, Any]) -> Iterator[str]:
    """How many cells have each verdict."""
    kinds = ["same-task" if v["origin_task"] == v["receiver_task"] else "cross-task" for v in found["verdicts"]]
    counts = Counter(zip(kinds, [v["verdict"] for v in found["verdicts"]], strict=True))
    named = sorted({verdict for _, verdict in counts})
    yield "| cells | " + " | ".join(named) + " |"
    yield "| --- |" + " ---: |" * len(named)
    for kind in ("same-task", "cross-task"):
        yield f"| {kind} | " + " | ".join(str(counts[kind, verdict]) for verdict in named) + " |"


def regrets(found: dict[str, Any]) -> Iterator[str]:
    """What each rule of choosing would have cost on pairs that it was not made of."""
    yield "| rule | mean regret |"
    yield "| --- | ---: |"
    for row in found["regret"]:
        if row["technique"] is None and row["regret"] is not None:
            yield f"| {row['policy']} | {short(row['regret'])} [{short(row['low'])}, {short(row['high'])}] |"


def tables(found: dict[str, Any]) -> Iterable[str]:
    """All tables, with an empty line after each."""
    for tasks in ("same-task", "cross-task"):
        yield from (*pooled(found, "technique", tasks), "")
        yield from (*pooled(found, "pair", tasks), "")
    yield from (*other_metric(found), "")
    yield from (*verdicts(found), "")
    yield from (*regrets(found), "")


if __name__ == "__main__":
    print("\n".join(tables(json.load(sys.stdin))))
