"""The slow twin of engine/traces: processes one page at a time and checks every table after every operation.

It covers traces of one mapping that is unmapped in part and never mapped again or protected, where each run of mapped
pages is one VMA. Merging and splitting of VMAs is tested against recordings of the live kernel instead.
"""

PAGE, ENTRIES = 4096, 512
SPANS = (ENTRIES, ENTRIES**2, ENTRIES**3)
"""Pages that one table of each level spans: PTE, PMD, PUD."""


class Twin:
    """An address space under one policy.

    `entries` maps a page to "present", "zero" or "marker"; `tables` has the table numbers of each level.
    """

    def __init__(self, policy: str, scan_every: int) -> None:
        self.policy, self.scan_every = policy, scan_every
        self.mapped: set[int] = set()
        self.returned: set[int] = set()  #: under munmap: purged and not mapped again
        self.entries: dict[int, str] = {}
        self.tables: tuple[set[int], set[int], set[int]] = (set(), set(), set())
        self.operations = self.freed = self.allocated = self.installed = self.zapped = 0
        self.most_vm_pte_kib = self.most_res_kib = 0

    @property
    def vm_pte_kib(self) -> int:
        return 4 * sum(map(len, self.tables))

    @property
    def res_kib(self) -> int:
        return 4 * list(self.entries.values()).count("present")

    @property
    def outcome(self) -> dict[str, int]:
        """Return those columns of an outcome that a trace determines."""
        needed = [{page // span for page in self.entries} for span in SPANS]
        pte, pmd, pud = map(len, self.tables)
        return {
            "res_bytes_peak": self.most_res_kib << 10,
            "res_bytes_end": self.res_kib << 10,
            "vm_pte_kib_peak": self.most_vm_pte_kib,
            "vm_pte_kib_end": self.vm_pte_kib,
            "vm_pte_kib_max": self.most_vm_pte_kib,
            "vm_pte_kib_needed_end": 4 * sum(map(len, needed)),
            "pte_tables_end": pte,
            "pmd_tables_end": pmd,
            "pud_tables_end": pud,
            "pte_tables_empty_end": len(self.tables[0] - needed[0]),
            "ptes_installed": self.installed,
            "ptes_zapped": self.zapped,
            "pte_tables_allocated": self.allocated,
            "pte_tables_freed": self.freed,
        }

    def apply(self, op: str, start: int, length: int, stride: int) -> None:
        """Apply one operation of a trace. start, length, stride: bytes."""
        covered = range(start // PAGE, -(-(start + length) // PAGE))
        pages = [page for page in covered if page in self.mapped]
        if op == "mmap":
            self.mapped |= set(covered)
        elif op == "munmap":
            self.mapped -= set(pages)
            self.unmap(pages)
        elif op in ("write", "read"):
            self.returned -= set(pages)
            for at in range(start, start + length, stride):
                self.touch(at // PAGE, op == "write")
        elif op == "guard_install":
            self.returned -= set(pages)
            for page in pages:
                self.allocate_tables(page)
                self.entries[page] = "marker"
        elif op == "guard_remove":
            self.clear(pages, ("marker",))
        elif self.policy == "munmap":
            self.returned |= set(pages)
            before, entries = len(self.tables[0]), len(self.entries)
            self.unmap(pages)
            self.freed += before - len(self.tables[0])
            self.zapped += entries - len(self.entries)
        elif op != "free":
            self.purge(pages)
        self.operations += 1
        self.most_vm_pte_kib = max(self.most_vm_pte_kib, self.vm_pte_kib)
        self.most_res_kib = max(self.most_res_kib, self.res_kib)
        self.free_empty_tables()

    def touch(self, page: int, write: bool) -> None:
        """Write to or read a page: a fault installs it, reads map the zero page."""
        entry = self.entries.get(page)
        if page in self.mapped and entry != "marker":
            self.allocate_tables(page)
            self.installed += entry is None
            self.entries[page] = "present" if write or entry == "present" else "zero"

    def allocate_tables(self, page: int) -> None:
        self.allocated += page // ENTRIES not in self.tables[0]
        for level, span in enumerate(SPANS):
            self.tables[level].add(page // span)

    def clear(self, pages: list[int], states: tuple[str, ...]) -> None:
        for page in pages:
            if self.entries.get(page) in states:
                del self.entries[page]

    def unmap(self, pages: list[int]) -> None:
        """Clear the pages' entries, and free each table, of any level, whose span has no mapped page left."""
        self.clear(pages, ("present", "zero", "marker"))
        live = self.mapped - self.returned if self.policy == "munmap" else self.mapped
        for level, span in enumerate(SPANS):
            self.tables[level].intersection_update({page // span for page in live})

    def purge(self, pages: list[int]) -> None:
        """Clear pages, not markers; the whole-slot policies free each table whose slot is covered and now empty."""
        before = len(self.entries)
        self.clear(pages, ("present", "zero"))
        self.zapped += before - len(self.entries)
        if self.policy in ("second_walk", "seed_inline", "merged"):
            covered = set(pages)
            for slot in list(self.tables[0]):
                span = range(slot * ENTRIES, (slot + 1) * ENTRIES)
                if covered.issuperset(span) and not any(page in self.entries for page in span):
                    self.tables[0].remove(slot)
                    self.freed += 1

    def free_empty_tables(self) -> None:
        """Free all empty tables: under refcount at once, under async every `scan_every` operations."""
        if self.policy == "refcount" or (self.policy == "async" and self.operations % self.scan_every == 0):
            in_use = {page // ENTRIES for page in self.entries}
            self.freed += len(self.tables[0] - in_use)
            self.tables[0].intersection_update(in_use)
