"""Bars made of characters, for terminals."""

import sys

_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"


def bar(share: float, width: int) -> str:
    """A bar of `width` characters for a share of 1, in eighths of a character, with `-` before a negative one.

    Where standard output cannot show these characters, in whole characters `#`.
    """
    eighths = round(abs(share) * width * len(_EIGHTHS))
    sign = "-" if share < 0 else ""
    if "utf" not in (sys.stdout.encoding or "").lower():
        return sign + "#" * round(eighths / len(_EIGHTHS))
    whole, rest = divmod(eighths, len(_EIGHTHS))
    return f"{sign}{_FULL * whole}{_EIGHTHS[rest]}".rstrip()
