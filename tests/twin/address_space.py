"""The twin's address space: installs and the kernel's zap loops, with hooks for policies (docs/method.md, 3 and 4)."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from engine.model.results import COLUMNS, ROUND_COLUMNS
from tests.twin.draws import Call, Choices
from tests.twin.gather import Gather
from tests.twin.threads import Piece, Steps, Trylock

NONE, PRESENT, MARKER, ZERO = range(4)


class Table:
    """A PTE table: each entry's state, and whether its page was written since MADV_FREE last covered it."""

    def __init__(self, entries: int) -> None:
        self.entries = bytearray(entries)
        self.written = bytearray(entries)


@dataclass(slots=True)
class Visit:
    """Local state of zap_pte_range for one piece."""

    piece: Piece
    may_free: bool  #: can_reclaim_pt: the piece covers the slot, and no entry was skipped so far
    broke: bool = False  #: a force break happened, in the middle or on the last entry
    mid_break_at: int = 0  #: entries before this one were cleared under an earlier hold of the PTE lock


class Space:
    """An address space under the policy `none`. Other policies override the methods below 'Hooks'.

    `work` counts events by column name; `steps` holds the steps of each round's visits, written by Merged.
    """

    drops_markers = False  #: ZAP_FLAG_DROP_MARKER
    advice_matters = True

    def __init__(self, choices: Choices, steps: list[Steps]) -> None:
        self.s, self.arch, self.choices, self.steps = choices.s, choices.arch, choices, steps
        assert self.s.folio is not None
        self.folio = self.s.folio // self.arch.page_bytes
        self.work: Counter[str] = Counter()
        self.tables: dict[int, Table] = {}
        self.pmd_tables: set[int] = set()
        self.pud_tables: set[int] = set()
        self.round = 0
        self.visits: list[Piece] = []
        self.trylocks: list[Trylock] = []
        self.huge_peak = 0
        self.memory: list[tuple[int, int, int, int]] = []  # one tuple per round, in the order of ROUND_COLUMNS

    def run(self) -> None:
        """Simulate all rounds."""
        for round_ in range(self.s.rounds):
            self.round = round_
            self.visits, self.trylocks = [], []
            self.before_round()
            self.install()
            res_peak, pte_peak = self.res_bytes(), self.vm_pte_kib()
            self.huge_peak = self.anon_huge_kib()
            for call in self.choices.calls(self.round):
                self.one_call(call)
            self.after_round()
            self.memory.append((res_peak, self.res_bytes(), pte_peak, self.vm_pte_kib()))

    # Install

    def install(self) -> None:
        for t, entries in self.choices.installs(self.round).items():
            for entry in entries:
                self.write(t, entry)

    def write(self, t: int, entry: int) -> None:
        """Write to a page: a fault installs it if the entry is none."""
        if t in self.tables and self.tables[t].entries[entry] == MARKER:
            return
        table = self.table_for_fault(t)
        table.written[entry] = True
        if table.entries[entry] == NONE:
            table.entries[entry] = PRESENT
            self.work["ptes_installed"] += 1
            self.count_atomics(1)

    def set_markers(self) -> None:
        """Install guard markers (MADV_GUARD_INSTALL) on the pinned pages."""
        for t, entries in self.choices.pins().items():
            for entry in entries:
                table = self.table_for_fault(t)
                if table.entries[entry] == NONE:
                    table.entries[entry] = MARKER
                    self.count_atomics(1)

    def table_for_fault(self, t: int) -> Table:
        """Return a slot's table, allocating it and the tables above it if missing (pte_alloc)."""
        if t not in self.tables:
            self.tables[t] = Table(self.arch.entries)
            self.work["pte_tables_allocated"] += 1
            self.pmd_tables.add(t // self.arch.pmd_span_tables)
            if self.arch.has_pud:
                self.pud_tables.add(t // self.arch.pud_span_tables)
        return self.tables[t]

    # Calls

    def one_call(self, call: Call) -> None:
        self.work["zap_calls"] += 1
        gather = self.new_gather()
        for piece in self.pieces(call):
            if piece.table not in self.tables or self.meets_huge(piece, gather):  # pmd_none, pmd_trans_huge
                continue
            self.work["table_visits"] += 1
            self.visits.append(piece)
            if self.advice_matters and self.s.advice == "free":
                self.free_pte_range(piece, gather)
            else:
                self.zap_pte_range(piece, gather)
        self.after_zap(call, gather)
        gather.flush()

    def pieces(self, call: Call) -> Iterator[Piece]:
        """Split a call at the borders of slots, in address order (zap_pmd_range)."""
        entries, start, number = self.arch.entries, call.start, 0
        while start < call.end:
            t = start // entries
            end = min(call.end, (t + 1) * entries)
            yield Piece(call.index, number, t, start - t * entries, end - t * entries)
            start, number = end, number + 1

    def free_pte_range(self, piece: Piece, gather: Gather) -> None:
        """Apply MADV_FREE to a piece (madvise_free_pte_range): entries stay; only young or dirty ones need a flush."""
        table = self.tables[piece.table]
        for entry in range(piece.start, piece.end):
            if table.entries[entry] == PRESENT and table.written[entry]:
                table.written[entry] = False
                gather.cover_entries(piece.table * self.arch.entries + entry, 1)

    def zap_pte_range(self, piece: Piece, gather: Gather) -> None:
        """Clear a piece's entries, one hold of the PTE lock at a time, and free its table where the policy does."""
        visit = Visit(piece, may_free=piece.end - piece.start == self.arch.entries)
        at, fast = piece.start, False
        while at < piece.end and self.has_table(piece.table):  # refcount may free it at a break
            # The PTE lock is taken here ...
            at, cleared, full = self.clear_entries(visit, at, gather)
            visit.broke |= full
            if at == piece.end:
                fast = self.frees_under_lock(visit)
            elif full:
                visit.mid_break_at = at
            if full:
                self.work["force_breaks"] += 1
                gather.force_flush()
            # ... and dropped here.
            if fast:
                self.free(piece.table, gather)
            else:
                self.lock_dropped(visit, gather)
            self.refault(piece.table, cleared)
        if not fast:
            self.after_last_drop(visit, gather)

    def clear_entries(self, visit: Visit, at: int, gather: Gather) -> tuple[int, list[int], bool]:
        """Clear entries from `at` on until the piece ends or the gather is full (do_zap_pte_range, repeated).

        Returns the index of the next entry, the present entries that were cleared, and whether the gather is full.
        """
        piece, entries = visit.piece, self.tables[visit.piece.table].entries
        cleared: list[int] = []
        while at < piece.end:
            if entries[at] == NONE:
                at = piece.end - len(entries[at : piece.end].lstrip(b"\0"))
            elif entries[at] == MARKER:
                if self.drops_markers:
                    entries[at] = NONE
                    self.work["ptes_zapped"] += 1
                else:
                    visit.may_free = False  # any_skipped, f39edcf6349a
                at += 1
            else:
                run = self.folio_run(piece, at)
                cleared += range(at, at + run)
                entries[at : at + run] = bytes(run)  # NONE, each
                at += run
                self.work["ptes_zapped"] += run
                self.count_atomics(run)
                gather.cover_entries(piece.table * self.arch.entries + at - run, run)
                if gather.remove_pages(run):
                    return at, cleared, True
        return at, cleared, False

    def folio_run(self, piece: Piece, at: int) -> int:
        """Return the number of present entries from `at` on inside one aligned block (folio_pte_batch)."""
        entries, end = self.tables[piece.table].entries, min(piece.end, (at // self.folio + 1) * self.folio)
        stop = at + 1
        while stop < end and entries[stop] == PRESENT:
            stop += 1
        return stop - at

    def refault(self, t: int, cleared: list[int]) -> None:
        """Install again those cleared pages that are touched once the PTE lock is dropped."""
        for entry in cleared:
            if self.choices.refaulted(self.round, t * self.arch.entries + entry):
                self.write(t, entry)

    def free(self, t: int, gather: Gather) -> None:
        """Free a slot's table through the gather."""
        del self.tables[t]
        self.work["pte_tables_freed"] += 1
        gather.remove_table(t, self.arch.span_bytes)

    def try_to_free_pte(self, t: int, gather: Gather) -> None:
        """Take both locks, scan the table and free it if all entries are none (mm/pt_reclaim.c)."""
        self.work["pmd_locks"] += 1
        self.work["pte_locks_extra"] += 1
        if self.all_none(t, self.arch.entries):
            self.free(t, gather)

    def all_none(self, t: int, entries: int) -> bool:
        """Scan the first `entries` entries up to one that is not none; return whether there is no such entry."""
        for index, entry in enumerate(self.tables[t].entries[:entries]):
            if entry != NONE:
                self.work["ptes_rescanned"] += index + 1
                return False
        self.work["ptes_rescanned"] += entries
        return True

    def new_gather(self) -> Gather:
        return Gather(self.arch, self.s.threads, self.work)

    # Hooks

    def before_round(self) -> None:
        """Run before the installs of a round."""
        if self.round == 0:
            self.set_markers()

    def count_atomics(self, entries: int) -> None:
        """Count the atomic operations for `entries` installed or cleared entries."""

    def frees_under_lock(self, visit: Visit) -> bool:
        """Return whether to free the table without a scan: the piece is done and its PTE lock still held."""
        return False

    def lock_dropped(self, visit: Visit, gather: Gather) -> None:
        """Run after each drop of the PTE lock, before refaults."""

    def after_last_drop(self, visit: Visit, gather: Gather) -> None:
        """Run when the piece is done and its table was not freed under the lock; after refaults."""

    def after_zap(self, call: Call, gather: Gather) -> None:
        """Run when all pieces of a call are zapped, before its last flush."""

    def after_round(self) -> None:
        """Run after the last call of a round."""

    def has_table(self, t: int) -> bool:
        """Return whether a slot's PMD entry points to a PTE table."""
        return t in self.tables

    def meets_huge(self, piece: Piece, gather: Gather) -> bool:
        """Do to a huge page what the call does; return whether there is no table to go on with."""
        return False

    # Results

    def anon_huge_kib(self) -> int:
        return 0

    def res_bytes(self) -> int:
        return self.arch.page_bytes * sum(table.entries.count(PRESENT) for table in self.tables.values())

    def vm_pte_kib(self) -> int:
        return self.kib(len(self.tables) + len(self.pmd_tables) + len(self.pud_tables))

    def kib(self, tables: int) -> int:
        return self.arch.page_bytes // 1024 * tables

    def outcome(self) -> dict[str, int]:
        """Return the final value of every column of COLUMNS."""
        needed = [t for t, table in self.tables.items() if any(table.entries)]
        above = {("pmd", t // self.arch.pmd_span_tables) for t in needed}
        if self.arch.has_pud:
            above |= {("pud", t // self.arch.pud_span_tables) for t in needed}
        return {
            **{name: self.work[name] for name in COLUMNS},
            **dict(zip(ROUND_COLUMNS, self.memory[-1], strict=True)),
            "anon_huge_kib_peak": self.huge_peak,
            "anon_huge_kib_end": self.anon_huge_kib(),
            "vm_pte_kib_max": max(max(peak, end) for _, _, peak, end in self.memory),
            "vm_pte_kib_needed_end": self.kib(len(needed) + len(above)),
            "pte_tables_end": len(self.tables),
            "pmd_tables_end": len(self.pmd_tables),
            "pud_tables_end": len(self.pud_tables),
            "pte_tables_empty_end": len(self.tables) - len(needed),
        }
