"""The quick probe finds the policy that the kernel shows a child that plays a trace."""

import pytest

from sweep.kernel.kernel_replay import probe_policy
from sweep.process.reclaim_probe import kernel_policy
from tests.support.live_kernel import why_not


@pytest.mark.live
def test_the_policy_of_this_kernel() -> None:
    if why_not():
        pytest.skip(f"no live kernel: {why_not()}")
    assert kernel_policy() == probe_policy()
