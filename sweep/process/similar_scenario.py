"""Fit a scenario to a live process: as much resident memory, and about as many page tables."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log

import numpy as np

from engine.model.arch import ARCHES, Arch
from engine.model.closed_form import empty_share, expected_tables
from engine.model.policy import BUILT_IN
from engine.model.results import COLUMNS
from engine.model.scenario import MAX_VIRT_BYTES, complete
from engine.run import run_batch
from sweep.common.errors import UserError
from sweep.common.units import format_size
from sweep.process.table_census import TableCensus

MAX_ROUNDS = 1_000
"""Most rounds that are tried."""
_SEEDS = 12
_MAX_TABLES_FOR_SEEDS = 50_000
"""Below it the draws of a seed may differ from the expected number by a percent, so the seed is fitted, too."""
_MOST_DRAWN_SLOTS = 4_000_000
"""Most slots, times rounds, of a scenario whose seed is fitted: one seed then takes about half a second."""
_NEARLY_ALL = 0.998
"""Of the tables that a scenario can have at most: more rounds bring hardly any."""
_LARGER_CLUSTERS = 8
"""Extents of up to 2**8 slots are tried."""
_CLOSE = 0.02
"""Among scenarios whose tables are this close, as a logarithm, tables with an entry and VIRT decide."""


@dataclass(frozen=True, slots=True)
class SimilarScenario:
    """A scenario with the process's resident memory, and about as many tables. Sizes in bytes.

    virt: VIRT of the process times a power of two: below 1 if its memory is in fewer tables than memory strewn at
    random over all of it would be, above 1 if its small VMAs share few tables
    cluster: the extent size at which as many tables hold an entry as in the process
    rounds: how often the extents must have moved for as many tables to exist under `none` as in the process
    """

    virt: int
    res: int
    cluster: int
    rounds: int
    seed: int
    vm_pte_kib: int  #: the process's VmPTE
    similar_vm_pte_kib: int  #: the scenario's VmPTE at the peak of the last round under `none`

    def yaml(self, name: str, about: str, zaps: tuple[int, ...], arch: str) -> str:
        """A grid of this scenario with `zap` as its axis."""
        sizes = {"virt": self.virt, "res": self.res, "cluster": self.cluster}
        fixed = ", ".join(f"{field}: {format_size(size)}" for field, size in sizes.items())
        axis = ", ".join(format_size(zap) for zap in zaps)
        seed = f"seed: {self.seed}\n" if self.seed else ""
        return (
            f"schema: sweep/1\nname: {name}\nabout: {about}\n"
            f"fixed: {{{fixed}, rounds: {self.rounds}, arch: {arch}}}\naxes:\n  zap: [{axis}]\n{seed}"
        )


def similar_scenario(census: TableCensus) -> SimilarScenario:
    """A scenario like the process's writable private anonymous memory. Raises UserError if it has none."""
    arch, vmas = census.arch, [vma for vma in census.vmas if vma.mapping.is_anonymous]
    page = arch.page_bytes
    virt = sum(vma.mapping.end - vma.mapping.start for vma in vmas)
    res = sum(vma.present for vma in vmas) * page
    if not virt or virt > MAX_VIRT_BYTES:
        raise UserError("no writable private anonymous memory to resemble")
    needed = max(1, min(census.needed, sum(vma.slots_with_entry for vma in vmas)))
    tables = max(1, census.tables)
    fits = list(_fits(virt, res, needed, tables, arch))
    _, virt, cluster, rounds, expected = min(fits)
    seed, found = _best_seed(virt, res, cluster, rounds, tables, arch) if tables < _MAX_TABLES_FOR_SEEDS else (0, 0)
    kib = census.table_kib
    similar = found or round(expected) * kib
    return SimilarScenario(virt, res, cluster, rounds, seed, tables * kib, similar)


def _fits(
    virt: int, res: int, needed: int, tables: int, arch: Arch
) -> Iterator[tuple[tuple[float, float], int, int, int, float]]:
    """(how bad, virt, cluster, rounds, expected tables) of scenarios with `res` bytes resident."""
    page, span = arch.page_bytes, arch.span_bytes
    most_slots = _MOST_DRAWN_SLOTS if tables < _MAX_TABLES_FOR_SEEDS else MAX_VIRT_BYTES // span
    halvings = -(2 * tables * span // virt).bit_length()
    while True:
        size = -(-(virt >> halvings if halvings > 0 else virt << -halvings) // page) * page
        if halvings > 0 and size < max(res, span):
            return
        sparsity = 1 - res / size
        for power in range((span // page).bit_length() + _LARGER_CLUSTERS):
            cluster = page << power
            with_entry = -(-size // span) * (1 - empty_share(sparsity, cluster, span))
            rounds, expected = _fitting_rounds(size, sparsity, cluster, tables, arch)
            miss = max(0.0, _log_ratio(expected, tables) - _CLOSE) + (size // span * rounds > most_slots)
            unlike = _log_ratio(with_entry, needed) + 0.05 * abs(halvings) + 0.02 * log(rounds)
            unlike += 0.5 * (cluster / max(res, cluster) / rounds) ** 0.5  # few extents: a draw is far from the mean
            yield (miss, unlike), size, cluster, rounds, expected
        halvings += 1


def _fitting_rounds(virt: int, sparsity: float, cluster: int, tables: int, arch: Arch) -> tuple[int, float]:
    """Return (rounds, expected tables): the rounds after which the expected number of tables is closest to `tables`.

    The number grows with the rounds.
    """
    low, high = 1, MAX_ROUNDS
    wanted = min(tables, expected_tables(virt, sparsity, cluster, MAX_ROUNDS, arch) * _NEARLY_ALL)
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (middle + 1, high) if expected_tables(virt, sparsity, cluster, middle, arch) < wanted else (low, middle)
        )
    choices = [(expected_tables(virt, sparsity, cluster, n, arch), n) for n in (max(1, low - 1), low)]
    expected, rounds = min(choices, key=lambda choice: _log_ratio(choice[0], wanted))
    return rounds, expected


def _best_seed(virt: int, res: int, cluster: int, rounds: int, tables: int, arch: Arch) -> tuple[int, int]:
    """The seed under which the engine's VmPTE at the peak is closest, and that VmPTE in KiB."""
    given = {"virt": virt, "sparsity": 1 - res / virt, "cluster": cluster, "rounds": rounds}
    columns = {name: np.full(_SEEDS, value) for name, value in given.items()}
    columns["arch"] = np.full(_SEEDS, ARCHES.index(arch))
    columns["seed"] = np.arange(_SEEDS)
    results = run_batch(complete(columns, _SEEDS), [BUILT_IN["none"]])
    peaks = results.values[:, 0, COLUMNS.index("vm_pte_kib_peak")]
    seed = int(np.argmin(np.abs(peaks - tables * (arch.page_bytes >> 10))))
    return seed, int(peaks[seed])


def _log_ratio(a: float, b: float) -> float:
    """How far two numbers are apart, as the absolute logarithm of their ratio."""
    return abs(log(max(a, 1e-9) / b))
