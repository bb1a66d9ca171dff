"""evaluate: scenarios under every policy, without a store."""

from collections.abc import Sequence
from typing import Any

from sweep.api.grids import read_grid
from sweep.api.rows import Rows
from sweep.common import cost_tables
from sweep.common.errors import UserError

MAX_POINTS = 10_000
_NOT_SHOWN = ("run_id", "repeat", "engine")


def evaluate(*, policies: Sequence[str] | None = None, cost: str = cost_tables.DEFAULT, **fields: Any) -> Rows:
    """The outcomes of one scenario, a row for each policy, with cost_ns. Nothing is stored.

    `fields`: those of a scenario, as in a grid: `virt="1TiB", sparsity=0.99, zap="2MiB"`. A list of values in a field
    makes a row for each, and for each combination of several lists. Raises UserError. For many points there is
    `sweep.launch`.
    """
    from engine.run import run_batch
    from sweep.grid.point_id import point_ids
    from sweep.query.database import cost_ns
    from sweep.tables import arrow_tables, result_tables

    varying = {name: list(values) for name, values in fields.items() if isinstance(values, list | tuple | range)}
    sections: dict[str, Any] = {"fixed": {name: value for name, value in fields.items() if name not in varying}}
    sections |= {"axes": varying} if varying else {}
    sections |= {"policies": list(policies)} if policies is not None else {}
    grid = read_grid({"name": "evaluate", **sections})
    if grid.raw_points > MAX_POINTS:
        raise UserError(f"evaluate: {grid.raw_points:,} points; at most {MAX_POINTS:,}; launch a grid of them instead")
    (chunk,) = grid.chunks(MAX_POINTS)
    ids = point_ids(chunk.columns)
    results = run_batch(chunk.columns, grid.policies)
    table = result_tables.outcome_table("", ids, chunk.repeat, chunk.columns, results, grid.policy_names)
    prices = cost_tables.choose(cost_tables.load_all([], []), cost)
    table = arrow_tables.with_floats(table, "cost_ns", cost_ns(table, prices))
    return Rows(table.drop_columns(list(_NOT_SHOWN)))
