"""Charts of runs and of queries: what is drawn by default, what is merged, what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.model.policy import POLICIES
from sweep.common import schema
from sweep.common.errors import UserError
from sweep.plot import draw, picture_file, text_chart
from sweep.plot.chart import MOST_MARKS, Chart
from sweep.plot.colours import OF_POLICY, colours_of
from sweep.plot.quantities import MEASURES
from sweep.plot.request import PlotRequest, known_quantities
from sweep.plot.vega_lite import panels, specification
from sweep.query.database import Database
from sweep.query.named_queries import EARLIER_NAMES, NamedQuery, named_queries, named_query
from sweep.store.store import Store
from sweep.tables import arrow_tables
from sweep.tables.arrow_tables import Table
from sweep.tables.result_tables import KernelFacts, outcome_table, round_table
from tests.support.launched_store import ONE, ROUNDS, ZAPS, launched
from tests.support.small_stores import named, opened, point_rows, results, scenarios

END = "SELECT policy, sum(vm_pte_kib_end) AS kib FROM latest"
ZAPPED = "SELECT kernel_release, avg(ptes_zapped) AS kib FROM latest GROUP BY 1"


def on_kernel(release: str, policy: str, points: int) -> tuple[Table, Table]:
    """Invented outcomes and rounds of points on one kernel."""
    run, ids, made = "several-0123abcd", named(range(points)), results(points, policies=(policy,))
    facts, repeat = KernelFacts(None, None, release, True), np.zeros(points, np.int64)
    return (
        outcome_table(run, ids, repeat, scenarios(points), made, (policy,), engine="kernel", kernel=facts),
        round_table(run, ids, made, (policy,), engine="kernel", kernel_release=release),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return launched(tmp_path_factory.mktemp("store"), ONE, ROUNDS, ZAPS)


def drawn(store: Store, run: str = "zaps", query: NamedQuery | None = None, **names: Any) -> Chart:
    """The chart of a run, or of a query of it."""
    info, wanted = store.find(run), PlotRequest(**names)
    with Database(store, run=info.run_id) as database:
        if query is not None:
            return draw.draw_query(database, info, query, wanted)
        return draw.draw_run(database, info, wanted)


def roles(chart: Chart) -> tuple[str, str, str | None, str | None]:
    by, facet = (None if quantity is None else quantity.name for quantity in (chart.by, chart.facet))
    return chart.x.name, chart.y.name, by, facet


def test_defaults_follow_what_varies(store: Store) -> None:
    """Along calls, rounds or policies; what saves against none; a panel for each extent size or number of threads."""
    assert roles(drawn(store, "zaps")) == ("zap", "saved_percent", "policy", "cluster")
    assert roles(drawn(store, "rounds")) == ("rounds", "saved_percent_peak", "policy", "threads")
    assert roles(drawn(store, "one")) == ("policy", "saved_percent", None, None)


def test_axes_of_sizes_are_logarithmic(store: Store) -> None:
    """A row of powers of two has a logarithmic axis with its own values as ticks; sparsity stands in steps."""
    x = specification(drawn(store, by="policy", x="zap"))["encoding"]["x"]
    assert (x["scale"]["type"], x["scale"]["base"]) == ("log", 2)
    assert x["axis"]["values"] == [65536, 1 << 20, 1 << 21, 1 << 22, 1 << 26]
    assert drawn(store, x="rounds", run="rounds").has_numeric_x
    assert drawn(store, x="sparsity").x_labels == ("0.9", "0.99")


def test_equal_series_are_one(store: Store) -> None:
    """Designs that agree in every figure share a line, in the colour of the one in Linux."""
    chart = drawn(store)
    assert chart.series == ("refcount, async", "second_walk, seed_inline, merged", "munmap")
    assert chart.leaders == ("async", "merged", "munmap")
    assert {mark.by for mark in chart.marks} == set(chart.series)
    scans = drawn(store, y=("ptes_rescanned",))
    assert scans.series == ("none, refcount, seed_inline, merged, munmap", "async", "second_walk")


def test_values_are_those_of_sql(store: Store) -> None:
    """A mark has the value that the shown SQL gives, and for saved_percent that of the named query by_zap."""
    chart = drawn(store, facet="engine")
    with Database(store, run="zaps") as database:
        rows = database.query(chart.sql).to_pylist()
        named = database.query(named_query("by_zap").sql).to_pylist()
    assert len(rows) == 5 * (len(POLICIES) - 1)
    of_merged = {row["zap"]: row["saved_percent"] for row in rows if row["policy"] == "merged"}
    assert {row["zap_kib"] * 1024: row["merged"] for row in named} == {k: round(v, 2) for k, v in of_merged.items()}
    marks = {mark.x: mark.y for mark in chart.marks if "merged" in mark.by}
    assert marks == pytest.approx(of_merged)


@pytest.mark.parametrize("name", [c.name for c in (*schema.VIEWS["latest"], *schema.ROUNDS)])
def test_every_column_can_be_drawn(store: Store, name: str) -> None:
    """Numbers as y, every other column as x; what is NULL in the run is an error that says so."""
    quantity = known_quantities(store.find("rounds"))[name]
    roles_of = ({"y": (name,)} if quantity.sql else {"x": name}) if name != "round" else {"x": name}
    with Database(store, run="rounds") as database:
        view = "rounds" if name == "round" else "latest"
        is_null = not database.query(f'SELECT count("{name}") AS n FROM {view}').to_pylist()[0]["n"]
    if is_null:
        with pytest.raises(UserError, match=f"no row has a value of .*{name}"):
            drawn(store, "rounds", **roles_of)
    else:
        assert picture_file.svg(specification(drawn(store, "rounds", **roles_of))).startswith("<svg")


@pytest.mark.parametrize("measure", [m.name for m in MEASURES if not m.name.startswith("zap_ns")])
def test_every_measure_can_be_drawn(store: Store, measure: str) -> None:
    assert drawn(store, y=(measure,)).y.name == measure


@pytest.mark.parametrize("query", named_queries(), ids=lambda query: query.name)
def test_every_named_query_can_be_drawn(store: Store, query: NamedQuery) -> None:
    """Each has a default picture, or no row for the run; then the error says that."""
    run = "rounds" if query.name in ("growth", "at_peak") else "zaps"
    with Database(store, run=run) as database:
        is_empty = not database.query(query.sql).num_rows
    if is_empty:
        with pytest.raises(UserError, match=rf"nothing to draw: no row for {run}-\w+; {query.name} needs "):
            drawn(store, run, query)
    else:
        assert picture_file.svg(specification(drawn(store, run, query))).startswith("<svg")


def test_a_column_for_each_policy_is_a_series_each(store: Store) -> None:
    """by_zap has a column for each policy: these are series in the policies' colours; KiB become sizes."""
    chart = drawn(store, query=named_query("by_zap"))
    assert roles(chart) == ("zap_kib", "value", "policy", None)
    assert chart.is_by_policy
    assert chart.x_values[0] == 65536


@pytest.mark.parametrize(("earlier", "today"), EARLIER_NAMES["cost"].items())
def test_earlier_names_of_columns(store: Store, earlier: str, today: str) -> None:
    """A column of a named query can be drawn by the name that it had in earlier versions."""
    chart = drawn(store, query=named_query("cost"), y=(earlier,))
    assert (chart.y.name, chart.marks) == (today, drawn(store, query=named_query("cost"), y=(today,)).marks)


def test_several_y(store: Store) -> None:
    """Each y is a series; policies become panels, equal ones as one."""
    chart = drawn(store, x="zap", y=("vm_pte_kib_peak", "vm_pte_kib_end"))
    assert chart.series == ("vm_pte_kib_peak", "vm_pte_kib_end")
    assert chart.facets == ("none", "refcount, async", "second_walk, seed_inline, merged", "munmap")


def test_derived_columns(store: Store) -> None:
    """The grid's own columns are drawn as others are: text in bars, numbers along an axis."""
    chart = drawn(store, x="size")
    assert chart.x_labels == ("large", "small")
    assert not chart.is_line
    assert drawn(store, x="pages_a_table").x_labels == ("5.12", "51.2")
    assert drawn(store, y=("pages_a_table",), x="sparsity", by="engine").marks


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"x": "zapp"}, "--x: unknown column 'zapp'; did you mean 'zap'? known: saved_percent"),
        ({"y": ("saved",)}, "--y: unknown column 'saved'"),
        ({"by": "polcy"}, "--by: unknown column 'polcy'; did you mean 'policy'?"),
        ({"facet": "nothing_like_it"}, "--facet: unknown column 'nothing_like_it'; known: "),
        ({"y": ("arch",)}, "--y arch: is text, not a number; draw it with --x, --by or --facet"),
        ({"x": "saved_percent"}, "--x saved_percent: is computed from a group of rows; draw it with --y"),
        ({"y": ("zap_ns",)}, "no row has a value of zap_ns; nothing to draw"),
        ({"x": "zap", "facet": "zap"}, "--facet zap: is --x already; name another column"),
        ({"by": "cluster", "facet": "cluster"}, "--facet cluster: is --by already; name another column"),
        ({"y": ("ipis", "atomics"), "by": "threads"}, "--by threads: with several --y each is a series of its own"),
    ],
)
def test_refused(store: Store, names: dict[str, Any], message: str) -> None:
    """Wrong names and empty pictures are one line that says what is allowed."""
    with pytest.raises(UserError) as caught:
        drawn(store, **names)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_queries_refused(store: Store) -> None:
    """A query's columns are checked as well; text cannot be y, and no row is no picture."""
    cases: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("SELECT policy, 1 AS one FROM latest", {"y": ("two",)}, "--y: unknown column 'two'; known: policy, one"),
        ("SELECT policy, 1 AS one FROM latest", {"y": ("policy",)}, "--y policy: is not a number; numbers: one"),
        ("SELECT policy FROM latest", {}, "has no column of numbers; nothing to draw"),
        ("SELECT 1 AS one FROM latest WHERE false", {}, "no row for zaps-"),
        ("SELECT [1, 2] AS x, NULL::INT AS y FROM latest", {"y": ("y",)}, "--y y: is not a number"),
    )
    for sql, names, message in cases:
        with pytest.raises(UserError) as caught:
            drawn(store, query=NamedQuery("", "", sql), **names)
        assert message in str(caught.value)


def test_many_values(store: Store) -> None:
    """A picture of too many points is drawn at some, and says so; too many series or panels are refused."""
    few = "WITH few AS (SELECT DISTINCT policy FROM latest)"
    sql = f"{few} SELECT i AS x, i + length(policy) AS y, i % 50 AS z, policy FROM few, range(1, 1000) AS r(i)"
    question = NamedQuery("", "", sql)
    chart = drawn(store, query=question, x="x", y=("y",), by="policy")
    assert len(chart.marks) <= MOST_MARKS
    assert chart.subtitle.endswith("of 999 values of x")
    for role in ("by", "facet"):
        with pytest.raises(UserError, match=f"--{role} z: has 50 values; at most 40; draw it with --x"):
            drawn(store, query=question, x="x", y=("y",), **{role: "z"})


def test_without_none(store: Store, tmp_path: Path) -> None:
    """A run without the policy none shows sizes; a share against none is refused, and the reason given."""
    alone = launched(tmp_path, ONE.replace("[none, merged]", "[merged]"))
    assert drawn(alone, "one").y.name == "vm_pte_kib_end"
    with pytest.raises(UserError, match="has no policy none, which saved_percent compares with"):
        drawn(alone, "one", y=("saved_percent",))


def test_each_point_counts_once(tmp_path: Path) -> None:
    """On kernels that follow one policy a point has several rows of it; a share against none weighs it no more."""
    rows = [on_kernel("6.1", "none", 4), on_kernel("6.12", "none", 2), on_kernel("7.3", "merged", 4)]
    with opened(tmp_path, "several-0123abcd", engine="kernel") as writer:
        outcomes, rounds = (arrow_tables.concat_tables(tables) for tables in zip(*rows, strict=True))
        writer.commit(outcomes, rounds, point_rows("several-0123abcd", named(range(4)), status="ok", engine="kernel"))
        writer.finish("ok", {})
    store = Store(tmp_path)
    by_engine = drawn(store, "several", x="engine", y=("saved_percent", "saved_kib"), facet="policy")
    by_round = drawn(store, "several", x="round", y=("vm_pte_kib_end", "ptes_zapped"), facet="kernel_release")
    with Database(store, run="several") as database:
        end = {
            row["policy"]: row["kib"]
            for row in database.query(f"{END} WHERE kernel_release <> '6.12' GROUP BY 1").to_pylist()
        }
        saved = {"saved_percent": pytest.approx(100 * (1 - end["merged"] / end["none"]))}
        assert database.query(by_engine.sql).to_pylist() == [
            {"engine": "kernel", "policy": "merged", **saved, "saved_kib": (end["none"] - end["merged"]) / 4}
        ]
        zapped = {row["kernel_release"]: row["kib"] for row in database.query(ZAPPED).to_pylist()}
        assert {row["kernel_release"]: row["ptes_zapped"] for row in database.query(by_round.sql).to_pylist()} == zapped


def test_values_of_any_type(store: Store) -> None:
    """Lists, dates, decimals, NaN and infinity neither break a picture nor become JSON that is none."""
    columns = "zap * 1.5 AS y, [zap] AS x, DATE '2026-01-01' AS day, 'nan'::DOUBLE AS nan, policy = 'none' AS is_none"
    question = NamedQuery("", "", f"SELECT {columns} FROM latest")
    for x in ("x", "day", "is_none"):
        picture_file.svg(specification(drawn(store, query=question, x=x, y=("y",))))
    with pytest.raises(UserError, match="--y nan: is not a number"):
        drawn(store, query=question, x="x", y=("nan",))


def test_text_fits(store: Store) -> None:
    """No line is wider than the terminal, and the largest value has the longest bar."""
    for width in (44, 60, 80, 120):
        lines = list(text_chart.lines(drawn(store, x="zap"), width))
        assert max(map(len, lines)) <= width
    largest = max(lines, key=lambda line: line.count("█"))
    assert "100.0" in largest or "99" in largest


def test_colours() -> None:
    """Every policy has a colour of its own, whatever else is drawn; own rules get others."""
    assert set(OF_POLICY) == set(POLICIES)
    assert len(set(OF_POLICY.values())) == len(POLICIES)
    assert colours_of(["mine", "merged", "yours"], are_policies=True)[1] == OF_POLICY["merged"]
    assert len(set(colours_of(["mine", "merged", "yours"], are_policies=True))) == 3


def test_names_stay_data(store: Store) -> None:
    """No text of a run gets into an expression: Vega would evaluate it."""
    hostile = "x' + alert(1) + '"
    sql = f"""SELECT '{hostile.replace("'", "''")}' AS "a' + alert(2) + '", policy, 1.0 * zap AS v FROM latest"""
    names: dict[str, Any] = {"x": "policy", "y": ("v",), "facet": "a' + alert(2) + '"}
    chart = drawn(store, query=NamedQuery("", "", sql), **names)
    for spec in (specification(chart), *(spec for _, spec in panels(chart))):
        expressions = [text for text in _strings(spec, ("labelExpr", "test", "expr", "title")) if "alert" in text]
        assert not [text for text in expressions if "'" in text.replace("' + datum.value", "").strip("'")]
        assert picture_file.svg(spec)


def _strings(value: Any, keys: tuple[str, ...], key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            if name not in ("data", "datasets"):
                yield from _strings(item, keys, name)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, keys, key)
    elif isinstance(value, str) and key in keys:
        yield value


def test_files(store: Store, tmp_path: Path) -> None:
    """Each ending is its format."""
    spec = specification(drawn(store))
    json.dumps(spec)
    for ending, begin in ((".svg", b"<svg"), (".png", b"\x89PNG"), (".pdf", b"%PDF")):
        path = tmp_path / f"picture{ending}"
        picture_file.write(spec, path)
        assert path.read_bytes().startswith(begin)
