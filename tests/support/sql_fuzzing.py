"""Fuzzing with hostile SQL: statements and expressions that try to read, write, load, set, connect or run for ever.

A Violation is raised if an answer contains a canary (of a file or the environment), if a file or setting changed, or if
a message is not one clean line.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweep.common.errors import UserError
from sweep.query import conditions
from sweep.query.database import Database
from sweep.store.store import open_store
from tests.support.grid_fuzzing import Tally, Violation, check_message, limited
from tests.support.small_stores import filled, scenarios

CANARY, VARIABLE = "canary-7f3a", "SWEEP_CANARY"
QUERY_S = 1.0
STATEMENTS = (
    "SELECT {e} FROM {t}",
    "FROM {t}",
    "SELECT * FROM {f}",
    "WITH a AS (SELECT * FROM {f}) SELECT {e} FROM a",
    "TABLE {t}",
    "SELECT {e}, {e} FROM {t}, {f}",
    "SELECT (SELECT max(columns(*)::VARCHAR) FROM {f}) FROM {t}",
    "VALUES ({e})",
    "SELECT * FROM {t} WHERE {e} IN (SELECT * FROM {f})",
    "SELECT {e} UNION ALL SELECT * FROM {f}",
    "DESCRIBE {f}",
    "COPY (SELECT {e}) TO '{new}'",
    "COPY {t} TO '{new}' (FORMAT parquet)",
    "EXPORT DATABASE '{new}'",
    "ATTACH '{new}' AS b",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{secret}'",
    "SET threads = 1",
    "SET GLOBAL enable_external_access = true",
    "RESET ALL",
    "PRAGMA enable_profiling",
    "PRAGMA database_list",
    "CALL {f}",
    "CREATE TABLE a AS FROM {f}",
    "DROP VIEW {t}",
    "CREATE MACRO a() AS {e}",
    "INSERT INTO {t} VALUES ({e})",
    "EXPLAIN ANALYZE COPY {t} TO '{new}'",
    "CHECKPOINT",
    "VACUUM",
    "SELECT {e}; COPY {t} TO '{new}'",
    "CREATE SECRET (TYPE http)",
    "IMPORT DATABASE '{secret}'",
    "USE memory",
    "BEGIN",
    "PIVOT {t} ON {e}",
    "SUMMARIZE {f}",
    "SHOW ALL TABLES",
    "PREPARE a AS FROM {f}",
    "EXECUTE a",
    "SET VARIABLE a = {e}",
    "WITH RECURSIVE a AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM a) SELECT {e}, max(n) FROM a",
)
TABLES = (
    "outcomes",
    "latest",
    "rounds",
    "points",
    "failures",
    "runs",
    "costs",
    "'{secret}'",
    "'{new}'",
    "'/etc/passwd'",
    "'http://127.0.0.1:9/a.csv'",
    "'s3://bucket/a.parquet'",
    "information_schema.tables",
    "duckdb_settings()",
    "pg_catalog.pg_class",
)
FUNCTIONS = (
    "read_csv('{secret}')",
    "read_text('{secret}')",
    "read_blob('{secret}')",
    "read_json('{secret}')",
    "glob('{folder}/*')",
    "read_parquet('{secret}')",
    "parquet_metadata('{secret}')",
    "sniff_csv('{secret}')",
    "read_csv('/proc/self/environ')",
    "read_csv(['{secret}'])",
    "query('FROM read_csv(''{secret}'')')",
    "query_table('{secret}')",
    "duckdb_secrets()",
    "enable_logging(storage = 'file', storage_path = '{new}')",
    "enable_profiling(save_location = '{new}')",
    "range(1000000000000)",
    "read_csv('http://127.0.0.1:9/')",
    "generate_series(1, 1000000000000)",
    "repeat(1, 1000000000000)",
    "force_checkpoint()",
    "unnest([1, 2])",
    "json_execute_serialized_sql(json_serialize_sql('FROM ''{secret}'''))",
    "pragma_table_info('points')",
)
EXPRESSIONS = (
    "1",
    "*",
    "count(*)",
    "virt",
    "getenv('SWEEP_CANARY')",
    "current_setting('threads')",
    "getvariable('a')",
    "error('x')",
    "repeat('x', 90000000)",
    "list_sum(range(9000000))",
    "levenshtein(repeat('a', 900), repeat('b', 900))",
    "random()",
    "(SELECT content FROM read_text('{secret}'))",
    "EXISTS (FROM '{secret}')",
    "COLUMNS(*)",
    "$1",
    "?",
    "x -> x + 1",
    "now()",
    "regexp_matches(repeat('a', 9999), '(a*)*b')",
    "virt * 9000000000000000000 * 9",
    "zap / 0",
    "ln(-1)",
    "NULL",
    "'\x1b[31m'",
    "format('{{:>99999999}}', 'x')",
    "lpad('x', 99999999, 'y')",
    '1 AS "\x1b]0;a"',
    "[virt]",
    "{{'a': virt}}",
    "'a\nb'",
    "zap > 1",
    "zap < cluster",
    "order = 'random'",
    "virt BETWEEN 1GiB AND 2GiB",
    "arch LIKE '%x%'",
    "CAST(virt AS TINYINT) > 1",
    "write_log('a')",
    "nextval('a')",
    "txid_current()",
    "CASE WHEN {e} THEN {e} ELSE {e} END",
    "({e}) + ({e})",
    "({e}) OR ({e})",
    "concat({e}, {e})",
    "CAST({e} AS VARCHAR)",
    "upper({e})",
    "hex({e})",
    "hash({e})",
    "{e}::{e}",
    "{e}) FROM {f} --",
    "{e}; {e}",
)


@dataclass
class FuzzedStore:
    """A small store and a secret file beside it, in a folder in which nothing may change."""

    folder: Path
    database: Database = field(init=False)
    settings: Any = None

    def __post_init__(self) -> None:
        filled(self.folder / "results")
        (self.folder / "secret.csv").write_text(f"a,b\n{CANARY},1\n")
        os.environ[VARIABLE] = CANARY
        self.database = Database(open_store(str(self.folder / "results")))
        self.files = self._files()
        self.settings = self._settings()

    def statement(self, rng: random.Random) -> str:
        """A random statement."""
        return self._expand(rng.choice(STATEMENTS), rng)

    def expression(self, rng: random.Random) -> str:
        """A random expression."""
        return self._expand("{e}", rng)

    def judge_query(self, text: str) -> bool:
        """Whether the query has an answer. Neither answer nor error may contain a canary."""
        try:
            with limited():
                answer = self.database.query(text, QUERY_S).slice(0, 1000)
        except UserError as error:
            check_message(error)
            self._check_no_canary(str(error), text)
            return False
        self._check_no_canary(str(answer.to_string()) + str([column.slice(0, 50) for column in answer.columns]), text)
        return True

    def judge_expression(self, text: str) -> bool:
        """Whether it is allowed as a condition or derived column. Then each point has a value, or there is an error."""
        points, is_allowed = scenarios(50), False
        for derive, wheres in (({}, [text]), ({"a": text}, [])):
            try:
                with limited():
                    conditions.check(derive, wheres)
                    is_allowed = True
                    values, masks = conditions.evaluate(points, derive, wheres)
            except UserError as error:
                check_message(error)
                self._check_no_canary(str(error), text)
                continue
            self._check_no_canary(str({name: array.to_pylist() for name, array in values.items()}), text)
            if [len(values.get("a", masks[0] if masks else []))] != [50]:
                raise Violation("not one value for each point")
        return is_allowed

    def check_unchanged(self) -> None:
        """Raise Violation if a file appeared or vanished, or a setting changed."""
        if self._files() != self.files:
            raise Violation(f"files appeared or vanished: {sorted(self._files() ^ self.files)}")
        if self._settings() != self.settings:
            raise Violation("a setting has changed")

    def _check_no_canary(self, answer: str, text: str) -> None:
        if CANARY in answer and CANARY not in text:
            raise Violation(f"the answer contains the canary: {answer}")

    def _files(self) -> set[Path]:
        return {*self.folder.rglob("*"), *Path.cwd().glob("*")}

    def _settings(self) -> Any:
        return self.database.query("SELECT name, value FROM duckdb_settings() ORDER BY name").to_pylist()

    def _expand(self, text: str, rng: random.Random) -> str:
        """Replace {e}, {t} and {f} by random expressions, views and functions, and the names of files by paths."""
        for _ in range(12):
            for name, choices in (("{e}", EXPRESSIONS), ("{t}", TABLES), ("{f}", FUNCTIONS)):
                if name in text:
                    text = text.replace(name, rng.choice(choices), 1)
        for name, value in (("{secret}", "secret.csv"), ("{new}", f"new-{rng.randrange(99)}"), ("{folder}", "")):
            text = text.replace(name, str(self.folder / value))
        return text.replace("{{", "{").replace("}}", "}")


def fuzz_sql(inputs: int, seed: int, folder: Path, report: Callable[[Tally], None] = lambda tally: None) -> Tally:
    """Try so many inputs, expressions and statements in turn; `report` is called after every thousand."""
    rng, store, tally = random.Random(seed), FuzzedStore(folder), Tally()
    for number in range(inputs):
        judge, text = (
            (store.judge_query, store.statement(rng)) if number % 2 else (store.judge_expression, store.expression(rng))
        )
        try:
            tally.accepted += judge(text)
            if not number % 50:
                store.check_unchanged()
        except Exception as error:
            tally.found.append(f"{type(error).__name__}: {error}\n{text}")
        tally.inputs = number + 1
        if not tally.inputs % 1000:
            report(tally)
    store.check_unchanged()
    store.database.close()
    return tally
