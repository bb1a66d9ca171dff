"""The slow twin of engine/traces where huge pages are always allowed: the rules of docs/traces.md, section 2."""

from engine.model.policy import Policy
from tests.twin.trace import ENTRIES, Twin


class HugeTwin(Twin):
    """An address space under one policy. A slot in `huge` has entries like any other, but one PMD entry maps it.

    `folios` holds the pages that belong to a huge page, `written` those of them that were written.
    """

    def __init__(self, policy: Policy, scan_every: int) -> None:
        super().__init__(policy, scan_every)
        self.huge: set[int] = set()
        self.folios: set[int] = set()
        self.written: set[int] = set()

    @property
    def anon_huge_kib(self) -> int:
        return 2048 * sum(self.entries[slot * ENTRIES] == "present" for slot in self.huge)

    def apply(self, op: str, start: int, length: int, stride: int) -> None:
        unmaps = op == "munmap" or (self.policy.when == "unmap" and op in ("dontneed", "free"))
        if unmaps or op in ("dontneed", "guard_install"):
            self.split_or_clear(start, length, frees_table=op == "dontneed" and not unmaps)
        elif op == "free":
            self.split_folios(start, length)
        super().apply(op, start, length, stride)
        self.folios = {page for page in self.folios if self.entries.get(page) == "present"}
        self.written &= self.folios

    def split_or_clear(self, start: int, length: int, frees_table: bool) -> None:
        """A call clears a range: it splits the huge pages of which it covers a part, and clears the others."""
        covered = self.covered(start, length)
        for slot in list(self.huge):
            span = slot_pages(slot)
            if covered.issuperset(span):
                self.huge.remove(slot)
                for page in span:
                    del self.entries[page]
                if frees_table:
                    self.tables[0].remove(slot)
                    self.freed += 1
            elif not covered.isdisjoint(span):
                self.split(slot)

    def split_folios(self, start: int, length: int) -> None:
        """MADV_FREE of a part of a huge page: the pages in which nothing was written become the zero page."""
        covered = self.covered(start, length)
        for slot in {page // ENTRIES for page in self.folios & covered}:
            span = set(slot_pages(slot))
            if not self.folios & covered >= span:
                if slot in self.huge:
                    self.split(slot)
                for page in self.folios & span - self.written:
                    self.entries[page] = "zero"

    def split(self, slot: int) -> None:
        self.huge.remove(slot)
        self.splits += 1

    def touch(self, page: int, write: bool) -> None:
        slot = page // ENTRIES
        if page in self.mapped and slot not in self.tables[0] and self.is_whole(slot):
            self.allocate_tables(page)
            self.huge.add(slot)
            self.entries.update(dict.fromkeys(slot_pages(slot), "zero"))
        if slot not in self.huge:
            super().touch(page, write)
        elif write and self.entries[page] == "zero":
            self.faults += 1
            self.entries.update(dict.fromkeys(slot_pages(slot), "present"))
            self.folios.update(slot_pages(slot))
        if write and page in self.folios:
            self.written.add(page)

    def is_whole(self, slot: int) -> bool:
        return self.mapped.issuperset(slot_pages(slot)) and self.returned.isdisjoint(slot_pages(slot))

    def covered(self, start: int, length: int) -> set[int]:
        return self.mapped & set(range(start // 4096, -(-(start + length) // 4096)))


def slot_pages(slot: int) -> range:
    return range(slot * ENTRIES, (slot + 1) * ENTRIES)
