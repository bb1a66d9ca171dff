"""Output of `sweep plan` and `sweep launch --dry-run`: the account of a plan, or its points."""

import shlex
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from sweep.cli import messages, output_formats
from sweep.cli.options import Format

if TYPE_CHECKING:
    from sweep.run.plan import Plan

MOST_POINTS = 1_000
"""Most rows of the table of points; csv and json have no limit."""


def print_plan(plan: "Plan", run_id: str | None, form: Format, *, points: bool = False) -> None:
    """Print the account of a plan, or its points, and its warnings on stderr. `run_id`: the run that it continues."""
    for warning in plan.account.warnings:
        messages.print_note(f"warning: {warning}")
    if points:
        _print_points(plan, form)
    elif form == "json":
        output_formats.print_json(_account_json(plan, run_id))
    else:
        _print_account(plan, run_id, form)


def _print_account(plan: "Plan", run_id: str | None, form: Format) -> None:
    from engine.model.policy import BUILT_IN
    from sweep.common.units import human_ns, human_size

    rows = list(_account_rows(plan, run_id))
    columns = 3 if form == "csv" or any(because for _, _, because in rows) else 2
    output_formats.print_rows((plan.grid.name, "points", "because")[:columns], [row[:columns] for row in rows], form)
    if form == "table":
        time, memory = human_ns(plan.account.estimate_ns), human_size(plan.account.peak_bytes)
        output_formats.print_line()
        output_formats.print_line(f"CPU time about {time}; memory about {memory} per worker")
        if own := sum(policy.name not in BUILT_IN for policy in plan.grid.policies):
            options = "".join(f" -S {shlex.quote(override)}" for override in plan.grid.overrides)
            rules = f"{own:,} by rules of its own (sweep policy ls --grid {shlex.quote(plan.grid.source)}{options})"
            output_formats.print_line(f"policies: {len(plan.grid.policies):,}, {rules}")


def _account_rows(plan: "Plan", run_id: str | None) -> Iterator[tuple[str, int, str]]:
    """(step, points that it adds or, negative, removes, reason)."""
    account = plan.account
    yield "raw", account.raw, ""
    for rule, (label, dropped) in zip(plan.grid.excludes, account.excluded, strict=True):
        yield f"excluded: {label}", -dropped, rule.because or ""
    if account.where_dropped:
        yield "not --where", -account.where_dropped, ""
    yield "duplicates", -account.duplicates, ""
    yield f"done in {run_id}" if run_id else "done", -account.done, ""
    yield "to run", account.todo, ""


def _account_json(plan: "Plan", run_id: str | None) -> dict[str, Any]:
    from sweep.grid.point_id import run_name
    from sweep.grid.rule_text import policy_content

    account = plan.account
    rules = zip(plan.grid.excludes, account.excluded, strict=True)
    return {
        "grid": plan.grid.name,
        "about": plan.grid.about,
        "run_name": run_name(plan.grid),
        "goes_on_with": run_id,
        "policies": list(plan.grid.policy_names),
        "rules": [content for content in map(policy_content, plan.grid.policies) if isinstance(content, dict)],
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


def _print_points(plan: "Plan", form: Format) -> None:
    """Print the points to run: in csv and json all columns as stored, in a table the grid's own columns with units."""
    from engine.model.scenario import FIELD
    from sweep.common import schema

    derived = tuple(plan.grid.derive)
    names = tuple(column.name for column in schema.TRACE) if plan.grid.traces else tuple(FIELD)
    if form != "table":
        output_formats.print_rows(("point_id", "repeat", *names, *derived), _stored_points(plan, names), form)
        return
    fields = tuple(name for name in names if name in {*plan.grid.varying_columns, "seed"})
    rows = islice(_spelled_points(plan, fields), MOST_POINTS)
    output_formats.print_rows(("point_id", "repeat", *fields, *derived), rows, "table")
    if plan.account.todo > MOST_POINTS:
        total = f"{plan.account.todo:,} points"
        messages.print_note(f"{MOST_POINTS:,} of {total}; --format csv or json lists all")


def _stored_points(plan: "Plan", names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Rows with sizes in bytes and with `sparsity` computed where a point has `res`, as a run stores them."""
    from sweep.grid.point_id import id_strings
    from sweep.tables.result_tables import scenario_table

    for chunk in plan.chunks():
        stored = scenario_table(chunk.columns).select(names).to_pydict().values()
        derived = (values.to_pylist() for values in chunk.derived.values())
        yield from zip(id_strings(chunk.ids), chunk.repeat.tolist(), *stored, *derived, strict=True)


def _spelled_points(plan: "Plan", fields: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Rows with sizes as text with units, and empty text for absent values."""
    from sweep.grid.point_id import id_strings
    from sweep.grid.value_formats import format_column

    for chunk in plan.chunks():
        spelled = (format_column(name, chunk.columns[name]) for name in fields)
        derived = (values.to_pylist() for values in chunk.derived.values())
        yield from zip(id_strings(chunk.ids), chunk.repeat.tolist(), *spelled, *derived, strict=True)
