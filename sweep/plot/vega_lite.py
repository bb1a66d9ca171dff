"""A Chart as a Vega-Lite specification (https://vega.github.io/vega-lite/docs/): plain JSON.

Names from grids and stores are values of the data only, never part of an expression, so none can act on a page.
"""

from collections.abc import Sequence
from typing import Any

from sweep.plot import colours
from sweep.plot.chart import VALUE, Chart
from sweep.plot.scales import spacing_of, value_text

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
INK, MUTED, GRID = "#212529", "#5c6670", "#e3e7eb"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', 'DejaVu Sans', sans-serif"
WIDTH, HEIGHT = 620, 320
NARROW_TITLE = 32
"""Most characters of the title of an x axis in a panel that is narrower."""
_FACET_WIDTH, _FACET_HEIGHT, _MOST_COLUMNS = 250, 190, 3
_CHARACTER, _SYMBOL = 6.2, 44.0
"""Widths in pixels of a legend's text and of the symbol beside it."""
_MOST_TICKS = 9
_LOG_RANGE = 50
"""Largest y divided by the smallest from which lines in a row of powers are drawn on a logarithmic axis."""
_CELL_HEIGHT, _AXIS_HEIGHT, _MOST_NUMBERS = 32, 48, 14
_HEAT_SCHEME, _ON_DARK, _ON_BRIGHT = "cividis", "#fffffe", "#000001"
"""cividis runs evenly from dark blue to yellow for every kind of colour vision. Texts on it are not of the page's ink
colour, which changes with its theme."""
_SIZE_LABEL = (
    "datum.value >= 1099511627776 ? format(datum.value / 1099511627776, '.4~r') + ' TiB' :"
    " datum.value >= 1073741824 ? format(datum.value / 1073741824, '.4~r') + ' GiB' :"
    " datum.value >= 1048576 ? format(datum.value / 1048576, '.4~r') + ' MiB' :"
    " datum.value >= 1024 ? format(datum.value / 1024, '.4~r') + ' KiB' : datum.value + ' B'"
)

CONFIG: Spec = {
    "font": FONT,
    "background": "transparent",
    "view": {"stroke": None},
    "title": {
        "anchor": "start",
        "color": INK,
        "fontSize": 15,
        "fontWeight": 600,
        "subtitleColor": MUTED,
        "subtitleFontSize": 12,
        "subtitlePadding": 5,
        "offset": 14,
    },
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "gridColor": GRID,
        "domainColor": MUTED,
        "tickColor": MUTED,
        "labelOverlap": "greedy",
    },
    "axisX": {"grid": False},
    "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
    "legend": {"labelColor": INK, "titleColor": MUTED, "labelFontSize": 12, "titleFontSize": 12, "labelLimit": 0},
    "header": {
        "labelColor": INK,
        "labelFontSize": 12,
        "labelFontWeight": 600,
        "titleColor": MUTED,
        "titleFontSize": 12,
    },
}
PANEL_CONFIG: Spec = CONFIG | {"axis": CONFIG["axis"] | {"labelSeparation": 6}}
"""Of the panels of a page, which can be much narrower than a picture."""


def specification(chart: Chart, background: str = "white") -> Spec:
    """One picture with its title, legend, facets and data."""
    width, height = (_FACET_WIDTH, _FACET_HEIGHT) if chart.facet is not None else (WIDTH, HEIGHT)
    unit: Spec = {"width": width, "height": height, **layers(chart, width, _legend(chart))}
    spec: Spec = {
        "$schema": SCHEMA,
        "title": {"text": lines_of(chart.title, 88), "subtitle": lines_of(chart.subtitle, 100)},
        "data": {"values": [mark_values(chart, mark) for mark in chart.marks]},
        "config": CONFIG | {"background": background},
    }
    if chart.facet is None:
        return spec | unit
    header = {"title": None, "labelExpr": f"'{_plain(chart.facet.name)} ' + datum.value"}
    facet = {"field": "facet", "type": "nominal", "sort": list(chart.facets), "header": header}
    return spec | {"facet": facet, "columns": facet_columns(len(chart.facets)), "spacing": 28, "spec": unit}


def panels(chart: Chart, height: int = 280) -> list[tuple[str, Spec]]:
    """(heading, specification) for each facet, as wide as the page's element; the page draws title and legend.

    All panels have the same scales. The parameter `picked` is the series that is shown alone; null: all.
    """
    made = []
    for facet in chart.facets:
        heading = f"{chart.facet.name} {facet}" if chart.facet is not None else ""
        values = [mark_values(chart, mark) for mark in chart.marks if mark.facet == facet]
        spec: Spec = {
            "$schema": SCHEMA,
            "data": {"values": values},
            "width": "container",
            "height": height,
            "autosize": {"type": "fit", "contains": "padding"},
            "params": [{"name": "picked", "value": None}],
            **layers(chart, _FACET_WIDTH if heading else WIDTH, None),
            "config": PANEL_CONFIG,
        }
        made.append((heading, spec))
    return made


def heat_panels(chart: Chart) -> list[tuple[str, Spec]]:
    """(heading, specification) for each facet: a cell for each x (columns) and series (rows), with y as its colour."""
    order = list(dict.fromkeys(mark.x for mark in sorted(chart.marks, key=lambda mark: _x_order(chart, mark.x))))
    columns = [x if isinstance(x, str) else value_text(x, chart.x.unit) for x in order]
    made = []
    for facet in chart.facets:
        values = [mark_values(chart, mark) for mark in chart.marks if mark.facet == facet]
        x: Spec = {"field": "x_text", "type": "ordinal", "sort": columns, "title": x_title(chart, 0)}
        y: Spec = {"field": "by", "type": "ordinal", "sort": list(chart.series)}
        y["title"] = chart.by.name if chart.by is not None else None
        colour = {
            "field": "y",
            "type": "quantitative",
            "scale": {"scheme": _HEAT_SCHEME, "domain": [0, 100]},
            "legend": None,
        }
        text_colour = {"condition": {"test": "datum.y > 55", "value": _ON_BRIGHT}, "value": _ON_DARK}
        number = {"field": "y", "type": "quantitative", "format": ".0f"}
        cell = {"mark": {"type": "rect", "cornerRadius": 2}, "encoding": {"color": colour, "tooltip": _tooltip(chart)}}
        text = {"mark": {"type": "text", "fontSize": 11}, "encoding": {"text": number, "color": text_colour}}
        spec: Spec = {
            "$schema": SCHEMA,
            "data": {"values": values},
            "width": "container",
            "height": _CELL_HEIGHT * len(chart.series) + _AXIS_HEIGHT,
            "autosize": {"type": "fit", "contains": "padding"},
            "encoding": {"x": x | {"axis": {"labelAngle": 0}}, "y": y},
            "layer": [cell, text] if len(columns) <= _MOST_NUMBERS else [cell],
            "config": PANEL_CONFIG | {"scale": {"bandPaddingInner": 0.04, "bandPaddingOuter": 0}},
        }
        made.append((facet, spec))
    return made


def _x_order(chart: Chart, x: Any) -> float:
    return float(chart.x_labels.index(x)) if isinstance(x, str) else float(x)


def layers(chart: Chart, width: int, legend: Spec | None) -> Spec:
    """Mark and encoding of a chart, without size and data; `width`: of a panel, in pixels."""
    x, y = _x_channel(chart, width), _y_channel(chart)
    opacity = {"condition": {"test": "!picked || datum.by == picked", "value": 1}, "value": 0.15}
    encoding: Spec = {"x": x, "y": y, "tooltip": _tooltip(chart)} | ({} if legend is not None else {"opacity": opacity})
    if chart.has_series:
        domain = list(chart.series)
        colour = {"domain": domain, "range": colours.colours_of(chart.leaders, chart.is_by_policy)}
        encoding["color"] = {"field": "by", "type": "nominal", "scale": colour, "legend": legend}
    colour_of_all = {} if chart.has_series else {"color": colours.OTHERS[0]}
    if not chart.is_line:
        if _is_flat(chart, width):
            encoding |= {"x": y, "y": x | {"axis": {"labelLimit": 260}}}
        if chart.has_series:
            offset = {"field": "by", "type": "nominal", "sort": list(chart.series)}
            encoding |= {"yOffset" if _is_flat(chart, width) else "xOffset": offset}
        return {"mark": {"type": "bar", "cornerRadiusEnd": 2, **colour_of_all}, "encoding": encoding}
    line, point = (
        {"type": "line", "strokeJoin": "round", **colour_of_all},
        {"type": "point", "filled": True, "opacity": 1, **colour_of_all},
    )
    if not chart.has_series:
        return {"encoding": encoding, "layer": [{"mark": line}, {"mark": point | {"size": 60}}]}
    # Earlier series are drawn first and wider, so that one under an equal one can be seen.
    steps = [(len(domain) - 1 - i) / max(1, len(domain) - 1) for i in range(len(domain))]
    shapes = _by_series(domain, shapes_of(chart), legend) | {"type": "nominal"}
    widths = _by_series(domain, [2 + 2.5 * step for step in steps], None)
    sizes = _by_series(domain, [50 + 60 * step for step in steps], None)
    return {
        "encoding": encoding,
        "layer": [
            {"mark": line, "encoding": {"strokeWidth": widths}},
            {"mark": point, "encoding": {"shape": shapes, "size": sizes}},
        ],
    }


def facet_columns(facets: int) -> int:
    """Panels in a row: 4 are two rows of 2, not 3 and 1."""
    return 2 if facets == 4 else min(_MOST_COLUMNS, facets)


def shapes_of(chart: Chart) -> list[str]:
    """The shape of each series' points; squares for bars."""
    return [colours.SHAPES[i % len(colours.SHAPES)] if chart.is_line else "square" for i in range(len(chart.series))]


def mark_values(chart: Chart, mark: Any) -> dict[str, Any]:
    """The data of a mark: x, y, by, facet, and what a tooltip shows of x and y."""
    x_text = mark.x if isinstance(mark.x, str) else value_text(mark.x, chart.x.unit)
    values = {"x": mark.x, "y": mark.y, "x_text": x_text, "y_text": value_text(round(mark.y, 6), chart.y_unit)}
    if chart.by is not None:
        values["by"] = mark.by
    if chart.facet is not None:
        values["facet"] = mark.facet
    return values


def lines_of(text: str, longest: int) -> list[str]:
    """The text in lines of at most `longest` characters, broken between words."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > longest:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def x_title(chart: Chart, width: int) -> str:
    """`zap: size of one madvise call`, or only the name if it says all, or if a narrow panel has no space for more."""
    full = f"{chart.x.name}: {chart.x.title}"
    return chart.x.name if chart.x.title == chart.x.name or (width < WIDTH and len(full) > NARROW_TITLE) else full


def axis_title(title: str, unit: str) -> str:
    """`size of one madvise call, KiB`."""
    shown = unit if unit not in ("count", "share", "bytes") else ""
    return ", ".join(filter(None, (title if title != VALUE else "", shown)))


def _x_channel(chart: Chart, width: int) -> Spec:
    title = x_title(chart, width)
    if not chart.has_numeric_x:
        axis: Spec = {"labelAngle": 0, "labelLimit": 160}
        return {"field": "x", "type": "ordinal", "sort": list(chart.x_labels), "title": title, "axis": axis}
    values = chart.x_values
    axis = {"tickCount": 6}
    if chart.x.unit == "bytes":
        axis["labelExpr"] = _SIZE_LABEL
    if len(values) <= _MOST_TICKS:
        axis["values"] = values
    is_log = spacing_of(values) == "log"
    scale: Spec = {"type": "log", "base": 2 if chart.x.unit == "bytes" else 10} if is_log else {"zero": False}
    scale |= {"domain": [values[0], values[-1]], "nice": False, "padding": 12}
    return {
        "field": "x",
        "type": "quantitative",
        "title": axis_title(title, chart.x.unit),
        "scale": scale,
        "axis": axis,
    }


def _y_channel(chart: Chart) -> Spec:
    values = [mark.y for mark in chart.marks]
    is_log = chart.is_line and spacing_of(values) == "log" and max(values) / min(values) >= _LOG_RANGE
    scale: Spec = {"domain": [min(0, *values), max(0, *values) or 1], "nice": True}  # equal in all panels
    if is_log:
        scale = {"type": "log", "domain": [min(values) * 0.85, max(values) * 1.15], "nice": False}
    if chart.y_unit == "%" and min(values) >= 0 and 50 < max(values) <= 100:
        scale["domain"] = [0, 100]
    axis = {"format": "~s" if max(map(abs, values)) >= 1e4 else "~r", "tickCount": 5}
    return {
        "field": "y",
        "type": "quantitative",
        "title": lines_of(axis_title(chart.y.title, chart.y_unit), 40),
        "scale": scale,
        "axis": axis,
    }


def _legend(chart: Chart) -> Spec:
    widths = [len(name) * _CHARACTER + _SYMBOL for name in chart.series]
    width = facet_columns(len(chart.facets)) * (_FACET_WIDTH + 28) if chart.facet is not None else WIDTH
    fits = sum(widths) <= width
    columns = len(widths) if fits else max(1, min(len(widths), int(width / max(widths))))
    title = None if chart.by is None or chart.by.name in ("policy", "series") else chart.by.name
    return {
        "title": title,
        "orient": "top",
        "direction": "horizontal",
        "columns": columns,
        "symbolSize": 90,
        "symbolStrokeWidth": 0,
        "offset": 4,
        "columnPadding": 18,
    }


def _by_series(domain: Sequence[str], values: Sequence[Any], legend: Spec | None) -> Spec:
    # Of type nominal, sizes and widths would be warned about on a browser's console.
    scale = {"type": "ordinal", "domain": domain, "range": values}
    return {"field": "by", "type": "ordinal", "scale": scale, "legend": legend}


def _is_flat(chart: Chart, width: int) -> bool:
    """Whether bars lie, one label a line: where the labels would not fit side by side."""
    return len(chart.x_labels) * max(map(len, chart.x_labels)) * _CHARACTER > width


def _tooltip(chart: Chart) -> list[Spec]:
    shown = [("x_text", chart.x.name), ("y_text", chart.y.name)]
    shown += [("by", chart.by.name)] if chart.has_series and chart.by is not None else []
    shown += [("facet", chart.facet.name)] if chart.facet is not None else []
    return [{"field": field, "type": "nominal", "title": _plain(name)} for field, name in shown]


def _plain(name: str) -> str:
    """A column's name without characters that could end a string of an expression."""
    return "".join(character for character in name if character.isalnum() or character in "_ ")
