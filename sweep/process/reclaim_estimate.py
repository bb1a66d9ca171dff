"""What each policy would give back of a process's empty tables, by the size of its purges; and a grid like the process.

A purge here is a call over an aligned block in which nothing is resident, cut off at the VMA: what an allocator can
give back without losing a page.
"""

from dataclasses import dataclass
from math import log

import numpy as np

from engine.model.closed_form import empty_share, expected_tables
from engine.model.policy import POLICIES
from engine.model.scenario import MAX_VIRT_BYTES
from sweep.common.errors import UserError
from sweep.common.units import format_size
from sweep.process.table_census import Census, VmaCount

MOST_ROUNDS = 1_000
WHOLE_SLOT_POLICIES = ("second_walk", "seed_inline", "merged")


@dataclass(frozen=True, slots=True)
class GivesBack:
    """PTE tables, at least and at most, for purges of `zap` bytes."""

    policy: str
    zap: int
    least: int
    most: int


def gives_back(census: Census, zaps: tuple[int, ...], policies: tuple[str, ...] = POLICIES) -> list[GivesBack]:
    """A row a policy and purge size. Raises UserError for a size that no purge can have."""
    for zap in zaps:
        check_zap(census, zap)
    return [GivesBack(policy, zap, *_bounds(census, policy, zap)) for policy in policies for zap in zaps]


def check_zap(census: Census, zap: int) -> None:
    page, span = census.arch.page_bytes, census.arch.span_bytes
    if not zap or zap % page or (zap > span and zap % span):
        raise UserError(
            f"--zap {format_size(zap)}: a purge is whole pages of {format_size(page)}, "
            f"and above {format_size(span)} whole slots of {format_size(span)}"
        )


def _bounds(census: Census, policy: str, zap: int) -> tuple[int, int]:
    """Which slots hold the empty tables is not known: as many as can lie where the policy frees, as few as must."""
    least, most = census.empty
    if policy == "none":
        return 0, 0
    if policy in ("refcount", "async"):
        return least, most  # they look at every table, whoever purges and how
    if policy == "munmap":
        # Pieces add up: a slot goes with the last of it, so that small purges do as well as whole slots.
        reached = census.slots_without_entry - _blocked(census, max(zap, census.arch.span_bytes))
    else:
        whole = zap >= census.arch.span_bytes
        reached = census.whole_without_entry - _blocked(census, zap) if whole else 0
    return max(0, least - (census.slots_without_entry - reached)), min(most, reached)


def _blocked(census: Census, zap: int) -> int:
    """Slots without an entry, wholly in a VMA, whose aligned block of `zap` bytes has an entry in the VMA."""
    return sum(_blocked_in(census, vma, zap // census.arch.span_bytes) for vma in census.vmas) if zap else 0


def _blocked_in(census: Census, vma: VmaCount, slots_a_block: int) -> int:
    span = census.arch.span_bytes
    first, last = -(-vma.mapping.start // span), vma.mapping.end // span
    if slots_a_block <= 1 or first >= last:
        return 0
    numbers = census.slot_numbers
    # With the slots at the VMA's ends that are not wholly in it: their pages may be another's, but may be its own.
    touched = numbers[slice(*np.searchsorted(numbers, [vma.mapping.start // span, (vma.mapping.end - 1) // span + 1]))]
    blocks = np.unique(touched // slots_a_block)
    low, high = np.maximum(blocks * slots_a_block, first), np.minimum((blocks + 1) * slots_a_block, last)
    within = np.count_nonzero((touched >= first) & (touched < last))
    return int(np.maximum(high - low, 0).sum() - within)


@dataclass(frozen=True, slots=True)
class Likeness:
    """A scenario with the process's size and resident share whose tables come near its own.

    `cluster` is the extent size with which as many tables hold an entry; `rounds` how often such extents must have
    been drawn anew for as many to exist under a kernel that frees none, as they do in the process.
    """

    virt: int
    res: int
    cluster: int
    rounds: int
    vm_pte_kib: int  #: of the process, less what other memory needs
    vm_pte_kib_like: int  #: at the peak of the last round under `none`, by the closed form

    def yaml(self, name: str, about: str, zaps: tuple[int, ...], arch: str) -> str:
        sizes = {"virt": self.virt, "res": self.res, "cluster": self.cluster}
        fixed = ", ".join(f"{field}: {format_size(size)}" for field, size in sizes.items())
        axis = ", ".join(format_size(zap) for zap in zaps)
        return (
            f"schema: sweep/1\nname: {name}\nabout: {about}\n"
            f"fixed: {{{fixed}, rounds: {self.rounds}, arch: {arch}}}\naxes:\n  zap: [{axis}]\n"
        )


def likeness(census: Census) -> Likeness:
    """Of the writable private anonymous memory. Raises UserError where there is none."""
    arch, vmas = census.arch, [vma for vma in census.vmas if vma.mapping.anonymous]
    page, span = arch.page_bytes, arch.span_bytes
    virt = sum(vma.mapping.end - vma.mapping.start for vma in vmas)
    res = sum(vma.present for vma in vmas) * page
    if not virt or virt > MAX_VIRT_BYTES:
        raise UserError("no writable private anonymous memory to resemble")
    sparsity = 1 - res / virt
    needed = max(1, min(census.needed, sum(vma.slots_with_entry for vma in vmas)))
    tables = max(1, census.tables - (census.needed - needed))

    def holding(cluster: int) -> float:
        return -(-virt // span) * (1 - empty_share(sparsity, cluster, span))

    def existing(cluster: int, rounds: int) -> float:
        return expected_tables(virt, sparsity, cluster, rounds, arch)

    clusters = [page << i for i in range((span // page).bit_length())]
    cluster = min(clusters, key=lambda size: _apart(holding(size), needed))
    rounds = min(range(1, MOST_ROUNDS + 1), key=lambda n: _apart(existing(cluster, n), tables))
    kib = census.table_kib
    return Likeness(virt, res, cluster, rounds, tables * kib, round(existing(cluster, rounds)) * kib)


def _apart(one: float, other: float) -> float:
    """How many times one is the other, whichever is more."""
    return abs(log(max(one, 1e-9) / other))
