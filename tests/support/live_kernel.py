"""The live kernel for tests, or the plain reason why there is none to ask."""

from collections.abc import Iterator
from functools import cache

import pytest

from engine.kernel.runner import Runner, UnsupportedMachineError


@cache
def why_not() -> str:
    """Empty where the kernel can be asked."""
    try:
        with Runner() as runner:
            return "" if runner.info.guards else f"Linux {runner.machine.release} is too old for MADV_GUARD_INSTALL"
    except UnsupportedMachineError as error:
        return str(error)


@pytest.fixture(scope="session")
def kernel() -> Iterator[Runner]:
    """One runner for all tests."""
    if why_not():
        pytest.skip(f"no live kernel: {why_not()}")
    with Runner() as runner:
        yield runner
