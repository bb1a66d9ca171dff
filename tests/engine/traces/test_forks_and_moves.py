"""Fork and mremap: what the live kernel (Linux 6.18.44) showed for the same calls."""

import pytest

from engine.model.policy import BUILT_IN
from engine.traces.huge_pages import HugePages
from engine.traces.operations import Operation
from engine.traces.page_tables import PAGE, SLOT
from engine.traces.replay import Replay
from engine.traces.vmas import READ, WRITE

BASE, FAR = 16 << 40, 24 << 40


def zap(replay: Replay, op: str, start: int, end: int) -> None:
    replay.zap(op, replay.vmas.pieces(start, end))


def written(slots: int) -> Replay:
    """A replay under merged and munmap, in which so many slots from BASE on are mapped and written."""
    replay = Replay([BUILT_IN["merged"], BUILT_IN["munmap"]])
    replay.apply(Operation("mmap", BASE, slots * SLOT))
    replay.apply(Operation("write", BASE, slots * SLOT, PAGE))
    return replay


def test_a_fork_copies_empty_tables_too() -> None:
    """A table that half-slot zaps emptied is in the child; what one of them unmaps the other keeps."""
    parent = written(4)
    for half in range(2):
        zap(parent, "dontneed", BASE + half * SLOT // 2, BASE + (half + 1) * SLOT // 2)
    child = parent.fork()
    assert (child.vm_pte_kib("merged"), child.res_kib("merged")) == (24, 3 * 2048)
    child.munmap(BASE, BASE + 4 * SLOT)
    assert (child.vm_pte_kib("merged"), parent.vm_pte_kib("merged")) == (0, 24)
    zap(parent, "dontneed", BASE + SLOT, BASE + 2 * SLOT)
    assert (parent.vm_pte_kib("merged"), child.vm_pte_kib_max("merged")) == (20, 24)


def test_a_fork_copies_no_shared_memory() -> None:
    """Shared memory is faulted in anew by the child."""
    parent = written(1)
    parent.mmap(BASE, BASE + SLOT, READ, backing=1)
    parent.touch_all(BASE, BASE + SLOT)
    assert (parent.vm_pte_kib("merged"), parent.res_kib("merged")) == (12, 2048)
    assert (parent.fork().vm_pte_kib("merged"), parent.fork().res_kib("merged")) == (0, 0)


def test_mremap_takes_tables_along() -> None:
    """Whole slots move with their tables; at another offset tables are allocated, one more than there were."""
    for shift, tables in ((0, 2), (PAGE, 3)):
        replay = written(2)
        replay.mremap(BASE, BASE + 2 * SLOT, FAR + shift, FAR + shift + 2 * SLOT, keep=False, number=1)
        assert (replay.vm_pte_kib("merged"), replay.res_kib("merged")) == (4 * (tables + 2), 4096)


def test_dontunmap_keeps_the_range_without_its_pages() -> None:
    """The old range can be written again, and then has tables of its own."""
    replay = written(4)
    replay.mremap(BASE, BASE + 4 * SLOT, FAR, FAR + 4 * SLOT, keep=True, number=1)
    assert replay.res_kib("merged") == 8192
    replay.touch_all(BASE, BASE + 4 * SLOT)
    assert (replay.vm_pte_kib("merged"), replay.res_kib("merged")) == (48, 16384)


def test_a_move_of_nothing_allocates_a_pud_table() -> None:
    """Beside memory with tables, a range that was never touched takes a PUD table to its new place (alloc_new_pud)."""
    replay = written(1)
    replay.mmap(BASE + 4 * SLOT, BASE + 5 * SLOT, 0)
    replay.mremap(BASE + 4 * SLOT, BASE + 5 * SLOT, FAR, FAR + SLOT, keep=False, number=1)
    assert replay.vm_pte_kib("merged") == 16


def huge(slots: int) -> Replay:
    """A replay in which so many huge pages are mapped, each with its first page written."""
    replay = Replay([BUILT_IN["merged"]], huge_pages=HugePages("always"))
    replay.apply(Operation("mmap", BASE, slots * SLOT))
    replay.apply(Operation("write", BASE, slots * SLOT, SLOT))
    return replay


def figures(replay: Replay) -> tuple[int, int, int]:
    """VmPTE, RES and AnonHugePages in KiB."""
    return replay.vm_pte_kib("merged"), replay.res_kib("merged"), replay.anon_huge_kib("merged")


def test_a_write_splits_a_huge_page_that_another_process_maps() -> None:
    """The page that is written is copied, so RES stays. MADV_FREE of a part leaves such a huge page as it is."""
    parent = huge(3)
    child = parent.fork()
    child.apply(Operation("write", BASE, PAGE, PAGE))
    zap(child, "free", BASE + SLOT, BASE + SLOT + PAGE)
    zap(parent, "free", BASE, BASE + PAGE)
    assert figures(child) == (20, 3 * 2048, 2 * 2048)
    assert figures(parent) == (20, 3 * 2048, 3 * 2048)


def test_a_process_that_ended_shares_no_huge_page() -> None:
    """Its parent writes to the huge page in place, and MADV_FREE of a part splits it again."""
    parent = huge(2)
    parent.fork().release()
    parent.apply(Operation("write", BASE, PAGE, PAGE))
    assert figures(parent) == (16, 2 * 2048, 2 * 2048)
    zap(parent, "free", BASE, BASE + PAGE)
    assert figures(parent) == (16, 2048 + 4, 2048)


def test_a_move_of_nothing_moves_no_tables() -> None:
    """A table that a zap freed is not there to be moved: the new place gets no PMD table."""
    replay = written(2)
    replay.mprotect(BASE, BASE + SLOT, READ)
    zap(replay, "dontneed", BASE, BASE + SLOT)
    replay.mremap(BASE, BASE + SLOT, FAR, FAR + SLOT, keep=False, number=1)
    assert replay.vm_pte_kib("merged") == 16


def test_dontunmap_of_a_part_splits_no_vma() -> None:
    """The VMA that pages are moved out of stays one, so a slot across the place may have a huge page."""
    replay = Replay([BUILT_IN["merged"]], huge_pages=HugePages("always"))
    replay.mmap(BASE, BASE + 2 * SLOT, READ | WRITE)
    replay.mremap(BASE + PAGE, BASE + SLOT + PAGE, FAR, FAR + SLOT, keep=True, number=1)
    replay.apply(Operation("write", BASE + SLOT, PAGE, PAGE))
    assert figures(replay) == (12, 2048, 2048)


def test_memory_that_was_never_touched_merges_where_it_is_moved_to() -> None:
    """Without an anon_vma its vm_pgoff follows its address (copy_vma), so a huge page may lie across the border."""
    replay = Replay([BUILT_IN["merged"]], huge_pages=HugePages("always"))
    replay.mmap(BASE, BASE + PAGE, READ | WRITE)
    replay.mmap(FAR, FAR + SLOT - PAGE, READ | WRITE)
    replay.mremap(FAR, FAR + SLOT - PAGE, BASE + PAGE, BASE + SLOT, keep=False, number=1)
    replay.apply(Operation("write", BASE, PAGE, PAGE))
    assert figures(replay) == (12, 2048, 2048)


@pytest.mark.parametrize(("is_alone", "more_kib"), [(True, 8), (False, 12)])
def test_a_move_may_begin_at_the_slot(is_alone: bool, more_kib: int) -> None:
    """If nothing else is mapped in the slot where a VMA begins, its table goes along (can_realign_addr).

    The new place needs two upper tables, and otherwise a PTE table beside the one that stays.
    """
    replay = written(2)
    if is_alone:
        replay.munmap(BASE, BASE + PAGE)
    before = replay.vm_pte_kib("merged")
    replay.mremap(BASE + PAGE, BASE + 2 * SLOT, FAR + PAGE, FAR + 2 * SLOT, keep=True, number=1)
    assert replay.vm_pte_kib("merged") - before == more_kib
