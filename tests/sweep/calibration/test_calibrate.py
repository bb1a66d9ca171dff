"""sweep calibrate computes prices from figures, and the error of predictions."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.kernel.microbench import FULL_TABLES, PAGES_PER_CALL, Figure
from engine.kernel.runner import Runner
from engine.model.scenario import Scenario
from sweep.calibration.measured_prices import measured_prices
from sweep.calibration.predictions import Prediction, fit_predictions
from sweep.cli.main import main
from sweep.common import cost_tables
from sweep.common.cost_tables import PRICED
from sweep.query.database import Database
from sweep.store.store import Store
from tests.support.live_kernel import kernel

__all__ = ["kernel"]

MIB = 1 << 20
CALL, ABSENT, VISIT, LOOK, PAGE, FLUSH, FREE, FREEING = 500, 10, 60, 0.5, 200, 400, 100, 700
MARK, AGAIN, INVLPG, FULL, IPI = 150, 40, 60, 700, 12_000


def figures() -> dict[str, Figure]:
    """The figures of a machine with these costs, equal in three processes."""
    few = CALL + VISIT + LOOK
    zap_one = few + PAGE + FLUSH + INVLPG
    steps = {
        "absent table": CALL,
        "32 absent tables": CALL / 32 + ABSENT,
        "empty table, one entry": few,
        "empty table, less an entry": few + 510 * LOOK,
        "32 empty tables": CALL / 32 + VISIT + 512 * LOOK + FREE,
        "zap one page": zap_one,
        "zap one page in a table less a page": zap_one + 510 * LOOK,
        "zap one page in a table": zap_one + 510 * LOOK + FREE + FREEING,
        "MADV_FREE, a page": MARK + LOOK,
        "MADV_FREE again, a page": AGAIN + LOOK,
        "install, table absent": 3000,
        "install, table present": 2000,
        "absent table, 1 thread": CALL,
        "absent table, 2 threads": CALL + IPI,
        "zap one page, 1 thread": 1500,
        "zap one page, 2 threads": 1500 + IPI,
    }
    for tables in FULL_TABLES:
        steps[f"zap a page, {2 * tables} MiB resident"] = PAGE + LOOK
        steps[f"install a page, {2 * tables} MiB resident"] = 1700
    for n in PAGES_PER_CALL:
        steps[f"zap {n} pages, hot"] = few + n * PAGE + (n * INVLPG if n <= 33 else FULL)
    return {name: Figure(name, "made up", np.full(3, float(ns))) for name, ns in steps.items()}


def test_prices_are_the_costs_behind_the_figures() -> None:
    """The rules recover the costs that the figures are sums of; quartiles of equal values are that value."""
    found = {price.counter: price for price in measured_prices(figures())}
    costs = {
        "zap_calls": CALL,
        "tables_absent": ABSENT,
        "table_visits": VISIT,
        "ptes_looked_at": LOOK,
        "ptes_zapped": PAGE,
        "flushes": FLUSH,
        "pte_tables_freed": FREE,
        "calls_freeing": FREEING,
        "ptes_marked": MARK,
        "ptes_marked_again": AGAIN,
        "ptes_rescanned": LOOK,
        "tlb_invlpgs": INVLPG,
        "tlb_flushes_full": FULL,
        "ptes_installed": 1700,
        "pte_tables_allocated": 1000,
        "interrupts": IPI,
    }
    assert {name: price.ns for name, price in found.items()} == pytest.approx(costs)
    assert all(price.low == pytest.approx(price.ns) == pytest.approx(price.high) for price in found.values())
    assert set(found) <= set(PRICED)


def test_one_cpu_prices_no_interrupts() -> None:
    """Where two threads cannot run at once there is no such figure, and so no price."""
    alone = {name: figure for name, figure in figures().items() if "2 threads" not in name}
    assert "interrupts" not in {price.counter for price in measured_prices(alone)}


def test_errors_of_predictions_are_factors() -> None:
    """Twice and half are both a factor of two; the bias keeps the direction; groups have errors of their own."""
    one, two = Scenario(virt=MIB, sparsity=0), Scenario(virt=MIB, sparsity=0, threads=2, advice="free")
    found = [Prediction(one, 200.0, 100), Prediction(one, 50.0, 100), Prediction(one, 50.0, 100)]
    found.append(Prediction(two, 100.0, 100))
    first, second, all_ = fit_predictions(found)
    assert (first.group, first.points, first.bias, first.median) == ("MADV_DONTNEED, 1 thread", 3, 0.5, 2.0)
    assert (second.group, second.points, second.p90) == ("MADV_FREE, more threads", 1, 1.0)
    assert (all_.group, all_.points) == ("all", 4)


@pytest.mark.slow
@pytest.mark.live
def test_a_table_of_this_machine(
    kernel: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its table is written into the store, and sweep query prices cost_ns with it by its name."""
    monkeypatch.chdir(tmp_path)
    grid = "schema: sweep/1\nname: small\nabout: x\nfixed: {sparsity: 0.5}\naxes: {virt: [4MiB, 16MiB], zap: [2MiB]}\n"
    (tmp_path / "small.yaml").write_text(grid)
    assert main(["calibrate", "--name", "here", "--repeats", "3", "--check", "small.yaml", "--json", "-q"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads(Path("results/costs/here.json").read_text())
    assert facts["kernel"] == kernel.machine.release
    table = cost_tables.load(Path("results/costs/here.json"))
    published = cost_tables.load(cost_tables.SHIPPED / "published.json")
    assert {cost.counter for cost in table.costs} >= {cost.counter for cost in published.costs} - {"ipis"}
    assert table.cpus == kernel.machine.cpus
    assert all(figure["low_ns"] <= figure["ns"] <= figure["high_ns"] for figure in facts["figures"].values())
    assert facts["counters"]["zap_calls"]["ns"] > 0
    assert [row["number"] for row in facts["check"]["ratio"]] == [2, 2]
    main(["launch", "small.yaml", "--executor", "inline", "-q"])
    with Database(Store(Path("results")), "here") as database:
        assert database.query("SELECT min(cost_ns) > 0 AS priced FROM latest").to_pylist() == [{"priced": True}]


def test_names_of_tables_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """A name becomes a file name."""
    assert main(["calibrate", "--name", "../x"]) == 2
    assert "--name '../x': a letter a-z" in capsys.readouterr().err
