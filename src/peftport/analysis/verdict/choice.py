"""The verdict on one setting: copy, align (with which method), refresh, retrain, or not enough evidence.

Every method of porting is held against the alternative at each budget: the bare host before any training, training from
scratch for as many steps after; methods are held against one another. All of a setting's comparisons get t intervals
over seeds and items at one joint level (Bonferroni), and one rule decides each duel: *the sign of the settled
comparison with the largest budget*; nothing settled, nothing decided.

    a method wins its duel with the alternative          -> copy; align (another porter); refresh (distill)
    a dearer method replaces a cheaper one               only if it wins its duel with that one too
    every method loses its duel                          -> retrain
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
    """One comparison at one budget: ``gain`` of the one over the other, with its joint interval."""

    budget: int
    gain: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 above zero, -1 below, 0 open."""
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True)
class Decision:
    """What to do, by which method, and the comparison at the smallest budget that carries it (None: none does)."""

    word: Word
    method: str | None
    carried_by: Contrast | None


def decided(duels: Sequence[Contrast]) -> int:
    """The sign at the largest settled budget; 0 if none is settled."""
    settled = [duel for duel in duels if duel.sign]
    return max(settled, key=lambda duel: duel.budget).sign if settled else 0


def decide(duels: Mapping[str, Sequence[Contrast]], between: Mapping[tuple[str, str], Sequence[Contrast]]) -> Decision:
    """Decide one setting.

    Args:
        duels: by method, against the alternative (bare host, then scratch).
        between: by (cheaper, dearer) method, the dearer one's gain over the cheaper.

    """
    winners = [method for method in by_cost(duels) if decided(duels[method]) > 0]
    if winners:
        chosen = winners[0]
        for method in winners[1:]:
            if decided(between.get((chosen, method), ())) > 0:
                chosen = method
        return Decision(word_of(chosen), chosen, _first(duels[chosen], 1))
    if duels and all(decided(own) < 0 for own in duels.values()):
        least_bad = max(duels, key=lambda m: max(duel.gain for duel in duels[m] if duel.sign < 0))
        trained = [duel for duel in duels[least_bad] if duel.budget > 0 and duel.sign < 0]
        return Decision("retrain", None, _first(trained or duels[least_bad], -1))
    return Decision("not enough evidence", None, None)


def word_of(method: str) -> Word:
    """What taking a method is called."""
    return "copy" if method == COPY else "refresh" if method == DISTILL else "align"


def by_cost(methods: Mapping[str, Sequence[Contrast]]) -> list[str]:
    """Cheapest first: copying, the other porters (the best estimate at its smallest budget first), distilling."""

    def rank(method: str) -> tuple[int, float, str]:
        first = min(methods[method], key=lambda duel: duel.budget).gain if methods[method] else 0.0
        return cost_rank(method), -first, method

    return sorted(methods, key=rank)


def cost_rank(method: str) -> int:
    """0 copy, 1 another porter, 2 distill."""
    return WORDS.index(word_of(method))


def _first(duels: Sequence[Contrast], sign: int) -> Contrast:
    return min((duel for duel in duels if duel.sign == sign), key=lambda duel: duel.budget)
