"""`launch --like RUN`: read from a run's run.json the grid, overrides and conditions that repeat it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweep.common.errors import UserError
from sweep.grid.grid import Grid
from sweep.grid.loader import parse_grid
from sweep.store.store import RunInfo, Store, find_run

VERSIONS = ("version", "model_version", "git_commit", "engine_sha256", "lock_sha256", "python")
SHORT_HASH = 12


@dataclass(frozen=True, slots=True)
class RepeatableRun:
    """An earlier run, and the grid and --where condition that select its points. kernels: names of those it ran on.

    inside: it counted inside the running kernel
    """

    run: RunInfo
    grid: Grid
    where: str | None
    kernels: tuple[str, ...] = ()
    inside: bool = False


def read_run(wanted: str, store: Store) -> RepeatableRun:
    """Find a run by its id, the start of its id or `last` in the store, or by the path of its directory.

    Raises UserError if there is no such run, or if its grid cannot be read as it was.
    """
    run = find_run(wanted, store)
    stored, path = run.document["grid"], f"{run.path}/run.json"
    first_launch = (run.document["launches"] or [{}])[0]
    overrides = tuple(stored.get("overrides", first_launch.get("overrides", ())))
    try:
        grid = parse_grid(stored["text"], str(stored.get("source") or path), overrides)
    except UserError as error:
        hint = "; trace paths are relative to the grid's folder: run launch --like there"
        raise UserError(f"{error}{hint if stored['content'].get('workload') else ''}") from None
    now, then = json.loads(json.dumps(grid.content())), dict(stored["content"])
    then.pop("kernels", None)  # they are looked up anew
    if now != then:
        differ = ", ".join(name for name in dict.fromkeys((*then, *now)) if then.get(name) != now.get(name))
        raise UserError(
            f"{path}: this version reads the grid differently ({differ}); the run was made by ptsweep {run.version}"
        )
    kernels, inside = tuple(first_launch.get("kernels", ())), bool(first_launch.get("inside"))
    return RepeatableRun(run, grid, _combined_where(run.document["launches"]), kernels, inside)


def is_unfinished_repeat(latest: RunInfo | None, run: RunInfo) -> bool:
    """Whether the latest run of the grid is a repetition of `run` that did not finish; then it is resumed."""
    if latest is None or latest.status in ("ok", "failed"):
        return False
    launches = latest.document["launches"]
    return bool(launches) and launches[-1].get("like") == run.run_id


def version_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """`numpy 2.4.6 -> 2.5.0` for each version that differs between two launches' provenance."""
    for name in VERSIONS:
        if before.get(name) != now.get(name):
            yield f"{name} {_short(before.get(name))} -> {_short(now.get(name))}"
    packages_before, packages_now = before.get("packages", {}), now.get("packages", {})
    for name in dict.fromkeys((*packages_before, *packages_now)):
        if packages_before.get(name) != packages_now.get(name):
            yield f"{name} {_short(packages_before.get(name))} -> {_short(packages_now.get(name))}"


def _combined_where(launches: list[dict[str, Any]]) -> str | None:
    """The SQL condition for all points that any launch of a run selected; None if one selected all points."""
    wheres = [launch.get("where") for launch in launches]
    if not wheres or None in wheres:
        return None
    return " OR ".join(f"({where})" for where in dict.fromkeys(wheres)) if len(set(wheres)) > 1 else wheres[0]


def _short(version: Any) -> str:
    """A version as text: hashes shortened, `?` for None."""
    text = "?" if version is None else str(version)
    if len(text) <= 2 * SHORT_HASH:
        return text
    return text[:SHORT_HASH] + ("-dirty" if text.endswith("-dirty") else "")
