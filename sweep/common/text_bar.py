"""Bars made of characters, for terminals."""

_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"


def bar(share: float, width: int, *, in_ascii: bool = False) -> str:
    """A bar of `width` characters for a share of 1, in eighths of a character, with `-` before a negative one.

    in_ascii: in whole characters `#`, for an output that cannot show eighths
    """
    eighths = round(abs(share) * width * len(_EIGHTHS))
    sign = "-" if share < 0 else ""
    if in_ascii:
        return sign + "#" * round(eighths / len(_EIGHTHS))
    whole, rest = divmod(eighths, len(_EIGHTHS))
    return f"{sign}{_FULL * whole}{_EIGHTHS[rest]}".rstrip()
