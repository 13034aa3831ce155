"""Regret: what a rule for choosing would have cost on pairs of hosts that it has not seen.

Regret is the score of the best option minus the score of the option that the rule chooses. The options are the porting
methods and training from scratch; a score is a mean over budgets, where the bare host stands for training from scratch
with no steps. A pair is left out in both directions together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peftport.analysis.measures.evidence import Evidence
from peftport.analysis.verdict.table import SCRATCH, Setting, settings_of
from peftport.core.libraries import pl, special

SCHEMA = {
    "policy": pl.String, "technique": pl.String, "regret": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "pairs": pl.Int64, "settings": pl.Int64, "note": pl.String,
}  # fmt: skip
Pair = tuple[str, ...]


@dataclass(frozen=True)
class Elsewhere:
    """Results of the other pairs of hosts with one technique: each option's mean regret and how often it was chosen."""

    regret: Mapping[str, float]
    chosen: Mapping[str, int]


Policy = Callable[[Setting, Elsewhere], str | None]  # the option that it chooses; None if it cannot choose


def regret_report(evidence: Evidence) -> pl.DataFrame:
    """The mean regret of each policy, with a t interval over pairs of hosts: for all techniques (null) and for each."""
    settings = [setting for setting in settings_of(evidence) if len(setting.scores) > 1]
    seen = _elsewhere(settings)
    rows = []
    for name, policy, note in policies(settings):
        taken = [(setting, policy(setting, seen[setting.names[0], _pair(setting)])) for setting in settings]
        losses = [
            (setting, regret)
            for setting, option in taken
            if option and (regret := setting.regrets.get(option)) is not None
        ]
        for technique in (None, *sorted({setting.names[0] or "" for setting in settings})):
            by_pair: dict[Pair, list[float]] = defaultdict(list)
            for setting, regret in losses:
                if technique in (None, setting.names[0]):
                    by_pair[_pair(setting)].append(regret)
            rows.append((name, technique, *_summary(list(by_pair.values()), evidence.declared.level), note))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def policies(settings: Sequence[Setting]) -> list[tuple[str, Policy, str | None]]:
    """The rules: fixed options, what served other pairs best, what other pairs' verdicts say, and the own verdict."""
    options = sorted({option for setting in settings for option in setting.scores})
    return [
        *((f"always {option}", _always(option), None) for option in options),
        ("best on other pairs", _best_elsewhere, "leave-one-pair-out"),
        ("verdicts on other pairs", _verdicts_elsewhere, "leave-one-pair-out; scratch where none decided"),
        ("own verdict, else scratch", _own_verdict, "in sample: judged on the runs it was made from"),
    ]


def _pair(setting: Setting) -> Pair:
    return tuple(sorted((setting.names[1] or "", setting.names[2] or "")))


def _elsewhere(settings: Sequence[Setting]) -> dict[tuple[str | None, Pair], Elsewhere]:
    """For each technique and pair, the results of all other pairs."""
    regrets: dict[str | None, dict[Pair, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    chosen: dict[str | None, dict[Pair, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for setting in settings:
        technique, pair = setting.names[0], _pair(setting)
        for option, regret in setting.regrets.items():
            total = regrets[technique][pair].setdefault(option, [0.0, 0.0])
            total[0], total[1] = total[0] + regret, total[1] + 1
        decided = _decided(setting)
        chosen[technique][pair].update([decided] if decided else [])
    return {
        (technique, pair): Elsewhere(
            _means([totals for other, totals in by_pair.items() if other != pair]),
            sum((count for other, count in chosen[technique].items() if other != pair), Counter()),
        )
        for technique, by_pair in regrets.items()
        for pair in by_pair
    }


def _means(pairs: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    options = sorted({option for pair in pairs for option in pair})
    return {o: sum(f[o][0] for f in pairs if o in f) / sum(f[o][1] for f in pairs if o in f) for o in options}


def _summary(
    by_pair: Sequence[Sequence[float]], level: float
) -> tuple[float | None, float | None, float | None, int, int]:
    """The mean of the pairs' means with a t interval over pairs; no interval for fewer than two pairs."""
    means = np.array([np.mean(of_pair) for of_pair in by_pair])
    count = sum(len(of_pair) for of_pair in by_pair)
    if len(means) < 2:
        return (float(means[0]) if len(means) else None), None, None, len(means), count
    margin = float(special.stdtrit(len(means) - 1, (1 + level) / 2) * means.std(ddof=1) / np.sqrt(len(means)))
    return float(means.mean()), max(0.0, float(means.mean()) - margin), float(means.mean()) + margin, len(means), count


def _always(option: str) -> Policy:
    return lambda setting, elsewhere: option if option in setting.scores else None


def _best_elsewhere(setting: Setting, elsewhere: Elsewhere) -> str | None:
    known = [option for option in elsewhere.regret if option in setting.scores]
    return min(known, key=lambda option: (elsewhere.regret[option], option), default=None)


def _verdicts_elsewhere(setting: Setting, elsewhere: Elsewhere) -> str | None:
    if not elsewhere.regret:  # no other pair
        return None
    known = [option for option in elsewhere.chosen if option in setting.scores]
    return min(known, key=lambda option: (-elsewhere.chosen[option], option), default=SCRATCH)


def _own_verdict(setting: Setting, elsewhere: Elsewhere) -> str | None:
    return _decided(setting) or SCRATCH


def _decided(setting: Setting) -> str | None:
    return setting.choice.method or (SCRATCH if setting.choice.word == "retrain" else None)
