"""Record a program from its start, or a process that runs, to its end or until the user stops the recording."""

import errno
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sweep.common.errors import UserError, one_line, printable
from sweep.process.proc import read_guarded, read_sizes
from sweep.record import ptrace, start_program
from sweep.record.call_filter import call_filter
from sweep.record.recorder import Recorder
from sweep.record.recording_writer import RecordingWriter
from sweep.record.timer import Timer
from sweep.record.tracer import Tracer

_BPFTRACE_SCRIPT = Path(__file__).with_name("memory_calls.bt")
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_ATTACH_S, _END_S = 2.0, 2.0
"""How long is waited for threads to stop, and for an interrupted program to end before it is killed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was recorded. exit: how the program ended, as wait4 says it; None if it runs on."""

    processes: int
    calls: int
    moments: int
    seconds: float
    exit: int | None
    was_interrupted: bool


def bpftrace_script(pid: int | None) -> str:
    """The script with which bpftrace records the program of its -c, or the process `pid`."""
    script = _BPFTRACE_SCRIPT.read_text()
    return script if pid is None else script.replace("(uint64)cpid", f"(uint64){pid}")


def find_program(name: str) -> str:
    """The path of a program, found as a shell does. Raises UserError."""
    path = shutil.which(name)
    if path is not None:
        return path
    if not os.path.lexists(name) or "/" not in name:
        raise UserError(f"{printable(one_line(name))}: no such program")
    raise UserError(f"{printable(one_line(name))}: is not an executable file")


def check_process(pid: int) -> str:
    """The name of a process that can be recorded. Raises UserError."""
    command = read_sizes(pid).command
    lines = read_guarded(pid, Path(f"/proc/{pid}/status").read_text)
    tracer = next((line.split()[1] for line in lines.splitlines() if line.startswith("TracerPid:")), "0")
    if tracer != "0":
        raise UserError(f"process {pid} is traced by process {tracer} already")
    return command


def record_program(program: str, words: Sequence[str], writer: RecordingWriter) -> Outcome:
    """Run `program` with the arguments `words`, its name first, and record it. Raises UserError."""
    script = str(Path(start_program.__file__))
    command = [sys.executable, "-I", "-S", script, call_filter().hex(), program, *words]
    start_s = time.monotonic()
    recorder, tracer = _observed(writer, is_filtered=True)
    with Timer() as timer:
        pid = os.posix_spawn(command[0], command, os.environ)
        os.waitpid(pid, os.WUNTRACED)
        try:
            # The filter lets calls fail once nobody traces the program, so it must end with this process.
            tracer.seize(pid, kill_on_exit=True)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise _not_permitted(program, error) from error
        os.kill(pid, signal.SIGCONT)
        tracer.run(lambda: _goes_on(timer, recorder))
        was_interrupted = bool(tracer.threads)
        if was_interrupted:
            _end_program(tracer, recorder, timer)
    if not recorder.processes:
        code = os.waitstatus_to_exitcode(recorder.exits.get(pid, 0))
        raise UserError(f"{printable(program)}: {os.strerror(code) if code > 0 else 'did not start'}")
    return _outcome(recorder, writer, start_s, recorder.exits.get(pid), was_interrupted)


def record_process(pid: int, seconds: float | None, writer: RecordingWriter) -> Outcome:
    """Record a process that runs, and what it starts, for so many seconds or until it ends. Raises UserError."""
    start_s = time.monotonic()
    recorder, tracer = _observed(writer, is_filtered=False)
    with Timer() as timer:
        _attach(pid, tracer, recorder)
        end_s = float("inf") if seconds is None else time.monotonic() + seconds
        tracer.run(lambda: _goes_on(timer, recorder) and time.monotonic() < end_s)
        was_interrupted = bool(timer.interrupts and tracer.threads)
        recorder.look_at_all()
        tracer.detach_all()
    return _outcome(recorder, writer, start_s, recorder.exits.get(pid), was_interrupted)


def _observed(writer: RecordingWriter, *, is_filtered: bool) -> tuple[Recorder, Tracer]:
    recorder = Recorder(writer)
    tracer = Tracer(recorder, is_filtered=is_filtered)
    recorder.finish_calls = tracer.finish_calls
    return recorder, tracer


def _goes_on(timer: Timer, recorder: Recorder) -> bool:
    """Look at all pages if it is time to. False once the user has stopped the recording."""
    if timer.is_due():
        start_s = time.monotonic()
        recorder.look_at_all()
        timer.has_looked(time.monotonic() - start_s)
    return not timer.interrupts


def _attach(pid: int, tracer: Tracer, recorder: Recorder) -> None:
    """Follow all threads of a process, and record what it has while they stand still. Raises UserError."""
    while new := _threads_of(pid) - tracer.threads.keys():
        for thread in new:
            try:
                tracer.seize(thread, kill_on_exit=False)
            except ProcessLookupError:
                if thread == pid:
                    raise UserError(f"process {pid} has ended") from None
            except OSError as error:
                tracer.detach_all()
                raise _not_permitted(f"process {pid}", error) from error
    tracer.interrupt_all()
    stops: dict[int, int] = {}
    deadline_s = time.monotonic() + _ATTACH_S
    while tracer.threads.keys() - stops.keys() and time.monotonic() < deadline_s:
        if (stop := ptrace.wait()) is not None:
            stops[stop[0]] = stop[1]
    try:
        recorder.attach(pid, list(tracer.threads))
    finally:
        for thread, status in stops.items():
            tracer.handle(thread, status)


def _threads_of(pid: int) -> set[int]:
    names: list[str] = read_guarded(pid, lambda: os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - names only
    return set(map(int, names))


def _end_program(tracer: Tracer, recorder: Recorder, timer: Timer) -> None:
    """End what is still traced: by SIGTERM, and by SIGKILL if that takes long or the user is impatient."""
    for number, seconds in ((signal.SIGTERM, _END_S), (signal.SIGKILL, float("inf"))):
        for pid in recorder.alive() or list(tracer.threads):
            with suppress(OSError):
                os.kill(pid, number)
        _run_on(tracer, timer, seconds)


def _run_on(tracer: Tracer, timer: Timer, seconds: float) -> None:
    """Follow the threads for so long, or until one more signal comes."""
    deadline_s, interrupts = time.monotonic() + seconds, timer.interrupts
    tracer.run(lambda: timer.interrupts == interrupts and time.monotonic() < deadline_s)


def _not_permitted(what: str, error: OSError) -> UserError:
    if error.errno != errno.EPERM:
        return UserError(f"{printable(what)}: ptrace: {error.strerror}")
    scope = _YAMA.read_text().strip() if _YAMA.exists() else "0"
    reason = "run as its owner (if it is dumpable, see ptrace(2)) or as root"
    if scope == "3" or os.geteuid() == 0:
        reason = "not even by root here: a container, a security module or Yama forbids ptrace"
    elif scope in ("1", "2"):
        reason = f"{_YAMA} is {scope}: run as root, or let sweep record start the program"
    return UserError(f"{printable(what)} may not be traced: {reason}")


def _outcome(
    recorder: Recorder, writer: RecordingWriter, start_s: float, exit_status: int | None, was_interrupted: bool
) -> Outcome:
    seconds = time.monotonic() - start_s
    return Outcome(recorder.processes, writer.calls, writer.moments, seconds, exit_status, was_interrupted)


def header_comment(words: Sequence[str]) -> str:
    """Return the command of the recording on one line, quoted for a shell."""
    return one_line(f"sweep record {' '.join(map(shlex.quote, words))}")
