"""The charts. Each is specified once, without rows; page and paper fill in the rows of each panel.

The rows are those of ``findings.SCHEMAS`` plus ``pair``, origin and receiver on two lines. Where a chart needs a number
that all its panels share (an axis' ends, the largest budget), it reads the Vega parameter of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from peftport.report.palette import ARM_DASHES, ARM_SHAPES, ARMS, HEAT, SHAPES, VERDICTS, Palette

BARE_AXIS: dict[str, Any] = {"ticks": False, "domain": False, "grid": False, "labelFontSize": 10.5}
PAIR_LABELS = "[split(datum.label, '\\n')[0], '→ ' + split(datum.label, '\\n')[1]]"


@dataclass(frozen=True)
class Canvas:
    """The context of a chart: the colours, the techniques in their fixed order, and the parameters it may read."""

    palette: Palette
    techniques: tuple[str, ...]
    params: dict[str, Any]
    width: int | Literal["container"] = "container"

    def technique(self, *, legend: bool = True) -> dict[str, Any]:
        """Colour and shape of a technique, the same in every chart."""
        number = len(self.techniques)
        scale: dict[str, Any] = {"domain": list(self.techniques)}
        colours = [self.palette.techniques[index % 8] for index in range(number)]
        shown = alt.Legend(title=None, columns=4) if legend else None
        return {
            "color": alt.Color("technique:N", scale=alt.Scale(**scale, range=colours), legend=shown),
            "shape": alt.Shape(
                "technique:N", scale=alt.Scale(**scale, range=[SHAPES[i % 8] for i in range(number)]), legend=shown
            ),
        }

    def layers(self, *layers: alt.Chart, height: Any) -> alt.LayerChart:
        """Layers over one set of rows, which is filled in later, with the parameters that they read."""
        chart = alt.LayerChart(layer=list(layers), data=alt.NamedData(name="rows"))
        params = [alt.param(name=name, value=value) for name, value in self.params.items()]
        if self.width == "container":
            chart = chart.properties(autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
        return chart.add_params(*params).properties(width=self.width, height=height)


def _expr(text: str) -> Any:
    return alt.ExprRef(text)


def _tips(*fields: str) -> list[alt.Tooltip]:
    """Tooltips: ``name:kind:format`` with the format left out for text."""
    tips = []
    for entry in fields:
        name, kind, form = (entry.split(":") + ["", ""])[:3]
        formatted: dict[str, Any] = {"format": form} if form else {}
        tips.append(alt.Tooltip(f"{name}:{kind or 'N'}", title=name.replace("_", " "), **formatted))
    return tips


BARE_DASH, CEILING_DASH = [1, 3], [7, 3]  # as the page's key has them


def _pairs() -> alt.Y:
    """A row for each pair, origin above receiver."""
    return alt.Y(
        "pair:N", title=None, axis=alt.Axis(labelExpr=PAIR_LABELS, labelLimit=125, labelPadding=6, **BARE_AXIS)
    )


def draw_curves(canvas: Canvas) -> alt.LayerChart:
    """Accuracy against training steps by arm, with intervals; bare host and ceiling as lines across.

    Further samplers are further lines of the sampled arm.

    Reads ``low``, ``high`` (ends of the accuracy axis) and ``budgets`` (ticks).
    """
    base = alt.Chart().transform_filter(f"indexof({list(ARMS)}, datum.arm) >= 0").encode(detail="method:N")
    axis = alt.Axis(values=_expr("budgets"), labelOverlap=True, grid=False, tickSize=3)
    x = alt.X("budget:Q", title="training steps", scale=alt.Scale(type="sqrt", nice=False), axis=axis)
    ends = alt.Scale(domain=[_expr("low"), _expr("high")], nice=False, zero=False, clamp=True)
    y = alt.Y("mean:Q", title=None, scale=ends, axis=alt.Axis(format=".2f", tickCount=5))
    key = None if canvas.width == "container" else alt.Legend(title=None)  # the page has one key for all panels
    colour = alt.Color("arm:N", scale=alt.Scale(domain=ARMS, range=canvas.palette.arms), legend=key)
    shape = alt.Shape("arm:N", scale=alt.Scale(domain=ARMS, range=ARM_SHAPES), legend=key)
    dash = alt.StrokeDash("arm:N", scale=alt.Scale(domain=ARMS, range=ARM_DASHES), legend=key)
    tips = _tips("arm", "budget:Q", "mean:Q:.3f", "low:Q:.3f", "high:Q:.3f", "seeds:Q", "items:Q")
    flat = alt.Chart().transform_filter("indexof(['bare', 'ceiling'], datum.arm) >= 0")
    dots = alt.condition("datum.arm == 'bare'", alt.value(BARE_DASH), alt.value(CEILING_DASH))
    across = flat.mark_rule(strokeWidth=1.5).encode(
        y=y, color=alt.value(canvas.palette.soft), tooltip=tips, strokeDash=dots
    )
    # Names stand right of the plot, where no curve is; that of the ceiling a little higher, as the ceiling mostly is.
    labels = [
        flat.transform_filter(f"datum.arm == '{arm}'")
        .mark_text(align="left", baseline="middle", dx=4, dy=down, fontSize=10)
        .encode(x=alt.value("width"), y=y, text="arm:N", color=alt.value(canvas.palette.soft))
        for arm, down in (("bare", 4), ("ceiling", -4))
    ]
    return canvas.layers(
        across,
        base.mark_area(opacity=0.16).encode(x=x, y=alt.Y("low:Q", scale=ends), y2="high:Q", color=colour),
        base.mark_rule(strokeWidth=1.2, opacity=0.7).encode(
            x=x, y=alt.Y("low:Q", scale=ends), y2="high:Q", color=colour
        ),
        base.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash),
        base.mark_point(filled=True, size=46, opacity=1).encode(x=x, y=y, color=colour, shape=shape, tooltip=tips),
        *labels,
        height=170,
    )


def heat(canvas: Canvas) -> alt.LayerChart:
    """Zero-shot retention by pair and technique; cells that are not eligible carry no colour and no number."""
    base = (
        alt.Chart()
        .transform_calculate(
            said="isValid(datum.retention) ? format(datum.retention, '.0%') : 'not eligible'",
            range="isValid(datum.low) && isValid(datum.retention)"
            " ? format(datum.low * 100, '.0f') + ' to ' + format(datum.high * 100, '.0f') : ''",
            settled="isValid(datum.low) && (datum.low > 0 || datum.high < 0)",
        )
        .encode(
            x=alt.X(
                "technique:N",
                title=None,
                sort=list(canvas.techniques),
                axis=alt.Axis(orient="top", labelAngle=0, **BARE_AXIS),
            ),
            y=_pairs(),
        )
    )
    tips = _tips("technique", "origin", "receiver", "retention:Q:.1%", "low:Q:.1%", "high:Q:.1%")
    tips += _tips("base:Q:.3f", "ported:Q:.3f", "ceiling:Q:.3f", "reason")
    colour = alt.Color(
        "retention:Q", scale=alt.Scale(domain=[-1, 0, 1], range=list(HEAT), interpolate="rgb", clamp=True), legend=None
    )
    has = "isValid(datum.retention)"
    on_dark = alt.condition("abs(datum.retention) > 0.55", alt.value("#ffffff"), alt.value("#1b1f24"))
    figure = base.transform_filter(has)
    return canvas.layers(
        base.transform_filter(f"!{has}")
        .mark_rect(fill="transparent", stroke=canvas.palette.soft, strokeOpacity=0.5, strokeDash=[3, 3], cornerRadius=4)
        .encode(tooltip=tips),
        base.transform_filter(f"!{has}")
        .mark_text(fontSize=9.5)
        .encode(text=alt.value("n/e"), color=alt.value(canvas.palette.soft), tooltip=tips),
        figure.mark_rect(stroke=canvas.palette.paper, strokeWidth=2, cornerRadius=4).encode(color=colour, tooltip=tips),
        figure.transform_filter("datum.settled")
        .mark_text(fontSize=13, fontWeight="bold", dy=-5)
        .encode(text="said:N", color=on_dark, tooltip=tips),
        figure.transform_filter("!datum.settled")
        .mark_text(fontSize=13, fontStyle="italic", dy=-5)
        .encode(text="said:N", color=on_dark, tooltip=tips),
        figure.mark_text(fontSize=9, dy=9).encode(text="range:N", color=on_dark, tooltip=tips),
        height=alt.Step(42),
    )


def draw_directions(canvas: Canvas) -> alt.LayerChart:
    """Retention A to B against B to A. Reads ``low``, ``high``; what lies outside is drawn at the edge."""
    ends = alt.Scale(domain=[_expr("low"), _expr("high")], nice=False, clamp=True)
    axis = alt.Axis(format=".0%", tickCount=6)
    x = alt.X("retention_ab:Q", title="retention A → B", scale=ends, axis=axis)
    y = alt.Y("retention_ba:Q", title="retention B → A", scale=ends, axis=axis)
    look = canvas.technique()
    tips = _tips("technique", "host_a", "host_b", "receiver_task", "retention_ab:Q:.1%", "retention_ba:Q:.1%")
    base = alt.Chart()
    once = base.transform_window(place="row_number()").transform_filter("datum.place == 1")
    diagonal = once.transform_calculate(from_="low", to="high").mark_rule(strokeDash=[4, 4], opacity=0.7)
    both: dict[str, Any] = {"scale": ends, "axis": axis}
    low, high = alt.X("from_:Q", title="retention A → B", **both), alt.Y("from_:Q", title="retention B → A", **both)
    return canvas.layers(
        diagonal.encode(x=low, y=high, x2="to:Q", y2="to:Q"),
        base.mark_rule(opacity=0.5).encode(x=alt.X("low_ab:Q", scale=ends), x2="high_ab:Q", y=y, color=look["color"]),
        base.mark_rule(opacity=0.5).encode(y=alt.Y("low_ba:Q", scale=ends), y2="high_ba:Q", x=x, color=look["color"]),
        base.mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, **look, tooltip=tips),
        height=340,
    )


def distance(canvas: Canvas) -> alt.LayerChart:
    """Retention against how far the receiver's weights lie from the origin's. Reads ``low``, ``high``."""
    ends = alt.Scale(domain=[_expr("low"), _expr("high")], nice=False, clamp=True)
    x = alt.X("host_distance:Q", title="relative distance of the hosts' weights", axis=alt.Axis(grid=False))
    y = alt.Y("retention:Q", title="zero-shot retention", scale=ends, axis=alt.Axis(format=".0%", tickCount=6))
    look = canvas.technique()
    tips = _tips("technique", "origin", "receiver", "receiver_task", "host_distance:Q:.3f", "retention:Q:.1%")
    base = alt.Chart()
    zero = base.transform_aggregate(n="count()").transform_calculate(zero="0")
    return canvas.layers(
        zero.mark_rule(strokeDash=[4, 4], opacity=0.7).encode(y=alt.Y("zero:Q", scale=ends)),
        base.mark_rule(opacity=0.5).encode(x=x, y=alt.Y("low:Q", scale=ends), y2="high:Q", color=look["color"]),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            x=x, y=y, **look, tooltip=[*tips, *_tips("low:Q:.1%", "high:Q:.1%")]
        ),
        height=320,
    )


def draw_lifts(canvas: Canvas) -> alt.LayerChart:
    """What ported modules gain without training against what their origins gained at home, a point a cell."""
    x = alt.X("lift:Q", title="lift at home", axis=alt.Axis(format="+.2f", tickCount=5))
    y = alt.Y("gain:Q", title="gain on the receiver, 0 steps", axis=alt.Axis(format="+.2f", tickCount=6))
    look = canvas.technique()
    tips = _tips("technique", "origin", "receiver", "origin_task", "receiver_task", "method")
    tips += _tips(*(f"{name}:Q:.3f" for name in ("lift", "lift_low", "lift_high", "gain", "low", "high")))
    base = alt.Chart()
    once = base.transform_window(place="row_number()").transform_filter("datum.place == 1")
    zero: dict[str, Any] = {"strokeDash": [4, 4], "opacity": 0.7}
    return canvas.layers(
        once.mark_rule(**zero).encode(y=alt.Y(datum=0, type="quantitative")),
        once.mark_rule(**zero).encode(x=alt.X(datum=0, type="quantitative")),
        base.mark_rule(opacity=0.4).encode(x=alt.X("lift_low:Q"), x2="lift_high:Q", y=y, color=look["color"]),
        base.mark_rule(opacity=0.4).encode(y=alt.Y("low:Q"), y2="high:Q", x=x, color=look["color"]),
        base.mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, **look, tooltip=tips),
        height=340,
    )


def draw_savings(canvas: Canvas) -> alt.LayerChart:
    """Steps to the target, ported against scratch. Hollow: not reached in the largest budget (reads ``reach``)."""
    both = ("ported", "scratch")
    at = {arm: f"datum.{arm}_censored || !isValid(datum.steps_{arm}) ? reach : datum.steps_{arm}" for arm in both}
    base = alt.Chart().transform_calculate(ported_at=at["ported"], scratch_at=at["scratch"])
    scale = alt.Scale(domain=[0, _expr("reach")], nice=False)
    axis = alt.Axis(tickCount=4, labelOverlap=True)
    x_of = {arm: alt.X(f"{arm}_at:Q", title="steps to target", scale=scale, axis=axis) for arm in both}
    pair = _pairs()
    tips = _tips("origin", "receiver", "target:Q:.0%", "steps_ported:Q", "steps_scratch:Q", "training_saved:Q:.0%")
    layers = [base.mark_rule(strokeWidth=3, opacity=0.35).encode(x=x_of["ported"], x2="scratch_at:Q", y=pair)]
    for arm, index in (("scratch", 2), ("ported", 0)):
        missed = f"datum.{arm}_censored || !isValid(datum.steps_{arm})"
        colour, x = canvas.palette.arms[index], x_of[arm]
        mark: dict[str, Any] = {"shape": ARM_SHAPES[index], "size": 75, "strokeWidth": 2, "opacity": 1, "color": colour}
        met = base.transform_filter(f"!({missed})").mark_point(**mark, filled=True)
        layers += [met.encode(x=x, y=pair, tooltip=tips)]
        layers += [
            base.transform_filter(missed)
            .mark_point(**mark, fill=canvas.palette.paper)
            .encode(x=x, y=pair, tooltip=tips)
        ]
    return canvas.layers(*layers, height=alt.Step(38))


def draw_aggregates(canvas: Canvas) -> alt.LayerChart:
    """An estimate over all pairs and seeds with its interval, a row for each technique."""
    base = alt.Chart().transform_calculate(who="datum.technique == null ? 'all techniques' : datum.technique")
    order = [*canvas.techniques, "all techniques"]
    y = alt.Y("who:N", title=None, sort=order, axis=alt.Axis(labelLimit=150))
    x = alt.X("estimate:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    tips = _tips("who", "quantity", "estimate:Q:.3f", "low:Q:.3f", "high:Q:.3f", "note")
    colour = canvas.palette.ink
    return canvas.layers(
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=alt.Scale(zero=False)), x2="high:Q", y=y),
        base.mark_point(filled=True, size=70, color=colour, opacity=1).encode(x=x, y=y, tooltip=tips),
        height=alt.Step(26),
    )


def draw_pooled(canvas: Canvas) -> alt.LayerChart:
    """A gain pooled over cells with its interval, a row for each technique; one axis for all panels, zero marked."""
    base = alt.Chart().transform_calculate(who="datum.technique == null ? 'all techniques' : datum.technique")
    order = [*canvas.techniques, "all techniques"]
    y = alt.Y("who:N", title=None, sort=order, axis=alt.Axis(labelLimit=150))
    scale = alt.Scale(domain=[alt.ExprRef("low"), alt.ExprRef("high")], nice=True)
    axis = alt.Axis(tickCount=5, format="+.2f")
    tips = _tips("who", "versus", "budget:Q", "gain:Q:.3f", "low:Q:.3f", "high:Q:.3f", "p_holm:Q:.3f", "cells:Q")
    return canvas.layers(
        base.mark_rule(strokeDash=[2, 3], opacity=0.7).encode(x=alt.X(datum=0, type="quantitative", scale=scale)),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=scale), x2="high:Q", y=y),
        base.mark_point(filled=True, size=70, color=canvas.palette.ink, opacity=1).encode(
            x=alt.X("gain:Q", title=None, scale=scale, axis=axis), y=y, tooltip=tips
        ),
        height=alt.Step(24),
    )


def draw_verdicts(canvas: Canvas) -> alt.LayerChart:
    """How many cells of each technique got which verdict. Rows: technique, verdict, cells, order."""
    scale = alt.Scale(domain=VERDICTS, range=canvas.palette.verdicts)
    legend = alt.Legend(title=None, columns=3, symbolType="square")
    base = alt.Chart().encode(y=alt.Y("technique:N", title=None, sort=list(canvas.techniques)))
    x = alt.X("cells:Q", title="cells", axis=alt.Axis(tickMinStep=1, format="d"))
    return canvas.layers(
        base.mark_bar(stroke=canvas.palette.paper, strokeWidth=1).encode(
            x=x,
            color=alt.Color("verdict:N", scale=scale, legend=legend),
            order="order:Q",
            tooltip=_tips("technique", "verdict", "cells:Q"),
        ),
        height=alt.Step(32),
    )


CHARTS: dict[str, Callable[..., alt.LayerChart]] = {
    "verdicts": draw_verdicts,
    "pooled": draw_pooled,
    "aggregates": draw_aggregates,
    "curves": draw_curves,
    "retention": heat,
    "lifts": draw_lifts,
    "directions": draw_directions,
    "distance": distance,
    "savings": draw_savings,
}
# Charts with a row for each value of a field: the page, whose charts fill their container, sets the height itself.
BANDS = {
    "verdicts": "technique",
    "pooled": "technique",
    "aggregates": "technique",
    "retention": "pair",
    "savings": "pair",
}
PARAMS: dict[str, dict[str, Any]] = {
    "pooled": {"low": -1, "high": 1},
    "curves": {"low": 0, "high": 1, "budgets": [0]},
    "directions": {"low": -1, "high": 1.25},
    "distance": {"low": -1, "high": 1.25},
    "savings": {"reach": 1},
}


def drawing(
    name: str, palette: Palette, techniques: Sequence[str], width: int | Literal["container"] = "container"
) -> dict[str, Any]:
    """The Vega-Lite specification of a chart without rows: what page and paper fill panel by panel."""
    chart = CHARTS[name](Canvas(palette, tuple(techniques), PARAMS.get(name, {}), width))
    specification: dict[str, Any] = chart.properties(config=palette.theme()).to_dict(validate=False)
    return specification
