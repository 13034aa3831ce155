"""The model card of a ported module: what it was, what was done to it, and what was measured, with intervals."""

from __future__ import annotations

from collections import Counter

from peftport.core.environment import version_of
from peftport.hosts.sources import hub_name
from peftport.metrics import metric_named
from peftport.modules.module import Module
from peftport.modules.readme import CardFacts, card, card_facts, table
from peftport.workflows.upgrading.candidates import UpgradeCandidate
from peftport.workflows.upgrading.ledger import UpgradeRecord
from peftport.workflows.upgrading.pair import HostPair

LIBRARIES = {"peft": "peft", "adapters": "adapters", "native": "peftport"}


def port_card(pair: HostPair, candidate: UpgradeCandidate, ported: Module, record: UpgradeRecord) -> str:
    """Return the README.md of a ported module."""
    facts, of_new = card_facts(candidate.folder), card_facts(pair.new.folder)
    front = {
        "base_model": hub_name(str(pair.request.new)),
        "library_name": LIBRARIES[candidate.file_format],
        "tags": [ported.spec.kind, "peftport"],
        "ported_to": pair.new.name,
        "ported_from": {"base_model": list(facts.base_models) or [pair.old.name], "module": candidate.folder.name},
    }
    return card(
        facts,
        front,
        candidate.name,
        (
            f"A {ported.spec.kind} for {pair.new.name}, ported from {pair.old.name} by peftport "
            f"{version_of('peftport')}.",
            *_was(pair, candidate, facts),
            *_done(ported, record),
            *_measured(pair, record),
            "## License",
            f"License of the original module: {facts.license}. License of the new base model: {of_new.license}.",
        ),
    )


def _was(pair: HostPair, candidate: UpgradeCandidate, facts: CardFacts) -> list[str]:
    module, based = candidate.module, ", ".join(facts.base_models) or pair.old.name
    task = f", trained for the task {module.task.name}" if module.task else ""
    labels = f" with the labels {', '.join(module.task.labels)}" if module.task and module.task.labels else ""
    return [
        "## What it was",
        f"A {module.spec.kind} of {module.parameters:,} parameters on {based}{task}{labels}, in the format "
        f"{candidate.file_format}.",
    ]


def _done(ported: Module, record: UpgradeRecord) -> list[str]:
    notes = Counter(ported.ports[-1].slots.values()) if ported.ports else Counter[str]()
    slots = "; ".join(f"{count} slots {note}" for note, count in notes.items())
    return ["## What was done", f"Ported by the method {record.method} (`peftport methods`): {slots}."]


def _measured(pair: HostPair, record: UpgradeRecord) -> list[str]:
    if record.metric is None or record.gain is None or record.change is None:
        return ["## What was measured", f"Nothing: no task was given. {record.why}"]
    task = "" if pair.task is None else pair.task.spec.name
    title = metric_named(record.metric).title
    rows = [
        (f"{pair.old.name} with the original module", _number(record.home)),
        (f"{pair.new.name} alone", _number(record.bare)),
        (f"{pair.new.name} with this module", _number(record.ported)),
        ("gain over the new base model alone", str(record.gain)),
        ("change from the original module", str(record.change)),
    ]
    return [
        "## What was measured",
        f"On {record.items} test items of {task}; intervals are of 95 %, paired over the items.",
        table(("", title), rows),
        record.why,
    ]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
