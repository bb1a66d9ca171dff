"""What /proc shows of a process that ran before the recording began."""

from engine.traces.vmas import DONTDUMP, EXECUTE, LOCKED, NORESERVE, READ, WRITE
from sweep.process.proc import Mapping
from sweep.record.mapped_before import calls_of
from sweep.trace_readers.calls import Call

START, LENGTH = 0x7F0000000000, 1 << 20


def test_flags_of_a_mapping() -> None:
    """VmFlags become flags of the mmap and advice after it; those without a meaning here are left out."""
    mapping = Mapping(START, START + LENGTH, "rw-p", "")
    flags = frozenset(("rd", "wr", "mr", "mw", "me", "lo", "nr", "dd", "hg", "ac"))
    assert calls_of(mapping, flags, has_tables=True) == [
        Call(0, "mmap", START, LENGTH, READ | WRITE, flags=LOCKED | NORESERVE),
        Call(0, "flags", START, LENGTH, flags=DONTDUMP),
        Call(0, "hugepage", START, LENGTH),
    ]


def test_a_file_without_flags() -> None:
    mapping = Mapping(START, START + LENGTH, "r-xp", "/usr/lib/a.so")
    assert calls_of(mapping, frozenset(), has_tables=True) == [
        Call(0, "mmap", START, LENGTH, READ | EXECUTE, anonymous=False)
    ]
