"""The geometry of page tables in a replay, as plain numbers: the inner loops read them at every call."""

from engine.model.arch import ARCHES, Arch


class Geometry:
    """Of one architecture and page size (engine/model/arch.py).

    page, slot, pmd_span, pud_span: bytes that an entry, a PTE, a PMD and a PUD table map
    entries: of a table, a power of two, 2^shift; all_entries: the bits of all of them
    """

    __slots__ = ("all_entries", "arch", "entries", "page", "pmd_span", "pud_span", "shift", "slot")

    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        self.page, self.entries, self.slot = arch.page_bytes, arch.entries, arch.span_bytes
        self.shift = self.entries.bit_length() - 1
        self.pmd_span = self.slot * arch.pmd_span_tables
        self.pud_span = self.slot * arch.pud_span_tables
        self.all_entries = (1 << self.entries) - 1

    @property
    def page_kib(self) -> int:
        return self.page >> 10

    def mask_of(self, start: int, end: int, slot: int) -> int:
        """Return the entries of the slot that [start, end), in bytes on pages, covers: bit i for entry i."""
        low, high = start - slot * self.slot, end - slot * self.slot
        if low <= 0:
            return self.all_entries if high >= self.slot else (1 << high // self.page) - 1
        low //= self.page
        return ((1 << (high // self.page if high < self.slot else self.entries) - low) - 1) << low


X86 = Geometry(ARCHES[0])
"""That of x86-64, and of arm64 with pages of 4 KiB."""
