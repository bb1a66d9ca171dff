"""The twin's mmu_gather: pages and tables that wait for a flush (mm/mmu_gather.c, include/asm-generic/tlb.h)."""

from collections import Counter

from engine.model.arch import Arch

STACK_BATCH_PAGES = 8  # MMU_GATHER_BUNDLE
NO_STRIDE = 1 << 62


class Gather:
    """Pages and tables waiting for a flush, and the byte range [lo, hi) to flush; counts flushes in `work`.

    stride: bytes of the smallest unit that is to be flushed
    """

    def __init__(self, arch: Arch, threads: int, work: Counter[str]) -> None:
        self.arch, self.work = arch, work
        self.ipis_per_flush = threads - 1 if arch.sends_ipis else 0
        self.nr, self.max, self.batches = 0, STACK_BATCH_PAGES, 0
        self.lo, self.hi, self.tables, self.stride = 0, 0, 0, NO_STRIDE

    def remove_pages(self, run: int) -> bool:
        """Add a run of adjacent pages of one folio; return True when no batch is left, which means a force break.

        A run of several pages takes two places, as its length is stored too (__tlb_remove_folio_pages_size,
        tlb_next_batch).
        """
        self.nr += 1 if run == 1 else 2
        if self.nr < self.max - 1:
            return False
        if self.batches == self.arch.gather_batches:
            return True
        self.batches, self.nr, self.max = self.batches + 1, 0, self.arch.gather_batch_pages
        return False

    def cover_entries(self, page: int, run: int) -> None:
        """Extend the flush range by `run` cleared entries from page `page` of the VMA on (tlb_remove_tlb_entry)."""
        self._cover(page * self.arch.page_bytes, (page + run) * self.arch.page_bytes, self.arch.page_bytes)

    def cover_slot(self, table: int) -> None:
        """Extend the flush range by a huge entry (tlb_remove_pmd_tlb_entry)."""
        self._cover(table * self.arch.span_bytes, (table + 1) * self.arch.span_bytes, self.arch.span_bytes)

    def remove_table(self, table: int, span_bytes: int) -> None:
        """Add a freed table of any level: the first page below it extends the range (pte_free_tlb, pmd_free_tlb).

        A full table batch is flushed.
        """
        self.cover_page(table * span_bytes, span_bytes)
        self.tables += 1
        if self.tables == self.arch.table_batch:
            self.flush()

    def cover_page(self, start: int, stride: int) -> None:
        """Extend the flush range by the page at byte `start`, as __tlb_adjust_range does for a freed table."""
        self._cover(start, start + self.arch.page_bytes, stride)

    def flush(self) -> None:
        """Flush the range, unless it is empty, and release the tables (tlb_flush_mmu_tlbonly, tlb_table_flush)."""
        if self.hi > self.lo:
            stride = self.arch.page_bytes if self.stride == NO_STRIDE else self.stride
            if (self.hi - self.lo) // stride > self.arch.flush_ceiling:
                self.work["tlb_flushes_full"] += 1
            else:
                self.work["tlb_invlpgs"] += -((self.lo - self.hi) // stride)
            self.work["ipis"] += self.ipis_per_flush
        self.lo, self.hi, self.tables, self.stride = 0, 0, 0, NO_STRIDE

    def force_flush(self) -> None:
        """Flush at a force break: release pages too, and restart on the stack batch (tlb_flush_mmu)."""
        self.flush()
        self.nr, self.max, self.batches = 0, STACK_BATCH_PAGES, 0

    def _cover(self, lo: int, hi: int, stride: int) -> None:
        """Extend the range; the smallest stride holds (tlb_get_unmap_shift)."""
        self.stride = min(self.stride, stride)
        self.lo, self.hi = (min(self.lo, lo), max(self.hi, hi)) if self.hi > self.lo else (lo, hi)
