"""Sizes and numbers: text in, exact integers and doubles out, and back. Knows no fields and no files.

A size is a number and a unit: B, KiB, MiB, GiB, TiB, PiB, or K, M, G, T, P (either case), which are powers of 1024
too, as in top and the kernel's memparse. KB, MB, ... mean 1000 to some and 1024 to others and are refused, and so is
a number without a unit. A fraction is fine where it comes to whole bytes: 1.5GiB.

A share is a plain decimal from 0 to 1, a count a plain whole number. 1e-3, 50% and 017 are refused with what to write.
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
LONGEST_NUMBER = 40

_NUMBER = r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
_SIZE = re.compile(rf"({_NUMBER}) ?([A-Za-z]+)")
_PLAIN = re.compile(_NUMBER)
_WHOLE = re.compile(r"0|[1-9][0-9]*")


def parse_size(text: str) -> int:
    """Bytes, exactly. Raises UserError without a place."""
    shown = repr(one_line(text))
    match = _SIZE.fullmatch(text)
    if match is None or len(text) > LONGEST_NUMBER:
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


def _why_no_size(text: str, shown: str) -> str:
    if _PLAIN.fullmatch(text) and len(text) <= LONGEST_NUMBER:
        spelled = format_size(int(text)) if _WHOLE.fullmatch(text) else ""
        other = f" or {spelled}" if spelled not in ("", f"{text}B") else ""
        return f"{shown} has no unit; write {text}B{other}"
    if re.fullmatch(rf"-{_NUMBER} ?[A-Za-z]*", text):
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
    """A size to read, rounded to three digits or so: `1.2 GiB`."""
    power = 0
    while abs(size) >= 1023.95 and power + 1 < len(POWERS):
        size, power = size / 1024, power + 1
    return f"{size:.0f} B" if power == 0 else f"{size:.1f} {POWERS[power]}"


def human_ns(ns: float) -> str:
    """A time to read: `850 ns`, `1.2 ms`, `3.4 s`, `12 min`, `5.1 h`."""
    steps = ((1e3, 1.0, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms"), (120e9, 1e9, "s"), (7200e9, 60e9, "min"))
    for limit, scale, unit in steps:
        if abs(ns) < limit:
            return f"{ns / scale:.3g} {unit}"
    return f"{ns / 3600e9:,.1f} h"


def parse_count(text: str) -> int:
    """A whole number, 0 to 2^63 - 1."""
    shown = repr(one_line(text))
    if _WHOLE.fullmatch(text) and len(text) <= LONGEST_NUMBER:
        number = int(text)
        if number > INT64_MAX:
            raise UserError(f"{shown} is too large; the limit is {INT64_MAX}")
        return number
    plain = plain_number(text)
    hint = f"; write {plain}" if _WHOLE.fullmatch(plain) else ""
    raise UserError(f"{shown} is not a whole number{hint}")


def parse_share(text: str) -> float:
    """A share from 0 to 1. The double's shortest decimal must be the number written: the engine takes it as exact."""
    shown = repr(one_line(text))
    if not _PLAIN.fullmatch(text) or len(text) > LONGEST_NUMBER:
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
    """The same number without exponent, sign +, leading zeros or underscores: 1e3 is `1000`; `` if it is none."""
    try:
        number = Decimal(text.strip().replace("_", "")) if len(text) <= LONGEST_NUMBER else Decimal("nan")
    except InvalidOperation:
        return ""
    if not number.is_finite() or number < 0 or not -25 < number.adjusted() < 25:
        return ""
    plain = f"{number:f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain
