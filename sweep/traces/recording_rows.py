"""The rows of the recordings that `sweep record` writes: what their letters and words mean. docs/traces.md has them."""

from engine.traces.vmas import READ, WRITE
from sweep.traces.calls import Call

HEADER = "ptsweep recording 1"
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
}
OPS = {code: op for op, code in CODES.items()}
SEEN_WRITTEN, SEEN_READ = "w", "r"
"""Pages that were found present: private memory, and all others (of files, shared, the zero page, swapped)."""
HAS_HOLES, KEEPS_OLD = " holes", " keep"
MOST_RUNS = 2_000
"""Most runs of pages in a row."""
_FILE, _STACK, _HUGETLB = "f", "s", "h"


def rights_word(call: Call) -> str:
    """The rights of mmap and mprotect: r, w or - for none; then f: not private anonymous, s: stack, h: hugetlb."""
    rights = ("r" if call.rights & READ else "") + ("w" if call.rights & WRITE else "") or "-"
    if call.op != "mmap":
        return rights
    kinds = ((_FILE, not call.anonymous), (_STACK, call.stack), (_HUGETLB, not call.has_tables))
    return rights + "".join(letter for letter, applies in kinds if applies)


def mapped_as(row: int, op: str, start: int, length: int, word: str) -> Call:
    """The mmap or mprotect of a rights word. Raises ValueError for another word."""
    if not set(word) <= set("rw-fsh"):
        raise ValueError
    rights = (READ if "r" in word else 0) | (WRITE if "w" in word else 0)
    return Call(row, op, start, length, rights, _FILE not in word, _STACK in word, _HUGETLB not in word)
