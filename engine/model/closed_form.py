"""Closed forms for expected tables and for the slots that calls cover. Tests compare the engine with empty_share."""

import math

from engine.model.arch import Arch


def empty_share(sparsity: float, cluster_bytes: int, span_bytes: int) -> float:
    """Return the expected share of tables without a present entry after one install.

    Each extent of `cluster_bytes` is resident with probability 1 - sparsity, independently of the others.
    """
    return float(sparsity ** max(1.0, span_bytes / cluster_bytes))


def expected_tables(virt_bytes: int, sparsity: float, cluster_bytes: int, rounds: int, arch: Arch) -> float:
    """Return the expected number of tables, of all levels, that at least one of `rounds` installs populates.

    These exist at the peak of the last round if no table is freed.
    """
    spans = [1, arch.pmd_span_tables, *([arch.pud_span_tables] if arch.has_pud else [])]
    sizes = [arch.span_bytes * tables for tables in spans]
    return sum(-(-virt_bytes // size) * (1 - empty_share(sparsity, cluster_bytes, size) ** rounds) for size in sizes)


def tables_for(spans: int, arch: Arch) -> tuple[int, int]:
    """Return (PTE tables, tables of all levels) that map `spans` contiguous slots.

    The first slot is assumed to be the first under its PMD and PUD table.
    """
    pmd = -(-spans // arch.pmd_span_tables)
    pud = -(-spans // arch.pud_span_tables) if arch.has_pud else 0
    return spans, spans + pmd + pud


def most_pte_tables(tables: int, arch: Arch) -> int:
    """Return the largest number of PTE tables among `tables` tables of all levels: those of one contiguous range."""
    low, high = 0, tables
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tables_for(middle, arch)[1] <= tables else (low, middle - 1)
    return low


def aligned_reach(zap_bytes: int, span_bytes: int) -> float:
    """Return the share of slots that lie in one call each, for adjacent calls of `zap_bytes` from a slot border on."""
    if zap_bytes < span_bytes:
        return 0.0
    period = math.lcm(zap_bytes, span_bytes)
    divided_slots = period // zap_bytes - 1  # each call border inside a slot divides a different slot
    return 1 - divided_slots / (period // span_bytes)


def unaligned_reach(zap_bytes: int, span_bytes: int) -> float:
    """Return the share of slots that lie in one call each if every call border is inside a slot and divides it."""
    return max(0.0, 1 - span_bytes / zap_bytes)
