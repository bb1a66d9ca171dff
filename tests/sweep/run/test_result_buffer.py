"""ResultBuffer: when finished tasks are committed, and what an error of a commit affects."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from engine.model.policy import POLICIES
from sweep.common.errors import UserError
from sweep.executors.base import BatchStatus, Done
from sweep.executors.failure import Failure
from sweep.executors.inline import Inline
from sweep.executors.processes import Processes
from sweep.executors.ray import RayTasks
from sweep.run.batching import Task
from sweep.run.plan import make_plan
from sweep.run.result_buffer import ResultBuffer
from sweep.storage.storage_uri import open_storage
from sweep.store.parts import PartFile, part_file
from tests.support.fake_engine import grid
from tests.support.small_stores import opened


class FakeWriter:
    """A RunWriter that counts its commits."""

    run_id = "run-1"

    def __init__(self) -> None:
        self.parts = 0

    def commit(self, *_: object) -> None:
        self.parts += 1


def fake_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """Replaces time.monotonic; yields 0, 1, 2, ... seconds."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    while True:
        yield now
        now += 1.0


def test_a_commit_that_fails_costs_its_own_points_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that finished after a failed commit are still written, once, before its error is raised."""
    writer, errors = FakeWriter(), iter([UserError("disk full"), None, None])

    def commit(*_: object) -> None:
        if error := next(errors):
            raise error
        writer.commit()

    monkeypatch.setattr("sweep.run.result_buffer.COMMIT_S", 0.0)
    buffer = ResultBuffer(writer, POLICIES)  # type: ignore[arg-type]
    monkeypatch.setattr(buffer, "_write", commit)
    task, lost = Task(next(make_plan(grid([1])).chunks()), 1.0), Done(1, BatchStatus.LOST)
    buffer.record_given_up(task, lost, Failure("lost", "Lost"))
    buffer.commit_if_due()
    buffer.record_given_up(task, lost, Failure("lost", "Lost"))
    with pytest.raises(UserError, match="disk full"):
        buffer.commit_all()
    assert writer.parts == 1
    buffer.commit_all()
    buffer.close()
    assert writer.parts == 1


@pytest.mark.slow
def test_a_launch_of_a_week_makes_a_few_hundred_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits are every two seconds at first, then less and less frequent."""
    writer, seconds = FakeWriter(), fake_clock(monkeypatch)
    next(seconds)
    buffer = ResultBuffer(writer, POLICIES)  # type: ignore[arg-type]
    monkeypatch.setattr(buffer, "_write", writer.commit)
    task, lost = Task(next(make_plan(grid([1])).chunks()), 1.0), Done(1, BatchStatus.LOST)
    counts = {}
    for now in seconds:
        if now < 60 or now % 20 == 0:
            buffer.record_given_up(task, lost, Failure("lost", "Lost"))
        buffer.commit_if_due()
        buffer.wait_for_commit()
        counts[now] = writer.parts
        if now >= 7 * 86400:
            break
    assert counts[20] >= 9
    assert counts[3600] < 300
    assert counts[7 * 86400] < 600


def test_tasks_with_files_are_committed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task with files is a part of its own and does not wait; tasks without files wait for the next commit."""
    written: list[int] = []

    class FakePartWriter(FakeWriter):
        def commit_files(self, files: object, ids: Sequence[bytes]) -> None:
            written.append(len(ids))

    buffer = ResultBuffer(FakePartWriter(), POLICIES)  # type: ignore[arg-type]
    monkeypatch.setattr(buffer, "_write_one_part", lambda entries: written.append(-len(entries)))
    task = Task(next(make_plan(grid([1, 2])).chunks()), 1.0)
    for files in (None, {"points": part_file(b"")}, None):
        list(buffer.record_finished(task, Done(1, files=files)))
        buffer.commit_if_due()
        buffer.wait_for_commit()
    assert written == [2]
    buffer.commit_all()
    buffer.close()
    assert written == [2, -2]


def test_a_part_that_cannot_be_written_does_not_affect_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """All other parts, and the tasks without files, are written before the first error is raised."""
    written: list[str] = []

    class FakePartWriter(FakeWriter):
        def commit_files(self, files: dict[str, PartFile], ids: object) -> None:
            name = files["points"].left
            if name in "ac":
                raise UserError(f"{name} is gone")
            written.append(name)

    buffer = ResultBuffer(FakePartWriter(), POLICIES)  # type: ignore[arg-type]
    monkeypatch.setattr(buffer, "_write_one_part", lambda entries: written.append(f"{len(entries)} others"))
    task = Task(next(make_plan(grid([1, 2])).chunks()), 1.0)
    for left in "abcd":
        list(buffer.record_finished(task, Done(1, files={"points": PartFile(b"", "0-00000000", left)})))
    buffer.record_given_up(task, Done(1, BatchStatus.LOST), Failure("lost", "Lost"))
    with pytest.raises(UserError, match="a is gone"):
        buffer.commit_all()
    buffer.close()
    assert written == ["b", "d", "1 others"]
    assert buffer.committed_points == 4


def test_only_local_workers_write_into_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels have a folder for workers of this machine and a store in a directory; small tasks have no labels."""
    executors = (RayTasks(), RayTasks("auto"), Processes(1), Inline())
    assert [executor.is_local for executor in executors] == [True, False, True, True]
    monkeypatch.setattr("sweep.run.result_buffer.PART_POINTS", 2)
    large, small = (Task(next(make_plan(grid(seeds)).chunks()), 1.0) for seeds in ([1, 2], [3]))
    with opened(tmp_path) as writer, opened(open_storage("memory://bucket/runs")) as in_bucket:
        for run_writer, is_local, folder in (
            (writer, True, tmp_path / writer.run_id), (writer, False, None), (in_bucket, True, None)
        ):  # fmt: skip
            buffer = ResultBuffer(run_writer, POLICIES)
            labels = buffer.labels_for(large, is_local)
            assert labels is not None
            assert labels.folder == folder
            assert buffer.labels_for(small, is_local) is None
            buffer.close()
