"""Random scenarios for `sweep validate --random`, drawn and shrunk by hypothesis, which nothing else needs."""

import contextlib
import importlib
from collections.abc import Callable, Iterable
from typing import Any

from engine.model.arch import ARCHES, MIB, Arch
from engine.model.scenario import Scenario
from sweep.common.errors import UserError
from sweep.kernel.validate import DIFFERS, FAILED, Verdict

MAX_BYTES = 96 * MIB
"""Most memory that the installs of all rounds write, on average: at 15 us for a page, an emulated kernel takes less
than half a second of CPU time for them."""
MAX_CALLS = 20_000
SHARES = (0.0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0)


class _DiffersError(Exception):
    """Tells hypothesis to shrink this scenario."""


def search(
    compare: Callable[[Scenario], Iterable[Verdict]],
    number: int,
    seed: int,
    on_verdict: Callable[[Verdict], None],
    arch: Arch = ARCHES[0],
    pinned: bool = True,
    thp: bool = False,
) -> Verdict | None:
    """Draw `number` scenarios and compare each. Returns the smallest that differs or fails, None if there is none.

    `on_verdict` is called with every verdict, those met while shrinking included. pinned, thp: some have guard markers,
    or huge pages
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
    drawn = scenarios(hypothesis.strategies, arch, pinned, thp)
    test = hypothesis.seed(seed)(settings(hypothesis.given(drawn)(check)))
    # Flaky: a second run of the scenario agreed. It is returned all the same.
    with contextlib.suppress(_DiffersError, hypothesis.errors.Flaky):
        test()
    return last[0] if last else None


def scenarios(st: Any, arch: Arch = ARCHES[0], pinned: bool = True, thp: bool = False) -> Any:
    """A strategy for scenarios that a kernel of `arch` can run. Values shrink towards the first ones."""
    table = arch.entries

    def near(unit: int, most: int) -> Any:
        """Numbers of pages: up to `most` units, exactly or a few pages off."""
        return st.builds(
            lambda n, off: max(n * unit + off, 1), st.integers(0, most), st.sampled_from([0, 1, -1, 2, -2, unit // 2])
        )

    pages = st.one_of(st.integers(1, 4 * table), near(table, 96), near(table * table, 2))
    sizes = st.one_of(st.sampled_from([table, 1, 16, 2 * table, 5 * table]), st.integers(1, 3 * table), near(table, 32))
    share = st.one_of(st.sampled_from(SHARES), st.integers(0, 1000).map(lambda n: n / 1000))
    few = st.sampled_from([0.0, 0.0, 0.0, 0.0001, 0.001, 0.01, 0.5, 1.0]) if pinned else st.just(0.0)
    clusters = st.one_of(st.sampled_from([1, 2, 16, 64, 256, table, 2 * table]), st.integers(1, 3 * table))
    return st.builds(
        _scenario,
        arch=st.just(arch),
        pages=pages,
        sparsity=share,
        cluster=clusters,
        zap=sizes,
        shift=st.one_of(st.just(0), st.integers(0, 2 * table), near(table, 4)),
        coverage=st.one_of(st.just(1.0), share),
        order=st.sampled_from(["sequential", "random"]),
        rounds=st.sampled_from([1, 1, 2, 3, 6]),
        advice=st.sampled_from(["dontneed", "dontneed", "dontneed", "free"]),
        thp=st.sampled_from(["never", "never", "always"]) if thp else st.just("never"),
        pinned=few,
        threads=st.sampled_from([1, 1, 2, 3, 8]),
        partition=st.sampled_from(["blocked", "interleaved"]),
        seed=st.integers(0, 1 << 32),
    )


def _scenario(
    *, arch: Arch, pages: int, sparsity: float, cluster: int, zap: int, shift: int, rounds: int, **rest: Any
) -> Scenario:
    """A scenario from sizes in pages, with fewer pages or larger calls if it would exceed MAX_BYTES or MAX_CALLS."""
    page = arch.page_bytes
    largest_share = MAX_BYTES / (pages * page * rounds)
    if 1 - sparsity > largest_share:
        sparsity = round(1 - largest_share * 0.9, 4)
    zap = max(zap, pages * rounds // MAX_CALLS + 1)
    if largest_share < 1:  # a huge page is resident as a whole
        rest["thp"] = "never"
    return Scenario(
        virt=pages * page,
        sparsity=sparsity,
        cluster=cluster * page,
        zap=zap * page,
        zap_shift=shift * page,
        rounds=rounds,
        arch=arch.name,
        **rest,
    )


def _hypothesis() -> Any:
    try:
        return importlib.import_module("hypothesis")
    except ImportError:
        raise UserError("--random needs the package hypothesis; pip install hypothesis") from None
