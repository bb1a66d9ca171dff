"""The arguments of system calls as tracers print them: names and numbers to what they mean to the kernel.

Numbers count where a tracer has no name: `0x8 /* MADV_??? */` is MADV_FREE. They are those of x86-64 and arm64
(include/uapi/asm-generic/mman-common.h, mman.h, include/uapi/linux/mman.h, sched.h).
"""

import re
from functools import lru_cache

from engine.traces.vmas import READ, WRITE
from sweep.common.errors import one_line
from sweep.trace_readers.calls import CallBegun, SystemCall

_PROT = {"PROT_NONE": 0, "PROT_READ": READ, "PROT_WRITE": WRITE, "PROT_EXEC": 4}
_MAP = {
    "MAP_SHARED": 0x1,
    "MAP_PRIVATE": 0x2,
    "MAP_SHARED_VALIDATE": 0x3,
    "MAP_ANONYMOUS": 0x20,
    "MAP_ANON": 0x20,
    "MAP_LOCKED": 0x2000,
    "MAP_NORESERVE": 0x4000,
    "MAP_POPULATE": 0x8000,
    "MAP_STACK": 0x20000,
    "MAP_HUGETLB": 0x40000,
}
_MREMAP = {"MREMAP_MAYMOVE": 1, "MREMAP_FIXED": 2, "MREMAP_DONTUNMAP": 4}
_CLONE = {"CLONE_VM": 0x100, "CLONE_VFORK": 0x4000, "CLONE_THREAD": 0x10000}
_MCL = {"MCL_CURRENT": 1, "MCL_FUTURE": 2, "MCL_ONFAULT": 4}
CLONE_VM, CLONE_VFORK, CLONE_THREAD = _CLONE.values()
_ADVICE = {
    "MADV_NORMAL": 0,
    "MADV_RANDOM": 1,
    "MADV_SEQUENTIAL": 2,
    "MADV_WILLNEED": 3,
    "MADV_DONTNEED": 4,
    "MADV_FREE": 8,
    "MADV_REMOVE": 9,
    "MADV_DONTFORK": 10,
    "MADV_DOFORK": 11,
    "MADV_MERGEABLE": 12,
    "MADV_UNMERGEABLE": 13,
    "MADV_HUGEPAGE": 14,
    "MADV_NOHUGEPAGE": 15,
    "MADV_DONTDUMP": 16,
    "MADV_DODUMP": 17,
    "MADV_WIPEONFORK": 18,
    "MADV_KEEPONFORK": 19,
    "MADV_COLD": 20,
    "MADV_PAGEOUT": 21,
    "MADV_POPULATE_READ": 22,
    "MADV_POPULATE_WRITE": 23,
    "MADV_DONTNEED_LOCKED": 24,
    "MADV_COLLAPSE": 25,
    "MADV_HWPOISON": 100,
    "MADV_SOFT_OFFLINE": 101,
    "MADV_GUARD_INSTALL": 102,
    "MADV_GUARD_REMOVE": 103,
}
_ADVICE_NAMES = {number: name for name, number in _ADVICE.items()}
_FLAGS = {"PROT_": _PROT, "MAP_": _MAP, "MREMAP_": _MREMAP, "CLONE_": _CLONE, "MCL_": _MCL}
_COMMENT = re.compile(r"/\*[^*]*\*/", re.ASCII)
_CLONE_FLAGS = re.compile(r"\bflags=([\w|]+)", re.ASCII)


def without_comment(text: str) -> str:
    """Return the text without strace's comment, as in `0x4 /* MADV_DONTNEED */`, and without blanks at its ends."""
    return _COMMENT.sub("", text).strip()


def number(text: str) -> int:
    """NULL, a hexadecimal or a decimal number, perhaps with a comment. Raises ValueError for anything else."""
    try:
        value = int(text, 0)
    except ValueError:
        if text == "NULL":
            return 0
        value = int(without_comment(text), 0)
    if value < 0:
        raise ValueError
    return value


@lru_cache(4096)
def advice_number(text: str) -> int:
    """MADV_DONTNEED, DONTNEED, 0x4 or `0x4 /* MADV_DONTNEED */`. Raises ValueError for a name that is unknown."""
    text = without_comment(text)
    name = text if text.startswith("MADV_") else f"MADV_{text}"
    value = _ADVICE.get(name)
    return number(text) if value is None else value


def advice_name(advice: int) -> str:
    return _ADVICE_NAMES.get(advice, f"advice {advice:#x}")


@lru_cache(4096)
def flag_bits(prefix: str, text: str) -> int:
    """The bits of names and numbers joined by |, such as PROT_READ|0x8.

    Names may lack their prefix, as perf prints them. Those that say nothing here are 0.
    """
    bits, names = 0, _FLAGS[prefix]
    for word in without_comment(text).split("|"):
        word = word.strip()
        if word[:1].isdigit():
            bits |= number(word)
        else:
            bits |= names.get(word if word.startswith(prefix) else prefix + word, 0)
    return bits


def clone_flags(call: SystemCall | CallBegun) -> int | None:
    """CLONE_ bits of a call that starts a thread or process; None where the tracer does not show them.

    CLONE_VM: shares the address space; CLONE_THREAD: is of the same process; CLONE_VFORK: until it executes a program.
    """
    if call.name == "fork":
        return 0
    if call.name == "vfork":
        return CLONE_VM | CLONE_VFORK
    text = ", ".join(call.arguments)
    if match := _CLONE_FLAGS.search(text):
        return flag_bits("CLONE_", match[1])
    if call.name == "clone" and call.arguments and call.arguments[0].startswith("0x"):
        return number(call.arguments[0])  # -e raw=clone: flags are the first argument of x86-64 and arm64
    return None


def program_name(call: SystemCall) -> str:
    """The file name of the program of an execve, as strace prints it; empty if it is not shown."""
    for argument in call.arguments[:2]:
        if argument.startswith('"'):
            return one_line(argument.strip('".').rpartition("/")[2])[:32]
    return ""
