"""The parent's side of the server process (engine.kernel.child): starts it, and drives one point at a time."""

import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.isolated_python import SAFE_FOLDER, isolated_command, isolated_environment
from engine.kernel.host import UnsupportedMachineError
from engine.kernel.messages import MessageSocket

SERVER_CODE = "from engine.kernel.child import server_main; server_main()"
ONE_THREAD = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
START_S = 120.0
"""Time limit for the server's start. Its first start after an installation compiles."""


class PointError(Exception):
    """The point has no result. The message is one line that says why; last_lines: what its guest printed last."""

    def __init__(self, message: str, last_lines: str = "") -> None:
        super().__init__(message)
        self.last_lines = last_lines


class TimedOutError(PointError):
    """The point took longer than its limit."""


class LostError(PointError):
    """The point's process failed or died, or its guest did."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the server found out about the kernel.

    guards: it has MADV_GUARD_INSTALL; fifth_level: page tables have five levels;
    loop_ns: cost of the loop around the calls, ns per call
    """

    guards: bool
    fifth_level: bool
    loop_ns: float


class Server:
    """A running server process. After any error it must be closed and replaced.

    The constructor raises UnsupportedMachineError if the server cannot start.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                isolated_command(SERVER_CODE, str(theirs.fileno()), str(os.getpid())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=SAFE_FOLDER,
                env=isolated_environment(**ONE_THREAD),
                process_group=0,  # a terminal's Ctrl-C goes to the parent alone
            )
        self._socket, self._child = MessageSocket(ours), 0
        self._limit_s, self._deadline = START_S, time.monotonic() + START_S
        try:
            self.info = self._receive_info()
        except BaseException:
            self.close()
            raise

    def start_point(self, message: dict[str, Any], arrays: list[NDArray[np.int64]], limit_s: float) -> dict[str, Any]:
        """Have the server fork a child, send it the point (Script.message) and return its first answer.

        The time limit counts from here to finish_point(). Raises TimedOutError, LostError.
        """
        self._limit_s, self._deadline, self._child = limit_s, time.monotonic() + limit_s, 0
        self._socket.sock.settimeout(limit_s)
        try:
            self._socket.sock.sendall(b"p")
            self._socket.send(**message)
            for array in arrays:
                self._socket.sock.sendall(np.ascontiguousarray(array).data)
        except TimeoutError:
            raise self._timed_out() from None
        except OSError as error:
            raise self._lost(error) from error
        answer = self._receive()
        self._child = int(answer.get("ready", 0))
        return answer

    def run_half_round(self) -> int:
        """Let the child do the next half of a round, installs and zaps in turn. Returns its CPU time in ns.

        Raises the error of a child that died or took too long.
        """
        try:
            self._socket.sock.sendall(b"g")
        except OSError as error:
            raise self._lost(error) from error
        return int(self._receive()["ns"])

    def finish_point(self, dismiss: bool = True) -> None:
        """Wait for the child's end, telling it to end if `dismiss`."""
        if dismiss:
            self._socket.sock.sendall(b"q")
        self._receive(last=True)

    def close(self) -> None:
        """Kill the child and the server."""
        self._socket.sock.close()
        if self._child:
            try:
                os.kill(self._child, signal.SIGKILL)
            except ProcessLookupError:
                self._child = 0
        self._process.kill()
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _receive(self, last: bool = False) -> dict[str, Any]:
        """The next message. Raises TimedOutError, or LostError if the child failed or ended before its `last` one."""
        try:
            self._socket.sock.settimeout(max(self._deadline - time.monotonic(), 0.001))
            facts = self._socket.receive()
        except TimeoutError:
            raise self._timed_out() from None
        except (EOFError, OSError) as error:
            raise self._lost(error) from error
        if "error" in facts:
            raise LostError(str(facts["error"]))
        if "ended" in facts and (not last or facts["ended"] != 0):
            raise LostError(exit_message(int(facts["ended"])))
        return facts

    def _receive_info(self) -> ServerInfo:
        try:
            facts = self._receive()
        except (LostError, TimedOutError) as error:
            self._process.kill()
            lines = self._process.communicate()[1].decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else error
            raise UnsupportedMachineError(f"the kernel engine's process does not start: {reason}") from error
        if "unsupported" in facts:
            raise UnsupportedMachineError(str(facts["unsupported"]))
        return ServerInfo(bool(facts["guards"]), bool(facts["fifth_level"]), float(facts["loop_ns"]))

    def _timed_out(self) -> TimedOutError:
        return TimedOutError(f"no answer in {self._limit_s:g} s")

    def _lost(self, error: BaseException) -> LostError:
        return LostError(f"the point's process is gone ({type(error).__name__})")


def exit_message(status: int) -> str:
    """How the child ended: by a signal if the status is negative, else with that exit code."""
    end = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
    return f"the point's process {end}"
