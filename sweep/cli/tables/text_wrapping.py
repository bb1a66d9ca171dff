"""Sentences as lines that fit a page: widths as a terminal counts them; commands and URLs are not broken."""

import re
import textwrap
from collections.abc import Iterator
from itertools import accumulate

_NUMBER_AND_UNIT = re.compile(r"(\d) (?=(?:%|[KMGT]iB|B|ns|s)(?!\w))")


def text_width(text: str) -> int:
    """Columns of a terminal that a line takes: two for East Asian wide characters."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def wrapped(text: str, width: int | None, indent: str = "", unbroken: re.Pattern[str] | None = None) -> list[str]:
    """A sentence as lines of at most `width` columns, the later ones indented.

    URLs are not broken, nor what matches `unbroken` if it fits a line, so that it can be copied.
    """
    if width is None or text_width(text) <= width:
        return [text]
    kept_together = _NUMBER_AND_UNIT.sub("\\1\N{NO-BREAK SPACE}", text)
    if unbroken is not None:
        kept_together = unbroken.sub(lambda match: _unbroken(match[0], width - len(indent)), kept_together)
    has_url = "://" in text
    lines = textwrap.wrap(
        kept_together, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=not has_url
    )
    if has_url:
        return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
    return [piece for line in lines for piece in _pieces(line.replace("\N{NO-BREAK SPACE}", " "), width)]


def _unbroken(text: str, width: int) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}") if text_width(text) <= width else text


def _pieces(line: str, width: int) -> Iterator[str]:
    """A line cut where wide characters make it too wide for textwrap, which counts characters."""
    while text_width(line) > width:
        ends = list(accumulate(map(text_width, line)))
        cut = max(1, sum(end <= width for end in ends))
        yield line[:cut]
        line = line[cut:]
    yield line
