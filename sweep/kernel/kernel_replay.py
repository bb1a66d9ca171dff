"""A kernel trace on the live kernel: a child plays it step by step, and /proc says what became of its tables.

The child is a program of its own (replay_child.py) that maps at the trace's addresses. A trace that would need more
memory than there is, or the child's own addresses, is refused before it is played.
"""

import array
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from engine.isolated_python import SAFE_FOLDER
from engine.traces.address_space import PURGES, Operation
from engine.traces.page_tables import PAGE, SLOT, TraceError
from engine.traces.replay import Replay
from sweep.common.errors import SweepFault, UserError
from sweep.common.text_lines import TextLines
from sweep.kernel import replay_child
from sweep.process.proc import read_mappings, read_sizes
from sweep.traces.trace_reader import Step, detect_format, read_kernel_steps

MOST_STEPS = 1 << 20
SHOWN = ("res_bytes_peak", "res_bytes_end", "vm_pte_kib_peak", "vm_pte_kib_end", "vm_pte_kib_max", "zap_calls")
"""What of an outcome shows from outside; `peak` is the highest."""
_REFUSED = {"mmap", "guard_install", "guard_remove", "dontneed_locked"}
"""Operations that the kernel must know or allow; the others may fail where a range has a hole."""


@dataclass(frozen=True, slots=True)
class Shown:
    """After one step, as a difference to after step 0: what /proc showed, and what the model says."""

    step: int
    vm_pte_kib: int
    res_kib: int
    model_vm_pte_kib: int
    model_res_kib: int

    @property
    def agrees(self) -> bool:
        return (self.vm_pte_kib, self.res_kib) == (self.model_vm_pte_kib, self.model_res_kib)


def live_policy() -> str:
    """`merged` where a purge of a whole slot frees its table on this kernel, else `none`. Raises UserError."""
    base = 16 << 40
    operations = (
        Operation("mmap", base, 2 * SLOT),
        Operation("write", base, 2 * SLOT, PAGE),
        Operation("dontneed", base, SLOT),
    )
    shown = [pte for pte, _ in _shown([Step(i, i, operation) for i, operation in enumerate(operations)], "probe")]
    return "merged" if shown[2] < shown[1] else "none"


def play(trace: list[Step], path: str, policy: str) -> Iterator[Shown]:
    """Each step but step 0, live and by the model under the kernel's own policy. Raises UserError."""
    _check_size(trace, path, policy)
    replay = Replay((policy,))
    base: tuple[int, int] | None = None
    for step, (vm_pte_kib, res_kib) in zip(trace, _shown(trace, path), strict=True):
        replay.apply(step.operation)
        base = base or (vm_pte_kib, res_kib)
        if step.number:
            model = replay.vm_pte_kib(policy), replay.res_kib(policy)
            yield Shown(step.number, vm_pte_kib - base[0], res_kib - base[1], *model)


def outcome(trace: list[Step], path: str, policy: str) -> dict[str, int]:
    """The columns of SHOWN, as differences to after step 0. Raises UserError."""
    seen = list(play(trace, path, policy))
    res, vm_pte = [step.res_kib << 10 for step in seen] or [0], [step.vm_pte_kib for step in seen] or [0]
    purges = sum(step.operation.op in PURGES for step in trace)
    return dict(zip(SHOWN, (max(res), res[-1], max(vm_pte), vm_pte[-1], max(vm_pte), purges), strict=True))


def steps_of(path: str, data: bytes | None = None) -> list[Step]:
    """All of a kernel trace, of `data` or the file. Raises UserError, also for a trace of another form."""
    with TextLines(path, data) as rows:
        first = next(iter(rows), None)
        if first is None or detect_format(rows, first[1]) != "kernel":
            raise UserError(f"{rows.path}: on the live kernel only kernel traces can be played")
        found = list(islice(read_kernel_steps(rows), MOST_STEPS + 1))
    if len(found) > MOST_STEPS:
        raise UserError(f"{path}: more than {MOST_STEPS:,} steps: too many to play on the live kernel")
    return found


def _check_size(trace: list[Step], path: str, policy: str) -> None:
    """Raises UserError for what this machine has not the memory for, by the model."""
    if not trace or trace[0].operation.op != "mmap":
        raise UserError(f"{path}: on the live kernel a trace starts with an mmap, to which the figures are differences")
    room_kib = _available_kib() // 2
    replay = Replay((policy,))
    for step in trace:
        try:
            replay.apply(step.operation)
        except TraceError as error:
            raise UserError(f"{path}: row {step.row}: {error}") from error
        if replay.vm_pte_kib(policy) + replay.res_kib(policy) > room_kib:
            raise UserError(f"{path}: row {step.row}: needs more than half of the free memory of this machine")


def _available_kib() -> int:
    text = Path("/proc/meminfo").read_text()
    return int(text.split("MemAvailable:")[1].split()[0])


def _shown(trace: list[Step], path: str) -> Iterator[tuple[int, int]]:
    """VmPTE and VmRSS of a child after each step."""
    command = [sys.executable, "-I", "-S", replay_child.__file__]
    with subprocess.Popen(command, bufsize=0, cwd=SAFE_FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            _answer(child)
            _check_room(trace, path, child.pid)
            child.stdin.write(len(trace).to_bytes(8, "little") + _packed(trace))
            _answer(child)
            for step in trace:
                child.stdin.write(b"\0")
                op, error = step.operation.op, _answer(child)
                if error and op in _REFUSED and (op == "mmap" or error != errno.ENOMEM):
                    raise UserError(f"{path}: row {step.row}: this kernel refuses {op}: {os.strerror(error)}")
                seen = read_sizes(child.pid)
                yield seen.vm_pte_kib, seen.vm_rss_kib
        finally:
            child.kill()


def _answer(child: "subprocess.Popen[bytes]") -> int:
    assert child.stdout is not None
    answer = child.stdout.read(1)
    if not answer:
        raise SweepFault("the child that plays the trace ended early")
    return answer[0]


def _packed(trace: list[Step]) -> bytes:
    rows = array.array("q")
    for step in trace:
        o = step.operation
        rows.extend((replay_child.KINDS.index(o.op), o.start, o.length, o.stride or 1, PAGE))
    return rows.tobytes()


def _check_room(trace: list[Step], path: str, pid: int) -> None:
    """Raises UserError if the trace would map over the child itself."""
    own = [(mapping.start, mapping.end) for mapping in read_mappings(pid)]
    for step in trace:
        start, end = step.operation.start, step.operation.end
        if any(start < high and low < end for low, high in own):
            raise UserError(f"{path}: row {step.row}: [{start:#x}, {end:#x}) is where the child that plays it lives")
