"""Several methods: the one kept is the first named that the intervals do not tell apart from the best."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from peftport.core.arms import BARE
from peftport.core.errors import BadRequest, UnknownName
from peftport.workflows.method_selection import check_methods, rank

Floats = npt.NDArray[np.float64]


def right(share: float, items: int = 400, shift: int = 0) -> Floats:
    """Correctness of N items, that share of them right, from item ``shift`` on."""
    return np.roll((np.arange(items) < share * items).astype(np.float64), shift)


def test_a_winner_that_the_intervals_carry_is_kept() -> None:
    correct = {"copy": right(0.5), "theseus": right(0.9), "resize": right(0.4)}
    found = rank(("copy", "theseus", "resize"), {}, correct, right(0.3))
    assert (found.best, found.chosen) == ("theseus", "theseus")
    assert [one.method for one in found.ranked] == ["theseus", "copy", "resize"]
    assert [one.told_apart for one in found.entrants] == [True, False, True]
    behind = found.entrants[0].behind
    assert behind is not None and behind.low <= 0.4 <= behind.high and behind.level == 1 - 0.05 / 6
    assert found.sentence == "theseus has the highest accuracy on 400 validation items; told apart from copy, resize"


@pytest.mark.parametrize("names", [("copy", "theseus"), ("theseus", "copy")])
def test_of_what_is_not_told_apart_the_first_named_is_kept(names: tuple[str, str]) -> None:
    correct = {"copy": right(0.70), "theseus": right(0.71, shift=100), "resize": right(0.2)}
    found = rank((*names, "resize"), {}, correct, right(0.1))
    assert (found.best, found.chosen) == ("theseus", names[0])
    other = names[1] if names[0] == "theseus" else "copy"
    assert f"not told apart from {other if names[0] == 'theseus' else 'copy'}" in found.sentence
    assert f"{names[0]} is kept, the first named of these" in found.sentence
    assert "told apart from resize" in found.sentence


def test_equal_methods_keep_their_order() -> None:
    found = rank(("resize", "copy"), {}, {"resize": right(0.6), "copy": right(0.6)}, right(0.6))
    assert (found.best, found.chosen) == ("resize", "resize")
    assert not found.bare.told_apart and found.bare.method == BARE
    assert found.sentence.endswith("the bare receiver is not told apart from resize either")


def test_methods_that_cannot_are_listed_with_their_reason() -> None:
    found = rank(("gradfix", "copy"), {"gradfix": "no prefixes"}, {"copy": right(0.6)}, right(0.1))
    assert [(one.method, one.refusal, one.value) for one in found.entrants] == [
        ("gradfix", "no prefixes", None),
        ("copy", None, 0.6),
    ]
    assert found.chosen == "copy"


def test_names_are_checked_before_any_work() -> None:
    assert check_methods(["copy", "distill"]) == ("copy", "distill")
    for names, said in ((["copy", "copy"], "each once"), (["auto", "copy"], "expected it alone")):
        with pytest.raises(BadRequest, match=said):
            check_methods(names)
    with pytest.raises(UnknownName, match="unknown method 'teseus': did you mean 'theseus'"):
        check_methods(["copy", "teseus"])
