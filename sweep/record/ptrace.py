"""ptrace(2) and wait4(2): the requests with which threads are followed from system call to system call."""

import ctypes
import errno
import os
import struct
from typing import NamedTuple

from sweep.common.errors import UserError

# include/uapi/linux/ptrace.h
CONT, DETACH, SYSCALL = 7, 17, 24
_GETEVENTMSG, _SEIZE, _INTERRUPT, _LISTEN, _GET_SYSCALL_INFO = 0x4201, 0x4206, 0x4207, 0x4208, 0x420E
EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_EXIT, EVENT_SECCOMP, EVENT_STOP = 1, 2, 3, 4, 6, 7, 128
_SYSGOOD = 1
_FOLLOWED = (EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_EXIT, EVENT_SECCOMP)
_EXITKILL = 1 << 20
CALL_STOP = 0x80 | 5  #: the signal of a stop at a system call: SIGTRAP with the bit of PTRACE_O_TRACESYSGOOD
ENTRY, EXIT, SECCOMP = 1, 2, 3  #: CallStop.edge
_WALL = 0x40000000

_SYSCALL_INFO = struct.Struct("=B3xIQQQ6Q")
_EXIT_INFO = struct.Struct("=B3xIQQqB")

_libc = ctypes.CDLL(None, use_errno=True)
_ptrace, _wait4 = _libc.ptrace, _libc.wait4
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long
_wait4.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_status = ctypes.c_int()
_message = ctypes.c_ulong()
_info = ctypes.create_string_buffer(_SYSCALL_INFO.size + 8)
_status_at, _message_at, _info_at = (ctypes.addressof(buffer) for buffer in (_status, _message, _info))


class CallStop(NamedTuple):
    """A thread that stopped at a system call. edge: ENTRY, EXIT or SECCOMP; architecture: AUDIT_ARCH_ number.

    number, arguments: at the entry; result: at the exit, below 0 for an error
    """

    edge: int
    architecture: int
    number: int
    arguments: tuple[int, ...]
    result: int


def seize(thread: int, *, kill_on_exit: bool) -> None:
    """Follow a thread and all that it starts. kill_on_exit: they end with this process. Raises OSError."""
    options = _SYSGOOD | sum(1 << event for event in _FOLLOWED) | (_EXITKILL if kill_on_exit else 0)
    _request(_SEIZE, thread, 0, options)


def interrupt(thread: int) -> None:
    """Stop a running thread. Raises OSError."""
    _request(_INTERRUPT, thread, 0, 0)


def listen(thread: int) -> None:
    """Leave a thread stopped as job control stopped it. Raises OSError."""
    _request(_LISTEN, thread, 0, 0)


def resume(request: int, thread: int, signal: int) -> None:
    """Continue a stopped thread by CONT, SYSCALL or DETACH, and deliver a signal, 0 for none. Raises OSError."""
    _request(request, thread, 0, signal)


def event_message(thread: int) -> int:
    """Return the thread that an event names: of FORK, VFORK, CLONE the new, of EXEC the former one. Raises OSError."""
    _request(_GETEVENTMSG, thread, 0, _message_at)
    return _message.value


def call_stop(thread: int) -> CallStop:
    """The system call at which a thread is stopped. Raises OSError, and UserError before Linux 5.3."""
    try:
        _request(_GET_SYSCALL_INFO, thread, len(_info), _info_at)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise UserError("record: needs Linux 5.3 or newer (PTRACE_GET_SYSCALL_INFO)") from error
    edge, architecture, _, _, number, *arguments = _SYSCALL_INFO.unpack_from(_info)
    if edge != EXIT:
        return CallStop(edge, architecture, number, tuple(arguments), 0)
    return CallStop(edge, architecture, 0, (), _EXIT_INFO.unpack_from(_info)[4])


def wait(thread: int = -1) -> tuple[int, int] | None:
    """Wait until a thread, or only `thread`, stops or ends. Returns its number and status, None after a signal.

    os.waitpid would go on waiting after a signal (PEP 475). Raises OSError.
    """
    thread = _wait4(thread, _status_at, _WALL, None)
    if thread < 0:
        number = ctypes.get_errno()
        if number == errno.EINTR:
            return None
        raise OSError(number, os.strerror(number))
    return thread, _status.value


def _request(request: int, thread: int, address: int, data: int) -> None:
    if _ptrace(request, thread, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
