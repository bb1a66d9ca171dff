"""The twin's contention: decide after each round which trylocks failed (docs/method.md, section 6)."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tests.twin.draws import Choices

Steps = dict[tuple[int, int], int]
"""Maps (call, table) to the step of that visit."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a call inside one slot: entries [start, end) of its table."""

    call: int
    number: int  #: index within the call
    table: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Trylock:
    """An attempt to take the PMD lock; `fast` if its failure turns a fast path into a slow path."""

    piece: Piece
    fast: bool


def steps_of(choices: Choices, round_: int, visits: Iterable[Piece]) -> Steps:
    """Return the step of each visit of a round; threads advance in lock step, one visit per step."""
    threads, calls = choices.s.threads, choices.grid_calls
    steps: Steps = {}
    visits_of: Counter[int] = Counter()  # by thread
    for piece in visits:
        if choices.s.order == "random":
            turn = choices.call_rank(round_, piece.call) * -(-calls // threads) >> 64
            step = turn * (-(-choices.zap // choices.arch.entries) + 1) + piece.number
        else:
            thread = piece.call * threads // calls if choices.s.partition == "blocked" else piece.call % threads
            step = visits_of[thread]
            visits_of[thread] += 1
        steps[piece.call, piece.table] = step
    return steps


def contend(
    choices: Choices, round_: int, steps: Steps, trylocks: list[Trylock], work: Counter[str], *, reads: bool = True
) -> None:
    """Turn failed trylocks into slow paths. Only counters in `work` change: the table is freed either way.

    reads: whether a slow path reads the entries again.
    """
    trylocks_at: defaultdict[tuple[int, int], list[Trylock]] = defaultdict(list)
    for trylock in trylocks:
        piece = trylock.piece
        trylocks_at[piece.table // choices.arch.pmd_span_tables, steps[piece.call, piece.table]].append(trylock)
    for rivals in trylocks_at.values():
        for trylock in rivals:
            if choices.trylock_fails(round_, trylock.piece.table, len(rivals)):
                work["pmd_trylocks_failed"] += 1
                work["pmd_locks"] += 1
                if reads:
                    work["pte_locks_extra"] += 1
                    work["ptes_rescanned"] += choices.arch.entries
                if trylock.fast:
                    work["fast_paths"] -= 1
                    work["slow_paths"] += 1
