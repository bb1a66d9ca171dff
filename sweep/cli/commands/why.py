"""sweep why: the values that make up the id of a point, and where they come from."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep.cli import output_formats
from sweep.cli.options import STORE, AsJson, Override, Results, results_option
from sweep.common.errors import UserError, one_line

if TYPE_CHECKING:
    from engine.model.scenario import Columns
    from sweep.grid.grid import Grid
    from sweep.store.store import RunInfo, Store

HASH = "blake2b, 10 bytes, of the JSON in ASCII"
MOST_MATCHES = 6
MOST_RULES, WIDTH = 20, 80


@dataclass(frozen=True, slots=True)
class MatchingPoint:
    """A point whose id starts with the wanted text: row `row` of `columns`, from the store or from a grid."""

    point_id: str
    columns: "Columns"
    row: int
    model_version: int
    runs: tuple[dict[str, Any], ...] = ()
    grid: str = ""
    raw_number: int | None = None  #: among the raw points of the grid
    repeat: int | None = None


def why(
    point: Annotated[
        str, typer.Argument(metavar="POINT", help="A point's id, or the start of it.", show_default=False)
    ],
    grid: Annotated[
        Path | None,
        typer.Argument(metavar="GRID", help="Search this grid file too, and show which line gives which value."),
    ] = None,
    override: Override = None,
    results: Results = STORE,
    as_json: AsJson = False,
) -> int:
    """Show the values that make up the id of a point, and the runs that have the point.

    Example: sweep why 0f3a first
    """
    from sweep.grid.loader import load_grid
    from sweep.store.store import open_store

    prefix = point.strip().lower()
    if not re.fullmatch("[0-9a-f]{1,20}", prefix):
        raise UserError(f"{one_line(point)!r} is not a point id: up to 20 of 0-9, a-f (sweep plan GRID --points)")
    loaded = load_grid(grid, tuple(override or ())) if grid else None
    stored = _only_match(prefix, list(_stored_matches(prefix, open_store(results))), results)
    planned = _only_match(prefix, list(_grid_matches(prefix, loaded)), str(grid)) if loaded else None
    match = planned or stored
    if match is None:
        places = f"{results} and {grid}" if grid else results
        advice = "" if grid else f"; to look in a grid: sweep why POINT GRID{results_option(results)}"
        raise UserError(f"no point {prefix!r} in {places}{advice}")
    if planned and stored and planned.point_id != stored.point_id:
        raise UserError(
            f"{prefix!r} is {stored.point_id} in {results} and {planned.point_id} in {grid}; give more of it"
        )
    facts = _facts(match, stored.runs if stored else (), loaded)
    facts["rules"] = _own_rules(loaded, [open_store(results).find(run["run_id"]) for run in facts["runs"]])
    if as_json:
        output_formats.print_json(facts)
    else:
        for line in _lines(match, facts):
            output_formats.print_line(line)
    return 0


def _only_match(prefix: str, matches: list[MatchingPoint], place: str) -> MatchingPoint | None:
    """The only match, or None without any. Raises UserError with some of the ids if there are several."""
    ids = sorted({match.point_id for match in matches})
    if len(ids) > 1:
        more = ", ..." if len(ids) >= MOST_MATCHES else ""
        raise UserError(f"{prefix!r} could be {', '.join(ids[: MOST_MATCHES - 1])}{more} in {place}; give more of it")
    return matches[0] if matches else None


def _stored_matches(prefix: str, store: "Store") -> Iterator[MatchingPoint]:
    """Points of the store, up to MOST_MATCHES; a point of several runs once, with all its runs."""
    from sweep.common import schema
    from sweep.query.database import Database

    run_columns = ("run_id", "engine", "repeat", "status", "attempt", "node", "finished_at")
    selected = ", ".join(
        ["points.point_id", "runs.model_version"]
        + [f"points.{name}" for name in run_columns]
        + [f'points."{column.name}"' for column in schema.POINT]
    )
    with Database(store) as database:
        rows = database.query(
            f"SELECT {selected} FROM points JOIN runs USING (run_id)"
            f" WHERE starts_with(points.point_id, '{prefix}')"
            f" AND points.point_id IN (SELECT DISTINCT point_id FROM points WHERE starts_with(point_id, '{prefix}')"
            f" ORDER BY point_id LIMIT {MOST_MATCHES}) ORDER BY points.point_id, points.finished_at"
        ).to_pylist()
    for point_id in dict.fromkeys(row["point_id"] for row in rows):
        of_point = [row for row in rows if row["point_id"] == point_id]
        runs = tuple({name: row[name] for name in run_columns} for row in of_point)
        yield MatchingPoint(point_id, _columns_of_row(of_point[0]), 0, of_point[0]["model_version"], runs)


def _columns_of_row(stored: dict[str, Any]) -> "Columns":
    """A row of the view `points` as columns of one point."""
    import numpy as np

    from engine.model.scenario import FIELD, Scenario, columns_of
    from sweep.common import schema

    if stored["trace_hash"] is not None:
        columns = {column.name: np.array([stored[column.name]], object) for column in schema.TRACE}
        return columns | {"thp": np.array([stored["thp"] or ""], object)}
    values = {name: stored[name] for name in FIELD}
    if values["res"] is not None:
        values["sparsity"] = None  # computed by the store; the id was made from `res`
    return columns_of([Scenario(**values)])


def _grid_matches(prefix: str, grid: "Grid") -> Iterator[MatchingPoint]:
    """Raw points of the grid, up to MOST_MATCHES; of duplicates the first."""
    from engine import MODEL_VERSION
    from sweep.grid.point_id import id_strings, point_ids

    seen: set[str] = set()
    for chunk in grid.chunks(checked=False):
        for row, point_id in enumerate(id_strings(point_ids(chunk.columns))):
            if point_id.startswith(prefix) and point_id not in seen:
                seen.add(point_id)
                repeat, number = int(chunk.repeat[row]), chunk.start + row
                yield MatchingPoint(point_id, chunk.columns, row, MODEL_VERSION, (), grid.source, number, repeat)
                if len(seen) == MOST_MATCHES:
                    return


def _facts(match: MatchingPoint, runs: tuple[dict[str, Any], ...], grid: "Grid | None") -> dict[str, Any]:
    """What is known of a point, as for --json. `agrees`: whether the hash of its values is its id."""
    from sweep.grid.point_id import canonical_json, canonical_scenario, point_id

    text = canonical_json(match.columns, match.row, match.model_version)
    scenario = canonical_scenario(match.columns, match.row)
    in_grid = None
    if grid is not None and match.raw_number is not None:
        places = {name: grid.value_location(name, match.raw_number) for name in scenario}
        in_grid = {"source": match.grid, "raw_point": match.raw_number, "repeat": match.repeat, "places": places}
    return {
        "point_id": match.point_id,
        "hash": HASH,
        "canonical": text,
        "agrees": point_id(text) == match.point_id,
        "model_version": match.model_version,
        "scenario": scenario,
        "grid": in_grid,
        "runs": [run | {"finished_at": run["finished_at"].isoformat(timespec="seconds")} for run in runs],
    }


def _own_rules(grid: "Grid | None", runs: "Sequence[RunInfo]") -> list[dict[str, Any]]:
    """The rules that are not built in, of the grid and of runs: `of` (grid or run id), policy, like, and its fields."""
    from engine.model.policy import BUILT_IN
    from sweep.grid.rule_text import spelled_fields

    places = ([(grid.source, grid.policies)] if grid else []) + [(run.run_id, run.policies) for run in runs]
    return [
        {"of": place, "policy": policy.name, "like": policy.like or None, "fields": spelled_fields(policy)}
        for place, policies in places
        for policy in policies
        if policy.name not in BUILT_IN
    ]


def _rule_lines(rules: list[dict[str, Any]]) -> Iterator[str]:
    """The rules as lines of text: where they are from, then for each its name and fields."""
    width = max((len(rule["policy"]) for rule in rules), default=0) + 2
    for place in dict.fromkeys(rule["of"] for rule in rules):
        yield ""
        yield f"rules of {place} beside the built-in ones, part of a run's identity, not of a point's:"
        of_place = [rule for rule in rules if rule["of"] == place]
        for rule in of_place[:MOST_RULES]:
            text = ", ".join(f"{field}: {value}" for field, value in rule["fields"].items())
            for label, line in zip_longest((rule["policy"],), textwrap.wrap(text, WIDTH - width), fillvalue=""):
                yield f"{label:<{width}}{line}"
        if len(of_place) > MOST_RULES:
            yield f"and {len(of_place) - MOST_RULES:,} more; --json prints all"


def _lines(match: MatchingPoint, facts: dict[str, Any]) -> Iterator[str]:
    """The facts as lines of text."""
    from sweep.grid.value_formats import format_column

    yield f"{match.point_id} is {HASH}:"
    yield facts["canonical"]
    if not facts["agrees"]:
        yield "but its hash is another one: the row is damaged, or another program wrote it"
    yield ""
    places = facts["grid"]["places"] if facts["grid"] else {}
    for name in facts["scenario"]:
        value = format_column(name, match.columns[name][match.row : match.row + 1])[0]
        repeat = f" + repeat {match.repeat}" if name == "seed" and match.repeat else ""
        yield f"{name:<14}{value:<14}{places.get(name, '')}{repeat}".rstrip()
    yield f"{'model_version':<14}{match.model_version}"
    yield ""
    if facts["grid"]:
        yield f"point {match.raw_number} of {match.grid} (counted from 0, before rules), repeat {match.repeat}"
    for run in facts["runs"]:
        yield "run {run_id}: {status}, attempt {attempt}, repeat {repeat}, {engine}, {finished_at}".format(**run)
    if not facts["runs"]:
        yield "in no run yet"
    yield from _rule_lines(facts["rules"])
