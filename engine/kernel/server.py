"""The server process (engine.kernel.child) seen by its parent: a point at a time, thrown away after any trouble."""

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
from engine.kernel.host import UnfitError
from engine.kernel.messages import Wire

BOOT = "from engine.kernel.child import serve; serve()"
ONE_THREAD = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
START_S = 120.0
"""For the server to come up; once after an installation it compiles."""


class TimedOutError(Exception):
    """The point took longer than its limit and was killed."""


class LostError(Exception):
    """The point's process failed or died; one line says how."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the server found out. loop_ns: what the loop around the calls costs, ns a call."""

    guards: bool
    fifth_level: bool
    loop_ns: float


class Server:
    """Raises UnfitError where it cannot come up."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                isolated_command(BOOT, str(theirs.fileno()), str(os.getpid())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=SAFE_FOLDER,
                env=isolated_environment(**ONE_THREAD),
                process_group=0,  # a terminal's Ctrl-C goes to us alone
            )
        self._wire, self._deadline, self._limit_s, self._child = Wire(ours), time.monotonic() + START_S, START_S, 0
        try:
            self.hello = self._greeted()
        except BaseException:
            self.close()
            raise

    def begin(self, order: dict[str, Any], arrays: list[NDArray[np.int64]], limit_s: float) -> dict[str, Any]:
        """Start a child and tell it all; its first answer. The limit counts from here to `end`."""
        self._limit_s, self._deadline, self._child = limit_s, time.monotonic() + limit_s, 0
        self._wire.sock.settimeout(limit_s)
        try:
            self._wire.sock.sendall(b"p")
            self._wire.tell(**order)
            for array in arrays:
                self._wire.sock.sendall(np.ascontiguousarray(array).data)
        except TimeoutError:
            raise self._late() from None
        except OSError as error:
            raise self._lost(error) from error
        answer = self.hear()
        self._child = int(answer.get("ready", 0))
        return answer

    def go_on(self) -> int:
        """Let the child do the next half of a round; CPU ns."""
        try:
            self._wire.sock.sendall(b"g")
        except OSError as error:
            raise self._lost(error) from error
        return int(self.hear()["ns"])

    def end(self, dismiss: bool = True) -> None:
        """See the child out."""
        if dismiss:
            self._wire.sock.sendall(b"q")
        self.hear(last=True)

    def hear(self, last: bool = False) -> dict[str, Any]:
        """The next message. Raises TimedOutError, LostError."""
        try:
            self._wire.sock.settimeout(max(self._deadline - time.monotonic(), 0.001))
            facts = self._wire.hear()
        except TimeoutError:
            raise self._late() from None
        except (EOFError, OSError) as error:
            raise self._lost(error) from error
        if "error" in facts:
            raise LostError(str(facts["error"]))
        if "ended" in facts and (not last or facts["ended"] != 0):
            raise LostError(how_it_died(int(facts["ended"])))
        return facts

    def close(self) -> None:
        """Leave no process behind; a child dies with the server."""
        self._wire.sock.close()
        if self._child:
            try:
                os.kill(self._child, signal.SIGKILL)
            except ProcessLookupError:
                self._child = 0
        self._process.kill()
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _greeted(self) -> Hello:
        try:
            facts = self.hear()
        except (LostError, TimedOutError) as error:
            self._process.kill()
            said = self._process.communicate()[1].decode(errors="replace").strip().splitlines()
            raise UnfitError(f"the kernel engine's process does not start: {said[-1] if said else error}") from error
        if "unfit" in facts:
            raise UnfitError(str(facts["unfit"]))
        return Hello(bool(facts["guards"]), bool(facts["fifth_level"]), float(facts["loop_ns"]))

    def _late(self) -> TimedOutError:
        return TimedOutError(f"no answer in {self._limit_s:g} s")

    def _lost(self, error: BaseException) -> LostError:
        return LostError(f"the point's process is gone ({type(error).__name__})")


def how_it_died(status: int) -> str:
    why = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
    return f"the point's process {why}"
