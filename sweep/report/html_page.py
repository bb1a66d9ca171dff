"""A page as data, and its HTML: one file with its style, its scripts and the scripts of Vega inside.

The template escapes every value (Jinja's autoescape), and data goes into a JSON block in which `<`, `>` and `&` are
written as \\u escapes, so no name from a grid or a store becomes markup. The page's own policy lets a browser run only
the two scripts whose hashes it names, and fetch nothing.
"""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from sweep.plot import picture_file
from sweep.plot.chart import Chart
from sweep.plot.colours import colours_of
from sweep.plot.vega_lite import Spec, panels, shapes_of, specification

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a legend."""

    label: str
    colour: str
    shape: str


@dataclass(frozen=True, slots=True)
class Rows:
    """A table: names of columns, for each whether it holds numbers, its unit and meaning, and the rows.

    A cell is a JSON value. `note` says what is left out.
    """

    names: Sequence[str]
    are_numbers: Sequence[bool]
    hints: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with its heading, what to see in it, the SQL that has its numbers, and the command that runs that."""

    heading: str
    note: str
    panels: Sequence[tuple[str, Spec]]
    legend: Sequence[Key] = ()
    sql: str = ""
    command: str = ""
    rows: Rows | None = None
    columns: int = 1


@dataclass(frozen=True, slots=True)
class Check:
    """A published figure beside the computed one."""

    what: str
    published: str
    computed: str
    agrees: bool


@dataclass(frozen=True, slots=True)
class Page:
    """A page. `eyebrow`: a line above the title. `facts`: pairs (name, text). `notes`: what a reader has to know."""

    title: str
    eyebrow: str = ""
    question: str = ""
    answer: str = ""
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    checks: Sequence[Check] = ()
    checks_command: str = ""
    table: Rows | None = None
    table_command: str = ""
    footer: Sequence[tuple[str, str]] = field(default_factory=tuple)


def figure_of(chart: Chart, heading: str, note: str, command: str = "", height: int = 280) -> Figure:
    """The figure of a chart, a panel for each facet, `height` pixels high."""
    keys = zip(chart.series, colours_of(chart.leaders, chart.is_by_policy), shapes_of(chart), strict=True)
    return Figure(
        heading,
        note,
        panels(chart, height),
        tuple(Key(*key) for key in keys) if chart.has_series else (),
        chart.sql,
        command,
        columns=min(3, len(chart.facets)),
    )


def html(page: Page) -> bytes:
    """The page as a file's content."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [picture_file.scripts().replace("</script", "<\\/script"), (_FOLDER / "page.js").read_text("utf-8")]
    data = {
        "panels": [spec for figure in page.figures for _, spec in figure.panels],
        "table": None if page.table is None else {"numbers": page.table.are_numbers, "rows": page.table.rows},
    }
    text = environment.get_template("page.html.j2").render(
        page=page,
        data=data,
        style=(_FOLDER / "page.css").read_text("utf-8"),
        scripts=scripts,
        hashes=" ".join(f"'sha256-{_hash(script)}'" for script in scripts),
    )
    return text.encode()


def write_chart(chart: Chart, path: Path) -> None:
    """Write a chart in the format of the file's ending; .html is a page of its own. Raises UserError."""
    picture_file.check_ending(path)
    if path.suffix.lower() == picture_file.HTML:
        figure = figure_of(chart, "", chart.subtitle, height=360)
        picture_file.write_file(path, html(Page(chart.title, figures=(figure,))))
    else:
        picture_file.write(specification(chart), path)


def _hash(script: str) -> str:
    return b64encode(hashlib.sha256(script.encode()).digest()).decode()
