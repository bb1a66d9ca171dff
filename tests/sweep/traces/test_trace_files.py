"""Trace files: which files are read at all, and what hostile ones do."""

import os
from pathlib import Path

import pytest

from engine.model.policy import BUILT_IN
from sweep.cli.main import main
from sweep.common.errors import UserError
from sweep.common.text_lines import MAX_LINE_CHARACTERS
from sweep.grid.loader import load_grid
from sweep.trace_readers.calls import MAX_REASONS, SkippedRows
from sweep.trace_readers.forms import ALLOCATOR_HEADER, KERNEL_HEADER
from sweep.traces.trace_points import read_processes
from sweep.traces.trace_replay import TraceReplay, replay_calls
from tests.support.grid_fuzzing import check_message, limited, long_texts

LONG_TEXTS = long_texts(MAX_LINE_CHARACTERS - 100, starts=("",), ends=("",))
STRACE_CALL = "7 munmap(0x7f0000000000, 4096) = 0\n"


def replayed(data: str) -> TraceReplay:
    trace = TraceReplay("t", "t", [BUILT_IN["merged"]], touch_all=True, data=data.encode())
    for _ in trace:
        pass
    return trace


def steps(trace: TraceReplay) -> int:
    return sum(process.steps for process in trace.processes)


def refused(path: Path) -> str:
    with limited(), pytest.raises(UserError) as caught:
        replay_calls(str(path))
    with limited(), pytest.raises(UserError) as read:
        read_processes(path, "t")
    assert str(read.value) == str(caught.value)
    check_message(caught.value)
    return str(caught.value)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A named pipe without a writer, a device and a folder are refused; none makes the program wait."""
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    assert refused(pipe) == f"{pipe}: not a regular file"
    assert refused(Path("/dev/zero")) == "/dev/zero: not a regular file"
    assert refused(tmp_path) == f"{tmp_path}: Is a directory"
    assert refused(tmp_path / "none.csv") == f"{tmp_path}/none.csv: No such file or directory"
    link = tmp_path / "link.strace"
    link.symlink_to(tmp_path / "real.strace")
    (tmp_path / "real.strace").write_text(STRACE_CALL)
    assert steps(replay_calls(str(link))) == 1


def test_a_query_that_is_a_named_pipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As with traces, the program does not wait for a writer."""
    pipe = tmp_path / "pipe.sql"
    os.mkfifo(pipe)
    with limited():
        assert main(["query", str(pipe)]) == 2
    assert capsys.readouterr().err == f"sweep: {pipe}: not a regular file\n"


def test_a_grid_that_is_a_named_pipe_is_refused(tmp_path: Path) -> None:
    """As with traces, the program does not wait for a writer."""
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    with limited(), pytest.raises(UserError) as caught:
        load_grid(pipe)
    assert str(caught.value) == f"{pipe}: cannot read: not a regular file"


def test_a_grid_reads_no_trace_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace of a grid is read more than once, so `-` is refused."""
    monkeypatch.chdir(tmp_path)
    Path("g.yaml").write_text("schema: sweep/1\nname: a\nworkload: {trace: '-'}\n")
    with pytest.raises(UserError, match=r"g\.yaml:3:19: workload\.trace: a grid reads traces from files"):
        load_grid(Path("g.yaml"))


@pytest.mark.parametrize(
    "text", ["secret: hunter2\n", "root:hunter2:0\n", "hunter2(x) = 1\nhunter2\n", "\x1b[hunter2\n"]
)
def test_no_content_of_another_file_is_shown(tmp_path: Path, text: str) -> None:
    """A file that is no trace is refused without a word of what it holds."""
    path = tmp_path / "password"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        replay_calls(str(path))
    check_message(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "strace" in str(caught.value) or "has no call of mmap" in str(caught.value)


@pytest.mark.parametrize("before", ["", "1 ", "1 munmap(", "1 madvise(0x1000, 4096, ", "1 mmap(NULL, 4096, ", "<... "])
def test_long_lines_of_strace(before: str) -> None:
    """Lines as long as a line may be are parsed in linear time, and the notes about them are short."""
    for text in LONG_TEXTS:
        for after in ("", ") = 0", ", 4096) = 0x1000", " resumed>) = 0"):
            with limited(2):  # linear: 0.05 s
                trace = replayed(f"{STRACE_CALL}{before}{text}{after}\n{STRACE_CALL}")
            assert steps(trace) >= 2
            assert all(len(note) < 300 for note in trace.notes())


@pytest.mark.parametrize("header", [KERNEL_HEADER, ALLOCATOR_HEADER])
@pytest.mark.parametrize("row", ["{}", "{},mmap,4096,4096,", "0,{},4096,4096", "0,mmap,{},4096,", "0,mmap,4096,{}"])
def test_long_fields_of_tables(header: str, row: str) -> None:
    """A field as long as a line may be is an error of one short line, or a row that is skipped."""
    for text in LONG_TEXTS:
        try:
            with limited():
                notes = list(replayed(f"{header}\n{row.format(text)}\n").notes())
        except UserError as error:
            check_message(error)
            notes = [str(error)]
        assert notes
        assert all(len(note) < 300 for note in notes)


@pytest.mark.parametrize("number", ["9" * 5000, "[pid " + "9" * 5000 + "]"])
def test_a_process_number_of_many_digits(number: str) -> None:
    """It is not a line of strace's, as no process has such a number."""
    trace = replayed(f"{STRACE_CALL}{number} munmap(0x7f0000000000, 4096) = 0\n")
    assert next(trace.notes()) == "1 row skipped, the first is row 2: not a line of strace's"


def test_the_reasons_for_skipping_are_bounded() -> None:
    """A file that gives a new reason in every row fills no memory."""
    skipped = SkippedRows()
    for i in range(1000):
        skipped.add(f"call{i}", i)
    assert len(skipped.reasons) == MAX_REASONS + 1
    assert sum(count for count, _ in skipped.reasons.values()) == 1000
    assert list(skipped.reasons)[-1] == "other reasons"
