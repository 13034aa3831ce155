"""Verdicts for every setting of a table of runs: the comparisons, their joint level, costs and regret."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from peftport.analysis.measures.differences import Differences, differences
from peftport.analysis.measures.evidence import CELL, SETTING, Evidence, join, plain
from peftport.analysis.measures.retention import retained
from peftport.analysis.measures.savings import table_of_means
from peftport.analysis.stats.crossed import Estimates
from peftport.analysis.verdict.choice import Contrast, Decision, cost_rank, decide
from peftport.analysis.verdict.sentence import Basis, Share, sentence
from peftport.core.libraries import pl

SCHEMA = {
    **dict.fromkeys(SETTING, pl.String), "method": pl.String, "verdict": pl.String, "sentence": pl.String,
    "cost_steps": pl.Float64, "cost_seconds": pl.Float64, "low": pl.Float64, "high": pl.Float64, "regret": pl.Float64,
}  # fmt: skip
SCRATCH = "scratch"
Cost = tuple[float | None, float | None]


@dataclass(eq=False)
class Setting:
    """The data on which one setting's verdict rests, by method unless noted otherwise."""

    names: tuple[str | None, ...]
    duels: dict[str, list[Contrast]] = field(default_factory=dict)
    between: dict[tuple[str, str], list[Contrast]] = field(default_factory=dict)
    overtaking: dict[str, list[Contrast]] = field(default_factory=dict)
    shares: dict[str, Share] = field(default_factory=dict)
    scores: dict[str, dict[int, float]] = field(default_factory=dict)  # option (method or scratch) -> budget -> mean
    costs: dict[tuple[str, int], Cost] = field(default_factory=dict)  # (option, budget) -> mean steps, seconds
    seeds: int = 0
    items: int = 0
    itemised: bool = True
    against_bare: bool = True

    @cached_property
    def choice(self) -> Decision:
        """The decision that the comparisons of this setting lead to."""
        return decide(self.duels, self.between)

    @cached_property
    def regrets(self) -> dict[str, float]:
        """The best option's mean score minus each option's own, as a mean over the budgets of that option."""
        best: dict[int, float] = {}
        for by_budget in self.scores.values():
            for budget, score in by_budget.items():
                best[budget] = max(score, best.get(budget, score))
        return {
            o: sum(best[b] - score for b, score in by_budget.items()) / len(by_budget)
            for o, by_budget in self.scores.items()
        }


def verdicts(evidence: Evidence) -> pl.DataFrame:
    """A row for each setting (technique, origin, receiver, tasks) with a ported run.

    ``method`` is the chosen method, null for retrain and for not enough evidence. ``low`` and ``high`` are the joint
    interval of the ported module's gain at the smallest budget that supports the verdict; ``cost_steps`` and
    ``cost_seconds`` are the mean training of the option there. ``regret`` is the best option's score minus the chosen
    one's, as a mean over budgets; null if none was chosen.
    """
    level, metric = evidence.declared.level, evidence.declared.metric
    rows = []
    for setting in settings_of(evidence):
        basis = Basis(setting.seeds, setting.items, level, metric, setting.against_bare, setting.itemised)
        said = sentence(setting.choice, setting.duels, setting.between, setting.shares, setting.overtaking, basis)
        rows.append(
            (*setting.names, setting.choice.method, setting.choice.word, said, *_outcome(setting, setting.choice))
        )
    return pl.DataFrame(rows, schema=SCHEMA, orient="row").sort(*SETTING)


def _outcome(setting: Setting, choice: Decision) -> tuple[float | None, ...]:
    """The cost in steps and seconds, the interval and the regret of a choice."""
    duel, option = choice.carried_by, choice.method or SCRATCH
    if duel is None:
        return (None,) * 5
    return *setting.costs.get((option, duel.budget), (None, None)), duel.low, duel.high, setting.regrets.get(option)


@lru_cache(maxsize=1)  # verdicts and regret ask for the same table in turn
def settings_of(evidence: Evidence) -> list[Setting]:
    """Every setting with its comparisons at the joint level, its shares, scores and costs."""
    allowed = pl.col("budget") <= (2**62 if evidence.declared.allowance is None else evidence.declared.allowance)
    ids = evidence.planned.select(SETTING).unique(maintain_order=True).with_row_index("setting")
    settings = [Setting(tuple(names)) for names in plain(ids).select(SETTING).iter_rows()]
    ported = evidence.arm("ported").filter(allowed)
    parts = [
        part
        for part in (
            _alternatives(evidence, ported),
            _between(evidence, ported),
            _overtaking(evidence, ported, allowed),
        )
        if part.height
    ]
    if parts:
        _fill_duels(settings, pl.concat(parts, how="diagonal"), ids, evidence.declared.level)
    _fill_shares(settings, evidence, ids)
    _fill_scores(settings, evidence, ids, allowed)
    _fill_costs(settings, evidence, ids)
    return settings


def _compared(kind: str, compared: Differences) -> pl.DataFrame:
    """The differences of the first arm from the second, with the data that their intervals need."""
    pairs, estimates = compared.pairs, compared.estimates
    return pairs.table.with_columns(
        kind=pl.lit(kind),
        gain=pl.lit(estimates.estimate),
        variance=pl.lit(estimates.variance),
        df=pl.lit(estimates.df),
        swapped=pl.lit(estimates.swapped),
        seeds=pl.lit(pairs.crossed.seeds),
        items=pl.lit(pairs.crossed.items),
        itemised=pl.lit(pairs.itemised),
    )


def _alternatives(evidence: Evidence, ported: pl.DataFrame) -> pl.DataFrame:
    """Each method against the bare host at budget 0 (or scratch if that was not tested), and against scratch later."""
    untrained = join(ported.filter(pl.col("budget") == 0), evidence.arm("bare"), "bare")
    scratch = join(ported, evidence.arm(SCRATCH), SCRATCH)
    tested = untrained.select(CELL).unique()
    instead = scratch.filter(pl.col("budget") == 0).join(tested, on=CELL, how="anti", nulls_equal=True)
    scratch = pl.concat([instead, scratch.filter(pl.col("budget") > 0)])
    group = (*CELL, "budget")
    against_bare = _compared("bare", differences(evidence, untrained, group, ("ported", "bare")))
    return pl.concat([against_bare, _compared("scratch", differences(evidence, scratch, group, ("ported", SCRATCH)))])


def _between(evidence: Evidence, ported: pl.DataFrame) -> pl.DataFrame:
    """The gain of each method over each that costs no more, at every budget that both have."""
    names = ported["method"].cast(pl.String).unique().to_list()
    ranks = {name: index for index, name in enumerate(sorted(names, key=lambda name: (cost_rank(name), name)))}
    if len(ranks) < 2:
        return pl.DataFrame()
    ranked = ported.with_columns(rank=pl.col("method").cast(pl.String).replace_strict(ranks, return_dtype=pl.Int64))
    keys = (*SETTING, "budget", "seed")
    cheaper = ranked.rename({"method": "cheaper", "row_ported": "row_cheaper", "rank": "rank_cheaper"})
    both = ranked.join(cheaper, on=keys, how="inner", nulls_equal=True, maintain_order="left")
    both = both.filter(pl.col("rank") > pl.col("rank_cheaper"))
    return _compared("between", differences(evidence, both, (*CELL, "cheaper", "budget"), ("ported", "cheaper")))


def _overtaking(evidence: Evidence, ported: pl.DataFrame, allowed: pl.Expr) -> pl.DataFrame:
    """Each method untrained against scratch trained for every budget."""
    untrained = ported.filter(pl.col("budget") == 0).drop("budget")
    scratch = evidence.arm(SCRATCH).filter(allowed & (pl.col("budget") > 0))
    on = ("technique", "receiver", "receiver_task", "seed")
    rows = untrained.join(scratch, on=on, how="inner", nulls_equal=True, maintain_order="left")
    return _compared("overtaking", differences(evidence, rows, (*CELL, "budget"), ("ported", SCRATCH)))


def _fill_duels(settings: list[Setting], compared: pl.DataFrame, ids: pl.DataFrame, level: float) -> None:
    """Joint intervals: all comparisons of a setting are one family (Bonferroni)."""
    table = compared.join(ids, on=SETTING, how="inner", nulls_equal=True, maintain_order="left")
    family = table.select(pl.len().over("setting")).to_series().to_numpy()
    gain, variance, df, swapped = (table[name].to_numpy() for name in ("gain", "variance", "df", "swapped"))
    margin = Estimates(gain, variance, df, swapped).margin(1 - (1 - level) / family)
    table = table.with_columns(low=pl.lit(gain - margin), high=pl.lit(gain + margin)).sort("setting", "budget")
    if "cheaper" not in table.columns:
        table = table.with_columns(cheaper=pl.lit(None, pl.String))
    columns = ("setting", "kind", "method", "cheaper", "budget", "gain", "low", "high", "seeds", "items", "itemised")
    for number, kind, method, cheaper, budget, *interval, seeds, items, itemised in plain(
        table.select(columns)
    ).iter_rows():
        setting, duel = settings[number], Contrast(budget, *interval)
        if kind == "between":
            setting.between.setdefault((cheaper, method), []).append(duel)
        elif kind == "overtaking":
            setting.overtaking.setdefault(method, []).append(duel)
        else:
            setting.duels.setdefault(method, []).append(duel)
            setting.against_bare = setting.against_bare and (kind == "bare" or budget > 0)
        setting.seeds = min(setting.seeds, seeds) if setting.seeds else seeds
        setting.items, setting.itemised = items, setting.itemised and itemised


def _fill_shares(settings: list[Setting], evidence: Evidence, ids: pl.DataFrame) -> None:
    shares = retained(evidence).filter("eligible").join(ids, on=SETTING, how="inner", nulls_equal=True)
    columns = ("setting", "method", "retention", "low", "high", "ceiling_steps")
    for number, method, *share in plain(shares.select(columns)).iter_rows():
        settings[number].shares[method] = Share(*share)


def _fill_scores(settings: list[Setting], evidence: Evidence, ids: pl.DataFrame, allowed: pl.Expr) -> None:
    table = table_of_means(evidence).filter(allowed).join(ids, on=SETTING, how="inner", nulls_equal=True)
    columns = ("setting", "method", "budget", "ported", "scratch", "bare")
    for number, method, budget, ported, scratch, bare in plain(table.select(columns)).iter_rows():
        settings[number].scores.setdefault(method, {})[budget] = ported
        alternative = bare if budget == 0 and bare is not None else scratch
        if alternative is not None:
            settings[number].scores.setdefault(SCRATCH, {})[budget] = alternative


def _fill_costs(settings: list[Setting], evidence: Evidence, ids: pl.DataFrame) -> None:
    spent = (pl.col("steps").cast(pl.Float64).mean(), pl.col("train_seconds").mean())
    done = evidence.done
    ported = done.filter(pl.col("arm") == "ported").group_by(*CELL, "budget").agg(spent)
    ported = ported.join(ids, on=SETTING, how="inner", nulls_equal=True)
    for number, method, budget, steps, seconds in _costs(ported):
        settings[number].costs[method, budget] = (steps, seconds)
    here = ("technique", "receiver", "receiver_task")
    scratch = done.filter(pl.col("arm") == SCRATCH).group_by(*here, "budget").agg(spent)
    scratch = ids.join(scratch, on=here, how="inner", nulls_equal=True).with_columns(method=pl.lit(SCRATCH))
    for number, method, budget, steps, seconds in _costs(scratch):
        settings[number].costs[method, budget] = (steps, seconds)


def _costs(table: pl.DataFrame) -> Iterator[tuple[int, str, int, float | None, float | None]]:
    yield from plain(table.select("setting", "method", "budget", "steps", "train_seconds")).iter_rows()
