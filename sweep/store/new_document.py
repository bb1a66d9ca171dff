"""The content of a new run's run.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from engine import MODEL_VERSION
from engine.model.policy import Policy
from sweep.common import schema


class GridLike(Protocol):
    """The facts of a grid that go into run.json."""

    @property
    def name(self) -> str: ...
    @property
    def about(self) -> str | None: ...
    @property
    def text(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def repeats(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def policies(self) -> Sequence[Policy]: ...
    @property
    def derive(self) -> Mapping[str, str]: ...
    @property
    def overrides(self) -> Sequence[str]: ...
    def content(self) -> dict[str, Any]: ...


def new_document(grid: GridLike, engine: str) -> dict[str, Any]:
    """run.json of a run that nobody has launched yet, of a grid under `engine`: model or kernel."""
    now = datetime.now(UTC).isoformat()
    return {
        "schema": schema.RUN_SCHEMA,
        "engine": engine,
        "model_version": MODEL_VERSION,
        "status": "running",
        "created": now,
        "updated": now,
        "counts": {"points": None},
        "grid": {
            "name": grid.name,
            "about": grid.about,
            "source": Path(grid.source).name,
            "repeats": grid.repeats,
            "seed": grid.seed,
            "content": grid.content(),
            "text": grid.text,
            "overrides": list(grid.overrides),
        },
        "policies": [asdict(policy) for policy in grid.policies],
        "launches": [],
        "columns": {
            table: {c.name: {"type": c.type, "unit": c.unit, "meaning": c.meaning} for c in columns}
            for table, columns in schema.TABLES.items()
        },
        "derived": dict(grid.derive),
    }
