"""What `sweep plan` and `sweep launch --dry-run` print of a plan: where its points went, or the points themselves."""

import json
import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from sweep.cli.options import Format
from sweep.common.errors import printable

if TYPE_CHECKING:
    from sweep.run.plan import Plan

SHOWN_POINTS = 1_000
"""Most rows of the table of points; csv and json have no limit."""


def show(made: "Plan", goes_on_with: str | None, chosen: Format, *, points: bool = False) -> None:
    """The account or the points to stdout, warnings to stderr."""
    for warning in made.account.warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)
    if points:
        list_points(made, chosen)
    else:
        show_account(made, chosen, goes_on_with)


def show_account(made: "Plan", chosen: Format, goes_on_with: str | None) -> None:
    """Where the raw points go, and what the rest will cost."""
    if chosen == "json":
        print(json.dumps(facts(made, goes_on_with), indent=1, ensure_ascii=False))
        return
    from sweep.cli import output_formats
    from sweep.common.units import human_ns, human_size

    rows = list(_account_rows(made, goes_on_with))
    used = 3 if chosen == "csv" or any(because for _, _, because in rows) else 2
    output_formats.write((made.grid.name, "points", "because")[:used], [row[:used] for row in rows], chosen, sys.stdout)
    if chosen == "table":
        time, memory = human_ns(made.account.estimate_ns), human_size(made.account.peak_bytes)
        print(f"\nCPU time about {time}; memory about {memory} a worker")


def _account_rows(made: "Plan", goes_on_with: str | None) -> Iterator[tuple[str, int, str]]:
    """(what, how many points it adds or takes, why)."""
    account = made.account
    yield "raw", account.raw, ""
    for rule, (label, dropped) in zip(made.grid.excludes, account.excluded, strict=True):
        yield f"excluded: {label}", -dropped, rule.because or ""
    if account.where_dropped:
        yield "not --where", -account.where_dropped, ""
    yield "duplicates", -account.duplicates, ""
    yield f"done in {goes_on_with}" if goes_on_with else "done", -account.done, ""
    yield "to run", account.todo, ""


def facts(made: "Plan", goes_on_with: str | None) -> dict[str, Any]:
    """The account for --json."""
    from sweep.grid.point_id import run_name

    account = made.account
    rules = zip(made.grid.excludes, account.excluded, strict=True)
    return {
        "grid": made.grid.name,
        "about": made.grid.about,
        "run_name": run_name(made.grid),
        "goes_on_with": goes_on_with,
        "policies": list(made.grid.policies),
        "raw": account.raw,
        "excluded": [{"rule": label, "because": rule.because, "dropped": n} for rule, (label, n) in rules],
        "where_dropped": account.where_dropped,
        "duplicates": account.duplicates,
        "done": account.done,
        "todo": account.todo,
        "estimate_ns": round(account.estimate_ns),
        "peak_bytes": account.peak_bytes,
        "warnings": list(account.warnings),
    }


def list_points(made: "Plan", chosen: Format) -> None:
    """The points to run: csv and json stream them as a run would store them, the table shows the first as written."""
    from engine.model.scenario import FIELD
    from sweep.cli import output_formats
    from sweep.common import schema

    derived = tuple(made.grid.derive)
    names = tuple(column.name for column in schema.TRACE) if made.grid.traces else tuple(FIELD)
    if chosen != "table":
        output_formats.write(("point_id", "repeat", *names, *derived), _stored(made, names), chosen, sys.stdout)
        return
    fields = tuple(name for name in names if name in {*made.grid.varying_columns, "seed"})
    rows = islice(_spelled(made, fields), SHOWN_POINTS)
    output_formats.write(("point_id", "repeat", *fields, *derived), rows, "table", sys.stdout)
    if made.account.todo > SHOWN_POINTS:
        print(f"{SHOWN_POINTS:,} of {made.account.todo:,} points; --format csv or json lists all", file=sys.stderr)


def _stored(made: "Plan", names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Sizes in bytes, sparsity filled in."""
    from sweep.grid.point_id import id_strings
    from sweep.store.arrow_tables import scenario_table

    for block in made.chunks():
        stored = scenario_table(block.columns).select(names).to_pydict().values()
        derived = (values.to_pylist() for values in block.derived.values())
        yield from zip(id_strings(block.ids), block.repeat.tolist(), *stored, *derived, strict=True)


def _spelled(made: "Plan", fields: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Sizes with their units, what is absent empty."""
    from sweep.grid.field_values import format_column
    from sweep.grid.point_id import id_strings

    for block in made.chunks():
        spelled = (format_column(name, block.columns[name]) for name in fields)
        derived = (values.to_pylist() for values in block.derived.values())
        yield from zip(id_strings(block.ids), block.repeat.tolist(), *spelled, *derived, strict=True)
