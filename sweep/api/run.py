"""Run: the results of one grid in a store; launch, which makes one; runs, which lists them."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from sweep.api.grids import GridLike, read_grid
from sweep.api.picture import Picture
from sweep.api.rows import Rows
from sweep.common import cost_tables
from sweep.common.errors import UserError, unknown_name
from sweep.run.progress import Progress, ProgressState
from sweep.store.store import RunInfo, open_store

STORE = "results"
ENGINES = ("model", "kernel")


class Run:
    """A run of a store, found by its id, the start of its id, or `last`."""

    def __init__(self, run: str = "last", *, results: str | Path = STORE) -> None:
        self._store = open_store(str(results))
        self.id = self._store.find(run).run_id

    @property
    def info(self) -> RunInfo:
        """Its facts, as they are now: status, points done and failed, versions, host."""
        return self._store.find(self.id)

    @property
    def status(self) -> str:
        """running, ok, failed (some points failed), interrupted or fault."""
        return self.info.status

    @property
    def about(self) -> str:
        """The question that its grid asks."""
        return self.info.about

    @property
    def answer(self) -> str:
        """The answer in one or two sentences, computed from the rows."""
        from sweep.query.answer_sentence import headline
        from sweep.query.database import Database

        with Database(self._store, run=self.id) as database:
            return " ".join(headline(database).sentences)

    def outcomes(self, *, cost: str = cost_tables.DEFAULT) -> Rows:
        """A row for each point and policy: docs/columns.md. cost_ns by the cost table `cost`."""
        return self.sql("SELECT * FROM outcomes", cost=cost)

    def rounds(self) -> Rows:
        """A row for each point, policy and round."""
        return self.sql("SELECT * FROM rounds")

    def points(self) -> Rows:
        """A row for each point's last attempt, also of those that failed."""
        return self.sql("SELECT * FROM points")

    def sql(self, query: str, *, cost: str = cost_tables.DEFAULT, seconds: float | None = 60.0) -> Rows:
        """The rows of a SELECT over this run's views, of a file of SQL, or of a named query. Raises UserError."""
        from sweep.query.database import Database
        from sweep.query.given_query import find_query

        with Database(self._store, cost, run=self.id) as database:
            rows = Rows(database.query(find_query(query).sql, seconds))
            _warn(database.problems)
            return rows

    def plot(
        self,
        *,
        x: str | None = None,
        y: str | Sequence[str] = (),
        by: str | None = None,
        facet: str | None = None,
        query: str | None = None,
        title: str | None = None,
        cost: str = cost_tables.DEFAULT,
    ) -> Picture:
        """A picture of the run, as `sweep plot` draws it; what is left out is chosen from what varies."""
        from dataclasses import replace

        from sweep.plot import draw
        from sweep.plot.request import PlotRequest
        from sweep.query.database import Database
        from sweep.query.given_query import find_query

        wanted = PlotRequest(x, (y,) if isinstance(y, str) else tuple(y), by, facet)
        with Database(self._store, cost, run=self.id) as database:
            if query is None:
                chart = draw.draw_run(database, self.info, wanted)
            else:
                chart = draw.draw_query(database, self.info, find_query(query), wanted)
            _warn(database.problems)
        return Picture(chart if title is None else replace(chart, title=title))

    def report(self, path: str | Path, *, cost: str = cost_tables.DEFAULT) -> Path:
        """Write the page that `sweep report` writes. Raises UserError."""
        from sweep.plot import picture_file
        from sweep.report.html_page import html
        from sweep.report.report_content import report

        path = Path(path)
        picture_file.check_ending(path, picture_file.PAGE_ENDINGS)
        results = str(self._store.root)
        picture_file.write_file(path, html(report(self._store, self.info, cost, None if results == STORE else results)))
        return path

    def __repr__(self) -> str:
        info = self.info
        failed = f", {info.failed:,} failed" if info.failed else ""
        return f"<run {info.run_id}: {info.status}, {info.ok:,} points{failed}>"


def runs(*, results: str | Path = STORE) -> list[Run]:
    """The runs of a store, the last launched one last."""
    survey = open_store(str(results)).survey()
    _warn(survey.problems)
    return [Run(info.run_id, results=results) for info in survey.runs]


def launch(
    grid: GridLike,
    *,
    results: str | Path = STORE,
    set: Sequence[str] = (),  # noqa: A002 - the option's name
    where: str | None = None,
    engine: str = ENGINES[0],
    executor: str = "auto",
    jobs: int | None = None,
    address: str | None = None,
    fresh: bool = False,
    rerun_failed: bool = False,
    max_failures: int | None = None,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> Run:
    """Run the points of a grid that its run does not have yet, as `sweep launch` does, and return the run.

    grid: a file, the name of a shipped grid, or a dict of a grid file's sections. The other arguments are the command's
    options. Points that fail are rows, and the run's status is then `failed`. Raises UserError for bad input, and
    KeyboardInterrupt after Ctrl-C, when finished points are stored.
    """
    from sweep.run.launch import LaunchOptions
    from sweep.run.launch import launch as run_model

    if engine not in ENGINES:
        raise UserError(f"engine: {unknown_name('engine', engine, ENGINES)}")
    checked, store = read_grid(grid, set), open_store(str(results))
    options = LaunchOptions(
        store.root, where, executor, jobs, address, fresh, rerun_failed, max_failures=max_failures, timeout_s=timeout
    )
    listener = progress or _Silent()
    if engine == "kernel":
        from sweep.kernel.kernel_driver import launch as run_kernel

        summary = run_kernel(checked, options, listener)
    else:
        summary = run_model(checked, options, listener)
    if summary.status == "interrupted":
        raise KeyboardInterrupt(f"{summary.run_id}: interrupted; the same call continues from here")
    return Run(summary.run_id, results=results)


class _Silent:
    """A Progress that makes Python warnings of warnings, and drops the rest."""

    def say(self, text: str) -> None:
        if text.startswith("warning: "):
            _warn([text.removeprefix("warning: ")])

    def show(self, state: ProgressState) -> None:
        pass

    def stop(self) -> None:
        pass


def _warn(problems: Sequence[str]) -> None:
    for problem in problems:
        warnings.warn(problem, stacklevel=3)
