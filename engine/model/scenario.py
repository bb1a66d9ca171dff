"""Scenarios: one address space and the calls made on it. Fields, defaults and limits.

The engine takes many scenarios as columns, one array per field. `Scenario` is a single one with named fields.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.arch import ARCHES, MIB, TIB, Arch

Columns = dict[str, NDArray[Any]]
"""One array per scenario field, all of equal length: int64 (bytes, counts, codes of choices) or float64 (shares).

The code of a choice is its index in Field.choices.
"""

MAX_VIRT_BYTES = 128 * TIB  # user addresses of a 4-level x86-64
MAX_ROUNDS = 1_000_000
MAX_THREADS = 65_536


class ScenarioError(ValueError):
    """An invalid value. `field` is the name of its field, `row` its index in the columns."""

    def __init__(self, field: str, message: str, row: int = 0) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message, self.row = field, message, row


@dataclass(frozen=True, slots=True)
class Field:
    """One scenario field.

    kind: bytes, share (0 to 1), count or choice
    default: None if the field is required or its default depends on other fields
    """

    name: str
    kind: str
    default: int | float | str | None
    meaning: str
    choices: tuple[str, ...] = ()


FIELDS = (
    Field("virt", "bytes", None, "size of the VMA, one private anonymous mapping"),
    Field("sparsity", "share", None, "share of pages that are none after an install"),
    Field("res", "bytes", None, "instead of sparsity: resident bytes after an install, on average"),
    Field("cluster", "bytes", None, "resident pages come in aligned extents of this size (default: a page)"),
    Field("zap", "bytes", None, "size of one madvise call (default: one table's span)"),
    Field("zap_shift", "bytes", 0, "offset of the first call in the VMA; what is before it is not zapped"),
    Field("coverage", "share", 1.0, "probability that each call is made"),
    Field("order", "choice", "sequential", "order of the calls of a round", ("sequential", "random")),
    Field("rounds", "count", 1, "each round installs anew, then makes the calls"),
    Field("advice", "choice", "dontneed", "MADV_DONTNEED or MADV_FREE", ("dontneed", "free")),
    Field("pinned", "share", 0.0, "share of pages with a guard marker: no page, and a call leaves the marker"),
    Field("refault", "share", 0.0, "share of just-zapped pages touched again before the call returns"),
    Field("folio", "bytes", None, "size of the folios an install uses (default: a page)"),
    Field("thp", "choice", "never", "whether the VMA may have transparent huge pages", ("never", "always")),
    Field("threads", "count", 1, "threads that make calls at the same time"),
    Field("partition", "choice", "blocked", "how calls are dealt to threads", ("blocked", "interleaved")),
    Field("arch", "choice", "x86-64", "page size and entries a table", tuple(a.name for a in ARCHES)),
    Field("seed", "count", 0, "key of every random choice"),
)
FIELD = {f.name: f for f in FIELDS}
ABSENT = -1
"""Marks a field without a value in an int64 column, such as `res` where sparsity is given. In `sparsity` it is NaN."""


def complete(given: Mapping[str, NDArray[Any]], rows: int) -> Columns:
    """Return columns of length `rows` with every field; missing fields get their defaults.

    `given`: some of the columns. ABSENT in cluster, zap or folio stands for the default. Values are not checked.
    """
    out: Columns = {}
    for field in FIELDS:
        dtype = np.float64 if field.kind == "share" else np.int64
        if field.name in given:
            out[field.name] = np.asarray(given[field.name]).astype(dtype, copy=False)
            continue
        default: Any = field.default
        if default is None:
            default = np.nan if field.kind == "share" else ABSENT
        elif field.kind == "choice":
            default = field.choices.index(str(default))
        out[field.name] = np.full(rows, default, dtype)
    code = np.clip(out["arch"], 0, len(ARCHES) - 1)
    page = np.array([a.page_bytes for a in ARCHES], np.int64)[code]
    span = np.array([a.span_bytes for a in ARCHES], np.int64)[code]
    for name, default_bytes in (("cluster", page), ("zap", span), ("folio", page)):
        out[name] = np.where(out[name] == ABSENT, default_bytes, out[name])
    return out


def check(columns: Columns) -> None:
    """Raise ScenarioError for an invalid value: the first field that has any, at its first row."""
    page = np.array([a.page_bytes for a in ARCHES], np.int64)[np.clip(columns["arch"], 0, len(ARCHES) - 1)]
    virt, res, sparsity = columns["virt"], columns["res"], columns["sparsity"]
    given = res != ABSENT

    def refuse(field: str, bad: NDArray[np.bool_], message: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            value = columns[field][row]
            raise ScenarioError(field, message.format(value=value, page=page[row], virt=virt[row]), row)

    for field in FIELDS:
        values = columns[field.name]
        if field.kind == "choice":
            refuse(field.name, (values < 0) | (values >= len(field.choices)), f"known: {', '.join(field.choices)}")
        elif field.kind == "share" and field.name != "sparsity":
            refuse(field.name, ~((values >= 0) & (values <= 1)), "{value} is not a share from 0 to 1")
    refuse("virt", virt <= 0, "is required, one page or more")
    refuse("virt", virt > MAX_VIRT_BYTES, f"{{value}} bytes is more than the {MAX_VIRT_BYTES} a process can map")
    for name in ("virt", "cluster", "zap", "zap_shift", "folio"):
        refuse(name, columns[name] % page != 0, "{value} bytes is not whole pages of {page} bytes")
    refuse("sparsity", ~given & np.isnan(sparsity), "is required (or res)")
    refuse("sparsity", given & ~np.isnan(sparsity), "give sparsity or res, not both")
    refuse("sparsity", ~given & ~((sparsity >= 0) & (sparsity <= 1)), "{value} is not a share from 0 to 1")
    refuse("res", given & ((res < 0) | (res > virt)), "{value} bytes is not between 0 and virt ({virt})")
    for name in ("cluster", "zap", "folio"):
        refuse(name, columns[name] <= 0, "{value} bytes: must be one page or more")
    refuse("cluster", columns["cluster"] > MAX_VIRT_BYTES, "{value} bytes is more than a process can map")
    refuse("zap", columns["zap"] > MAX_VIRT_BYTES, "{value} bytes is more than a process can map")
    shift = columns["zap_shift"]
    refuse(
        "zap_shift", (shift < 0) | (shift > MAX_VIRT_BYTES), "{value} bytes: must be 0 or more, within an address space"
    )
    folio = columns["folio"]
    refuse("folio", (folio & (folio - 1) != 0) | (folio > 2 * MIB), "{value} bytes is not a power of two up to 2 MiB")
    rounds, threads = columns["rounds"], columns["threads"]
    refuse("rounds", (rounds < 1) | (rounds > MAX_ROUNDS), f"{{value}}: must be from 1 to {MAX_ROUNDS}")
    refuse("threads", (threads < 1) | (threads > MAX_THREADS), f"{{value}}: must be from 1 to {MAX_THREADS}")
    refuse(
        "threads",
        (threads > 1) & (rounds * threads > 1 << 24),
        "{value} threads times rounds: must be at most 16777216",
    )
    refuse("seed", columns["seed"] < 0, "{value}: must be 0 or more")


@lru_cache(maxsize=4096)
def decimal(share: float) -> Fraction:
    """Return the shortest decimal that rounds to this double, as an exact fraction: 9/10 for 0.9."""
    return Fraction(repr(float(share)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scenario. FIELDS documents each field; sizes are in bytes, shares from 0 to 1.

    None selects the default of cluster, zap and folio. Either sparsity or res is required. Raises ScenarioError.
    """

    virt: int
    sparsity: float | None = None
    res: int | None = None
    cluster: int | None = None
    zap: int | None = None
    zap_shift: int = 0
    coverage: float = 1.0
    order: str = "sequential"
    rounds: int = 1
    advice: str = "dontneed"
    pinned: float = 0.0
    refault: float = 0.0
    folio: int | None = None
    thp: str = "never"
    threads: int = 1
    partition: str = "blocked"
    arch: str = "x86-64"
    seed: int = 0

    def __post_init__(self) -> None:
        for field in FIELDS:
            value = getattr(self, field.name)
            if field.kind == "choice" and value not in field.choices:
                raise ScenarioError(field.name, f"unknown {value!r}; known: {', '.join(field.choices)}")
        for name in ("cluster", "zap", "folio"):
            if getattr(self, name) is None:
                default = self.geometry.span_bytes if name == "zap" else self.geometry.page_bytes
                object.__setattr__(self, name, default)
        check(columns_of([self]))

    @property
    def geometry(self) -> Arch:
        return next(a for a in ARCHES if a.name == self.arch)

    @property
    def installed_share(self) -> Fraction:
        """The share of pages that an install makes resident (p in docs/method.md), exactly."""
        if self.res is not None:
            return Fraction(self.res, self.virt)
        assert self.sparsity is not None
        return 1 - decimal(self.sparsity)


def columns_of(scenarios: Iterable[Scenario]) -> Columns:
    """Return the scenarios as columns, one row each. `row` is the inverse."""
    rows = list(scenarios)
    out: Columns = {}
    for field in FIELDS:
        values = [getattr(s, field.name) for s in rows]
        if field.kind == "choice":
            values = [field.choices.index(v) for v in values]
        elif field.kind == "share":
            values = [np.nan if v is None else v for v in values]
        else:
            values = [ABSENT if v is None else v for v in values]
        out[field.name] = np.array(values, np.float64 if field.kind == "share" else np.int64)
    return out


def row(columns: Columns, index: int) -> Scenario:
    """Return one row of complete columns as a Scenario. Raises ScenarioError."""
    values: dict[str, Any] = {}
    for field in FIELDS:
        value = columns[field.name][index].item()
        if field.kind == "choice":
            value = field.choices[value]
        elif field.name in ("sparsity", "res") and (value == ABSENT or value != value):
            value = None
        values[field.name] = value
    return Scenario(**values)


assert [f.name for f in FIELDS] == [f.name for f in fields(Scenario)]
