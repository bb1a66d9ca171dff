"""Replays a kernel trace on a kernel: a child performs it step by step, and /proc shows its memory.

The child (replay_child.py) maps at the trace's addresses. A trace that needs more than half of the free memory, or
addresses where the child itself is, is refused before it starts.
"""

import array
import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from engine.guest import runner as guest_runner
from engine.guest.runner import GuestRunner
from engine.isolated_python import SAFE_FOLDER
from engine.model.arch import KIB
from engine.model.policy import BUILT_IN
from engine.traces.huge_pages import HugePages
from engine.traces.operations import ZAPS, Operation
from engine.traces.page_tables import PAGE, SLOT, TraceError
from engine.traces.replay import Replay
from sweep.common.errors import SweepFault, UserError
from sweep.common.text_lines import TextLines
from sweep.kernel import replay_child
from sweep.process.proc import parse_maps, read_anon_huge_kib, read_mappings, read_sizes, read_thp_setting
from sweep.trace_readers import forms
from sweep.trace_readers.trace_reader import Step, read_kernel_steps

MAX_STEPS = 1 << 20
OUTCOME_COLUMNS = (
    "res_bytes_peak",
    "res_bytes_end",
    "vm_pte_kib_peak",
    "vm_pte_kib_end",
    "vm_pte_kib_max",
    "zap_calls",
)
"""Outcome columns that can be observed. `peak` is the highest value after any step."""
GUEST_OPERATIONS = {
    "mmap": (guest_runner.STEP_MMAP, 0),
    "munmap": (guest_runner.STEP_MUNMAP, 0),
    "mprotect_ro": (guest_runner.STEP_MPROTECT, mmap.PROT_READ),
    "mprotect_rw": (guest_runner.STEP_MPROTECT, mmap.PROT_READ | mmap.PROT_WRITE),
    **{op: (guest_runner.STEP_TOUCH, advice) for op, advice in replay_child.POPULATE.items()},
    **{op: (guest_runner.STEP_MADVISE, advice) for op, advice in replay_child.ADVICE.items()},
}
"""How the agent is asked for an operation: its kind, and the protection or advice."""
THP_SETTING, GUEST_THP = "/sys/kernel/mm/transparent_hugepage/enabled", "madvise"
_MUST_SUCCEED = {"mmap", "guard_install", "guard_remove", "dontneed_locked"}
"""Operations whose failure means that this kernel lacks or forbids them. The others may fail on a range with a hole."""


class Memory(NamedTuple):
    """VmPTE, RES and AnonHugePages of a process, in KiB."""

    vm_pte_kib: int
    res_kib: int
    anon_huge_kib: int


@dataclass(frozen=True, slots=True)
class StepComparison:
    """Figures after one step, as differences to those after step 0: from /proc, and from the model."""

    step: int
    live: Memory
    model: Memory

    @property
    def agrees(self) -> bool:
        return self.live == self.model


def probe_policy() -> str:
    """`merged` if a zap of a whole slot frees its table on this kernel, else `none`. Raises UserError."""
    base = 16 << 40
    operations = (
        Operation("mmap", base, 2 * SLOT),
        Operation("write", base, 2 * SLOT, PAGE),
        Operation("dontneed", base, SLOT),
    )
    trace = [Step(i, i, operation) for i, operation in enumerate(operations)]
    _, touched, zapped = _run_steps(trace, "probe", "never")
    return "merged" if zapped.vm_pte_kib < touched.vm_pte_kib else "none"


def thp_setting(wanted: str | None, guest: GuestRunner | None = None) -> str:
    """The setting of transparent huge pages to replay under: in a guest the one that is wanted, by default madvise.

    Else this system's, or `never` if that is wanted. Raises UserError for another.
    """
    if guest is not None:
        return wanted or GUEST_THP
    setting = read_thp_setting()
    if wanted not in (None, setting, "never"):
        raise UserError(
            f"--thp {wanted}: this system has {setting} (/sys/kernel/mm/transparent_hugepage/enabled); "
            "a process can only do without huge pages: --thp never"
        )
    return wanted or setting


def compare_steps(
    trace: list[Step], path: str, policy: str, thp: str = "never", guest: GuestRunner | None = None
) -> Iterator[StepComparison]:
    """Replay a trace on a kernel and in the model under `policy`; compare after each step but step 0.

    path: for messages; thp: the setting of the system, or never; guest: None for the running kernel. Raises UserError
    for a trace that this machine or kernel cannot replay, and for a guest PointError.
    """
    available_kib = _available_kib() if guest is None else guest.available_memory().free_bytes // KIB
    # The running system keeps its setting: there a process does without huge pages by PR_SET_THP_DISABLE.
    huge_pages = HugePages(thp, disabled="all" if guest is None and thp == "never" else "")
    _check_memory(trace, path, policy, huge_pages, available_kib)
    steps = _run_steps(trace, path, thp) if guest is None else _run_steps_in_guest(guest, trace, path, thp)
    replay = Replay([BUILT_IN[policy]], huge_pages=huge_pages)
    base: Memory | None = None
    for step, memory in zip(trace, steps, strict=True):
        replay.apply(step.operation)
        base = base or memory
        if step.number:
            live = Memory(*(after - before for after, before in zip(memory, base, strict=True)))
            model = Memory(replay.vm_pte_kib(policy), replay.res_kib(policy), replay.anon_huge_kib(policy))
            yield StepComparison(step.number, live, model)


def observe_outcome(
    trace: list[Step], path: str, policy: str, thp: str | None = None, guest: GuestRunner | None = None
) -> dict[str, int]:
    """OUTCOME_COLUMNS of a replay on a kernel, as differences to after step 0. Raises as compare_steps().

    thp: as `wanted` of thp_setting
    """
    steps = list(compare_steps(trace, path, policy, thp_setting(thp, guest), guest))
    res, vm_pte = [step.live.res_kib << 10 for step in steps] or [0], [step.live.vm_pte_kib for step in steps] or [0]
    zap_calls = sum(step.operation.op in ZAPS for step in trace)
    return dict(zip(OUTCOME_COLUMNS, (max(res), res[-1], max(vm_pte), vm_pte[-1], max(vm_pte), zap_calls), strict=True))


def read_trace(path: str, data: bytes | None = None) -> list[Step]:
    """All steps of a kernel trace, from `data` or else from the file. Raises UserError for any other trace."""
    with TextLines(path, data) as rows:
        if forms.recognise(rows).form != forms.KERNEL:
            raise UserError(f"{rows.path}: on the live kernel only kernel traces can be played")
        trace = list(islice(read_kernel_steps(rows), MAX_STEPS + 1))
    if len(trace) > MAX_STEPS:
        raise UserError(f"{path}: more than {MAX_STEPS:,} steps: too many to play on the live kernel")
    return trace


def _check_memory(trace: list[Step], path: str, policy: str, huge_pages: HugePages, available_kib: int) -> None:
    """Raise UserError if the trace needs more than half of that memory by the model, or is not a valid trace."""
    if not trace or trace[0].operation.op != "mmap":
        raise UserError(
            f"{path}: on the live kernel a trace must start with an mmap: all figures are differences to those after it"
        )
    limit_kib = available_kib // 2
    replay = Replay([BUILT_IN[policy]], huge_pages=replace(huge_pages))
    for step in trace:
        try:
            replay.apply(step.operation)
        except TraceError as error:
            raise UserError(f"{path}: row {step.row}: {error}") from error
        if replay.vm_pte_kib(policy) + replay.res_kib(policy) > limit_kib:
            raise UserError(f"{path}: row {step.row}: needs more than half of the free memory of this machine")


def _available_kib() -> int:
    text = Path("/proc/meminfo").read_text()
    return int(text.split("MemAvailable:")[1].split()[0])


def _run_steps(trace: list[Step], path: str, thp: str) -> Iterator[Memory]:
    """Let a child perform a trace; yields its memory after each step. Raises UserError."""
    command = [sys.executable, "-I", "-S", replay_child.__file__, "thp" if thp != "never" else "no-thp"]
    with subprocess.Popen(command, bufsize=0, cwd=SAFE_FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            _read_byte(child)
            _check_addresses(trace, path, child.pid)
            child.stdin.write(len(trace).to_bytes(8, "little") + _pack(trace))
            _read_byte(child)
            for step in trace:
                child.stdin.write(b"\0")
                _check_error(step, path, _read_byte(child))
                sizes = read_sizes(child.pid)
                anon_huge_kib = read_anon_huge_kib(child.pid) if thp != "never" else 0
                yield Memory(sizes.vm_pte_kib, sizes.vm_rss_kib, anon_huge_kib)
        finally:
            child.kill()


def _run_steps_in_guest(guest: GuestRunner, trace: list[Step], path: str, thp: str) -> Iterator[Memory]:
    """As _run_steps, in a guest. RES is counted entry by entry. Raises UserError, PointError."""
    release, page = guest.machine.release, guest.machine.page_bytes
    if page != PAGE:
        raise UserError(f"{path}: a trace has pages of 4 KiB; Linux {release} has {page // KIB} KiB")
    if not guest.write_file(THP_SETTING, thp) and thp != "never":
        raise UserError(f"{path}: --thp {thp}: Linux {release} has no transparent huge pages")
    own = parse_maps(guest.read_file("/proc/self/maps").splitlines())
    _check_overlap(trace, path, [(mapping.start, mapping.end) for mapping in own if mapping.name != "[vsyscall]"])
    operations = []
    for step in trace:
        o = step.operation
        kind, argument = GUEST_OPERATIONS[o.op]
        operations.append(guest_runner.Operation(kind, argument, o.start, o.length, o.stride or 1))
    for step, figures in zip(trace, guest.run_operations(operations), strict=True):
        _check_error(step, path, figures.error)
        yield Memory(figures.vm_pte_kib, figures.res_kib, figures.anon_huge_kib)


def _check_error(step: Step, path: str, error: int) -> None:
    """Raise UserError for an operation that this kernel refuses."""
    op = step.operation.op
    if error and op in _MUST_SUCCEED and (op == "mmap" or error != errno.ENOMEM):
        raise UserError(f"{path}: row {step.row}: this kernel refuses {op}: {os.strerror(error)}")


def _read_byte(child: "subprocess.Popen[bytes]") -> int:
    assert child.stdout is not None
    answer = child.stdout.read(1)
    if not answer:
        raise SweepFault("the child that plays the trace ended early")
    return answer[0]


def _pack(trace: list[Step]) -> bytes:
    """The operations as replay_child reads them."""
    rows = array.array("q")
    for step in trace:
        o = step.operation
        rows.extend((replay_child.OPERATIONS.index(o.op), o.start, o.length, o.stride or 1, PAGE))
    return rows.tobytes()


def _check_addresses(trace: list[Step], path: str, pid: int) -> None:
    """Raise UserError if the trace uses addresses where the child (a process id) has mappings."""
    _check_overlap(trace, path, [(mapping.start, mapping.end) for mapping in read_mappings(pid)])


def _check_overlap(trace: list[Step], path: str, own: list[tuple[int, int]]) -> None:
    """Raise UserError if the trace uses addresses in one of these ranges, which are the child's own."""
    for step in trace:
        start, end = step.operation.start, step.operation.end
        if any(start < high and low < end for low, high in own):
            raise UserError(
                f"{path}: row {step.row}: [{start:#x}, {end:#x}) is where the child that plays it is mapped"
            )
