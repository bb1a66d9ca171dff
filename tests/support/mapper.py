"""A process that maps and touches memory as a test says, and gives it back when it is asked to."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sweep.process import table_census

SLOT, GIB = 2 << 20, 1 << 30
BASE = 16 << 40

MAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
SLOT, BASE = 2 << 20, 16 << 40
PRIVATE_ANONYMOUS_FIXED_NORESERVE = 0x4032
assert libc.mmap(BASE, SIZE, 3, PRIVATE_ANONYMOUS_FIXED_NORESERVE, -1, 0) == BASE
def vm_pte():
    return int(open("/proc/self/status").read().split("VmPTE:")[1].split()[0])
def write(at):
    ctypes.memset(BASE + at, 1, 1)
def read(at):
    ctypes.string_at(BASE + at, 1)
vm_pte()
BODY
print("ready", flush=True)
for line in sys.stdin:
    for slot in EMPTIED:
        libc.madvise(BASE + slot * SLOT, SLOT, 4)
    print(vm_pte(), flush=True)THEN
"""


@contextmanager
def mapper(
    body: str, size: int = 1 << 40, env: dict[str, str] | None = None, then: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """Start a Python process that maps `size` bytes at BASE and runs `body`; it lives until the test is done.

    For each line that it is sent it gives back the slots EMPTIED, prints its VmPTE and runs `then`.
    """
    text = MAPPER.replace("SIZE", str(size)).replace("BODY", body).replace("THEN", then)
    command = [sys.executable, "-c", text]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


HALF_EMPTY = """
for slot in range(600):
    write(slot * 3 * SLOT)
EMPTIED = [slot * 3 for slot in range(1, 600, 2)]
for slot in EMPTIED:
    libc.madvise(BASE + slot * SLOT, 4096, 4)
"""


def region(census: table_census.TableCensus) -> table_census.VmaCount:
    return next(vma for vma in census.vmas if vma.mapping.start == BASE)
