"""sweep compare: what differs between two runs, whether it is worse, and the exit code."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.model.policy import POLICIES
from engine.model.results import COLUMNS, Results
from engine.model.scenario import Scenario, columns_of
from sweep.cli.commands.compare import REGRESSION
from sweep.cli.main import main
from sweep.common import schema
from sweep.comparison import compare_sql
from sweep.query.database import Database
from sweep.storage.storage import Storage
from sweep.store.store import Store
from sweep.tables import arrow_tables, result_tables
from sweep.tables.result_tables import KernelFacts
from tests.paths import DATA
from tests.support import small_stores
from tests.support.small_stores import MIB, opened, part_paths, point_id

A, B = "first-0000000a", "first-0000000b"
Change = Callable[[Results], None]
Compare = Callable[..., tuple[int, str, str]]


@pytest.fixture
def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    """A function that compares two runs, A and B by default: exit code, stdout, stderr."""

    def run(*words: str, a: str = A, b: str = B, results: str = str(tmp_path)) -> tuple[int, str, str]:
        code = main(["compare", a, b, *words, "--results", results])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def scenarios(seeds: Sequence[int], **fields: Any) -> list[Scenario]:
    return [Scenario(**{"virt": 64 * MIB, "sparsity": 0.9, "seed": seed, **fields}) for seed in seeds]


def write(
    root: Storage | Path,
    name: str,
    points: list[Scenario],
    change: Change | None = None,
    failed: Sequence[int] = (),
    kernel: KernelFacts | None = None,
    policies: Sequence[str] = POLICIES,
) -> None:
    """Write a run of these points with known values. Ids differ between runs, as rows must not match by id."""
    ids, repeat = [f"{name[-1]}{point_id(i)[1:]}" for i in range(len(points))], np.arange(len(points))
    columns, results, engine = columns_of(points), small_stores.results(len(points), 1), "kernel" if kernel else "model"
    if change:
        change(results)
    with opened(root, name, engine=engine) as writer:
        for i, point in enumerate(ids):
            one = {field: values[i : i + 1] for field, values in columns.items()}
            status, error = ("failed", "ValueError: no") if i in failed else ("ok", None)
            row = result_tables.point_table(
                name, [point], repeat[i : i + 1], one, status=status, error=error, node="a", engine=engine
            )
            if i in failed:
                writer.commit(None, None, row)
        good = [i for i in range(len(ids)) if i not in failed]
        columns = {field: values[good] for field, values in columns.items()}
        ids, repeat = [ids[i] for i in good], repeat[good]
        judged = [POLICIES.index(policy) for policy in policies]
        values, rounds = results.values[good][:, judged], results.rounds[good][:, judged]
        results = Results(values, rounds, results.round_counts[good])
        writer.commit(
            result_tables.outcome_table(name, ids, repeat, columns, results, policies, engine=engine, kernel=kernel),
            result_tables.round_table(name, ids, results, policies, engine=engine),
            result_tables.point_table(name, ids, repeat, columns, node="a", engine=engine),
        )
        writer.finish("failed" if failed else "ok", {})


def add(column: str, number: int, *, point: int = 1, policy: str = "merged") -> Change:
    """A change that adds to one cell."""

    def change(made: Results) -> None:
        made.values[point, POLICIES.index(policy), COLUMNS.index(column)] += number

    return change


def cell(column: str, point: int = 1, policy: str = "merged") -> int:
    return int(small_stores.results(point + 1).values[point, POLICIES.index(policy), COLUMNS.index(column)])


def timed(repeats: int, zap: float = 1.0) -> KernelFacts:
    """Different times for `repeats` points under one policy; zaps take `zap` times as long as installs."""
    ns = np.linspace(1_000_000, 1_100_000, repeats)[:, None]
    return KernelFacts(ns.astype(np.int64), (zap * ns).astype(np.int64), "6.99-fake", True)


def test_a_run_launched_twice_is_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of the same grid are equal, also by another model version; a run of some points matches those."""
    grid = tmp_path / "small.yaml"
    grid.write_text(
        "schema: sweep/1\nname: small\nfixed: {virt: 4MiB}\naxes: {sparsity: [0.5, 0.99], threads: [1, 2]}\n"
    )
    there = ["--results", str(tmp_path / "results")]
    launch = ["launch", str(grid), "--executor", "inline", "-q", "--json", *there]
    ids: list[str] = []
    for more in ([], ["--fresh", "--where", "threads = 2"], ["--fresh"]):
        if len(ids) == 2:
            monkeypatch.setattr("sweep.grid.point_id.MODEL_VERSION", 99)
        capsys.readouterr()
        assert main([*launch, *more]) == 0
        ids.append(json.loads(capsys.readouterr().out)["run_id"])
    for run, rows in ((ids[1], "14 matched; 14 only in A, 0 only in B"), (ids[2], "28 matched; 0 only in A")):
        assert main(["compare", ids[0], run, *there]) == 0
        out = capsys.readouterr().out
        assert rows in out
        assert f"{len(COLUMNS)} columns are equal in all matched rows, 0 are not" in out
        assert "no regression" in out


def test_a_difference_is_reported_and_counted(tmp_path: Path, compare: Compare) -> None:
    """A single cell that is higher is reported with column, totals, point, policy and size, and the exit code is 5."""
    points = scenarios([1, 2, 3])
    write(tmp_path, A, points)
    write(tmp_path, B, points, add("vm_pte_kib_end", 4))
    code, out, _ = compare("--json")
    facts, was = json.loads(out), cell("vm_pte_kib_end")
    point = f"b{point_id(1)[1:]}"
    assert code == 5
    assert facts["regression"] == ["vm_pte_kib_end is higher in 1 row"]
    assert facts["rows"] == {"matched": 21, "only_a": 0, "only_b": 0}
    total = int(small_stores.results(3).values[:, :, COLUMNS.index("vm_pte_kib_end")].sum())
    assert facts["columns"] == [
        {
            "column": "vm_pte_kib_end",
            "rows": 1,
            "worse": 1,
            "better": 0,
            "a_total": total,
            "b_total": total + 4,
            "largest": {"point": point, "policy": "merged", "a": was, "b": was + 4},
        }
    ]
    (difference,) = facts["differences"]
    assert difference.pop("percent") == pytest.approx(400 / was)
    expected = {"point": point, "policy": "merged", "seed": 2, "column": "vm_pte_kib_end", "a": was, "b": was + 4}
    assert difference == {**expected, "verdict": "worse"}
    code, out, _ = compare()
    assert code == 5
    assert point in out
    assert f"{len(COLUMNS) - 1} columns are equal in all matched rows, 1 are not" in out


@pytest.mark.parametrize(("a", "b", "verdict"), [(A, B, "worse"), (B, A, "better")])
def test_which_side_is_worse(tmp_path: Path, compare: Compare, a: str, b: str, verdict: str) -> None:
    """More VmPTE, tables and work is worse, less is better; other columns are only reported as changed."""

    def more(made: Results) -> None:
        made.values[1, 2] += 1

    points = scenarios([1, 2])
    write(tmp_path, A, points)
    write(tmp_path, B, points, more)
    code, out, _ = compare("--json", "--rows", "0", a=a, b=b)
    facts = json.loads(out)
    assert [row["column"] for row in facts["columns"]] == list(compare_sql.COMPARED)
    found = {row["column"]: row["verdict"] for row in facts["differences"]}
    assert found == {c: "changed" if c in compare_sql.ONLY_CHANGED else verdict for c in compare_sql.COMPARED}
    assert {row["worse"] for row in facts["columns"]} == {None, int(verdict == "worse")}
    assert code == (5 if verdict == "worse" else 0)


def test_changed_columns_are_no_regression(tmp_path: Path, compare: Compare) -> None:
    """If only columns without a worse direction differ, the exit code is 0."""

    def change(made: Results) -> None:
        for column in compare_sql.ONLY_CHANGED:
            made.values[1, 2, COLUMNS.index(column)] *= 3

    points = scenarios([1, 2])
    write(tmp_path, A, points)
    write(tmp_path, B, points, change)
    code, out, _ = compare()
    assert code == 0
    assert f"{len(compare_sql.ONLY_CHANGED)} are not" in out
    assert "no regression" in out


def test_every_counted_column_is_compared() -> None:
    """The compared columns are those of the schema, and ONLY_CHANGED names some of them."""
    assert {column.name for column in (*schema.STATE, *schema.WORK)} == set(compare_sql.COMPARED)
    assert set(compare_sql.COMPARED) > compare_sql.ONLY_CHANGED


def test_the_rows_are_bounded_and_the_worst_are_first(tmp_path: Path, compare: Compare) -> None:
    """--rows bounds each table but no count; worse rows come first, those from 0 before all others."""

    def change(made: Results) -> None:
        made.values[:, :, COLUMNS.index("ipis")] += 1
        made.values[:, :, COLUMNS.index("fast_paths")] *= 100

    points = scenarios(range(5))
    write(tmp_path, A, points, lambda made: made.values[3, 2].fill(0))
    write(tmp_path, B, points, change)
    facts = json.loads(compare("--json", "--rows", "3")[1])
    assert facts["differences"][0]["column"] == "anon_huge_kib_end"  # the first of those that are 0 in A
    assert {row["verdict"] for row in facts["differences"]} == {"worse"}
    assert len(facts["differences"]) == 3
    assert {row["column"]: row["rows"] for row in facts["columns"]}["ipis"] == 35
    everything = json.loads(compare("--json", "--rows", "0")[1])["differences"]
    assert everything[:3] == facts["differences"]
    assert len(everything) == sum(row["rows"] for row in facts["columns"])


@pytest.mark.parametrize("seed", range(4))
def test_rows_match_as_in_a_slow_comparison(tmp_path: Path, compare: Compare, seed: int) -> None:
    """For runs with common points, some given by res, all counts are those of a comparison in Python."""
    dice = random.Random(seed)
    shapes: list[dict[str, Any]] = [
        {"sparsity": 0.5},
        {"sparsity": None, "res": MIB},
        {"sparsity": 0.9, "threads": 2},
        {"sparsity": 0.9, "order": "random"},
    ]
    points = [point for shape in shapes for point in scenarios(range(dice.choice([1, 3])), virt=2 * MIB, **shape)]
    numbers = np.random.default_rng(seed)

    def change(made: Results) -> None:
        made.values[:] = numbers.integers(0, 2, made.values.shape)

    common = points[0]
    for name in (A, B):
        write(tmp_path, name, [common, *dice.sample(points[1:], dice.randint(1, len(points) - 1))], change)
    rows: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {A: {}, B: {}}
    with Database(Store(tmp_path)) as database:
        for row in database.query("SELECT * FROM outcomes").to_pylist():
            rows[row["run_id"]][tuple(row[name] for name in compare_sql.ROW)] = row
    both = rows[A].keys() & rows[B].keys()
    facts = json.loads(compare("--json")[1])
    wanted = {"matched": len(both), "only_a": len(rows[A].keys() - both), "only_b": len(rows[B].keys() - both)}
    assert facts["rows"] == wanted
    found = {row["column"]: (row["rows"], row["a_total"], row["b_total"]) for row in facts["columns"]}
    for column in compare_sql.COMPARED:
        pairs = [(rows[A][key][column], rows[B][key][column]) for key in both]
        differ = sum(one != other for one, other in pairs)
        assert found.get(column, (0,))[0] == differ
        assert not differ or found[column][1:] == (sum(a for a, _ in pairs), sum(b for _, b in pairs))


def test_points_that_fail_only_in_b(tmp_path: Path, compare: Compare) -> None:
    """Points that failed only in B are a regression; points that failed in A too, or only in A, are not."""
    points = scenarios([1, 2, 3, 4])
    write(tmp_path, A, points, failed=[0, 1])
    write(tmp_path, B, points, failed=[1, 2])
    code, out, _ = compare("--json")
    facts = json.loads(out)
    assert code == 5
    assert facts["failures"] == [{"point": f"b{point_id(2)[1:]}", "status": "failed", "error": "ValueError: no"}]
    assert (facts["failed"], facts["regression"]) == (1, ["1 point failed in B and not in A"])
    assert facts["rows"] == {"matched": 7, "only_a": 7, "only_b": 7}
    write(tmp_path, "first-0000000c", points, failed=[1])
    assert compare(b="first-0000000c")[0] == 0


@pytest.mark.parametrize(("zap", "code"), [(1.5, 5), (1.0, 0), (0.7, 0)])
def test_measured_times(tmp_path: Path, compare: Compare, zap: float, code: int) -> None:
    """Seeds of a scenario are one group, also if they differ between runs; only longer times are a regression."""
    write(tmp_path, A, scenarios(range(8)), kernel=timed(8), policies=["merged"])
    write(tmp_path, B, scenarios(range(20, 28)), kernel=timed(8, zap), policies=["merged"])
    ended, out, _ = compare("--json")
    facts = json.loads(out)
    assert ended == code
    assert facts["rows"] == {"matched": 8, "only_a": 0, "only_b": 0}
    found = {timing["column"]: timing for timing in facts["timings"]}
    verdicts = {1.5: "slower", 1.0: "not told apart", 0.7: "faster"}
    assert found["zap_ns"]["shift"]["verdict"] == verdicts[zap]
    assert found["zap_ns"]["shift"]["ratio"] == pytest.approx(zap, rel=1e-3)
    assert found["install_ns"]["shift"]["verdict"] == "not told apart"
    assert (found["zap_ns"]["a_times"], found["zap_ns"]["policy"]) == (8, "merged")
    assert facts["regression"] == (["zap_ns is longer in 1 of 1 group"] if code else [])


def test_too_few_times_are_reported(tmp_path: Path, compare: Compare) -> None:
    """Three repeats cannot show a regression; a note says so."""
    for name, zap in ((A, 1.0), (B, 9.0)):
        write(tmp_path, name, scenarios(range(3)), kernel=timed(3, zap), policies=["merged"])
    code, out, err = compare()
    assert code == 0
    assert "zap_ns     1 group: 1 too few times" in out
    assert "2 of the groups have too few times to be tested: raise the grid's repeats" in err


def test_repeats_for_many_groups(tmp_path: Path, compare: Compare) -> None:
    """A note says how many repeats are needed to recognise one slower group among many."""
    ns = np.tile(np.linspace(1e6, 1.1e6, 5), 10)[:, None].astype(np.int64)
    points = [point for virt in range(1, 11) for point in scenarios(range(5), virt=virt * MIB)]
    for name in (A, B):
        write(tmp_path, name, points, kernel=KernelFacts(ns, ns, "6.99-fake", True), policies=["merged"])
    code, out, err = compare("--rows", "4")
    assert code == 0
    assert "install_ns 10 groups: 10 not told apart" in out
    assert "note: to find one slower group among 20 takes 6 repeats in each run; some groups have 5" in err
    assert out.count("MiB") == 0
    assert out.splitlines()[-4:] == ["1,048,576", "2,097,152", "3,145,728", "4,194,304"]  # all else is in all rows


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (A, A, f"compare: both are {A}; give two runs (sweep ls has them, STORE/RUN names others)"),
        ("last", B, f"compare: both are {B}; give two runs (sweep ls has them, STORE/RUN names others)"),
        ("frist", B, "; known: "),
        ("first", B, "run 'first' could be "),
        ("other", B, "virt is 2MiB in A, 64MiB in B; seed is 5, 6, 7, ... in A, 1, 2 in B"),
        ("thin", B, "policy is none in A, "),
        ("live", B, "engine is kernel in A, model in B"),
        ("empty", B, "compare: empty-00000000 has no rows: it is interrupted, 0 points ok, 0 failed"),
        ("crossed", B, "have no row in common: each value is in both, but no scenario and policy is"),
    ],
)
def test_what_cannot_be_compared(tmp_path: Path, compare: Compare, a: str, b: str, message: str) -> None:
    """Runs that cannot be compared give one line that says why, and exit code 2."""
    points = scenarios([1, 2])
    write(tmp_path, A, points)
    if a == "other":
        write(tmp_path, "other-00000000", scenarios([5, 6, 7, 8], virt=2 * MIB))
    if a == "thin":
        write(tmp_path, "thin-00000000", points, policies=["none"])
    if a == "live":
        write(tmp_path, "live-00000000", points, kernel=timed(2), policies=["merged"])
    if a == "empty":
        opened(tmp_path, "empty-00000000").close()
    if a == "crossed":
        write(tmp_path, "crossed-00000000", [*scenarios([1], sparsity=0.5), *scenarios([1], threads=2)])
        points = [*scenarios([1], sparsity=0.5, threads=2), *scenarios([1])]
    write(tmp_path, B, points, policies=["merged", "refcount"] if a == "thin" else POLICIES)
    code, out, err = compare(a=a, b=b)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_traces_match_by_content(tmp_path: Path, compare: Compare) -> None:
    """The same trace under another file name is the same point; another trace is not."""
    data, results = DATA / "kernel", str(tmp_path / "results")
    for run, traces in (("one", ["basic-0000"]), ("two", ["basic-0000", "rich-1000"])):
        for trace in traces:
            shutil.copy(data / f"{trace}.csv", tmp_path / f"{run}-{trace}.csv")
        listed = ", ".join(f"{run}-{trace}.csv" for trace in traces)
        grid = tmp_path / f"{run}.yaml"
        grid.write_text(f"schema: sweep/1\nname: {run}\nworkload: {{trace: [{listed}]}}\n")
        assert main(["launch", str(grid), "--executor", "inline", "-q", "--results", results]) == 0
    code, out, _ = compare(a="one", b="two", results=results)
    assert code == 0
    assert "7 matched; 0 only in A, 7 only in B" in out


def test_a_damaged_part_is_named_and_left_out(tmp_path: Path, compare: Compare) -> None:
    """The readable rows are compared; if there are none, the error names the damaged part."""
    points = scenarios([1, 2])
    write(tmp_path, A, points)
    write(tmp_path, B, points)
    with opened(tmp_path, B) as writer:
        small_stores.commit(writer, 50, 1)
    part = part_paths(tmp_path / B, "outcomes")[-1]
    part.write_bytes(part.read_bytes()[:-300] + os.urandom(300))
    code, out, err = compare()
    assert code == 0
    assert "14 matched" in out
    assert f"warning: left out: {tmp_path / B}/outcomes/{part.name}" in err
    (only,) = part_paths(tmp_path / A, "outcomes")
    only.write_bytes(only.read_bytes()[:200])
    code, out, err = compare()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{A} has no rows" in err
    assert f"; left out: {tmp_path / A}/outcomes/{only.name}" in err


def test_runs_of_two_stores(tmp_path: Path, compare: Compare) -> None:
    """STORE/RUN names a run of another store, which may have the same id; a copy may have another name."""
    points = scenarios([1, 2])
    write(tmp_path, A, points)
    write(tmp_path / "theirs", A, points, add("vm_pte_kib_end", 1))
    shutil.copytree(tmp_path / A, tmp_path / "copied")
    code, out, _ = compare(b=f"{tmp_path}/theirs/{A}")
    assert code == REGRESSION
    assert "verdict    worse: vm_pte_kib_end is higher in 1 row" in out
    code, out, _ = compare(b="copied")
    assert code == 0
    assert f"{2 * len(POLICIES)} matched; 0 only in A, 0 only in B" in out
    assert "B          copied: ok" in out
    assert compare(b=f"{tmp_path}/{A}")[0] == 2


def test_runs_that_differ_in_the_seed(tmp_path: Path, compare: Compare) -> None:
    """Without a seed in common rows are paired by all other values, and counters that differ are not judged."""
    write(tmp_path, A, scenarios([1, 2]))
    write(tmp_path, B, scenarios([7, 8, 9]), add("vm_pte_kib_end", 100))
    code, out, _ = compare()
    assert code == 0
    assert f"rows       {2 * len(POLICIES)} matched; 0 only in A, {len(POLICIES)} only in B" in out
    assert "seeds      none in common: " in out
    assert "worse" not in out
    end = sum(cell("vm_pte_kib_end", point, policy) for point in (0, 1) for policy in POLICIES)
    assert re.search(rf"^vm_pte_kib_end +1 +{end:,} +{end + 100:,} ", out, re.MULTILINE)


def test_two_kernels_of_one_run(tmp_path: Path, compare: Compare) -> None:
    """RUN@RELEASE takes one kernel's rows. Own policies match though they differ; unknown kernels are named."""
    points = scenarios([0, 1])
    ids, columns, repeat = [point_id(i) for i in range(2)], columns_of(points), np.arange(2)
    outcomes = []
    for release, own in (("6.12.3", "none"), ("7.3.4+deb13", "merged")):
        made = small_stores.results(2, 1)
        judged = [POLICIES.index(policy) for policy in (own, "munmap")]
        made = Results(made.values[:, judged], made.rounds[:, judged], made.round_counts)
        facts = KernelFacts(None, None, release, own == "merged")
        outcomes.append(
            result_tables.outcome_table(A, ids, repeat, columns, made, (own, "munmap"), engine="kernel", kernel=facts)
        )
    with opened(tmp_path, A, engine="kernel") as writer:
        status = result_tables.point_table(A, ids, repeat, columns, node="a", engine="kernel")
        writer.commit(arrow_tables.concat_tables(outcomes), None, status)
        writer.finish("ok", {})
    code, out, _ = compare("--json", a=f"{A}@7.3", b=f"{A}@6.12")
    found = json.loads(out)
    assert found["kernels"] == {"a": "7.3.4+deb13", "b": "6.12.3"}
    assert found["rows"] == {"matched": 4, "only_a": 0, "only_b": 0}
    assert {row["policy"] for row in found["differences"]} == {"none / merged"}
    assert code == (REGRESSION if found["regression"] else 0)
    for a, b, message in (
        (f"{A}@6.1", f"{A}@7.3", f"{A}@6.1: no such kernel in the run; it has 6.12.3, 7.3.4+deb13"),
        (A, f"{A}@7.3", "has rows of several kernels: 6.12.3, 7.3.4+deb13; name one"),
        (f"{A}@7.3", f"{A}@7", f"both are {A}@7.3.4+deb13; give two kernels"),
    ):
        code, out, err = compare(a=a, b=b)
        assert (code, out) == (2, "")
        assert message in err
