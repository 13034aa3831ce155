"""A check of a port, and the choice between several methods that were tried, as tables and sentences."""

from __future__ import annotations

from peftport.analysis.prediction.predict import LEVEL
from peftport.analysis.stats import Interval
from peftport.metrics import metric_named
from peftport.report.table import Table
from peftport.workflows.checking import PortCheck
from peftport.workflows.checking.host_comparison import HostComparison
from peftport.workflows.checking.methods import MethodCheck
from peftport.workflows.method_selection import MethodSelection


def check_tables(check: PortCheck) -> list[Table]:
    """The tables of a check: the hosts, the slots, the layers if they were compared, and the methods."""
    tables = [_hosts(check.host_comparison), _slots(check)]
    if check.layers:
        rows = tuple(
            (layer.layer, str(layer.takes), f"{layer.cka:.2f}", str(layer.most_like), f"{layer.most_like_cka:.2f}")
            for layer in check.layers
        )
        columns = ("receiver's layer", "takes origin's", "CKA", "most like", "CKA")
        tables.append(Table("likeness of layers on the texts", columns, rows))
    return [*tables, _methods(check)]


def check_advice(check: PortCheck) -> str:
    """What to do, in a sentence."""
    choice = check.choice
    do = f"use {choice.method}" if choice.method else choice.word
    doubt = " (not enough evidence)" if choice.method and choice.word == "not enough evidence" else ""
    return f"What to do: {do}{doubt}: {choice.why}."


def check_sentences(check: PortCheck) -> list[str]:
    """A summary of a check's tables."""
    slots, hosts = check.slots, check.host_comparison
    said = [
        f"{len(slots.slots)} slots: {slots.count('fits')} fit, {slots.count('resizes')} take another shape, "
        f"{slots.count('no counterpart')} have no counterpart; {len(slots.unused)} of the module's slots are not taken."
    ]
    if hosts.note:
        said.append(f"Origin: {hosts.note}.")
    if check.layers_note:
        said.append(f"Likeness of layers: {check.layers_note}.")
    return said


def selection_table(selection: MethodSelection) -> Table:
    """A row for each method, the best first; then the bare receiver, then methods that cannot be used, and why."""
    ranking = selection.ranking
    rows = []
    for candidate in (*ranking.ranked, ranking.bare):
        apart = "the best" if candidate.method == ranking.best else "yes" if candidate.told_apart else "no"
        kept = "kept" if candidate.method == ranking.chosen else ""
        rows.append((candidate.method, f"{candidate.value:.3f}", _signed(candidate.behind), apart, kept))
    rows += [
        (candidate.method, "", "", "", f"cannot: {candidate.refusal}")
        for candidate in ranking.candidates
        if candidate.refusal is not None
    ]
    metric = metric_named(ranking.metric).title
    title = f"{metric} on {ranking.items} validation items; intervals jointly 95 %"
    return Table(title, ("method", metric, "the best is ahead by", "told apart", ""), tuple(rows))


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
    ours, theirs = (f"{len(mark.settings)} not by default" if mark.version > 1 else "not recorded" for mark in marks)
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


def _slots(check: PortCheck) -> Table:
    rows: tuple[tuple[str, ...], ...] = tuple(
        (slot.slot, slot.takes or "nothing", slot.state, "" if slot.overlap is None else f"{slot.overlap:.2f}")
        for slot in check.slots.slots
    )
    rows += tuple((f"origin {name}", "", "not taken", "") for name in check.slots.unused)
    columns = ("receiver's slot", f"takes ({check.technique})", "state", "overlap of leading subspaces")
    return Table("slots", columns, rows)


def _methods(check: PortCheck) -> Table:
    rows = tuple(_method(method) for method in check.methods)
    columns = (
        "method",
        "can",
        "on record here: gain",
        f"expected gain ({LEVEL:.0%})",
        f"expected retention ({LEVEL:.0%})",
    )
    return Table("methods; gain in accuracy over the bare receiver, before any training", columns, rows)


def _method(method: MethodCheck) -> tuple[str, ...]:
    can = "no" if method.refusal is not None else f"with {method.lacking}" if method.lacking is not None else "yes"
    here = "; ".join(
        f"{_signed(port.gain)} ({port.study}, {port.task}{'' if port.alike else ', another training'})"
        for port in method.here
    )
    told = method.predicted
    expected = _signed(told.gain) if told.gain is not None else f"unknown: {told.unknown}" if can != "no" else ""
    kept = "" if told.retention is None else _share(told.retention)
    return (method.name, can, here, expected, kept)


def _signed(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _share(interval: Interval) -> str:
    return f"{interval.estimate:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


def _yes(same: bool) -> str:
    return "yes" if same else "no"
