"""Launches of grids with rules of their own: rows, identity, resuming, comparison, and what the commands say."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.model.policy import BUILT_IN, derive_policy
from engine.model.results import COLUMNS
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch
from sweep.cli.main import main
from sweep.grid.loader import parse_grid
from sweep.query.database import Database
from sweep.query.named_queries import named_queries
from sweep.run import batching
from sweep.run import launch as launching
from sweep.run.launch import LaunchOptions, LaunchSummary, launch
from sweep.store.store import Store
from tests.paths import DATA
from tests.support.fake_engine import RecordingProgress

KIB = 1024
SMALL = "{name: small, like: merged, least: 64KiB}"
BY_OTHERWISE = "{name: 'r_{otherwise}', like: merged, otherwise: [rest, keep]}"
RULES = f"[none, merged, {SMALL}, {BY_OTHERWISE}]"
GRID = f"""schema: sweep/1
name: own
fixed: {{virt: 64MiB, sparsity: 0.9, coverage: 0.9}}
policies: {RULES}
axes: {{zap: [64KiB, 2MiB], rounds: [1, 3]}}
"""
NAMES = ("none", "merged", "small", "r_rest", "r_keep")


def run(store: Path, text: str = GRID, executor: str = "inline", **options: Any) -> LaunchSummary:
    summary = launch(
        parse_grid(text, "own.yaml"), LaunchOptions(results=store, executor=executor, **options), RecordingProgress()
    )
    assert summary.status == "ok"
    return summary


def ask(store: Path, sql: str, run_id: str | None = None) -> list[dict[str, Any]]:
    with Database(Store(store), run=run_id) as database:
        rows: list[dict[str, Any]] = database.query(sql).to_pylist()
        return rows


def test_rows_are_those_of_the_engine(tmp_path: Path) -> None:
    """Each rule has the rows that run_batch computes for it, in outcomes and in rounds, in the grid's order."""
    run(tmp_path)
    changes: list[dict[str, int | str]] = [{"least": 64 * KIB}, {"otherwise": "rest"}, {"otherwise": "keep"}]
    small, rest, keep = (derive_policy(BUILT_IN["merged"], "own", change) for change in changes)
    policies = [BUILT_IN["none"], BUILT_IN["merged"], small, rest, keep]
    order = "ORDER BY zap, rounds, policy::policies"
    rows = ask(tmp_path, f"SELECT policy, {', '.join(COLUMNS)} FROM outcomes {order}")
    scenarios = [
        Scenario(virt=64 << 20, sparsity=0.9, coverage=0.9, zap=zap, rounds=rounds)
        for zap in (64 * KIB, 2 << 20)
        for rounds in (1, 3)
    ]
    expected = run_batch(columns_of(scenarios), policies)
    assert [tuple(row.values()) for row in rows] == [
        (name, *values) for point in expected.values.tolist() for name, values in zip(NAMES, point, strict=True)
    ]
    by_round = ask(tmp_path, "SELECT policy, count(*) AS n FROM rounds GROUP BY policy ORDER BY policy::policies")
    assert [(row["policy"], row["n"]) for row in by_round] == [(name, 8) for name in NAMES]


@pytest.mark.slow
def test_executors_shards_and_batches_change_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local processes, also when each point is cut into shards, write the rows that one process writes."""
    text = GRID.replace("64MiB", "8GiB")
    run(tmp_path / "inline", text)
    for module in (batching, launching):
        monkeypatch.setattr(module, "TASK_NS", 1e5)
        monkeypatch.setattr(module, "MIN_TASK_NS", 1e5)
    run(tmp_path / "processes", text, "processes", jobs=2)
    for view in ("outcomes", "rounds", "policies"):
        sql = f"SELECT * FROM {view} ORDER BY ALL"
        assert ask(tmp_path / "inline", sql) == ask(tmp_path / "processes", sql)


def test_counts_of_kernels_through_a_grid(tmp_path: Path) -> None:
    """Rules in a grid count what a Linux 6.12 counted into which these designs were built (tests/data/README.md)."""
    truth = json.loads((DATA / "designs_truth.json").read_text())
    spelled = dict.fromkeys(("virt", "cluster", "zap", "zap_shift"), "B")
    rows = [
        ", ".join(f"{name}: {value}{spelled.get(name, '')}" for name, value in case["scenario"].items())
        for case in truth
    ]
    least = '{name: "least_{least}", like: merged, least: [4KiB, 64KiB, 512KiB]}'
    outside = "{name: outside_64k, like: merged, least: 64KiB, otherwise: outside}"
    policies = f"[async, second_walk, refcount, seed_inline, {least}, {outside}]"
    text = f"schema: sweep/1\nname: truth\npolicies: {policies}\ninclude:\n"
    run(tmp_path, text + "".join(f"  - {{{row}}}\n" for row in rows))
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in ask(tmp_path, "SELECT * FROM outcomes"):
        found[row["virt"], row["seed"], row["zap"], row["cluster"], row["zap_shift"], row["policy"]] = row
    spelling = {f"least_{size}k": f"least_{size}KiB" for size in (4, 64, 512)}
    for case in truth:
        point = [case["scenario"][name] for name in ("virt", "seed", "zap", "cluster", "zap_shift")]
        for name, counters in case["kernel"].items():
            row = found[*point, spelling.get(name, name)]
            assert {counter: row[counter] for counter in counters} == counters


def test_a_run_resumes_only_under_the_same_rules(tmp_path: Path) -> None:
    """The same rules, written in another way, go on with a run; rules of the same name and other fields start one."""
    first = run(tmp_path, where="zap < 1MiB")
    assert (first.planned, first.resumed) == (2, False)
    same = GRID.replace("{name: small, like: merged, least: 64KiB}", "{least: 65536B, name: small, like: merged}")
    second = run(tmp_path, same)
    assert (second.run_id, second.done_before, second.planned) == (first.run_id, 2, 2)
    other = run(tmp_path, GRID.replace("least: 64KiB", "least: 128KiB"))
    assert other.run_id != first.run_id
    assert (other.planned, other.done_before) == (4, 0)
    rules = ask(
        tmp_path, "SELECT run_id, \"like\", least, least_bytes FROM policies WHERE policy = 'small' ORDER BY least"
    )
    assert [tuple(row.values()) for row in rules] == [
        (other.run_id, "merged", "128KiB", 128 * KIB),
        (first.run_id, "merged", "64KiB", 64 * KIB),
    ]


def test_a_repeated_run_has_the_same_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """launch --like reads the rules from run.json."""
    monkeypatch.chdir(tmp_path)
    first = run(tmp_path / "results")
    assert main(["launch", "--like", first.run_id, "--executor", "inline", "-q"]) == 0
    rows = [
        ask(tmp_path / "results", "SELECT * EXCLUDE (run_id) FROM outcomes ORDER BY ALL", run_id)
        for run_id in (first.run_id, f"{first.run_id}-2")
    ]
    assert rows[0] == rows[1]


def test_every_named_query_shows_the_rules(tmp_path: Path) -> None:
    """Each named query that has rows of policies has those of the grid's own rules too."""
    run(tmp_path)
    answers = {question.name: ask(tmp_path, question.sql) for question in named_queries()}
    with_rows = {name: json.dumps(rows, default=str) for name, rows in answers.items() if rows}
    assert len(with_rows) > 10
    assert [name for name, shown in with_rows.items() if "small" not in shown] == ["filters"]  # by `least`, not by name


def test_a_rule_that_unmaps_costs_what_munmap_costs(tmp_path: Path) -> None:
    """Costs follow a rule's fields, not its name: MADV_FREE marks no page where calls unmap."""
    text = GRID.replace(RULES, "[none, munmap, {name: gone, like: munmap}]").replace("0.9,", "0.9, advice: free,", 1)
    run(tmp_path, text)
    rows = ask(tmp_path, "SELECT * EXCLUDE (run_id, policy) FROM outcomes WHERE policy = 'munmap' ORDER BY ALL")
    assert rows == ask(tmp_path, "SELECT * EXCLUDE (run_id, policy) FROM outcomes WHERE policy = 'gone' ORDER BY ALL")
    prices = ask(tmp_path, "SELECT policy, sum(cost_ns) AS ns FROM outcomes GROUP BY policy ORDER BY policy::policies")
    assert prices[0]["ns"] != prices[1]["ns"] == prices[2]["ns"]


def test_commands_name_the_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """plan, show, why and compare say which rules a run has, and which agree or differ."""
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(GRID)
    Path("other.yaml").write_text(GRID.replace("least: 64KiB", "least: 2MiB").replace("[rest, keep]", "[rest, scan]"))
    assert main(["plan", "own.yaml"]) == 0
    assert "\npolicies: 5, 3 by rules of its own (" in capsys.readouterr().out
    assert main(["plan", "other.yaml", "--json"]) == 0
    printed = capsys.readouterr()
    account = json.loads(printed.out)
    assert account["policies"] == ["none", "merged", "small", "r_rest", "r_scan"]
    assert account["rules"][0] == {"name": "small", **BUILT_IN["merged"].effective, "least": 2 << 20}
    assert printed.err == "warning: other.yaml:4:11: policies: r_scan has the rule of merged, so the same results\n"
    for name in ("own.yaml", "other.yaml"):
        assert main(["launch", name, "--executor", "inline", "-q"]) == 0
    ids = [row["run_id"] for row in ask(Path("results"), "SELECT run_id FROM runs ORDER BY created")]
    capsys.readouterr()
    assert main(["show", ids[0]]) == 0
    assert "small (as merged, with least: 64KiB)" in capsys.readouterr().out
    assert main(["compare", *ids]) == 5
    notes = capsys.readouterr().err
    assert "note: the rule small differs: least is 64KiB in A, 2MiB in B\n" in notes
    assert "merged" not in notes
    point = ask(Path("results"), "SELECT min(point_id) AS id FROM points")[0]["id"]
    assert main(["why", point, "own.yaml"]) == 0
    out = capsys.readouterr().out
    assert f"rules of {ids[1]} beside the built-in ones" in out
    assert "\nr_keep  when: visit, least: slot, markers: skip, proof: held, otherwise: keep," in out
    assert main(["why", point, "--json"]) == 0
    rules = json.loads(capsys.readouterr().out)["rules"]
    assert {(rule["of"], rule["policy"]) for rule in rules} >= {(ids[0], "r_keep"), (ids[1], "r_scan")}
