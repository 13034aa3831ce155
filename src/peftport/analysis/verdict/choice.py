"""The verdict on one setting: copy, align (with which method), refresh, retrain, or not enough evidence.

At each budget, every porting method is compared with the alternative, which is the bare host before any training and
training from scratch for as many steps after that, and with the other methods. The t intervals of all comparisons of a
setting, over seeds and items, hold jointly at one level (Bonferroni). The comparisons of two sides at all budgets are a
duel, and one rule decides it: *the sign of the settled comparison with the largest budget*. If none is settled, the
duel is open.

    a method wins against the alternative                -> copy; align (another porter); refresh (distill)
    a costlier method replaces a cheaper one             only if it wins against that one as well
    every method loses against the alternative           -> retrain
    otherwise                                            -> not enough evidence
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Word = Literal["copy", "align", "refresh", "retrain", "not enough evidence"]
WORDS: tuple[Word, ...] = get_args(Word)
COPY, DISTILL = "copy", "distill"


class Contrast(NamedTuple):
    """One comparison at one budget: the ``gain`` of one side over the other, with its joint interval."""

    budget: int
    gain: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 if the interval is above zero, -1 if it is below, 0 if it contains zero."""
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True)
class Decision:
    """What to do, with which method, and the settled comparison with the smallest budget that supports it, if any."""

    word: Word
    method: str | None
    carried_by: Contrast | None


def decided(duels: Sequence[Contrast]) -> int:
    """The sign of the settled comparison with the largest budget; 0 if none is settled."""
    settled = [duel for duel in duels if duel.sign]
    return max(settled, key=lambda duel: duel.budget).sign if settled else 0


def decide(duels: Mapping[str, Sequence[Contrast]], between: Mapping[tuple[str, str], Sequence[Contrast]]) -> Decision:
    """Decide one setting.

    Args:
        duels: by method, its comparisons with the alternative (the bare host, then training from scratch).
        between: by (cheaper, costlier) method, the gain of the costlier one over the cheaper.

    """
    winners = [method for method in by_cost(duels) if decided(duels[method]) > 0]
    if winners:
        chosen = winners[0]
        for method in winners[1:]:
            if decided(between.get((chosen, method), ())) > 0:
                chosen = method
        return Decision(word_of(chosen), chosen, _first(duels[chosen], 1))
    if duels and all(decided(contrasts) < 0 for contrasts in duels.values()):
        least_bad = max(duels, key=lambda m: max(duel.gain for duel in duels[m] if duel.sign < 0))
        trained = [duel for duel in duels[least_bad] if duel.budget > 0 and duel.sign < 0]
        return Decision("retrain", None, _first(trained or duels[least_bad], -1))
    return Decision("not enough evidence", None, None)


def word_of(method: str) -> Word:
    """The word for choosing a method."""
    return "copy" if method == COPY else "refresh" if method == DISTILL else "align"


def by_cost(methods: Mapping[str, Sequence[Contrast]]) -> list[str]:
    """The methods, cheapest first: copying, other porters (by their gain at the smallest budget), distilling."""

    def rank(method: str) -> tuple[int, float, str]:
        first = min(methods[method], key=lambda duel: duel.budget).gain if methods[method] else 0.0
        return cost_rank(method), -first, method

    return sorted(methods, key=rank)


def cost_rank(method: str) -> int:
    """The rank of a method's cost: 0 for copy, 1 for another porter, 2 for distill."""
    return WORDS.index(word_of(method))


def _first(duels: Sequence[Contrast], sign: int) -> Contrast:
    return min((duel for duel in duels if duel.sign == sign), key=lambda duel: duel.budget)
