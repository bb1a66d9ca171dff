"""A running guest: QEMU with the agent as init, its console, and the commands that the agent answers."""

import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from engine.guest import agent, initramfs, qemu_command
from engine.guest.image import Image
from engine.isolated_python import SAFE_FOLDER
from engine.kernel.host import UnsupportedMachineError
from engine.kernel.server import LostError, TimedOutError

ACK_BYTES = 16384
"""After so many bytes the agent sends a `+` (agent.c)."""
BOOT_S = {qemu_command.KVM: 15.0, qemu_command.TCG: 120.0}
"""Time limit of a boot. Emulation takes 4 to 8 s on an idle machine."""
CONSOLE_S = 3.0
"""Time limit for the console to say why the kernel killed a process."""
CONSOLE_LINES, LINE_LENGTH, CONSOLE_BYTES = 12, 200, 1 << 15
ENDS = ("Kernel panic", "Out of memory", "blocked for more than", "soft lockup")
"""Words in a line of the kernel that says why a guest ends, or a process in it."""
PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None)


class BootError(Exception):
    """The guest did not boot. The message is one line; console: the last lines that it printed."""

    def __init__(self, message: str, console: str) -> None:
        super().__init__(message)
        self.console = console


class Guest:
    """A booted guest. After any error it must be closed and replaced.

    facts: what the agent found out about the kernel, by name (say_hello in agent.c)

    The guest has no network, no disk, and nothing of the host but this channel. QEMU ends with the thread that
    started it.
    """

    def __init__(self, image: Image, accel: str, folder: Path) -> None:
        """Boot. folder: where compiled agents are kept. Raises BootError, UnsupportedMachineError."""
        program = qemu_command.find_qemu(image.machine)
        if program is None:
            raise UnsupportedMachineError(qemu_command.missing_qemu(image.machine))
        init = agent.agent_program(image.machine, folder)
        self._console = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed in close()
        pairs = [socket.socketpair(), socket.socketpair()]
        with tempfile.NamedTemporaryFile(prefix="ptsweep-initramfs-") as archive:
            archive.write(initramfs.make_initramfs(init, [file.read_bytes() for file in image.modules]))
            archive.flush()
            fds = [theirs.fileno() for _, theirs in pairs]
            command = qemu_command.qemu_command(program, image.machine, accel, image.path.resolve(), archive.name, *fds)
            self._process = subprocess.Popen(
                command,
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=self._console,
                stderr=self._console,
                cwd=SAFE_FOLDER,
                preexec_fn=_die_with_parent,
                process_group=0,  # a terminal's Ctrl-C goes to the parent alone
            )
            for _, theirs in pairs:
                theirs.close()
            self._sockets = [ours for ours, _ in pairs]
            self._received, self._sent = bytearray(), 0
            self._limit_s, self._deadline = BOOT_S[accel], time.monotonic() + BOOT_S[accel]
            try:
                self._socket = self._find_channel()
                line = self._receive_line()
            except (LostError, TimedOutError) as error:
                console = self.console_lines()
                self.close()
                raise BootError(_boot_message(image, accel, error, console), console) from None
            except BaseException:
                self.close()
                raise
        self.facts = dict(fact.split("=", 1) for fact in line.split()[1:])

    def set_limit(self, limit_s: float) -> None:
        """Give all commands from now on `limit_s` seconds together; after that they raise TimedOutError."""
        self._limit_s, self._deadline = limit_s, time.monotonic() + limit_s

    def read_file(self, path: str) -> bytes:
        """The content of a file in the guest. Raises FileNotFoundError where it cannot be read."""
        self.send(b"R" + _text(path.encode()))
        line = self._receive_line()
        if line.startswith("error"):
            raise FileNotFoundError(line)
        return self._receive(int(line.split()[1]))

    def write_file(self, path: str, text: str) -> bool:
        """Write a file in the guest. Returns whether that worked."""
        self.send(b"W" + _text(path.encode()) + _text(text.encode()))
        return self._receive_line() == "ok"

    def send(self, data: bytes) -> None:
        """Send a command. Raises LostError, TimedOutError."""
        view = memoryview(data)
        while view:
            part = view[: ACK_BYTES - self._sent % ACK_BYTES]
            try:
                self._socket.settimeout(self._left_s())
                self._socket.sendall(part)
            except TimeoutError:
                raise self._timed_out() from None
            except OSError as error:
                raise self._lost(error) from error
            self._sent, view = self._sent + len(part), view[len(part) :]
            if self._sent % ACK_BYTES == 0 and self._receive(1) != b"+":
                raise LostError("the agent answered before it had read all", self.console_lines())

    def lines(self) -> Iterator[list[str]]:
        """The words of each line of an answer, up to and with `done`. Raises LostError, TimedOutError."""
        while True:
            words = self._receive_line().split()
            if words[0] == "error":
                raise LostError(" ".join(words[1:]), self.console_lines())
            if words[0] == "lost":
                name = signal.Signals(int(words[1])).name if int(words[1]) else "an exit"
                raise LostError(f"the point's process died of {name} in the guest", self._lines_with_an_end())
            yield words
            if words[0] in ("done", "no_space"):
                return

    def console_lines(self) -> str:
        """What the guest's kernel, or QEMU, printed: the lines from the last that names an end, else the last ones."""
        file = self._console.fileno()
        # Not seek(): QEMU writes at the same file offset.
        text = os.pread(file, CONSOLE_BYTES, max(0, os.fstat(file).st_size - CONSOLE_BYTES)).decode(errors="replace")
        lines = [line[:LINE_LENGTH] for line in text.replace("\r", "").splitlines() if line.strip()]
        ends = [at for at, line in enumerate(lines) if _names_end(line)]
        return "\n".join(lines[ends[-1] :][:CONSOLE_LINES] if ends else lines[-CONSOLE_LINES:])

    def _lines_with_an_end(self) -> str:
        """`console_lines()` as soon as they name an end, at the latest after CONSOLE_S.

        The kernel prints why it killed a process after the kill, and the console is slow.
        """
        deadline = time.monotonic() + CONSOLE_S
        while not any(map(_names_end, self.console_lines().splitlines())) and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.console_lines()

    def close(self) -> None:
        """Kill the guest."""
        for sock in self._sockets:
            sock.close()
        self._process.kill()
        self._process.wait()
        self._console.close()

    def _find_channel(self) -> socket.socket:
        """The socket of the port on which the agent answers."""
        sockets = list(self._sockets)
        while sockets:
            readable = select.select(sockets, [], [], self._left_s())[0]
            if not readable:
                raise self._timed_out()
            for sock in readable:
                with contextlib.suppress(OSError):
                    if sock.recv(1, socket.MSG_PEEK):
                        return sock
                sockets.remove(sock)  # closed: QEMU has ended, or has no such port
        raise self._lost(EOFError())

    def _receive_line(self) -> str:
        while (end := self._received.find(b"\n")) < 0:
            self._fill()
        line = self._received[:end].decode(errors="replace")
        del self._received[: end + 1]
        return line

    def _receive(self, count: int) -> bytes:
        while len(self._received) < count:
            self._fill()
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def _fill(self) -> None:
        try:
            self._socket.settimeout(self._left_s())
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            raise self._timed_out() from None
        except OSError as error:
            raise self._lost(error) from error
        if not data:
            raise self._lost(EOFError())
        self._received += data

    def _left_s(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)

    def _timed_out(self) -> TimedOutError:
        return TimedOutError(f"no answer in {self._limit_s:g} s", self.console_lines())

    def _lost(self, error: BaseException) -> LostError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)  # it may still write to the console
        reason = next(
            (line for line in self.console_lines().splitlines() if "Kernel panic" in line), type(error).__name__
        )
        return LostError(f"the guest is gone ({reason.partition('] ')[2] or reason})", self.console_lines())


def _boot_message(image: Image, accel: str, error: Exception, console: str) -> str:
    """Why a guest did not boot, in one line."""
    name = image.release or str(image.path)
    if not console.strip():
        needed = ", ".join(f"CONFIG_{option}" for option in image.needed_options)
        return f"{name}: stays silent in a guest ({accel}): {error}; a guest needs {needed}"
    lines = console.splitlines()
    told = [line for line in lines if any(word in line for word in ("agent:", "Kernel panic", "error"))] or lines[-1:]
    return f"{name}: does not boot in a guest ({accel}): {told[0].partition('] ')[2] or told[0]}"


def _names_end(line: str) -> bool:
    return any(words in line for words in ENDS)


def _text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _die_with_parent() -> None:
    """In the new process: have the kernel kill it when the thread that started it ends, even by kill -9."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
