"""The rows of the recordings that `sweep record` writes: what their letters and words mean. docs/traces.md has them."""

from engine.traces.vmas import EXECUTE, LOCKED, NORESERVE, READ, WRITE
from sweep.trace_readers.calls import Call

HEADER = "ptsweep recording 2"
HEADERS = ("ptsweep recording 1", HEADER)
"""Version 1 has `w` and `r` rows in place of `W` and `R`, and no `b` rows."""
CODES = {
    "mmap": "m",
    "munmap": "u",
    "mprotect": "p",
    "mremap": "v",
    "dontneed": "d",
    "free": "f",
    "hugepage": "h",
    "nohugepage": "n",
    "collapse": "c",
    "guard_install": "g",
    "guard_remove": "x",
    "flags": "a",
    "policy": "b",
}
OPS = {code: op for op, code in CODES.items()}
SEEN_WRITTEN, SEEN_READ = "W", "R"
"""Pages that were found present: private memory, and all others (of files, shared, the zero page, swapped)."""
OLD_SEEN = {"w": SEEN_WRITTEN, "r": SEEN_READ}
DEFAULT_POLICY = "default"
HAS_HOLES, KEEPS_OLD = " holes", " keep"
STOPS_AT = {"hole": "hole", "lock": "locked"}
"""A call that failed acted up to there: Call.stops_at, and its word."""
MOST_RUNS = 2_000
"""Most runs of pages in a row."""
_FILE, _STACK, _HUGETLB, _NORESERVE, _LOCKED = "f", "s", "h", "n", "l"


_RIGHTS = (("r", READ), ("w", WRITE), ("x", EXECUTE))
_MAPPED_FLAGS = ((_NORESERVE, NORESERVE), (_LOCKED, LOCKED))


def rights_word(call: Call) -> str:
    """The rights of mmap and mprotect: r, w, x, or - for none.

    Of mmap then f: not private anonymous, s: stack, h: hugetlb, n: MAP_NORESERVE, l: MAP_LOCKED.
    """
    rights = "".join(letter for letter, bit in _RIGHTS if call.rights & bit) or "-"
    if call.op != "mmap":
        return rights
    kinds = (
        (_FILE, not call.anonymous),
        (_STACK, call.stack),
        (_HUGETLB, not call.has_tables),
        *((letter, call.flags & bit) for letter, bit in _MAPPED_FLAGS),
    )
    return rights + "".join(letter for letter, applies in kinds if applies)


def mapped_as(row: int, op: str, start: int, length: int, word: str) -> Call:
    """The mmap or mprotect of a rights word. Raises ValueError for another word."""
    if not set(word) <= set("rwx-fshnl"):
        raise ValueError
    rights, flags = (sum(bit for letter, bit in bits if letter in word) for bits in (_RIGHTS, _MAPPED_FLAGS))
    return Call(row, op, start, length, rights, _FILE not in word, _STACK in word, _HUGETLB not in word, flags=flags)
