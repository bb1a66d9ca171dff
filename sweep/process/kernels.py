"""Which Linux kernels free empty page tables in madvise, and whether the running one does."""

import gzip
import platform
import re
import zlib
from pathlib import Path

CONFIGURABLE, ALWAYS = (6, 14), (7, 0)
"""First release with CONFIG_PT_RECLAIM, on x86-64 only; first release in which it is not a choice any more."""
ALWAYS_ON = ("x86_64", "aarch64", "riscv64", "s390x", "loongarch64")
"""uname -m of machines that have it from ALWAYS on: 64-bit ones but powerpc and sparc64 (series of January 2026)."""

KERNELS_WITH_POLICY = (
    ("none", "Linux before 6.14; to 6.19 with CONFIG_PT_RECLAIM=n or off x86-64; powerpc and sparc64"),
    ("merged", "Linux 6.14 to 6.19 on x86-64 with CONFIG_PT_RECLAIM=y; from 7.0 on always, and on arm64 too"),
    ("munmap", "every Linux"),
    ("refcount", "no Linux: series of 2021"),
    ("async", "no Linux: RFC of June 2024"),
    ("second_walk", "no Linux: RFC v2 of August 2024"),
    ("seed_inline", "no Linux: mail of August 2024, the seed of what was merged"),
)


def frees_tables(release: str, machine: str, config: bytes | None) -> bool | None:
    """Whether a kernel frees empty tables, by `uname -r`, `uname -m` and its configuration; None: cannot be told.

    Distributions may have the change in older releases: then only the configuration tells.
    """
    numbers = re.match(r"(\d+)\.(\d+)", release)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if version >= ALWAYS:
        return machine in ALWAYS_ON
    if config is not None:
        return b"\nCONFIG_PT_RECLAIM=y\n" in config
    return False if version < CONFIGURABLE or machine != "x86_64" else None


def running_kernel() -> str:
    """The running kernel and whether it frees empty tables: `Linux 6.18.4 frees them (CONFIG_PT_RECLAIM=y)`."""
    release, config = platform.release(), _running_config()
    frees = frees_tables(release, platform.machine(), config)
    if frees is None:
        return f"Linux {release}, whose configuration cannot be read: CONFIG_PT_RECLAIM decides"
    why = "CONFIG_PT_RECLAIM=y" if frees and config and b"\nCONFIG_PT_RECLAIM=y\n" in config else ""
    return f"Linux {release}, {'frees them' if frees else 'frees none'}{f' ({why})' if why else ''}"


def _running_config() -> bytes | None:
    """The configuration of the running kernel, or None if it is in neither of the usual places."""
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{platform.release()}")):
        try:
            data = path.read_bytes()
            return gzip.decompress(data) if path.suffix == ".gz" else data
        except (OSError, EOFError, zlib.error):
            continue
    return None
