"""Named queries that compare with none give the same figures as a plain computation, point by point."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.model.policy import BUILT_IN, POLICIES, derive_policy
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch
from sweep.grid.rules import RESERVED
from sweep.query.database import Database
from sweep.query.named_queries import named_queries, named_query
from sweep.store.store import Store
from sweep.tables import result_tables
from tests.support.launched_store import launched
from tests.support.small_stores import MIB, commit, opened, point_id

Rows = list[dict[str, Any]]
KIB = 1024
SHOWN = [policy for policy in POLICIES if policy != "none"]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Three runs: all policies with varying rounds, all policies with equal rounds, and one without the policy none."""
    root = tmp_path_factory.mktemp("questions")
    axes = [(virt, sparsity, zap) for virt in (64, 96) for sparsity in (0.99, 0.999) for zap in (64 * KIB, 2 * MIB)]
    varying = [
        Scenario(virt=v * MIB, sparsity=s, zap=z, zap_shift=z // 2 * (r > 1), coverage=0.5, rounds=r, threads=r)
        for v, s, z in axes
        for r in (1, 2, 3, 5)
    ]
    equal = [Scenario(virt=v * MIB, sparsity=s, zap=z, cluster=64 * KIB, rounds=6) for v, s, z in axes]
    runs = {
        "varying": (varying, POLICIES),
        "equal": (equal, POLICIES),
        "lacking": (varying[:8], ("refcount", "merged")),
    }
    for name, (scenarios, policies) in runs.items():
        columns = columns_of(scenarios)
        results = run_batch(columns, [BUILT_IN[name] for name in policies])
        ids, repeat = [point_id(i) for i in range(len(scenarios))], columns["seed"]
        with opened(root, f"{name}-0123abcd") as writer:
            writer.commit(
                result_tables.outcome_table(writer.run_id, ids, repeat, columns, results, policies),
                result_tables.round_table(writer.run_id, ids, results, policies),
                result_tables.point_table(writer.run_id, ids, repeat, columns, node="a"),
            )
            writer.finish("ok", {})
    with Database(Store(root)) as opened_database:
        yield opened_database


def grouped(rows: Rows, *names: str) -> dict[tuple[Any, ...], Rows]:
    """The rows by their values in these columns."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in names)].append(row)
    return groups


def rows_with_none(database: Database) -> Rows:
    """Every row of `latest`; its `none` is the same point's row under the policy none, or None."""
    rows: Rows = database.query("SELECT * FROM latest").to_pylist()
    none = {(row["run_id"], row["point_id"]): row for row in rows if row["policy"] == "none"}
    return [row | {"none": none.get((row["run_id"], row["point_id"]))} for row in rows]


def total(rows: Rows, name: str) -> Any:
    return sum(row[name] for row in rows)


def total_of_none(rows: Rows, name: str) -> Any:
    return sum(row["none"][name] for row in rows)


def savings(rows: Rows) -> dict[tuple[Any, ...], dict[str, Any]]:
    answers = {}
    for key, group in grouped(rows, "run_id", "policy").items():
        saved = (
            100 * (1 - total(group, "vm_pte_kib_end") / total_of_none(group, "vm_pte_kib_end"))
            if group[0]["none"]
            else None
        )
        answers[key] = {
            "points": len(group),
            "end_mib": total(group, "vm_pte_kib_end") / len(group) / KIB,
            "saved_percent": saved,
            "locks": total(group, "pmd_locks") + total(group, "pte_locks_extra"),
            "cost_ms": total(group, "cost_ns") / 1e6,
        }
    return answers


def cost(rows: Rows) -> dict[tuple[Any, ...], dict[str, Any]]:
    answers: dict[tuple[Any, ...], dict[str, Any]] = {}
    for key, group in grouped(rows, "run_id", "policy").items():
        freed = total(group, "pte_tables_freed")
        answers[key] = dict.fromkeys(("extra_ms", "percent", "ns_a_table")) | {"freed": freed}
        if group[0]["none"]:
            extra = sum(row["cost_ns"] - row["none"]["cost_ns"] for row in group)
            answers[key]["extra_ms"] = extra / 1e6
            answers[key]["percent"] = 100 * extra / total_of_none(group, "cost_ns")
            answers[key]["ns_a_table"] = extra / freed if freed else None
    return answers


def at_peak(rows: Rows) -> dict[tuple[Any, ...], dict[str, Any]]:
    answers = {}
    compared = [row for row in rows if row["none"] and row["policy"] != "none"]
    for (run, cluster, rounds, policy), group in grouped(compared, "run_id", "cluster", "rounds", "policy").items():
        kib, none = total(group, "vm_pte_kib_peak"), total_of_none(group, "vm_pte_kib_peak")
        answers[run, cluster / KIB, rounds, policy] = {
            "none_gib": none / len(group) / MIB,
            "res_gib": total(group, "res_bytes_peak") / len(group) / KIB**3,
            "saved_percent": 100 * (1 - kib / none),
        }
    return answers


def shares(rows: Rows, kib: str, *names: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Percent that each policy saves, and what would be possible at the end."""
    answers = {}
    for key, group in grouped([row for row in rows if row["none"]], *names).items():
        none = sum(row[kib] for row in group if row["policy"] == "none")
        saved = {p: 100 * (1 - sum(row[kib] for row in group if row["policy"] == p) / none) for p in SHOWN}
        needed = sum(row["vm_pte_kib_needed_end"] for row in group if row["policy"] == "none")
        answers[key] = saved | {"possible": max(100 * (1 - needed / none), *saved.values())}
    return answers


def by_sparsity(rows: Rows) -> dict[tuple[Any, ...], dict[str, Any]]:
    names = ("run_id", "sparsity", "cluster")
    end = shares(rows, "vm_pte_kib_end", *names)
    peak = shares([row for row in rows if row["rounds"] > 1], "vm_pte_kib_peak", *names)
    answers = {(run, s, c / KIB, "end"): answer for (run, s, c), answer in end.items()}
    return answers | {(run, s, c / KIB, "peak"): answer | {"possible": None} for (run, s, c), answer in peak.items()}


def in_kib(answers: dict[tuple[Any, ...], dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The same answers with sizes in the keys, after the run id, in KiB instead of bytes."""
    return {(key[0], *(value / KIB for value in key[1:])): answer for key, answer in answers.items()}


PLAIN: dict[str, tuple[tuple[str, ...], Callable[[Rows], dict[tuple[Any, ...], dict[str, Any]]]]] = {
    "savings": (("run_id", "policy"), savings),
    "cost": (("run_id", "policy"), cost),
    "at_peak": (("run_id", "cluster_kib", "rounds", "policy"), at_peak),
    "by_zap": (("run_id", "zap_kib"), lambda rows: in_kib(shares(rows, "vm_pte_kib_end", "run_id", "zap"))),
    "by_shift": (
        ("run_id", "zap_kib", "shift_kib"),
        lambda rows: in_kib(shares(rows, "vm_pte_kib_end", "run_id", "zap", "zap_shift")),
    ),
    "by_sparsity": (("run_id", "sparsity", "cluster_kib", "moment"), by_sparsity),
}


@pytest.mark.parametrize("name", PLAIN)
def test_figures_are_those_of_a_plain_computation(database: Database, name: str) -> None:
    """Comparing each point with its own row of none gives the same figures; runs without none are left out or NULL."""
    keys, plain = PLAIN[name]
    rows = database.query(named_query(name).sql).to_pylist()
    answers = {tuple(row[key] for key in keys): row for row in rows}
    expected = plain(rows_with_none(database))
    assert len(answers) == len(rows)
    assert answers.keys() == expected.keys()
    for key, figures in expected.items():
        shown = {figure: answers[key][figure] for figure in figures}
        assert shown == pytest.approx(figures, abs=0.051 if name == "cost" else 0.0051), key


def test_growth_uses_the_rounds_of_each_point(database: Database) -> None:
    """Rounds 1, 2, 4, ... and the last are shown, also in runs whose points have different numbers of rounds."""
    rows = database.query(
        "SELECT r.*, rounds FROM rounds AS r JOIN latest USING (run_id, point_id, policy)"
    ).to_pylist()
    shown = [row for row in rows if row["round"] in (1, 2, 4) or row["round"] == row["rounds"]]
    answers = database.query(named_query("growth").sql).to_pylist()
    expected = grouped(shown, "run_id", "rounds", "round")
    assert {(row["run_id"], row["rounds"], row["round"]) for row in answers} == expected.keys()
    for row in answers:
        group = expected[row["run_id"], row["rounds"], row["round"]]
        for policy, points in grouped(group, "policy").items():
            mib = sum(point["vm_pte_kib_peak"] for point in points) / len(points) / KIB
            assert row[policy[0]] == pytest.approx(mib, abs=0.00051)
            assert row["points"] == len(points)


def test_gather(tmp_path: Path) -> None:
    """Only calls that fill the gather tell seed_inline from merged, which reads all 512 entries on each slow path."""
    grid = """{schema: sweep/1, name: full, policies: [seed_inline, merged], fixed: {virt: 128MiB},
        axes: {sparsity: [0, 0.9], zap: [2MiB, 64MiB]}}"""
    with Database(launched(tmp_path, grid)) as database:
        rows = database.query(named_query("gather").sql).to_pylist()
    assert [(row["zap_kib"], row["sparsity"]) for row in rows] == [(2048, 0), (2048, 0.9), (65536, 0), (65536, 0.9)]
    full = rows[2]
    assert 0 < full["seed_inline"] < full["merged"] == 512 * full["slow_paths"]
    assert full["slow_paths"] <= full["force_breaks"]
    assert all(row["seed_inline"] == row["merged"] == 0 for row in rows if row is not full)


@pytest.mark.parametrize("name", ["by_shift", "by_sparsity", "by_trace", "by_zap", "growth", "winners"])
def test_the_policies_of_the_runs_have_columns(tmp_path: Path, name: str) -> None:
    """A rule of the grid's own has a column beside the built-in policies that the grid has, and others have none."""
    own = derive_policy(BUILT_IN["merged"], "Eighth", {"least": 64 * KIB})
    with opened(tmp_path, rules=(BUILT_IN["none"], BUILT_IN["merged"], own)) as writer:
        commit(writer, 0, 2, policies=("none", "merged"))
        writer.finish("ok", {})
    with Database(Store(tmp_path)) as database:
        columns = database.query(named_query(name).sql).column_names
    shown = ["none", "merged", "Eighth"] if name == "growth" else ["merged", "Eighth"]
    assert [column for column in columns if column in (*POLICIES, "Eighth")] == shown


def test_names_that_columns_have() -> None:
    """No policy can have the name of a column beside the columns of the policies."""
    for question in named_queries():
        for grouped_by in re.findall(r"FOR \w+ IN policies GROUP BY ([\w, ]+)\)", question.sql):
            assert set(grouped_by.split(", ")) <= RESERVED, question.name


def test_rules_of_two_runs(tmp_path: Path) -> None:
    """Runs with rules of one name, or of names that differ in their case only, are asked together."""
    for name, policy in (("one", "Own"), ("two", "own"), ("three", "own")):
        least = 64 * KIB if name == "two" else 4 * KIB
        own = derive_policy(BUILT_IN["merged"], policy, {"least": least})
        with opened(tmp_path, f"{name}-0123abcd", rules=(BUILT_IN["none"], own)) as writer:
            commit(writer, 0, 2, policies=("none", "merged"))
            writer.finish("ok", {})
    with Database(Store(tmp_path)) as database:
        assert database.query(named_query("by_zap").sql).num_rows
        rules = database.query("SELECT run_id, policy, least_bytes FROM policies WHERE NOT built_in").to_pylist()
    assert [tuple(row.values()) for row in rules] == [
        ("one-0123abcd", "Own", 4 * KIB),
        ("two-0123abcd", "own", 64 * KIB),
        ("three-0123abcd", "own", 4 * KIB),
    ]
