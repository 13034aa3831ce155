"""A check of a port, and the choice between several methods that were tried, as tables and sentences."""

from __future__ import annotations

from peftport.analysis.prediction.predict import LEVEL
from peftport.analysis.stats import Interval
from peftport.report.tables import Table
from peftport.workflows.checking import PortCheck
from peftport.workflows.checking.host_comparison import HostComparison
from peftport.workflows.checking.methods import MethodCheck
from peftport.workflows.method_selection import MethodSelection


def check_tables(found: PortCheck) -> list[Table]:
    """The tables of a check: the hosts, the slots, the layers if they were compared, and the methods."""
    tables = [_hosts(found.host_comparison), _slots(found)]
    if found.layers:
        rows = tuple(
            (one.layer, str(one.takes), f"{one.cka:.2f}", str(one.most_like), f"{one.most_like_cka:.2f}")
            for one in found.layers
        )
        columns = ("receiver's layer", "takes origin's", "CKA", "most like", "CKA")
        tables.append(Table("likeness of layers on the texts", columns, rows))
    return [*tables, _methods(found)]


def check_sentences(found: PortCheck) -> list[str]:
    """The sentences of a check: a summary of the tables, and what to do."""
    slots, hosts, choice = found.slots, found.host_comparison, found.choice
    said = [
        f"{len(slots.slots)} slots: {slots.count('fits')} fit, {slots.count('resizes')} take another shape, "
        f"{slots.count('no counterpart')} have no counterpart; {len(slots.unused)} of the module's slots are not taken."
    ]
    if hosts.note:
        said.append(f"Origin: {hosts.note}.")
    if found.layers_note:
        said.append(f"Likeness of layers: {found.layers_note}.")
    do = f"use {choice.method}" if choice.method else choice.word
    doubt = " (not enough evidence)" if choice.method and choice.word == "not enough evidence" else ""
    return [*said, f"What to do: {do}{doubt}: {choice.why}."]


def selection_table(selection: MethodSelection) -> Table:
    """A row for each method, the best first; then the bare receiver, then methods that cannot be used, and why."""
    ranking = selection.ranking
    rows = []
    for one in (*ranking.ranked, ranking.bare):
        apart = "the best" if one.method == ranking.best else "yes" if one.told_apart else "no"
        kept = "kept" if one.method == ranking.chosen else ""
        rows.append((one.method, f"{one.accuracy:.3f}", _signed(one.behind), apart, kept))
    rows += [
        (one.method, "", "", "", f"cannot: {one.refusal}") for one in ranking.candidates if one.refusal is not None
    ]
    title = f"accuracy on {ranking.items} validation items; intervals jointly 95 %"
    return Table(title, ("method", "accuracy", "the best is ahead by", "told apart", ""), tuple(rows))


def _hosts(hosts: HostComparison) -> Table:
    names = {"layers": "layers", "width": "width", "family": "family", "model_type": "model type"}
    rows = [
        (title, str(getattr(hosts.origin, part)), str(getattr(hosts.receiver, part)), _yes(hosts.same[part]))
        for part, title in names.items()
    ]
    digests = {"architecture": "names and shapes of tensors", "weights": "weights", "tokenizer": "tokenizer's files"}
    rows += [
        (title, getattr(hosts.origin, part)[:8], getattr(hosts.receiver, part)[:8], _yes(hosts.same[part]))
        for part, title in digests.items()
    ]
    marks = (hosts.origin, hosts.receiver)
    ours, theirs = (f"{len(one.settings)} not by default" if one.version > 1 else "not recorded" for one in marks)
    rows.append(("settings that change numbers", ours, theirs, _yes(hosts.same["settings"])))
    distance = (
        "not measured" if not hosts.at_hand else "shapes differ" if hosts.distance is None else f"{hosts.distance:.4f}"
    )
    rows.append(("weights apart, relative", "", distance, _yes(hosts.distance == 0.0)))
    if hosts.tokens is not None:
        tokens = hosts.tokens
        known = f"{tokens.share:.1%} of {tokens.receiver:,}"
        rows.append(("tokens the origin knows", f"{tokens.origin:,}", known, _yes(tokens.equal)))
    return Table(
        "hosts", ("what", f"origin {hosts.origin.name}", f"receiver {hosts.receiver.name}", "same"), tuple(rows)
    )


def _slots(found: PortCheck) -> Table:
    rows: tuple[tuple[str, ...], ...] = tuple(
        (one.slot, one.takes or "nothing", one.state, "" if one.overlap is None else f"{one.overlap:.2f}")
        for one in found.slots.slots
    )
    rows += tuple((f"origin {name}", "", "not taken", "") for name in found.slots.unused)
    columns = ("receiver's slot", f"takes ({found.technique})", "state", "overlap of leading subspaces")
    return Table("slots", columns, rows)


def _methods(found: PortCheck) -> Table:
    rows = tuple(_method(one) for one in found.methods)
    columns = (
        "method",
        "can",
        "on record here: gain",
        f"expected gain ({LEVEL:.0%})",
        f"expected retention ({LEVEL:.0%})",
    )
    return Table("methods; gain in accuracy over the bare receiver, before any training", columns, rows)


def _method(one: MethodCheck) -> tuple[str, ...]:
    can = "no" if one.refusal is not None else f"with {one.lacking}" if one.lacking is not None else "yes"
    here = "; ".join(f"{_signed(port.gain)} ({port.study}, {port.task})" for port in one.here)
    told = one.predicted
    expected = _signed(told.gain) if told.gain is not None else f"unknown: {told.unknown}" if can != "no" else ""
    kept = "" if told.retention is None else _share(told.retention)
    return (one.name, can, here, expected, kept)


def _signed(found: Interval | None) -> str:
    return "" if found is None else f"{found.estimate:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _share(found: Interval) -> str:
    return f"{found.estimate:.0%} [{found.low:.0%}, {found.high:.0%}]"


def _yes(same: bool) -> str:
    return "yes" if same else "no"
