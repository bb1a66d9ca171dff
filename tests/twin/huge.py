"""The twin's address spaces where the VMA allows huge pages (docs/method.md, section 8), entry by entry."""

from typing import Any

from tests.twin.address_space import MARKER, NONE, PRESENT, ZERO, Space, Visit
from tests.twin.gather import Gather
from tests.twin.threads import Piece


class Huge(Space):
    """Mixed into a Space. A slot in `huge` has a table with all entries present, which waits for a split.

    used: pages that were touched since they were cleared; folio: pages that a split huge page still maps. By slot.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.huge: set[int] = set()
        self.written_huge: set[int] = set()  #: the PMD entry is young or dirty: written since MADV_FREE
        self.used: dict[int, set[int]] = {}
        self.split_pages: dict[int, set[int]] = {}

    # Faults

    def write(self, t: int, entry: int) -> None:
        if t in self.tables and self.tables[t].entries[entry] == MARKER:
            return
        if t not in self.tables:
            self.used[t], self.split_pages[t] = set(), set()
            if (t + 1) * self.arch.entries <= self.choices.pages:
                self.fault_huge(t)
        self.used[t].add(entry)
        if t in self.huge:
            self.written_huge.add(t)
            return
        if t in self.tables and self.tables[t].entries[entry] == ZERO:
            self.tables[t].entries[entry] = PRESENT
        super().write(t, entry)

    def set_markers(self) -> None:
        super().set_markers()
        for t in self.tables:
            self.used.setdefault(t, set())
            self.split_pages.setdefault(t, set())

    def fault_huge(self, t: int) -> None:
        """Map a huge page (__do_huge_pmd_anonymous_page)."""
        self.work["thp_faults"] += 1
        table = self.table_for_fault(t)
        table.entries[:] = bytes([PRESENT]) * self.arch.entries
        self.huge.add(t)

    # Calls

    def has_table(self, t: int) -> bool:
        return t in self.tables and t not in self.huge

    def meets_huge(self, piece: Piece, gather: Gather) -> bool:
        t = piece.table
        if t not in self.huge:
            return False
        is_whole, frees = piece.end - piece.start == self.arch.entries, self.advice_matters and self.s.advice == "free"
        if frees and is_whole:
            self.free_huge_pmd(t, gather)
        elif frees:
            self.split(t)
            self.split_folio(t)
        elif is_whole:
            self.zap_huge_pmd(t, gather)
        else:
            self.split(t)
            self.split_pages[t] = set(range(self.arch.entries))
        return is_whole

    def zap_huge_pmd(self, t: int, gather: Gather) -> None:
        """Clear the PMD entry and free the table that waited; then pages that were used are touched again."""
        self.huge.remove(t)
        del self.tables[t]
        self.work["pte_tables_freed"] += 1
        gather.cover_slot(t)
        if gather.remove_pages(1):
            gather.force_flush()
        self.refault(t, sorted(self.used.pop(t)))

    def free_huge_pmd(self, t: int, gather: Gather) -> None:
        """MADV_FREE of a whole huge page (madvise_free_huge_pmd): the entry becomes old and clean."""
        if t in self.written_huge:
            self.written_huge.remove(t)
            self.flush_pmd()
            gather.cover_slot(t)

    def split(self, t: int) -> None:
        """Let the table map the pages (__split_huge_pmd). A counter gets all entries in one step."""
        self.huge.remove(t)
        self.work["thp_splits"] += 1
        self.count_atomics(1)
        self.flush_pmd()

    def split_folio(self, t: int) -> None:
        """MADV_FREE splits the huge page; pages of zeros become the zero page (try_to_map_unused_to_zeropage)."""
        table = self.tables[t]
        for entry in range(self.arch.entries):
            table.entries[entry] = PRESENT if entry in self.used[t] else ZERO
            table.written[entry] = t in self.written_huge

    def flush_pmd(self) -> None:
        """Flush a slot at once: in units of pages on x86-64, in one unit on arm64 (flush_pmd_tlb_range)."""
        gather = self.new_gather()
        if self.arch.huge_flush_unit_pages == 1:
            gather.cover_entries(0, self.arch.entries)
        else:
            gather.cover_slot(0)
        gather.flush()

    def clear_entries(self, visit: Visit, at: int, gather: Gather) -> tuple[int, list[int], bool]:
        at, cleared, full = super().clear_entries(visit, at, gather)
        t = visit.piece.table
        again = [entry for entry in cleared if entry in self.used[t]]
        self.used[t] -= set(cleared)
        self.split_pages[t] -= set(cleared)
        return at, again, full

    def folio_run(self, piece: Piece, at: int) -> int:
        """A run of pages of one huge page, or one of other pages as always."""
        of_huge = at in self.split_pages[piece.table]
        end = piece.end if of_huge else at + super().folio_run(piece, at)
        stop = at + 1
        entries = self.tables[piece.table].entries
        while stop < end and entries[stop] == PRESENT and (stop in self.split_pages[piece.table]) == of_huge:
            stop += 1
        return stop - at

    def anon_huge_kib(self) -> int:
        return len(self.huge) * self.arch.span_bytes // 1024


assert NONE == 0  # entries are cleared with bytes()
