"""sweep why: which values make a point's id, and where the point was found."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep.cli.options import STORE, Facts, Override, Results, elsewhere
from sweep.common.errors import UserError, one_line

if TYPE_CHECKING:
    from engine.model.scenario import Columns
    from sweep.grid.grid import Grid
    from sweep.store.store import Store

HASH = "blake2b, 10 bytes, of the JSON in ASCII"
ENOUGH = 6


@dataclass(frozen=True, slots=True)
class Found:
    """One point: row `row` of `columns`, as the store or the grid has it. `places`: what is known of where."""

    point_id: str
    columns: "Columns"
    row: int
    model_version: int
    runs: tuple[dict[str, Any], ...] = ()
    grid: str = ""
    raw: int | None = None  #: its number among the grid's raw points
    repeat: int | None = None


def why(
    point: Annotated[str, typer.Argument(metavar="POINT", help="A point's id, or how it starts.", show_default=False)],
    grid: Annotated[
        Path | None, typer.Argument(metavar="GRID", help="Look in this grid file too: which line gives which value.")
    ] = None,
    override: Override = None,
    results: Results = STORE,
    as_json: Facts = False,
) -> int:
    """One point's identity: which values make its id."""
    from sweep.grid.loader import load_grid
    from sweep.store.store import open_store

    prefix = point.strip().lower()
    if not re.fullmatch("[0-9a-f]{1,20}", prefix):
        raise UserError(f"{one_line(point)!r} is not a point id: up to 20 of 0-9, a-f (sweep plan GRID --points)")
    loaded = load_grid(grid, tuple(override or ())) if grid else None
    stored = _one(prefix, list(_in_store(prefix, open_store(results))), results)
    planned = _one(prefix, list(_in_grid(prefix, loaded)), str(grid)) if loaded else None
    found = planned or stored
    if found is None:
        places = f"{results} and {grid}" if grid else results
        advice = "" if grid else f"; to look in a grid: sweep why POINT GRID{elsewhere(results)}"
        raise UserError(f"no point {prefix!r} in {places}{advice}")
    if planned and stored and planned.point_id != stored.point_id:
        raise UserError(
            f"{prefix!r} is {stored.point_id} in {results} and {planned.point_id} in {grid}; give more of it"
        )
    facts = _facts(found, stored.runs if stored else (), loaded)
    print(json.dumps(facts, indent=1, ensure_ascii=False) if as_json else "\n".join(_told(found, facts)))
    return 0


def _one(prefix: str, found: list[Found], place: str) -> Found | None:
    """The one point, none, or an error that lists some."""
    ids = sorted({one.point_id for one in found})
    if len(ids) > 1:
        more = ", ..." if len(ids) >= ENOUGH else ""
        raise UserError(f"{prefix!r} could be {', '.join(ids[: ENOUGH - 1])}{more} in {place}; give more of it")
    return found[0] if found else None


def _in_store(prefix: str, store: "Store") -> Iterator[Found]:
    """Points of the store whose id starts so; a point of several runs once."""
    from sweep.common import schema
    from sweep.query.database import Database

    columns = ", ".join(f'points."{column.name}"' for column in schema.POINT)
    about = ("run_id", "engine", "repeat", "status", "attempt", "node", "finished_at")
    told = ", ".join(f"points.{name}" for name in about)
    with Database(store) as database:
        rows = database.query(
            f"SELECT points.point_id, runs.model_version, {told}, {columns} FROM points JOIN runs USING (run_id)"
            f" WHERE starts_with(points.point_id, '{prefix}')"
            f" AND points.point_id IN (SELECT DISTINCT point_id FROM points WHERE starts_with(point_id, '{prefix}')"
            f" ORDER BY point_id LIMIT {ENOUGH}) ORDER BY points.point_id, points.finished_at"
        ).to_pylist()
    for point_id in dict.fromkeys(row["point_id"] for row in rows):
        mine = [row for row in rows if row["point_id"] == point_id]
        runs = tuple({name: row[name] for name in about} for row in mine)
        yield Found(point_id, _columns(mine[0]), 0, mine[0]["model_version"], runs)


def _columns(stored: dict[str, Any]) -> "Columns":
    """A stored point as a row of columns."""
    import numpy as np

    from engine.model.scenario import FIELD, Scenario, columns_of
    from sweep.common import schema

    if stored["trace_hash"] is not None:
        return {column.name: np.array([stored[column.name]], object) for column in schema.TRACE}
    values = {name: stored[name] for name in FIELD}
    if values["res"] is not None:
        values["sparsity"] = None  # the store fills it in; the point was given res
    return columns_of([Scenario(**values)])


def _in_grid(prefix: str, grid: "Grid") -> Iterator[Found]:
    """Raw points of the grid whose id starts so; the first of equal ones."""
    from engine import MODEL_VERSION
    from sweep.grid.point_id import id_strings, point_ids

    seen: set[str] = set()
    for chunk in grid.chunks(checked=False):
        for row, point_id in enumerate(id_strings(point_ids(chunk.columns))):
            if point_id.startswith(prefix) and point_id not in seen:
                seen.add(point_id)
                repeat = int(chunk.repeat[row])
                yield Found(point_id, chunk.columns, row, MODEL_VERSION, (), grid.source, chunk.start + row, repeat)
                if len(seen) == ENOUGH:
                    return


def _facts(found: Found, runs: tuple[dict[str, Any], ...], grid: "Grid | None") -> dict[str, Any]:
    """All there is to say, for --json."""
    from sweep.grid.point_id import canonical_json, canonical_scenario, point_id

    text = canonical_json(found.columns, found.row, found.model_version)
    scenario = canonical_scenario(found.columns, found.row)
    planned = None
    if grid is not None and found.raw is not None:
        places = {name: grid.value_location(name, found.raw) for name in scenario}
        planned = {"source": found.grid, "raw_point": found.raw, "repeat": found.repeat, "places": places}
    return {
        "point_id": found.point_id,
        "hash": HASH,
        "canonical": text,
        "agrees": point_id(text) == found.point_id,
        "model_version": found.model_version,
        "scenario": scenario,
        "grid": planned,
        "runs": [run | {"finished_at": run["finished_at"].isoformat(timespec="seconds")} for run in runs],
    }


def _told(found: Found, facts: dict[str, Any]) -> Iterator[str]:
    """The same in words."""
    from sweep.grid.field_values import format_column

    yield f"{found.point_id} is {HASH}:"
    yield facts["canonical"]
    if not facts["agrees"]:
        yield "but that hash is another: the row is damaged, or another program wrote it"
    yield ""
    places = facts["grid"]["places"] if facts["grid"] else {}
    for name in facts["scenario"]:
        value = format_column(name, found.columns[name][found.row : found.row + 1])[0]
        later = f" + repeat {found.repeat}" if name == "seed" and found.repeat else ""
        yield f"{name:<14}{value:<14}{places.get(name, '')}{later}".rstrip()
    yield f"{'model_version':<14}{found.model_version}"
    yield ""
    if facts["grid"]:
        yield f"point {found.raw} of {found.grid} (counted from 0, before rules), repeat {found.repeat}"
    for run in facts["runs"]:
        yield "run {run_id}: {status}, attempt {attempt}, repeat {repeat}, {engine}, {finished_at}".format(**run)
    if not facts["runs"]:
        yield "in no run yet"
