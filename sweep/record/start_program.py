"""A script of its own: waits for its tracer, installs a seccomp filter, and executes a program.

    python start_program.py FILTER-IN-HEX PROGRAM NAME [ARGUMENT...]

It runs in a small interpreter because a process with threads, which Python's libraries start, must not fork.
"""

import ctypes
import errno
import os
import signal
import sys

_SET_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2  # include/uapi/linux/prctl.h, seccomp.h


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def main(code: str, program: str, *arguments: str) -> int:
    """Does not return if the program is executed, else with the error's number."""
    filter_code = bytes.fromhex(code)
    os.kill(os.getpid(), signal.SIGSTOP)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
    fprog = _Program(len(filter_code) // 8, filter_code)
    install = (_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(fprog), 0, 0)
    # Only without CAP_SYS_ADMIN is it needed that set-user-ID programs no longer get their user's rights.
    if prctl(*install) and (prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(*install)):
        return ctypes.get_errno()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and an exec keeps that
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(program, arguments)
    except OSError as error:
        return error.errno or errno.ENOEXEC


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
