"""Writes recordings: the rows of docs/traces.md, section 1, as text, through gzip if the file's name ends in .gz."""

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO, cast

from engine.traces.page_tables import PAGE
from sweep.common.errors import UserError, printable
from sweep.trace_readers.calls import Call
from sweep.trace_readers.recording_rows import (
    CODES,
    DEFAULT_POLICY,
    HAS_HOLES,
    HEADER,
    KEEPS_OLD,
    MOST_RUNS,
    STOPS_AT,
    rights_word,
)

_OTHER_COMPRESSION = (".xz", ".bz2", ".zst")


class RecordingWriter:
    """An open recording. A row that is about another address space than the last one follows a row with its number."""

    def __init__(self, path: Path) -> None:
        """Raises UserError: the file exists, or cannot be written."""
        if path.suffix in _OTHER_COMPRESSION:
            raise UserError(f"-o {printable(str(path))}: recordings are written as text, or compressed as .gz")
        self.path = path
        try:
            file = gzip.open(path, "xt", 6) if path.suffix == ".gz" else path.open("x")  # noqa: SIM115 - see close
            self._file = cast(TextIO, file)
        except FileExistsError:
            raise UserError(f"-o {printable(str(path))}: exists already; give another name") from None
        except OSError as error:
            raise UserError(f"-o {printable(str(path))}: {error.strerror}") from error
        self._space = 0
        self._last_page = 0
        self._last_moment: tuple[int, tuple[int, int]] | None = None  #: if it is the last row
        self.calls = self.moments = 0
        self._doubts: set[str] = set()

    def close(self) -> None:
        self._file.close()

    def flush(self) -> None:
        """Flush to the file all rows that were written."""
        self._file.flush()

    def remove(self) -> None:
        """Close and delete the file, because nothing was recorded."""
        self._file.close()
        self.path.unlink()

    def header(self, values: dict[str, str], comment: str) -> None:
        """Write the first rows: the form's header, the comment, and facts of the machine by name."""
        self._row(HEADER)
        self._row(f"# {comment}")
        for name, value in values.items():
            self._row(f"{name} {value}")

    def begin(self, how: str, space: int, pid: int, program: str) -> None:
        """Write the row that begins an address space; its mappings follow. how: `executed` or `attached`."""
        self._row(f"{how} {space} {pid} {program}")
        self._space = space

    def fork(self, space: int, parent: int, pid: int) -> None:
        """Write the row that begins `space`, a copy of the address space `parent`, of the new process `pid`."""
        self._row(f"fork {space} {parent} {pid}")
        self._space = space

    def doubt(self, reason: str) -> None:
        """Write why the figures of a replay may be wrong, the first time that it is given."""
        if reason not in self._doubts:
            self._doubts.add(reason)
            self._row(f"doubt {reason}")

    def end(self, space: int) -> None:
        self._row(f"end {space}")

    def comment(self, text: str) -> None:
        self._row(f"# {text}")

    def call(self, space: int, call: Call) -> None:
        """Write a call that changed the address space."""
        self.calls += 1
        if call.op == "thp_disable":
            self._row_in(space, f"thp_disable {call.thp_disabled or 'none'}")
            return
        pages = -(-call.length // PAGE)
        row = f"{CODES[call.op]} {self._range(call.start // PAGE, pages)}"
        if call.op in ("mmap", "mprotect"):
            row += f" {rights_word(call)}"
        elif call.op == "mremap":
            row += f" {call.moved_from // PAGE:x} {-(-call.old_length // PAGE):x}{KEEPS_OLD if call.keeps_old else ''}"
        elif call.op == "flags":
            row += f" {call.flags:x} {call.cleared:x}"
        elif call.op == "policy":
            row += f" {call.policy or DEFAULT_POLICY}"
        if call.stops_at:
            row += f" {STOPS_AT[call.stops_at]}"
        elif call.has_holes:
            row += HAS_HOLES
        self._row_in(space, row)

    def seen(self, space: int, code: str, runs: Sequence[tuple[int, int]]) -> None:
        """Write runs of pages, [start, end) in bytes, that were newly found present.

        code: SEEN_WRITTEN or SEEN_READ (recording_rows)
        """
        for first in range(0, len(runs), MOST_RUNS):
            (start, end), *rest = runs[first : first + MOST_RUNS]
            words = [self._run(self._start(start // PAGE, (end - start) // PAGE), start, end)]
            words += self._gaps_and_lengths(end, rest)
            self._row_in(space, f"{code} {' '.join(words)}")

    def moment(self, space: int, milliseconds: int, vm_pte_kib: tuple[int, int]) -> None:
        """Write a moment: VmPTE in KiB, before and after all pages were looked at.

        Writes nothing if VmPTE is that of the last row and that was a moment, too.
        """
        if (space, vm_pte_kib) == self._last_moment:
            return
        self.moments += 1
        before, after = vm_pte_kib
        self._row_in(space, f"t {milliseconds} {before}" + (f" {after}" if after != before else ""))
        self._last_moment = (space, vm_pte_kib)

    def _gaps_and_lengths(self, end: int, runs: Iterable[tuple[int, int]]) -> Iterable[str]:
        for start, stop in runs:
            yield self._run(f"{(start - end) // PAGE:x}", start, stop)
            end = stop
        self._last_page = end // PAGE

    def _run(self, place: str, start: int, end: int) -> str:
        """A run of pages at a place: its length is left out if it is one page."""
        return place if end - start == PAGE else f"{place}+{(end - start) // PAGE:x}"

    def _range(self, page: int, pages: int) -> str:
        """Start and length in pages."""
        return f"{self._start(page, pages)} {pages:x}"

    def _start(self, page: int, pages: int) -> str:
        """The start of a range, in pages from the end of the last range, if that is shorter."""
        absolute, relative = f"{page:x}", f"{page - self._last_page:+x}"
        self._last_page = page + pages
        return relative if len(relative) <= len(absolute) else absolute

    def _row_in(self, space: int, row: str) -> None:
        if space != self._space:
            self._row(f"in {space}")
            self._space = space
        self._row(row)

    def _row(self, row: str) -> None:
        self._last_moment = None
        self._file.write(row + "\n")
