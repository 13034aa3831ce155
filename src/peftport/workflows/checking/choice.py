"""Choose a porting method and say why: from recorded gains, and where there are none, from what methods declare.

The rules, the first that applies:

    1  one host                                             copy
    2  a method's gain over the bare receiver is known (recorded between these hosts, of a module like this one, or
       predicted from others) and its interval lies above zero
                                                            the first such; a later one if its interval lies above
    3  gains are known, none settled above zero, every estimate under `FLOOR`            retrain
    4  gains are known, none settled above zero             the best estimate: not enough evidence
    5  no gain is known, the hosts are of different families and none of the module's slots fits
                                                            distill with a task; else retrain
    6  no gain is known                                     the first usable of `UNMEASURED`: not enough evidence
    7  no porter can carry the module                       distill with a task; else retrain

"First" in rule 2 is the order of `peftport methods`, which lists methods with fewer needs first. The order of
`UNMEASURED` rests on no measured benefit but on declared needs and tested properties: `copy` where it fits; with texts
`regress`, which undoes every change of basis that the other methods undo, and unfolded gains as well; `skip` where only
the number of layers differs, since it copies matrices unchanged; with weights `crosslora`, which is declared for
every technique, width and depth; with nothing, `resize`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peftport.analysis.prediction.recorded import FLOOR
from peftport.analysis.stats import Interval
from peftport.analysis.verdict.choice import COPY, Word, word_of
from peftport.workflows.checking.methods import MethodCheck
from peftport.workflows.distill import NAME as DISTILL

UNMEASURED = (COPY, "regress", "theseus", "skip", "crosslora", "resize")


@dataclass(frozen=True)
class MethodChoice:
    """The method to use. ``method`` None means to train a new module; ``measured`` says whether records support it."""

    method: str | None
    word: Word
    why: str
    measured: bool


def choose_method(methods: Sequence[MethodCheck], *, same_host: bool, strangers: str = "") -> MethodChoice:
    """Choose among the methods that can carry the module with the inputs that are given.

    ``strangers`` says how two hosts of different families differ, where none of the module's slots fits the receiver.
    """
    able = {method.name: method for method in methods if method.able}
    if same_host and COPY in able:
        return MethodChoice(COPY, "copy", "the receiver is the origin, so every number stays right", True)
    porters = [method for method in able.values() if method.name != DISTILL]
    known = {method.name: gain for method in able.values() if (gain := method.gain) is not None}
    if known:
        return _by_record(known, able, methods)
    if not porters or strangers:
        return _without_porters(methods, DISTILL in able, strangers if porters else "")
    name = next((name for name in UNMEASURED if name in able and _serves(able[name])), porters[0].name)
    return MethodChoice(name, "not enough evidence", _unmeasured(able[name], methods), False)


def _by_record(
    known: dict[str, Interval], able: dict[str, MethodCheck], methods: Sequence[MethodCheck]
) -> MethodChoice:
    winners = [name for name, gain in known.items() if gain.low > 0]
    if winners:
        chosen = winners[0]
        for name in winners[1:]:
            if known[name].low > known[chosen].high:
                chosen = name
        return MethodChoice(chosen, word_of(chosen), f"{_gained(able[chosen])}, settled above zero", True)
    best = max(known, key=lambda name: known[name].estimate)
    if known[best].estimate < FLOOR:
        why = f"no method on record ({', '.join(known)}) gained {FLOOR:.2f} or more; the most: {_gained(able[best])}"
        return MethodChoice(
            None, "retrain", why + _left([method for method in methods if method.name not in known]), True
        )
    return MethodChoice(best, "not enough evidence", f"{_gained(able[best])}, the most on record, not settled", True)


def _left(methods: Sequence[MethodCheck]) -> str:
    """Return the alternative to training again for users without labels: distilling, whether a task is given or not."""
    method = next((method for method in methods if method.name == DISTILL and method.refusal is None), None)
    if method is None:
        return ""
    gained = _gained(method) if method.gain is not None else "its gain is not measured"
    return f". Without labels, --method {DISTILL} trains on texts alone (--task TASK): {gained}"


def _gained(method: MethodCheck) -> str:
    """Return the known gain of a method in words, and where it was recorded."""
    gain = method.gain
    assert gain is not None, "asked for methods on record only"
    here = method.recorded
    where = (
        f"between hosts as far apart ({method.predicted.basis})" if here is None
        else f"between these hosts (study {here.study}, {here.basis})"
    )  # fmt: skip
    return (
        f"ports by {method.name} {where} changed accuracy over the bare receiver by {gain.estimate:+.3f} "
        f"[{gain.low:+.3f}, {gain.high:+.3f}]"
    )


def _without_porters(methods: Sequence[MethodCheck], distil: bool, strangers: str) -> MethodChoice:
    first = next((method for method in methods if method.name != DISTILL), None)
    obstacle = next((why for method in methods if (why := method.refusal or method.lacking)), "")
    blocked = f"no method carries this module (first, {first.name}: {obstacle})" if first else "no method is known"
    if strangers:
        blocked = f"{strangers}, none of the module's slots fits, and no gain of such a port is on record"
    if distil:
        return MethodChoice(
            DISTILL, "refresh", f"{blocked}; distilling serves any pair; its gain is not measured", False
        )
    why = f"{blocked}; train a module on the receiver, or give --task for --method {DISTILL}"
    return MethodChoice(None, "retrain", why, False)


def _serves(method: MethodCheck) -> bool:
    """Whether a method may be chosen unmeasured: `skip` only where it copies matrices unchanged."""
    return method.name != "skip" or method.needs == "nothing"


def _unmeasured(method: MethodCheck, methods: Sequence[MethodCheck]) -> str:
    reasons = {
        COPY: "it fits as it is and asks for nothing",
        "skip": "layers differ in number only, and their matrices go over as they are",
        "regress": "copy does not fit, texts are given, and of what texts allow it undoes the most changes of basis",
        "theseus": "copy does not fit, texts are given, and it undoes rotations of the basis",
        "crosslora": "copy does not fit, both hosts' weights are at hand, and it serves any width and depth",
        "resize": "it is the only one that asks for nothing here; it knows nothing of the hosts",
    }
    why = reasons.get(method.name, "it is the first that can")
    return f"{why}; its gain is not measured: {method.predicted.unknown}"
