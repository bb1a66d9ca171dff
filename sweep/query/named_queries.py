"""The named queries: one .sql file each in sweep/query/queries.

The first line of a file, a comment, is its help; a comment `-- Needs:` says without what it has no row.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from sweep.common.errors import UserError, unknown_name

FOLDER = Path(__file__).parent / "queries"
_USES_NONE_AS_BASELINE = re.compile(r"(?:WHERE policy = 'none'|\(policy = 'none'\) OVER)")

EARLIER_NAMES = {
    "cost": {
        "zap_calls": "calls",
        "tables_freed": "freed",
        "extra_percent": "percent",
        "extra_ns_a_freed_table": "ns_a_table",
        "extra_ns_a_call": "ns_a_call",
    }
}
"""Names that columns of a query had in earlier versions, with those of today."""
_NEEDS = re.compile(r"^-- Needs: (.+)\.$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class NamedQuery:
    """A query: its name, one line of help, its SQL, and without what it has no row. SQL of the user has no name."""

    name: str
    help: str
    sql: str
    needs: str = ""

    def why_empty(self, run_id: str | None) -> str:
        """`no row for first-0123abcd; thp needs ...`, in a store's rows (`run_id` None) or in those of one run."""
        place = f" for {run_id}" if run_id else ""
        return f"no row{place}" + (f"; {self.name} needs {self.needs}" if self.needs else "")

    def current_column(self, name: str) -> str:
        """Today's name of a column of this query."""
        return EARLIER_NAMES.get(self.name, {}).get(name, name)

    @property
    def compares_with_none(self) -> bool:
        """Whether it compares other policies with `none`, so that runs without `none` are not in its result."""
        return bool(self.name) and bool(_USES_NONE_AS_BASELINE.search(self.sql))


def named_queries() -> list[NamedQuery]:
    """All named queries, sorted by name."""
    return [_load(path) for path in sorted(FOLDER.glob("*.sql"))]


def named_query(name: str) -> NamedQuery:
    """The query of this name. Raises UserError, with the nearest name, if there is none."""
    path = FOLDER / f"{name}.sql"
    known = [path.stem for path in sorted(FOLDER.glob("*.sql"))]
    if name not in known:
        raise UserError(f"{unknown_name('query', name, known)}; or give SQL, or a file that ends in .sql")
    return _load(path)


def _load(path: Path) -> NamedQuery:
    sql = path.read_text(encoding="utf-8")
    needs = _NEEDS.search(sql)
    return NamedQuery(path.stem, sql.splitlines()[0].removeprefix("--").strip(), sql, needs[1] if needs else "")
