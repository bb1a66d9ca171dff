"""Which points the live kernel cannot show, or this machine cannot bear, each with the reason and its numbers."""

from dataclasses import dataclass

from engine.kernel.host import Machine, Memory
from engine.model.arch import GIB, KIB
from engine.model.policy import POLICIES
from engine.model.results import ROUND_COLUMNS
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch

NONE = POLICIES.index("none")
RES, TABLES = ROUND_COLUMNS.index("res_bytes_peak"), ROUND_COLUMNS.index("vm_pte_kib_peak")
MAX_CALLS = 1 << 27
RANGE_BYTES = 64
"""What a range takes while it is made and sent: 16 bytes here, 16 in the child, the rest for a while."""
MAPS_BESIDE = 256
"""Mappings that the child has beside the point's VMA."""
OTHERWISE_BYTES = 128 << 20
"""The child itself and what the kernel needs for it."""


class RefusedError(Exception):
    """This point is not tried; one line says why."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that a point takes at its highest: pages, tables, and the lists of what to do."""

    pages: int
    tables: int
    lists: int

    @property
    def total(self) -> int:
        return self.pages + self.tables + self.lists + OTHERWISE_BYTES


def check(scenario: Scenario, unmap: bool, machine: Machine, guards: bool) -> None:
    """Raise RefusedError for what no live kernel, or not this one, can show. Memory is another question."""
    s, page = scenario, scenario.geometry.page_bytes
    if s.arch != machine.arch:
        has = f"{machine.machine} with pages of {machine.page_bytes // KIB} KiB"
        raise RefusedError(f"arch {s.arch}: this machine is {has}{f' ({machine.arch})' if machine.arch else ''}")
    if s.refault > 0:
        raise RefusedError(
            f"refault {s.refault:g}: a touch cannot be timed to land inside another thread's call, page by page"
        )
    if s.folio != page:
        raise RefusedError(f"folio {s.folio}: a mapping cannot be told which folio sizes its faults take; only {page}")
    if s.threads > machine.threads:
        raise RefusedError(f"threads {s.threads}: at most {machine.threads} real threads here")
    if s.pinned > 0 and not guards:
        raise RefusedError(f"pinned {s.pinned:g}: Linux {machine.release} lacks MADV_GUARD_INSTALL (6.13)")
    calls = grid_calls(s)
    if calls * s.rounds > MAX_CALLS:
        raise RefusedError(f"zap {s.zap}: {calls * s.rounds:,} calls; at most {MAX_CALLS:,}")
    maps = most_maps(s, calls) + MAPS_BESIDE
    if unmap and maps > machine.map_count:
        raise RefusedError(f"munmap: may leave {maps:,} mappings; vm.max_map_count is {machine.map_count:,}")


def check_memory(scenario: Scenario, memory: Memory) -> None:
    """Raise RefusedError if the point does not fit: by expectation if it is far off, else by the model's exact peak."""
    rough = expected(scenario)
    if rough.total > 2 * memory.free_bytes:
        raise RefusedError(short_of(rough, memory, "about "))
    needs = exact(scenario)
    if needs.total > memory.free_bytes:
        raise RefusedError(short_of(needs, memory))


def short_of(needs: Needs, memory: Memory, about: str = "") -> str:
    parts = f"pages {needs.pages / GIB:.2f}, page tables {needs.tables / GIB:.2f}, lists {needs.lists / GIB:.2f}"
    free = f"{memory.free_bytes / GIB:.2f} GiB may be taken, by {memory.says} less a reserve"
    return f"memory: needs {about}{needs.total / GIB:.2f} GiB ({parts}); {free}"


def expected(scenario: Scenario) -> Needs:
    """What one install takes on average; a first guess that needs no run."""
    arch, p = scenario.geometry, float(scenario.installed_share)
    assert scenario.cluster is not None
    extents = max(arch.span_bytes / scenario.cluster, 1.0)
    tables = -(-scenario.virt // arch.span_bytes)
    touched = 1 - (1 - p) ** extents if p < 1 else 1.0
    pages = p * scenario.virt * (1 - scenario.pinned)
    return Needs(int(pages), int(touched * tables) * arch.page_bytes, list_bytes(scenario, int(pages)))


def exact(scenario: Scenario) -> Needs:
    """The model's highest round under policy none, which keeps all tables: an upper bound for every live kernel."""
    rounds = run_batch(columns_of([scenario])).rounds[:, NONE]
    pages = int(rounds[:, RES].max())
    return Needs(pages, int(rounds[:, TABLES].max()) * KIB, list_bytes(scenario, pages))


def list_bytes(scenario: Scenario, resident: int) -> int:
    """The lists of ranges: an extent each, cut up by markers, and a call each, for all rounds."""
    assert scenario.cluster is not None
    markers = scenario.pinned * scenario.virt / scenario.geometry.page_bytes
    extents = min(resident / scenario.cluster + markers, resident / scenario.geometry.page_bytes)
    return int(((extents + grid_calls(scenario)) * scenario.rounds + markers) * RANGE_BYTES)


def grid_calls(scenario: Scenario) -> int:
    """Calls of one round if every one is made."""
    assert scenario.zap is not None
    return max(-(-(scenario.virt - scenario.zap_shift) // scenario.zap), 0)


def most_maps(scenario: Scenario, calls: int) -> int:
    """Most mappings that munmap may leave of the VMA: two if it goes from one end to the other, else one a hole."""
    ordered = scenario.order == "sequential" and scenario.coverage == 1 and scenario.threads == 1
    return 2 if ordered else calls + 1
