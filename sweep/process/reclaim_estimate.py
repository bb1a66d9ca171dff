"""Estimates what each policy would free of a process's empty tables, by size of a call.

A call here is one over an aligned block without resident pages, cut off at the VMA: what an allocator can give back
without losing data.
"""

from dataclasses import dataclass

import numpy as np

from engine.model.policy import POLICIES
from sweep.common.errors import UserError
from sweep.common.units import format_size
from sweep.process.table_census import TableCensus, VmaCount


@dataclass(frozen=True, slots=True)
class ReclaimEstimate:
    """Least and most PTE tables that a policy frees with calls of `zap` bytes."""

    policy: str
    zap: int
    least: int
    most: int


def estimate_reclaim(
    census: TableCensus, zaps: tuple[int, ...], policies: tuple[str, ...] = POLICIES
) -> list[ReclaimEstimate]:
    """One estimate for each policy and size of a call. Raises UserError for a size that no call can have."""
    for zap in zaps:
        check_call_size(census, zap)
    return [ReclaimEstimate(policy, zap, *_bounds(census, policy, zap)) for policy in policies for zap in zaps]


def check_call_size(census: TableCensus, zap: int) -> None:
    """Raise UserError unless `zap` is whole pages and, above the size of a slot, whole slots."""
    page, span = census.arch.page_bytes, census.arch.span_bytes
    if not zap or zap % page or (zap > span and zap % span):
        raise UserError(
            f"--zap {format_size(zap)}: a call is whole pages of {format_size(page)}, "
            f"and above {format_size(span)} whole slots of {format_size(span)}"
        )


def _bounds(census: TableCensus, policy: str, zap: int) -> tuple[int, int]:
    """Return the least and most tables that a policy frees.

    Which of the slots without an entry have a table is unknown. For the most, as many empty tables as possible are in
    slots that the policy reaches; for the least, in slots that it does not reach.
    """
    least, most = census.empty
    if policy == "none":
        return 0, 0
    if policy in ("refcount", "async"):
        return least, most  # all empty tables, whatever the calls cover
    if policy == "munmap":
        # A slot's table is freed with its last piece, so calls smaller than a slot do as well as whole slots.
        reached = census.slots_without_entry - _blocked_slots(census, max(zap, census.arch.span_bytes))
    else:
        covers_slots = zap >= census.arch.span_bytes
        reached = census.whole_without_entry - _blocked_slots(census, zap) if covers_slots else 0
    return max(0, least - (census.slots_without_entry - reached)), min(most, reached)


def _blocked_slots(census: TableCensus, zap: int) -> int:
    """Slots without an entry, wholly in a VMA, whose aligned block of `zap` bytes has an entry in the VMA."""
    return sum(_blocked_in(census, vma, zap // census.arch.span_bytes) for vma in census.vmas) if zap else 0


def _blocked_in(census: TableCensus, vma: VmaCount, slots_per_block: int) -> int:
    span = census.arch.span_bytes
    first, last = -(-vma.mapping.start // span), vma.mapping.end // span
    if slots_per_block <= 1 or first >= last:
        return 0
    numbers = census.slot_numbers
    # Includes the partial slots at the VMA's ends: their entries may be another VMA's, but may be this one's.
    start, stop = np.searchsorted(numbers, [vma.mapping.start // span, (vma.mapping.end - 1) // span + 1])
    with_entry = numbers[start:stop]
    blocks = np.unique(with_entry // slots_per_block)
    low, high = np.maximum(blocks * slots_per_block, first), np.minimum((blocks + 1) * slots_per_block, last)
    whole_with_entry = np.count_nonzero((with_entry >= first) & (with_entry < last))
    return int(np.maximum(high - low, 0).sum() - whole_with_entry)
