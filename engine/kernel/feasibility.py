"""Refuses points that a kernel cannot run, or for which this machine has not enough memory, with the reason."""

from dataclasses import dataclass
from functools import lru_cache

from engine.kernel.host import AvailableMemory, Machine
from engine.model.arch import GIB, KIB
from engine.model.policy import ALL, BUILT_IN
from engine.model.results import ROUND_COLUMNS
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch

RES_PEAK, VM_PEAK = ROUND_COLUMNS.index("res_bytes_peak"), ROUND_COLUMNS.index("vm_pte_kib_peak")
MAX_CALLS = 1 << 27
RANGE_BYTES = 64
"""Memory per range: 16 bytes here, 16 in the child, and temporary copies."""
CHILD_MAPPINGS = 256
"""Mappings of the child beside the point's VMA."""
CHILD_BYTES = 128 << 20
"""Memory of the child itself and of the kernel for it."""


class RefusedError(Exception):
    """The point is not run. The message is one line that says why."""


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """Bytes that a point takes at its peak: resident pages, page tables, and lists of ranges."""

    pages: int
    tables: int
    lists: int

    @property
    def total(self) -> int:
        return self.pages + self.tables + self.lists + CHILD_BYTES


def check(scenario: Scenario, unmap: bool, machine: Machine, guards: bool) -> None:
    """Raise RefusedError for a scenario that no kernel, or not this one, can run. Does not check memory.

    guards: the kernel has MADV_GUARD_INSTALL
    """
    s, page = scenario, scenario.geometry.page_bytes
    if s.arch != machine.arch:
        has = f"{machine.machine} with pages of {machine.page_bytes // KIB} KiB"
        raise RefusedError(f"arch {s.arch}: this machine is {has}{f' ({machine.arch})' if machine.arch else ''}")
    if s.refault > 0:
        raise RefusedError(
            f"refault {s.refault:g}: a touch cannot be timed to land inside another thread's call, page by page"
        )
    if s.folio != page:
        raise RefusedError(f"folio {s.folio}: the folio size of a mapping's faults cannot be chosen; only {page}")
    if s.thp == "always" and machine.thp not in ("always", "madvise"):
        raise RefusedError(f"thp always: the setting of huge pages is {machine.thp} here; it must be madvise or always")
    if s.thp == "always" and s.advice == "free" and not unmap and () < machine.version < (6, 12):
        what = "keeps the pages of zeros of a huge page that MADV_FREE splits; 6.12 takes them away"
        raise RefusedError(f"thp always, advice free: Linux {machine.release} {what}")
    if s.threads > machine.threads:
        raise RefusedError(f"threads {s.threads}: at most {machine.threads} real threads here")
    if s.pinned > 0 and not guards:
        raise RefusedError(f"pinned {s.pinned:g}: Linux {machine.release} lacks MADV_GUARD_INSTALL (6.13)")
    calls = grid_calls(s)
    if calls * s.rounds > MAX_CALLS:
        raise RefusedError(f"zap {s.zap}: {calls * s.rounds:,} calls; at most {MAX_CALLS:,}")
    mappings = max_mappings(s, calls) + CHILD_MAPPINGS
    if unmap and mappings > machine.max_map_count:
        raise RefusedError(f"munmap: may leave {mappings:,} mappings; vm.max_map_count is {machine.max_map_count:,}")


def check_memory(scenario: Scenario, memory: AvailableMemory) -> None:
    """Raise RefusedError if the point needs more memory: by an estimate if far more, else by the model's exact peak.

    The model does not run for a point that fits with every page of its VMA.
    """
    if most_needs(scenario).total <= memory.free_bytes:
        return
    estimate = estimate_needs(scenario)
    if estimate.total > 2 * memory.free_bytes:
        raise RefusedError(shortage_message(estimate, memory, "about "))
    needs = exact_needs(scenario)
    if needs.total > memory.free_bytes:
        raise RefusedError(shortage_message(needs, memory))


def shortage_message(needs: MemoryNeeds, memory: AvailableMemory, about: str = "") -> str:
    parts = f"pages {needs.pages / GIB:.2f}, page tables {needs.tables / GIB:.2f}, lists {needs.lists / GIB:.2f}"
    free = f"{memory.free_bytes / GIB:.2f} GiB may be taken, by {memory.source} less a reserve"
    return f"memory: needs {about}{needs.total / GIB:.2f} GiB ({parts}); {free}"


def estimate_needs(scenario: Scenario) -> MemoryNeeds:
    """The expected needs of one install, without running the model."""
    arch, p = scenario.geometry, float(scenario.installed_share)
    assert scenario.cluster is not None
    extents = max(arch.span_bytes / scenario.cluster, 1.0)
    tables = -(-scenario.virt // arch.span_bytes)
    touched = 1 - (1 - p) ** extents if p < 1 else 1.0
    pages = p * scenario.virt * (1 - scenario.pinned)
    if scenario.thp == "always":
        pages = touched * scenario.virt
    return MemoryNeeds(int(pages), int(touched * tables) * arch.page_bytes, range_list_bytes(scenario, int(pages)))


def most_needs(scenario: Scenario) -> MemoryNeeds:
    """Return a bound for the peak: every page is resident, and all upper tables are as many as the PTE tables."""
    arch = scenario.geometry
    tables = 2 * (-(-scenario.virt // arch.span_bytes) + 2) * arch.page_bytes
    return MemoryNeeds(scenario.virt, tables, range_list_bytes(scenario, scenario.virt))


@lru_cache(maxsize=1)
def exact_needs(scenario: Scenario) -> MemoryNeeds:
    """Return the model's peak, an upper bound for every kernel. Runs the model.

    Under policy none no table is freed, so its peak is the highest. With huge pages it is the highest of all policies',
    because a freed table lets a huge page come.
    """
    policies = ALL if scenario.thp == "always" else (BUILT_IN["none"],)  # without munmap a pass less is compiled
    rounds = run_batch(columns_of([scenario]), policies).rounds.max(axis=1)
    pages = int(rounds[:, RES_PEAK].max())
    return MemoryNeeds(pages, int(rounds[:, VM_PEAK].max()) * KIB, range_list_bytes(scenario, pages))


def range_list_bytes(scenario: Scenario, resident: int) -> int:
    """Memory of the lists of ranges of all rounds: one range per call, and per extent or piece of one between markers.

    resident: bytes
    """
    assert scenario.cluster is not None
    markers = scenario.pinned * scenario.virt / scenario.geometry.page_bytes
    extents = min(resident / scenario.cluster + markers, resident / scenario.geometry.page_bytes)
    return int(((extents + grid_calls(scenario)) * scenario.rounds + markers) * RANGE_BYTES)


def grid_calls(scenario: Scenario) -> int:
    """Calls of one round at coverage 1."""
    assert scenario.zap is not None
    return max(-(-(scenario.virt - scenario.zap_shift) // scenario.zap), 0)


def max_mappings(scenario: Scenario, calls: int) -> int:
    """Most mappings into which munmap can split the VMA: two if it proceeds from one end, else one more than calls."""
    ordered = scenario.order == "sequential" and scenario.coverage == 1 and scenario.threads == 1
    return 2 if ordered else calls + 1
