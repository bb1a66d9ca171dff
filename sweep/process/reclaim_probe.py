"""Tests in this process whether the kernel frees empty page tables, by its own VmPTE."""

import mmap
import os
from contextlib import suppress

from engine.traces.page_tables import PAGE, SLOT
from sweep.process.proc import read_sizes

_SLOTS = 16


def kernel_policy() -> str:
    """`merged` if a zap of whole slots frees their tables on this kernel, else `none`. Raises UserError."""
    with mmap.mmap(-1, (_SLOTS + 1) * SLOT, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)  # a zapped huge page loses its table under every policy
        memory[::SLOT] = bytes(_SLOTS + 1)
        before = read_sizes(os.getpid()).vm_pte_kib
        memory.madvise(mmap.MADV_DONTNEED)
        freed_kib = before - read_sizes(os.getpid()).vm_pte_kib
    return "merged" if freed_kib > _SLOTS // 2 * PAGE >> 10 else "none"
