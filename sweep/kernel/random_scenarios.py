"""Random scenarios for `sweep validate --random`, drawn and shrunk by hypothesis, which nothing else needs."""

import contextlib
import importlib
from collections.abc import Callable, Iterable
from typing import Any

from engine.model.arch import KIB, MIB
from engine.model.scenario import Scenario
from sweep.common.errors import UserError
from sweep.kernel.validate import DIFFERS, FAILED, Verdict

PAGE, TABLE = 4 * KIB, 512
MAX_BYTES = 96 * MIB
"""Most resident memory of an install on average: a point then takes less than half a second."""
MAX_CALLS = 20_000
SHARES = (0.0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0)


class _DiffersError(Exception):
    """Tells hypothesis to shrink this scenario."""


def search(
    compare: Callable[[Scenario], Iterable[Verdict]], number: int, seed: int, on_verdict: Callable[[Verdict], None]
) -> Verdict | None:
    """Draw `number` scenarios and compare each. Returns the smallest that differs or fails, None if there is none.

    `on_verdict` is called with every verdict, those met while shrinking included.
    """
    hypothesis = _hypothesis()
    last: list[Verdict] = []

    def check(scenario: Scenario) -> None:
        for verdict in compare(scenario):
            on_verdict(verdict)
            if verdict.status in (DIFFERS, FAILED):
                last[:] = [verdict]  # hypothesis runs the smallest last
                raise _DiffersError

    settings = hypothesis.settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False,
        verbosity=hypothesis.Verbosity.quiet,
        print_blob=False,
    )
    test = hypothesis.seed(seed)(settings(hypothesis.given(scenarios(hypothesis.strategies))(check)))
    # Flaky: a second run of the scenario agreed. It is returned all the same.
    with contextlib.suppress(_DiffersError, hypothesis.errors.Flaky):
        test()
    return last[0] if last else None


def scenarios(st: Any) -> Any:
    """A strategy for scenarios that an x86-64 kernel with 4 KiB pages can run. Values shrink towards the first ones."""

    def near(unit: int, most: int) -> Any:
        """Numbers of pages: up to `most` units, exactly or a few pages off."""
        return st.builds(
            lambda n, off: max(n * unit + off, 1), st.integers(0, most), st.sampled_from([0, 1, -1, 2, -2, unit // 2])
        )

    pages = st.one_of(st.integers(1, 4 * TABLE), near(TABLE, 96), near(TABLE * TABLE, 2))
    sizes = st.one_of(st.sampled_from([TABLE, 1, 16, 2 * TABLE, 5 * TABLE]), st.integers(1, 3 * TABLE), near(TABLE, 32))
    share = st.one_of(st.sampled_from(SHARES), st.integers(0, 1000).map(lambda n: n / 1000))
    few = st.sampled_from([0.0, 0.0, 0.0, 0.0001, 0.001, 0.01, 0.5, 1.0])
    clusters = st.one_of(st.sampled_from([1, 2, 16, 64, 256, TABLE, 2 * TABLE]), st.integers(1, 3 * TABLE))
    return st.builds(
        _scenario,
        pages=pages,
        sparsity=share,
        cluster=clusters,
        zap=sizes,
        shift=st.one_of(st.just(0), st.integers(0, 2 * TABLE), near(TABLE, 4)),
        coverage=st.one_of(st.just(1.0), share),
        order=st.sampled_from(["sequential", "random"]),
        rounds=st.sampled_from([1, 1, 2, 3, 6]),
        advice=st.sampled_from(["dontneed", "dontneed", "dontneed", "free"]),
        pinned=few,
        threads=st.sampled_from([1, 1, 2, 3, 8]),
        partition=st.sampled_from(["blocked", "interleaved"]),
        seed=st.integers(0, 1 << 32),
    )


def _scenario(*, pages: int, sparsity: float, cluster: int, zap: int, shift: int, rounds: int, **rest: Any) -> Scenario:
    """A scenario from sizes in pages, with fewer pages or larger calls if it would exceed MAX_BYTES or MAX_CALLS."""
    largest_share = MAX_BYTES / (pages * PAGE)
    if 1 - sparsity > largest_share:
        sparsity = round(1 - largest_share * 0.9, 4)
    zap = max(zap, pages * rounds // MAX_CALLS + 1)
    return Scenario(
        virt=pages * PAGE,
        sparsity=sparsity,
        cluster=cluster * PAGE,
        zap=zap * PAGE,
        zap_shift=shift * PAGE,
        rounds=rounds,
        **rest,
    )


def _hypothesis() -> Any:
    try:
        return importlib.import_module("hypothesis")
    except ImportError:
        raise UserError("--random needs the package hypothesis; pip install hypothesis") from None
