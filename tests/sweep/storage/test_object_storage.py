"""Stores in object stores: the same commands and rows as in a directory, also if requests fail."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from sweep.cli.main import main
from sweep.common.errors import UserError
from sweep.query.database import Database
from sweep.run.launch import LaunchOptions, launch
from sweep.storage import lease as leases
from sweep.storage import locks, object_storage
from sweep.storage.local_storage import LocalStorage
from sweep.storage.object_storage import ObjectStorage
from sweep.storage.run_lock import RunLock
from sweep.storage.storage import Storage
from sweep.storage.storage_uri import open_storage
from sweep.store import parts
from sweep.store.store import Store
from tests.support import fake_engine
from tests.support.fake_engine import RecordingProgress, grid
from tests.support.s3_server import BUCKET, SECRET, Proxy, s3
from tests.support.small_stores import commit, has_ok, opened, point_id

pytestmark = pytest.mark.slow

SEEDS = list(range(1, 9))


@pytest.fixture(scope="module")
def server() -> Iterator[Proxy]:
    with s3() as proxy:
        yield proxy


@pytest.fixture
def bucket(server: Proxy) -> str:
    return f"s3://{BUCKET}/{uuid4().hex}"


@pytest.fixture(params=["directory", "s3", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty storage of each kind."""
    if request.param == "directory":
        return LocalStorage(tmp_path / "results")
    if request.param == "s3":
        return open_storage(request.getfixturevalue("bucket"))
    return open_storage(f"memory://{uuid4().hex}/results")


def run(root: Storage | Path, seeds: list[int] = SEEDS, **how: Any) -> Any:
    return launch(
        grid(seeds, rounds=2),
        LaunchOptions(root, executor="inline", runner=fake_engine.RUNNER, **how),
        RecordingProgress(),
    )


def rows(root: Storage | Path, sql: str = "SELECT * FROM outcomes ORDER BY point_id, policy") -> list[dict[str, Any]]:
    with Database(Store(root)) as database:
        found: list[dict[str, Any]] = database.query(sql).to_pylist()
        return found


def test_places_are_alike(place: Storage) -> None:
    """Every storage lists, reads, moves and deletes in the same way, including files that do not exist."""
    assert place.entries() == place.child("none").entries() == []
    place.put("a/two", b"2")
    place.put("a/one", b"1" * 100_000)
    place.put("a/two", b"22")
    assert [(entry.name, entry.is_folder) for entry in place.entries()] == [("a", True)]
    assert [(e.name, e.is_folder, e.size) for e in place.child("a").entries()] == [
        ("one", False, 100_000),
        ("two", False, 2),
    ]
    assert place.read("a/two") == b"22"
    place.move("a/two", "b/three")
    assert (place.has("a/two"), place.has("b/three")) == (False, True)
    with pytest.raises(FileNotFoundError):
        place.read("a/two")
    place.delete("a/two", "b/three")
    place.delete_all()
    place.delete_all()
    assert not place.has("a/one")


def test_the_store_is_the_same_anywhere(place: Storage, tmp_path: Path) -> None:
    """Launch, resume, failures, query, ls and rm give the same values in every storage."""
    here = tmp_path / "here"
    for root in (here, place):
        first = run(root, where="seed < 5")
        assert (first.status, first.points) == ("ok", {"ok": 4})
        second = run(root)
        assert (second.run_id, second.resumed, second.done_before, second.points) == (first.run_id, True, 4, {"ok": 4})
        assert run(root, [1, fake_engine.RAISES]).points == {"ok": 1, "failed": 1}
        assert run(root, fresh=True).run_id == f"{first.run_id}-2"
    for view in ("outcomes", "latest", "rounds", "failures"):
        asked = (
            f"SELECT * EXCLUDE (finished_at, cpu_ns) FROM {view} ORDER BY ALL"
            if view == "failures"
            else f"FROM {view} ORDER BY ALL"
        )
        assert rows(place, asked) == rows(here, asked)
    store = Store(place)
    assert [(r.run_id, r.status, r.ok, r.failed, r.todo) for r in store.runs()] == [
        (r.run_id, r.status, r.ok, r.failed, r.todo) for r in Store(here).runs()
    ]
    kept = parts.read_layout(store.find("last").path)
    assert all(len(kept.of(table)) == 1 for table in kept.files)
    for name in [info.run_id for info in store.runs()]:
        store.remove(name)
    assert store.runs() == []


def test_the_commands(bucket: str, server: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command takes a URI for --results, and no secret gets into the store or the output."""
    path = tmp_path / "small.yaml"
    path.write_text(
        "schema: sweep/1\nname: small\nfixed: {virt: 2MiB, sparsity: 0.5, rounds: 2}\naxes: {seed: [1, 2]}\n"
    )
    there = ["--results", bucket]
    for words, told in (
        (["plan", str(path)], "to run"),
        (["launch", str(path), "--executor", "inline"], "points: 2 ok"),
        (["launch", str(path), "--executor", "inline"], "2 were done"),
        (["plan", str(path)], "done in small-"),
        (["ls"], "small-"),
        (["show"], "files      3"),
        (["query", "SELECT count(*) AS n FROM outcomes"], "14"),
        (["rm", "last", "--yes"], ""),
        (["ls"], "no run in s3://"),
    ):
        assert main([*words, *there]) == 0
        out, err = capsys.readouterr()
        assert told in out + err
        assert SECRET not in out + err
        if words[0] == "show":
            run_json = Store(open_storage(bucket)).find("last").path.read("run.json").decode()
            assert SECRET not in run_json
            assert "somebody" not in run_json
    assert main(["query", "savings", *there]) == 2  # a wrong prefix is no empty answer
    assert f"{bucket}: no store there" in capsys.readouterr().err


def test_plan_waits_for_few_requests(bucket: str, server: Proxy, tmp_path: Path) -> None:
    """A request may take a third of a second: plan makes nine, of which three follow no other."""
    path = tmp_path / "small.yaml"
    path.write_text("schema: sweep/1\nname: small\nfixed: {virt: 2MiB, sparsity: 0.5}\n")
    assert main(["launch", str(path), "--executor", "inline", "--results", bucket]) == 0
    before = server.requests
    assert main(["plan", str(path), "--results", bucket]) == 0
    assert server.requests - before == 9


def test_runs_of_a_bucket_are_compared(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    """compare finds two runs in a bucket equal, and a run of other results different."""
    root = open_storage(bucket)
    first, again = run(root).run_id, run(root, fresh=True).run_id
    assert main(["compare", first, again, "--results", bucket]) == 0
    assert "rows       56 matched; 0 only in A, 0 only in B" in capsys.readouterr().out
    launch(grid(SEEDS, rounds=2), LaunchOptions(root, executor="inline", fresh=True), RecordingProgress())
    assert main(["compare", first, "last", "--results", bucket]) == 5


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("s3://me:hidden@bucket/results", "no user or password in a URI"),
        ("s3://bucket/results?secret_key=hidden", "option 'secret_key' in a URI: allowed: region"),
        ("s3://bucket/../other", "not a bucket and a prefix"),
        ("s3://", "not a bucket and a prefix"),
        ("sftp://host/results", "unknown scheme 'sftp'"),
        ("nosuch://host/results", "others show files before they are whole"),
        ("oci://bucket/results", "needs the package that reads oci://"),
    ],
)
def test_uris_that_are_refused(uri: str, told: str) -> None:
    """Bad URIs are refused in one line, which does not repeat a secret in them."""
    with pytest.raises(UserError, match="--results") as error:
        open_storage(uri)
    assert told in str(error.value)
    assert "hidden" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bucket_that_is_not_there(server: Proxy) -> None:
    """A missing bucket is an error at once, with its name and a remedy."""
    with pytest.raises(UserError, match=r"s3://nosuch/x.*look at the bucket's name and the credentials"):
        run(open_storage("s3://nosuch/x"))


@pytest.mark.parametrize("fault", ["503", "cut", "hang"])
def test_a_launch_goes_on_through_failures(
    server: Proxy, bucket: str, tmp_path: Path, fault: str, patient: None
) -> None:
    """If one request in four fails, the rows are those of an undisturbed run, each once."""
    dice = random.Random(fault)
    server.fault = lambda method, path: fault if dice.random() < 0.25 else ""
    try:
        summary = run(open_storage(bucket))
    finally:
        server.fault = lambda method, path: ""
    assert (summary.status, summary.points) == ("ok", {"ok": len(SEEDS)})
    run(tmp_path)
    assert rows(open_storage(bucket)) == rows(tmp_path)


@pytest.mark.parametrize("after", [0, 3, 8, 20])
def test_a_store_that_stops_ends_a_launch_with_a_line(
    server: Proxy, bucket: str, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch, patient: None
) -> None:
    """If the store fails from any put on, the launch ends with one line, and the next one completes the rows."""
    monkeypatch.setattr(object_storage, "PATIENCE_S", 0.3)
    monkeypatch.setattr("sweep.run.batching.TASK_POINTS", 2)
    monkeypatch.setattr("sweep.run.result_buffer.COMMIT_S", 0.0)
    puts = [0]

    def broken(method: str, path: str) -> str:
        puts[0] += method == "PUT"
        return "503" if puts[0] > after and method != "GET" else ""

    server.fault = broken
    try:
        ended = None
        try:
            run(open_storage(bucket))
        except UserError as error:
            ended = str(error)
    finally:
        server.fault = lambda method, path: ""
    if puts[0] > after:
        assert ended is None or (f"{bucket}/" in ended and "launch again when the store answers" in ended)
    assert "\n" not in (ended or "")
    monkeypatch.undo()
    assert run(open_storage(bucket)).status == "ok"
    run(tmp_path)
    assert rows(open_storage(bucket)) == rows(tmp_path)


def test_a_stop_and_a_start(server: Proxy, bucket: str, tmp_path: Path, patient: None) -> None:
    """A launch waits for a server that is restarted, and ends with all rows."""
    stopped = threading.Event()

    def pull(method: str, path: str) -> str:
        if method == "PUT" and "outcomes/" in path and not stopped.is_set():
            stopped.set()
            threading.Thread(target=restart).start()
        return "503" if stopped.is_set() else ""

    def restart() -> None:
        server.stop()
        time.sleep(0.5)
        server.fault = lambda method, path: ""
        server.start()

    server.fault = pull
    summary = run(open_storage(bucket))
    assert stopped.is_set()
    assert (summary.status, summary.points) == ("ok", {"ok": len(SEEDS)})
    run(tmp_path)
    assert rows(open_storage(bucket)) == rows(tmp_path)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter pauses between the attempts of a request."""
    monkeypatch.setattr(object_storage, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(object_storage, "_LONGEST_PAUSE_S", 0.1)


@pytest.mark.parametrize("damage", ["short", "gone"])
def test_damage_is_set_aside(place: Storage, damage: str) -> None:
    """In every storage damage is named, set aside by the next launch, and left out by queries until then."""
    with opened(place) as writer:
        commit(writer, 0, 2)
        commit(writer, 2, 3)
    there = place.child(writer.run_id)
    name = parts.read_layout(there).of("outcomes")[0]
    there.put(name, there.read(name)[:100]) if damage == "short" else there.delete(name)
    assert {row["point_id"] for row in rows(place)} == {point_id(n) for n in (2, 3, 4)}
    with opened(place) as again:
        assert [name in problem for problem in again.problems] == [True]
        assert has_ok(again, range(5)) == [False] * 2 + [True] * 3
    assert [entry.is_folder for entry in there.child(parts.DAMAGED).entries()] == [False] * (
        2 if damage == "gone" else 3
    )


HOLD = """
import sys, time
from sweep.storage.storage_uri import open_storage
from tests.support.small_stores import commit, opened
writer = opened(open_storage(sys.argv[1]))
commit(writer, 0, 3)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_lease_keeps_others_out(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in a bucket has one writer; the run of a killed one can be resumed at once on the same machine."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, bucket], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        root = open_storage(bucket)
        assert Store(root).find("last").status == "running"
        busy = rf"is being written by process {process.pid} on "
        with pytest.raises(UserError, match=busy):
            opened(root)
        with pytest.raises(UserError, match=busy):
            Store(root).remove("first")
    finally:
        process.kill()
        process.wait()
    assert Store(root).find("last").status == "interrupted"
    with opened(root) as writer:
        assert has_ok(writer, range(4)) == [True, True, True, False]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """After the call, this process seems to be on another machine than that of its earlier leases."""
    monkeypatch.setattr(leases, "LOOK_S", 0.05)
    monkeypatch.setattr(leases, "BEAT_S", 0.1)
    return lambda: monkeypatch.setattr(leases, "_machine_id", lambda: "another machine")


def test_a_lease_that_is_kept(bucket: str, elsewhere: Callable[[], None]) -> None:
    """Another machine sees that a lease is renewed, and gets an error."""
    writer = opened(open_storage(bucket))
    elsewhere()
    with pytest.raises(UserError, match="is being written by process"):
        opened(open_storage(bucket))
    commit(writer, 0, 1)
    writer.close()


def test_a_lease_that_runs_out(bucket: str, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that does not renew its lease loses it, and gets an error before it can commit again."""
    monkeypatch.setattr(leases.Lease, "_renew", lambda self: None)
    root = open_storage(bucket)
    sleeper = opened(root)
    commit(sleeper, 0, 1)
    elsewhere()
    monkeypatch.setattr(leases, "LEASE_S", 0.5)
    with opened(root) as taker:
        commit(taker, 1, 1)
        with pytest.raises(UserError, match="another launch took this run over"):
            commit(sleeper, 1, 1)
        with pytest.raises(UserError, match="another launch took this run over"):
            sleeper.finish("ok", {})
        sleeper.close()
        commit(taker, 2, 1)
        taker.finish("ok", {})
    assert [row["n"] for row in rows(root, "SELECT count(*) AS n FROM outcomes GROUP BY point_id")] == [7, 7, 7]


def test_of_two_at_once_one_goes_on(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of launches that start at the same time at most one gets the lock; the others get one line."""
    monkeypatch.setattr(leases, "LOOK_S", 0.05)
    run_place = open_storage(bucket).child("first-00000000")
    assert isinstance(run_place, ObjectStorage)
    won: list[RunLock] = []
    lost: list[str] = []
    start = threading.Barrier(4)

    def contend() -> None:
        start.wait()
        try:
            won.append(locks.acquire(run_place))
        except UserError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) <= 1
    assert all("is being written by" in line for line in lost)
    for held in won:
        held.release()
    assert run_place.child(leases.LEASES).entries() == []


def test_json_of_a_lease_tells_no_secret(bucket: str) -> None:
    """A lease has host and pid of its launch, and no secret."""
    with opened(open_storage(bucket)) as writer:
        there = open_storage(bucket).child(writer.run_id)
        (lease,) = there.child(leases.LEASES).entries()
        claim = json.loads(there.read(f"{leases.LEASES}/{lease.name}"))
    assert claim["pid"] == os.getpid()
    assert SECRET not in json.dumps(claim)
