"""Bars of characters: eighths, or `#` where the output has only ASCII."""

import pytest

from sweep.common.text_bar import bar

CASES = [(0.0, "", ""), (0.5, "██", "##"), (0.53125, "██▏", "##"), (1.0, "████", "####"), (-0.25, "-█", "-#")]


@pytest.mark.parametrize(("share", "blocks", "ascii_bar"), CASES)
def test_a_bar_has_the_length_of_the_share(share: float, blocks: str, ascii_bar: str) -> None:
    assert bar(share, 4) == blocks
    assert bar(share, 4, in_ascii=True) == ascii_bar
