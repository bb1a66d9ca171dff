"""Random programs on the live kernel: what --touch all computes is what /proc shows, or a bound of it."""

import shutil
from pathlib import Path

import pytest

from tests.support import random_programs
from tests.support.live_kernel import why_not

TOOLS = [tool for tool in ("strace", "gcc") if shutil.which(tool) is None]


@pytest.mark.skipif(bool(why_not() or TOOLS), reason=f"no live kernel: {why_not()}; missing: {TOOLS}")
@pytest.mark.live
@pytest.mark.slow
def test_random_programs(tmp_path: Path) -> None:
    """Eight programs; `python -m tests.support.random_programs 420` compares more."""
    program = random_programs.build(tmp_path)
    for seed in range(1, 9):
        assert random_programs.differences(program, seed, "some" if seed % 4 == 0 else "all") == [], seed
