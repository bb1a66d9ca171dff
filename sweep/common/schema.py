"""Declaration of every column: name, type, unit, meaning. Tables, views, help and file metadata are derived from it."""

from dataclasses import dataclass

from engine.model import policy, results, scenario

RUN_SCHEMA = "sweep-run/2"
"""Version of run.json and of the tables: raised if a column changes its meaning or is removed, not if one is added."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. type: int64, float64, string, bool or timestamp (UTC). coded: a string with few different values."""

    name: str
    type: str
    unit: str
    meaning: str
    coded: bool = False


_RUN = Column("run_id", "string", "", "the run: its grid's name and a hash of the grid's content", coded=True)
_POINT = Column("point_id", "string", "", "hash of the canonical scenario and of the model's version")
_REPEAT = Column("repeat", "int64", "count", "which repeat of the grid, from 0; its seed is the grid's seed + repeat")
_POLICY = Column("policy", "string", "", "design for freeing empty tables", coded=True)
_ENGINE = Column("engine", "string", "", "model, or kernel: measured on the live kernel", coded=True)

_FIELD_TYPES = {"bytes": "int64", "count": "int64", "share": "float64", "choice": "string"}
_FIELD_UNITS = {"bytes": "bytes", "count": "count", "share": "share", "choice": ""}
_FIELD_MEANINGS = {
    "sparsity": "share of pages that are none after an install; 1 - res / virt where res was given",
    "res": "resident bytes after an install, on average; NULL where sparsity was given",
}

_EMPTY = "; NULL if it has no effect in this rule"

SCENARIO = tuple(
    Column(
        field.name,
        _FIELD_TYPES[field.kind],
        _FIELD_UNITS[field.kind],
        _FIELD_MEANINGS.get(field.name, field.meaning),
        coded=field.kind == "choice",
    )
    for field in scenario.FIELDS
)
"""The fields of a scenario as they are stored: choices as text, sizes in bytes."""

TRACE = (
    Column("trace", "string", "", "name of the trace's file; NULL if the point is a scenario", coded=True),
    Column("trace_hash", "string", "", "blake2b, 16 bytes, of the trace's text", coded=True),
    Column("trace_rows", "int64", "count", "lines of the trace"),
    Column(
        "trace_process",
        "string",
        "",
        "pid, with .1, .2 and so on if it executed several programs; NULL if one",
        coded=True,
    ),
    Column("touch", "string", "", "recorded, or all: every mapped page counts as written between calls", coded=True),
)
"""Columns of a point that is a trace. Its scenario fields are NULL."""

POINT = (*SCENARIO, *TRACE)
"""Columns that identify a point. Conditions and derived columns may use them."""

_STATE = {
    "res_bytes_peak": ("bytes", "resident memory after the last install, before its calls"),
    "res_bytes_end": ("bytes", "resident memory after the last calls"),
    "vm_pte_kib_peak": ("KiB", "VmPTE, all tables, after the last install, before its calls"),
    "vm_pte_kib_end": ("KiB", "VmPTE, all tables, after the last calls"),
    "vm_pte_kib_max": ("KiB", "highest VmPTE at the end of an install or of a round's calls, over all rounds"),
    "vm_pte_kib_needed_end": ("KiB", "at the end: tables that still hold an entry, and those above them"),
    "pte_tables_end": ("tables", "PTE tables at the end"),
    "pmd_tables_end": ("tables", "PMD tables at the end"),
    "pud_tables_end": ("tables", "PUD tables at the end; 0 where the level is folded"),
    "pte_tables_empty_end": ("tables", "PTE tables at the end in which every entry is none"),
    "anon_huge_kib_peak": ("KiB", "AnonHugePages after the last install, before its calls"),
    "anon_huge_kib_end": ("KiB", "AnonHugePages after the last calls"),
}
_WORK = {
    "zap_calls": ("count", "madvise calls (munmap calls under munmap)"),
    "ptes_installed": ("entries", "entries installed, refaults included"),
    "ptes_zapped": ("entries", "entries cleared"),
    "table_visits": ("count", "visits: pieces of calls over slots that have a PTE table"),
    "pte_tables_allocated": ("tables", "PTE tables allocated"),
    "pte_tables_freed": ("tables", "PTE tables freed"),
    "ptes_rescanned": ("entries", "entries read, beyond those zapped, to find out whether a table is empty"),
    "fast_paths": ("count", "tables freed under the call's own PTE lock"),
    "slow_paths": ("count", "tables scanned again under both locks"),
    "force_breaks": ("count", "times the gather filled up and the PTE lock was dropped"),
    "pmd_trylocks": ("count", "trylocks of a PMD lock"),
    "pmd_trylocks_failed": ("count", "of those, failed"),
    "pmd_locks": ("count", "PMD locks taken with spin_lock"),
    "pte_locks_extra": ("count", "PTE locks taken, beyond those of the calls themselves"),
    "atomics": ("count", "atomic updates of a table's count of entries"),
    "tlb_flushes_full": ("count", "flushes of the whole TLB"),
    "tlb_invlpgs": ("count", "single translations flushed"),
    "ipis": ("count", "interrupts sent to other CPUs to flush"),
    "thp_faults": ("count", "huge pages that faults brought"),
    "thp_splits": ("count", "huge pages whose PMD entry was split into a table's entries"),
}
STATE = tuple(Column(name, "int64", *_STATE[name]) for name in results.STATE)
WORK = tuple(Column(name, "int64", *_WORK[name]) for name in results.WORK)
_RELEASE = Column(
    "kernel_release", "string", "", "uname -r of the kernel that ran it; NULL under the model", coded=True
)
KERNEL = (
    Column("install_ns", "int64", "ns", "measured time of all installs; NULL under the model"),
    Column("zap_ns", "int64", "ns", "measured time of all calls; NULL under the model"),
    _RELEASE,
    Column("pt_reclaim", "bool", "", "whether that kernel frees empty tables; NULL under the model"),
    Column("accel", "string", "", "host, or kvm or tcg in a guest; times are NULL under tcg", coded=True),
)

OUTCOMES = (_RUN, _POINT, _REPEAT, _POLICY, _ENGINE, *POINT, *STATE, *WORK, *KERNEL)
"""One row for each point that is ok and policy. A counter that a trace or the live kernel does not show is NULL."""

ROUNDS = (
    _RUN,
    _POINT,
    _POLICY,
    _ENGINE,
    _RELEASE,
    Column("round", "int64", "count", "round, from 1"),
    *(
        Column(name, "int64", _STATE[name][0], _STATE[name][1].replace("the last", "the round's"))
        for name in results.ROUND_COLUMNS
    ),
)
"""One row for each point, policy and round. Files have those of points with several rounds."""

POINTS = (
    _RUN,
    _POINT,
    _REPEAT,
    _ENGINE,
    *POINT,
    Column("remarks", "string", "", "what the figures leave out, such as rows that were skipped; NULL if nothing"),
    Column("status", "string", "", "ok, failed, timeout, lost or refused", coded=True),
    Column("attempt", "int64", "count", "which attempt this is, from 1; the tables show the last one"),
    Column("error", "string", "", "why the point is not ok; NULL if it is ok"),
    Column("error_class", "string", "", "the error's class, or a signal's name, OutOfMemory, Timeout", coded=True),
    Column("last_lines", "string", "", "the traceback's last lines, or what its worker wrote last; NULL if ok or none"),
    Column("node", "string", "", "host on which it ran", coded=True),
    Column("cpu_ns", "int64", "ns", "CPU time: the batch's, divided by its points"),
    Column("finished_at", "timestamp", "UTC", "when its rows were made, by the clock of the machine that made them"),
)
"""One row for each attempt of a point. The derived columns of the grid follow (their SQL is in run.json)."""

POINT_STATUSES = ("ok", "failed", "timeout", "lost", "refused")

RUNS = (
    _RUN,
    Column("grid", "string", "", "name of the grid"),
    Column("about", "string", "", "the question that the grid asks"),
    _ENGINE,
    Column(
        "status",
        "string",
        "",
        "running, ok, failed, interrupted, fault; unknown: its lock cannot be seen from here",
    ),
    Column("created", "timestamp", "UTC", "first launched"),
    Column("updated", "timestamp", "UTC", "last launched or finished"),
    Column("ok", "int64", "count", "points done"),
    Column("failed", "int64", "count", "points whose last attempt is not ok"),
    Column("todo", "int64", "count", "points of the plan without a row; NULL while that is not known"),
    Column("repeats", "int64", "count", "repeats of the grid"),
    Column("seed", "int64", "count", "seed of the grid"),
    Column("model_version", "int64", "count", "version of the model"),
    Column("version", "string", "", "version of ptsweep"),
    Column("git_commit", "string", "", "commit of the checkout it ran from, -dirty if changed; NULL if none"),
    Column("host", "string", "", "host of the launch"),
    Column("kernel", "string", "", "kernel release of that host"),
    Column("cpu_model", "string", "", "CPU model of that host"),
)
"""One row for each run, from its run.json."""

POLICIES = (
    _RUN,
    _POLICY,
    Column("built_in", "bool", "", "true for the seven designs that ship, false for a rule of the grid's own"),
    Column("like", "string", "", "the policy from which the grid derives the rule; NULL if from none"),
    *(
        Column(
            name, "int64" if name == "every" else "string", "rounds" if name == "every" else "", f"{meaning}{_EMPTY}"
        )
        for name, meaning in policy.FIELD_MEANINGS.items()
    ),
    Column("least_bytes", "int64", "bytes", "`least` as a number; NULL for whole slots and where `least` is NULL"),
    Column("rule", "string", "", "the rule in a sentence"),
    Column("source", "string", "", "kernel release, commit or mail that the rule comes from; NULL for own rules"),
)
"""One row for each run and policy of its grid, from its run.json. Fields of a rule are spelled as in a grid."""

COSTS = (
    Column("name", "string", "", "the cost table"),
    Column("counter", "string", "", "the counter with this price: a column of outcomes, or a count derived from some"),
    Column("ns", "float64", "ns", "cost of one"),
    Column("covers", "string", "", "the work that these nanoseconds cover"),
    Column("guess", "bool", "", "true if no measurement supports the figure"),
    Column("source", "string", "", "where the figure comes from"),
    Column("machine", "string", "", "the machine it was measured on"),
    Column("date", "string", "", "date of the figure"),
)
"""One row for each cost table and counter with a price."""

COST_NS = Column("cost_ns", "float64", "ns", "the counters times the chosen cost table; computed when queried")

TABLES = {"outcomes": OUTCOMES, "rounds": ROUNDS, "points": POINTS}
"""Tables that a run stores as Parquet files."""

VIEWS = {
    "outcomes": (*OUTCOMES, COST_NS),
    "latest": (*OUTCOMES, COST_NS),
    "rounds": ROUNDS,
    "points": POINTS,
    "failures": POINTS,
    "runs": RUNS,
    "policies": POLICIES,
    "costs": COSTS,
}
"""Views of `sweep query`, with their columns."""
