"""The start of a private Ray, with a driver process that only talks."""

from pathlib import Path

import pytest

from sweep.common.errors import UserError
from sweep.executors import ray
from sweep.executors.ray import RayTasks

TALKS = """
from pathlib import Path
from sweep.executors.child_process import connect_to_parent
from sweep.executors.ray_messages import Alive, Refused
pipe, starts = connect_to_parent(), Path({starts!r})
pipe.recv()
starts.write_text(starts.read_text() + "x")
pipe.send(Alive(2, False) if len(starts.read_text()) > {failures} else Refused("a local Ray did not start: too late"))
pipe.recv()
"""
TICK_S = 10.0


@pytest.mark.parametrize("failures", [1, 2])
def test_a_start_that_fails_is_tried_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    """Ray gives up its start where a server is slow; a second failure is reported, with Ray's reason."""
    starts = tmp_path / "starts"
    starts.touch()
    monkeypatch.setattr(ray, "DRIVER_CODE", TALKS.format(starts=str(starts), failures=failures))
    executor = RayTasks(jobs=2)
    executor.start()
    first = executor.session_dir
    try:
        assert executor.wait(TICK_S) == []
        assert executor.session_dir not in (None, first)
        if failures == 1:
            assert executor.wait(TICK_S) == []
            assert executor.is_started
        else:
            with pytest.raises(UserError, match="a local Ray did not start: too late"):
                executor.wait(TICK_S)
    finally:
        executor.stop(kill=True)
    assert starts.read_text() == "xx"
    assert first is not None
    assert not first.exists()
