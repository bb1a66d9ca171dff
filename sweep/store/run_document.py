"""run.json: the types of its values, checked once when it is read. Code behind this file may trust them.

A store may come from anybody, so nothing that stands in a run.json is believed before it is checked. pydantic_core
alone, without pydantic's models: their import would double the time of `sweep ls`.
"""

import json
from datetime import UTC, datetime
from typing import Any

import pydantic_core
from pydantic_core import ValidationError, core_schema

from engine.model.policy import BUILT_IN, CHOICES, POLICIES, Policy, RuleError, check_rule
from sweep.common import schema
from sweep.common.errors import DamagedError, UserError, one_line
from sweep.grid.rules import MAX_POLICIES, POLICY_NAME
from sweep.storage.storage import Storage

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


def _mapping(required: dict[str, Any], optional: dict[str, Any] | None = None) -> core_schema.CoreSchema:
    """A mapping with these keys, and any others."""
    fields = {name: core_schema.typed_dict_field(kind) for name, kind in required.items()}
    more = {name: core_schema.typed_dict_field(kind, required=False) for name, kind in (optional or {}).items()}
    return core_schema.typed_dict_schema(fields | more, extra_behavior="ignore")


_TEXT = core_schema.str_schema()
_TEXT_OR_NONE = core_schema.nullable_schema(_TEXT)
_TEXTS = core_schema.list_schema(_TEXT)
_TIME = core_schema.no_info_plain_validator_function(_parse_time)
_COUNT = core_schema.int_schema(ge=0, lt=1 << 63)
_COUNT_OR_NONE = core_schema.nullable_schema(_COUNT)
_LAUNCH = _mapping(
    {},
    {
        **dict.fromkeys(("version", "host", "kernel"), _TEXT),
        **dict.fromkeys(("git_commit", "cpu_model", "where", "like"), _TEXT_OR_NONE),
        "overrides": _TEXTS,
        "packages": core_schema.dict_schema(_TEXT, _TEXT_OR_NONE),
    },
)
_GRID = _mapping(
    {
        "name": _TEXT,
        "about": _TEXT_OR_NONE,
        "text": _TEXT,
        "content": core_schema.dict_schema(_TEXT),
        "repeats": _COUNT,
        "seed": core_schema.int_schema(ge=-(1 << 63), lt=1 << 63),
    },
    {"source": _TEXT_OR_NONE, "overrides": _TEXTS},
)
_POLICY = _mapping(
    {
        "name": core_schema.str_schema(pattern=f"^{POLICY_NAME.pattern}$"),
        **dict.fromkeys((*CHOICES, "like", "rule", "source"), _TEXT),
        "least": core_schema.union_schema([_TEXT, _COUNT]),
        "every": _COUNT,
    }
)
_DOCUMENT = _mapping(
    {
        "engine": core_schema.literal_schema(["model", "kernel"]),
        "model_version": _COUNT,
        "status": core_schema.literal_schema(["running", *FINISHED]),
        "created": _TIME,
        "updated": _TIME,
        "counts": _mapping({}, dict.fromkeys(("points", "ok", "failed", "todo"), _COUNT_OR_NONE)),
        "grid": _GRID,
        "launches": core_schema.list_schema(_LAUNCH, min_length=1),
        "derived": core_schema.dict_schema(_TEXT, _TEXT),
    },
    {"policies": core_schema.list_schema(_POLICY, min_length=1, max_length=MAX_POLICIES)},
)
_VALIDATOR = pydantic_core.SchemaValidator(_DOCUMENT, core_schema.CoreConfig(strict=True))


def read(run: Storage) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run.json as it stands in the file; and its declared keys only, checked, with times as datetime in UTC.

    UserError names the file and what is wrong with it.
    """
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
        checked: dict[str, Any] = _VALIDATOR.validate_python(tree)
    except ValidationError as error:
        raise DamagedError(f"{path}: {_first_problem(error)}") from error
    counts = checked["counts"]
    if checked["status"] in FINISHED and (counts.get("ok") is None or counts.get("failed") is None):
        raise DamagedError(f"{path}: counts: ok and failed are required of a run that has ended")
    return tree, checked


def policies_of(checked: dict[str, Any]) -> tuple[Policy, ...]:
    """The policies of the run's grid in its order. Runs of earlier versions have the names of built-in ones only.

    `checked`: as `read` returns it. Raises DamagedError for a rule that cannot be.
    """
    if "policies" not in checked:
        names = checked["grid"]["content"].get("policies", POLICIES)
        return tuple(BUILT_IN[name] for name in names if isinstance(name, str) and name in BUILT_IN)
    policies = tuple(Policy(**fields) for fields in checked["policies"])
    if len({policy.name.lower() for policy in policies}) < len(policies):
        raise DamagedError("policies: a name is there twice")
    for policy in policies:
        try:
            check_rule(policy)
        except RuleError as error:
            raise DamagedError(f"policies: {policy.name}: {one_line(str(error), 100)}") from error
    return policies


def write(run: Storage, tree: dict[str, Any]) -> None:
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
