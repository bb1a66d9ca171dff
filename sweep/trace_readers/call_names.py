"""The system calls that count in a recording, by name."""

MEMORY_CALLS = {
    "mmap": 6,
    "mmap2": 6,
    "old_mmap": 6,
    "munmap": 2,
    "madvise": 3,
    "mprotect": 3,
    "pkey_mprotect": 3,
    "mremap": 4,
    "brk": 1,
    "process_madvise": 4,
    "prctl": 2,
    "mlock": 2,
    "mlock2": 3,
    "munlock": 2,
    "mlockall": 1,
    "munlockall": 0,
    "mbind": 3,
}
"""The calls that count, and how many of their arguments are read."""
PROCESS_CALLS = ("clone", "clone3", "fork", "vfork", "execve", "execveat", "exit", "exit_group")
STARTS = ("clone", "clone3", "fork", "vfork")
UNKNOWN_EFFECT = {
    "shmat": "maps System V memory of unknown size",
    "shmdt": "unmaps System V memory of unknown size",
    "remap_file_pages": "changes a file mapping",
    "map_shadow_stack": "maps a shadow stack",
}
"""Calls that change what is mapped and are not counted."""
PROGRAM_32_BIT = "a 32-bit program: counted with the tables of a 64-bit kernel, which are those of x86-64"
