"""Database: the committed rows of a store as SQL views, on a sealed DuckDB connection."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self, TypeVar

from engine.model.policy import BUILT_IN, POLICIES
from sweep.common import cost_tables, schema
from sweep.common.errors import UserError
from sweep.query import views
from sweep.query.exact_values import Column, csv_query, exact_query, fits_query, parquet_query
from sweep.query.query_rows import Answer, Form
from sweep.query.run_files import RunFiles
from sweep.query.sealed_connection import DEFAULT_SECONDS, FILE_ERRORS, SealedConnection, late_error, user_errors
from sweep.store.store import RunInfo, Store
from sweep.tables import arrow_tables, parquet

T = TypeVar("T")
_MAX_ATTEMPTS = 5


class Database:
    """The runs of a store, or some of them, as they are now. Takes no lock. A context manager.

    `problems`: a line for each run that cannot be read, and for each damaged part; their rows are not in the views.
    `prices`: the cost table behind `cost_ns`. `run_id`: of the only run, if it was opened for one.
    """

    def __init__(
        self, store: Store, cost: str = cost_tables.DEFAULT, *, run: str | None = None, runs: Sequence[RunInfo] = ()
    ) -> None:
        """`cost`: name or file of the cost table for `cost_ns`. `run`, `runs`: only this run, or these.

        These may be of other stores. Their rows have the `run_id` of their RunInfo, also if a copy of the run got
        another name.
        """
        cost_problems: list[str] = []
        tables = cost_tables.load_all(store.cost_files(), cost_problems)
        self.prices = chosen = cost_tables.choose(tables, cost)
        self._cost_rows = [row for table in {**tables, chosen.name: chosen}.values() for row in table.rows]
        self.problems, self._runs = cost_problems, [store.find(run)] if run else list(runs)
        if not self._runs:
            survey = store.survey()
            self.problems, self._runs = cost_problems + survey.problems, survey.runs
        self.run_id = self._runs[0].run_id if run else None
        self._renames = bool(run or runs)
        self._files = RunFiles(store.root, self._runs, self.problems, is_named=self._renames)
        self._runs = self._files.runs
        self._latest = list({r.grid: r for r in self._runs}.values())
        self._connection = self._connect()

    def query(self, sql: str, seconds: float | None = DEFAULT_SECONDS) -> arrow_tables.Table:
        """The rows of one SELECT. Raises UserError for faulty SQL, and if it takes longer than `seconds`.

        Files are checked against their checksums before they are first read. A damaged part is left out and becomes
        a problem. If files are missing because a launch has merged parts meanwhile, the query is repeated.
        """
        self._connection.check_is_select(sql)
        return self._when_readable(sql, seconds, lambda: self._select(sql))

    @contextmanager
    def answer(self, sql: str, seconds: float | None = DEFAULT_SECONDS, form: Form = "values") -> Iterator[Answer]:
        """Context with the answer to one SELECT, of any size; nothing else can be asked meanwhile. Errors as `query`.

        `seconds` counts reading, and the CPU time of what is done with the rows, not the time to write them.
        """
        self._connection.check_is_select(sql)
        began = time.monotonic()

        def begin() -> tuple[list[Column], arrow_tables.Batches, arrow_tables.Table | None]:
            for view in views.views_named_in(sql):
                self._create_view(view)
            columns = self._connection.columns(sql)
            batches = self._connection.batches(self._formed(sql, columns, form))
            return columns, batches, next(batches, None)

        columns, batches, first = self._when_readable(sql, seconds, begin)
        with user_errors():
            in_time = _in_time(self._connection, first, batches, seconds, began)
            yield Answer(columns, batches.schema, in_time)

    def _formed(self, sql: str, columns: list[Column], form: Form) -> str:
        """The query with its values in types that `form` has; text where it has none."""
        if form == "csv":
            return csv_query(sql, columns)
        if form == "values":
            return exact_query(sql, columns)
        has_conditions = any(column.needs_condition for column in columns)
        (fits,) = self._connection.fetch(fits_query(sql, columns)) if has_conditions else [(True,) * len(columns)]
        return parquet_query(sql, columns, fits)

    def _when_readable(self, sql: str, seconds: float | None, action: Callable[[], T]) -> T:
        """`action()`, after the files that the query needs were checked; repeated if files are gone (see `query`)."""
        tables = {table for view in views.views_named_in(sql) for table in views.TABLES_OF[view]}
        with user_errors():
            for _ in range(_MAX_ATTEMPTS):
                try:
                    if self._connection.run_limited(seconds, lambda: self._files.find_damage(tables)):
                        self._reconnect()
                    return self._connection.run_limited(seconds, action)
                except FILE_ERRORS:
                    if not self._files.changed(tables):
                        raise
                    self._reconnect()
                except UserError:
                    if self._connection.is_stuck:
                        self._connection = self._connect()
                    raise
            raise UserError("SQL: the runs change faster than they can be read; ask again")

    @property
    def has_runs(self) -> bool:
        """Whether there is any run, readable or not."""
        return bool(self._runs or self.problems)

    def runs_without_none(self) -> list[str]:
        """Ids of the runs in `latest` that have no row of the policy `none`, with which some named queries compare."""
        lacking = "SELECT run_id FROM latest GROUP BY run_id HAVING count(*) FILTER (policy = 'none') = 0"
        rows = self.query(f"{lacking} ORDER BY run_id").to_pylist()
        return [row["run_id"] for row in rows]

    @property
    def leaves_out_huge_pages(self) -> bool:
        """Whether cost_ns of some rows lacks faults and splits of huge pages, which have no price in the cost table."""
        has_price = any(cost.counter == "thp_faults" for cost in self.prices.costs)
        return not has_price and self.query("SELECT 1 FROM latest WHERE thp = 'always' LIMIT 1").num_rows > 0

    @property
    def policy_names(self) -> list[str]:
        """Names of the policies of all runs: built-in ones in the order of their proposal, then the runs' own."""
        names = dict.fromkeys(policy.name for run in self._runs for policy in run.policies)
        return [name for name in POLICIES if name in names or not names] + [n for n in names if n not in BUILT_IN]

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> SealedConnection:
        """A connection that can read the parts that are committed and intact, and has no views yet."""
        self._created_views: set[str] = set()
        self._sources: dict[tuple[str, bool], str] = {}
        connection = SealedConnection(self._files.paths())
        connection.execute(views.policies_type(self.policy_names))
        return connection

    def _reconnect(self) -> None:
        self._connection.close()
        self._connection = self._connect()

    def _select(self, sql: str) -> arrow_tables.Table:
        for view in views.views_named_in(sql):
            self._create_view(view)
        return arrow_tables.decimals_as_int64(self._connection.arrow(sql))

    def _create_view(self, view: str) -> None:
        """Views are created when a query names them, because each opens all its files to learn their columns."""
        if view in self._created_views:
            return
        if view == "runs":
            self._connection.register(view, arrow_tables.table_from_rows(schema.RUNS, [run.row for run in self._runs]))
        elif view == "policies":
            rows = [row for run in self._runs for row in run.policy_rows]
            self._connection.register(view, arrow_tables.table_from_rows(schema.POLICIES, rows))
        elif view == "costs":
            self._connection.register(view, arrow_tables.table_from_rows(schema.COSTS, self._cost_rows))
        else:
            self._connection.execute(f"CREATE VIEW {view} AS {self._definition(view)}")
        self._created_views.add(view)

    def _definition(self, view: str) -> str:
        table = {"latest": "outcomes", "failures": "points"}.get(view, view)
        source = self._source(table, latest=view == "latest")
        if table == "outcomes":
            unmapped = [(run.run_id, p.name) for run in self._runs for p in run.policies if p.when == "unmap"]
            return views.outcomes(source, self.prices.sql(views.is_policy_of(unmapped)))
        if table == "rounds":
            return views.rounds(source, self._source("outcomes", latest=False))
        return views.points(source, failed=view == "failures")

    def _source(self, table: str, *, latest: bool) -> str:
        """SQL source of a table's rows, of all runs or the latest of each grid; cached, as views share it."""
        if (table, latest) not in self._sources:
            self._sources[table, latest] = self._new_source(table, self._latest if latest else self._runs)
        return self._sources[table, latest]

    def _new_source(self, table: str, runs: Sequence[RunInfo]) -> str:
        """Return the SQL source of a table: local files by path, those of an object store as an Arrow dataset."""
        groups = [[run] for run in runs] if self._renames else [list(runs)]
        sources: list[str] = []
        for group in groups:
            files = [self._files.of(run) for run in group]
            local = [path for of_run in files for path in of_run.paths(table)]
            found = [views.parquet_source(local)] if local else []
            for i, of_run in enumerate(files):
                if copies := of_run.copies(table):
                    name = f"{table}_of_{len(sources)}_{i}_{len(runs)}"
                    self._connection.register(name, parquet.dataset_of(copies))
                    found.append(name)
            sources += [views.renamed_source(source, group[0].run_id) for source in found] if self._renames else found
        return views.union_source(sources)


def _in_time(
    connection: SealedConnection,
    first: arrow_tables.Table | None,
    rest: Iterator[arrow_tables.Table],
    seconds: float | None,
    began: float,
) -> Iterator[arrow_tables.Table]:
    """`first` and the rest of the batches. Raises UserError after `seconds` from `began` on (see Database.answer)."""
    spent, batch = time.monotonic() - began, first
    while batch is not None:
        cpu = time.thread_time()
        yield batch
        spent += time.thread_time() - cpu
        if seconds is not None and spent >= seconds:
            raise late_error(seconds)
        began = time.monotonic()
        left = None if seconds is None else seconds - spent
        try:
            batch = connection.run_limited(left, lambda: next(rest, None), seconds)
        except FILE_ERRORS as error:
            raise UserError("SQL: the runs were changed while they were read; ask again") from error
        spent += time.monotonic() - began


def cost_ns(outcomes: arrow_tables.Table, prices: cost_tables.CostTable) -> list[float]:
    """The cost of each row of an outcomes table that is in no store, in nanoseconds."""
    connection = SealedConnection()
    try:
        connection.register("outcomes", outcomes)
        rows = connection.fetch(f"SELECT {prices.sql()} FROM outcomes")
    finally:
        connection.close()
    return [row[0] for row in rows]
