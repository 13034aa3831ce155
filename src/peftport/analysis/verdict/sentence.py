"""The sentence of a verdict: what to do, which comparison supports it, what overtakes it, and on what it rests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peftport.analysis.verdict.choice import Contrast, Decision, by_cost, decided
from peftport.metrics import metric_named

LEADS = {
    "copy": "Copy the module",
    "align": "Port the module by {method}",
    "refresh": "Refresh it: train a new module here to imitate the old one ({method})",
    "retrain": "Train again",
    "not enough evidence": "Not enough evidence to choose",
}


@dataclass(frozen=True)
class Share:
    """The share of the lift that a method keeps without training, and the steps of the ceiling behind that lift."""

    share: float
    low: float
    high: float
    steps: int


@dataclass(frozen=True)
class Basis:
    """The data on which the intervals of a sentence rest."""

    seeds: int
    items: int
    level: float
    metric: str
    against_bare: bool  # at budget 0; else against scratch
    itemised: bool

    def __str__(self) -> str:
        if self.seeds < 2:
            over = f"{self.items} test items; one seed, so they say nothing of other seeds"
        else:
            over = f"{self.seeds} seeds and {self.items} test items"
        unpaired = "" if self.itemised else ", items unpaired"
        return f"({difference_in(self.metric)}, jointly {self.level:.0%} intervals over {over}{unpaired})"


def difference_in(metric: str) -> str:
    """What a positive difference means: more of the metric, or less of it if lower values are better."""
    judged = metric_named(metric)
    return f"{'difference' if judged.higher_is_better else 'improvement'} in {judged.title}"


def sentence(
    choice: Decision,
    duels: Mapping[str, Sequence[Contrast]],
    between: Mapping[tuple[str, str], Sequence[Contrast]],
    shares: Mapping[str, Share],
    overtaking: Mapping[str, Sequence[Contrast]],
    basis: Basis,
) -> str:
    """Word a decision in one line.

    Args:
        choice: what was decided.
        duels: by method, its comparisons with the alternative.
        between: by (cheaper, costlier) method, the gain of the costlier one.
        shares: by method, the share of the lift that it keeps, if that can be said.
        overtaking: by method, the untrained module's gain over scratch trained for each budget.
        basis: what the intervals rest on.

    """
    lead = LEADS[choice.word].format(method=choice.method)
    if choice.method is not None:
        method = choice.method
        parts = [*_carried(duels[method], basis), *_kept(shares.get(method)), *_overtaken(overtaking.get(method, ()))]
        parts += _rivals(method, duels, between)
    elif choice.word == "retrain":
        parts = [f"{method} {'; '.join(_carried(duels[method], basis))}" for method in by_cost(duels)]
    else:
        parts = [f"{method} {_open(duels[method], basis)}" for method in by_cost(duels) if duels[method]]
        parts = parts or ["no arm to compare the module with has finished"]
    return f"{lead}: {'; '.join(parts)} {basis}."


def _carried(duels: Sequence[Contrast], basis: Basis) -> list[str]:
    """The first settled comparison, the last one if it is another, and whether longer training is left open."""
    settled = sorted((duel for duel in duels if duel.sign), key=lambda duel: duel.budget)
    last = max(duel.budget for duel in duels)
    parts = [_duel(duel, basis) for duel in dict.fromkeys((settled[0], settled[-1]))]
    if settled[-1].budget < last:
        parts.append(f"after {last} steps each, no difference from training from scratch is settled")
    return parts


def _duel(duel: Contrast, basis: Basis) -> str:
    bare = duel.budget == 0 and basis.against_bare
    when = "without further training" if duel.budget == 0 else f"after {duel.budget} steps each"
    other = "the bare host" if bare else "training from scratch"
    if not duel.sign:
        return f"{when} it is not told apart from {other}, {_interval(duel)}"
    return f"{when} it {'beats' if duel.sign > 0 else 'is worse than'} {other} by {_interval(duel)}"


def _interval(duel: Contrast) -> str:
    return f"{duel.gain:+.3f} [{duel.low:+.3f}, {duel.high:+.3f}]"


def _kept(share: Share | None) -> list[str]:
    if share is None:
        return []
    low, high = f"{100 * share.low:.0f}", f"{100 * share.high:.0f}"
    return [f"as ported it keeps {share.share:.0%} [{low}, {high}] of the lift of {share.steps} steps from scratch"]


def _overtaken(duels: Sequence[Contrast]) -> list[str]:
    """The steps from scratch after which training is settled to beat the module as it was ported."""
    if not duels:
        return []
    past = [duel.budget for duel in duels if duel.sign < 0]
    if past:
        return [f"{min(past)} steps from scratch overtake it as ported"]
    return [f"up to {max(duel.budget for duel in duels)} steps from scratch are not shown to overtake it as ported"]


def _rivals(
    chosen: str, duels: Mapping[str, Sequence[Contrast]], between: Mapping[tuple[str, str], Sequence[Contrast]]
) -> list[str]:
    """Other methods that beat the alternative and cannot be distinguished from the chosen one."""
    level = [
        method
        for method in by_cost(duels)
        if method != chosen and decided(duels[method]) > 0
        and not decided(between.get((chosen, method), between.get((method, chosen), ())))
    ]  # fmt: skip
    return [f"not told apart from {', '.join(level)}"] if level else []


def _open(duels: Sequence[Contrast], basis: Basis) -> str:
    """If nothing is decided: the comparison at the smallest budget, and the difference excluded at every budget."""
    settled = decided(duels)
    if settled:
        return "; ".join(_carried(duels, basis))
    first = min(duels, key=lambda duel: duel.budget)
    bound = max(max(abs(duel.low), abs(duel.high)) for duel in duels)
    return f"{_duel(first, basis)}; a difference beyond {bound:.3f} is excluded at every budget"
