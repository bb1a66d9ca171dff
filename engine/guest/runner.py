"""Runs scenarios and recordings on a kernel in a guest. Has the interface of engine.kernel.runner.Runner."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from engine.guest import qemu_command
from engine.guest.booted_guest import BootError, Guest
from engine.guest.image import Image
from engine.inside.probes import Probes
from engine.kernel import feasibility, outcome, script
from engine.kernel.feasibility import RefusedError
from engine.kernel.host import AvailableMemory, Machine, UnsupportedMachineError
from engine.kernel.huge_page_events import HugePageEvents, parse_events, run_undisturbed
from engine.kernel.outcome import RES_END, RES_PEAK, VM_END, VM_PEAK, Observation
from engine.kernel.runner import LIMIT_S, probe_pt_reclaim
from engine.kernel.scenario_pages import Ranges
from engine.kernel.script import Script
from engine.kernel.server import LostError, ServerInfo
from engine.model.arch import KIB, MIB
from engine.model.scenario import Scenario

MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_NOHUGEPAGE = 4, 8, 14, 15
ZAP_ADVICE = {"dontneed": MADV_DONTNEED, "free": MADV_FREE}
UNMAP = -1
RESERVE_BYTES = 64 * MIB
"""Memory of a guest that no point may take."""
MAX_THREADS = 256
STEP_MMAP, STEP_MUNMAP, STEP_MPROTECT, STEP_MADVISE, STEP_TOUCH = range(5)
"""Kinds of operations of a recording (struct step in agent.c)."""

_kvm_broken: dict[str, str] = {}
"""Machines whose guests do not boot with KVM here, and why."""


class StepFigures(NamedTuple):
    """What /proc showed after an operation of a recording, in KiB, and the operation's errno."""

    error: int
    vm_pte_kib: int
    res_kib: int
    anon_huge_kib: int


class Operation(NamedTuple):
    """An operation of a recording as the agent takes it (struct step in agent.c)."""

    kind: int
    argument: int
    start: int
    length: int
    stride: int


class GuestRunner:
    """A context manager around a guest. Raises UnsupportedMachineError where the kernel cannot run any point.

    limit_s: time limit of a point; accel: kvm or tcg; note: a line on why it is not kvm, "" where that is plain
    pt_reclaim: whether a zap of a whole table frees it, found by a probe
    """

    def __init__(self, image: Image, folder: Path, limit_s: float = LIMIT_S) -> None:
        """folder: where compiled agents are kept"""
        self.image, self.limit_s, self._folder = image, limit_s, folder
        self.note = ""
        self._guest: Guest | None = None
        self._probes: Probes | None = None

    def __enter__(self) -> Self:
        try:
            self._guest = self._boot()
            self._read_facts(self._guest.facts)
            self._set_probes(self._guest)
            self.pt_reclaim = probe_pt_reclaim(self.machine, self.run_script)
        except BootError as error:
            raise UnsupportedMachineError(str(error)) from error
        except LostError as error:
            raise UnsupportedMachineError(f"{self.image.release}: does not run a point: {error}") from error
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
        """The policy that this kernel follows."""
        return "merged" if self.pt_reclaim else "none"

    @property
    def columns(self) -> tuple[str, ...]:
        """The outcome columns that can be observed on this kernel: also what probes count inside it."""
        return outcome.seen_columns(outcome.OBSERVED_COLUMNS, self._probes.columns if self._probes else ())

    @property
    def counts_pages(self) -> bool:
        """Whether RES is counted entry by entry: smaps_rollup, in every kernel with CONFIG_PROC_PAGE_MONITOR."""
        return True

    @property
    def has_times(self) -> bool:
        """Whether times mean anything: not in emulation."""
        return self.accel != qemu_command.TCG

    def run(self, scenario: Scenario, unmap: bool = False) -> Observation:
        """Run one point; `unmap`: with munmap in place of madvise.

        Raises RefusedError before anything is mapped, TimedOutError, LostError.
        """
        feasibility.check(scenario, unmap, self.machine, self.info.guards)
        feasibility.check_memory(scenario, self.available_memory())
        point = script.script_of(scenario, unmap)
        if scenario.thp == "always":
            return run_undisturbed(point, lambda: self.run_script(point), self.read_events, counts_point=True)
        return self.run_script(point)

    def run_script(self, point: Script) -> Observation:
        """Run a script without checking whether the guest can run it. Raises as run() does."""
        with self._use_guest() as guest:
            guest.send(pack_point(point))
            answers = list(guest.lines())
            inside, reschedules = self._probes.take() if self._probes else ({}, 0)
        if answers[-1][0] != "done":
            raise RefusedError(f"virt {point.scenario.virt}: cannot be mapped in a guest")
        halves = np.array([words[1:] for words in answers if words[0] == "half"], np.int64)
        slots = np.array([words[1:] for words in answers if words[0] == "left"], np.int64).reshape(-1, 2)
        vm_pte, res, vm_rss, anon_huge_kib, ns = halves.reshape(len(point.rounds), 2, 5).transpose(2, 0, 1)
        rounds = np.zeros((len(point.rounds), 4), np.int64)
        rounds[:, [VM_PEAK, VM_END]], rounds[:, [RES_PEAK, RES_END]] = vm_pte, res * KIB
        drift = int(abs(vm_rss - res).max()) * KIB // point.page
        entries_left = slots * point.scenario.geometry.entries
        values = outcome.outcome_columns(point, rounds, entries_left, anon_huge_kib)
        values = outcome.join_counters(point, values, inside)
        return Observation(values, rounds, ns.copy(), drift, anon_huge_kib.copy(), reschedules)

    def run_operations(self, operations: Sequence[Operation]) -> list[StepFigures]:
        """Play a recording in a new process, with huge pages as the guest's setting has it.

        Raises TimedOutError, LostError.
        """
        packed = b"".join(struct.pack("<2q3Q", *operation) for operation in operations)
        with self._use_guest() as guest:
            guest.send(b"S" + struct.pack("<I", len(operations)) + packed)
            return [StepFigures(*map(int, words[1:])) for words in guest.lines() if words[0] == "step"]

    def read_file(self, path: str) -> str:
        """The content of a file in the guest. Raises FileNotFoundError, TimedOutError, LostError."""
        with self._use_guest() as guest:
            return guest.read_file(path).decode(errors="replace")

    def read_events(self) -> HugePageEvents:
        """What the guest's kernel did with huge pages. Raises TimedOutError, LostError."""
        return parse_events(self.read_file("/proc/vmstat"))

    def available_memory(self) -> AvailableMemory:
        """Memory of the guest that a point may take."""
        text = self.read_file("/proc/meminfo")
        free = int(text.partition("MemAvailable:")[2].split()[0]) * KIB
        return AvailableMemory(max(free - RESERVE_BYTES, 0), "the guest's MemAvailable")

    def write_file(self, path: str, text: str) -> bool:
        """Write a file in the guest. Returns whether that worked. Raises TimedOutError, LostError."""
        with self._use_guest() as guest:
            return guest.write_file(path, text)

    def close(self) -> None:
        """End the guest. The next point boots another."""
        guest, self._guest = self._guest, None
        if guest is not None:
            guest.close()

    @contextmanager
    def _use_guest(self) -> Iterator[Guest]:
        """The running guest, with the time limit of a point; another if the last one ended. An error ends it."""
        if self._guest is None:
            try:
                self._guest = self._boot()
                self._set_probes(self._guest)
            except BootError as error:
                raise LostError(str(error), error.console) from error
        self._guest.set_limit(self.limit_s)
        try:
            yield self._guest
        except FileNotFoundError:
            raise
        except BaseException:
            self.close()  # the next point boots anew
            raise

    def _boot(self) -> Guest:
        """Boot with KVM if that works, else in emulation."""
        machine = self.image.machine
        self.accel = (
            qemu_command.KVM if qemu_command.has_kvm(machine) and machine not in _kvm_broken else qemu_command.TCG
        )
        if self.accel == qemu_command.KVM:
            try:
                return Guest(self.image, qemu_command.KVM, self._folder)
            except BootError as error:
                self.accel, _kvm_broken[machine] = qemu_command.TCG, str(error)
        if machine in _kvm_broken:
            self.note = "KVM is there, but a guest dies in it: guests are emulated, and times are not measured"
        return Guest(self.image, qemu_command.TCG, self._folder)

    def _set_probes(self, guest: Guest) -> None:
        """Count inside the guest if its times mean nothing anyway: probes take time."""
        self._probes = None
        if not self.has_times and guest.facts["tracefs"] == "1":
            self._probes = Probes(guest.write_file, lambda path: guest.read_file(path).decode(errors="replace"))

    def _read_facts(self, facts: dict[str, str]) -> None:
        """Set `machine` and `info` from what the agent said. Raises UnsupportedMachineError."""
        lacking = {
            "a call that is needed; Linux 5.14 has them all": facts["populate"] == "0",
            "CONFIG_PROC_FS, which a guest needs": facts["vm_pte"] == "-1",
            "CONFIG_PROC_PAGE_MONITOR, which a guest needs": facts["counts_entries"] == "0",
        }
        for what, lacks in reversed(lacking.items()):
            if lacks:
                raise UnsupportedMachineError(f"Linux {facts['release']} lacks {what}")
        self.machine = Machine(
            release=facts["release"],
            machine=facts["machine"],
            page_bytes=int(facts["page_bytes"]),
            thp=facts["thp"],
            max_map_count=int(facts["max_map_count"]),
            overcommit=0,
            threads=MAX_THREADS,
            cpus=int(facts["cpus"]),
        )
        self.info = ServerInfo(facts["guards"] == "1", facts["fifth_level"] == "1", loop_ns=0.0)


def pack_point(point: Script) -> bytes:
    """The command that plays a script: struct point, rounds, offsets and arrays of agent.c."""
    arrays, numbers = point.arrays()
    zap_advice = UNMAP if point.unmap else ZAP_ADVICE[point.scenario.advice]
    threads, rounds = point.scenario.threads, len(point.rounds)
    has_huge = point.scenario.thp == "always"
    huge = not has_huge, MADV_HUGEPAGE if has_huge else MADV_NOHUGEPAGE
    head = struct.pack("<Q4I2q", point.scenario.virt, threads, len(arrays), rounds, *huge, zap_advice)
    table = np.array([(*n, at * (threads + 1)) for at, n in enumerate(numbers)], "<u4")
    offsets = np.concatenate([r.offsets for r in point.rounds]).astype("<u4")
    return b"P" + head + table.tobytes() + offsets.tobytes() + b"".join(map(pack_ranges, arrays))


def pack_ranges(ranges: Ranges) -> bytes:
    """An array as the agent reads it (take_array in agent.c). ranges: int64[n, 2], first and end page."""
    distance = ranges[:, 0] - np.append(0, ranges[:-1, 1])
    zigzag = (distance << 1 ^ distance >> 63).astype(np.uint64)
    packed = pack_numbers(np.stack([zigzag, (ranges[:, 1] - ranges[:, 0]).astype(np.uint64)], axis=1).ravel())
    return struct.pack("<2Q", len(ranges), len(packed)) + packed


def pack_numbers(values: NDArray[np.uint64]) -> bytes:
    """Each number in as few bytes as it needs: 7 bits each, the lowest first. All but the last have the top bit set."""
    size = np.ones(len(values), np.int64)
    for bits in range(7, 64, 7):
        size += values >= np.uint64(1 << bits)
    at = np.cumsum(size) - size
    out = np.zeros(int(size.sum()), np.uint8)
    for byte in range(int(size.max(initial=0))):
        has = size > byte
        seven = (values[has] >> np.uint64(7 * byte) & np.uint64(127)).astype(np.uint8)
        out[at[has] + byte] = seven | np.where(size[has] > byte + 1, 128, 0).astype(np.uint8)
    return out.tobytes()
