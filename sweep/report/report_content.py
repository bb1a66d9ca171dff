"""The report of a run as a Page: question and answer, the pictures that its axes allow, published cases, all rows."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from engine.model.policy import ALL
from sweep.common import schema
from sweep.common.errors import UserError
from sweep.plot import chart, draw, pareto, request
from sweep.plot.chart import Chart
from sweep.plot.colours import colours_of
from sweep.plot.pareto import Choice
from sweep.plot.quantities import MEASURES, Quantity, by_name
from sweep.plot.request import PlotRequest
from sweep.plot.scales import numbers_text, value_text
from sweep.plot.vega_lite import heat_panels
from sweep.query.answer_sentence import BASELINE, Headline, headline
from sweep.query.database import Database
from sweep.query.named_queries import named_query
from sweep.report.html_page import Check, Figure, Key, Page, Rows, figure_of
from sweep.report.row_table import row_table
from sweep.store.store import RunInfo, Store

_SAVED = by_name(MEASURES)[pareto.SAVED]
_HEAT_ROWS = ("cluster", "sparsity", "virt", "zap_shift", "rounds", "threads", "coverage", "pinned")
_MOST_CELLS = 400
_NO_RULE = ("run_id", "policy", "built_in", "rule", "source")


_NO_HUGE = " It leaves out faults and splits of huge pages, which have no price."


class Reporter:
    """Makes the sections of one run's page. `database` has this run only; `place` follows each command, quoted."""

    def __init__(self, store: Store, database: Database, run: RunInfo, place: str) -> None:
        self._store, self._database, self._run = store, database, run
        self._command = f"sweep query - --run {run.run_id}{place}"
        self._place = place
        self._variation = request.survey(database)

    def page(self) -> Page:
        """The whole page. Raises UserError if no point is ok."""
        if not self._variation.points:
            raise UserError(f"{self._run.run_id}: has no row of a point that is ok; nothing to report")
        found = headline(self._database)
        makers: Sequence[Callable[[], Iterator[Figure]]] = (
            self._heat_maps,
            self._along_the_main_axis,
            lambda: self._pareto(found),
            self._growth,
            self._threads,
            self._beside_the_kernel,
        )
        figures = [figure for make in makers for figure in make()]
        table, table_notes = row_table(self._database, self._run, self._variation)
        return Page(
            title=self._run.grid,
            eyebrow=f"ptsweep, run {self._run.run_id}",
            question=self._run.about,
            answer=" ".join(found.sentences),
            facts=tuple(self._facts()),
            notes=(*self._notes(), *table_notes),
            figures=figures,
            checks=tuple(self._checks()),
            checks_command=f"sweep query published --run {self._run.run_id}{self._place}",
            table=table,
            table_command=f"sweep query 'FROM latest' --run {self._run.run_id}{self._place} -o rows.csv",
            footer=tuple(self._footer()),
        )

    def _facts(self) -> Iterator[tuple[str, str]]:
        run, variation = self._run, self._variation
        yield "points", f"{run.ok:,}" + (f" ({run.failed:,} failed)" if run.failed else "")
        yield "policies", f"{len(variation.policies)}"
        if variation.axes:
            yield "what varies", ", ".join(variation.axes)
        yield "computed by", "the model" if run.engine == "model" else self._kernels()
        yield "finished", f"{run.updated:%Y-%m-%d}"

    def _kernels(self) -> str:
        """`Linux 6.12.117, 7.3.4`: the releases of the kernels that ran the points."""
        rows = self._database.query("SELECT DISTINCT kernel_release AS release FROM latest ORDER BY ALL").to_pylist()
        return f"Linux {', '.join(row['release'] for row in rows if row['release'])}"

    def _notes(self) -> Iterator[str]:
        run = self._run
        if run.status not in ("ok", "failed"):
            yield f"The run is {run.status}."
        if run.todo:
            yield f"{run.todo:,} points of the grid have no result yet."
        if run.failed:
            rows = self._database.query(named_query("failures").sql).to_pylist()
            shown = "; ".join(f"{row['points']:,}: {row['error']}" for row in rows[:3])
            yield f"{run.failed:,} points failed and are in no figure. Reasons: {shown}"
        if BASELINE not in self._variation.policies:
            yield "The run has no policy none, so nothing can be compared with it."
        for problem in self._database.problems:
            yield f"Left out: {problem}"

    def _heat_maps(self) -> Iterator[Figure]:
        """What each policy gives back, by the size of a call and the first other axis with several values."""
        varying = self._variation.values
        rows_axis = next((name for name in _HEAT_ROWS if varying.get(name, 0) > 1), None)
        if not self._has_baseline or varying.get("zap", 0) < 2 or rows_axis is None:
            return
        if varying["zap"] * varying[rows_axis] > _MOST_CELLS:
            return
        drawn = self._drawn("zap", _SAVED, rows_axis, "policy", may_merge=False)
        yield Figure(
            f"What comes back, by size of a call and {rows_axis}",
            "Page tables given back after the last calls, in per cent of those without reclaim. Policies with the same"
            " figures share a panel.",
            heat_panels(drawn),
            sql=drawn.sql,
            command=self._command,
            columns=min(3, len(drawn.facets)),
        )

    def _along_the_main_axis(self) -> Iterator[Figure]:
        drawn = draw.draw_run(self._database, self._run, PlotRequest())
        yield figure_of(drawn, drawn.title, drawn.subtitle, self._command)

    def _pareto(self, found: Headline) -> Iterator[Figure]:
        """Cost against memory, for the whole run and, small, for each value of the main axis."""
        axis = next((name for name in ("zap", *self._variation.axes) if self._variation.values.get(name, 0) > 1), None)
        if not self._has_baseline:
            return
        cost = by_name(MEASURES)[pareto.COST]
        keys = [request.known_quantities(self._run)[name] for name in (axis, "policy") if name is not None]
        sql = request.grouped_sql(keys, [cost, _SAVED], self._derived, totals="policy")
        rows = self._database.query(sql).to_pylist()
        known = [row for row in rows if row[cost.name] is not None and row[_SAVED.name] is not None]
        whole = [_choice(row) for row in known if axis is None or row[axis] is None]
        parts = [_choice(row) for row in known if axis is not None and row[axis] is not None]
        parts = parts if len(parts) <= chart.MOST_MARKS else []
        if len(whole) < 2:
            return
        merged = pareto.merge_equal(whole, chart.LEADERS[0])
        names, leaders = [name for name, _, _ in merged], [leader for _, leader, _ in merged]
        note = "Left and up is better. The dashed line is the front: the policies that none beats in both."
        small = f" Small marks: each policy at each {axis}." if parts else ""
        yield Figure(
            "What it costs",
            f"{note}{small} The cost is that of the counters times the chosen cost table; munmap also gives up the"
            f" address range.{_NO_HUGE if self._database.leaves_out_huge_pages else ''}",
            [("", pareto.panel(merged, parts))],
            tuple(
                Key(name, *look)
                for name, look in zip(
                    names,
                    zip(colours_of(leaders, are_policies=True), pareto.shapes_of(names), strict=True),
                    strict=True,
                )
            ),
            sql=sql,
            command=self._command,
            rows=_policy_rows(found),
        )

    def _growth(self) -> Iterator[Figure]:
        question = named_query("growth")
        rows = self._database.query(question.sql).to_pylist()
        rounds = {row["rounds"] for row in rows}
        if not rounds or max(rounds) < 2:
            return
        facet = "rounds" if len(rounds - {1}) > 1 else None
        drawn = draw.draw_query(self._database, self._run, question, PlotRequest("round", facet=facet))
        if len(rounds) > 1:
            shown = tuple(label for label in drawn.facets if label != "1")
            drawn = _only(drawn, shown) if facet else drawn
        yield figure_of(
            drawn,
            "How page tables grow",
            "VmPTE after the install of each round, when the process has all its memory, on average over the points.",
            self._command,
        )

    def _threads(self) -> Iterator[Figure]:
        if self._variation.values.get("threads", 0) < 2:
            return
        wanted = PlotRequest("threads", ("added_ns_a_call" if self._has_baseline else "cost_ns",), "policy")
        try:
            drawn = draw.draw_run(self._database, self._run, wanted)
        except UserError:  # the cost table has no price, or the counters are NULL
            return
        yield figure_of(
            drawn,
            "Threads that make calls at the same time",
            "Nanoseconds that a policy adds to one call: failed trylocks send it to the slow path, and flushes"
            " interrupt the other CPUs.",
            self._command,
        )

    def _beside_the_kernel(self) -> Iterator[Figure]:
        """VmPTE of this run's points on each kernel beside the model's, wherever in the store the other rows are."""
        others = [run for run in self._store.runs() if run.engine != self._run.engine]
        if not others:
            return
        sql = _BESIDE.format(run=f"'{self._run.run_id}'")
        with Database(self._store, runs=(self._run, *others)) as database:
            rows = database.query(sql).to_pylist()
        if not rows:
            return
        compared, agree = (
            sum(row[name] for row in rows if row["computed_by"] == "model") for name in ("points", "agree")
        )
        x, y = (
            Quantity("zap", "bytes", "size of one madvise call"),
            Quantity("vm_pte_kib_end", "KiB", "VmPTE at the end"),
        )
        by, facet = Quantity("computed_by", is_number=False), Quantity("kernel", is_number=False)
        drawn = chart.make(rows, x, y, by, facet, sql, may_merge=False)
        yield figure_of(
            drawn,
            "Kernels beside the model",
            "VmPTE after the last calls on each kernel, under the policy that it follows, and of the model for the same"
            f" points: {agree:,} of {compared:,} agree to the byte. Lines on top of each other agree.",
            f"sweep query -{self._place}",
        )

    def _checks(self) -> Iterator[Check]:
        for row in self._database.query(named_query("published").sql).to_pylist():
            size = value_text(int(row["virt_gib"]) << 30, "bytes")
            what = f"{row['source']} ({row['arch']}, VIRT {size}), {row['policy']}"
            published, computed = (f"{row[name]:,.0f} kB" for name in ("published_kib", "vm_pte_kib"))
            yield Check(what, published, computed, bool(row["agrees"]))

    def _footer(self) -> Iterator[tuple[str, str]]:
        run = self._run
        commit = f", commit {run.git_commit}" if run.git_commit else ""
        yield (
            "Made by",
            f"ptsweep {run.version}{commit}, model version {run.model_version}, on {run.host}, Linux {run.kernel}.",
        )
        for policy in ALL:
            if policy.name in self._variation.policies:
                yield policy.name, f"{policy.rule} ({policy.source})"
        for row in self._database.query("SELECT * FROM policies WHERE NOT built_in ORDER BY policy").to_pylist():
            fields = (f"{name} {value}" for name, value in row.items() if name not in _NO_RULE and value is not None)
            yield row["policy"], f"a rule of the grid's own: {', '.join(fields)}"

    @property
    def _has_baseline(self) -> bool:
        return BASELINE in self._variation.policies and len(self._variation.policies) > 1

    @property
    def _derived(self) -> dict[str, str]:
        derived: dict[str, str] = self._run.document.get("derived", {})
        return derived

    def _drawn(self, x: str, y: Quantity, by: str, facet: str, *, may_merge: bool) -> Chart:
        known = request.known_quantities(self._run)
        sql = request.grouped_sql([known[name] for name in (x, by, facet)], [y], self._derived)
        rows = self._database.query(sql).to_pylist()
        return chart.make(rows, known[x], y, known[by], known[facet], sql, may_merge=may_merge)


_POINT = ", ".join(f'"{c.name}"' for c in schema.SCENARIO if c.name != "res")
_BESIDE = f"""\
WITH rows AS (
    SELECT engine, run_id = {{run}} AS is_own, 'Linux ' || kernel_release || ', ' || policy AS kernel, policy, zap,
        vm_pte_kib_end AS kib, hash({_POINT}) AS point
    FROM outcomes
),
models AS (
    SELECT policy, point, any_value(kib) AS model, bool_or(is_own) AS is_own
    FROM rows WHERE engine = 'model' GROUP BY policy, point
),
kernels AS (
    SELECT kernel, policy, zap, point, any_value(kib) AS kernel_kib, bool_or(is_own) AS is_own
    FROM rows WHERE engine = 'kernel' GROUP BY kernel, policy, zap, point
),
pairs AS (
    SELECT kernel, zap, count(*) AS points, count(*) FILTER (kernel_kib = model) AS agree,
        avg(kernel_kib) AS on_kernel, avg(model) AS in_model
    FROM kernels JOIN models USING (policy, point)
    WHERE kernels.is_own OR models.is_own
    GROUP BY kernel, zap
)
SELECT kernel, computed_by, zap, points, agree, if(computed_by = 'model', in_model, on_kernel) AS vm_pte_kib_end
FROM pairs CROSS JOIN (VALUES ('kernel'), ('model')) AS sides(computed_by)
ORDER BY kernel, computed_by, zap"""


def report(store: Store, run: RunInfo, cost: str, results: str | None) -> Page:
    """The page of a run. `results`: the store as the reader names it, for the commands; None: the default one.

    Raises UserError.
    """
    place = "" if results is None else f" --results {shlex.quote(results)}"
    with Database(store, cost, run=run.run_id) as database:
        return Reporter(store, database, run, place).page()


def _only(drawn: Chart, facets: tuple[str, ...]) -> Chart:
    return replace(drawn, facets=facets, marks=tuple(mark for mark in drawn.marks if mark.facet in facets))


def _choice(row: dict[str, Any]) -> Choice:
    return Choice(row["policy"], row[pareto.COST], row[pareto.SAVED])


def _policy_rows(found: Headline) -> Rows:
    columns = ("policy", f"{found.given_back_title}, %", "added ns a call", "added ns a freed table")
    figures = [(p.given_back, p.added_ns_a_call, p.added_ns_a_table) for p in found.policies]
    texts = [_column([row[i] for row in figures]) for i in range(3)]
    rows = [(policy.policy, *(text[i] for text in texts)) for i, policy in enumerate(found.policies)]
    return Rows(columns, (False, True, True, True), ("", "per cent of VmPTE", "nanoseconds", "nanoseconds"), rows)


def _column(values: Sequence[float | None]) -> list[str]:
    known = iter(numbers_text([value for value in values if value is not None]))
    return ["-" if value is None else next(known) for value in values]
