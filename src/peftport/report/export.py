"""Figures for a paper: the charts of the page, with all their rows, as SVG, PNG or PDF files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftport.core.errors import BadRequest, OutputRefused
from peftport.core.libraries import pl
from peftport.metrics import metric_named
from peftport.report.digest import cells, summary
from peftport.report.figures import CHARTS, drawing
from peftport.report.findings import PLACE, Findings
from peftport.report.palette import ARMS, PAPER, VERDICTS
from peftport.store.artifacts import write_bytes
from peftport.study.commands import IMAGE_FORMATS, ImageFormat

MOST_PANELS = 24  # more would not be read in one figure: further panels go to further files
MOST_PAIRS = 24  # rows of one panel
ENDS = (-1.0, 1.5)  # a ratio of small differences has long tails: retention is drawn between these
SAVINGS_KEY = "● ported   ▲ scratch   hollow: not reached"
SCALE = 3  # of PNG files, pixels for each point


@dataclass(frozen=True)
class Panel:
    """One panel of a figure: its title, rows, and what its axes share with the others."""

    title: str | list[str]
    rows: list[dict[str, Any]]
    params: dict[str, Any]


def export_figures(findings: Findings, folder: Path, image: ImageFormat) -> list[Path]:
    """Write every figure that has data into ``folder``; a figure of many panels becomes several files.

    Raises:
        BadRequest: an image format that there is not.
        OutputRefused: the folder cannot be written.

    """
    if image not in IMAGE_FORMATS:
        raise BadRequest(f"--format: expected one of {', '.join(IMAGE_FORMATS)}, got {image!r}")
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in CHARTS:
            pages = list(_pages(panels_of(name, findings)))
            for number, panels in enumerate(pages, 1):
                suffix = f"-{number}" if len(pages) > 1 else ""
                path = folder / f"{name}{suffix}.{image}"
                write_bytes(path, _drawn(name, panels, findings, image))
                written.append(path)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise OutputRefused(f"{folder}: expected a folder that can be written, got {error}; choose another") from error
    return written


def panels_of(name: str, findings: Findings) -> list[Panel]:
    """The panels of a figure, in the order of the page; none where there is no data."""
    made = {"curves": _curves, "retention": _retention, "savings": _savings, "aggregates": _aggregates}
    made |= {"pooled": _pooled, "lifts": _lifts, "directions": _directions, "distance": _distance}
    made |= {"verdicts": _verdicts}
    return made[name](findings)


def _pages(panels: list[Panel]) -> Iterator[list[Panel]]:
    for start in range(0, len(panels), MOST_PANELS):
        yield panels[start : start + MOST_PANELS]


def _drawn(name: str, panels: list[Panel], findings: Findings, image: ImageFormat) -> bytes:
    import vl_convert

    techniques = findings.techniques
    width = {"curves": 200, "directions": 340, "lifts": 340, "retention": 74 * max(1, len(techniques))}.get(name, 300)
    empty = drawing(name, PAPER, techniques, width)
    columns = {"curves": max(1, len(techniques)), "pooled": 3}.get(name, 2)
    spec = {key: empty[key] for key in ("$schema", "config")} | {"background": PAPER.paper}
    spec |= {"concat": [_filled(empty, panel) for panel in panels], "columns": columns}
    if image == "svg":
        return str(vl_convert.vegalite_to_svg(spec)).encode()
    if image == "png":
        return bytes(vl_convert.vegalite_to_png(spec, scale=SCALE))
    return bytes(vl_convert.vegalite_to_pdf(spec))


def _filled(empty: dict[str, Any], panel: Panel) -> dict[str, Any]:
    """A drawing with a panel's rows. Panels of one figure share names: parameters give way to their values."""
    kept = {key: value for key, value in empty.items() if key not in ("$schema", "config", "params", "data")}
    filled: dict[str, Any] = _settled(kept, panel.params)
    return filled | {"data": {"values": panel.rows}, "title": {"text": panel.title, "anchor": "start"}}


def _settled(value: Any, params: dict[str, Any], key: str = "") -> Any:
    """The specification with its parameters replaced by their values."""
    if isinstance(value, dict):
        if set(value) == {"expr"} and value["expr"] in params:
            return params[value["expr"]]
        return {name: _settled(inner, params, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_settled(inner, params, key) for inner in value]
    if key in ("calculate", "filter", "expr"):
        for name, number in params.items():
            value = re.sub(rf"(?<![\w.'\"]){name}(?![\w'\"])", str(number), value)
    return value


def _curves(findings: Findings) -> list[Panel]:
    rows = cells(findings).filter(pl.col("mean").is_not_null())
    ported = rows.filter(pl.col("arm") == "ported").select(*PLACE, "method").unique(maintain_order=True)
    if ported.is_empty():
        return []
    trained = rows.filter(pl.col("arm").is_in(ARMS))
    low, high = (rows.select(pl.min_horizontal(pl.col("low", "mean").min())).item(), rows["high"].max())
    high = max(high if isinstance(high, float) else low, rows.select(pl.col("mean").max()).item())
    budgets = trained["budget"].unique().sort().to_list()
    least, most = metric_named(findings.metric).bounds
    params = {"low": max(least, low - 0.01), "high": min(most, high + 0.01), "budgets": budgets}
    methods = ported["method"].unique()
    panels = []
    for cell in ported.sort("origin_task", "receiver_task", "method", "origin", "receiver", "technique").to_dicts():
        of_cell = pl.all_horizontal(
            *(pl.col(name).is_null() | (pl.col(name) == cell[name]) for name in PLACE),
            pl.col("method").is_null()
            | (pl.col("method") == cell["method"])
            | ((pl.col("arm") != "ported") & ~pl.col("method").is_in(methods.implode())),
        )
        panels.append(Panel(_title(cell), rows.filter(of_cell).to_dicts(), params))
    return panels


def _title(cell: dict[str, Any]) -> list[str]:
    return [str(cell["technique"]), f"{cell['origin']} → {cell['receiver']}", _where(cell)]


def _where(cell: dict[str, Any]) -> str:
    tasks = dict.fromkeys(str(cell[name]) for name in ("origin_task", "receiver_task") if cell[name] is not None)
    return ", ".join([" → ".join(tasks), *([str(cell["method"])] if cell.get("method") else [])])


def _by_slice(frame: pl.DataFrame, *further: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows by (tasks, method and further columns), each group with a title, rows with their pair."""
    key = ["origin_task", "receiver_task", "method", *further]
    titled = []
    for group in frame.partition_by(key, maintain_order=True):
        paired = group.with_columns(pair=pl.format("{}\n{}", "origin", "receiver")).sort("pair", maintain_order=True)
        first, pairs = paired.row(0, named=True), paired["pair"].unique(maintain_order=True)
        title = ", ".join([*(str(first[name]) for name in further), _where(first)])
        for start in range(0, len(pairs), MOST_PAIRS):
            some = paired.filter(pl.col("pair").is_in(pairs.slice(start, MOST_PAIRS).implode()))
            titled.append((title, some.to_dicts()))
    return titled


def _retention(findings: Findings) -> list[Panel]:
    return [Panel(title, rows, {}) for title, rows in _by_slice(findings.retention)]


def _lifts(findings: Findings) -> list[Panel]:
    groups = findings.lifts.partition_by("origin_task", "receiver_task", "method", maintain_order=True)
    return [Panel(_where(rows[0]), rows, {}) for rows in (group.to_dicts() for group in groups)]


def _savings(findings: Findings) -> list[Panel]:
    frame = findings.savings
    ported = findings.curves.filter(pl.col("arm") == "ported")["budget"].to_list()
    steps = [*ported, *frame["steps_ported"].to_list(), *frame["steps_scratch"].to_list()]
    reach = max([1, *(value for value in steps if value is not None)])
    groups = _by_slice(frame, "technique", "target")
    return [Panel([title, SAVINGS_KEY], rows, {"reach": reach}) for title, rows in groups]


def _ends(values: list[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None] + [0.0, 1.0]
    return {"low": max(ENDS[0], min(known)) - 0.1, "high": min(ENDS[1], max(known)) + 0.1}


def _directions(findings: Findings) -> list[Panel]:
    both = findings.directions.drop_nulls(["retention_ab", "retention_ba"])
    params = _ends(both["retention_ab"].to_list() + both["retention_ba"].to_list())
    groups = both.partition_by("origin_task", "receiver_task", maintain_order=True)
    return [Panel(_where(rows[0]), rows, params) for rows in (group.to_dicts() for group in groups)]


def _distance(findings: Findings) -> list[Panel]:
    known = findings.retention.drop_nulls(["retention", "host_distance"])
    params = _ends(known["retention"].to_list())
    groups = known.partition_by("origin_task", "receiver_task", "method", maintain_order=True)
    return [Panel(_where(rows[0]), rows, params) for rows in (group.to_dicts() for group in groups)]


def _pooled(findings: Findings) -> list[Panel]:
    rows = summary(findings.pooled)
    ends = {"low": rows["low"].min() or 0.0, "high": rows["high"].max() or 0.0}
    groups = rows.partition_by("method", "tasks", "versus", "budget", maintain_order=True)
    several = [name for name in ("method", "tasks") if rows[name].n_unique() > 1]
    named = "".join(f"{{{name}}}: " for name in several) + "over {versus}, {budget} steps"
    return [Panel(named.format(**group[0]), group, ends) for group in (frame.to_dicts() for frame in groups)]


def _aggregates(findings: Findings) -> list[Panel]:
    groups = findings.aggregates.partition_by("quantity", maintain_order=True)
    return [Panel(str(rows[0]["quantity"]), rows, {}) for rows in (group.to_dicts() for group in groups)]


def _verdicts(findings: Findings) -> list[Panel]:
    counted = findings.verdicts.group_by("technique", "verdict").agg(cells=pl.len())
    order = {name: index for index, name in enumerate(VERDICTS)}
    rows = [row | {"order": order.get(row["verdict"], len(order))} for row in counted.sort("technique").to_dicts()]
    return [Panel("verdicts", rows, {})] if rows else []
