"""Points on the live kernel, one at a time: a fresh child for each, looked at after each half of each round."""

import os
from types import TracebackType
from typing import Self

import numpy as np

from engine.kernel import feasibility, host, outcome, proc_reader, script
from engine.kernel.feasibility import RefusedError
from engine.kernel.host import Machine, UnfitError
from engine.kernel.outcome import RES_END, RES_PEAK, VM_END, VM_PEAK, Seen
from engine.kernel.script import Round, Script
from engine.kernel.server import Hello, LostError, Server, TimedOutError
from engine.model.arch import ARCHES, KIB
from engine.model.scenario import Scenario

__all__ = ["LostError", "RefusedError", "Runner", "Seen", "TimedOutError", "UnfitError"]

LIMIT_S = 120.0


class Runner:
    """A context manager; raises UnfitError where no point can run. `pt_reclaim` is what a probe found, not a config."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.limit_s = limit_s
        self.machine: Machine = host.look()
        self._scans, self._scans_guards = what_scans(self.machine.page_bytes)
        self._server: Server | None = None

    def __enter__(self) -> Self:
        self._server = Server()
        self.hello: Hello = self._server.hello
        try:
            self.pt_reclaim = self._probe()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def policy(self) -> str:
        """The design that this kernel follows."""
        return "merged" if self.pt_reclaim else "none"

    @property
    def columns(self) -> tuple[str, ...]:
        """The outcome columns that this kernel shows."""
        return tuple(name for name in outcome.SEEN if self._scans_guards or name not in outcome.BY_SCAN)

    @property
    def counts_pages(self) -> bool:
        """RES is counted entry by entry, to the page. Without PAGEMAP_SCAN it is VmRSS, with its noise."""
        return self._scans

    def run(self, scenario: Scenario, unmap: bool = False) -> Seen:
        """One point. Raises RefusedError before anything is touched, or TimedOutError, LostError."""
        feasibility.check(scenario, unmap, self.machine, self.hello.guards)
        feasibility.check_memory(scenario, host.memory())
        return self.perform(script.write(scenario, unmap))

    def perform(self, work: Script) -> Seen:
        """The same, not asking whether it fits."""
        if self._server is None:
            self._server = Server()
        try:
            order, arrays = work.order(self.limit_s)
            first = self._server.begin(order, arrays, self.limit_s)
            if "ready" in first:
                found = self._watch(self._server, work, int(first["ready"]), int(first["base"]))
            self._server.end(dismiss="ready" in first)
        except BaseException:
            self.close()  # whatever is left of the point goes with the server
            raise
        if "ready" not in first:
            raise RefusedError(no_room(work.scenario, self.machine))
        return found

    def close(self) -> None:
        """Leave no process behind."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _watch(self, server: Server, work: Script, child: int, base: int) -> Seen:
        """Tell the child each half of each round, and look at it after each."""
        page, virt = work.page, work.scenario.virt
        rounds = np.zeros((len(work.rounds), 4), np.int64)
        times, drift, left = np.zeros((len(work.rounds), 2), np.int64), 0, None
        with proc_reader.Scanner(child, self._scans_guards) as scanner:
            before = proc_reader.status(child)
            for number in range(len(work.rounds)):
                for half, (res_at, vm_at) in enumerate(((RES_PEAK, VM_PEAK), (RES_END, VM_END))):
                    times[number, half] = server.go_on()
                    now = proc_reader.status(child)
                    resident = (now.vm_rss_kib - before.vm_rss_kib) * KIB
                    if self._scans:
                        entries = scanner.entries(base, virt, page)
                        drift = max(drift, abs(resident // page - entries.present))
                        resident = entries.present * page
                        left = entries.ranges if self._scans_guards else None
                    rounds[number, [res_at, vm_at]] = resident, now.vm_pte_kib - before.vm_pte_kib
        return Seen(outcome.columns(work, rounds, left), rounds, times, drift)

    def _probe(self) -> bool:
        """Two full tables, one zapped by one call, one by two: PT_RECLAIM frees the first and only that."""
        arch = next((a for a in ARCHES if a.name == self.machine.arch), None)
        if arch is None:
            raise UnfitError(
                f"no scenario has {self.machine.machine} with pages of {self.machine.page_bytes} bytes as its arch"
            )
        scenario = Scenario(virt=2 * arch.span_bytes, sparsity=0, arch=arch.name)
        nothing = np.zeros((0, 2), np.int64)
        table = arch.entries
        calls = np.array([[0, table], [table, table * 3 // 2], [table * 3 // 2, 2 * table]], np.int64)
        install = np.array([[0, 2 * table]], np.int64)
        round_ = Round(nothing, install, calls, np.array([0, 3], np.int64))
        found = self.perform(Script(scenario, False, nothing, (round_,)))
        freed = found.values["pte_tables_freed"]
        if freed not in (0, 1):
            raise UnfitError(f"Linux {self.machine.release} freed {freed} tables where PT_RECLAIM frees one")
        return freed == 1


def what_scans(page_bytes: int) -> tuple[bool, bool]:
    """Whether PAGEMAP_SCAN is there (Linux 6.7), and knows guard markers (6.15)."""
    found = []
    for guards in (False, True):
        try:
            with proc_reader.Scanner(os.getpid(), guards) as scanner:
                scanner.entries(0, page_bytes, page_bytes)
            found.append(True)
        except OSError:
            found.append(False)
    return found[0], found[1]


def no_room(scenario: Scenario, here: Machine) -> str:
    """Why the mapping may have failed."""
    limits = f"vm.overcommit_memory is {here.overcommit}" if here.overcommit == 2 else "see ulimit -v and -d"
    return f"virt {scenario.virt}: cannot be mapped at an address on 512 GiB; {limits}"
