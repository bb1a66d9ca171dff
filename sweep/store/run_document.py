"""run.json: the types of its values, checked once when it is read. Code behind this file may trust them.

A store may come from anybody, so nothing that stands in a run.json is believed before it is checked.
"""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import pydantic_core
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sweep.common import schema
from sweep.common.errors import DamagedError, UserError, one_line
from sweep.store.storage import Place

FILE_NAME = "run.json"
FINISHED = ("ok", "failed", "interrupted", "fault")
MAX_BYTES = 64 << 20
"""Largest run.json that is read: grids are limited to 1 MiB of text, and launches to the last hundred."""
_LAST_YEAR = 9000
"""Times before this year: Python's end at 9999, and a launch writes one later than that of every other run."""


def _parse_time(value: object) -> datetime:
    """A time in ISO 8601 with its zone, as UTC. ValueError if it is none."""
    if not isinstance(value, str):
        raise ValueError("a time in ISO 8601 is required")
    time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        raise ValueError("the time lacks its zone")
    if not 1 < time.year < _LAST_YEAR:
        raise ValueError(f"a year between 1 and {_LAST_YEAR} is required")
    return time.astimezone(UTC)


def _check_encodable(text: str) -> str:
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_check_encodable)]
Time = Annotated[datetime, BeforeValidator(_parse_time)]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Int64 = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]


class _Checked(BaseModel):
    """Declared keys have exactly these types; others may be there."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Counts(_Checked):
    """Points of the run. `points`: of the plan, None while it is not known. The others are there after a launch."""

    points: Count | None = None
    ok: Count | None = None
    failed: Count | None = None
    todo: Count | None = None


class GridFacts(_Checked):
    """The grid: its text as it was written, and its content with -S and defaults applied."""

    name: Text
    about: Text | None
    text: Text
    source: Text | None = None
    content: dict[str, Any]
    overrides: list[Text] = []
    repeats: Count
    seed: Int64


class Launch(_Checked):
    """Provenance of one launch (sweep/store/provenance.py)."""

    at: Time | None = None
    version: Text = ""
    host: Text = ""
    kernel: Text = ""
    git_commit: Text | None = None
    cpu_model: Text | None = None
    overrides: list[Text] = []
    where: Text | None = None
    like: Text | None = None
    packages: dict[Text, Text | None] = {}


class RunDocument(_Checked):
    """A whole run.json."""

    engine: Literal["model", "kernel"]
    model_version: Count
    status: Literal["running", "ok", "failed", "interrupted", "fault"]
    created: Time
    updated: Time
    counts: Counts
    grid: GridFacts
    launches: Annotated[list[Launch], Field(min_length=1)]
    derived: dict[Text, Text] = {}


def read(run: Place) -> tuple[dict[str, Any], RunDocument]:
    """A run.json as it stands in the file, and checked. UserError names the file and what is wrong with it."""
    path = f"{run}/{FILE_NAME}"
    try:
        tree = pydantic_core.from_json(run.read(FILE_NAME, MAX_BYTES))
    except FileNotFoundError as error:
        raise UserError(f"{path}: No such file or directory") from error
    except ValueError as error:
        raise DamagedError(f"{path}: not JSON ({one_line(str(error), 100)})") from error
    if not isinstance(tree, dict):
        raise DamagedError(f"{path}: not a run")
    if tree.get("schema") != schema.RUN_SCHEMA:
        found = f"schema {one_line(repr(tree.get('schema')))}; this one reads {schema.RUN_SCHEMA!r}"
        raise UserError(
            f"{path}: a run of another version ({found}): sweep rm it, or give another place with --results"
        )
    try:
        document = RunDocument.model_validate(tree)
    except ValidationError as error:
        raise DamagedError(f"{path}: {_first_problem(error)}") from error
    if document.status in FINISHED and (document.counts.ok is None or document.counts.failed is None):
        raise DamagedError(f"{path}: counts: ok and failed are required of a run that has ended")
    return tree, document


def write(run: Place, tree: dict[str, Any]) -> None:
    """Replace the run's run.json."""
    text = json.dumps(tree, indent=1, ensure_ascii=False) + "\n"
    # A name on the command line may be any bytes; JSON is UTF-8.
    run.put(FILE_NAME, text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode())


def _first_problem(error: ValidationError) -> str:
    """`grid.seed: input should be a valid integer, and 2 more values`."""
    first, *others = error.errors(include_url=False, include_context=False, include_input=False)
    place = one_line(".".join(str(word) for word in first["loc"]))
    what = first["msg"].removeprefix("Value error, ")
    more = f", and {len(others)} more wrong values" if others else ""
    return f"{place}: {what[:1].lower()}{what[1:]}{more}"
