"""What the writer of recordings writes, the reader reads; anything else is an error with its row."""

import errno
import gzip
import os
import sys
from pathlib import Path

import pytest

from engine.model.policy import ALL
from sweep.common.errors import UserError
from sweep.common.text_lines import TextLines
from sweep.record.recorder import Recorder
from sweep.record.recording_writer import RecordingWriter
from sweep.record.tracer import TracedCall
from sweep.trace_readers import forms
from sweep.trace_readers.calls import Call, SkippedRows
from sweep.trace_readers.recording_reader import (
    MomentSeen,
    PagesSeen,
    RecordingReader,
    SpaceBegun,
    SpaceCall,
    SpaceEnded,
)
from sweep.trace_readers.recording_rows import HEADER, MOST_RUNS, SEEN_READ, SEEN_WRITTEN
from sweep.traces.trace_replay import TraceReplay

PAGE, SLOT, BASE = 4096, 2 << 20, 0x7F0000000000
CALLS = [
    Call(0, "mmap", BASE, 8 * SLOT),
    Call(0, "mmap", 1 << 30, PAGE, 0, False, True, False),
    Call(0, "mprotect", BASE, PAGE, 1),
    Call(0, "mremap", BASE + 64 * SLOT, 2 * SLOT, moved_from=BASE, old_length=SLOT, keeps_old=True),
    Call(0, "mremap", BASE, 2 * SLOT, moved_from=BASE + SLOT, old_length=SLOT),
    Call(0, "thp_disable", 0, 0, thp_disabled="unadvised"),
    Call(0, "thp_disable", 0, 0),
    Call(0, "dontneed", BASE, SLOT + 1, has_holes=True),
    Call(0, "dontneed", BASE, SLOT, has_holes=True, stops_at="lock"),
    Call(0, "mmap", BASE, SLOT, 7, flags=3),
    Call(0, "flags", BASE, SLOT, flags=2, cleared=5),
    Call(0, "flags", BASE, SLOT, flags=2, stops_at="hole"),
    Call(0, "policy", BASE, SLOT, policy="0x2:0x1"),
    Call(0, "policy", BASE, SLOT),
    *(
        Call(0, op, BASE + PAGE, SLOT)
        for op in ("munmap", "free", "hugepage", "nohugepage", "collapse", "guard_install", "guard_remove")
    ),
]


@pytest.mark.parametrize("name", ["a.rec", "a.rec.gz"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    """Calls, pages and moments of two address spaces come back as they were written, lengths in whole pages."""
    path, strewn = tmp_path / name, [(BASE + i * 3 * PAGE, BASE + (i * 3 + 1) * PAGE) for i in range(3 * MOST_RUNS)]
    writer = RecordingWriter(path)
    writer.header({"kernel": "6.18 x86_64", "frees": "merged", "thp": "never"}, "sweep record a")
    writer.begin("executed", 1, 4001, "a b")
    for call in CALLS:
        writer.call(1, call)
    writer.fork(2, 1, 4002)
    writer.seen(2, SEEN_WRITTEN, strewn)
    writer.seen(1, SEEN_READ, [(BASE, BASE + SLOT)])
    writer.moment(2, 1500, (48, 44))
    writer.end(1)
    writer.close()
    text = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    assert text.startswith(HEADER.encode() + b"\n")
    with TextLines(str(path)) as lines:
        assert forms.recognise(lines).form == forms.RECORDING
        reader = RecordingReader(lines, SkippedRows())
        rows = list(reader)
    assert reader.facts == {"kernel": "6.18 x86_64", "frees": "merged", "thp": "never"}
    assert rows[0] == SpaceBegun(6, 1, 4001, "a b", False)
    calls = [row.call for row in rows if isinstance(row, SpaceCall)]
    expected = [call._replace(length=-(-call.length // PAGE) * PAGE) for call in CALLS]
    assert [call._replace(row=0) for call in calls] == expected
    begun, *seen, moment, end = rows[len(CALLS) + 1 :]
    assert isinstance(begun, SpaceBegun)
    assert (begun.space, begun.parent, begun.pid) == (2, 1, 4002)
    pages = [row for row in seen if isinstance(row, PagesSeen)]
    assert [run for row in pages[:-1] for run in row.runs] == strewn
    assert pages[-1][1:] == (1, [(BASE, BASE + SLOT)], False)
    assert isinstance(moment, MomentSeen)
    assert moment[1:] == (2, 1500, 44, 48)
    assert isinstance(end, SpaceEnded)


@pytest.mark.parametrize(
    "row",
    [
        *(
            "m 10 1",
            "m 10 1 q",
            "m 10 0 rw",
            "m -1 1 rw",
            "m 10 x rw",
            "m 0x10 0x1_0 rw",
            "w 10 1 2",
            "w 10 1 0 0",
            "t x",
        ),
        *(
            "z 1",
            "executed 1",
            "fork 2",
            "in x",
            "thp_disable maybe",
            f"u {1 << 40:x} 1",
            "u 1 fffffffffffffffff",
            "v 1 1",
        ),
        *("in 7\nu 1 1", "executed 1 5 a", "fork 9 8 7"),
    ],
)
def test_a_row_that_is_none(tmp_path: Path, row: str) -> None:
    """It is an error that names the file and the row."""
    path = tmp_path / "a.rec"
    path.write_text(f"{HEADER}\nexecuted 1 5 a\n{row}\nend 1\n")
    trace = TraceReplay(str(path), "a", ALL, touch_all=False)
    with pytest.raises(UserError, match=rf"^{path}: row [34]: "):
        list(trace)


def test_a_recording_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    path.write_text("ptsweep recording 3\nexecuted 1 5 a\n")
    with pytest.raises(UserError, match="this is a recording of another version of sweep record; this version reads"):
        list(TraceReplay(str(path), "a", ALL, touch_all=False))


def test_recordings_of_version_1_are_read(tmp_path: Path) -> None:
    """Their runs of pages are pairs of a gap and a length; what is computed is the same."""
    figures = []
    for number, seen in ((1, "w 7f0000000 1 1ff 1 2 10\nr +0 1\n"), (2, "W 7f0000000 1ff 2+10\nR +0\n")):
        path = tmp_path / f"{number}.rec"
        path.write_text(f"ptsweep recording {number}\nexecuted 1 5 a\nm 7f0000000 400 rw\n{seen}end 1\n")
        trace = TraceReplay(str(path), "a", ALL, touch_all=False)
        assert len(list(trace)) == 3
        figures.append(trace.processes[0].figures)
    assert figures[0] == figures[1]
    assert figures[0]["merged"]["res_bytes_end"] == 18 * PAGE


def test_a_recording_that_is_cut_off(tmp_path: Path) -> None:
    """It is replayed as far as it goes, and the replay says so."""
    path = tmp_path / "a.rec"
    path.write_text(f"{HEADER}\nfrees merged\nexecuted 1 5 a\nm 7f0000000 200 rw\nw +0 1\nt 5 12\nw -20")
    trace = TraceReplay(str(path), "a", ALL, touch_all=False)
    assert len(list(trace)) == 2
    assert list(trace.notes()) == ["the last row has no line end: it may be cut off"]
    assert [(moment.computed_kib, moment.agrees) for moment in trace.moments] == [(12, True)]


def test_what_does_not_agree(tmp_path: Path) -> None:
    """A VmPTE that is not the computed one does not agree; tables that were empty at the start explain a lower one."""
    path = tmp_path / "a.rec"
    rows = "m 7f0000000 400 rw\nw 7f0000000 1 1ff 1\nt 5 16 20\nt 6 8\nt 7 20\nt 8 24\n"
    for how, agree in (("executed", [True, False, False, False]), ("attached", [True, False, False, False])):
        path.write_text(f"{HEADER}\nfrees merged\n{how} 1 5 a\n{rows}")
        trace = TraceReplay(str(path), "a", ALL, touch_all=False)
        list(trace)
        assert [moment.computed_kib for moment in trace.moments] == [16] * 4
        assert [moment.agrees for moment in trace.moments] == agree
    path.write_text(f"{HEADER}\nfrees merged\nattached 1 5 a\n{rows.replace('t 5 16 20', 't 5 24')}")
    trace = TraceReplay(str(path), "a", ALL, touch_all=False)
    list(trace)
    assert [(moment.unknown_kib, moment.agrees) for moment in trace.moments] == [
        (8, True),
        (8, False),
        (8, True),
        (8, True),
    ]


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    """A file that exists stays as it is."""
    path = tmp_path / "a.rec"
    path.write_text("mine")
    for name, reason in (
        ("a.rec", "exists already; give another name"),
        ("b/a.rec", "No such file"),
        ("a.rec.xz", "as text, or compressed as .gz"),
    ):
        with pytest.raises(UserError, match=reason):
            RecordingWriter(tmp_path / name)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/PID/pagemap")
def test_doubts_are_in_the_recording(tmp_path: Path) -> None:
    """A call whose effect is not counted is in the recording once, and the replay says so; one that failed is not."""
    writer = RecordingWriter(tmp_path / "a.rec")
    writer.header({"kernel": "6.18 x86_64"}, "sweep record a")
    recorder, pid = Recorder(writer), os.getpid()
    recorder.attach(pid, [pid])
    named = TracedCall("prctl", (0x53564D41, 0, BASE, PAGE, 0, 0), 0xC000003E)
    recorder.returns(pid, named, -errno.EINVAL)
    rows = writer.path.read_text()
    for _ in range(3):
        recorder.returns(pid, named, 0)
    recorder.ended(pid, 0)
    writer.close()
    assert "doubt" not in rows
    trace = TraceReplay(str(writer.path), "a", ALL, touch_all=False)
    list(trace)
    (doubt,) = (note for note in trace.notes() if "PR_SET_VMA_ANON_NAME" in note)
    assert doubt.startswith("the figures may be wrong: 1 row, ")
    assert doubt.endswith("which is not counted")
