"""Read the recordings of `sweep record`: strictly, as they are our own. docs/traces.md, section 1, has the rows."""

from collections.abc import Iterator
from typing import NamedTuple

from engine.traces.page_tables import PAGE
from sweep.common.errors import one_line
from sweep.common.text_lines import TextLines
from sweep.trace_readers.calls import Call, SkippedRows
from sweep.trace_readers.kernel_calls import MAX_ADDRESS
from sweep.trace_readers.recording_rows import (
    DEFAULT_POLICY,
    HAS_HOLES,
    KEEPS_OLD,
    OLD_SEEN,
    OPS,
    SEEN_READ,
    SEEN_WRITTEN,
    STOPS_AT,
    mapped_as,
)

_MAX_DIGITS = 16
_STOPS_AT = {word: stops_at for stops_at, word in STOPS_AT.items()}
_FACTS = ("kernel", "frees", "thp")


class SpaceBegun(NamedTuple):
    """An address space: of a program that was executed, of a process that ran before, or a copy of `parent`."""

    row: int
    space: int
    pid: int
    program: str
    is_attached: bool
    parent: int = 0


class SpaceEnded(NamedTuple):
    row: int
    space: int


class PagesSeen(NamedTuple):
    """Pages [start, end) in bytes that were found present. written: private memory."""

    row: int
    space: int
    runs: list[tuple[int, int]]
    written: bool


class MomentSeen(NamedTuple):
    """VmPTE in KiB as /proc showed it, least and most."""

    row: int
    space: int
    milliseconds: int
    least_kib: int
    most_kib: int


class SpaceCall(NamedTuple):
    space: int
    call: Call


Row = SpaceBegun | SpaceEnded | PagesSeen | MomentSeen | SpaceCall


class RecordingReader:
    """Iterate over the rows after the first one. Raises UserError with the row for one that is malformed.

    facts: of the machine, as they are read: `kernel`, its policy (`frees`), its setting of huge pages (`thp`)
    """

    def __init__(self, lines: TextLines, skipped: SkippedRows) -> None:
        """`skipped`: takes the doubts that the recording has."""
        self._lines, self._skipped = lines, skipped
        self.facts: dict[str, str] = {}
        self._space = self._page = 0

    def __iter__(self) -> Iterator[Row]:
        for row, line in self._lines:
            if not line or line[0] == "#":
                continue
            try:
                parsed = self._parse(row, line)
            except (ValueError, LookupError):
                if self._lines.last_line_unterminated:  # the recording was cut off
                    return
                raise self._lines.error(f"not a row of a recording: {one_line(line)!r}") from None
            if parsed is not None:
                yield parsed

    def _parse(self, row: int, line: str) -> Row | None:
        """Return the row of a line, or None. Raises ValueError or LookupError for a malformed one."""
        word, *words = line.split(" ")
        if word in (SEEN_WRITTEN, SEEN_READ):
            return PagesSeen(row, self._space, self._runs(words), word == SEEN_WRITTEN)
        if word in OLD_SEEN:
            return PagesSeen(row, self._space, self._old_runs(words), OLD_SEEN[word] == SEEN_WRITTEN)
        if word in OPS:
            return SpaceCall(self._space, self._call(row, OPS[word], words))
        if word == "t":
            seen = [_decimal(text) for text in words]
            return MomentSeen(row, self._space, seen[0], min(seen[1:3]), max(seen[1:3]))
        if word == "in":
            self._space = _decimal(words[0])
            return None
        if word in _FACTS:
            self.facts[word] = " ".join(words)
            return None
        if word == "doubt" and words:
            self._skipped.add_doubt(one_line(" ".join(words), 120), row)
            return None
        return self._rare(row, word, words)

    def _rare(self, row: int, word: str, words: list[str]) -> Row:
        if word == "end":
            return SpaceEnded(row, _decimal(words[0]))
        if word == "thp_disable":
            disabled = {"none": "", "all": "all", "unadvised": "unadvised"}
            if words[0] not in disabled:
                raise ValueError
            return SpaceCall(self._space, Call(row, word, 0, 0, thp_disabled=disabled[words[0]]))
        self._space = _decimal(words[0])
        if word == "fork":
            return SpaceBegun(row, self._space, _decimal(words[2]), "", False, _decimal(words[1]))
        if word not in ("executed", "attached"):
            raise ValueError
        return SpaceBegun(row, self._space, _decimal(words[1]), " ".join(words[2:]), word == "attached")

    def _call(self, row: int, op: str, words: list[str]) -> Call:
        start, end = self._range(words[0], words[1])
        length = end - start
        if op in ("mmap", "mprotect"):
            return mapped_as(row, op, start, length, words[2])
        if op == "mremap":
            old, old_length = _hexadecimal(words[2]) * PAGE, _hexadecimal(words[3]) * PAGE
            keeps = words[4:] == [KEEPS_OLD.strip()]
            return Call(row, op, start, length, moved_from=old, old_length=old_length, keeps_old=keeps)
        if op == "flags":
            flags, cleared = _hexadecimal(words[2]), _hexadecimal(words[3])
            stops_at = _STOPS_AT[words[4]] if words[4:] else ""
            return Call(row, op, start, length, flags=flags, cleared=cleared, stops_at=stops_at)
        if op == "policy":
            return Call(row, op, start, length, policy="" if words[2] == DEFAULT_POLICY else words[2])
        if words[2:] and words[2] != HAS_HOLES.strip():
            return Call(row, op, start, length, has_holes=True, stops_at=_STOPS_AT[words[2]])
        return Call(row, op, start, length, has_holes=bool(words[2:]))

    def _runs(self, words: list[str]) -> list[tuple[int, int]]:
        """Runs of pages in bytes: a start, then gaps, each with a length unless it is one page."""
        sign = words[0][0] if words[0][0] in "+-" else ""
        start, _, length = words[0][len(sign) :].partition("+")
        pairs = [f"{sign}{start}", length or "1"]
        for word in words[1:]:
            gap, _, length = word.partition("+")
            pairs += [gap, length or "1"]
        return self._old_runs(pairs)

    def _old_runs(self, words: list[str]) -> list[tuple[int, int]]:
        """Runs of pages in bytes: the first range, then pairs of a gap and a length."""
        start, end = self._range(words[0], words[1])
        runs = [(start, end)]
        if len(words) % 2:
            raise ValueError
        for gap, length in zip(words[2::2], words[3::2], strict=True):
            start = end + _hexadecimal(gap) * PAGE
            end = start + _hexadecimal(length) * PAGE
            if start >= end:
                raise ValueError
            runs.append((start, end))
        if end > MAX_ADDRESS:
            raise ValueError
        self._page = end // PAGE
        return runs

    def _range(self, start: str, length: str) -> tuple[int, int]:
        """[start, end) in bytes of a start, absolute or from the end of the last range, and a length in pages."""
        if start[0] in "+-":
            page = self._page + (_hexadecimal(start[1:]) if start[0] == "+" else -_hexadecimal(start[1:]))
        else:
            page = _hexadecimal(start)
        end = page + _hexadecimal(length)
        if page < 0 or not page < end <= MAX_ADDRESS // PAGE:
            raise ValueError
        self._page = end
        return page * PAGE, end * PAGE


def _hexadecimal(text: str) -> int:
    if len(text) > _MAX_DIGITS or not (text.isascii() and text.isalnum()):
        raise ValueError
    return int(text, 16)


def _decimal(text: str) -> int:
    if len(text) > _MAX_DIGITS or not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)
