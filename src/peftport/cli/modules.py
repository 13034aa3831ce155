"""The commands that are made from requests, from ``demo`` to ``gguf``, and two lists.

``techniques`` and ``methods`` only list what there is.
"""

from __future__ import annotations

from typing import Any

import typer

from peftport.cli.console import AsJson, print_json, print_table
from peftport.cli.options import command
from peftport.workflows.merge_requests import GgufRequest, MergeRequest
from peftport.workflows.requests import (
    CheckRequest,
    CompareRequest,
    DemoRequest,
    EvaluateRequest,
    PortRequest,
    TrainRequest,
)
from peftport.workflows.upgrade_requests import UpgradeRequest


def register(app: typer.Typer) -> None:
    """Add the commands to the application, in the order of a first session."""
    made = (
        command("demo", DemoRequest),
        command("train", TrainRequest, task_options_before="format"),
        command("evaluate", EvaluateRequest, task_options_before="json_"),
        command("check", CheckRequest),
        command("port", PortRequest, task_options_before="json_"),
        command("compare", CompareRequest, task_options_before="out"),
        command("upgrade", UpgradeRequest, task_options_before="out"),
        command("merge", MergeRequest),
        command("gguf", GgufRequest),
    )
    for each in (*made, techniques, methods):
        app.command()(each)


def techniques(json_: AsJson = False) -> None:
    """List the four techniques, with their settings, default learning rates and sources.

    Example: peftport techniques --json
    """
    from peftport.report.table import Table
    from peftport.techniques import TECHNIQUES, make_spec

    rows = [
        {
            "name": t.name, "title": t.title, "settings": make_spec(t.name).model_dump(mode="json", exclude={"kind"}),
            "learning_rates": {str(k): v for k, v in t.learning_rates.items()}, "source": t.source,
        }
        for t in TECHNIQUES.values()
    ]  # fmt: skip
    _listed(json_, "techniques", rows, Table)


def methods(json_: AsJson = False) -> None:
    """List the porting methods and the samplers, with what each needs, where it can be used, and its source.

    A sampler draws random matrices on the scale of a module's, as the control of a comparison. In the
    columns width and depth, "any" means that the two hosts may differ in it.

    Example: peftport methods
    """
    from peftport.porting import PORTERS, SAMPLERS
    from peftport.report.table import Table
    from peftport.workflows import distill

    rows = [
        {
            "name": p.name, "kind": kind, "title": p.title, "needs": p.needs, "width": p.fits.width,
            "depth": p.fits.depth, "techniques": ",".join(p.techniques), "source": p.source,
        }
        for kind, known in (("porter", PORTERS), ("sampler", SAMPLERS))
        for p in known.values()
    ]  # fmt: skip
    trained = {
        "name": distill.NAME, "kind": "training", "title": distill.TITLE, "needs": "training", "width": "any",
        "depth": "any", "techniques": "any to any", "source": distill.SOURCE,
    }  # fmt: skip
    rows.insert(len(PORTERS), trained)
    _listed(json_, "methods", rows, Table)


def _listed(json_: bool, title: str, rows: list[dict[str, Any]], table: Any) -> None:
    if json_:
        print_json({title: rows})
        return
    cells = [tuple(_plain(value).replace(",", ", ").replace(",  ", ", ") for value in row.values()) for row in rows]
    print_table(table(title, tuple(key.replace("_", " ") for key in rows[0]), tuple(cells)))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key}={_plain(inner)}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
