"""Every method on every technique and pair of hosts: the tables of the two committed porting studies.

    peftport study run studies/porting-same.toml          (porting-shape.toml too; each some 50 minutes on 2 cores)
    peftport study export studies/porting-same.toml --out results/porting-same
    PYTHONPATH=src:benchmarks python benchmarks/porting_methods.py results/porting-same     prints Markdown

A cell is one technique from one host to another. Differences in accuracy with 95 % intervals over seeds and test items
(peftport.analysis.stats.crossed); a star: settled after Holm over all methods, techniques and pairs of one column. The
baseline is `copy` where hosts have one shape and `resize` where not; "own" is the receiver's own module, trained as
long as the origin's was. The first table pools each method over the techniques; there a star is Holm's over a method's
pairs and budgets, as in the report.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from peftport.analysis.measures import Evidence, pooled
from peftport.analysis.measures.evidence import CELL, SETTING, Pairs, join, plain
from peftport.analysis.stats.permutation import holm
from peftport.porting import PORTERS
from peftport.study.export import read_export

LEVEL, SETTLED = 0.95, 0.05
PLACE = ("origin", "receiver", "technique", "method", "budget")


def against(evidence: Evidence, ported: pl.DataFrame, baseline: str) -> Iterator[tuple[str, Pairs]]:
    """Every method with each arm that it is held against."""
    group = (*CELL, "budget")
    for arm in ("sampled", "scratch", "ceiling"):
        yield arm, evidence.pairs(join(ported, evidence.arm(arm), arm), group, ("ported", arm))
    base = ported.filter(pl.col("method") == baseline).rename({"row_ported": "row_baseline"}).drop("method")
    rest = ported.filter(pl.col("method") != baseline)
    both = rest.join(base, on=(*SETTING, "budget", "seed"), how="inner", nulls_equal=True, maintain_order="left")
    yield baseline, evidence.pairs(both, group, ("ported", "baseline"))


def differences(evidence: Evidence, baseline: str) -> pl.DataFrame:
    """A row for every cell, budget and arm: accuracy, gain, interval, whether it is settled; AUROC, the seeds' mean."""
    tables = []
    for arm, pairs in against(evidence, evidence.arm("ported"), baseline):
        found = pairs.crossed.contrast([1.0, -1.0])
        margin = found.margin(LEVEL)
        columns = {
            "accuracy": pairs.crossed.mean[:, 0],
            "gain": found.estimate,
            "low": found.estimate - margin,
            "high": found.estimate + margin,
            "p": found.p,
        }
        table = plain(pairs.table).select(PLACE).with_columns(**{name: pl.lit(v) for name, v in columns.items()})
        tables.append(table.with_columns(versus=pl.lit(arm)))
    auroc = evidence.done.filter(pl.col("arm") == "ported").group_by(PLACE).agg(pl.col("auroc").mean())
    return _settled(pl.concat(tables).join(plain(auroc), on=PLACE, how="left", maintain_order="left"))


def _settled(table: pl.DataFrame) -> pl.DataFrame:
    parts = []
    for (_, _), part in table.group_by("versus", "budget", maintain_order=True):
        parts.append(part.with_columns(settled=pl.lit(holm(part["p"].to_numpy().astype(np.float64)) < SETTLED)))
    return pl.concat(parts)


def markdown(table: pl.DataFrame, baseline: str) -> Iterator[str]:
    """A table for every pair of hosts and budget."""
    names = {baseline: f"over {baseline}", "sampled": "over sampled", "scratch": "over scratch", "ceiling": "over own"}
    for (origin, receiver, budget), part in table.group_by("origin", "receiver", "budget", maintain_order=True):
        yield f"\n### {origin} → {receiver}, {f'after {budget} steps' if budget else 'without further training'}\n"
        yield f"| technique, method | accuracy | AUROC | {' | '.join(names.values())} |"
        yield f"| --- | ---: | ---: | {' | '.join(['---:'] * len(names))} |"
        for (technique, method), own in part.group_by("technique", "method", maintain_order=True):
            cells = [_cell(own.filter(pl.col("versus") == arm)) for arm in names]
            scores = f"{own['accuracy'][0]:.3f} | {own['auroc'][0]:.3f}"
            yield f"| {technique}, `{method}` | {scores} | {' | '.join(cells)} |"


def summary(evidence: Evidence) -> Iterator[str]:
    """Every method on every pair of hosts, pooled over techniques (peftport.analysis.measures.pooled)."""
    found = pooled(evidence).filter(pl.col("scope") == "pair", pl.col("beside").is_null())
    columns = [(arm, budget) for budget in sorted(found["budget"].unique()) for arm in ("scratch", "sampled")]
    yield f"| receiver, method | {' | '.join(f'over {arm}, {budget}' for arm, budget in columns)} |"
    yield f"| --- | {' | '.join(['---:'] * len(columns))} |"
    for receiver in sorted(found["receiver"].unique()):
        for method in ordered(found.filter(receiver=receiver)["method"]):
            own = found.filter(receiver=receiver, method=method).with_columns(settled=pl.col("p_holm") < SETTLED)
            cells = [_cell(own.filter(versus=arm, budget=budget)) for arm, budget in columns]
            yield f"| {receiver}, `{method}` | {' | '.join(cells)} |"


def _cell(row: pl.DataFrame) -> str:
    if not len(row):
        return ""
    gain, low, high, settled = row.select("gain", "low", "high", "settled").row(0)
    return f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]{'*' if settled else ''}"


def main(folders: Sequence[str]) -> None:
    """Print the tables of every folder."""
    if not folders:
        sys.exit(
            "porting_methods: expected folders of results, got none; try results/porting-same results/porting-shape"
        )
    for folder in folders:
        export = read_export(Path(folder))
        evidence = Evidence.of(export.runs, export.correct)
        methods = evidence.planned["method"].cast(pl.String).unique().to_list()
        baseline = "copy" if "copy" in methods else "resize"
        order = {name: index for index, name in enumerate(ordered(methods))}
        table = differences(evidence, baseline).sort(
            "budget", "receiver", "technique", pl.col("method").replace_strict(order, return_dtype=pl.Int64)
        )
        print("\n".join([*summary(evidence), *markdown(table, baseline)]))


def ordered(methods: Iterable[str]) -> list[str]:
    """Methods in the order of `peftport methods`."""
    held = set(methods)
    return [name for name in PORTERS if name in held]


if __name__ == "__main__":
    main(sys.argv[1:])
