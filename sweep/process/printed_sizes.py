"""Sizes as tools print them: `1.2g` and `263.3m` in top, `269636 kB` in /proc/PID/status, `67409 pages` in statm, and
numbers without a unit, which are KiB in top and ps.

Grids take exact sizes only (sweep.common.units). Here the figure was rounded by the tool that printed it, so that it is
rounded to whole pages, and kB means KiB, as it does in /proc.
"""

import re

from sweep.common.errors import UserError, one_line
from sweep.common.units import SCALE, parse_size

_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?) ?(kB|KB|pages?|[A-Za-z]+)")
_BARE_KIB = re.compile(r"[0-9]{4,15}")
"""Shorter numbers may be gigabytes whose unit was left out, as in `--virt 55`."""
_BARE = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,6})?")


def parse_printed_size(text: str, page_bytes: int) -> int:
    """The bytes of such a size, in whole pages. Raises UserError."""
    words = " ".join(text.replace(",", "").split())
    if _BARE_KIB.fullmatch(words):
        words += "kB"
    if _BARE.fullmatch(words):
        choices = ", ".join(words + unit for unit in "mgt")
        raise UserError(f"{one_line(text)!r} has no unit; write {choices}, or {words}kB for a number of ps or /proc")
    match = _SIZE.fullmatch(words)
    unit = match[2] if match else ""
    scale = {"kB": 1024, "KB": 1024, "page": page_bytes, "pages": page_bytes, **SCALE}.get(unit)
    if match is None or scale is None:
        return parse_size(text)  # its errors say what is allowed
    return round(float(match[1]) * scale / page_bytes) * page_bytes
