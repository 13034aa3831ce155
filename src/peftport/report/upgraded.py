"""An upgrade of many modules as one table, one page and one Markdown file."""

from __future__ import annotations

from collections import Counter
from html import escape

from peftport.core.environment import installed_versions, this_machine
from peftport.metrics import metric_named
from peftport.report.table import Table
from peftport.workflows.upgrade import Upgrade
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


def upgrade_page(upgrade: Upgrade, command: str) -> str:
    """One self-contained page, without scripts."""
    from peftport.report.html import page_style  # imported here: figures, which a page may have, are slow to import

    shown = upgrade_table(upgrade)
    head = "".join(f"<th>{escape(name)}</th>" for name in shown.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in shown.rows)
    reasons = "".join(f"<dt>{escape(r.name)}</dt><dd>{escape(r.why)}</dd>" for r in upgrade.records)
    made = {**installed_versions(), **this_machine()}
    provenance = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in made.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>peftport upgrade</title>'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{page_style()}</style></head><body><main>"
        f"<h1>peftport upgrade</h1><p>{escape(upgrade_sentence(upgrade))}</p>"
        f"<h2>Modules</h2><p>{escape(shown.title)}</p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f"<h2>Why</h2><dl>{reasons}</dl>"
        f"<h2>How it was run</h2><pre><code>{escape(command)}</code></pre><dl>{provenance}</dl>"
        "</main></body></html>\n"
    )


def _row(record: UpgradeRecord) -> tuple[str, ...]:
    values = [
        "" if value is None and record.metric is None else "undefined" if value is None else f"{value:.3f}"
        for value in (record.home, record.bare, record.ported)
    ]
    spans = ["" if span is None else str(span) for span in (record.gain, record.change)]
    about = (record.technique or "", record.format or "", record.method or "")
    return (record.name, *about, *values, *spans, record.outcome)
