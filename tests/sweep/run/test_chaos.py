"""A few chaos trials; `scripts/chaos 100` runs many, on Ray too."""

import random
import subprocess
from collections.abc import Iterator

import pyarrow as pa
import pytest

from tests.paths import ROOT
from tests.support import chaos
from tests.support.chaos import Reference, Verdict, judge, rows, run_trial
from tests.support.chaos_disturbances import DISTURBANCES, LIGHT, NEED_MOUNT, can_mount, schedule

pytestmark = pytest.mark.slow

TRIED = ("kill -9 the driver", "launched twice at once", "the disk is full", "noise in a part")
DIFFER = "outcomes differ from the undisturbed run's"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    undisturbed = Reference(tmp_path_factory.mktemp("chaos"), repeats=5)
    yield undisturbed
    undisturbed.kill_cluster()


@pytest.mark.parametrize("name", TRIED)
def test_nothing_is_lost(reference: Reference, name: str) -> None:
    """A launch that is disturbed and launched again has every row once, and leaves no file behind."""
    if name in NEED_MOUNT and not can_mount():
        pytest.skip("no tmpfs can be mounted in a namespace here")
    verdict = run_trial(reference, name, DISTURBANCES[name], 0, seed=random.SystemRandom().randrange(1 << 32))
    assert (verdict.lost, verdict.doubled, verdict.broken) == (0, 0, "")


def test_judge_finds_each_fault(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost rows, doubled rows, another order and files left behind are found; an undisturbed launch has no fault."""
    assert judge(reference, reference.timed) == Verdict("", 0, 0, 0.0)
    original = rows(reference.timed.results)
    for changed, lost, doubled in (
        (original["outcomes"].slice(1), 1, 0),
        (pa.concat_tables([original["outcomes"], original["outcomes"].slice(0, 2)]), 0, 2),
        (original["outcomes"].slice(1).take([0, *range(original["outcomes"].num_rows - 1)]), 1, 1),
    ):
        monkeypatch.setattr(chaos, "rows", lambda _, changed=changed: original | {"outcomes": changed})
        verdict = judge(reference, reference.timed)
        assert (verdict.lost, verdict.doubled, verdict.broken) == (lost, doubled, DIFFER)
    monkeypatch.setattr(chaos, "rows", lambda _: original)
    (reference.timed.results / ".run.json.1.tmp").touch()
    assert "left behind" in judge(reference, reference.timed).broken


def test_the_schedule_has_every_disturbance() -> None:
    """120 trials include every disturbance, the light ones at least six times."""
    names = schedule(120)
    assert set(names) == set(DISTURBANCES)
    assert min(map(names.count, LIGHT)) >= 6


def test_the_script_is_posix_shell() -> None:
    """sh can parse scripts/chaos."""
    assert subprocess.run(["sh", "-n", str(ROOT / "scripts/chaos")], check=False).returncode == 0
