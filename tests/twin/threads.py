"""The twin's threads: which trylocks fail, worked out after the round (docs/method.md, section 6)."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tests.twin.draws import Choices

Steps = dict[tuple[int, int], int]
"""The step of a visit, by call and table."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a call in one table's span: entries [start, end)."""

    call: int
    number: int  #: in its call
    table: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Trylock:
    """A trylock of the PMD lock; `fast` if it decided between the fast and the slow path."""

    piece: Piece
    fast: bool


def steps_of(choices: Choices, round_: int, visits: Iterable[Piece]) -> Steps:
    """When each visit of a round takes place, threads moving in lock step."""
    threads, calls = choices.s.threads, choices.grid_calls
    steps: Steps = {}
    made: Counter[int] = Counter()  # visits a thread
    for piece in visits:
        if choices.s.order == "random":
            turn = choices.call_rank(round_, piece.call) * -(-calls // threads) >> 64
            step = turn * (-(-choices.zap // choices.arch.entries) + 1) + piece.number
        else:
            thread = piece.call * threads // calls if choices.s.partition == "blocked" else piece.call % threads
            step = made[thread]
            made[thread] += 1
        steps[piece.call, piece.table] = step
    return steps


def contend(choices: Choices, round_: int, steps: Steps, trylocks: list[Trylock], work: Counter[str]) -> None:
    """Turn the trylocks that fail into slow paths. Only counters change: the table was free to go either way."""
    together: defaultdict[tuple[int, int], list[Trylock]] = defaultdict(list)
    for trylock in trylocks:
        piece = trylock.piece
        together[piece.table // choices.arch.pmd_span_tables, steps[piece.call, piece.table]].append(trylock)
    for rivals in together.values():
        for trylock in rivals:
            if choices.trylock_fails(round_, trylock.piece.table, len(rivals)):
                work["pmd_trylocks_failed"] += 1
                work["pmd_locks"] += 1
                work["pte_locks_extra"] += 1
                work["ptes_rescanned"] += choices.arch.entries
                if trylock.fast:
                    work["fast_paths"] -= 1
                    work["slow_paths"] += 1
