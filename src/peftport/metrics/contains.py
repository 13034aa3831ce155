"""contains: the share of generated answers in which one of their references occurs, after `texts.normalised`."""

from __future__ import annotations

from collections.abc import Iterator

from peftport.metrics.texts import ReferenceMetric, normalised


class Contains(ReferenceMetric):
    """1 for an answer in which the whole reference occurs, whatever stands before and after it, else 0.

    It is generous to hosts that answer in a sentence, and to those that name every possible answer. The reference must
    not begin or end within a number or, in scripts that have upper and lower case, within a word: ``5`` does not occur
    in ``15``, nor ``art`` in ``start``. Other scripts may set words side by side without spaces.
    """

    name, title = "contains", "contains the reference"

    def against(self, answer: str, reference: str) -> float:
        """Whether the reference occurs in the answer; an empty reference occurs in an empty answer only."""
        whole, part = normalised(answer), normalised(reference)
        if not part:
            return float(not whole)
        matches = (at for at in _places(whole, part) if _apart(whole, at) and _apart(whole, at + len(part)))
        return float(next(matches, None) is not None)


def _places(text: str, part: str) -> Iterator[int]:
    """Where a part begins in a text, also where it overlaps itself."""
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


def _apart(text: str, at: int) -> bool:
    """Whether no word or number goes on across this place of a text."""
    return not (0 < at < len(text) and _joins(text[at - 1]) and _joins(text[at]))


def _joins(character: str) -> bool:
    """Whether a character makes one word or number with its like beside it."""
    return character.isdigit() or character.lower() != character.upper()
