"""How much address space this process may still map: `ulimit -v` (RLIMIT_AS), which batch systems and shells set.

DuckDB and glibc end the process, without an exception, if a thread's memory cannot be mapped. So SQL starts only where
it fits into memory, and with one thread.
"""

import resource
from pathlib import Path

from sweep.common.errors import UserError

SQL_BYTES = 768 << 20
"""What a connection with one thread, and the thread that waits for it, map for a small query; measured, rounded up."""


def left_bytes() -> int | None:
    """Bytes that this process may still map; None if there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return max(0, limit - pages * resource.getpagesize())


def left_for_sql() -> int | None:
    """`left_bytes()`. Raises UserError if that is too little for a query."""
    left = left_bytes()
    if left is not None and left < SQL_BYTES:
        raise UserError(f"SQL: ulimit -v leaves {left >> 20} MiB, and a query needs {SQL_BYTES >> 20}; raise the limit")
    return left
