"""A Runner for tests on the live kernel, or the reason why this machine has none."""

from collections.abc import Iterator
from functools import cache

import pytest

from engine.kernel.runner import Runner, UnsupportedMachineError


@cache
def why_not() -> str:
    """Why tests cannot run on the live kernel, empty if they can."""
    try:
        with Runner() as runner:
            return "" if runner.info.guards else f"Linux {runner.machine.release} is too old for MADV_GUARD_INSTALL"
    except UnsupportedMachineError as error:
        return str(error)


@pytest.fixture(scope="session")
def kernel() -> Iterator[Runner]:
    """One Runner for all tests. Skips those that need it where there is none."""
    if why_not():
        pytest.skip(f"no live kernel: {why_not()}")
    with Runner() as runner:
        yield runner
