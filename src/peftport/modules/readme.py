"""Model cards: the README.md of a folder of weights or of a module, as the hub reads and shows it.

The first lines are YAML with what machines read: license, base model, tags. A card that is written here keeps the
license and the base model that the card of the origin names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftport.core.libraries import huggingface_hub

README = "README.md"
# What a card says of rights; all of it goes over.
RIGHTS = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class CardFacts:
    """What the card of a folder says for machines: its license, its base models, its languages and data sets."""

    rights: Mapping[str, str]
    base_models: tuple[str, ...] = ()
    about: Mapping[str, Any] | None = None  # language and datasets, as they stand there

    @property
    def license(self) -> str:
        """The license in words."""
        name = self.rights.get("license_name") if self.rights.get("license") == "other" else None
        return name or self.rights.get("license") or "not stated"


def card_facts(folder: Path | None) -> CardFacts:
    """Read the card of a folder. A card that is missing or that nobody can read says nothing."""
    path = None if folder is None else folder / README
    try:
        read = huggingface_hub.metadata_load(path) if path is not None and path.is_file() else None
    except Exception:  # the file is anybody's: YAML raises many kinds of errors, and a card is no condition of the work
        read = None
    said = read if isinstance(read, dict) else {}
    based = said.get("base_model")
    bases = based if isinstance(based, list) else [based] if based else []
    about = {key: said[key] for key in ("language", "datasets") if said.get(key)}
    return CardFacts(
        {key: str(said[key]) for key in RIGHTS if said.get(key)}, tuple(str(name) for name in bases), about
    )


def card(facts: CardFacts, front: Mapping[str, Any], title: str, paragraphs: Sequence[str]) -> str:
    """Return the text of a card; ``front`` is what machines read of it beside what ``facts`` keeps of the origin's."""
    kept = {key: value for key, value in {**facts.rights, **(facts.about or {}), **front}.items() if value}
    body = "\n\n".join((f"# {title}", *(text for text in paragraphs if text)))
    return f"---\n{huggingface_hub.ModelCardData(**kept).to_yaml()}\n---\n\n{body}\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
