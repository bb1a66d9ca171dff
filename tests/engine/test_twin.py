"""The engine against its slow twin: random small scenarios; every column, policy and round must be equal.

PTSWEEP_CASES sets the number of scenarios (default 300), drawn from six shapes that reach different branches. With
PTSWEEP_SHRINK set, Hypothesis reduces a failing scenario first, which takes minutes.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.model.arch import ARCHES, MIB, Arch
from engine.model.policy import POLICIES
from engine.model.results import COLUMNS, ROUND_COLUMNS, Results
from engine.model.scenario import FIELD, Scenario, columns_of
from engine.run import run_batch
from tests.twin import walk

T = TypeVar("T")
CASES = int(os.environ.get("PTSWEEP_CASES", "300"))
MOST_CALLS = 1_200  # per round
ARCH = {arch.name: arch for arch in ARCHES}
SHARES = st.sampled_from([0.0, 1.0, 0.5, 0.1, 0.9, 0.99]) | st.integers(0, 1000).map(lambda x: x / 1000)
ODD_SHARES = st.sampled_from([1 / 3, 0.123456789, 1e-9, 0.7000000000000001])
PINS = st.sampled_from([0.0, 0.0, 0.0, 0.0, 0.001, 0.002, 0.1])
FEW_PINS = st.sampled_from([0.0, 0.0, 0.00001])
REFAULTS = st.sampled_from([0.0, 0.0, 0.0, 0.002, 0.05, 0.5, 1.0])


def cases(share: float) -> settings:
    """Return the settings of a test that runs this share of CASES."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    phases = [phase for phase in Phase if phase != Phase.shrink or "PTSWEEP_SHRINK" in os.environ]
    return settings(max_examples=max(1, round(CASES * share)), deadline=None, suppress_health_check=slow, phases=phases)


def mostly(draw: st.DrawFn, usual: T, other: st.SearchStrategy[T]) -> T:
    """Return `usual` in three of four cases, else a value drawn from `other`."""
    return draw(other) if draw(st.integers(0, 3)) == 3 else usual


def small(draw: st.DrawFn) -> Scenario:
    """One page to six tables, any density, calls of any size."""
    arch = ARCH[draw(st.sampled_from(["x86-64"] * 6 + ["arm64-4k"] * 3 + ["arm64-16k"] * 2 + ["arm64-64k"]))]
    most = {512: 6, 2048: 3, 8192: 2}[arch.entries]
    pages = mostly(draw, arch.entries * draw(st.integers(1, most)), lengths(arch, most))
    zap = mostly(draw, arch.entries, lengths(arch, most + 1))
    density: dict[str, Any]
    if draw(st.booleans()):
        density = {"res": draw(st.integers(0, pages * arch.page_bytes))}
    else:
        density = {"sparsity": draw(SHARES if arch.entries > 512 else SHARES | ODD_SHARES)}
    return finish(draw, arch, pages, zap, draw(clusters(arch)), density, rounds=4 if arch.entries < 8192 else 2)


def plain(draw: st.DrawFn) -> Scenario:
    """Aligned calls of whole slots, without pins and refaults: the engine takes a shortcut."""
    arch = ARCH[draw(st.sampled_from(["x86-64", "arm64-4k", "arm64-16k"] * 3 + ["arm64-64k"]))]
    tables = draw(st.integers(1, {512: 40, 2048: 8, 8192: 2}[arch.entries]))
    pages = tables * arch.entries - mostly(draw, 0, st.integers(0, arch.entries - 1))
    zap = arch.entries * mostly(draw, 1, st.sampled_from([2, 4, tables]))
    density = {"sparsity": draw(SHARES)}
    never = st.just(0.0)
    return finish(draw, arch, pages, zap, draw(clusters(arch)), density, rounds=3, pins=never, refaults=never)


def breaking(draw: st.DrawFn) -> Scenario:
    """Dense, with calls large enough to fill the gather, which holds fewer than 10,000 pages on every arch."""
    arch = ARCH[draw(st.sampled_from(["x86-64", "x86-64", "arm64-4k", "arm64-16k", "arm64-64k"]))]
    full = 7 + arch.gather_batches * (arch.gather_batch_pages - 1)  # single pages that fill it
    to_end = -full % arch.entries  # a shift that makes it full on a table's last entry
    pages = draw(st.sampled_from([full + to_end, 10_240, 20 * 512 + 13]) | st.integers(8_100, 13_000))
    zap = mostly(draw, pages, st.sampled_from([pages + 500, 2 * arch.entries, full - 1, full, full + 1]))
    cluster = draw(st.sampled_from([1, 1, 2, 4, 256, arch.entries, 2 * arch.entries]))
    density = {"sparsity": draw(st.sampled_from([0.0, 0.0, 0.001, 0.05, 0.2]))}
    return finish(draw, arch, pages, zap, cluster, density, rounds=2, shifts=st.just(to_end))


def crowded(draw: st.DrawFn) -> Scenario:
    """Many tables with one or few pages each: contention, full table batches, flushes of tables only."""
    arch = ARCH[draw(st.sampled_from(["x86-64", "x86-64", "arm64-4k"]))]
    tables = draw(st.integers(8, 96) | st.integers(509, 800))
    zap = draw(st.sampled_from([1, 1, 1, 2, 3, 8, tables])) * arch.entries
    density = {"sparsity": draw(st.sampled_from([0.98, 0.985, 0.99, 0.995]))}
    return finish(draw, arch, tables * arch.entries, zap, 1, density, rounds=2, pins=FEW_PINS)


def wide_sparse(draw: st.DrawFn) -> Scenario:
    """Several PMD tables with few pages: up to 3 GiB with 4 KiB pages."""
    arch = ARCH[draw(st.sampled_from(["x86-64"] * 4 + ["arm64-4k"] * 2 + ["arm64-16k"]))]
    tables = draw(st.integers(513, 3 * 512 if arch.entries == 512 else 2_200))
    pages = draw(st.integers((tables - 1) * arch.entries + 1, tables * arch.entries))
    zap = draw(st.sampled_from([arch.entries, 2 * arch.entries, 3 * arch.entries + 1, pages // 3 + 1, pages]))
    resident = draw(st.sampled_from([200, 2_000, 6_000, 5, 1, 0]))
    density: dict[str, Any] = {"res": resident * arch.page_bytes}
    if draw(st.booleans()):
        density = {"sparsity": round(1 - resident / pages, 6)}
    return finish(draw, arch, pages, zap, 1, density, rounds=2, pins=FEW_PINS)


def wide_clustered(draw: st.DrawFn) -> Scenario:
    """Several PMD tables, resident extents of one slot or more."""
    arch = ARCH[draw(st.sampled_from(["x86-64", "x86-64", "arm64-4k"]))]
    pages = draw(st.integers(500 * 512, 3 * 512 * 512))
    cluster = draw(st.sampled_from([512, 768, 1024, 5 * 512, 4096]))
    zap = draw(st.sampled_from([512, 1024, 700, 300 * 512, pages]))
    density = {"res": draw(st.sampled_from([12, 8, 4, 1, 0])) * 1024 * arch.page_bytes}
    return finish(draw, arch, pages, zap, cluster, density, rounds=2, pins=FEW_PINS)


def lengths(arch: Arch, tables: int) -> st.SearchStrategy[int]:
    """Return a strategy for a length in pages: whole tables, parts of one, or any."""
    return st.one_of(
        st.integers(1, tables).map(lambda n: n * arch.entries),
        st.integers(0, arch.entries.bit_length() - 1).map(lambda b: 1 << b),
        st.integers(1, tables * arch.entries),
        st.integers(1, 40),
    )


def clusters(arch: Arch) -> st.SearchStrategy[int]:
    """Return a strategy for `cluster` in pages: a page, a power of two up to two tables, or odd, 3 MiB among them."""
    powers = st.integers(0, arch.entries.bit_length() + 1).map(lambda b: 1 << b)
    return st.one_of(st.just(1), powers, st.sampled_from([3, 5, 100, 768, 3 * arch.entries // 2, 3 * arch.entries]))


def finish(
    draw: st.DrawFn,
    arch: Arch,
    pages: int,
    zap: int,
    cluster: int,
    density: dict[str, Any],
    rounds: int,
    pins: st.SearchStrategy[float] = PINS,
    shifts: st.SearchStrategy[int] | None = None,
    refaults: st.SearchStrategy[float] = REFAULTS,
) -> Scenario:
    """Draw the fields that all shapes have in common, and return the scenario. Sizes are in pages."""
    page = arch.page_bytes
    folios = st.integers(0, (2 * MIB // page).bit_length() - 1).map(lambda b: 1 << b)
    if shifts is None:
        shifts = st.sampled_from([1, 256, arch.entries, 2 * arch.entries]) | st.integers(0, pages + 1)
    return Scenario(
        **density,
        virt=pages * page,
        cluster=cluster * page,
        zap=max(zap, pages // MOST_CALLS + 1) * page,
        zap_shift=mostly(draw, 0, shifts) * page,
        coverage=mostly(draw, 1.0, SHARES),
        order=draw(st.sampled_from(FIELD["order"].choices)),
        rounds=draw(st.integers(1, rounds)),
        advice=mostly(draw, "dontneed", st.sampled_from(FIELD["advice"].choices)),
        pinned=draw(pins),
        refault=draw(refaults),
        folio=mostly(draw, 1, folios) * page,
        threads=draw(st.sampled_from([1, 2, 3, 5, 9, 64, 1000])),
        partition=draw(st.sampled_from(FIELD["partition"].choices)),
        arch=arch.name,
        seed=draw(st.integers(0, 99) | st.integers(0, (1 << 63) - 1)),
    )


Shape = Callable[[st.DrawFn], Scenario]
SHAPES: dict[str, tuple[Shape, float]] = {
    "small": (small, 0.3),
    "plain": (plain, 0.2),
    "breaking": (breaking, 0.1),
    "crowded": (crowded, 0.1),
    "wide_sparse": (wide_sparse, 0.1),
    "wide_clustered": (wide_clustered, 0.1),
}
SLOW_SHAPES = ("plain", "breaking", "crowded", "wide_sparse", "wide_clustered")
SCENARIOS = {name: st.composite(shape)() for name, (shape, _) in SHAPES.items()}


def assert_same(engine: Results, slow: Results, about: object) -> None:
    """Assert equality; the message has the first policies and columns that differ."""
    assert engine.round_counts.tolist() == slow.round_counts.tolist(), about
    for name, columns in (("values", COLUMNS), ("rounds", ROUND_COLUMNS)):
        got, wanted = getattr(engine, name), getattr(slow, name)
        assert got.dtype == np.int64, (name, got.dtype)
        assert got.shape == wanted.shape, (name, got.shape, wanted.shape, about)
        differing = [
            f"{name}[{row}] {POLICIES[policy]} {columns[column]}: engine {got[row, policy, column]}, "
            f"twin {wanted[row, policy, column]}"
            for row, policy, column in np.argwhere(got != wanted)
        ]
        assert not differing, "\n".join([*differing[:12], f"{len(differing)} differ", str(about)])


@pytest.mark.parametrize(
    "shape", [pytest.param(shape, marks=[pytest.mark.slow] if shape in SLOW_SHAPES else []) for shape in SHAPES]
)
def test_engine_equals_twin(shape: str) -> None:
    """Every row of a random scenario is the twin's."""

    @cases(SHAPES[shape][1])
    @given(SCENARIOS[shape])
    def agree(scenario: Scenario) -> None:
        assert_same(run_batch(columns_of([scenario])), walk.run(scenario), scenario)

    agree()


@cases(0.03)
@given(st.lists(st.one_of(*SCENARIOS.values()), min_size=2, max_size=5))
@pytest.mark.slow
def test_batch_equals_its_points(rows: list[Scenario]) -> None:
    """A batch of different scenarios has the rows that the twin computes for each alone."""
    columns = columns_of(rows)
    assert_same(run_batch(columns), walk.run_batch(columns), rows)


PAGE, TABLE = 4096, 2 * MIB
END_BREAK: dict[str, Any] = {"virt": 42 * MIB, "zap": 40 * MIB, "zap_shift": 50 * PAGE, "sparsity": 0.0}
# with seed 3 the first and the third extent are resident
LAST_PAGE_BREAK: dict[str, Any] = {
    "virt": 3 * 9_678 * PAGE,
    "zap": 60_000 * PAGE,
    "cluster": 9_678 * PAGE,
    "sparsity": 0.5,
    "seed": 3,
}
TRYLOCKS: dict[str, Any] = {"arch": "arm64-16k", "virt": 512 * MIB, "zap": 128 * MIB, "sparsity": 0.0, "threads": 4}
RARE: dict[str, dict[str, Any]] = {
    # the gather fills on the last entry of a whole slot, 50 + 9,678 = 19 x 512 pages into the VMA
    "end break": END_BREAK,
    "end break, refaults": {**END_BREAK, "refault": 0.001, "seed": 3},
    "end break ends the call": {**END_BREAK, "zap": 9_678 * PAGE, "threads": 2},
    # all entries of the slot after the break are none
    "mid break, then none": LAST_PAGE_BREAK,
    "mid break, then none, refaults": {**LAST_PAGE_BREAK, "refault": 0.01},
    # refaults before and after the break
    "mid break, refaults": {"virt": 40 * MIB, "zap": 40 * MIB, "sparsity": 0.0, "refault": 0.002},
    # the table batch fills before the gather; the gather fills before the table batch
    "table batch, then break": {"virt": 700 * TABLE, "zap": 700 * TABLE, "sparsity": 0.965},
    "break, then tables": {"virt": 600 * TABLE, "zap": 600 * TABLE, "sparsity": 0.96},
    # the call starts inside a folio: runs of one page and of two
    "folios of two pages": {"virt": 48 * MIB, "zap": 48 * MIB, "zap_shift": PAGE, "sparsity": 0.05, "folio": 2 * PAGE},
    # more than half of a table's few extents are resident, and a flush is just below the ceiling
    "absent places": {"arch": "arm64-16k", "virt": 640 * MIB, "sparsity": 0.4, "cluster": 2 * MIB},
    "absent places, 4k": {"arch": "arm64-4k", "virt": 40 * MIB, "sparsity": 0.4, "cluster": 64 * 1024},
    # calls of several threads fill their gathers in one step; with seed 5 a trylock fails after a break
    "trylocks after breaks, 0": {**TRYLOCKS, "seed": 0},
    "trylocks after breaks, 5": {**TRYLOCKS, "seed": 5},
}


@pytest.mark.parametrize("case", RARE)
def test_rare_coincidences(case: str) -> None:
    """The engine equals the twin in cases that a random scenario is unlikely to reach."""
    scenario = Scenario(**RARE[case])
    assert_same(run_batch(columns_of([scenario])), walk.run(scenario), scenario)
