"""Counters inside a kernel: kprobes on the functions that do the work, summed up by hist triggers of tracefs.

Only threads with certain names count (INSTALLING, ZAPPING), which agent.c and engine.kernel.syscalls set. A kernel
without a function, because it is older, or because the compiler inlined it, does not show the counters that need it.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

TRACEFS = "/sys/kernel/tracing"
INSTALLING, ZAPPING, UNCOUNTED = "sweep-install", "sweep-zap", "sweep-idle"
"""Names of threads while they do what is counted, and at other times."""
FLUSH_CEILING = 33
"""tlb_single_page_flush_ceiling of x86: flush_tlb_mm_range of more units of its stride flushes the whole TLB."""
MAX_KEYS = 16_384
_ROW = re.compile(r"\{ (.*?) \} hitcount:\s+(\d+)")
_DROPPED = re.compile(r"Dropped: (\d+)")

Hits = Counter[tuple[int, ...]]
"""Hits of a probe by the values of its keys."""


class Probe(NamedTuple):
    """A probe: kind (p: at the function's start, r: at its end), function, fetched values, keys of its histogram.

    thread: the name of the threads that it counts
    """

    kind: str
    function: str
    values: str
    keys: str
    thread: str = ZAPPING


PROBES = {
    "flush": Probe("p", "flush_tlb_mm_range", "start=$arg2:u64 end=$arg3:u64 shift=$arg4:u32", "end-start,shift"),
    "force_break": Probe("p", "tlb_flush_mmu", "", "common_flags"),  # tlb_finish_mmu has its own copy, inlined
    "table_freed": Probe("p", "___pte_free_tlb", "", "common_flags"),
    "table_allocated": Probe("p", "pte_alloc_one", "", "common_flags", INSTALLING),
    "trylock": Probe("r", "try_get_and_clear_pmd", "ret=$retval:u8", "ret"),  # mm/pt_reclaim.c, Linux 6.14 to 6.19
    "slow_path": Probe("p", "try_to_free_pte", "", "common_flags"),
    "reschedule": Probe("p", "rcu_note_context_switch", "preempt=$arg1:u8", "preempt"),
}
COLUMNS = {
    "tlb_flushes_full": "flush",
    "tlb_invlpgs": "flush",
    "force_breaks": "force_break",
    "pte_tables_freed": "table_freed",
    "pte_tables_allocated": "table_allocated",
    "pmd_trylocks": "trylock",
    "pmd_trylocks_failed": "trylock",
    "fast_paths": "trylock",
    "slow_paths": "slow_path",
}
"""The probe that each column needs."""


class Probes:
    """The probes of a running kernel. available: those that it has.

    write(path, text) adds to a file and returns whether the kernel took it; read(path) returns a file's text;
    folder: where tracefs is mounted
    """

    def __init__(self, write: Callable[[str, str], bool], read: Callable[[str], str], folder: str = TRACEFS) -> None:
        self._read, self._events = read, f"{folder}/events/sweep"
        self.available: list[str] = []
        self._before: dict[str, Hits] = {}
        for name, probe in PROBES.items():
            line = f"{probe.kind}:sweep/{name} {probe.function} {probe.values}\n"
            trigger = f'hist:keys={probe.keys}:size={MAX_KEYS} if comm == "{probe.thread}"'
            if write(f"{folder}/kprobe_events", line) and write(f"{self._events}/{name}/trigger", trigger):
                self.available.append(name)
                self._before[name] = Counter()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the available probes count."""
        return tuple(column for column, probe in COLUMNS.items() if probe in self.available)

    def take(self) -> tuple[dict[str, int], int]:
        """(counters by column, reschedules) since the last call. A histogram that ran over gives no counters."""
        hits: dict[str, Hits] = {}
        for name in self.available:
            now, is_whole = parse_histogram(self._read(f"{self._events}/{name}/hist"))
            if is_whole:
                hits[name] = Counter({key: count - self._before[name][key] for key, count in now.items()})
            self._before[name] = now
        values = {column: count for column, count in count_hits(hits).items() if COLUMNS[column] in hits}
        return values, hits.get("reschedule", Counter())[(1,)]


def parse_histogram(text: str) -> tuple[Hits, bool]:
    """(hits by key, whether no hit was dropped) of a file events/.../hist."""
    hits: Hits = Counter()
    for keys, count in _ROW.findall(text):
        hits[tuple(int(part.rpartition(":")[2]) for part in keys.split(","))] = int(count)
    dropped = _DROPPED.search(text)
    return hits, dropped is not None and dropped[1] == "0"


def count_hits(hits: dict[str, Hits]) -> dict[str, int]:
    """Counters by column. A probe that is not in `hits` counts as 0."""
    none: Hits = Counter()
    full = single = 0
    for (span, shift), count in hits.get("flush", none).items():
        is_full = span >> shift > FLUSH_CEILING
        full += count if is_full else 0
        single += 0 if is_full else count * -(-span // (1 << shift))
    trylocks = hits.get("trylock", none)
    return {
        "tlb_flushes_full": full,
        "tlb_invlpgs": single,
        "force_breaks": hits.get("force_break", none).total(),
        "pte_tables_freed": hits.get("table_freed", none).total(),
        "pte_tables_allocated": hits.get("table_allocated", none).total(),
        "pmd_trylocks": trylocks.total(),
        "pmd_trylocks_failed": trylocks[(0,)],
        "fast_paths": trylocks[(1,)],
        "slow_paths": hits.get("slow_path", none).total(),
    }
