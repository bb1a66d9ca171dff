"""The twin's mmu_gather: what one call holds back until it may flush (mm/mmu_gather.c, include/asm-generic/tlb.h)."""

from collections import Counter

from engine.model.arch import Arch

STACK_SLOTS = 8  # MMU_GATHER_BUNDLE


class Gather:
    """Pages and tables waiting for a flush, and the byte range [lo, hi) to be flushed."""

    def __init__(self, arch: Arch, threads: int, work: Counter[str]) -> None:
        self.arch, self.work = arch, work
        self.ipis_per_flush = threads - 1 if arch.sends_ipis else 0
        self.nr, self.max, self.batches = 0, STACK_SLOTS, 0
        self.lo, self.hi, self.tables, self.cleared_entries = 0, 0, 0, False

    def remove_pages(self, run: int) -> bool:
        """Take a run of neighbouring pages of one folio; True when no batch is left (a force break).

        __tlb_remove_folio_pages_size: a run of several pages also stores its length; tlb_next_batch.
        """
        self.nr += 1 if run == 1 else 2
        if self.nr < self.max - 1:
            return False
        if self.batches == self.arch.gather_batches:
            return True
        self.batches, self.nr, self.max = self.batches + 1, 0, self.arch.gather_batch_slots
        return False

    def cover_entries(self, page: int, run: int) -> None:
        """tlb_remove_tlb_entry for a run of entries, from the VMA's page `page` on."""
        self._cover(page * self.arch.page_bytes, (page + run) * self.arch.page_bytes)
        self.cleared_entries = True

    def remove_table(self, table: int) -> None:
        """pte_free_tlb: its first page joins the range; a full table batch flushes at once (tlb_remove_table)."""
        slot = table * self.arch.span_bytes
        self._cover(slot, slot + self.arch.page_bytes)
        self.tables += 1
        if self.tables == self.arch.table_batch:
            self.flush()

    def flush(self) -> None:
        """tlb_flush_mmu_tlbonly and tlb_table_flush; an empty range is no flush."""
        if self.hi > self.lo:
            stride = self.arch.page_bytes if self.cleared_entries else self.arch.span_bytes
            if (self.hi - self.lo) // stride > self.arch.flush_ceiling:
                self.work["tlb_flushes_full"] += 1
            else:
                self.work["tlb_invlpgs"] += -((self.lo - self.hi) // stride)
            self.work["ipis"] += self.ipis_per_flush
        self.lo, self.hi, self.tables, self.cleared_entries = 0, 0, 0, False

    def force_flush(self) -> None:
        """tlb_flush_mmu at a force break: the pages go too, and the gather starts on its stack batch again."""
        self.flush()
        self.nr, self.max, self.batches = 0, STACK_SLOTS, 0

    def _cover(self, lo: int, hi: int) -> None:
        self.lo, self.hi = (min(self.lo, lo), max(self.hi, hi)) if self.hi > self.lo else (lo, hi)
