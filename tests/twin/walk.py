"""The slow twin of the engine: follows docs/method.md entry by entry, for one policy at a time.

It shares only scenarios and column names with the engine. Kernel functions are named as in Linux 6.14, mm/memory.c
unless another file is named. A policy is a subclass of `Space` that overrides hooks; threads.py adds contention.
"""

from bisect import bisect_left

import numpy as np

from engine.model.policy import POLICIES
from engine.model.results import COLUMNS, ROUND_COLUMNS, Results
from engine.model.scenario import Columns, Scenario, row
from tests.twin.address_space import Space, Visit
from tests.twin.draws import Call, Choices
from tests.twin.gather import NO_STRIDE, Gather
from tests.twin.threads import Steps, Trylock, contend, steps_of


class Refcount(Space):
    """Counts entries per table and frees a table when its last entry is cleared."""

    def count_atomics(self, entries: int) -> None:
        self.work["atomics"] += entries

    def lock_dropped(self, visit: Visit, gather: Gather) -> None:
        t = visit.piece.table
        if not any(self.tables[t].entries):
            self.work["pmd_locks"] += 1
            self.free(t, gather)


class Async(Space):
    """Scans all tables after each round and frees the empty ones."""

    def after_round(self) -> None:
        span = self.arch.pmd_span_tables
        for pmd in sorted({t // span for t in self.tables}):
            gather = self.new_gather()
            for t in sorted(t for t in self.tables if t // span == pmd):
                self.try_to_free_pte(t, gather)
            gather.flush()


class SecondWalk(Space):
    """Scans every covered slot's table after the zap of a call."""

    def after_zap(self, call: Call, gather: Gather) -> None:
        """try_to_reclaim_pgtables of RFC v2 4/7: start rounded up, end rounded down."""
        if self.s.advice == "free":
            return
        for t in range(-(-call.start // self.arch.entries), call.end // self.arch.entries):
            if t in self.tables:
                self.try_to_free_pte(t, gather)


class SeedInline(Space):
    """Frees inside zap_pte_range, and scans only the entries cleared before a mid break."""

    def frees_under_lock(self, visit: Visit) -> bool:
        if not visit.may_free:
            return False
        if visit.mid_break_at:
            self.work["slow_paths"] += 1
            if not self.all_none(visit.piece.table, visit.mid_break_at):
                return False
        else:
            self.work["fast_paths"] += 1
        self.trylock_pmd(visit)
        return True

    def trylock_pmd(self, visit: Visit) -> None:
        """Record a trylock as successful; after the round `contend` decides which failed and adds their cost."""
        self.work["pmd_trylocks"] += 1
        self.trylocks.append(Trylock(visit.piece, fast=not visit.mid_break_at))

    def after_round(self) -> None:
        if self.s.threads > 1:
            contend(self.choices, self.round, self.steps[self.round], self.trylocks, self.work)


class Merged(SeedInline):
    """Frees inside zap_pte_range; after any break scans the table (Linux 6.14)."""

    def frees_under_lock(self, visit: Visit) -> bool:
        """Free the table under the lock if there was no break (try_get_and_clear_pmd with direct_reclaim set)."""
        if not visit.may_free or visit.broke:
            return False
        self.work["fast_paths"] += 1
        self.trylock_pmd(visit)
        return True

    def after_last_drop(self, visit: Visit, gather: Gather) -> None:
        if visit.may_free:
            self.work["slow_paths"] += 1
            self.try_to_free_pte(visit.piece.table, gather)

    def after_round(self) -> None:
        self.steps.append(steps_of(self.choices, self.round, self.visits))
        super().after_round()


class Munmap(Space):
    """Frees tables of all levels with their address range; a call unmaps instead of zapping."""

    drops_markers = True
    advice_matters = False
    flushes_upper_tables = True

    def before_round(self) -> None:
        """Map the range as one VMA, again in every round, and set the markers."""
        self.mapped = [(0, self.choices.pages)]
        self.set_markers()

    def refault(self, t: int, cleared: list[int]) -> None:
        """Do nothing: a touch of an unmapped page is a SIGSEGV."""

    def after_zap(self, call: Call, gather: Gather) -> None:
        """Free the tables of each level whose span has no mapped page left (free_pgtables, floor and ceiling)."""
        self.unmap(call)
        pte = self.arch.entries
        pmd, pud = pte * self.arch.pmd_span_tables, pte * self.arch.pud_span_tables
        tables, pmds, puds = (self.within_hole(call, span) for span in (pte, pmd, pud))
        for p in range(call.start // pud, -(-call.end // pud)):  # free_pud_range
            for m in range(max(call.start, p * pud) // pmd, -(-min(call.end, (p + 1) * pud) // pmd)):  # free_pmd_range
                for t in tables:
                    if t in self.tables and t * pte // pmd == m:
                        self.free(t, gather)
                if m in pmds:
                    self.free_upper(self.pmd_tables, m, gather, pmd)
            if p in puds:
                self.free_upper(self.pud_tables, p, gather, pud)
                if self.arch.flushes_folded_p4d and self.flushes_upper_tables:
                    gather.cover_page(p * pud * self.arch.page_bytes, NO_STRIDE)

    def free_upper(self, tables: set[int], table: int, gather: Gather, pages: int) -> None:
        """Free a PMD or PUD table that maps so many pages, if there is one."""
        if table in tables:
            tables.remove(table)
            if self.flushes_upper_tables:
                gather.remove_table(table, pages * self.arch.page_bytes)

    def unmap(self, call: Call) -> None:
        """Remove the call's range from the VMA that holds it."""
        i = bisect_left(self.mapped, (call.start + 1, 0)) - 1
        start, end = self.mapped[i]
        assert start <= call.start < call.end <= end
        rest = (start, call.start), (call.end, end)
        self.mapped[i : i + 1] = [vma for vma in rest if vma[0] < vma[1]]

    def within_hole(self, call: Call, span: int) -> list[int]:
        """Return the tables, `span` pages each, that the call touches and whose span has no mapped page left."""
        i = bisect_left(self.mapped, (call.start, 0))
        floor = self.mapped[i - 1][1] if i > 0 else 0
        ceiling = self.mapped[i][0] if i < len(self.mapped) else None
        touched = range(call.start // span, -(-call.end // span))
        return [t for t in touched if t * span >= floor and (ceiling is None or (t + 1) * span <= ceiling)]


SPACES: dict[str, type[Space]] = {
    "none": Space,
    "refcount": Refcount,
    "async": Async,
    "second_walk": SecondWalk,
    "seed_inline": SeedInline,
    "merged": Merged,
    "munmap": Munmap,
}


def run(scenario: Scenario) -> Results:
    """Run one point under all policies, each in a fresh address space."""
    choices = Choices(scenario)
    steps: list[Steps] = []
    values = np.zeros((1, len(POLICIES), len(COLUMNS)), np.int64)
    rounds = np.zeros((scenario.rounds, len(POLICIES), len(ROUND_COLUMNS)), np.int64)
    for name in sorted(POLICIES, key=lambda name: name != "merged"):  # merged first: it makes the steps
        space = SPACES[name](choices, steps)
        space.run()
        outcome, policy = space.outcome(), POLICIES.index(name)
        values[0, policy] = [outcome[column] for column in COLUMNS]
        rounds[:, policy] = space.memory
    return Results(values, rounds, np.array([scenario.rounds], np.int64))


def run_batch(columns: Columns) -> Results:
    """Run every point of a batch."""
    results = [run(row(columns, i)) for i in range(len(columns["virt"]))]
    return Results(
        np.concatenate([r.values for r in results]),
        np.concatenate([r.rounds for r in results]),
        np.concatenate([r.round_counts for r in results]),
    )
