"""A run once more: the grid, overrides and conditions that its run.json keeps, and what is not the same today."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweep.common.errors import UserError
from sweep.grid.grid import Grid
from sweep.grid.loader import parse_grid
from sweep.store.store import RunInfo, Store, open_store

VERSIONS = ("version", "model_version", "git_commit", "engine_sha256", "lock_sha256", "python")
HASH_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Again:
    """What a launch needs to ask for the same points as an earlier run."""

    run: RunInfo
    grid: Grid
    where: str | None


def read(wanted: str, store: Store) -> Again:
    """A run of the store, by id, start of an id or `last`; or one elsewhere, by the path of its directory."""
    place, slash, name = wanted.rstrip("/").rpartition("/")
    run = open_store(place or "/").find(name) if slash else store.find(wanted)
    of_grid, path = run.document["grid"], f"{run.path}/run.json"
    first = (run.document["launches"] or [{}])[0]
    overrides = tuple(of_grid.get("overrides", first.get("overrides", ())))
    try:
        grid = parse_grid(of_grid["text"], str(of_grid.get("source") or path), overrides)
    except UserError as error:
        traces = of_grid["content"].get("workload")
        raise UserError(
            f"{error}{'; traces count from the folder of the grid: launch --like there' * bool(traces)}"
        ) from None
    now, then = json.loads(json.dumps(grid.content())), of_grid["content"]
    if now != then:
        differ = ", ".join(name for name in dict.fromkeys((*then, *now)) if then.get(name) != now.get(name))
        raise UserError(
            f"{path}: its grid reads otherwise than when it ran ({differ}); it ran with ptsweep {run.version}"
        )
    return Again(run, grid, _where(run.document["launches"]))


def is_cut_short(latest: RunInfo | None, run: RunInfo) -> bool:
    """Whether the latest run of the name is a repetition of this one that has not ended: it is gone on with."""
    if latest is None or latest.status in ("ok", "failed"):
        return False
    launches = latest.document["launches"]
    return bool(launches) and launches[-1].get("like") == run.run_id


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """`numpy 2.4.6 -> 2.5.0` for each version that is not what it was."""
    for name in VERSIONS:
        if before.get(name) != now.get(name):
            yield f"{name} {_short(before.get(name))} -> {_short(now.get(name))}"
    had, has = before.get("packages", {}), now.get("packages", {})
    for name in dict.fromkeys((*had, *has)):
        if had.get(name) != has.get(name):
            yield f"{name} {_short(had.get(name))} -> {_short(has.get(name))}"


def _where(launches: list[dict[str, Any]]) -> str | None:
    """The points that any launch of the run asked for; None: all."""
    asked = [launch.get("where") for launch in launches]
    if not asked or None in asked:
        return None
    return " OR ".join(f"({where})" for where in dict.fromkeys(asked)) if len(set(asked)) > 1 else asked[0]


def _short(version: Any) -> str:
    """Hashes by their start, what is not known as `?`."""
    text = "?" if version is None else str(version)
    return text if len(text) <= 2 * HASH_SHOWN else text[:HASH_SHOWN] + ("-dirty" if text.endswith("-dirty") else "")
