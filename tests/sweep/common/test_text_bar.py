"""Bars of characters: eighths where the output can show them, `#` elsewhere."""

import io
import sys

import pytest

from sweep.common.text_bar import bar

CASES = [(0.0, "", ""), (0.5, "██", "##"), (0.53125, "██▏", "##"), (1.0, "████", "####"), (-0.25, "-█", "-#")]


@pytest.mark.parametrize(("share", "blocks", "ascii_bar"), CASES)
def test_a_bar_has_the_length_of_the_share(
    share: float, blocks: str, ascii_bar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for encoding, expected in (("utf-8", blocks), ("iso-8859-1", ascii_bar)):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        assert bar(share, 4) == expected
