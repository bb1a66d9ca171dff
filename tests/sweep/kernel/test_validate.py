"""sweep validate reports agreement, or ends with 1 and prints a grid that reproduces the smallest difference."""

import json
import sys
from pathlib import Path

import pytest

from engine.kernel.runner import Runner
from engine.model.scenario import Scenario
from sweep.cli.main import main
from sweep.grid.loader import load_grid
from sweep.kernel import random_scenarios
from sweep.kernel.validate import DIFFERS, compare
from tests.paths import ROOT
from tests.support.fake_kernel import FakeKernel, install
from tests.support.live_kernel import kernel

__all__ = ["kernel"]

MIB = 1 << 20
GRIDS = ROOT / "grids"
GRID = """schema: sweep/1
name: small
about: do they agree?
policies: [none, merged, munmap]
fixed: {sparsity: 0.6, cluster: 64KiB, coverage: 0.8}
axes: {virt: [2MiB, 5MiB, 33MiB], zap: [64KiB, 2MiB], rounds: [1, 3]}
"""


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(GRID)
    return path


@pytest.mark.usefixtures("grid")
@pytest.mark.live
@pytest.mark.slow
def test_model_and_live_kernel_agree(kernel: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    """12 points under two policies agree in all figures."""
    assert main(["validate", "small.yaml"]) == 0
    out = capsys.readouterr().out
    assert f"12 points, 24 comparisons on Linux {kernel.machine.release}" in out
    assert "24 agree" in out
    assert "differs" not in out


@pytest.mark.live
@pytest.mark.slow
def test_random_scenarios_agree(kernel: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    """15 random scenarios agree in all figures."""
    assert main(["validate", "--random", "15", "--seed", "3"]) == 0, capsys.readouterr().out


def test_the_grid_that_ships_has_500_points() -> None:
    """It varies every field that a kernel can run."""
    grid = load_grid(GRIDS / "validate.yaml")
    assert grid.raw_points >= 500
    varied = set(grid.varying_columns)
    shown = {"virt", "sparsity", "cluster", "zap", "zap_shift", "coverage", "order", "rounds", "advice", "pinned"}
    assert varied >= shown | {"threads", "partition", "seed"}


@pytest.mark.usefixtures("grid")
def test_the_smallest_that_differs_is_printed_as_a_grid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1, the table begins with the points that differ, and the printed grid differs again."""
    install(monkeypatch, FakeKernel(wrong=lambda s: s.rounds == 3 and s.virt > 2 * MIB))
    assert main(["validate", "small.yaml"]) == 1
    out = capsys.readouterr().out
    assert "8 differ" in out
    assert "differs" in out[: out.index("agrees")]
    assert "round 3 vm_pte_kib_end: model" in " ".join(out.split())
    text = out[out.index("schema: sweep/1") :]
    assert "virt: 5MiB" in text
    assert "zap: 64KiB" not in text  # fewer calls are less
    Path("again.yaml").write_text(text)
    assert main(["validate", "again.yaml", "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["counts"] == {"differs": 1}
    assert facts["grid"] == text


def test_a_random_scenario_that_differs_is_shrunk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fields that do not matter for the difference get their default."""
    install(monkeypatch, FakeKernel(wrong=lambda s: s.rounds > 1 and s.virt >= 8 * MIB))
    assert main(["validate", "--random", "200", "--seed", "1"]) == 1
    out = capsys.readouterr().out
    fixed = out[out.index("fixed: ") :].strip()
    assert fixed in ("fixed: {virt: 8MiB, sparsity: 0, rounds: 2}", "fixed: {virt: 8MiB, sparsity: 1, rounds: 2}")


def test_a_seed_determines_the_random_scenarios() -> None:
    """Equal seeds draw equal scenarios, other seeds others."""

    def draws(seed: int) -> list[Scenario]:
        found: list[Scenario] = []
        random_scenarios.search(lambda s: found.append(s) or (), 12, seed, lambda verdict: None)  # type: ignore[func-returns-value]
        return found

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def test_every_figure_is_compared() -> None:
    """A single table too few at the end of one round is reported with its round."""
    scenario = Scenario(virt=4 * MIB, sparsity=0.5, rounds=2)
    (verdict,) = compare(scenario, FakeKernel(wrong=lambda s: True), ["merged"], exact_res=True)
    assert verdict.status == DIFFERS
    assert [str(d) for d in verdict.differences] == ["round 2 vm_pte_kib_end: model 8, kernel 4"]


@pytest.mark.parametrize("words", [[], ["small.yaml", "--random", "3"]], ids=["none", "both"])
@pytest.mark.usefixtures("grid")
def test_a_grid_or_random(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """Neither or both is an error."""
    assert main(["validate", *words]) == 2
    assert capsys.readouterr().err == "sweep: validate: give a grid file, or --random N\n"


def test_without_hypothesis(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Only --random needs it, and one line says so."""
    install(monkeypatch, FakeKernel())
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    assert main(["validate", "--random", "3", "-q"]) == 2
    assert capsys.readouterr().err == "sweep: --random needs the package hypothesis; pip install hypothesis\n"
