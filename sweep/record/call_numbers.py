"""The numbers of the system calls that are recorded, by architecture."""

# arch/x86/entry/syscalls/syscall_64.tbl
_X86_64 = {
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "brk": 12,
    "mremap": 25,
    "madvise": 28,
    "shmat": 30,
    "clone": 56,
    "fork": 57,
    "vfork": 58,
    "execve": 59,
    "shmdt": 67,
    "prctl": 157,
    "exit_group": 231,
    "execveat": 322,
    "pkey_mprotect": 329,
    "clone3": 435,
    "process_madvise": 440,
}
# arch/x86/entry/syscalls/syscall_32.tbl
_I386 = {
    "fork": 2,
    "execve": 11,
    "brk": 45,
    "munmap": 91,
    "clone": 120,
    "mprotect": 125,
    "mremap": 163,
    "prctl": 172,
    "vfork": 190,
    "mmap2": 192,
    "madvise": 219,
    "exit_group": 252,
    "execveat": 358,
    "pkey_mprotect": 380,
    "shmat": 397,
    "shmdt": 398,
    "clone3": 435,
    "process_madvise": 440,
}
# include/uapi/asm-generic/unistd.h
_ARM64 = {
    "exit_group": 94,
    "prctl": 167,
    "shmat": 196,
    "shmdt": 197,
    "brk": 214,
    "munmap": 215,
    "mremap": 216,
    "clone": 220,
    "execve": 221,
    "mmap": 222,
    "mprotect": 226,
    "madvise": 233,
    "execveat": 281,
    "pkey_mprotect": 288,
    "clone3": 435,
    "process_madvise": 440,
}
I386 = 0x40000003
NUMBERS = {0xC000003E: _X86_64, I386: _I386, 0xC00000B7: _ARM64}
"""By AUDIT_ARCH_ number (include/uapi/linux/audit.h)."""
NAMES = {arch: {number: name for name, number in calls.items()} for arch, calls in NUMBERS.items()}
