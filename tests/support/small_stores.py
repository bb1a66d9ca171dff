"""Small stores for tests: invented results, written by RunWriter."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.policy import ALL, POLICIES, Policy
from engine.model.results import COLUMNS, ROUND_COLUMNS, Results
from engine.model.scenario import Columns, Scenario, columns_of
from sweep.grid.point_id import PointIds
from sweep.storage.local_storage import LocalStorage
from sweep.storage.storage import Storage
from sweep.store import parts
from sweep.store.store import RunWriter, Store
from sweep.tables import arrow_tables, parquet, result_tables

MIB = 1 << 20
ROUNDS = 2
"""Rounds of each invented point: more than one, so that `rounds/` has files."""


@dataclass(frozen=True)
class FakeGrid:
    """A grid as the store needs it (GridLike)."""

    name: str = "first"
    about: str | None = "What is it for?"
    text: str = "name: first\n"
    source: str = "grids/first.yaml"
    repeats: int = 1
    seed: int = 7
    derive: Mapping[str, str] = field(default_factory=dict)
    overrides: Sequence[str] = ()
    policies: Sequence[Policy] = ALL

    def content(self) -> dict[str, Any]:
        return {"name": self.name}


def point_id(number: int) -> str:
    return f"{number:020x}"


def named(numbers: Iterable[int]) -> PointIds:
    return np.array([point_id(number) for number in numbers], bytes)


def has_ok(writer: RunWriter, numbers: Iterable[int]) -> list[bool]:
    """For each of these points, whether the run has an ok row of it."""
    found: list[bool] = writer.is_done(named(numbers), rerun_failed=True).tolist()
    return found


def scenarios(count: int) -> Columns:
    """Columns of `count` scenarios; every second one has res instead of sparsity."""
    made = [
        Scenario(
            virt=(i + 1) * 64 * MIB,
            sparsity=0.9 if i % 2 else None,
            res=None if i % 2 else MIB,
            threads=1 + i % 2,
            rounds=ROUNDS,
        )
        for i in range(count)
    ]
    return columns_of(made)


def results(count: int, rounds: int = ROUNDS, policies: Sequence[str] = POLICIES) -> Results:
    """Results with a different number in every cell; those of a policy do not depend on which others there are."""
    cells = np.arange(count * len(POLICIES) * len(COLUMNS), dtype=np.int64)
    selected = [POLICIES.index(policy) for policy in policies]
    per_round = np.arange(count * rounds * len(POLICIES) * len(ROUND_COLUMNS), dtype=np.int64)
    return Results(
        cells.reshape(count, len(POLICIES), len(COLUMNS))[:, selected],
        per_round.reshape(count * rounds, len(POLICIES), len(ROUND_COLUMNS))[:, selected],
        np.full(count, rounds, np.int64),
    )


def point_rows(run_id: str, ids: PointIds | Sequence[str], **how: Any) -> arrow_tables.Table:
    """A points table of these ids."""
    return result_tables.point_table(run_id, ids, np.zeros(len(ids), np.int64), scenarios(len(ids)), **how)


def commit(
    writer: RunWriter,
    first: int,
    count: int,
    status: str = "ok",
    *,
    error: str | None = None,
    derived: Mapping[str, Any] | None = None,
    policies: Sequence[str] = POLICIES,
    engine: str = "model",
    kernel: result_tables.KernelFacts | None = None,
) -> None:
    """Commit the points `first` to `first + count - 1`, all with one status."""
    ids = [point_id(number) for number in range(first, first + count)]
    columns, made = scenarios(count), results(count, policies=policies)
    repeat: NDArray[np.int64] = np.zeros(count, np.int64)
    outcomes = result_tables.outcome_table(
        writer.run_id, ids, repeat, columns, made, policies, engine=engine, kernel=kernel
    )
    rounds = result_tables.round_table(writer.run_id, ids, made, policies, engine=engine)
    how = {"derived": derived, "status": status, "error": error, "node": "a", "cpu_ns": 1, "engine": engine}
    points = point_rows(writer.run_id, ids, **how)
    good = status == "ok"
    writer.commit(outcomes if good else None, rounds if good else None, points)


def opened(
    root: Storage | Path,
    name: str = "first-0123abcd",
    *,
    fresh: bool = False,
    rules: Sequence[Policy] = ALL,
    **provenance: Any,
) -> RunWriter:
    """A writer of a run of the invented grid whose name `name` starts with; `rules`: the grid's policies."""
    grid = FakeGrid(name=name.rpartition("-")[0], policies=rules)
    return Store(root).open_run(grid, name, fresh, {"version": "0", **provenance})


def part_paths(run: Storage | Path, table: str) -> list[Path]:
    """The committed files of one table of a run in a directory."""
    folder = run if isinstance(run, Path) else Path(str(run))
    return [folder / name for name in parts.read_layout(LocalStorage(folder)).of(table)]


def rewrite_part(run: Path, number: int, table: str, change: Callable[[Any], Any]) -> None:
    """Replace a table of part `number` by `change(table)`, with correct checksums."""
    place = LocalStorage(run)
    (part,) = [part for part in parts.read_layout(place).parts if part.first == number]
    tables = {name: run / name / part.file for name in ("outcomes", "rounds", "points")}
    rows = {name: parquet.read_table(path, str(path)) for name, path in tables.items() if path.exists()}
    for path in tables.values():
        path.unlink(missing_ok=True)
    rows[table] = change(rows[table])
    rows["points"] = rows["points"].replace_schema_metadata(None)
    parts.write_part(place, (part.first, part.last), parts.make_files(**rows), lambda: None)


def filled(root: Storage | Path, points: int = 4, name: str = "first-0123abcd", **how: Any) -> Store:
    """A store with one finished run of `points` points."""
    with opened(root, name) as writer:
        commit(writer, 0, points, **how)
        writer.finish("ok", {})
    return Store(root)
