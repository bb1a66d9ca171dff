"""Sizes, counts and shares: accepted texts, their values, and the messages for refused ones."""

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.common.errors import UserError
from sweep.common.units import (
    INT64_MAX,
    POWERS,
    SCALE,
    format_size,
    human_ns,
    human_size,
    parse_count,
    parse_share,
    parse_size,
    plain_number,
)
from tests.support.grid_fuzzing import check_message, limited, long_texts


@given(st.integers(0, INT64_MAX))
def test_exact_size_survives(size: int) -> None:
    """parse_size of format_size gives the same bytes."""
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 1 << 20), st.sampled_from(sorted(SCALE)))
def test_spellings_of_one_size_are_one(number: int, unit: str) -> None:
    """A size has one canonical form, whatever unit it was written in."""
    size = number * SCALE[unit]
    if size > INT64_MAX:
        return
    assert parse_size(f"{number}{unit}") == parse_size(f"{size}B") == size
    assert format_size(parse_size(f"{number}{unit}")) == format_size(size)


@given(st.integers(0, 1 << 40), st.sampled_from(POWERS[1:]))
def test_fraction_is_exact(quarters: int, unit: str) -> None:
    """A fraction is computed exactly, not as a double."""
    size = Fraction(quarters, 4) * SCALE[unit]
    if size <= INT64_MAX:
        assert parse_size(f"{quarters // 4}.{quarters % 4 * 25:02d}{unit}") == size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64KiB", 65536),
        ("64K", 65536),
        ("110g", 110 << 30),
        ("1.5GiB", 3 << 29),
        ("55t", 55 << 40),
        ("0B", 0),
        ("12 MiB", 12 << 20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """Units are powers of 1024, as in top and the kernel's memparse."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("64KB", "'64KB': KB may mean powers of 1000 or 1024; write 64KiB (1024)"),
        ("3gb", "'3gb': gb may mean powers of 1000 or 1024; write 3GiB (1024)"),
        ("65536", "'65536' has no unit; write 65536B or 64KiB"),
        ("1000", "'1000' has no unit; write 1000KiB, 1000MiB or 1000GiB"),
        ("0", "'0' has no unit; write 0B"),
        ("1.5", "'1.5' has no unit; write 1.5KiB, 1.5MiB or 1.5GiB"),
        ("-4KiB", "'-4KiB': a size cannot be negative"),
        ("1.3KiB", "'1.3KiB' is not whole bytes"),
        ("1kib", "'1kib': unknown unit 'kib'; did you mean 'KiB'? known: B, KiB, MiB, GiB, TiB, PiB, K, M, G, T, P"),
        ("8192PiB", "'8192PiB' is too large; the limit is 9223372036854775807 bytes"),
        (
            "0x10KiB",
            "'0x10KiB' is not a size; write a number and a unit, such as 64KiB"
            " (units: B, KiB, MiB, GiB, TiB, PiB, K, M, G, T, P)",
        ),
    ],
)
def test_size_errors(text: str, message: str) -> None:
    """A refused size gives this message."""
    with pytest.raises(UserError) as error:
        parse_size(text)
    assert str(error.value) == message


@given(st.text(max_size=60))
def test_any_text_is_a_size_or_one_line_of_error(text: str) -> None:
    """Every text gives a number or a UserError of one line."""
    for parse in (parse_size, parse_count, parse_share):
        try:
            result = str(parse(text))
        except UserError as error:
            result = str(error)
        assert len(result.splitlines()) == 1


@pytest.mark.parametrize("parse", [parse_size, parse_count, parse_share])
def test_long_texts_are_refused_at_once(parse: Callable[[str], object]) -> None:
    """A text of 100,000 characters is refused in one short line, whatever its characters are."""
    with limited():
        for text in long_texts(starts=("", "-", "0"), ends=("", "KiB")):
            assert plain_number(text) == ""
            with pytest.raises(UserError) as error:
                parse(text)
            check_message(error.value)
            assert len(str(error.value)) < 250


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e3", "'1e3' is not a whole number; write 1000"),
        ("017", "'017' is not a whole number; write 17"),
        ("1_000", "'1_000' is not a whole number; write 1000"),
        ("1.5", "'1.5' is not a whole number"),
        ("-3", "'-3' is not a whole number"),
        ("9223372036854775808", "'9223372036854775808' is too large; the limit is 9223372036854775807"),
    ],
)
def test_count_errors(text: str, message: str) -> None:
    """A refused count gives this message."""
    with pytest.raises(UserError) as error:
        parse_count(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e-3", "'1e-3' is not a share, a plain number from 0 to 1; write 0.001"),
        ("90%", "'90%' is not a share, a plain number from 0 to 1; write 0.9"),
        (".5", "'.5' is not a share, a plain number from 0 to 1; write 0.5"),
        ("1.5", "'1.5' is not a share from 0 to 1"),
        ("-0.1", "'-0.1' is not a share, a plain number from 0 to 1"),
        ("nan", "'nan' is not a share, a plain number from 0 to 1"),
        ("0.1234567890123456789", "'0.1234567890123456789' has more digits than are kept; write 0.12345678901234568"),
    ],
)
def test_share_errors(text: str, message: str) -> None:
    """A refused share gives this message."""
    with pytest.raises(UserError) as error:
        parse_share(text)
    assert str(error.value) == message


@given(st.integers(0, 10**15))
def test_share_is_the_decimal_written(digits: int) -> None:
    """The shortest decimal of a share is the number as written, which the engine takes as exact."""
    text = f"0.{digits:015d}" if digits < 10**15 else "1"
    assert Fraction(repr(parse_share(text))) == Fraction(text)


def test_rounded_for_people() -> None:
    """human_size and human_ns round for people."""
    assert [human_size(size) for size in (0, 1023, 1024, 1.25 * (1 << 30), 1 << 60)] == [
        "0 B", "1023 B", "1.0 KiB", "1.2 GiB", "1024.0 PiB",
    ]  # fmt: skip
    assert [human_ns(ns) for ns in (850, 1.2e6, 3.4e9, 1e12, 1e16)] == [
        "850 ns",
        "1.2 ms",
        "3.4 s",
        "16.7 min",
        "2,777.8 h",
    ]


def test_plain_number() -> None:
    """plain_number rewrites a number without exponent, sign and zeros, or gives an empty string."""
    assert [plain_number(t) for t in ("1e3", "+5", "1.50", "1e999", "-1", "x", "")] == [
        "1000",
        "5",
        "1.5",
        "",
        "",
        "",
        "",
    ]
