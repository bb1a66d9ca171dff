"""The questions that ship: one .sql file each in sweep/query/queries; its first line, a comment, is its help."""

import re
from dataclasses import dataclass
from pathlib import Path

from sweep.common.errors import UserError, unknown_name

FOLDER = Path(__file__).parent / "queries"
_AGAINST = re.compile(r"(?:WHERE policy = 'none'|\(policy = 'none'\) OVER)")


@dataclass(frozen=True, slots=True)
class NamedQuery:
    """A question, what it answers in a line, and its SQL."""

    name: str
    help: str
    sql: str

    @property
    def compares_with_none(self) -> bool:
        """Whether it compares with the policy `none`, so that runs without it have no part in the answer."""
        return bool(self.name) and bool(_AGAINST.search(self.sql))


def named_queries() -> list[NamedQuery]:
    """All of them, by name."""
    return [_load(path) for path in sorted(FOLDER.glob("*.sql"))]


def named_query(name: str) -> NamedQuery:
    """One; UserError names the near ones."""
    path = FOLDER / f"{name}.sql"
    known = [path.stem for path in sorted(FOLDER.glob("*.sql"))]
    if name not in known:
        raise UserError(f"{unknown_name('query', name, known)}; or give SQL, or a file that ends in .sql")
    return _load(path)


def _load(path: Path) -> NamedQuery:
    sql = path.read_text(encoding="utf-8")
    return NamedQuery(path.stem, sql.splitlines()[0].removeprefix("--").strip(), sql)
