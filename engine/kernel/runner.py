"""Runs scenarios on this machine's kernel, one at a time, each in a new child. Reads /proc after each half round."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np

from engine.inside.host_tracefs import HostTracefs, NoTracefsError
from engine.kernel import feasibility, host, outcome, proc_reader, script
from engine.kernel.feasibility import RefusedError
from engine.kernel.host import Machine, UnsupportedMachineError
from engine.kernel.huge_page_events import read_events, run_undisturbed
from engine.kernel.outcome import RES_END, RES_PEAK, VM_END, VM_PEAK, Observation
from engine.kernel.script import Round, Script
from engine.kernel.server import LostError, Server, ServerInfo, TimedOutError
from engine.model.arch import ARCHES, KIB
from engine.model.scenario import Scenario

__all__ = ["LostError", "Observation", "RefusedError", "Runner", "TimedOutError", "UnsupportedMachineError"]

LIMIT_S = 120.0


class Runner:
    """A context manager around a server process. Raises UnsupportedMachineError where no point can run.

    limit_s: time limit of a point; accel: host
    pt_reclaim: whether a zap of a whole table frees it. Found by a probe: a kernel's configuration is not always known.
    inside: kprobes count what the kernel does, which takes time that is then part of the measured times
    """

    accel = host.HOST

    def __init__(self, limit_s: float = LIMIT_S, inside: bool = False) -> None:
        self.limit_s, self.inside = limit_s, inside
        self._open, self._tracefs = ExitStack(), HostTracefs() if inside else None
        self.machine: Machine = host.read_machine()
        self._has_pagemap_scan, self._scans_markers = probe_pagemap_scan(self.machine.page_bytes)
        self._server: Server | None = None

    def __enter__(self) -> Self:
        if self._tracefs is not None:
            try:
                self._open.enter_context(self._tracefs)
            except NoTracefsError as error:
                raise UnsupportedMachineError(f"--inside: {error}") from error
        try:
            self._server = Server()
            self.info: ServerInfo = self._server.info
            self.pt_reclaim = probe_pt_reclaim(self.machine, self.run_script)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._open.close()

    @property
    def policy(self) -> str:
        """The policy that this kernel follows."""
        return "merged" if self.pt_reclaim else "none"

    @property
    def columns(self) -> tuple[str, ...]:
        """The outcome columns that can be observed on this kernel: also what probes count inside it."""
        seen = [c for c in outcome.OBSERVED_COLUMNS if self._scans_markers or c not in outcome.SCANNED_COLUMNS]
        return outcome.seen_columns(seen, self._tracefs.probes.columns if self._tracefs else ())

    @property
    def counts_pages(self) -> bool:
        """Whether RES is counted entry by entry. Without PAGEMAP_SCAN it is VmRSS, which is not exact."""
        return self._has_pagemap_scan

    def run(self, scenario: Scenario, unmap: bool = False) -> Observation:
        """Run one point; `unmap`: with munmap in place of madvise.

        Raises RefusedError before anything is mapped, TimedOutError, LostError.
        """
        feasibility.check(scenario, unmap, self.machine, self.info.guards)
        feasibility.check_memory(scenario, host.available_memory())
        point = script.script_of(scenario, unmap)
        if scenario.thp == "always":
            return run_undisturbed(point, lambda: self.run_script(point), read_events)
        return self.run_script(point)

    def run_script(self, point: Script) -> Observation:
        """Run a script without checking whether this machine can run it. Raises as run() does."""
        if self._server is None:
            self._server = Server()
        try:
            message, arrays = point.message(self.limit_s, self.inside)
            answer = self._server.start_point(message, arrays, self.limit_s)
            if "ready" in answer:
                observation = self._run_rounds(self._server, point, int(answer["ready"]), int(answer["base"]))
            self._server.finish_point(dismiss="ready" in answer)
        except BaseException:
            self.close()  # the child ends with the server
            if self._tracefs is not None:
                self._tracefs.probes.take()  # what it did counts for no other point
            raise
        if "ready" not in answer:
            raise RefusedError(no_space_message(point.scenario, self.machine))
        if self._tracefs is None:
            return observation
        inside, reschedules = self._tracefs.probes.take()
        values = outcome.join_counters(point, observation.values, inside)
        return replace(observation, values=values, reschedules=reschedules)

    def close(self) -> None:
        """End the server and its child. The next point starts another server."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _run_rounds(self, server: Server, point: Script, child: int, base: int) -> Observation:
        """Let the child (a process id) do each half round, and read its /proc files after each."""
        page, virt, has_huge = point.page, point.scenario.virt, point.scenario.thp == "always"
        rounds, anon_huge_kib = np.zeros((len(point.rounds), 4), np.int64), np.zeros((len(point.rounds), 2), np.int64)
        times, drift, entries_left = np.zeros((len(point.rounds), 2), np.int64), 0, None
        with proc_reader.Scanner(child, self._scans_markers) as scanner:
            before = proc_reader.read_status(child)
            huge_before = proc_reader.read_anon_huge_kib(child) if has_huge else 0
            for number in range(len(point.rounds)):
                for half, (res_at, vm_at) in enumerate(((RES_PEAK, VM_PEAK), (RES_END, VM_END))):
                    times[number, half] = server.run_half_round()
                    now = proc_reader.read_status(child)
                    resident = (now.vm_rss_kib - before.vm_rss_kib) * KIB
                    if self._has_pagemap_scan:
                        entries = scanner.scan(base, virt, page)
                        drift = max(drift, abs(resident // page - entries.present))
                        resident = entries.present * page
                        entries_left = entries.ranges if self._scans_markers else None
                    rounds[number, [res_at, vm_at]] = resident, now.vm_pte_kib - before.vm_pte_kib
                    if has_huge:
                        anon_huge_kib[number, half] = proc_reader.read_anon_huge_kib(child) - huge_before
        values = outcome.outcome_columns(point, rounds, entries_left, anon_huge_kib)
        return Observation(values, rounds, times, drift, anon_huge_kib)


def probe_pt_reclaim(machine: Machine, run_script: Callable[[Script], Observation]) -> bool:
    """Whether a zap of a whole table frees it: fill two tables; zap one by one call, the other by two.

    Raises UnsupportedMachineError if another number of tables is freed, or for a machine that no scenario names.
    """
    arch = next((a for a in ARCHES if a.name == machine.arch), None)
    if arch is None:
        raise UnsupportedMachineError(
            f"no scenario has {machine.machine} with pages of {machine.page_bytes} bytes as its arch"
        )
    scenario = Scenario(virt=2 * arch.span_bytes, sparsity=0, arch=arch.name)
    no_ranges = np.zeros((0, 2), np.int64)
    table = arch.entries
    calls = np.array([[0, table], [table, table * 3 // 2], [table * 3 // 2, 2 * table]], np.int64)
    installs = np.array([[0, 2 * table]], np.int64)
    round_ = Round(no_ranges, installs, calls, np.array([0, 3], np.int64))
    freed = run_script(Script(scenario, False, no_ranges, (round_,))).values["pte_tables_freed"]
    if freed not in (0, 1):
        raise UnsupportedMachineError(f"Linux {machine.release} freed {freed} tables where PT_RECLAIM frees one")
    return freed == 1


def probe_pagemap_scan(page_bytes: int) -> tuple[bool, bool]:
    """Whether the kernel has PAGEMAP_SCAN (Linux 6.7), and whether that reports guard markers (6.15)."""
    supported = []
    for markers in (False, True):
        try:
            with proc_reader.Scanner(os.getpid(), markers) as scanner:
                scanner.scan(0, page_bytes, page_bytes)
            supported.append(True)
        except OSError:
            supported.append(False)
    return supported[0], supported[1]


def no_space_message(scenario: Scenario, machine: Machine) -> str:
    """Why the VMA could not be mapped at any address."""
    limit = f"vm.overcommit_memory is {machine.overcommit}" if machine.overcommit == 2 else "see ulimit -v and -d"
    return f"virt {scenario.virt}: cannot be mapped at an address on 512 GiB; {limit}"
