"""What is cut off texts that have more tokens than a limit: counted, and said in one line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from peftport.tasks.spec import Example


class CutTexts(NamedTuple):
    """How much of some texts a host does not read.

    Attributes:
        texts: how many different texts were read.
        cut: how many of them were cut.
        tokens: how many tokens all of them have, without what a prompt or the tokenizer puts around them.
        lost: how many of these tokens were cut off.
        longest: how many tokens the longest text has.

    """

    texts: int
    cut: int
    tokens: int
    lost: int
    longest: int

    @classmethod
    def of(cls, lengths: Iterable[tuple[int, int]]) -> Self:
        """Count texts by how many tokens each has, and how many of them are kept."""
        pairs = list(lengths)
        tokens, lost = [own for own, _ in pairs], [own - kept for own, kept in pairs]
        return cls(len(pairs), sum(map(bool, lost)), sum(tokens), sum(lost), max(tokens, default=0))

    def sentence(self, limit: int, option: str = "--max-tokens", most: int | None = None) -> str:
        """What was lost at the limit and what to set instead, in one line; empty where nothing was cut.

        ``option`` is what the user calls the limit; ``most`` the largest one that the host can read, where it has one.
        """
        if not self.cut:
            return ""
        if most is None or self.longest <= most:
            remedy = f"{option} {self.longest} keeps all"
        elif most > limit:
            remedy = f"{option} {most} keeps as much as this host can read"
        else:
            remedy = "this host cannot read more"
        return f"{self.lost_at(f'{option} {limit}')}; {remedy}"

    def lost_at(self, limit: str) -> str:
        """What was lost at the limit that is named; for texts of which some were cut."""
        verb = "was" if self.cut == 1 else "were"
        return (
            f"{self.cut} of {self.texts} texts {verb} cut at {limit}: {_share(self.lost, self.tokens)} of all tokens "
            f"are not read, and the longest text has {self.longest}"
        )


@dataclass(eq=False)
class Cuts:
    """Counts what an objective cuts; a text that is read several times counts once."""

    _lengths: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)

    def add(self, example: Example, tokens: int, kept: int) -> None:
        """Count a text of so many tokens, of which so many are kept."""
        self._lengths[hash(example)] = (tokens, kept)

    def total(self) -> CutTexts:
        """What was counted so far."""
        return CutTexts.of(self._lengths.values())


def _share(lost: int, tokens: int) -> str:
    """A share in percent, with as many digits as make it differ from 0."""
    percent = 100 * lost / tokens
    return f"{percent:.2g}%" if percent < 10 else f"{percent:.0f}%"
