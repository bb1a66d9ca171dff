"""Draws CSV as grouped bars in SVG: the first column is the group, the second the bar to divide the others by."""

import csv
import sys

import altair as alt  # type: ignore[import-not-found]  # fetched by scripts/bars

GREYS, BLUES = ("#8d9299", "#c3c7cc"), ("#1f4e79", "#2f7ebc", "#6aaed6", "#abd0e6")


def main(title: str) -> None:
    """Read CSV from stdin, write SVG to stdout. Columns named *_ns are not drawn; the first two bars are grey."""
    group, *names = next(lines := csv.reader(sys.stdin))
    bars = [name for name in names if not name.endswith("_ns")]
    rows = []
    for line in lines:
        values = dict(zip(names, map(float, line[1:]), strict=True))
        first = values[bars[0]]
        label = f"{float(line[0]):g}\n1 = {first:,.0f} ns"
        rows += [{group: label, "bar": name.replace("_", " "), "ratio": values[name] / first} for name in bars]
    order = [name.replace("_", " ") for name in bars]
    chart = alt.Chart(alt.Data(values=rows), width=680, height=280, title=alt.Title(title, anchor="start"))
    marks = chart.mark_bar().encode(
        x=alt.X(f"{group}:N", sort=None, axis=alt.Axis(labelAngle=0, labelExpr="split(datum.label, '\\n')")),
        xOffset=alt.XOffset("bar:N", sort=order),
        y=alt.Y("ratio:Q", title=f"relative to {order[0]}"),
        color=alt.Color("bar:N", sort=order, title=None, scale=alt.Scale(domain=order, range=[*GREYS, *BLUES])),
    )
    one = alt.Chart(alt.Data(values=[{"one": 1}])).mark_rule(strokeDash=[4, 3]).encode(y="one:Q")
    (marks + one).configure_view(stroke=None).save(sys.stdout, format="svg")


if __name__ == "__main__":
    main(sys.argv[1])
