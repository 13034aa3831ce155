"""An upgrade of many modules as one table, one page and one Markdown file."""

from __future__ import annotations

from collections import Counter

from markupsafe import Markup

from peftport.core.environment import installed_versions, this_machine
from peftport.metrics import metric_named
from peftport.report.cards import Card, on_axis
from peftport.report.table import Table
from peftport.report.templating import template, template_text
from peftport.workflows.upgrade import CODES, Upgrade
from peftport.workflows.upgrading.ledger import Outcome, UpgradeRecord

COLUMNS = (
    "module",
    "technique",
    "format",
    "method",
    "at home",
    "new host alone",
    "ported",
    "gain",
    "change",
    "outcome",
)
NUMBERS = ("at home", "new host alone", "ported", "gain", "change")


def upgrade_table(upgrade: Upgrade) -> Table:
    """A row for each module."""
    metric = next((record.metric for record in upgrade.records if record.metric is not None), None)
    items = next((record.items for record in upgrade.records if record.items is not None), None)
    title = f"{upgrade.old} -> {upgrade.new}"
    if metric is not None:
        title = (
            f"{title}: {metric_named(metric).title} on {items} test items of {upgrade.task}; gain over the new host "
            "alone and change from the old host, with 95 % intervals"
        )
    return Table(title, COLUMNS, tuple(_row(record) for record in upgrade.records))


def upgrade_sentence(upgrade: Upgrade) -> str:
    """How many modules can be used, and what became of the others."""
    counts = Counter(record.outcome for record in upgrade.records)
    usable = sum(record.usable for record in upgrade.records)
    words: dict[Outcome, str] = {
        "not enough evidence": "not enough evidence for {}",
        "retrain": "{} must be trained again",
        "refused": "{} could not be read or ported",
    }
    rest = [text.format(counts[word]) for word, text in words.items() if counts[word]]
    return f"{usable} of {len(upgrade.records)} modules can be used on {upgrade.new}{''.join(f'; {r}' for r in rest)}."


def upgrade_markdown(upgrade: Upgrade) -> str:
    """The table and the reasons, for a file."""
    reasons = "\n".join(f"- {record.name}: {record.why}" for record in upgrade.records)
    return f"# peftport upgrade\n\n{upgrade_sentence(upgrade)}\n\n{upgrade_table(upgrade).markdown()}\n{reasons}\n"


def upgrade_card(upgrade: Upgrade) -> Card:
    """The answer: how many modules can be used, what is worst among the others, and every gain that was measured."""
    worst = next((word for word in CODES if any(r.outcome == word for r in upgrade.records)), "usable")
    rows = [(r.name, "ported", r.gain.estimate, r.gain.low, r.gain.high) for r in upgrade.records if r.gain is not None]
    marks, zero = on_axis(rows, signed=True)
    question = f"Which of these {len(upgrade.records)} modules of {upgrade.old} can be used on {upgrade.new}?"
    return Card(question, worst, upgrade_sentence(upgrade), marks, zero, _limits(upgrade))


def upgrade_page(upgrade: Upgrade, command: str) -> str:
    """One self-contained page, without scripts, that begins with its answer."""
    return template("upgrade.html.j2").render(
        upgrade=upgrade,
        card=upgrade_card(upgrade),
        table=upgrade_table(upgrade),
        numbers=NUMBERS,
        command=command,
        made={**installed_versions(), **this_machine()},
        style=Markup(template_text("page.css")),
    )


def _limits(upgrade: Upgrade) -> str:
    """What the card's numbers are, and what they do not say."""
    if upgrade.task is None:
        return "No task was given, so nothing was measured: each outcome is what `peftport check` says beforehand."
    return (
        f"Gains of the ported modules over {upgrade.new} alone on {upgrade.task}, with 95 % intervals. They say "
        "nothing about other tasks."
    )


def _row(record: UpgradeRecord) -> tuple[str, ...]:
    values = [
        "" if value is None and record.metric is None else "undefined" if value is None else f"{value:.3f}"
        for value in (record.home, record.bare, record.ported)
    ]
    spans = ["" if span is None else str(span) for span in (record.gain, record.change)]
    about = (record.technique or "", record.format or "", record.method or "")
    return (record.name, *about, *values, *spans, record.outcome)
