"""Watching a run: what is shown is what the store has, until nobody writes the run any more."""

import time
from pathlib import Path

import pytest

from sweep.cli.main import main
from sweep.grid.loader import parse_grid
from sweep.grid.point_id import point_ids, run_name
from sweep.run import watch as watching
from sweep.run.launch import LaunchOptions, launch
from sweep.store.store import Store
from sweep.tables import result_tables
from tests.support import fake_engine
from tests.support.fake_engine import RecordingProgress, grid

GRID = "schema: sweep/1\nname: watched\nfixed: {virt: 1GiB, sparsity: 0.9}\naxes: {zap: [64KiB, 2MiB, 4MiB]}\n"


def test_a_run_that_is_written_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown grows with each commit of the writer; watching ends when nobody writes the run any more."""
    loaded, store = parse_grid(GRID, "watched.yaml"), Store(tmp_path)
    chunk = next(loaded.chunks())
    ids = point_ids(chunk.columns)
    writer = store.open_run(loaded, run_name(loaded), False, {"version": "0"})
    left = [0, 1, 2]

    def commit_one(_seconds: float) -> None:
        """In place of a sleep: the writer commits a point, and after the last one it ends."""
        if not left:
            writer.finish("ok", {})
            return
        row = slice(left[0], left.pop(0) + 1)
        columns = {name: values[row] for name, values in chunk.columns.items()}
        points = result_tables.point_table(writer.run_id, ids[row], chunk.repeat[row], columns, status="ok")
        writer.commit(None, None, points)

    monkeypatch.setattr(time, "sleep", commit_one)
    progress = RecordingProgress()
    run = watching.watch(store, "last", progress)
    assert (run.status, run.ok) == ("ok", 3)
    assert [(state.points, state.done) for state in progress.states] == [(3, 0), (3, 1), (3, 2), (3, 3)]
    shares = [state.work_done_ns / state.work_ns for state in progress.states]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize(("seeds", "code"), [([1, 2], 0), ([1, fake_engine.RAISES], 1)])
def test_a_run_that_has_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str], seeds: list[int], code: int) -> None:
    """One line, and the exit code of its launch; a run that does not exist is bad input."""
    launch(grid(seeds), LaunchOptions(tmp_path, executor="inline", runner=fake_engine.RUNNER), RecordingProgress())
    assert main(["watch", "--results", str(tmp_path)]) == code
    out, err = capsys.readouterr()
    assert out.endswith(f"points: {2 - code} ok, {code} failed\n")
    assert not err
    assert main(["watch", "nosuch", "--results", str(tmp_path)]) == 2
