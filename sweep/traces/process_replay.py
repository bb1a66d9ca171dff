"""Replay the calls of one process of a recording: one address space, from its start, fork or exec to its end."""

from collections.abc import Sequence
from itertools import pairwise

from engine.model.policy import Policy
from engine.traces.geometry import X86, Geometry
from engine.traces.huge_pages import HugePages
from engine.traces.operations import HUGE_ADVICE, ZAPS, Operation
from engine.traces.replay import Replay
from engine.traces.trace_rules import trace_rule
from engine.traces.vmas import ANONYMOUS, LOCKED, READ, UNSEEN, WRITE, Piece
from sweep.trace_readers.calls import Call
from sweep.trace_readers.program_break import break_change
from sweep.traces.call_histogram import STACK_BYTES, CallHistogram
from sweep.traces.lazy_fork import LazyFork
from sweep.traces.pending_touches import PendingTouches

MAX_STACKS = 1 << 16
_UNMAP_OR_ZAP = (*ZAPS, "munmap")
_TOUCH_NOTHING = ("munmap", "mprotect", "flags", "policy")
"""Calls whose ranges hold no page to touch that was not touched before; of mprotect only if it gives a right."""
_MAXIMA = ("res_bytes_peak", "vm_pte_kib_peak", "vm_pte_kib_max")


class ProcessReplay(LazyFork):
    """One process, or one of the programs that it executed one after the other.

    pid: 0 if the recording names none; program: the name of the program, empty if it is unknown
    program_number: 1 for the first program of a pid that made calls of memory
    histogram: the calls that give memory back
    steps: calls applied; unknown_calls: those that zapped memory that was never seen mapped
    max_mapped_bytes: the most memory that was mapped at one time
    figures: by policy, the outcome columns (Replay.outcome) once it has ended; empty where VmPTE is unknown
    """

    def __init__(
        self,
        pid: int,
        program: str,
        policies: Sequence[Policy],
        *,
        counts: bool,
        touch_all: bool,
        scan_every: int = 1,
        thp: str = "madvise",
        geometry: Geometry = X86,
    ) -> None:
        """`counts`: whether VmPTE is known, because touches are; else only calls are counted. Others as TraceReplay."""
        super().__init__()
        self.pid, self.program, self.program_number = pid, program, 0
        self._policies, self._counts = policies, counts
        self._touch_all, self._scan_every, self._thp = touch_all, scan_every, thp
        self._geometry = geometry
        huge_pages = HugePages(thp, slot=geometry.slot)
        self._state = Replay(policies if counts else (), geometry, scan_every=scan_every, huge_pages=huge_pages)
        self.has_huge_advice = False
        self.histogram = CallHistogram((trace_rule(policy, geometry) for policy in policies), geometry)
        self.steps = self.unknown_calls = self.unmapped_calls = 0
        self.program_break = 0
        self.max_mapped_bytes = self._mapped_bytes = 0
        self.figures: dict[str, dict[str, int]] = {}
        self.has_ended = False
        self._stacks: set[int] = set()
        self._pending = PendingTouches(self._state)  # empty without `touch_all`

    @property
    def replay(self) -> Replay:
        """The engine's state after the last call; an empty one once the process has ended."""
        self._pending.apply_zap()
        return self._state

    def fork(self, pid: int) -> "ProcessReplay":
        """The child's address space. It is copied when parent or child changes first: most children only execute."""
        self.touch_last_ranges()
        child = ProcessReplay(
            pid,
            self.program,
            self._policies,
            counts=self._counts,
            touch_all=self._touch_all,
            scan_every=self._scan_every,
            thp=self._thp,
            geometry=self._geometry,
        )
        child.program_break = self.program_break
        self._copy_later(child)
        return child

    def inherit(self, former: "ProcessReplay") -> None:
        """Take over what an exec keeps: whether huge pages are disabled (MMF_INIT_MASK)."""
        self._state.huge_pages.disabled = former.replay.huge_pages.disabled

    def apply(self, call: Call) -> None:
        """Apply one call. Raises TraceError above a size limit."""
        if self._source is not None or self._copies:
            self._settle()
        op = call.op
        is_advice = op in HUGE_ADVICE  # given before the first touch, so that it has an effect
        if self._pending:
            if call.continues or is_advice:
                self._pending.apply_zap()
            else:
                self._pending.touch()
        if call.stops_at:
            call = self._shortened(call)
            if not call.length:
                return
        self.steps += 1
        if op in ZAPS:
            self._zap(call)
            return
        start, end = call.start, call.end
        if self._touch_all and not is_advice:
            if op in _TOUCH_NOTHING:
                self._pending.note(op)
            else:
                self._pending.add(op, start, end)
        if op == "mmap":
            self._mmap(call, end)
        elif op == "munmap":
            self._munmap(call, end)
        elif op == "mprotect":
            if self._state.mprotect(start, end, call.rights) and self._touch_all:
                self._pending.add(op, start, end)
        elif op == "mremap":
            self._mremap(call)
        elif op in ("write", "read"):
            self._state.touch(Operation(op, start, call.length, self._geometry.page))
        else:
            self._advise(call)
        if call.populates and self._state.policies:
            self._state.touch_all(start, end)
        self._state.end_operation()

    def see(self, runs: Sequence[tuple[int, int]], *, written: bool) -> None:
        """Pages [start, end) were found present; `written` as of Replay.install. They count as mapped from then on."""
        if self._source is not None or self._copies:
            self._settle()
        for start, end in runs:
            for low, high in _holes(self.replay.vmas.pieces(start, end), start, end):
                self.replay.mmap(low, high, READ | WRITE, anon=UNSEEN)
            self.replay.install(start, end, written=written)
        self.replay.end_operation()
        self.steps += 1

    def vm_pte_kib(self, policy: str) -> int:
        """VmPTE in KiB now."""
        if self._source is not None:
            self._settle()
        return self.replay.vm_pte_kib(policy)

    def apply_operation(self, operation: Operation) -> None:
        """Apply a step of a kernel trace. Raises TraceError as Replay.apply does."""
        if self._touch_all and operation.op not in HUGE_ADVICE:
            self.touch_last_ranges()
            self._pending.add(operation.op, operation.start, operation.end)
        if operation.op in _UNMAP_OR_ZAP:
            kind = operation.op.removesuffix("_locked")
            self.histogram.add_call(kind, operation.length, self._state.vmas.pieces(operation.start, operation.end))
        self._state.apply(operation)
        self.steps += 1

    def set_break(self, row: int, requested: int, new_break: int) -> Call | None:
        """Return what brk maps or unmaps, None if nothing. brk(NULL) only queries the break."""
        old_break = self.program_break
        if requested or not old_break:
            self.program_break = new_break
        return break_change(row, requested, old_break, new_break, self._geometry.page)

    def touch_last_ranges(self) -> None:
        """Write all pages of the last call's ranges; every other mapped page has been written before."""
        if self._pending and self._source is None:
            if self._copies:
                self._settle()
            self._pending.touch()

    def finish(self) -> None:
        """The process ended, or its recording did: keep the figures and release the memory."""
        if self.has_ended:
            return
        self.has_ended = True
        if self._source is not None and not self.steps:
            self._leave()
        else:
            self._settle()
            if self._state.policies:
                self._keep_figures()
        self.has_huge_advice = self._state.has_huge_advice
        self._state.release()
        self._state = Replay(())
        self._pending = PendingTouches(self._state)
        self._stacks.clear()

    def _keep_figures(self) -> None:
        """The maximum counts touches after the last call, too."""
        has_more = self._pending.finish()
        self.figures = {policy: self._state.outcome(policy) for policy in self._state.policies}
        if has_more:
            self._pending.touch()
            for policy, figures in self.figures.items():
                after = self._state.outcome(policy)
                figures.update({column: after[column] for column in _MAXIMA})

    def holds(self, address: int) -> bool:
        """Whether the address is mapped."""
        space = self
        while space._source is not None:
            space = space._source
        return space.replay.vmas.find(address) is not None

    def _copy_from(self, source: "ProcessReplay") -> None:
        self._state = source.replay.fork()
        self._stacks = set(source._stacks)
        self._mapped_bytes = self.max_mapped_bytes = source._mapped_bytes
        # What a fork does not copy: files, shared memory, zero pages.
        untouched = [(vma.start, vma.end) for vma in self._state.vmas] if self._touch_all else []
        self._pending = PendingTouches(self._state, untouched)

    def _shortened(self, call: Call) -> Call:
        """The part of a call before the hole, or the VMA under mlock, at which it failed; none if there is no such."""
        pieces = self._state.vmas.pieces(call.start, call.end)
        if call.stops_at == "hole":
            stops = (start for start, _ in _holes(pieces, call.start, call.end))
        else:
            stops = (start for vma, start, _ in pieces if vma.flags & LOCKED)
        return call._replace(length=next(stops, call.start) - call.start)

    def _advise(self, call: Call) -> None:
        match call.op:
            case "hugepage" | "nohugepage":
                self._state.advise(call.start, call.end, call.op)
            case "collapse":
                self._state.collapse(call.start, call.end)
            case "flags":
                self._state.set_flags(call.start, call.end, call.flags, call.cleared)
            case "policy":
                self._state.set_policy(call.start, call.end, call.policy)
            case "thp_disable":
                self._state.huge_pages.disabled = call.thp_disabled
            case _:
                self._state.guard(call.op, call.start, call.end)

    def _mmap(self, call: Call, end: int) -> None:
        if call.stack and len(self._stacks) < MAX_STACKS:
            self._stacks.add(call.start)
        backing = ANONYMOUS if call.anonymous else call.row
        self._mapped_bytes += end - call.start
        self._mapped_bytes -= self._state.mmap(
            call.start, end, call.rights if call.has_tables else 0, backing, flags=call.flags
        )
        self.max_mapped_bytes = max(self.max_mapped_bytes, self._mapped_bytes)

    def _munmap(self, call: Call, end: int) -> None:
        pieces = self._state.munmap(call.start, end)
        self.unmapped_calls += not pieces
        self._mapped_bytes -= sum(hi - lo for _, lo, hi in pieces)
        self.histogram.add_call("munmap", call.length, pieces)

    def _mremap(self, call: Call) -> None:
        page = self._geometry.page
        old_end = call.moved_from + -(-call.old_length // page) * page
        self._mapped_bytes += self._state.mremap(
            call.moved_from, old_end, call.start, call.end, keep=call.keeps_old, number=call.row
        )
        self.max_mapped_bytes = max(self.max_mapped_bytes, self._mapped_bytes)
        if self._touch_all and call.keeps_old:
            self._pending.add(call.op, call.moved_from, old_end)

    def _zap(self, call: Call) -> None:
        """MADV_DONTNEED or MADV_FREE: count it, and apply it, at once or with the touches that follow."""
        op, start, end = call.op, call.start, call.end
        pieces = self._state.vmas.pieces(start, end)
        if not call.has_holes:
            pieces = self._mapped_whole(pieces, start, end)
        is_stack = op == "dontneed" and (call.length == STACK_BYTES or start in self._stacks)
        self.histogram.add_call(op, call.length, pieces, is_stack=is_stack)
        if self._touch_all and not self._pending:
            self._pending.add_zap(op, start, end, pieces)
            return
        if self._touch_all:
            self._pending.add(op, start, end)
        self._state.zap(op, pieces)
        self._state.end_operation()

    def _mapped_whole(self, pieces: list[Piece], start: int, end: int) -> list[Piece]:
        """The pieces of a zap that worked, so that its whole range was mapped, even if the recording lacks the mmap."""
        holes = _holes(pieces, start, end)
        if not holes:
            return pieces
        self.unknown_calls += 1
        for low, high in holes:
            self._state.mmap(low, high, READ | WRITE, anon=UNSEEN)
            if self._touch_all:
                self._state.touch_all(low, high)
        return self._state.vmas.pieces(start, end)


def _holes(pieces: list[Piece], start: int, end: int) -> list[tuple[int, int]]:
    """The ranges of [start, end) that no piece covers."""
    if len(pieces) == 1 and pieces[0][1] == start and pieces[0][2] == end:
        return []
    edges = [start, *(edge for _, lo, hi in pieces for edge in (lo, hi)), end]
    return [(lo, hi) for lo, hi in list(pairwise(edges))[::2] if lo < hi]
