"""The slow twin of engine/traces: a page at a time, every table looked at after every operation.

For traces of one mapping that is unmapped in part and never mapped or protected again: there every run of mapped pages
is one VMA. How VMAs merge and split is judged by the live kernel's recordings.
"""

PAGE, ENTRIES = 4096, 512
SPANS = (ENTRIES, ENTRIES**2, ENTRIES**3)
"""Pages under a table of each level."""


class Twin:
    """One policy. `entries`: page -> present, zero or marker; `tables`: a set of numbers for each level."""

    def __init__(self, policy: str, scan_every: int) -> None:
        self.policy, self.scan_every = policy, scan_every
        self.mapped: set[int] = set()
        self.returned: set[int] = set()  #: munmap: purged, and not mapped again
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
        """The columns of an outcome."""
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
                self.make(page)
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
        self.look()

    def touch(self, page: int, write: bool) -> None:
        held = self.entries.get(page)
        if page in self.mapped and held != "marker":
            self.make(page)
            self.installed += held is None
            self.entries[page] = "present" if write or held == "present" else "zero"

    def make(self, page: int) -> None:
        self.allocated += page // ENTRIES not in self.tables[0]
        for level, span in enumerate(SPANS):
            self.tables[level].add(page // span)

    def clear(self, pages: list[int], kinds: tuple[str, ...]) -> None:
        for page in pages:
            if self.entries.get(page) in kinds:
                del self.entries[page]

    def unmap(self, pages: list[int]) -> None:
        """A table of any level goes when nothing in its span is mapped."""
        self.clear(pages, ("present", "zero", "marker"))
        live = self.mapped - self.returned if self.policy == "munmap" else self.mapped
        for level, span in enumerate(SPANS):
            self.tables[level].intersection_update({page // span for page in live})

    def purge(self, pages: list[int]) -> None:
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

    def look(self) -> None:
        """refcount and async free what holds nothing: at once, and when it is time to scan."""
        if self.policy == "refcount" or (self.policy == "async" and self.operations % self.scan_every == 0):
            held = {page // ENTRIES for page in self.entries}
            self.freed += len(self.tables[0] - held)
            self.tables[0].intersection_update(held)
