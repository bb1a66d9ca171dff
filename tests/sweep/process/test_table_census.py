"""The tables of processes that the tests start, compared with what these know and with their VmPTE."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sweep.common.errors import UserError
from sweep.process import table_census
from sweep.process.pagemap import PageMap
from sweep.process.reclaim_estimate import estimate_reclaim
from tests.support.mapper import BASE, GIB, HALF_EMPTY, SLOT, mapper, region

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")


def test_a_sparse_mapper_is_counted_exactly() -> None:
    """Of 600 tables in 1 TiB the 300 emptied page by page are counted as those that calls over whole slots free."""
    with mapper(HALF_EMPTY) as process:
        census = table_census.take_census(process.pid)
        vma = region(census)
        assert (vma.present, vma.slots_with_entry, vma.slots) == (300, 300, 1 << 19)
        assert census.empty[0] <= 300 <= census.empty[1]
        spans = [(vma.mapping.start // SLOT, (vma.mapping.end - 1) // SLOT + 1) for vma in census.vmas]
        touched = {slot for first, last in spans for slot in range(first, last)}
        assert census.slots_without_entry == len(touched.difference(census.slot_numbers.tolist()))
        assert census.upper_least <= census.tables - census.needed - 300 <= census.upper_most
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        fell_to = int(process.stdout.readline())
        if fell_to == census.sizes.vm_pte_kib:
            pytest.skip("this kernel has no PT_RECLAIM: the rest cannot be seen")
        assert census.sizes.vm_pte_kib - fell_to == 300 * census.table_kib


def test_as_many_mappings_as_a_process_may_have() -> None:
    """Slots that many small VMAs share are counted once; none of them can be freed by a call within one VMA."""
    body = """
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
for page in range(0, 40 * 512, 2):
    assert libc.mprotect(BASE + page * 4096, 4096, 1) == 0
for slot in range(0, 40, 2):
    write(slot * SLOT + 4096)
EMPTIED = []
"""
    with mapper(body, size=40 * SLOT) as process:
        census = table_census.take_census(process.pid)
    small = [vma for vma in census.vmas if BASE <= vma.mapping.start < BASE + 40 * SLOT]
    assert len(small) == 40 * 512
    assert sum(vma.present for vma in small) == 20
    assert census.needed + census.upper_least <= census.tables
    slots = census.slot_numbers[(census.slot_numbers >= BASE // SLOT) & (census.slot_numbers < BASE // SLOT + 40)]
    assert len(slots) == 20
    assert sum(vma.whole_without_entry for vma in small) == 0


def test_what_an_entry_can_hold() -> None:
    """Pages, zero pages and guard markers are counted apart; each of them keeps a table in use."""
    body = """
EMPTIED = []
write(0); read(4096)
GUARDED = libc.madvise(BASE + 2 * SLOT, 8192, 102) == 0
"""
    with mapper(body) as process:
        vma = region(table_census.take_census(process.pid))
        if not vma.guard:
            pytest.skip("this kernel has no guard markers (Linux 6.13), or does not show them (6.15)")
        assert (vma.present, vma.zero, vma.guard, vma.slots_with_entry) == (1, 1, 2, 2)


def test_more_runs_than_one_scan_holds() -> None:
    """A scan continues where its last region ended, not at walk_end, which is then out of date."""
    with mapper("EMPTIED = []\nfor page in range(0, 80 * 512, 2):\n    write(page * 4096)") as process:
        census = table_census.take_census(process.pid)
        assert (region(census).present, region(census).slots_with_entry) == (80 * 256, 80)
        assert census.slot_entries[census.slot_numbers >= BASE // SLOT][:80].tolist() == 80 * [256]


def test_without_pagemap_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PAGEMAP_SCAN, reading /proc/PID/pagemap gives the same counts."""
    with mapper(HALF_EMPTY.replace("600", "60"), size=4 * GIB) as process:
        scanned = table_census.take_census(process.pid)

        def old(pid: int) -> PageMap:
            pages = PageMap(pid)
            pages.has_scan = False
            return pages

        monkeypatch.setattr(table_census, "PageMap", old)
        read = table_census.take_census(process.pid)
        assert (read.has_scan, region(read).entries) == (False, region(scanned).entries)
        assert read.slot_numbers.tolist() == scanned.slot_numbers.tolist()
        assert read.empty == scanned.empty


def test_policies_on_sparse_terabytes() -> None:
    """Under the whole-slot rule calls below a slot's size free no table, and larger ones free all empty tables."""
    body = """
EMPTIED = [tera << 19 for tera in range(20)]
for tera in range(40):
    write(tera << 40)
for slot in EMPTIED:
    libc.madvise(BASE + slot * SLOT, 4096, 4)
"""
    with mapper(body, size=40 << 40) as process:
        census = table_census.take_census(process.pid)
        rows = {(row.policy, row.zap): (row.least, row.most) for row in estimate_reclaim(census, (4096, SLOT, 1 << 41))}
        assert region(census).whole_without_entry == (40 << 19) - 20
        assert census.empty[1] >= 20
        assert rows["merged", 4096] == rows["none", SLOT] == (0, 0)
        assert rows["merged", SLOT][1] == rows["refcount", 4096][1] == census.empty[1]


def test_blocks_with_an_entry_are_not_zapped() -> None:
    """Calls of 4 slots leave out blocks in which a page is resident."""
    body = """
EMPTIED = list(range(1, 12))
for slot in range(12):
    write(slot * SLOT)
for slot in EMPTIED:
    libc.madvise(BASE + slot * SLOT, 4096, 4)
"""
    with mapper(body, size=12 * SLOT) as process:
        census = table_census.take_census(process.pid)
        other = census.empty[1] - 11
        rows = {(row.policy, row.zap): row.most for row in estimate_reclaim(census, (SLOT, 4 * SLOT))}
        assert rows["merged", SLOT] - rows["merged", 4 * SLOT] >= 3 - other


LIBRARIES = ("", "libjemalloc.so.2", "libmimalloc.so.2", "libtcmalloc_minimal.so.4")


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda name: name or "none")
def test_under_an_allocator(library: str) -> None:
    """With each allocator, needed and upper tables never exceed VmPTE, and the bounds are close."""
    env = {"LD_PRELOAD": library, "PYTHONMALLOC": "malloc"} if library else None
    if library and subprocess.run(["true"], env=env, capture_output=True, text=True, check=False).stderr:
        pytest.skip(f"{library} is not installed")
    with mapper("EMPTIED = []\nx = [bytes(200_000) for _ in range(500)]\ndel x", size=SLOT, env=env) as process:
        census = table_census.take_census(process.pid)
        assert census.vm_pte_kib_before == census.sizes.vm_pte_kib
        assert census.needed + census.upper_least <= census.tables
        assert census.empty[1] - census.empty[0] <= 4


def test_a_process_that_ends_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends while it is read is an error, not a table of half its memory."""
    with mapper("EMPTIED = []") as process:
        read = PageMap.runs

        def and_kill(self: PageMap, start: int, end: int) -> Iterator[object]:
            process.kill()
            process.wait()
            return read(self, start, end)

        monkeypatch.setattr(PageMap, "runs", and_kill)
        with pytest.raises(UserError, match="ended while it was read"):
            table_census.take_census(process.pid)


def test_a_process_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's process gives one line that names the missing privilege."""

    def refused(pid: int) -> PageMap:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(table_census, "PageMap", refused)
    for uid, message in ((1000, "may not be read: run as its owner"), (0, "may not be read: not even by root here")):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        with mapper("EMPTIED = []") as process, pytest.raises(UserError, match=message):
            table_census.take_census(process.pid)
