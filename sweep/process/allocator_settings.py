"""What to change in an allocator so that its purges cover whole slots: knob, default, effect on the calls, source.

The documentation is each project's own; "measured" points to docs/findings.md, whose tables are made by its commands.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Knob:
    allocator: str
    knob: str
    default: str
    effect: str
    source: str


JEMALLOC = "https://jemalloc.net/jemalloc.3.html"
TUNING = "https://github.com/jemalloc/jemalloc/blob/dev/TUNING.md"
MIMALLOC = "https://microsoft.github.io/mimalloc/environment.html"
MIMALLOC_OPTIONS = "https://microsoft.github.io/mimalloc/group__options.html"
TCMALLOC = "https://github.com/google/tcmalloc/blob/master/docs/tuning.md"
GPERFTOOLS = "https://gperftools.github.io/gperftools/tcmalloc.html"
GLIBC = "https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html"
TRIM = "https://man7.org/linux/man-pages/man3/malloc_trim.3.html"
GO = "https://pkg.go.dev/runtime#hdr-Environment_Variables"
GO_CHUNKS = "https://github.com/golang/go/issues/55328"
GO_FREE = "https://pkg.go.dev/runtime/debug#FreeOSMemory"

KNOBS = (
    Knob(
        "jemalloc",
        "MALLOC_CONF=dirty_decay_ms:N",
        "10000",
        "longer: neighbouring free extents merge before they are purged, so that more calls cover whole slots; 0 "
        "purges each by itself: 21 % of the bytes in whole slots, against 77 %, and 561 empty tables of 582 (measured)",
        f"{JEMALLOC}#opt.dirty_decay_ms",
    ),
    Knob(
        "jemalloc",
        "MALLOC_CONF=narenas:N",
        "4 per CPU",
        "fewer arenas keep free memory together (less fragmentation, as its tuning guide says), so that extents grow",
        TUNING,
    ),
    Knob(
        "jemalloc",
        "MALLOC_CONF=retain:false",
        "true on 64-bit Linux",
        "unused address space is unmapped instead of kept: munmap frees tables of every level, in every kernel; 22 "
        "tables instead of 582 (measured). Costs mmap calls and VMAs",
        f"{JEMALLOC}#opt.retain",
    ),
    Knob(
        "jemalloc",
        "MALLOC_CONF=muzzy_decay_ms:0",
        "0",
        "keep it: with another value memory goes by MADV_FREE first, which frees no table under any kernel",
        f"{JEMALLOC}#opt.muzzy_decay_ms",
    ),
    Knob(
        "mimalloc 3",
        "MIMALLOC_MINIMAL_PURGE_SIZE=2048",
        "0: 64 KiB, or 2048 (KiB) where THP is on",
        "purges come in aligned 2 MiB pieces: each covers a whole slot",
        MIMALLOC_OPTIONS,
    ),
    Knob(
        "mimalloc 2",
        "MIMALLOC_PURGE_DELAY=N",
        "10 (1000 in version 3)",
        "longer: freed pages of a segment gather before they are purged, so that calls grow",
        MIMALLOC,
    ),
    Knob(
        "tcmalloc (google)",
        "MallocExtension::ReleaseMemoryToSystem(n)",
        "not called; a background rate releases",
        "its huge-page cache gives back whole aligned 2 MiB pages; smaller pieces break huge pages, as its guide warns "
        "of, and cover no slot",
        TCMALLOC,
    ),
    Knob(
        "tcmalloc (gperftools)",
        "TCMALLOC_RELEASE_RATE=N",
        "1.0",
        "gives back a span at a time, as large as its neighbours were free: a higher rate means more calls, not larger",
        GPERFTOOLS,
    ),
    Knob(
        "tcmalloc (gperftools)",
        "TCMALLOC_AGGRESSIVE_DECOMMIT=1",
        "0",
        "each free span goes back at once: calls are as small as what is freed, and cover fewer slots",
        GPERFTOOLS,
    ),
    Knob(
        "glibc",
        "GLIBC_TUNABLES=glibc.malloc.mmap_threshold=N",
        "128 KiB, grows up to 32 MiB",
        "blocks above it are mapped by themselves and unmapped when freed; a fixed value stops its growth. munmap "
        "frees the table once nothing else lives in the slot",
        GLIBC,
    ),
    Knob(
        "glibc",
        "malloc_trim(0)",
        "not called below the top of a heap",
        "gives back the whole pages of each free chunk by itself: a table goes only where one chunk covers its slot",
        TRIM,
    ),
    Knob(
        "Go",
        "debug.FreeOSMemory",
        "not called",
        "gives back all free memory at once; the background scavenger goes by 64 KiB, which frees no table",
        f"{GO_FREE} {GO_CHUNKS}",
    ),
    Knob(
        "Go",
        "GODEBUG=madvdontneed=1",
        "1 since Go 1.16",
        "keep it: with 0 memory goes by MADV_FREE, which frees no table",
        GO,
    ),
)
