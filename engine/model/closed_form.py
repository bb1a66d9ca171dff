"""Closed forms: what must hold whatever the addresses are. The engine's runs are checked against the first of them."""

import math

from engine.model.arch import Arch


def empty_share(sparsity: float, cluster_bytes: int, span_bytes: int) -> float:
    """The share of tables that are all none after one install, extents of `cluster_bytes` resident at random."""
    return float(sparsity ** max(1.0, span_bytes / cluster_bytes))


def expected_tables(virt_bytes: int, sparsity: float, cluster_bytes: int, rounds: int, arch: Arch) -> float:
    """Tables of all levels that `rounds` installs touch, on average: what exists at the last peak if none is freed."""
    spans = [1, arch.pmd_span_tables, *([arch.pud_span_tables] if arch.has_pud else [])]
    sizes = [arch.span_bytes * tables for tables in spans]
    return sum(-(-virt_bytes // size) * (1 - empty_share(sparsity, cluster_bytes, size) ** rounds) for size in sizes)


def tables_for(spans: int, arch: Arch) -> tuple[int, int]:
    """(PTE tables, tables of all levels) for `spans` neighbouring PTE-table spans, from the start of an upper one."""
    pmd = -(-spans // arch.pmd_span_tables)
    pud = -(-spans // arch.pud_span_tables) if arch.has_pud else 0
    return spans, spans + pmd + pud


def most_pte_tables(tables: int, arch: Arch) -> int:
    """How many of `tables`, of all levels, can be PTE tables: those above them are as few as can be."""
    low, high = 0, tables
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tables_for(middle, arch)[1] <= tables else (low, middle - 1)
    return low


def aligned_reach(zap_bytes: int, span_bytes: int) -> float:
    """The share of slots wholly in one call, if calls of this size follow each other from a slot's start on."""
    if zap_bytes < span_bytes:
        return 0.0
    period = math.lcm(zap_bytes, span_bytes)
    cut = period // zap_bytes - 1  # edges of calls inside a slot, each in another one
    return 1 - cut / (period // span_bytes)


def unaligned_reach(zap_bytes: int, span_bytes: int) -> float:
    """The same if every call's edge lies inside a slot: each edge costs one slot."""
    return max(0.0, 1 - span_bytes / zap_bytes)
