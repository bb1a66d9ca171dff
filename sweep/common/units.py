"""Parse sizes, shares and counts exactly, and format sizes and times.

A size is a number and a unit: B, KiB, MiB, GiB, TiB, PiB, or K, M, G, T, P (either case), which are powers of 1024
too, as in top and the kernel's memparse. KB, MB, ... may mean powers of 1000 or 1024 and are refused, and so is a
number without a unit. A fraction is allowed if the size is whole bytes: 1.5GiB.

A share is a plain decimal from 0 to 1, a count a plain whole number. For 1e-3, 50% and 017 the error says what to
write. The errors name no place: the caller adds it.

No units library (pint, humanfriendly): those take KB, round through doubles, and accept many spellings of one size.
"""

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from sweep.common.errors import UserError, did_you_mean, one_line

POWERS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
SCALE = {unit: 1 << (10 * i) for i, unit in enumerate(POWERS)} | {
    letter: 1 << (10 * i) for i, pair in enumerate(("Kk", "Mm", "Gg", "Tt", "Pp"), 1) for letter in pair
}
UNITS = ", ".join((*POWERS, *"KMGTP"))
INT64_MAX = (1 << 63) - 1
MAX_NUMBER_CHARACTERS = 40
"""Longer texts are refused before any pattern or conversion sees them."""

_DECIMAL = r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
_SIZE = re.compile(rf"({_DECIMAL}) ?([A-Za-z]+)")
_NEGATIVE_SIZE = re.compile(rf"-{_DECIMAL} ?[A-Za-z]*")
_PLAIN_DECIMAL = re.compile(_DECIMAL)
_PLAIN_WHOLE = re.compile(r"0|[1-9][0-9]*")


def parse_size(text: str) -> int:
    """The bytes of a size such as `64KiB`. Raises UserError, also above 2^63 - 1."""
    shown = repr(one_line(text))
    match = _short_match(_SIZE, text)
    if match is None:
        raise UserError(_why_no_size(text, shown))
    number, unit = match.groups()
    if unit not in SCALE:
        raise UserError(_why_no_unit(number, unit, shown))
    size = Fraction(number) * SCALE[unit]
    if size.denominator != 1:
        raise UserError(f"{shown} is not whole bytes")
    if size > INT64_MAX:
        raise UserError(f"{shown} is too large; the limit is {INT64_MAX} bytes")
    return int(size)


def _short_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The match of a whole text that is short enough to be a number."""
    return pattern.fullmatch(text) if len(text) <= MAX_NUMBER_CHARACTERS else None


def _why_no_size(text: str, shown: str) -> str:
    if _short_match(_PLAIN_DECIMAL, text):
        size = int(text) if _PLAIN_WHOLE.fullmatch(text) else 1
        if size % 1024 == 0:
            return f"{shown} has no unit; write {text}B" + (f" or {format_size(size)}" if size else "")
        return f"{shown} has no unit; write {text}KiB, {text}MiB or {text}GiB"
    if _short_match(_NEGATIVE_SIZE, text):
        return f"{shown}: a size cannot be negative"
    return f"{shown} is not a size; write a number and a unit, such as 64KiB (units: {UNITS})"


def _why_no_unit(number: str, unit: str, shown: str) -> str:
    if re.fullmatch("[kmgtp]b", unit, re.IGNORECASE):
        letter = unit[0].upper()
        return f"{shown}: {unit} may mean powers of 1000 or 1024; write {number}{letter}iB (1024)"
    hint = did_you_mean(unit, POWERS) or ";"
    return f"{shown}: unknown unit {unit!r}{hint} known: {UNITS}"


def format_size(size: int) -> str:
    """The exact size in the largest unit that divides it: 1073741824 is `1GiB`, 1536 MiB is `1536MiB`."""
    if size < 0:
        return f"-{format_size(-size)}"
    power = 0
    while size and size % 1024 == 0 and power + 1 < len(POWERS):
        size, power = size // 1024, power + 1
    return f"{size}{POWERS[power]}"


def human_size(size: float) -> str:
    """A rounded size for people: `1.2 GiB`."""
    power = 0
    while abs(size) >= 1023.95 and power + 1 < len(POWERS):
        size, power = size / 1024, power + 1
    return f"{size:.0f} B" if power == 0 else f"{size:.1f} {POWERS[power]}"


def human_ns(ns: float) -> str:
    """A rounded time for people: `850 ns`, `1.2 ms`, `3.4 s`, `12 min`, `5.1 h`."""
    steps = ((1e3, 1.0, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms"), (120e9, 1e9, "s"), (7200e9, 60e9, "min"))
    for limit, scale, unit in steps:
        if abs(ns) < limit:
            return f"{ns / scale:.3g} {unit}"
    return f"{ns / 3600e9:,.1f} h"


def parse_count(text: str) -> int:
    """A whole number from 0 to 2^63 - 1. Raises UserError."""
    shown = repr(one_line(text))
    if _short_match(_PLAIN_WHOLE, text):
        number = int(text)
        if number > INT64_MAX:
            raise UserError(f"{shown} is too large; the limit is {INT64_MAX}")
        return number
    plain = plain_number(text)
    hint = f"; write {plain}" if _PLAIN_WHOLE.fullmatch(plain) else ""
    raise UserError(f"{shown} is not a whole number{hint}")


def parse_share(text: str) -> float:
    """A share from 0 to 1. Raises UserError, also for digits that a double does not keep.

    The shortest decimal of the double must be the number as written, because the engine computes with that decimal.
    """
    shown = repr(one_line(text))
    if not _short_match(_PLAIN_DECIMAL, text):
        percent = text.endswith("%") and plain_number(text[:-1])
        plain = plain_number(str(Decimal(percent) / 100)) if percent else plain_number(text)
        hint = f"; write {plain}" if plain and float(plain) <= 1 else ""
        raise UserError(f"{shown} is not a share, a plain number from 0 to 1{hint}")
    share = float(text)
    if share > 1:
        raise UserError(f"{shown} is not a share from 0 to 1")
    if Fraction(text) != Fraction(repr(share)):
        raise UserError(f"{shown} has more digits than are kept; write {plain_number(repr(share))}")
    return share


def plain_number(text: str) -> str:
    """A number rewritten without exponent, sign +, leading zeros and underscores: `1000` for 1e3.

    An empty string for a text that is no number, and for one that is negative, very large, very small or too long.
    """
    try:
        number = Decimal(text.strip().replace("_", "")) if len(text) <= MAX_NUMBER_CHARACTERS else Decimal("nan")
    except InvalidOperation:
        return ""
    if not number.is_finite() or number < 0 or not -25 < number.adjusted() < 25:
        return ""
    plain = f"{number:f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain
