"""sweep launch --engine kernel writes the model's rows with measured times; columns that are not observed are NULL."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.kernel.runner import Runner
from engine.model.results import WORK
from sweep.cli.main import main
from sweep.query.database import Database
from sweep.store.store import Store
from tests.support.fake_kernel import MACHINE, SERVER_INFO, FakeKernel, fake_named, install
from tests.support.live_kernel import kernel

__all__ = ["kernel"]

GRID = """schema: sweep/1
name: small
about: does it run?
policies: [none, merged, munmap]
fixed: {sparsity: 0.5}
axes: {virt: [2MiB, 5MiB], zap: [64KiB, 2MiB], refault: [0]}
derive: {pages: "virt // 4096"}
"""
LIVE = ["launch", "small.yaml", "--engine", "kernel"]


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(GRID)
    return path


def rows(sql: str) -> list[dict[str, Any]]:
    with Database(Store(Path("results"))) as database:
        return list(database.query(sql).to_pylist())


@pytest.mark.usefixtures("grid")
@pytest.mark.live
@pytest.mark.slow
def test_rows_equal_the_models_in_common_columns(kernel: Runner) -> None:
    """One grid on both engines gives two runs. The kernel's rows are of its own policy and munmap."""
    assert main(LIVE) == 0
    assert main(["launch", "small.yaml", "--executor", "inline"]) == 0
    observed = rows("SELECT * FROM outcomes WHERE engine = 'kernel'")
    assert {row["policy"] for row in observed} == {kernel.policy, "munmap"}
    assert len(observed) == 8
    for row in observed:
        assert row["kernel_release"] == kernel.machine.release
        assert row["pt_reclaim"] == kernel.pt_reclaim
        assert row["install_ns"] > 0
        assert row["zap_ns"] > 0
        assert {name for name in WORK if row[name] is not None} == set(WORK) & set(kernel.columns)
    model = {(r["point_id"], r["policy"]): r for r in rows("SELECT * FROM outcomes WHERE engine = 'model'")}
    for row in observed if kernel.counts_pages else []:
        other = model[row["point_id"], row["policy"]]
        assert {name: row[name] for name in kernel.columns} == {name: other[name] for name in kernel.columns}
    assert len(rows("SELECT * FROM rounds WHERE engine = 'kernel'")) == 8
    assert {row["pages"] for row in rows("SELECT pages FROM points WHERE engine = 'kernel'")} == {512, 1280}


@pytest.mark.usefixtures("grid")
def test_a_refused_point_is_a_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It has status refused and the reason; the other points run; the exit code is 1; --rerun failed tries it again."""
    fake = install(monkeypatch, FakeKernel())
    assert main([*LIVE, "-S", "axes.refault=[0, 0.5]"]) == 1
    assert "4 ok, 4 refused" in capsys.readouterr().out
    refused = rows("SELECT error, attempt FROM failures WHERE status = 'refused'")
    assert [(row["error"][:12], row["attempt"]) for row in refused] == [("refault 0.5:", 1)] * 4
    asked = len(fake.asked)
    assert main([*LIVE, "-S", "axes.refault=[0, 0.5]", "--rerun", "failed"]) == 1
    assert len(fake.asked) == asked  # what is ok is not run again
    assert rows("SELECT max(attempt) AS last FROM failures") == [{"last": 2}]


@pytest.mark.usefixtures("grid")
def test_counters_inside_take_the_times_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A launch with --inside is a run of its own, without times, also if it is repeated by --like."""
    install(monkeypatch, FakeKernel())
    assert main(LIVE) == main([*LIVE, "--inside"]) == 0
    ran = rows("SELECT run_id, count(*) AS rows, count(zap_ns) AS times FROM outcomes GROUP BY run_id ORDER BY times")
    assert [(row["rows"], row["times"]) for row in ran] == [(8, 0), (8, 8)]
    assert main(["launch", "--like", ran[0]["run_id"]]) == 0
    assert rows("SELECT count(*) AS rows, count(zap_ns) AS times FROM outcomes") == [{"rows": 24, "times": 8}]
    assert main(["launch", "small.yaml", "--inside"]) == 2
    assert "--inside: needs --engine kernel" in capsys.readouterr().err
    assert main([*LIVE, "--inside", "--kernel", "6.12"]) == 2
    assert "which is not among the kernels: 6.12" in capsys.readouterr().err


@pytest.mark.usefixtures("grid")
def test_munmap_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid without policies runs under the kernel's own only."""
    fake = install(monkeypatch, FakeKernel())
    assert main([*LIVE, "-S", "policies=[none, merged]"]) == 0
    Path("all.yaml").write_text(GRID.replace("policies: [none, merged, munmap]\n", ""))
    assert main(["launch", "all.yaml", "--engine", "kernel"]) == 0
    assert {unmap for _, unmap in fake.asked} == {False}


@pytest.mark.usefixtures("grid")
def test_fail_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the launch at the first point that is not ok; the next launch runs the following points."""
    install(monkeypatch, FakeKernel())
    words = [*LIVE, "-S", "axes.refault=[0.5, 0]", "--fail-fast"]
    assert main(words) == 1
    assert rows("SELECT status FROM points") == [{"status": "refused"}]
    assert main(words) == 1
    assert rows("SELECT count(*) AS n FROM points") == [{"n": 3}]


@pytest.mark.usefixtures("grid")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-S", "policies=[refcount]"], "policies: this kernel shows merged and munmap; the grid asks for refcount"),
        (
            ["-S", "policies=[none, merged, {name: small, like: merged, least: 64KiB}]"],
            "-S policies: this kernel follows merged, not the grid's own rule small; leave it out: -S policies=merged",
        ),
        (["--executor", "ray"], "--executor ray: runs kernels in guests, on any node; name them: --kernel 6.12"),
        (["-j", "2"], "-j: not with --engine kernel"),
        (["--engine", "kernal"], "unknown engine 'kernal'; did you mean 'kernel'?"),
    ],
)
def test_options_that_exclude_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    """They give one line, exit code 2 and no run."""
    install(monkeypatch, FakeKernel())
    assert main([*LIVE, *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("results").exists()


@pytest.mark.usefixtures("grid")
@pytest.mark.parametrize("words", [LIVE, ["validate", "small.yaml"]], ids=["launch", "validate"])
def test_other_systems_than_linux(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """The command ends with one line and exit code 2."""
    monkeypatch.setattr("engine.kernel.host.sys.platform", "darwin")
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("sweep: the kernel engine needs Linux")


def test_a_kernel_without_reclaim_runs_the_policy_none(monkeypatch: pytest.MonkeyPatch, grid: Path) -> None:
    """The probe decides, not the kernel's version."""
    install(monkeypatch, FakeKernel(policy="none", pt_reclaim=False))
    assert main(LIVE) == 0
    assert rows("SELECT DISTINCT policy, pt_reclaim FROM outcomes ORDER BY policy") == [
        {"policy": "munmap", "pt_reclaim": False},
        {"policy": "none", "pt_reclaim": False},
    ]


def test_two_kernels_are_two_rows_of_a_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A point runs on each kernel under its own policy; `sweep query kernels` shows both beside the model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(GRID.replace("name: small", "name: two\nkernels: [old, new]"))
    old = FakeKernel(policy="none", pt_reclaim=False, machine=replace(MACHINE, release="6.1-fake"))
    fake_named(monkeypatch, {"old": old, "new": FakeKernel(), "newer": FakeKernel()})
    assert main(["launch", "two.yaml", "--engine", "kernel"]) == 0
    got = rows("SELECT kernel_release, policy, accel, count(*) AS n FROM outcomes GROUP BY ALL ORDER BY ALL")
    assert [(row["kernel_release"], row["policy"], row["n"]) for row in got] == [
        ("6.1-fake", "munmap", 4),
        ("6.1-fake", "none", 4),
        ("6.99-fake", "merged", 4),
        ("6.99-fake", "munmap", 4),
    ]
    assert main(["launch", "two.yaml", "--executor", "inline"]) == 0
    capsys.readouterr()
    assert main(["query", "kernels", "--format", "csv"]) == 0
    shown = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert {line[shown[0].index("agree")] for line in shown[1:]} == {"4"}


def test_kernels_that_lack_what_points_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No kernel of a point's arch, none with guard markers, one that no point is for: one line each, nothing stored."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(GRID)
    old = FakeKernel(policy="none", info=replace(SERVER_INFO, guards=False))
    arm = FakeKernel(machine=replace(MACHINE, machine="aarch64"))
    fake_named(monkeypatch, {"old": old, "new": FakeKernel(), "arm": arm})
    cases = {
        ("--kernel", "old", "-S", "fixed.pinned=0.01"): "lacks MADV_GUARD_INSTALL (6.13)",
        ("--kernel", "new", "-S", "fixed.arch=arm64-16k"): "arch arm64-16k: no kernel has it (6.99-fake: x86-64)",
        ("--kernel", "new", "--kernel", "arm"): "is arm64-4k; the points need x86-64",
    }
    for options, why in cases.items():
        assert main([*LIVE, *options]) == 2
        error = capsys.readouterr().err
        assert why in error
        assert error.count("\n") == 1
    assert main(["launch", "small.yaml", "--kernel", "new"]) == 2
    assert "--kernel new: needs --engine kernel" in capsys.readouterr().err
    assert not Path("results").exists()
    pinned = ("--kernel", "old", "--kernel", "new", "-S", "fixed.pinned=0.01")
    assert main([*LIVE, *pinned]) == 0  # runs on the kernel that has them
    assert {row["policy"] for row in rows("SELECT DISTINCT policy FROM outcomes")} == {"merged", "munmap"}
