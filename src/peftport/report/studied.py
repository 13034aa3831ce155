"""A study as findings: its measures, its main results in sentences, and how it was run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from peftport.analysis.columns import completed
from peftport.analysis.measures import (
    Declared,
    Evidence,
    aggregates,
    curves,
    directions,
    gains,
    lifts,
    pooled,
    retention,
    savings,
)
from peftport.analysis.measures.evidence import RELATION, SAME, relations
from peftport.analysis.measures.pooled import ALL, CLAIMED, OPPOSITE, OTHERS, TECHNIQUE
from peftport.analysis.verdict.regret import regret_report
from peftport.analysis.verdict.table import verdicts
from peftport.core.hashing import rng_for
from peftport.core.libraries import pl
from peftport.core.progress import current
from peftport.metrics import metric_named
from peftport.metrics.choice import StudyMetric
from peftport.metrics.texts import TextMetric
from peftport.report.findings import Findings
from peftport.report.table import Table
from peftport.study.about import About
from peftport.study.gates import GateResult
from peftport.study.grid import StudySpec
from peftport.study.items import CLASSES
from peftport.study.judged import JudgedItems
from peftport.study.tested import judged_by


def study_findings(
    runs: pl.DataFrame,
    correct: pl.DataFrame,
    told: About,
    declared: Declared | None = None,
    *,
    judged: StudyMetric | None = None,
    items: JudgedItems | None = None,
) -> Findings:
    """Everything a study's report shows, from its two exported tables.

    Args:
        runs: a row a run.
        correct: which items each run got right.
        told: how the study was run.
        declared: how it is judged; the default is by ``judged``, the rest as usual.
        judged: the metric; the default is that of the study file, or the one that fits its test sets.
        items: what the items say of that metric, where it is not accuracy and they are held.

    """
    study = told.study
    judged = judged or judged_by(told.tested, study.testing.metric)
    evidence = Evidence.of(
        _judged_items(completed(runs), judged.name, told, items),
        correct,
        declared or Declared(metric=judged.name, sampler=_sampler(study, runs)),
        items=items.items if items else None,
        draws=items.draws if items else None,
        tests=items.tests if items else None,
    )
    counted = _counting(9)
    kept = counted(retention(evidence))
    grid, words = counted(aggregates(evidence, rng=rng_for(0, "aggregates"))), counted(verdicts(evidence))
    gained, together = counted(gains(evidence, rng=rng_for(0, "gains"))), counted(pooled(evidence))
    return Findings(
        study=study.name,
        about=study.about,
        command=told.command,
        versions=told.versions,
        machine=told.machine,
        hosts=_hosts(told),
        seeds=study.seeds,
        headlines=headlines(together, gained, words, evidence.declared.level),
        scale=_scale(told, judged.name),
        metric=evidence.declared.metric,
        tested=_tested(told, judged.name),
        notes=(*_noted(judged, runs, told), *_notes(told, evidence.declared)),
        runs=runs,
        curves=counted(curves(evidence)),
        retention=kept,
        gains=gained,
        savings=counted(savings(evidence)),
        verdicts=words,
        regret=counted(regret_report(evidence)),
        lifts=counted(lifts(evidence)),
        directions=directions(kept, study.porters[0]),
        pooled=together,
        aggregates=grid,
    )


def _hosts(told: About) -> dict[str, str]:
    hosts = {name: f"weights {digest}" for name, digest in told.hosts.items()}
    return hosts | {name: f"made by the study, moved {d['weights']:.4f}" for name, d in told.updates.items()}


def _counting(measures: int) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return a function that gives back what it is given, and reports one more measure as computed."""
    advance = current().stage("computing what came out", measures)

    def counted(table: pl.DataFrame) -> pl.DataFrame:
        advance(1)
        return table

    return counted


def _sampler(study: StudySpec, runs: pl.DataFrame) -> str | None:
    """The sampler of the grid, where controls have further ones; None: the usual choice."""
    sampled = runs.filter(arm="sampled", state="done")["method"]
    return study.samplers[0] if study.control_samplers and study.samplers[0] in sampled else None


def _judged_items(runs: pl.DataFrame, metric: str, told: About, items: JudgedItems | None) -> pl.DataFrame:
    """The runs with the number of items that the metric is over: of generated answers, those that have one."""
    if not isinstance(metric_named(metric), TextMetric):
        return runs
    counted = pl.min_horizontal("n_items", pl.lit(told.study.testing.generate, pl.Int64))
    if items is None or not items.items.height:
        return runs.with_columns(n_items=counted)
    held = items.items.select("run", held=pl.col("values").list.len().cast(pl.Int64))
    return runs.join(held, on="run", how="left", maintain_order="left").with_columns(
        n_items=pl.coalesce("held", counted)
    )


def headlines(together: pl.DataFrame, gained: pl.DataFrame, judged: pl.DataFrame, level: float) -> tuple[str, ...]:
    """What came out, claiming only differences that the statistics carry: settled by seeds and test items together.

    Modules that are tested on their own task and those that are tested on another are two questions, and stay apart.
    """
    claimed = [versus for versus in CLAIMED if versus in gained["versus"]]
    said = [_claims(together, claimed, level)]
    said += [_claim_sentence(together.filter(versus=v), gained.filter(versus=v), level) for v in claimed]
    said += [
        _apart_sentence(together.filter(beside=beside), beside, level)
        for beside in (OTHERS, OPPOSITE)
        if beside in together["beside"]
    ]
    said += [_verdict_sentence(judged.filter(RELATION.eq(each)), _of(each, judged)) for each in relations(judged)]
    return tuple(line for line in said if line)


def _claims(together: pl.DataFrame, claimed: list[str], level: float) -> str:
    """How many claims were tried, and how many tests each of them is."""
    tests = together.filter(pl.col("beside").is_null(), scope=ALL)
    tried = {versus: tests.filter(versus=versus).height for versus in claimed}
    if not any(tried.values()):
        return ""
    over = ", ".join(f"{versus} ({count} {'test' if count == 1 else 'tests'})" for versus, count in tried.items())
    number = f"{len(tried)} claims were" if len(tried) > 1 else "One claim was"
    return f"{number} tried: that ported modules gain over {over}, at every budget; Holm's correction within each."


def _of(relation: str, table: pl.DataFrame) -> str:
    """The kind of cells, where a table has both."""
    return f"{relation} " if len(relations(table)) > 1 else ""


def _claim_sentence(together: pl.DataFrame, gained: pl.DataFrame, level: float) -> str:
    """One claim: the gain over all cells of a kind at every budget, for whom it is settled, and in how many cells."""
    versus, settled, parts = gained["versus"][0], pl.col("p_holm") < 1 - level, []
    for relation in relations(gained):
        kind, own = _of(relation, gained), gained.filter(RELATION.eq(relation))
        rows = together.filter(pl.col("beside").is_null(), tasks=relation)
        if rows["method"].n_unique() > 1:  # the page has the budgets between
            rows = rows.filter(pl.col("budget").is_in([gained["budget"].min(), gained["budget"].max()]))
        found = ", ".join(_at_budget(each, together, level) for each in rows.partition_by("method", "budget"))
        above, below = (own.filter(settled & side).height for side in (pl.col("gain") > 0, pl.col("gain") < 0))
        cells = f"of {own.height} {kind}cells and budgets {above} are settled above it, {below} below"
        parts.append(f"pooled over all {kind}cells: {found}; {cells}" if found else cells)
    return f"Ported over {versus}, {'. And '.join(parts)} ({level:.0%}, Holm)."


def _at_budget(rows: pl.DataFrame, together: pl.DataFrame, level: float) -> str:
    """One method at one budget: over all cells, and for which techniques it is settled."""
    [whole] = rows.filter(scope=ALL).rows(named=True)
    settled = "settled" if whole["p_holm"] < 1 - level else "not settled"
    sides = _sides(rows.filter(pl.col("scope") == TECHNIQUE, pl.col("p_holm") < 1 - level))
    by = f" by {whole['method']}" if together["method"].n_unique() > 1 else ""
    amount = interval_text(whole["gain"], whole["low"], whole["high"])
    other = whole["other_gain"]
    beside = "" if other is None else f", {other:+.3f} in {metric_named(whole['other_metric']).title},"
    return f"{amount}{beside}{by} {_when(whole['budget'])} ({settled}; {sides})"


def _verdict_sentence(judged: pl.DataFrame, kind: str) -> str:
    words = Counter(judged["verdict"].to_list())
    said = ", ".join(f"{n} {word}" for word, n in words.most_common())
    return f"Verdicts on {judged.height} {kind}cells: {said}."


def _sides(rows: pl.DataFrame) -> str:
    """For which techniques a gain is settled, and on which side."""
    above, below = (rows.filter(side)["technique"].to_list() for side in (pl.col("gain") > 0, pl.col("gain") < 0))
    parts = [f"{side} for {', '.join(names)}" for side, names in (("above", above), ("below", below)) if names]
    return f"by technique {' and '.join(parts)}" if parts else "for no technique by itself"


def _apart_sentence(rows: pl.DataFrame, beside: str, level: float) -> str:
    """Which techniques are settled to gain more or less than the others, which directions than their opposites."""

    def kind(row: dict[str, Any]) -> str:
        return f" ({row['tasks']})" if rows["tasks"].n_unique() > 1 else ""

    apart = [
        f"{row['technique'] or ' → '.join((row['origin'], row['receiver']))}{kind(row)} over {row['versus']} "
        f"{_when(row['budget'])} by {interval_text(row['gain'], row['low'], row['high'])}"
        for row in rows.filter(pl.col("p_holm") < 1 - level, pl.col("versus") != "bare").rows(named=True)
    ]
    what = f"Gains settled to differ from those of {beside}"
    return f"{what}: {'; '.join(apart) or 'none'}."


def _when(budget: int) -> str:
    return "without further training" if budget == 0 else f"after {budget} steps"


def interval_text(estimate: float | None, low: float | None, high: float | None) -> str:
    """``+0.071 [+0.020, +0.122]``; empty where there is no estimate."""
    if estimate is None:
        return ""
    return f"{estimate:+.3f}" if low is None or high is None else f"{estimate:+.3f} [{low:+.3f}, {high:+.3f}]"


def headline_table(findings: Findings) -> Table:
    """For the terminal: pooled gains by technique and steps; where items are not held, the aggregates."""
    rows = findings.pooled.filter(pl.col("scope").is_in(["all", "technique"]), pl.col("beside").is_null())
    if not rows.height:
        return _aggregate_table(findings)
    against, written = rows["versus"].unique(maintain_order=True), []
    for key, group in rows.group_by("tasks", "technique", "method", "budget", maintain_order=True):
        by = {row["versus"]: interval_text(row["gain"], row["low"], row["high"]) for row in group.rows(named=True)}
        named = (str(key[0]), str(key[1] or "all"), str(key[2]), str(key[3]))
        written.append((*named, *(by.get(versus, "") for versus in against)))
    columns = ("tasks", "technique", "method", "steps", *(f"gain over {versus} [95 %]" for versus in against))
    order = sorted(written, key=lambda row: (row[0] != SAME, row[1] != "all", row[1], row[2], int(row[3])))
    return Table(_titled(findings, "ported arms pooled over cells of a kind"), columns, tuple(order))


def _titled(findings: Findings, what: str) -> str:
    return f"{findings.study}: {what}, in {metric_named(findings.metric).title}; {findings.tested}"


def _aggregate_table(findings: Findings) -> Table:
    rows = tuple(
        (row["technique"] or "all", row["quantity"], interval_text(row["estimate"], row["low"], row["high"]))
        for row in findings.aggregates.rows(named=True)
        if "mixed model" not in row["quantity"]
    )
    return Table(_titled(findings, "the grid as a whole"), ("technique", "quantity", "estimate [95 %]"), rows)


def _scale(told: About, metric: str) -> str:
    study = told.study
    return (
        f"{told.sharing['runs']} runs and {told.sharing['baseline_runs']} of the baseline: {len(study.techniques)} "
        f"techniques, {len(study.pairs)} ordered host pairs, {len(study.tasks)} task combinations, "
        f"{len(study.seeds)} seeds, {_tested(told, metric)}. What holds here holds for these hosts and "
        "texts; other pairs are other pairs."
    )


def _tested(told: About, metric: str) -> str:
    """How many items a run is tested on, and the accuracy of naming the most frequent class for all of them.

    Where generated answers are judged, how many of these items have one.
    """
    testing = told.study.testing
    if isinstance(metric_named(metric), TextMetric) and testing.generate < testing.items:
        return f"{testing.items} test items a run, {testing.generate} of them with a generated answer"
    shares = [f"{share:.3f} of those of {task}" for task, share in told.majorities.items()]
    frequent = f" ({' and '.join(shares)} are of the most frequent class)" if shares else ""
    return f"{testing.items} test items a run{frequent}"


def _noted(judged: StudyMetric, runs: pl.DataFrame, told: About) -> list[str]:
    """Why the study is not judged by accuracy, where nobody asked for another metric; or why that cannot be said."""
    if judged.note:
        return [f"{judged.note}."]
    tasks = runs.filter(state="done")["receiver_task"].unique(maintain_order=True)
    classes = [task for task in tasks if told.kinds.get(task, CLASSES) == CLASSES]
    unknown = [task for task in classes if task not in judged.majorities]
    if not unknown:
        return []
    return [
        f"The share of the most frequent class is not on record for {', '.join(unknown)}: where one class has most of "
        "the items, accuracy says little."
    ]


def _notes(told: About, declared: Declared) -> tuple[str, ...]:
    study = told.study
    return (
        f"Origins were trained for {_origin_steps(study)} steps of {study.training.batch_size} texts; every arm of a "
        "technique trains at the same learning rate on a host, and arms of one seed see the same batches. Hosts "
        f"computed in {study.loading.numbers}.",
        *(["Modules learn from other items on a receiver than on their origin."] if study.disjoint else []),
        *_gate_notes(told.gates),
        *(f"{cut}." for cut in told.cuts),
        f"Retention is given only where training is settled to gain at least {declared.floor:g} over the bare host.",
        "Intervals of cells and of pooled gains are over seeds and test items and take hosts and data as they are; "
        "those of interquartile means and probabilities resample seeds alone.",
        f"{told.failures} failed attempts are on record. All jobs together took {told.worker_seconds / 3600:.1f} hours "
        "of one worker.",
    )


def _origin_steps(study: StudySpec) -> str:
    """For how many steps origins were trained; by host where that differs."""
    by_steps: dict[int, list[str]] = {}
    for origin in dict.fromkeys(origin for origin, _ in study.pairs):
        by_steps.setdefault(study.origin_steps(origin), []).append(origin)
    if len(by_steps) == 1:
        return str(next(iter(by_steps)))
    return " and ".join(f"{steps} ({', '.join(origins)})" for steps, origins in by_steps.items())


def _gate_notes(gates: Sequence[GateResult]) -> list[str]:
    """How many conditions of the study's gates held before its grid was run, and which did not."""
    held = [gate for gate in gates if gate.needed is not None]
    failing = [f"The study went on although a gate does not hold: {gate.line}." for gate in held if gate.stops]
    number = len(held) - len(failing)
    return [f"Of {len(held)} conditions on validation items {number} hold.", *failing] if held else []
