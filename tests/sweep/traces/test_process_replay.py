"""ProcessReplay under `touch all`: a zap that is only counted equals one whose entries are cleared and written."""

import random
from collections.abc import Iterator

import pytest

from engine.model.policy import ALL
from engine.traces.page_tables import PAGE, SLOT
from engine.traces.vmas import READ, WRITE
from sweep.trace_readers.calls import Call
from sweep.traces.process_replay import ProcessReplay

BASE = 16 << 40


def random_calls(seed: int) -> Iterator[Call]:
    """Calls at borders of slots, where the parts of a zap share a slot with others; some advise on huge pages."""
    choose = random.Random(seed)
    yield Call(0, "mmap", BASE, 6 * SLOT)
    ops = ["mmap", "munmap", "mprotect", "free", *4 * ["dontneed"]]
    ops += ["hugepage", "guard_install", "guard_remove"] if seed % 4 == 0 else []
    for row in range(1, 60):
        start = BASE + choose.randrange(6) * SLOT + choose.choice((0, 0, PAGE, SLOT - PAGE, SLOT // 2))
        length = choose.choice((PAGE, PAGE, 100 * PAGE, SLOT // 2, SLOT, SLOT + PAGE, 3 * SLOT))
        yield Call(row, choose.choice(ops), start, length, choose.choice((0, READ, READ | WRITE)), has_holes=True)


@pytest.mark.parametrize("seed", range(24))
def test_a_counted_zap_equals_an_applied_one(seed: int) -> None:
    """Whoever asks for the state after a call sees the zap applied; the figures at the end are the same."""
    counted, applied = (
        ProcessReplay(1, "", ALL, counts=True, touch_all=True, scan_every=seed % 3 + 1) for _ in range(2)
    )
    for call in random_calls(seed):
        counted.apply(call)
        applied.apply(call)
        assert applied.replay.policies
    counted.finish()
    applied.finish()
    assert counted.figures == applied.figures
    assert any(figures["pte_tables_freed"] for figures in counted.figures.values())
