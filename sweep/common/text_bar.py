"""Bars made of characters, for shares in per cent."""

import sys

BLOCKS = " ▏▎▍▌▋▊▉"
FULL = "█"


def bar(percent: float, width: int) -> str:
    """A bar of `width` characters for 100 per cent, in eighths of one; `#` where only ASCII prints."""
    eighths = round(percent / 100 * width * len(BLOCKS))
    if "utf" not in (sys.stdout.encoding or "").lower():
        return "#" * round(eighths / len(BLOCKS))
    whole, part = divmod(eighths, len(BLOCKS))
    return (FULL * whole + BLOCKS[part]).rstrip()
