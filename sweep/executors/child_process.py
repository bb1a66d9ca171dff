"""Child processes with a pipe to this one: new interpreters that import nothing from the current folder.

They are not forked, as Numba, Arrow and DuckDB have threads, and need none of multiprocessing's helper processes, which
survive a killed driver.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import IO

from engine.isolated_python import SAFE_FOLDER, isolated_command
from sweep.common.errors import UserError
from sweep.executors.failure import Failure, failure_lines

PR_SET_PDEATHSIG = 1  # prctl(2)
STDERR_BYTES = 8192
"""How much of a child's stderr is read, from its end."""


@dataclass(slots=True, eq=False)
class ChildProcess:
    """A child process and the pipe to it.

    pipe: this process's end; stderr: a temporary file without a name
    """

    process: "subprocess.Popen[bytes]"
    pipe: Connection
    stderr: IO[bytes]

    def read_stderr(self) -> str:
        """The last lines of what it wrote to stderr."""
        end = self.stderr.seek(0, os.SEEK_END)
        self.stderr.seek(max(0, end - STDERR_BYTES))
        return failure_lines(self.stderr.read().decode(errors="replace"))

    def close(self) -> None:
        """Close the pipe, by which the child knows that it is no longer needed, and the file."""
        self.pipe.close()
        self.stderr.close()

    def end(self, seconds: float) -> int:
        """Wait so long for its end, then kill it. Returns its wait status. UserError if it does not end even so."""
        for _ in range(2):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(seconds)
            self.process.kill()
        raise UserError(
            f"worker process {self.process.pid} does not end by SIGKILL: it waits in the kernel, as for a disk"
        )

    def kill(self) -> None:
        """Kill it and wait for its end."""
        self.process.kill()
        self.process.wait()


def start_child(
    code: str, arguments: Sequence[str], environment: Mapping[str, str], prefix: str = sys.prefix
) -> ChildProcess:
    """Start a Python that runs `code` with argv[1:] = [descriptor of its pipe, our process id, *arguments].

    It is in a session of its own: a terminal's Ctrl-C and hang-up go to the driver alone, from the first moment on.
    """
    ours, theirs = socket.socketpair()
    stderr = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - as long as the child; it has no name to leave behind
    with theirs:
        process = subprocess.Popen(
            isolated_command(code, str(theirs.fileno()), str(os.getpid()), *arguments, prefix=prefix),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=SAFE_FOLDER,
            env=environment,
            start_new_session=True,
        )
    return ChildProcess(process, Connection(ours.detach()), stderr)


def connect_to_parent() -> Connection:
    """Called in the child: return the pipe to the parent, and end this process when the parent ends.

    The child ignores Ctrl-C, because the parent decides when it ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(int(sys.argv[2]))
    return Connection(int(sys.argv[1]))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent (a process id) ends, even by kill -9. Linux only, prctl(2)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def failure_of_exit(status: int, stderr: str = "", is_oom: bool = False) -> Failure:
    """How a process died, from its wait status: the signal's name if it is negative, else the exit code."""
    if is_oom:
        return Failure("worker process died of SIGKILL, as the kernel ran out of memory", "OutOfMemory", stderr)
    if status < 0:
        name = str(-status)
        with contextlib.suppress(ValueError):
            name = signal.Signals(-status).name
        return Failure(f"worker process died of {name}", name, stderr)
    return Failure(f"worker process ended with {status}", "Exit", stderr)
