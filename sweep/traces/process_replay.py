"""Replay the calls of one process of a recording: one address space, from its start, fork or exec to its end."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from engine.model.policy import Policy
from engine.traces.huge_pages import HugePages
from engine.traces.operations import HUGE_ADVICE, PURGES, Operation
from engine.traces.page_tables import PAGE
from engine.traces.replay import Replay
from engine.traces.trace_rules import trace_rule
from engine.traces.vmas import ANONYMOUS, LOCKED, READ, UNSEEN, WRITE, Piece
from sweep.traces.call_histogram import KINDS, STACK_BYTES, CallHistogram
from sweep.traces.calls import Call
from sweep.traces.program_break import break_change

MAX_STACKS = 1 << 16
_UNMAP_OR_PURGE = (*PURGES, "munmap")
_TOUCH_NOTHING = ("munmap", "mprotect", "flags", "policy")
"""Calls whose ranges hold no page to touch that was not touched before; of mprotect only if it gives a right."""
_MAPS = ("mmap", "mremap", "mprotect")
"""Calls after which a program may touch what they mapped. After a purge it may too, but the end is right after it."""


class ProcessReplay:
    """One process, or one of the programs that it executed one after the other.

    pid: 0 if the recording names none; program: the name of the program, empty if it is unknown
    program_number: 1 for the first program of a pid that made calls of memory
    histogram: the calls that give memory back
    steps: calls applied; unknown_calls: those that purged memory that was never seen mapped
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
    ) -> None:
        """`counts`: whether VmPTE is known, because touches are; else only calls are counted. Others as TraceReplay."""
        self.pid, self.program, self.program_number = pid, program, 0
        self._policies, self._counts = policies, counts
        self._touch_all, self._scan_every, self._thp = touch_all, scan_every, thp
        self._state = Replay(policies if counts else (), scan_every=scan_every, huge_pages=HugePages(thp))
        self.has_huge_advice = False
        self.histogram = CallHistogram(map(trace_rule, policies))
        self.steps = self.unknown_calls = self.unmapped_calls = 0
        self.program_break = 0
        self.max_mapped_bytes = self._mapped_bytes = 0
        self.figures: dict[str, dict[str, int]] = {}
        self.has_ended = False
        self._stacks: set[int] = set()
        self._purge = ""  # a purge that is not applied yet: usually only counted, see touch_last_ranges
        self._untouched: list[tuple[int, int]] = []  # ranges of the last call: written before the next one
        self._last_op = ""
        self._source: ProcessReplay | None = None  # the parent that `replay` must be copied from before either changes
        self._copies: list[ProcessReplay] = []  # children whose `_source` this is

    @property
    def replay(self) -> Replay:
        """The engine's state after the last call; an empty one once the process has ended."""
        self._apply_purge()
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
        )
        child.program_break = self.program_break
        child._source = self
        self._copies.append(child)
        return child

    def inherit(self, former: "ProcessReplay") -> None:
        """Take over what an exec keeps: whether huge pages are disabled (MMF_INIT_MASK)."""
        self._state.huge_pages.disabled = former.replay.huge_pages.disabled

    def apply(self, call: Call) -> None:
        """Apply one call. Raises TraceError above a size limit."""
        if self._source is not None or self._copies:
            self._settle()
        op, start, end = call.op, call.start, call.end
        is_advice = op in HUGE_ADVICE  # given before the first touch, so that it has an effect
        if self._untouched:
            if call.continues or is_advice:
                self._apply_purge()
            else:
                self.touch_last_ranges()
        if call.stops_at:
            call = self._shortened(call)
            end = call.end
            if not call.length:
                return
        if op in KINDS:
            self._count(call, end)
        self.steps += 1
        if self._touch_all and not is_advice:
            self._last_op = op
            if not self._untouched and op in PURGES:
                self._purge = op
                self._untouched.append((start, end))
                return
            if op not in _TOUCH_NOTHING:
                self._untouched.append((start, end))
        if op == "mmap":
            self._mmap(call, end)
        elif op == "munmap":
            self._mapped_bytes -= self._state.munmap(start, end)
        elif op in PURGES:
            self._state.purge(op, start, end)
        elif op == "mprotect":
            if self._state.mprotect(start, end, call.rights) and self._touch_all:
                self._untouched.append((start, end))
        elif op == "mremap":
            self._mremap(call)
        elif op in ("write", "read"):
            self._state.touch(Operation(op, start, call.length, PAGE))
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
            self._untouched.append((operation.start, operation.end))
            self._last_op = operation.op
        if operation.op in _UNMAP_OR_PURGE:
            kind = operation.op.removesuffix("_locked")
            self.histogram.add_call(kind, operation.length, self._state.vmas.pieces(operation.start, operation.end))
        self._state.apply(operation)
        self.steps += 1

    def set_break(self, row: int, requested: int, new_break: int) -> Call | None:
        """brk: what it maps or unmaps, None if nothing. brk(NULL) only queries the break."""
        old_break = self.program_break
        if requested or not old_break:
            self.program_break = new_break
        return break_change(row, requested, old_break, new_break)

    def touch_last_ranges(self) -> None:
        """Write all pages of the last call's ranges; every other mapped page has been written before."""
        if self._untouched and self._source is None:
            if self._copies:
                self._settle()
            if self._purge:
                self._state.purge_and_touch(self._purge, *self._untouched[0])
                self._purge = ""
            else:
                for start, end in self._untouched:
                    self._state.touch_all(start, end)
            self._untouched.clear()

    def _apply_purge(self) -> None:
        if self._purge:
            op, self._purge = self._purge, ""
            self._state.purge(op, *self._untouched[0])
            self._state.end_operation()

    def finish(self) -> None:
        """The process ended, or its recording did: keep the figures and release the memory.

        The end of a process that touches all pages is after it touched what its last call mapped, and right after a
        last call that purged. The maximum counts a touch after that call, too.
        """
        if self.has_ended:
            return
        self.has_ended = True
        if self._source is not None and not self.steps:
            self._leave()
        elif self._state.policies:
            self._settle()
            self._apply_purge()
            if self._last_op in _MAPS:
                self.touch_last_ranges()
            self.figures = {policy: self._state.outcome(policy) for policy in self._state.policies}
            if self._untouched:
                self.touch_last_ranges()
                for policy, figures in self.figures.items():
                    after = self._state.outcome(policy)
                    for column in ("res_bytes_peak", "vm_pte_kib_peak", "vm_pte_kib_max"):
                        figures[column] = after[column]
        else:
            self._settle()
        self.has_huge_advice = self._state.has_huge_advice
        self._state.release()
        self._state = Replay(())
        self._stacks.clear()

    def holds(self, address: int) -> bool:
        """Whether the address is mapped."""
        space = self
        while space._source is not None:
            space = space._source
        return space.replay.vmas.find(address) is not None

    def _settle(self) -> None:
        """Make the copies that are still due: this process's own, and those of its children."""
        if self._source is not None:
            source, self._source = self._source, None
            source._copies.remove(self)
            if source._source is not None:
                source._settle()
            self._state = source.replay.fork()
            self._stacks = set(source._stacks)
            self._mapped_bytes = self.max_mapped_bytes = source._mapped_bytes
            if self._touch_all:  # what a fork does not copy: files, shared memory, zero pages
                self._untouched = [(vma.start, vma.end) for vma in self._state.vmas]
        for child in list(self._copies):
            child._settle()

    def _leave(self) -> None:
        """End a child that was never copied from its parent: it executed or ended before either changed.

        Children that were to copy from it copy from its parent.
        """
        assert self._source is not None
        self._source._copies.remove(self)
        for child in self._copies:
            child._source = self._source
            self._source._copies.append(child)
        self._copies.clear()

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

    def _mremap(self, call: Call) -> None:
        old_end = call.moved_from + -(-call.old_length // PAGE) * PAGE
        self._mapped_bytes += self._state.mremap(
            call.moved_from, old_end, call.start, call.end, keep=call.keeps_old, number=call.row
        )
        self.max_mapped_bytes = max(self.max_mapped_bytes, self._mapped_bytes)
        if self._touch_all and call.keeps_old:
            self._untouched.append((call.moved_from, old_end))

    def _count(self, call: Call, end: int) -> None:
        """Count a call that gives memory back.

        A purge that worked shows that its whole range was mapped, even if the recording lacks the mmap. munmap does
        not: it works on holes as well.
        """
        pieces = self._state.vmas.pieces(call.start, end)
        if call.op == "munmap":
            self.unmapped_calls += not pieces
        elif not call.has_holes:
            holes = list(_holes(pieces, call.start, end))
            for low, high in holes:
                self._state.mmap(low, high, READ | WRITE, anon=UNSEEN)
                if self._touch_all:
                    self._state.touch_all(low, high)
            if holes:
                self.unknown_calls += 1
                pieces = self._state.vmas.pieces(call.start, end)
        is_stack = call.op == "dontneed" and (call.length == STACK_BYTES or call.start in self._stacks)
        self.histogram.add_call(call.op, call.length, pieces, is_stack=is_stack)


def _holes(pieces: list[Piece], start: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges of [start, end) that no piece covers."""
    if len(pieces) == 1 and pieces[0][1] == start and pieces[0][2] == end:
        return
    edges = [start, *(edge for _, lo, hi in pieces for edge in (lo, hi)), end]
    yield from ((lo, hi) for lo, hi in list(pairwise(edges))[::2] if lo < hi)
