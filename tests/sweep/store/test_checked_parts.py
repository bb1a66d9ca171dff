"""Damaged files: no wrong answer, whichever bit is another."""

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest

from sweep.common import text_lines
from sweep.query.database import Database
from sweep.storage.local_storage import LocalStorage
from sweep.storage.storage import Storage
from sweep.storage.storage_uri import open_storage
from sweep.store.checked_parts import CheckedFiles
from sweep.store.store import Store
from tests.support.small_stores import commit, filled, has_ok, opened, part_paths

SUMS = "SELECT count(*) AS n, sum(vm_pte_kib_end) AS kib, sum(ipis) AS ipis, min(virt) AS virt FROM outcomes"
TABLES = ("outcomes", "rounds", "points")
FLIPS = 1000


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two parts."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 2)
        commit(writer, 2, 3)
    return tmp_path / writer.run_id


def flips(run: Path, count: int) -> list[tuple[Path, int]]:
    """Bits of the run's Parquet files, chosen at random from all of them: file, and number of the bit in it."""
    dice = random.Random(count)
    paths = [path for table in TABLES for path in part_paths(run, table)]
    sizes = [path.stat().st_size for path in paths]
    return [(path, dice.randrange(8 * path.stat().st_size)) for path in dice.choices(paths, sizes, k=count)]


def flip(path: Path, bit: int) -> None:
    """Change one bit; the file's times stay what they were, as when a disk fails."""
    data, times = bytearray(path.read_bytes()), path.stat()
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_every_flipped_bit_is_found(run: Path) -> None:
    """Of 1,000 single flipped bits, each leaves out its part, named by the file, and no other."""
    for path, bit in flips(run, FLIPS):
        flip(path, bit)
        files = CheckedFiles(LocalStorage(run))
        assert files.check(TABLES)
        assert [part.file for part in files.damaged] == [path.name]
        assert [str(path) in problem for problem in files.damaged.values()] == [True]
        flip(path, bit)
    files = CheckedFiles(LocalStorage(run))
    assert not files.check(TABLES)


@pytest.mark.slow
def test_sums_are_right_or_the_part_is_named(run: Path, tmp_path: Path) -> None:
    """A query leaves out the damaged part; the next launch sets it aside and runs its points again."""
    with Database(Store(tmp_path)) as database:
        whole = database.query(SUMS).to_pylist()
    for path, bit in flips(run, 60):
        flip(path, bit)
        with Database(Store(tmp_path)) as database:
            found = database.query(SUMS).to_pylist()
            problems = database.problems
        assert found[0]["n"] in (14, 21, 35)
        assert (found == whole) == (not problems)
        assert problems == [] or str(path) in problems[0]
        assert problems or path.parent.name == "rounds"  # which this query does not read
        flip(path, bit)
    flip(path, bit)
    first = "000001" in path.name
    with opened(tmp_path) as again:
        assert [str(path) in problem for problem in again.problems] == [True]
        assert has_ok(again, range(5)) == [not first] * 2 + [first] * 3


def test_a_query_does_not_read_what_it_need_not(run: Path, tmp_path: Path) -> None:
    """Only the files of the views that it names, and the points files, are hashed."""
    flip(part_paths(run, "outcomes")[0], 100)
    with Database(Store(tmp_path)) as database:
        assert database.query("SELECT count(*) AS n FROM points").to_pylist() == [{"n": 5}]
        assert database.query("SELECT count(*) AS n FROM outcomes").to_pylist() == [{"n": 21}]
        assert database.query("SELECT count(*) AS n FROM points").to_pylist() == [{"n": 3}]


@pytest.mark.parametrize("kind", ["pipe", "directory", "bad sector"])
def test_a_file_that_cannot_be_read_is_left_out(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A pipe or a directory in its place, and a bad sector, are damage of this part alone."""
    path = part_paths(run, "points")[0]
    if kind == "bad sector":
        real = text_lines.open_regular_file

        def failing(name: str) -> Any:
            if name == str(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(name)

        monkeypatch.setattr("sweep.storage.local_storage.open_regular_file", failing)
    else:
        path.unlink()
        path.mkdir() if kind == "directory" else os.mkfifo(path)
    with Database(Store(tmp_path)) as database:
        assert database.query(SUMS).to_pylist()[0]["n"] == 21
        assert [str(path) in problem for problem in database.problems] == [True]


def test_merging_does_not_launder_damage(tmp_path: Path) -> None:
    """A part that is damaged while a launch runs is not merged into one whose checksum is right."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 2)
        commit(writer, 2, 3)
        path = part_paths(tmp_path / writer.run_id, "outcomes")[0]
        flip(path, 999)
        writer.finish("ok", {})
        assert [str(path) in problem for problem in writer.problems] == [True]
    with opened(tmp_path) as again:
        assert has_ok(again, range(5)) == [False] * 2 + [True] * 3


def test_object_stores_are_checked_too() -> None:
    """On the bytes that a query gets; a launch finds the same."""
    root: Storage = open_storage("memory://checked/results")
    with opened(root) as writer:
        commit(writer, 0, 2)
        commit(writer, 2, 3)
    there = root.child(writer.run_id)
    (name, *_) = CheckedFiles(there).layout.of("outcomes")
    data = bytearray(there.read(name))
    data[200] ^= 4
    there.put(name, bytes(data))
    with Database(Store(root)) as database:
        assert database.query(SUMS).to_pylist()[0]["n"] == 21
        assert [name in problem for problem in database.problems] == [True]
    with opened(root) as again:
        assert [name in problem for problem in again.problems] == [True]
        assert has_ok(again, range(5)) == [False] * 2 + [True] * 3


def test_a_pipe_in_the_place_of_a_part_is_set_aside(tmp_path: Path) -> None:
    """It cannot be synced, which is no reason to stop the launch: the points run again."""
    filled(tmp_path)
    (path,) = part_paths(tmp_path / "first-0123abcd", "points")
    path.unlink()
    os.mkfifo(path)
    with opened(tmp_path) as writer:
        assert has_ok(writer, range(4)) == [False] * 4
        (problem,) = writer.problems
        assert path.name in problem
