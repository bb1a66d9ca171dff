"""Page-table geometry, and what depends on the page size: gather and flush limits.

arm64 is taken with 48-bit addresses, so 64 KiB pages fold the PUD level (docs/method.md, section 1).
"""

from dataclasses import dataclass

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


@dataclass(frozen=True, slots=True)
class Arch:
    """One architecture and page size. Sizes in bytes, spans in entries or tables as named."""

    name: str
    page_bytes: int
    has_pud: bool
    sends_ipis: bool  #: x86 interrupts other CPUs to flush; arm64 broadcasts TLBI in hardware

    @property
    def entries(self) -> int:
        """Entries a table; a table is one page of 8-byte entries."""
        return self.page_bytes // 8

    @property
    def span_bytes(self) -> int:
        """What one PTE table maps."""
        return self.page_bytes * self.entries

    @property
    def pmd_span_tables(self) -> int:
        """PTE tables under one PMD table."""
        return self.entries

    @property
    def pud_span_tables(self) -> int:
        """PTE tables under one PUD table (also where the level is folded)."""
        return self.entries * self.entries

    @property
    def gather_batch_slots(self) -> int:
        """MAX_GATHER_BATCH (include/asm-generic/tlb.h)."""
        return (self.page_bytes - 16) // 8

    @property
    def gather_batches(self) -> int:
        """MAX_GATHER_BATCH_COUNT, beside the batch of 8 slots on the stack (include/asm-generic/tlb.h)."""
        return 10_000 // self.gather_batch_slots

    @property
    def table_batch(self) -> int:
        """MAX_TABLE_BATCH: freed tables that go to RCU with one flush (include/asm-generic/tlb.h)."""
        return (self.page_bytes - 24) // 8

    @property
    def flush_ceiling(self) -> int:
        """More stride units than this are a full flush.

        x86: tlb_single_page_flush_ceiling (arch/x86/mm/tlb.c); arm64: MAX_DVM_OPS (asm/tlbflush.h), less one.
        """
        return 33 if self.sends_ipis else self.entries - 1


ARCHES = (
    Arch("x86-64", 4 * KIB, has_pud=True, sends_ipis=True),
    Arch("arm64-4k", 4 * KIB, has_pud=True, sends_ipis=False),
    Arch("arm64-16k", 16 * KIB, has_pud=True, sends_ipis=False),
    Arch("arm64-64k", 64 * KIB, has_pud=False, sends_ipis=False),
)
