"""The slow twin of engine/traces: processes one page at a time and checks every table after every operation.

A policy is a rule (engine/model/policy.py). It covers traces of one mapping that is unmapped in part and never mapped
again or protected, where each run of mapped pages is one VMA. Merging and splitting of VMAs is tested against
recordings of the live kernel instead.
"""

from engine.model.policy import SLOT, Policy

ENTRIES = 512


class Twin:
    """An address space under one policy.

    `entries` maps a page to "present", "zero" or "marker"; `tables` has the table numbers of each level.
    """

    def __init__(self, policy: Policy, scan_every: int, page_kib: int = 4, levels: int = 4) -> None:
        """page_kib: the size of a page and of a table; levels: of tables, one of which, the PGD, is not counted."""
        self.page_kib, self.ptes = page_kib, page_kib * 128
        self.spans = [self.ptes**level for level in range(1, levels)]
        self.policy, self.scan_every = policy, scan_every
        self.mapped: set[int] = set()
        self.returned: set[int] = set()  #: under munmap: zapped and not mapped again
        self.entries: dict[int, str] = {}
        self.tables: tuple[set[int], set[int], set[int]] = (set(), set(), set())  # PTE, PMD, PUD
        self.operations = self.freed = self.allocated = self.installed = self.zapped = 0
        self.most_vm_pte_kib = self.most_res_kib = self.most_huge_kib = 0
        self.faults = self.splits = 0

    @property
    def vm_pte_kib(self) -> int:
        return self.page_kib * sum(map(len, self.tables))

    @property
    def res_kib(self) -> int:
        return self.page_kib * list(self.entries.values()).count("present")

    @property
    def anon_huge_kib(self) -> int:
        return 0

    @property
    def outcome(self) -> dict[str, int]:
        """Return those columns of an outcome that a trace determines."""
        needed = [{page // span for page in self.entries} for span in self.spans]
        pte, pmd, pud = map(len, self.tables)
        return {
            "res_bytes_peak": self.most_res_kib << 10,
            "res_bytes_end": self.res_kib << 10,
            "vm_pte_kib_peak": self.most_vm_pte_kib,
            "vm_pte_kib_end": self.vm_pte_kib,
            "vm_pte_kib_max": self.most_vm_pte_kib,
            "vm_pte_kib_needed_end": self.page_kib * sum(map(len, needed)),
            "pte_tables_end": pte,
            "pmd_tables_end": pmd,
            "pud_tables_end": pud,
            "pte_tables_empty_end": len(self.tables[0] - needed[0]),
            "anon_huge_kib_peak": self.most_huge_kib,
            "anon_huge_kib_end": self.anon_huge_kib,
            "ptes_installed": self.installed,
            "ptes_zapped": self.zapped,
            "pte_tables_allocated": self.allocated,
            "pte_tables_freed": self.freed,
            "thp_faults": self.faults,
            "thp_splits": self.splits,
        }

    def apply(self, op: str, start: int, length: int, stride: int) -> None:
        """Apply one operation of a trace. start, length, stride: bytes."""
        page_bytes = self.page_kib << 10
        covered = range(start // page_bytes, -(-(start + length) // page_bytes))
        pages = [page for page in covered if page in self.mapped]
        if op == "mmap":
            self.mapped |= set(covered)
        elif op == "munmap":
            self.mapped -= set(pages)
            self.unmap(pages)
            self.free_counted(pages)
        elif op in ("write", "read"):
            self.returned -= set(pages)
            for at in range(start, start + length, stride):
                self.touch(at // page_bytes, op == "write")
        elif op == "guard_install":
            self.returned -= set(pages)
            for page in pages:
                self.allocate_tables(page)
                self.entries[page] = "marker"
        elif op == "guard_remove":
            self.clear(pages, ("marker",))
            self.free_counted(pages)
        elif self.policy.when == "unmap":
            self.returned |= set(pages)
            before, entries = len(self.tables[0]), len(self.entries)
            self.unmap(pages)
            self.freed += before - len(self.tables[0])
            self.zapped += entries - len(self.entries)
        elif op != "free":
            self.zap(pages)
        self.operations += 1
        self.most_vm_pte_kib = max(self.most_vm_pte_kib, self.vm_pte_kib)
        self.most_res_kib = max(self.most_res_kib, self.res_kib)
        self.most_huge_kib = max(self.most_huge_kib, self.anon_huge_kib)
        self.free_empty_tables()

    def touch(self, page: int, write: bool) -> None:
        """Write to or read a page: a fault installs it, reads map the zero page."""
        entry = self.entries.get(page)
        if page in self.mapped and entry != "marker":
            self.allocate_tables(page)
            self.installed += entry is None
            self.entries[page] = "present" if write or entry == "present" else "zero"

    def allocate_tables(self, page: int) -> None:
        self.allocated += page // self.ptes not in self.tables[0]
        for level, span in enumerate(self.spans):
            self.tables[level].add(page // span)

    def clear(self, pages: list[int], states: tuple[str, ...]) -> None:
        for page in pages:
            if self.entries.get(page) in states:
                del self.entries[page]

    def unmap(self, pages: list[int]) -> None:
        """Clear the pages' entries, and free each table, of any level, whose span has no mapped page left."""
        self.clear(pages, ("present", "zero", "marker"))
        live = self.mapped - self.returned if self.policy.when == "unmap" else self.mapped
        for level, span in enumerate(self.spans):
            self.tables[level].intersection_update({page // span for page in live})

    def zap(self, pages: list[int]) -> None:
        """Clear pages, not markers, piece by piece; a table that is empty then goes if the rule looks at the piece."""
        for piece in self.pieces(pages):
            before = len(self.entries)
            self.clear(piece, ("present", "zero"))
            self.zapped += before - len(self.entries)
            if self.policy.when in ("visit", "call") and self.is_large_enough(piece):
                self.free_if_empty(piece[0] // self.ptes)

    def free_counted(self, pages: list[int]) -> None:
        """Entries of pages were cleared by another call than a zap, which a counter notices."""
        if self.policy.when == "visit" and self.policy.proof == "count":
            for piece in self.pieces(pages):
                if self.is_large_enough(piece):
                    self.free_if_empty(piece[0] // self.ptes)

    def is_large_enough(self, piece: list[int]) -> bool:
        """Whether the rule acts after a piece. One that reads nothing without proof acts after whole slots only."""
        reads_nothing = self.policy.proof == "held" and self.policy.otherwise == "keep"
        if self.policy.least == SLOT or reads_nothing:
            return len(piece) == self.ptes and (
                self.policy.least == SLOT or int(self.policy.least) <= self.ptes * self.page_kib << 10
            )
        return len(piece) * self.page_kib << 10 >= int(self.policy.least)

    def free_if_empty(self, slot: int) -> None:
        if slot in self.tables[0] and not any(page // self.ptes == slot for page in self.entries):
            self.tables[0].remove(slot)
            self.freed += 1

    def free_empty_tables(self) -> None:
        """Rules of `when: round` free all empty tables every `scan_every` operations, times `every`."""
        if self.policy.when == "round" and self.operations % (self.scan_every * self.policy.every) == 0:
            in_use = {page // self.ptes for page in self.entries}
            self.freed += len(self.tables[0] - in_use)
            self.tables[0].intersection_update(in_use)

    def pieces(self, pages: list[int]) -> list[list[int]]:
        """Cut pages, which rise, where one is not mapped and where a slot begins."""
        cut: list[list[int]] = []
        for page in pages:
            if not cut or page != cut[-1][-1] + 1 or page % self.ptes == 0:
                cut.append([])
            cut[-1].append(page)
        return cut
