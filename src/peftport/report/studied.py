"""A study as findings: its measures, its main results in sentences, and how it was run."""

from __future__ import annotations

from collections import Counter

from peftport.analysis.columns import completed
from peftport.analysis.measures import (
    Declared,
    Evidence,
    aggregates,
    curves,
    directions,
    gains,
    pooled,
    retention,
    savings,
)
from peftport.analysis.measures.gains import VERSUS
from peftport.analysis.measures.pooled import ALL, OPPOSITE, OTHERS, TECHNIQUE
from peftport.analysis.verdict.regret import regret_report
from peftport.analysis.verdict.table import verdicts
from peftport.core.hashing import rng_for
from peftport.core.libraries import pl
from peftport.metrics import metric_named
from peftport.metrics.choice import StudyMetric
from peftport.metrics.texts import TextMetric
from peftport.report.findings import Findings
from peftport.report.table import Table
from peftport.study.about import About
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
        declared or Declared(metric=judged.name),
        items=items.items if items else None,
        draws=items.draws if items else None,
        tests=items.tests if items else None,
    )
    kept = retention(evidence)
    grid, words = aggregates(evidence, rng=rng_for(0, "aggregates")), verdicts(evidence)
    gained, together = gains(evidence, rng=rng_for(0, "gains")), pooled(evidence)
    hosts = {name: f"weights {digest}" for name, digest in told.hosts.items()}
    hosts |= {name: f"made by the study, moved {d['weights']:.4f}" for name, d in told.updates.items()}
    return Findings(
        study=study.name,
        about=study.about,
        command=told.command,
        versions=told.versions,
        machine=told.machine,
        hosts=hosts,
        seeds=study.seeds,
        headlines=headlines(together, gained, words, evidence.declared.level),
        scale=_scale(told, judged.name),
        metric=evidence.declared.metric,
        tested=_tested(told, judged.name),
        notes=(*_noted(judged, runs, told), *_notes(told, evidence.declared)),
        runs=runs,
        curves=curves(evidence),
        retention=kept,
        gains=gained,
        savings=savings(evidence),
        verdicts=words,
        regret=regret_report(evidence),
        directions=directions(kept, study.porters[0]),
        pooled=together,
        aggregates=grid,
    )


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
    """What came out, claiming only differences that the statistics carry: settled by seeds and test items together."""
    against = [versus for versus in ("sampled", "scratch") if versus in gained["versus"]]
    said = [_gain_sentence(together.filter(versus=versus), gained.filter(versus=versus), level) for versus in against]
    said += [
        _apart_sentence(together.filter(beside=beside), beside, level)
        for beside in (OTHERS, OPPOSITE)
        if beside in together["beside"]
    ]
    words = Counter(judged["verdict"].to_list())
    if words:
        total = sum(words.values())
        said.append(f"Verdicts on {total} cells: {', '.join(f'{n} {word}' for word, n in words.most_common())}.")
    return tuple(line for line in said if line)


def _gain_sentence(together: pl.DataFrame, gained: pl.DataFrame, level: float) -> str:
    """One opponent: the gain over all cells at the first and the last budget, and for whom and where it is settled."""
    versus, settled = gained["versus"][0], pl.col("p_holm") < 1 - level
    parts = []
    for (method, budget), rows in together.filter(pl.col("beside").is_null()).group_by(
        "method", "budget", maintain_order=True
    ):
        if budget not in (gained["budget"].min(), gained["budget"].max()):
            continue
        [whole] = rows.filter(scope=ALL).rows(named=True)
        for_whom = _sides(rows.filter(pl.col("scope") == TECHNIQUE, settled))
        by = f"by {method} " if together["method"].n_unique() > 1 else ""
        amount = interval_text(whole["gain"], whole["low"], whole["high"])
        parts.append(f"{amount} {by}{_when(int(str(budget)))} ({for_whom})")
    above, below = (gained.filter(settled & side).height for side in (pl.col("gain") > 0, pl.col("gain") < 0))
    cells = f"of {gained.height} cells and budgets {above} are settled above it, {below} below"
    pooled_ = f"pooled over all cells: {', '.join(parts)}; " if parts else ""
    return f"Ported over {versus}, {pooled_}{cells} ({level:.0%}, Holm)."


def _sides(rows: pl.DataFrame) -> str:
    """For which techniques a gain is settled, and on which side."""
    above, below = (rows.filter(side)["technique"].to_list() for side in (pl.col("gain") > 0, pl.col("gain") < 0))
    parts = [f"settled {side} for {', '.join(names)}" for side, names in (("above", above), ("below", below)) if names]
    return "; ".join(parts) or "settled for no technique"


def _apart_sentence(rows: pl.DataFrame, beside: str, level: float) -> str:
    """Which techniques are settled to gain more or less than the others, which directions than their opposites."""
    apart = [
        f"{row['technique'] or ' → '.join((row['origin'], row['receiver']))} over {row['versus']} "
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
    against = [versus for versus in VERSUS if versus in rows["versus"]]
    written = []
    for key, group in rows.group_by("method", "technique", "budget", maintain_order=True):
        by = {row["versus"]: interval_text(row["gain"], row["low"], row["high"]) for row in group.rows(named=True)}
        written.append((str(key[1] or "all"), str(key[0]), str(key[2]), *(by.get(versus, "") for versus in against)))
    columns = ("technique", "method", "steps", *(f"gain over {versus} [95 %]" for versus in against))
    order = sorted(written, key=lambda row: (row[0] != "all", row[0], row[1], int(row[2])))
    return Table(_titled(findings, "ported arms pooled over cells"), columns, tuple(order))


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
        f"Origins were trained for {study.training.origin_steps} steps of {study.training.batch_size} texts; every arm "
        "of a technique trains at the same learning rate, and arms of one seed see the same batches. Hosts computed in "
        f"{study.loading.numbers}.",
        *(f"{cut}." for cut in told.cuts),
        f"Retention is given only where training gains at least {declared.floor:g} over the bare host.",
        "Intervals of cells and of pooled gains are over seeds and test items and take hosts and data as they are; "
        "those of interquartile means and probabilities resample seeds alone.",
        f"{told.failures} failed attempts are on record. All jobs together took {told.worker_seconds / 3600:.1f} hours "
        "of one worker.",
    )
