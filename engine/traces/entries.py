"""The entries of one address space: faults install them, zaps clear them, and huge pages come and are split."""

from collections.abc import Sequence

from engine.traces.geometry import X86, Geometry
from engine.traces.huge_pages import HugePages
from engine.traces.page_tables import PteTable
from engine.traces.ruled_tables import RuledTables
from engine.traces.trace_rules import GatherBatches, TraceRule
from engine.traces.vmas import ANONYMOUS, Vma, Vmas


class Entries(RuledTables):
    """The entries of page tables, which are equal under all rules.

    vmas: the VMAs of the address space, which the caller changes
    present_pages, max_present_pages: resident pages now, and their maximum so far
    installed, zapped: entries of tables that touches installed, and that zaps cleared
    huge_pages, max_huge_pages: huge pages mapped by a PMD entry now, and their maximum so far
    thp_faults, thp_splits: huge pages that faults brought, and PMD entries that were split
    """

    def __init__(
        self, vmas: Vmas, rules: Sequence[TraceRule], geometry: Geometry = X86, *, scan_every: int = 1
    ) -> None:
        super().__init__(rules, geometry, scan_every)
        self.vmas = vmas
        self.present_pages = self.max_present_pages = 0
        self.installed = self.zapped = 0
        self.huge_pages = self.max_huge_pages = self.thp_faults = self.thp_splits = 0
        self._allowed: HugePages | None = None

    def allow_huge_pages(self, allowed: HugePages) -> None:
        """Let huge pages come where they are allowed. Entries then depend on the rule, so there must be one only."""
        self._allowed = allowed

    def release(self) -> None:
        """End the process: its huge pages, which other processes may share, count one user less."""
        for table in self.page_tables.all_tables():
            table.drop_folio(self.all_entries)

    @property
    def res_kib(self) -> int:
        """Resident memory in KiB."""
        return self.present_pages * self.geometry.page_kib

    def is_mapped(self, start: int, end: int) -> bool:
        """Whether anything in [start, end) is mapped, so that free_pgtables keeps its tables."""
        return self.vmas.any_in(start, end)

    def is_mapped_whole(self, vma: Vma, start: int, end: int) -> bool:
        """Whether all of [start, end) is mapped in this VMA."""
        return vma.start <= start and end <= vma.end

    def _note_maximum(self) -> None:
        self.max_present_pages = max(self.max_present_pages, self.present_pages)
        self.max_huge_pages = max(self.max_huge_pages, self.huge_pages)

    def _install(self, vma: Vma, slot: int, mask: int, write: bool) -> None:
        """Fault in the entries of `mask`: a write maps pages, a read the zero page where none is mapped.

        A read of a file or of shared memory maps pages as well. Follows do_anonymous_page, do_read_fault. Markers and
        present entries do not change.
        """
        if self._allowed is not None and self._install_huge(vma, slot, mask, write):
            return
        table = self.page_tables.install(slot)
        if write and table.folio:
            if table.is_shared:
                table.drop_folio(mask)  # each page is copied (wp_page_copy)
            else:
                table.written |= table.folio & mask
        mask &= ~(table.marker | table.present)
        if mask:
            self.installed += (mask & ~table.zero).bit_count()
            if write:
                if not vma.anon:
                    self.vmas.prepare_anon(vma)
                table.present |= mask
                table.zero &= ~mask
                self.present_pages += mask.bit_count()
            elif vma.backing > ANONYMOUS:
                table.present |= mask
                self.present_pages += mask.bit_count()
            else:
                table.zero |= mask
        if table.exists != self._all_bits:
            self._allocate(table)

    def _install_huge(self, vma: Vma, slot: int, mask: int, write: bool) -> bool:
        """Fault in the slot as a whole if a huge page may be or is there. Returns whether it is.

        Follows do_huge_pmd_anonymous_page and, for a write to the huge zero page, do_huge_zero_wp_pmd.
        """
        table = self.page_tables.get(slot)
        if table is None or not table.exists:
            assert self._allowed is not None
            if not self._allowed.allows_fault(vma) or not self.is_mapped_whole(
                vma, slot * self.slot_bytes, (slot + 1) * self.slot_bytes
            ):
                return False
            table = self.page_tables.install(slot)
            self._allocate(table)
            self.vmas.prepare_anon(vma)
            table.huge, table.zero = True, self.all_entries
        elif not table.huge:
            return False
        if write and table.is_shared:  # copied page by page (do_huge_pmd_wp_page)
            self._split(table)
            return False
        if write:
            if table.zero:
                self.vmas.prepare_anon(vma)
                self.thp_faults += 1
                self._map_huge(table, 0)
            table.written |= mask
        return True

    def _map_huge(self, table: PteTable, written: int) -> None:
        """Let a PMD entry map a huge page, in which the pages of `written` hold something, in place of the table."""
        self.present_pages += self.entries - table.present.bit_count()
        self.huge_pages += 1
        table.drop_folio(self.all_entries)
        table.huge, table.present, table.zero = True, self.all_entries, 0
        table.folio, table.written = self.all_entries, written
        self._note_maximum()

    def _split(self, table: PteTable) -> None:
        """Let the table, with all entries, map what a PMD entry mapped (__split_huge_pmd)."""
        table.huge = False
        self.huge_pages -= bool(table.folio)
        self.thp_splits += 1

    def _split_folio(self, table: PteTable) -> None:
        """Split the huge page itself; pages that hold zeros become the zero page (try_to_map_unused_to_zeropage)."""
        if table.huge:
            self._split(table)
        unused = table.folio & ~table.written
        table.present ^= unused
        table.zero |= unused
        self.present_pages -= unused.bit_count()
        table.drop_folio(self.all_entries)

    def _zap_huge(self, table: PteTable, gather: GatherBatches) -> None:
        """Clear a PMD entry, and free the table that waited for a split, under every rule (zap_huge_pmd)."""
        if self._asks_for_breaks and table.folio:
            gather.add_huge_page()
        self._zap(table, self.all_entries)
        for rule in self._bits:
            self._free(table, rule)

    def _zap(self, table: PteTable, mask: int) -> int:
        """Clear the entries of `mask` except markers. Returns the number of cleared entries of the table.

        Of a huge page `mask` must be all.
        """
        if table.huge:
            table.huge = False
            self.huge_pages -= bool(table.folio)
            self.present_pages -= table.present.bit_count()
            table.present = table.zero = 0
            table.drop_folio(self.all_entries)
            return 0
        present, zero = table.present & mask, table.zero & mask
        if not (present or zero):
            return 0
        pages = present.bit_count()
        self.present_pages -= pages
        table.present ^= present
        table.zero ^= zero
        if table.folio:
            table.drop_folio(mask)
        return pages + zero.bit_count()
