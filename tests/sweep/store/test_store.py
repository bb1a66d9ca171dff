"""Runs: committed rows stay, each once, through kills, damage, merges and failing disks."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweep.common import atomic_write, schema
from sweep.common.errors import SweepFault, UserError
from sweep.storage.local_storage import LocalStorage
from sweep.store.parts import make_files, size_and_checksum, write_temporary
from sweep.store.provenance import collect
from sweep.store.store import Store, open_store
from sweep.tables import parquet, result_tables
from tests.support.small_stores import (
    ROUNDS,
    FakeGrid,
    commit,
    filled,
    has_ok,
    named,
    opened,
    part_paths,
    point_id,
    point_rows,
    results,
    scenarios,
)


def test_a_launch_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    """The next launch of the same grid skips exactly the committed points."""
    with opened(tmp_path) as first:
        assert not first.resumed
        commit(first, 0, 3)
    with opened(tmp_path) as second:
        assert second.resumed
        assert second.run_id == first.run_id
        assert has_ok(second, [2, 3]) == [True, False]
        commit(second, 3, 2)
        second.finish("ok", {})
    info = Store(tmp_path).find("last")
    assert (info.status, info.ok, info.failed, info.todo) == ("ok", 5, 0, 0)
    assert len(info.document["launches"]) == 2
    assert Store(tmp_path).done_check(info.run_id)(named([4, 5])).tolist() == [True, False]


def test_fresh_starts_another_run(tmp_path: Path) -> None:
    """--fresh starts a run with the next number, which the next launch resumes."""
    names = []
    for fresh in (False, True, True, False):
        with opened(tmp_path, fresh=fresh) as writer:
            names.append((writer.run_id, writer.resumed))
    assert names == [
        ("first-0123abcd", False),
        ("first-0123abcd-2", False),
        ("first-0123abcd-3", False),
        ("first-0123abcd-3", True),
    ]


def test_the_kernel_does_not_go_on_with_a_run_of_the_model(tmp_path: Path) -> None:
    """Model and kernel give different rows for the same points, so they have separate runs."""
    with opened(tmp_path) as model:
        commit(model, 0, 1)
    with opened(tmp_path, engine="kernel") as kernel:
        assert kernel.run_id == "first-0123abcd-2"
    with opened(tmp_path) as again:
        assert again.run_id == model.run_id
    assert [run.engine for run in Store(tmp_path).runs()] == ["kernel", "model"]


def test_a_point_is_ok_once(tmp_path: Path) -> None:
    """A commit with a point that is ok already, or twice in it, is a fault and writes nothing."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 3)
        for first in (0, 2):
            with pytest.raises(SweepFault, match="done"):
                commit(writer, first, 3)
        with pytest.raises(SweepFault, match="done"):
            commit(writer, 1, 1, "failed")
        double = point_rows(writer.run_id, [point_id(9)] * 2)
        with pytest.raises(SweepFault, match="twice"):
            writer.commit(None, None, double)
        assert len(part_paths(tmp_path / writer.run_id, "points")) == 1


def test_a_later_attempt_takes_the_place_of_a_failed_one(tmp_path: Path) -> None:
    """Failed points are not done, and each new attempt has a higher number, in later launches too."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 2, "failed", error="it broke")
        commit(writer, 1, 1, "timeout")
        assert writer.failed_ids() == {point_id(0), point_id(1)}
        writer.finish("failed", {})
    assert Store(tmp_path).find("last").failed == 2
    with opened(tmp_path) as writer:
        assert not any(has_ok(writer, [0]))
        commit(writer, 0, 3)
        assert writer.failed_ids() == set()
        writer.finish("ok", {})
    attempts = [
        row
        for path in part_paths(tmp_path / writer.run_id, "points")
        for row in parquet.read_table(path, "", ["point_id", "attempt"]).to_pylist()
    ]
    assert [row["attempt"] for row in attempts if row["point_id"] == point_id(1)] == [1, 2, 3]
    assert Store(tmp_path).find("last").ok == 3


def test_files_that_a_worker_made_count_as_rows_do(tmp_path: Path) -> None:
    """Files of a worker replace failed attempts, with the next attempt numbers; a point that is done is refused."""
    ids = named(range(3))
    with opened(tmp_path) as writer:
        commit(writer, 0, 2, "failed", error="it broke")
        attempt = writer.next_attempts(ids, 1)
        assert list(attempt) == [2, 2, 1]  # type: ignore[arg-type]
        assert writer.next_attempts(ids[2:], 1) == 1
        assert writer.folder is not None
        columns, results_ = scenarios(3), results(3)
        outcomes = result_tables.outcome_table(writer.run_id, ids, np.zeros(3, np.int64), columns, results_)
        rounds = result_tables.round_table(writer.run_id, ids, results_)
        points = point_rows(writer.run_id, ids, attempt=attempt)
        files = write_temporary(writer.folder, make_files(points, outcomes=outcomes, rounds=rounds))
        writer.commit_files(files, ids)
        there = {name: part_paths(tmp_path / writer.run_id, name)[-1].read_bytes() for name in schema.TABLES}
        assert {name: size_and_checksum(data) for name, data in there.items()} == {
            name: file.stamp for name, file in files.items()
        }
        assert parquet.read_metadata(there["points"], "") == {
            name: files[name].stamp for name in ("outcomes", "rounds")
        }
        assert writer.failed_ids() == set()
        assert all(has_ok(writer, range(3)))
        with pytest.raises(SweepFault, match="done"):
            writer.commit_files(make_files(point_rows(writer.run_id, ids[:1])), ids[:1])
        writer.finish("ok", {})
    assert (Store(tmp_path).find("last").ok, Store(tmp_path).find("last").failed) == (3, 0)
    parts = part_paths(tmp_path / writer.run_id, "points")
    assert [parquet.read_table(path, "").column("attempt").to_pylist() for path in parts] == [[1, 1, 2, 2, 1]]


def test_parts_with_other_digits_are_still_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts with a BLAKE2b checksum, as early runs have, are read, and damage in them is found."""
    with monkeypatch.context() as before, opened(tmp_path) as writer:
        before.setattr("sweep.store.parts.checksum", lambda data: blake2b(data, digest_size=16).hexdigest())
        commit(writer, 0, 3)
        commit(writer, 3, 3)
    with opened(tmp_path) as writer:
        assert not writer.problems
        assert all(has_ok(writer, range(6)))
    part = part_paths(tmp_path / writer.run_id, "outcomes")[1]
    data = part.read_bytes()
    part.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with opened(tmp_path) as writer:
        assert [part.name in problem for problem in writer.problems] == [True]
        assert has_ok(writer, range(6)) == [True] * 3 + [False] * 3


def test_a_launch_whose_run_was_removed_leaves_the_next_ones_files_alone(tmp_path: Path) -> None:
    """A launch whose run was removed has lost its lock, and deletes no file of the next launch."""
    with opened(tmp_path) as removed:
        shutil.rmtree(tmp_path / removed.run_id)
        with opened(tmp_path) as writer:
            assert writer.folder is not None
            own = atomic_write.leave(writer.folder, b"some rows")
            with pytest.raises(UserError, match="removed"):
                removed.finish("interrupted", {})
            assert (writer.folder / own).exists()


def test_what_a_worker_left_and_somebody_took_is_told(tmp_path: Path) -> None:
    """If a worker's temporary file is gone, the launch ends with one line, and the points are not done."""
    with opened(tmp_path) as writer:
        assert writer.folder is not None
        left = write_temporary(writer.folder, make_files(point_rows(writer.run_id, named([0]))))
        (writer.folder / left["points"].left).unlink()
        with pytest.raises(UserError, match="was removed just now"):
            writer.commit_files(left, named([0]))
        assert not any(has_ok(writer, [0]))


def test_what_a_lost_worker_left_goes_when_a_launch_ends(tmp_path: Path) -> None:
    """Temporary files of lost workers are deleted when a launch ends."""
    with opened(tmp_path) as writer:
        assert writer.folder == tmp_path / writer.run_id
        lost, kept = (atomic_write.leave(writer.folder, b"some rows") for _ in range(2))
        LocalStorage(writer.folder).move(kept, "outcomes/kept")
        commit(writer, 0, 1)
        assert (writer.folder / lost).exists()
        writer.finish("ok", {})
        assert not (writer.folder / lost).exists()
        assert (writer.folder / "outcomes" / "kept").read_bytes() == b"some rows"


def test_parts_of_others_and_parts_that_lack_columns_are_refused(tmp_path: Path) -> None:
    """A commit with another run's id, or without a declared column, is a fault."""
    with opened(tmp_path) as writer:
        points = point_rows("another", [point_id(0)])
        with pytest.raises(SweepFault, match="another run"):
            writer.commit(None, None, points)
        with pytest.raises(SweepFault, match="without arch"):
            writer.commit(None, None, points.drop_columns(["arch"]))


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_kill_within_a_commit_loses_that_commit_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Without the points file the other files of a part are not committed, and the next launch deletes them."""
    writer = opened(tmp_path)
    commit(writer, 0, 2)
    run, real, left = tmp_path / writer.run_id, LocalStorage.put, [written]
    first = {path.name for path in part_paths(run, "points")}

    def dying(place: LocalStorage, name: str, data: bytes) -> None:
        if not left[0]:
            path = place.path / name
            path.with_name(f".{path.name}.77.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        left[0] -= 1
        real(place, name, data)

    monkeypatch.setattr(LocalStorage, "put", dying)
    with pytest.raises(KeyboardInterrupt):
        commit(writer, 2, 2)
    writer.close()
    monkeypatch.undo()
    for table in schema.TABLES:
        assert {path.name for path in part_paths(run, table)} == first
    assert Store(tmp_path).find("last").status == "interrupted"

    with opened(tmp_path) as again:
        assert has_ok(again, [1, 2]) == [True, False]
        assert {path.name for table in schema.TABLES for path in (run / table).iterdir()} == first
        commit(again, 2, 2)
    assert [len(part_paths(run, table)) for table in schema.TABLES] == [2, 2, 2]


def test_todo_is_what_the_plan_says(tmp_path: Path) -> None:
    """While a run is not finished, `todo` is computed from the number of planned points."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 3)
        assert Store(tmp_path).find("last").todo is None
        writer.set_planned_points(10)
        commit(writer, 3, 1, "lost")
        info = Store(tmp_path).find("last")
        assert (info.status, info.ok, info.failed, info.todo) == ("running", 3, 1, 6)
        writer.finish("interrupted", {})
    assert Store(tmp_path).find("last").todo == 6


def test_find_by_prefix(tmp_path: Path) -> None:
    """A run is found by its id, the start of it, or `last`; otherwise the error lists the known ids."""
    with pytest.raises(UserError, match=r"no run in .* yet"):
        Store(tmp_path).find("last")
    for name in ("first-0123abcd", "first-89abcdef", "second-00000000"):
        filled(tmp_path, name=name)
    store = Store(tmp_path)
    assert store.find("sec").run_id == "second-00000000"
    assert store.find("last").run_id == "second-00000000"
    assert store.find("first-8").run_id == "first-89abcdef"
    with pytest.raises(UserError, match="could be first-0123abcd, first-89abcdef"):
        store.find("first")
    with pytest.raises(UserError, match="did you mean 'second-00000000'"):
        store.find("secnod-00000000")
    assert [run.run_id for run in store.latest()] == ["first-89abcdef", "second-00000000"]


@pytest.mark.parametrize("evil", ["", ".", "..", "../x", "/", "/etc", "first/../..", "*", "first*", "~", "\0", "a\nb"])
def test_names_do_not_walk(tmp_path: Path, evil: str) -> None:
    """Names with path characters find no run, are never used in a path, and cannot be given to a run."""
    store = filled(tmp_path / "results")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "run.json").write_text("{}")
    for act in (store.find, store.remove):
        with pytest.raises(UserError, match="no run") as told:
            act(evil)
        assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="no name for a run"):
        opened(tmp_path / "results", evil)
    assert (tmp_path / "x" / "run.json").exists()
    assert len(store.runs()) == 1


def test_broken_runs_do_not_hide_the_others(tmp_path: Path) -> None:
    """An unreadable run is one line with its file; other runs are listed, and it can be removed."""
    store = filled(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "run.json").write_text("{ not json")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").write_text(json.dumps({"schema": schema.RUN_SCHEMA, "grid": {}}))
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "run.json").write_text('{"schema": "sweep-run/1", "grid": {}}')
    (tmp_path / "c" / "points").mkdir(parents=True)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "run.json").write_text("[1]")
    (tmp_path / "notes.txt").write_text("not a run")
    (tmp_path / "costs").mkdir()
    survey = store.survey()
    assert [run.run_id for run in survey.runs] == ["first-0123abcd"]
    assert [Path(problem.partition(": ")[0]).parent.name for problem in survey.problems] == ["a", "b", "c", "d", "e"]
    with pytest.raises(UserError, match="not JSON"):
        store.find("a")
    with pytest.raises(UserError, match=r"e/run.json: a run of another version \(schema 'sweep-run/1'.*sweep rm"):
        store.find("e")
    store.remove("a")
    assert len(store.survey().problems) == 4


@pytest.mark.parametrize("table", schema.TABLES)
@pytest.mark.parametrize("damage", ["short", "noise", "gone", "empty"])
def test_a_damaged_part_is_set_aside(tmp_path: Path, table: str, damage: str) -> None:
    """The next launch names the damaged file, moves its part to damaged/, and its points are not done."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 2)
        commit(writer, 2, 3)
    run = tmp_path / writer.run_id
    part = part_paths(run, table)[0]
    middle = len(part.read_bytes()) // 2
    data = bytearray(part.read_bytes())
    data[middle : middle + 8] = os.urandom(8)
    left = {"short": bytes(data[:middle]), "noise": bytes(data), "empty": b""}.get(damage)
    part.unlink() if left is None else part.write_bytes(left)
    survey = Store(tmp_path).survey()
    assert len(survey.runs) == 1
    with opened(tmp_path) as again:
        if (damage, table) != ("gone", "points"):  # then it was never committed
            assert [str(part) in problem and "run again" in problem for problem in again.problems] == [True]
            kept = {path.name for path in (run / "damaged").iterdir()}
            others = {f"{other}-{part.name}" for other in schema.TABLES if (damage, other) != ("gone", table)}
            assert kept == others
        assert has_ok(again, range(5)) == [False] * 2 + [True] * 3
        commit(again, 0, 2)
        again.finish("ok", {})
        assert Store(tmp_path).find("last").ok == 5
    with opened(tmp_path) as third:
        assert third.problems == []
        assert all(has_ok(third, range(5)))


def test_a_part_that_repeats_points_is_set_aside(tmp_path: Path) -> None:
    """A copy of a part under another number is set aside, so that no row is there twice."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 2)
    run = tmp_path / writer.run_id
    for table in schema.TABLES:
        path = part_paths(run, table)[0]
        path.with_name(path.name.replace("000001", "000007")).write_bytes(path.read_bytes())
    with opened(tmp_path) as again:
        assert ["has points that are there already" in problem for problem in again.problems] == [True]
        assert all(has_ok(again, [0, 1]))
    assert [len(part_paths(run, table)) for table in schema.TABLES] == [1, 1, 1]


def test_many_commits_become_one_file(tmp_path: Path) -> None:
    """A finished run has one file for each table, with each row once, also after a later launch."""
    with opened(tmp_path) as writer:
        for first in range(5):
            commit(writer, first, 1)
        commit(writer, 9, 1, "failed", error="it broke")
        writer.finish("failed", {})
    run = tmp_path / writer.run_id
    assert [path.name.partition(".")[0] for path in (run / "points").iterdir()] == ["part-000001-000006"]
    with opened(tmp_path) as again:
        assert again.problems == []
        assert again.failed_ids() == {point_id(9)}
        commit(again, 5, 2)
        commit(again, 9, 1)
        again.finish("ok", {})
    for table in schema.TABLES:
        assert [path.name.partition(".")[0] for path in (run / table).iterdir()] == ["part-000001-000008"]
    rows = parquet.read_table(part_paths(run, "outcomes")[0], "").column("point_id").to_pylist()
    assert [rows.count(point_id(n)) for n in (0, 4, 5, 6, 9)] == [7] * 5
    assert Store(tmp_path).find("last").ok == 8


@pytest.mark.parametrize("done", range(12))
def test_a_kill_within_a_merge_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """After a kill at any step of a merge each row is committed once, and the next launch deletes leftovers."""
    writer = opened(tmp_path)
    for first in range(3):
        commit(writer, first, 1)
    left = [done]
    steps: dict[str, Callable[..., None]] = {"put": LocalStorage.put, "delete": LocalStorage.delete}

    def dying(name: str) -> Any:
        def step(place: LocalStorage, *given: Any) -> None:
            for one in [given] if name == "put" else [(file,) for file in given]:
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                steps[name](place, *one)

        return step

    for name in steps:
        monkeypatch.setattr(LocalStorage, name, dying(name))
    with pytest.raises(KeyboardInterrupt):
        writer.finish("ok", {})
    writer.close()
    monkeypatch.undo()
    run = tmp_path / writer.run_id
    for table, each in (("points", 1), ("outcomes", 7), ("rounds", 7 * ROUNDS)):
        found = [parquet.read_table(path, "").column("point_id").to_pylist() for path in part_paths(run, table)]
        assert sorted(point for rows in found for point in rows) == sorted([point_id(n) for n in range(3)] * each)
    with opened(tmp_path) as again:
        assert again.problems == []
        assert all(has_ok(again, range(3)))
        again.finish("ok", {})
    assert [len(list((run / table).iterdir())) for table in schema.TABLES] == [1, 1, 1]


def test_parts_that_are_merged_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ls`, `plan` and `watch` read the points of a running launch again if its parts were merged meanwhile."""
    with opened(tmp_path) as writer:
        for first in range(3):
            commit(writer, first, 1)
        read = LocalStorage.read

        def merging(place: LocalStorage, name: str, max_bytes: int | None = None) -> bytes:
            monkeypatch.undo()
            writer.finish("ok", {})
            return read(place, name, max_bytes)

        monkeypatch.setattr(LocalStorage, "read", merging)
        assert Store(tmp_path).done_check(writer.run_id)(named([0, 1, 2, 3])).tolist() == [True, True, True, False]


def test_a_clock_that_is_set_back(tmp_path: Path) -> None:
    """`last` is the run launched last, even if the clock was set back."""
    for name in ("first-00000001", "second-00000002"):
        filled(tmp_path, name=name)
    path = tmp_path / "second-00000002" / "run.json"
    document = json.loads(path.read_text())
    document["updated"] = "2999-01-01T00:00:00+00:00"
    path.write_text(json.dumps(document))
    filled(tmp_path, name="third-00000003")
    assert Store(tmp_path).find("last").run_id == "third-00000003"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A failing disk is one line with path, reason and remedy; the next launch resumes from the committed points."""
    writer = opened(tmp_path)
    commit(writer, 0, 2)

    def failing(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic_write, "sync", failing)
    with pytest.raises(UserError, match=rf"part-000002.*: {os.strerror(number)}; ") as told:
        commit(writer, 2, 2)
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"run\.json: "):
        writer.finish("interrupted", {})
    writer.close()
    with pytest.raises(UserError, match=os.strerror(number)):
        opened(tmp_path)
    monkeypatch.undo()
    with opened(tmp_path) as again:
        assert again.problems == []
        assert has_ok(again, range(4)) == [True, True, False, False]
    assert not list(tmp_path.rglob("*.tmp"))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Files with names that are not UTF-8 are ignored, stores with such paths refused, and grid names made UTF-8."""
    filled(tmp_path)
    odd = os.fsdecode(b"\xff")
    (tmp_path / odd).mkdir()
    (tmp_path / "first-0123abcd" / "points" / odd).write_bytes(b"")
    assert len(Store(tmp_path).survey().runs) == 1
    with pytest.raises(UserError, match="not UTF-8"):
        open_store(str(tmp_path / odd))
    grid = FakeGrid(name="second", source=f"grids/{odd}.yaml")
    Store(tmp_path).open_run(grid, "second-00000000", False, {"version": "0"}).close()
    assert Store(tmp_path).find("second").document["grid"]["source"] == "\ufffd.yaml"


def test_removed_runs_are_gone(tmp_path: Path) -> None:
    """rm deletes one run's directory; the next launch deletes what a killed rm or launch has left."""
    store = filled(tmp_path)
    filled(tmp_path, name="second-00000000")
    store.remove("first-0123abcd")
    assert [path.name for path in tmp_path.iterdir()] == ["second-00000000"]
    for left in (".removed-x-1", ".new-x-1"):
        (tmp_path / left / "points").mkdir(parents=True)
    opened(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_run_json_says_where_rows_come_from(tmp_path: Path) -> None:
    """run.json has grid text, versions, host, kernel, seed and schema."""
    with opened(tmp_path, **collect(engine="model")) as writer:
        writer.finish("ok", {})
    document = json.loads((tmp_path / writer.run_id / "run.json").read_text())
    assert document["grid"]["text"] == "name: first\n"
    assert document["grid"]["seed"] == 7
    assert document["columns"]["outcomes"]["virt"]["unit"] == "bytes"
    launch = document["launches"][0]
    assert {"numpy", "numba", "ray", "pyarrow", "duckdb"} <= launch["packages"].keys()
    assert all(launch[fact] for fact in ("kernel", "host", "version", "model_version"))


def test_places_that_are_no_store(tmp_path: Path) -> None:
    """A file as --results is refused in one line; a missing directory is a store without runs."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a directory"):
        open_store(str(tmp_path / "file"))
    assert Store(tmp_path / "nowhere").runs() == []
    assert not (tmp_path / "nowhere").exists()


def test_a_run_that_may_not_be_read_is_a_problem_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the private run of another user."""
    filled(tmp_path)
    name = Store(tmp_path).runs()[0].run_id
    shutil.copytree(tmp_path / name, tmp_path / "theirs")
    real = os.scandir

    def scandir(path: Path) -> Any:
        if Path(path).name == "theirs":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    def read(self: LocalStorage, file: str, max_bytes: int | None = None) -> bytes:
        if self.name == "theirs":
            raise UserError(f"{self}/{file}: Permission denied")
        return real_read(self, file, max_bytes)

    real_read = LocalStorage.read
    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(LocalStorage, "read", read)
    survey = Store(tmp_path).survey()
    assert [run.run_id for run in survey.runs] == [name]
    assert len(survey.problems) == 1
    assert "theirs/run.json: Permission denied" in survey.problems[0]
