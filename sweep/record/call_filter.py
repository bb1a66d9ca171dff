"""The seccomp filter that stops a program at the calls that are recorded, and at no other."""

import struct

from sweep.record.call_numbers import NUMBERS

# include/uapi/linux/bpf_common.h, seccomp.h
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4  # struct seccomp_data
_TRACE, _ALLOW = 0x7FF00000, 0x7FFF0000


def call_filter() -> bytes:
    """The filter as an array of struct sock_filter. Calls of other architectures run without a stop."""
    code = [_instruction(_LOAD, _ARCHITECTURE_OFFSET)]
    for architecture, calls in NUMBERS.items():
        numbers = sorted(calls.values())
        code.append(_instruction(_IF_EQUAL, architecture, otherwise=len(numbers) + 3))
        code.append(_instruction(_LOAD, _NUMBER_OFFSET))
        code += [_instruction(_IF_EQUAL, number, then=len(numbers) - place) for place, number in enumerate(numbers)]
        code += [_instruction(_RETURN, _ALLOW), _instruction(_RETURN, _TRACE)]
    code.append(_instruction(_RETURN, _ALLOW))
    return b"".join(code)


def _instruction(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """One struct sock_filter. then, otherwise: how many instructions a comparison skips."""
    return struct.pack("=HBBI", code, then, otherwise, value)
