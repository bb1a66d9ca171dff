"""A few disturbed launches, and a judge that notices; `scripts/chaos 100` does many, on Ray too."""

import random
import subprocess
from collections.abc import Iterator

import pyarrow as pa
import pytest

from tests.paths import ROOT
from tests.support import chaos
from tests.support.chaos import Bench, Verdict, judged, rows, trial
from tests.support.chaos_kinds import KINDS, LIGHT, MOUNTS, can_mount, order

pytestmark = pytest.mark.slow

FEW = ("kill -9 the driver", "launched twice at once", "the disk is full", "noise in a part")
DIFFER = "outcomes differ from the undisturbed run's"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("chaos"), repeats=5)
    yield made
    made.kill_cluster()


@pytest.mark.parametrize("kind", FEW)
def test_nothing_is_lost(bench: Bench, kind: str) -> None:
    """Disturbed, launched again: every point has its rows, once, and nothing is left lying about."""
    if kind in MOUNTS and not can_mount():
        pytest.skip("no tmpfs can be mounted in a namespace here")
    verdict = trial(bench, kind, KINDS[kind], 0, seed=random.SystemRandom().randrange(1 << 32))
    assert (verdict.lost, verdict.doubled, verdict.broken) == (0, 0, "")


def test_the_judge_notices(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing row, a doubled one, a difference, a file left behind; and it finds nothing where there is nothing."""
    assert judged(bench, bench.timed) == Verdict("", 0, 0, 0.0)
    seen = rows(bench.timed.results)
    for changed, lost, doubled in (
        (seen["outcomes"].slice(1), 1, 0),
        (pa.concat_tables([seen["outcomes"], seen["outcomes"].slice(0, 2)]), 0, 2),
        (seen["outcomes"].slice(1).take([0, *range(seen["outcomes"].num_rows - 1)]), 1, 1),
    ):
        monkeypatch.setattr(chaos, "rows", lambda _, changed=changed: seen | {"outcomes": changed})
        verdict = judged(bench, bench.timed)
        assert (verdict.lost, verdict.doubled, verdict.broken) == (lost, doubled, DIFFER)
    monkeypatch.setattr(chaos, "rows", lambda _: seen)
    (bench.timed.results / ".run.json.1.tmp").touch()
    assert "left behind" in judged(bench, bench.timed).broken


def test_the_order_has_every_kind() -> None:
    """A hundred trials try each of them, the light ones more often."""
    kinds = order(100)
    assert set(kinds) == set(KINDS)
    assert min(map(kinds.count, LIGHT)) >= 8


def test_the_script_is_posix_shell() -> None:
    """It parses, and asks for nothing but sh."""
    assert subprocess.run(["sh", "-n", str(ROOT / "scripts/chaos")], check=False).returncode == 0
