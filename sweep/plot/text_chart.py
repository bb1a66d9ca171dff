"""A Chart as lines of text for a terminal: bars in groups, in the given width.

plotext draws curves of dots in a grid of characters; a curve of five points with equal ones on top of each other reads
worse than the numbers with a bar each, which is what these lines are.
"""

from collections.abc import Iterator
from textwrap import wrap

from sweep.common.text_bar import bar
from sweep.plot.chart import Chart, Mark
from sweep.plot.scales import numbers_text, value_text
from sweep.plot.vega_lite import axis_title

_LONGEST_LABEL = 36
_SHORTEST_BAR = 4


def lines(chart: Chart, width: int, *, in_ascii: bool = False) -> Iterator[str]:
    """Title, then for each facet and x a bar for each series, all on one scale from 0."""
    yield from wrap(chart.title, width)
    yield from wrap("; ".join(filter(None, (axis_title(chart.y.title, chart.y_unit), chart.subtitle))), width)
    largest = max(abs(mark.y) for mark in chart.marks)
    indent = 2 * chart.has_series
    texts = chart.series if chart.has_series else [_x_text(chart, mark) for mark in chart.marks]
    label_width = min(_LONGEST_LABEL, width // 2, max(map(len, texts)))
    numbers = dict(zip(chart.marks, numbers_text([mark.y for mark in chart.marks]), strict=True))
    number_width = max(map(len, numbers.values()))
    bar_width = max(_SHORTEST_BAR, width - indent - label_width - number_width - 4)
    for facet in chart.facets:
        marks = [mark for mark in chart.marks if mark.facet == facet]
        yield ""
        if chart.facet is not None:
            yield f"{chart.facet.name} {facet}"[:width]
        for x in dict.fromkeys(mark.x for mark in _sorted(chart, marks)):
            group = sorted((m for m in marks if m.x == x), key=lambda mark: chart.series.index(mark.by))
            if chart.has_series:
                yield f"{chart.x.name} {_x_text(chart, group[0])}"[:width]
            for mark in group:
                first, *others = wrap(mark.by if chart.has_series else _x_text(chart, mark), label_width) or [""]
                drawn = bar(mark.y / largest if largest else 0.0, bar_width, in_ascii=in_ascii)
                number = numbers[mark].rjust(number_width)
                yield f"{' ' * indent}{first.ljust(label_width)}  {number}  {drawn}".rstrip()
                yield from (" " * (indent + 2) + other for other in others)


def _sorted(chart: Chart, marks: list[Mark]) -> list[Mark]:
    if chart.has_numeric_x:
        return sorted(marks, key=lambda mark: float(mark.x))
    return sorted(marks, key=lambda mark: chart.x_labels.index(mark.x))


def _x_text(chart: Chart, mark: Mark) -> str:
    return mark.x if isinstance(mark.x, str) else value_text(mark.x, chart.x.unit)
