"""Page-table geometry of each architecture and page size, with the kernel's limits for gathers and TLB flushes.

arm64 has 48-bit addresses here, so 64 KiB pages fold the PUD level (docs/method.md, section 1).
"""

from dataclasses import dataclass

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


@dataclass(frozen=True, slots=True)
class Arch:
    """One architecture with one page size. The suffix of each name gives its unit."""

    name: str
    page_bytes: int
    has_pud: bool
    sends_ipis: bool  #: x86 interrupts other CPUs to flush; arm64 broadcasts TLBI in hardware

    @property
    def entries(self) -> int:
        """Entries per table. A table is one page of 8-byte entries."""
        return self.page_bytes // 8

    @property
    def span_bytes(self) -> int:
        """Size of a slot: the bytes of address space that one PTE table maps."""
        return self.page_bytes * self.entries

    @property
    def pmd_span_tables(self) -> int:
        """PTE tables under one PMD table."""
        return self.entries

    @property
    def pud_span_tables(self) -> int:
        """PTE tables under one PUD table. The value is also defined where the PUD level is folded."""
        return self.entries * self.entries

    @property
    def gather_batch_pages(self) -> int:
        """Places for pages in a gather batch: MAX_GATHER_BATCH (include/asm-generic/tlb.h)."""
        return (self.page_bytes - 16) // 8

    @property
    def gather_batches(self) -> int:
        """MAX_GATHER_BATCH_COUNT (include/asm-generic/tlb.h). The first batch, 8 pages on the stack, is not counted."""
        return 10_000 // self.gather_batch_pages

    @property
    def huge_flush_unit_pages(self) -> int:
        """Unit of the flush of a huge entry that is split: flush_pmd_tlb_range takes pages on x86, slots on arm64."""
        return 1 if self.sends_ipis else self.entries

    @property
    def table_batch(self) -> int:
        """Freed tables handed to RCU with one TLB flush: MAX_TABLE_BATCH (include/asm-generic/tlb.h)."""
        return (self.page_bytes - 24) // 8

    @property
    def flushes_folded_p4d(self) -> bool:
        """Whether unmapping all below a PGD entry flushes a page even if nothing is there.

        With CONFIG_X86_5LEVEL free_p4d_range calls p4d_free_tlb also where the level is folded when the kernel boots.
        """
        return self.sends_ipis

    @property
    def flush_ceiling(self) -> int:
        """The largest range, in stride units, that is flushed by single invalidations; longer ones flush the whole TLB.

        x86: tlb_single_page_flush_ceiling (arch/x86/mm/tlb.c). arm64: MAX_DVM_OPS - 1 (asm/tlbflush.h).
        """
        return 33 if self.sends_ipis else self.entries - 1


ARCHES = (
    Arch("x86-64", 4 * KIB, has_pud=True, sends_ipis=True),
    Arch("arm64-4k", 4 * KIB, has_pud=True, sends_ipis=False),
    Arch("arm64-16k", 16 * KIB, has_pud=True, sends_ipis=False),
    Arch("arm64-64k", 64 * KIB, has_pud=False, sends_ipis=False),
)
