"""A program that performs the operations of a trace on itself, one for each byte that it reads.

It imports nothing of ours, so that its own memory is small. Its argument is `thp` if it may have huge pages. It writes
a byte when it is ready, then reads a count (8 bytes, little-endian) and FIELDS int64 per operation: number in
OPERATIONS, start, length, stride, page size, all in bytes. It performs all operations once to warm up, so that its own
memory does not grow later, unmaps what is left, and writes a byte. From then on it answers each byte with one byte, the
errno of the next operation.
"""

import array
import ctypes
import gc
import os
import sys

OPERATIONS = (
    "mmap",
    "munmap",
    "mprotect_ro",
    "mprotect_rw",
    "write",
    "read",
    "dontneed",
    "dontneed_locked",
    "free",
    "guard_install",
    "guard_remove",
    "hugepage",
    "nohugepage",
    "collapse",
)
FIELDS = 5
ADVICE = {
    "dontneed": 4,
    "dontneed_locked": 24,
    "free": 8,
    "guard_install": 102,
    "guard_remove": 103,
    "hugepage": 14,
    "nohugepage": 15,
    "collapse": 25,
}
POPULATE = {"read": 22, "write": 23}  # MADV_POPULATE_*: fails where an access would raise SIGSEGV
_PRIVATE_ANONYMOUS_FIXED = 0x32
_PR_SET_THP_DISABLE = 41


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    size, address = ctypes.c_size_t, ctypes.c_void_p
    libc.mmap.restype, libc.mmap.argtypes = address, [address, size, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [address, size]
    libc.mprotect.argtypes = libc.madvise.argtypes = [address, size, ctypes.c_int]
    libc.memset.argtypes = [address, ctypes.c_int, size]
    libc.prctl(_PR_SET_THP_DISABLE, sys.argv[1] != "thp", 0, 0, 0)

    os.write(1, b"\0")
    count = int.from_bytes(_read_exactly(8), "little")
    rows = array.array("q", _read_exactly(count * FIELDS * 8))
    errors = array.array("B", bytes(count))
    for i in range(count):
        errors[i] = perform(libc, rows, i)
    for i in range(count):
        if OPERATIONS[rows[i * FIELDS]] == "mmap":
            libc.munmap(rows[i * FIELDS + 1], rows[i * FIELDS + 2])
    gc.disable()
    os.write(1, b"\0")
    for i in range(count):
        if not os.read(0, 1):
            return
        errors[i] = perform(libc, rows, i)
        os.write(1, errors[i : i + 1].tobytes())
    os.read(0, 1)


def perform(libc: ctypes.CDLL, rows: "array.array[int]", i: int) -> int:
    """Perform operation i. Returns its errno; 0 for reads and writes, which skip pages that they cannot access."""
    number, start, length, stride, page = rows[i * FIELDS : (i + 1) * FIELDS]
    op = OPERATIONS[number]
    if op in POPULATE:
        advice, last_page = POPULATE[op], -1
        for at in range(start, start + length, stride):
            if at // page != last_page:
                last_page = at // page
                # A byte that is not zero: when a huge page is split, pages of zeros become the zero page.
                if not libc.madvise(last_page * page, page, advice) and op == "write":
                    libc.memset(at, 1, 1)
        return 0
    if op == "mmap":
        result = 0 if libc.mmap(start, length, 3, _PRIVATE_ANONYMOUS_FIXED, -1, 0) == start else -1
    elif op == "munmap":
        result = libc.munmap(start, length)
    elif op.startswith("mprotect"):
        result = libc.mprotect(start, length, 1 if op == "mprotect_ro" else 3)
    else:
        result = libc.madvise(start, length, ADVICE[op])
    return ctypes.get_errno() if result else 0


def _read_exactly(size: int) -> bytes:
    """Read from stdin; ends the program if it is closed before."""
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            sys.exit(1)
        data += more
    return data


if __name__ == "__main__":
    main()
