"""Changes to the ledger of a study from outside, as damage or an attacker would make them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from peftport.store.ledger import FILE

Change = Callable[[Path], None]


def sql(text: str) -> Change:
    """One statement on a ledger, which must change something."""

    def change(folder: Path) -> None:
        with closing(sqlite3.connect(folder / FILE)) as base:
            assert base.execute(text).rowcount > 0, text
            base.commit()

    return change
