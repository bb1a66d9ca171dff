"""Read the files that `strace -ff -o NAME` writes, NAME.PID for each thread, as one recording.

Rows with times (-tt, -ttt) are put in order. Without times each child's rows follow the call that started it, which is
exact for processes, as these share no memory, and a guess for threads.
"""

import heapq
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePath

from sweep.common.text_lines import TextLines
from sweep.trace_readers.call_names import STARTS
from sweep.trace_readers.calls import Event, SkippedRows, SystemCall
from sweep.trace_readers.strace_parser import StraceParser, is_strace

_NAME = re.compile(r"(.+)\.(\d{1,10})(\.(?:gz|xz|bz2|zst))?", re.ASCII | re.DOTALL)
_TIME = re.compile(r"\s*(?:(\d{9,12}\.\d{1,9})|(\d\d):(\d\d):(\d\d\.\d{1,9})) ", re.ASCII)
_DAY_S = 86_400.0
_THREADS_GUESSED = "files of strace -ff without times (-ttt): threads of a process follow each other, which is a guess"


@dataclass(frozen=True, slots=True)
class FfFiles:
    """The files of one recording, by thread."""

    name: str
    paths: dict[int, str]


def group_ff_files(paths: Sequence[str]) -> list[str | FfFiles]:
    """The paths, where those that strace -ff wrote together, two or more NAME.PID, are one item."""
    members: dict[str, dict[int, str]] = {}
    for path in paths:
        if match := _NAME.fullmatch(path):
            members.setdefault(match[1], {})[int(match[2])] = path
    groups = {name: FfFiles(f"{name}.*", found) for name, found in members.items() if len(found) > 1}
    grouped: list[str | FfFiles] = []
    for path in paths:
        match = _NAME.fullmatch(path)
        group = groups.get(match[1]) if match else None
        item = path if group is None or not _looks_like_strace(path) else group
        if item not in grouped or isinstance(item, str):
            grouped.append(item)
    return grouped


def _looks_like_strace(path: str) -> bool:
    """Whether one of the first rows is strace's; a file of another form is a recording of its own."""
    with TextLines(path) as lines:
        return any(is_strace(line) for _, (_, line) in zip(range(100), lines, strict=False))


def read_ff_events(files: FfFiles, skipped: SkippedRows) -> Iterator[Event]:
    """The events of all files. Raises UserError for a file that cannot be read, TraceError above a limit."""
    if all(_has_times(path) for path in files.paths.values()):
        with ExitStack() as stack:
            streams = [
                _timed_events(thread, stack.enter_context(TextLines(path)), skipped)
                for thread, path in sorted(files.paths.items())
            ]
            for _, event in heapq.merge(*streams, key=lambda item: item[0]):
                yield event
        return
    skipped.remark(_THREADS_GUESSED)
    yield from _events_by_tree(files, skipped)


def _events_by_tree(files: FfFiles, skipped: SkippedRows) -> Iterator[Event]:
    children = {
        event.result
        for thread, path in files.paths.items()
        for event in _file_events(thread, path, SkippedRows())
        if isinstance(event, SystemCall) and event.name in STARTS
    }
    unread = dict(sorted(files.paths.items()))
    for root in [thread for thread in unread if thread not in children] or list(unread):
        stack = [_file_events(root, unread.pop(root), skipped)] if root in unread else []
        while stack:
            event = next(stack[-1], None)
            if event is None:
                stack.pop()
                continue
            yield event
            if isinstance(event, SystemCall) and event.name in STARTS and event.result in unread:
                stack.append(_file_events(event.result, unread.pop(event.result), skipped))


def _file_events(thread: int, path: str, skipped: SkippedRows) -> Iterator[Event]:
    parser = StraceParser(skipped.of_file(PurePath(path).name), thread)
    with TextLines(path) as lines:
        for row, line in lines:
            yield from parser.parse_line(row, line)
    parser.end()


def _timed_events(thread: int, lines: TextLines, skipped: SkippedRows) -> Iterator[tuple[float, Event]]:
    """Events with the time of their row in seconds. A clock that goes back by half a day has passed midnight."""
    parser, time, midnights = StraceParser(skipped.of_file(PurePath(lines.path).name), thread), 0.0, 0.0
    for row, line in lines:
        if match := _TIME.match(line):
            now = _seconds(match) + midnights
            if now < time - _DAY_S / 2:
                midnights += _DAY_S
                now += _DAY_S
            time = max(time, now)
        for event in parser.parse_line(row, line):
            yield time, event
    parser.end()


def _has_times(path: str) -> bool:
    with TextLines(path) as lines:
        first = next((line for _, line in lines if line.strip()), "")
    return _TIME.match(first) is not None


def _seconds(match: re.Match[str]) -> float:
    if match[1]:
        return float(match[1])
    return int(match[2]) * 3600 + int(match[3]) * 60 + float(match[4])
