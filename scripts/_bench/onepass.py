"""One pass judges all policies: compared with seven runs, with the least work of a run for one, and with more rules."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import njit

from _bench.bench import Bench
from _bench.figure import Figure, Reach, figure
from _bench.points import large
from engine.model.arch import KIB
from engine.model.policy import ALL, BUILT_IN, POLICIES, Policy, derive_policy
from engine.model.scenario import decimal, row
from engine.random.binomial import limit
from engine.random.inverse_cdf import binomial
from engine.random.splitmix import CALL, COUNT, draw, key
from engine.run import run_batch

SECTION = "policies"
SLOT_RULES: tuple[tuple[str, dict[str, int | str]], ...] = (
    ("merged", {"otherwise": "rest"}),
    ("merged", {"otherwise": "outside"}),
    ("merged", {"markers": "look"}),
    ("merged", {"lock": "take"}),
    ("seed_inline", {"end_break": "drop"}),
)
SMALL_RULES: tuple[tuple[str, dict[str, int | str]], ...] = (
    ("merged", {"least": 64 * KIB}),
    ("merged", {"least": 4 * KIB}),
    ("merged", {"least": 64 * KIB, "otherwise": "rest"}),
    ("merged", {"least": 64 * KIB, "otherwise": "outside"}),
    ("second_walk", {"least": 4 * KIB}),
)
PARTIAL = {"zap": 64 * KIB, "order": "random"}


@njit(cache=True)
def draw_only(tables: Any, cdf: Any, cover: Any, seed: Any) -> Any:
    """Draw pages and calls of each slot and nothing else: a run for a single policy needs at least this."""
    counts = np.searchsorted(cdf, np.arange(65_536).astype(np.uint64) << np.uint64(48), side="right").astype(np.uint16)
    count_key, call_key = key(seed, 0, COUNT), key(seed, 0, CALL)
    pages: Any = 0
    visits: Any = 0
    for quad in range(tables >> 2):
        h = draw(count_key, quad)
        for i in range(4):
            k = np.int64(counts[np.int64((h >> np.uint64(16 * i)) & np.uint64(0xFFFF))])
            pages += k
            visits += k > 0 and draw(call_key, 4 * quad + i) < cover
    return pages, visits


def section(bench: Bench) -> Iterator[Figure]:
    yield from seven_runs(bench)
    yield from own_rules(bench)


def own_rules(bench: Bench) -> Iterator[Figure]:
    """Five rules of one's own beside the seven designs, against the seven alone."""
    for rules, fields, name, reach in (
        (SLOT_RULES, {}, "2 MiB calls", Reach(at_most=2)),
        (SLOT_RULES, PARTIAL, "64 KiB calls in random order", Reach(at_most=2)),
        (SMALL_RULES, PARTIAL, "64 KiB calls in random order, rules that act on them", None),
    ):
        point = large(bench.quick, coverage=0.5, **fields)
        policies = [*ALL, *own(rules)]

        def twelve(point: Any = point, policies: list[Policy] = policies) -> None:
            run_batch(point, policies)

        def seven(point: Any = point) -> None:
            run_batch(point)

        run_batch(large(True, coverage=0.5, **fields), policies)
        run = bench.in_turn(twelve, seven)
        yield figure(SECTION, f"five more rules, 55 TiB, {name}", run, yardstick="seven rules", reach=reach)


def own(rules: tuple[tuple[str, dict[str, int | str]], ...]) -> list[Policy]:
    """Return rules of one's own, each from the name of a built-in one and the fields that differ."""
    return [derive_policy(BUILT_IN[like], f"own_{i}", changes) for i, (like, changes) in enumerate(rules)]


def seven_runs(bench: Bench) -> Iterator[Figure]:
    runs = len(POLICIES)
    for coverage in (0.5, 0.9):
        point = large(bench.quick, coverage=coverage)
        scenario = row(point, 0)
        tables, entries = scenario.virt // scenario.geometry.span_bytes, scenario.geometry.entries
        cdf = binomial(entries, scenario.installed_share)
        limits = np.append(np.zeros(cdf.low, np.uint64), cdf.limits)
        arguments = tables, limits, np.uint64(limit(decimal(coverage))[1]), scenario.seed
        draw_only(*arguments)
        run_batch(large(True, coverage=coverage))

        def seven(point: Any = point) -> None:
            for _ in POLICIES:
                run_batch(point)

        def once(point: Any = point) -> None:
            run_batch(point)

        def seven_draws(arguments: Any = arguments) -> None:
            for _ in range(runs):
                draw_only(*arguments)

        name = f"55 TiB, 2 MiB calls, coverage {coverage}"
        yield figure(
            SECTION,
            f"seven runs, {name}",
            bench.in_turn(seven, once),
            yardstick="one pass",
            reach=Reach(at_least=4),
            note="a run of one policy is the whole pass, so this is seven but for noise",
        )
        yield figure(
            SECTION,
            f"seven runs that only draw tables and calls, {name}",
            bench.in_turn(seven_draws, once),
            yardstick="one pass",
            note="a lower bound for seven runs of an engine for one policy",
        )
