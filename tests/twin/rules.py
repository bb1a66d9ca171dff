"""The slow twin of a policy given by its rule's fields (docs/method.md, section 4), entry by entry."""

from collections.abc import Iterator

from engine.model.policy import SLOT, Policy
from tests.twin.address_space import Space, Visit
from tests.twin.draws import Call, Choices
from tests.twin.gather import Gather
from tests.twin.huge import Huge
from tests.twin.threads import Piece, Trylock, contend, steps_of
from tests.twin.walk import Munmap


class Ruled(Space):
    """An address space under one rule of `when`: never, visit, call or round."""

    def __init__(self, policy: Policy, choices: Choices) -> None:
        super().__init__(choices, [])
        self.policy = policy
        self.skipped: set[Piece] = set()  #: pieces in which the zap passed over a marker

    # Which pieces the rule looks at

    def is_large_enough(self, piece: Piece) -> bool:
        pages = piece.end - piece.start
        if self.policy.least == SLOT:
            return pages == self.arch.entries
        return pages * self.arch.page_bytes >= int(self.policy.least)

    def looks_at(self, piece: Piece) -> bool:
        return self.is_large_enough(piece) and not (self.policy.markers == "skip" and piece in self.skipped)

    def clear_entries(self, visit: Visit, at: int, gather: Gather) -> tuple[int, list[int], bool]:
        visit.may_free = True
        done = super().clear_entries(visit, at, gather)
        if not visit.may_free:
            self.skipped.add(visit.piece)
        return done

    def count_atomics(self, entries: int) -> None:
        if self.policy.counts_entries:
            self.work["atomics"] += entries

    # when: visit

    def frees_under_lock(self, visit: Visit) -> bool:
        """`held`, and `rest` where an earlier hold of the lock is what has to be read again."""
        rule, piece = self.policy, visit.piece
        if rule.when != "visit" or rule.proof != "held" or not self.looks_at(piece):
            return False
        dropped = self.was_dropped(visit)
        if piece in self.skipped:
            return False  # a marker is left behind: neither `held` nor `rest` proves anything
        if piece.end - piece.start == self.arch.entries and not dropped:
            self.work["fast_paths"] += 1
            self.lock_pmd(piece, fast=True)
            return True
        if rule.otherwise != "rest" or (dropped and not visit.mid_break_at):
            return False  # after a break on the last entry the lock is dropped first
        self.work["slow_paths"] += 1
        first_hold = range(piece.start, visit.mid_break_at) if visit.mid_break_at else range(0)
        if not self.reads_none(piece.table, [*range(piece.start), *first_hold, *range(piece.end, self.arch.entries)]):
            return False
        self.lock_pmd(piece, fast=False)
        return True

    def was_dropped(self, visit: Visit) -> bool:
        return visit.mid_break_at > 0 or (visit.broke and self.policy.end_break == "drop")

    def lock_dropped(self, visit: Visit, gather: Gather) -> None:
        """`count`: looked at whenever the PTE lock is let go."""
        rule, t = self.policy, visit.piece.table
        looks = rule.when == "visit" and rule.proof == "count" and self.looks_at(visit.piece)
        if looks and not any(self.tables[t].entries):
            self.lock_pmd(visit.piece, fast=False)
            self.free(t, gather)

    def after_last_drop(self, visit: Visit, gather: Gather) -> None:
        rule, piece = self.policy, visit.piece
        if rule.when != "visit" or rule.proof == "count" or not self.looks_at(piece):
            return
        if rule.proof == "scan":
            self.try_to_free_pte(piece.table, gather)
            return
        dropped = self.was_dropped(visit)
        if rule.otherwise == "keep" or self.is_settled_under_lock(visit):
            return
        self.work["slow_paths"] += 1
        if rule.otherwise == "rest" and piece not in self.skipped:
            self.work["pte_locks_extra"] += 1
            if self.all_none(piece.table, self.arch.entries):
                self.lock_pmd(piece, fast=False)
                self.free(piece.table, gather)
        elif rule.otherwise == "outside" and not dropped and not self.has_entry_in(piece):
            self.work["pmd_locks"] += 1
            self.work["pte_locks_extra"] += 1
            if self.reads_none(piece.table, [*range(piece.start), *range(piece.end, self.arch.entries)]):
                self.free(piece.table, gather)
        else:
            self.try_to_free_pte(piece.table, gather)

    def is_settled_under_lock(self, visit: Visit) -> bool:
        """`rest`, unless a break on the piece's last entry or a marker left it for later."""
        waits = self.was_dropped(visit) and not visit.mid_break_at
        return self.policy.otherwise == "rest" and visit.piece not in self.skipped and not waits

    def has_entry_in(self, piece: Piece) -> bool:
        """Whether a refault landed in the piece, or a marker is in it."""
        return any(self.tables[piece.table].entries[piece.start : piece.end])

    def reads_none(self, t: int, indexes: list[int]) -> bool:
        """Read these entries in order, stopping at one that is not none."""
        for index in indexes:
            self.work["ptes_rescanned"] += 1
            if self.tables[t].entries[index]:
                return False
        return True

    def lock_pmd(self, piece: Piece, *, fast: bool) -> None:
        """A trylock succeeds here; after the round `contend` says which did not, and what they cost."""
        if self.policy.lock == "take":
            self.work["pmd_locks"] += 1
            return
        self.work["pmd_trylocks"] += 1
        self.trylocks.append(Trylock(piece, fast))

    # when: call, when: round

    def after_zap(self, call: Call, gather: Gather) -> None:
        if self.policy.when == "call" and self.s.advice != "free":
            for piece in self.pieces(call):
                if self.has_table(piece.table) and self.looks_at(piece):
                    self.look_for_empty(piece.table, gather)
        self.skipped.clear()

    def after_round(self) -> None:
        if self.policy.when == "round" and (self.round + 1) % self.policy.every == 0:
            for tables in self.tables_by_pmd():
                gather = self.new_gather()
                for t in tables:
                    self.look_for_empty(t, gather)
                gather.flush()
        if self.s.threads > 1:
            steps = steps_of(self.choices, self.round, self.visits)
            reads = self.policy.proof != "count"
            contend(self.choices, self.round, steps, self.trylocks, self.work, reads=reads)

    def tables_by_pmd(self) -> Iterator[list[int]]:
        span = self.arch.pmd_span_tables
        tables = [t for t in sorted(self.tables) if self.has_table(t)]
        for pmd in sorted({t // span for t in tables}):
            yield [t for t in tables if t // span == pmd]

    def look_for_empty(self, t: int, gather: Gather) -> None:
        if self.policy.proof == "scan":
            self.try_to_free_pte(t, gather)
        elif not any(self.tables[t].entries):
            self.work["pmd_locks"] += 1
            self.free(t, gather)


def space_of(policy: Policy, choices: Choices) -> Space:
    """The address space of one policy."""
    if choices.s.thp == "always":
        return HugeUnmapping(choices, []) if policy.when == "unmap" else HugeRuled(policy, choices)
    return Munmap(choices, []) if policy.when == "unmap" else Ruled(policy, choices)


class HugeRuled(Huge, Ruled):
    """The same with huge pages."""


class HugeUnmapping(Huge, Munmap):
    """The same with huge pages, where upper tables do not join the flush (docs/method.md, section 5)."""

    flushes_upper_tables = False
