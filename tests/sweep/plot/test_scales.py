"""Spacing of axes and the text of values."""

import pytest

from sweep.plot.scales import numbers_text, scale_of, spacing_of, value_text

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


@pytest.mark.parametrize(
    ("values", "spacing"),
    [
        ([1, 2, 3, 4, 5], "linear"),
        ([0, 10, 20, 30], "linear"),
        ([7], "linear"),
        ([1, 2], "linear"),
        ([1, 8], "linear"),
        ([1, 2, 4, 8], "log"),
        ([8, 1, 4, 2, 2], "log"),
        ([1, 10, 100, 500], "log"),
        ([64 * KIB, MIB, 2 * MIB, 4 * MIB, 64 * MIB], "log"),
        ([GIB, 32 * GIB, TIB, 55 * TIB], "log"),
        ([4 * KIB, 2 * MIB], "log"),
        ([0.9, 0.99, 0.999], "steps"),
        ([0, 4 * KIB, MIB], "steps"),
        ([0.5, 0.6, 0.9], "linear"),
        (list(range(100)), "linear"),
        ([-3, 0, 3], "linear"),
    ],
)
def test_spacing(values: list[float], spacing: str) -> None:
    """Rows of powers are logarithmic, even rows linear, and the rest stands in steps."""
    assert spacing_of(values) == spacing


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (64 * KIB, "bytes", "64 KiB"),
        (1.5 * MIB, "bytes", "1.5 MiB"),
        (55 * TIB, "bytes", "55 TiB"),
        (2048, "KiB", "2 MiB"),
        (1500, "ns", "1.5 us"),
        (0.99, "share", "0.99"),
        (1234567, "count", "1,234,567"),
        (12.5, "%", "12.5 %"),
        (None, "bytes", "-"),
        (True, "", "yes"),
        ("merged", "", "merged"),
    ],
)
def test_value_text(value: object, unit: str, text: str) -> None:
    """A value is written with a unit that keeps it short."""
    assert value_text(value, unit) == text


def test_scale_of() -> None:
    """The divisor and unit follow the largest value; other units stay."""
    assert scale_of(110 * MIB, "KiB") == (MIB, "GiB")
    assert scale_of(3e6, "ns") == (1e6, "ms")
    assert scale_of(3e6, "entries") == (1.0, "entries")
    assert scale_of(0, "KiB") == (1.0, "KiB")


def test_numbers_of_a_column() -> None:
    """All have as many decimals, enough for four digits of the largest."""
    assert numbers_text([0.0, 41.78, 100.0]) == ["0.0", "41.8", "100.0"]
    assert numbers_text([1, 2500]) == ["1", "2,500"]
    assert numbers_text([0.1234567, 1.5]) == ["0.123", "1.500"]
    assert numbers_text([]) == []
