"""All executors give equal rows, report failed points and lost or stuck batches, and leave no process behind."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from engine.model.policy import ALL, BUILT_IN, derive_policy
from engine.model.results import COLUMNS, Results
from engine.model.scenario import Columns, Scenario, columns_of
from sweep.common.atomic_write import is_temporary
from sweep.common.errors import SweepFault, UserError
from sweep.executors.base import (
    MODEL_RUNNER,
    Batch,
    BatchStatus,
    Done,
    Executor,
    Labels,
    Shard,
    batch_limit_s,
)
from sweep.executors.child_process import failure_of_exit
from sweep.executors.failure import Failure, failure_lines
from sweep.executors.inline import Inline
from sweep.executors.processes import Processes
from sweep.executors.ray import RayTasks
from sweep.executors.worker import concatenate, run_batch
from sweep.store.parts import size_and_checksum
from sweep.tables import parquet, result_tables
from tests.paths import ROOT
from tests.support import fake_engine
from tests.support.small_stores import named

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def pool() -> Iterator[Processes]:
    executor = Processes(2, fake_engine.RUNNER)
    executor.start()
    yield executor
    executor.stop()


@pytest.fixture(scope="module")
def ray_tasks() -> Iterator[RayTasks]:
    """One Ray for all tests of this module, as its start takes seconds. It leaves no process and no directory."""
    before = set(psutil.Process().children(recursive=True))
    executor = RayTasks(jobs=2, runner=fake_engine.RUNNER)
    executor.start()
    end = time.monotonic() + PATIENCE_S
    while not executor.is_started and time.monotonic() < end:
        executor.wait(0.5)
    directory = executor.session_dir
    assert directory is not None
    assert directory.is_dir()
    started = set(psutil.Process().children(recursive=True)) - before
    yield executor
    executor.stop()
    assert not [process for process in started if process.is_running()]
    assert not directory.exists()


@pytest.fixture(params=["processes", pytest.param("ray", marks=pytest.mark.cluster)])
def executor(request: pytest.FixtureRequest) -> Executor:
    fixture: Executor = request.getfixturevalue({"processes": "pool", "ray": "ray_tasks"}[request.param])
    return fixture


def points(*seeds: int, rounds: int = 1) -> Columns:
    return columns_of([Scenario(virt=1 << 21, sparsity=0.5, rounds=rounds, seed=seed) for seed in seeds])


def answers(executor: Executor, *batches: Batch) -> dict[int, Done]:
    """All answers, by number."""
    for batch in batches:
        executor.submit(batch)
    done: dict[int, Done] = {}
    end = time.monotonic() + PATIENCE_S
    while len(done) < len(batches) and time.monotonic() < end:
        done |= {answer.number: answer for answer in executor.wait(0.5)}
    return done


def same(a: Results | None, b: Results | None) -> bool:
    assert a is not None
    assert b is not None
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) and getattr(a, name).dtype == getattr(b, name).dtype
        for name in ("values", "rounds", "round_counts")
    )


def test_every_executor_gives_the_same_rows(executor: Executor) -> None:
    """The engine's results for mixed scenarios and rules are equal bit for bit on every executor."""
    own = derive_policy(BUILT_IN["merged"], "own", {"least": 1 << 16, "otherwise": "outside"})
    columns = columns_of(
        [
            Scenario(virt=64 << 20, sparsity=0.99, cluster=1 << 16, threads=8, rounds=3, seed=1),
            Scenario(virt=1 << 30, res=1 << 26, zap=1 << 16, order="random", refault=0.01),
            Scenario(virt=1 << 30, sparsity=0.5, arch="arm64-64k", advice="free"),
        ]
    )
    batch = Batch(1, columns, runner=MODEL_RUNNER, policies=(*ALL, own))
    here = run_batch(batch)
    assert here.results is not None
    assert here.results.values.shape == (3, 8, len(COLUMNS))
    inline = Inline(MODEL_RUNNER)
    inline.start()
    for other in (inline, executor):
        there = answers(other, batch)[1]
        assert there.status is BatchStatus.RAN
        assert there.cpu_ns > 0
        assert there.node
        assert same(here.results, there.results)


def test_a_worker_writes_files_of_labelled_points(executor: Executor) -> None:
    """They equal those that the driver writes from the results; if a point fails, the results are sent instead."""
    columns, repeat = points(1, 2, 3, rounds=2), np.arange(3)
    labels = Labels("run", named(range(3)), repeat, 2, {"double": [2, 4, 6]}, {"double": "2 * seed"})
    policies, names = (BUILT_IN["none"], BUILT_IN["munmap"]), ("none", "munmap")
    batch = Batch(1, columns, runner=fake_engine.RUNNER, labels=labels, policies=policies)
    done = answers(executor, batch)[1]
    assert done.results is None
    assert done.files is not None
    results = fake_engine.run_batch(columns, policies)
    expected = {
        "outcomes": result_tables.outcome_table("run", labels.ids, repeat, columns, results, names),
        "rounds": result_tables.round_table("run", labels.ids, results, names),
        "points": result_tables.point_table(
            "run", labels.ids, repeat, columns, labels.derived, attempt=2, node=done.node, cpu_ns=done.cpu_ns // 3
        ),
    }
    for name, table in expected.items():
        timeless = [column for column in parquet.without_absent_columns(table).column_names if column != "finished_at"]
        got = parquet.read_table(done.files[name].data, "")
        assert got.select(timeless).equals(table.select(timeless))
        assert done.files[name].stamp == size_and_checksum(done.files[name].data)
    assert got.schema.field("double").metadata[b"meaning"] == b"derived: 2 * seed"
    assert parquet.read_metadata(done.files["points"].data, "") == {
        name: done.files[name].stamp for name in ("outcomes", "rounds")
    }
    done = answers(executor, Batch(2, points(1, fake_engine.RAISES, 3), runner=fake_engine.RUNNER, labels=labels))[2]
    assert done.files is None
    assert done.results is not None
    done = run_batch(Batch(3, columns, runner="tests.support.fake_engine:remark", labels=labels))
    assert done.files is None
    assert done.results is not None
    assert done.results.remarks == ("so it is",) * 3


def test_a_worker_of_this_machine_leaves_files_for_the_driver(executor: Executor, tmp_path: Path) -> None:
    """If the worker cannot write into the folder, the files travel in the answer."""
    columns, ids, repeat = points(1, 2, 3), named(range(3)), np.arange(3)
    labels = [Labels("run", ids, repeat, folder=folder) for folder in (None, tmp_path, tmp_path / "none")]
    batches = [Batch(n, columns, runner=fake_engine.RUNNER, labels=given) for n, given in enumerate(labels)]
    done = answers(executor, *batches)
    sent, left, still_sent = (done[n].files for n in range(3))
    assert sent is not None
    assert left is not None
    assert still_sent is not None
    assert sorted(sent) == sorted(left) == sorted(still_sent) == ["outcomes", "points"]
    assert sent["outcomes"] == still_sent["outcomes"]
    assert not sent["outcomes"].left
    assert sorted(file.left for file in left.values()) == sorted(path.name for path in tmp_path.iterdir())
    for file in left.values():
        assert is_temporary(file.left)
        assert not file.data
        assert size_and_checksum((tmp_path / file.left).read_bytes()) == file.stamp
    assert left["outcomes"].stamp == sent["outcomes"].stamp


def test_a_batch_survives_pickling() -> None:
    """A column whose values are all equal is pickled as one value."""
    columns = points(*range(1000))
    labels = Labels("run", named(range(1000)), np.arange(1000))
    sent = Batch(3, columns, 1.5, fake_engine.RUNNER, Shard(1, 2, 3), labels, is_general=True)
    there = pickle.loads(pickle.dumps(sent))
    assert len(pickle.dumps(columns)) > 5 * len(pickle.dumps(replace(sent, labels=None)))
    assert there.labels is not None
    np.testing.assert_array_equal(there.labels.ids, labels.ids)
    assert replace(there, columns={}, labels=None) == replace(sent, columns={}, labels=None)
    assert list(there.columns) == list(columns)
    for name, values in columns.items():
        np.testing.assert_array_equal(there.columns[name], values)
        assert there.columns[name].dtype == values.dtype


def test_a_worker_keeps_the_memory_of_a_batch_for_the_next() -> None:
    """With keep_freed_memory(), a second batch touches the memory of the first without page faults."""
    code = (
        "import resource, sys, numpy as np; from sweep.executors.worker import keep_freed_memory\n"
        "if sys.argv[1] == 'kept': keep_freed_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def some(): return [np.ones(3 << 20, np.uint8) for _ in range(30)]\n"
        "def batch(): some(); return some()\n"
        "batch(); before = faults(); batch(); print(faults() - before)"
    )
    faults = {
        how: int(subprocess.run([sys.executable, "-c", code, how], check=True, capture_output=True, text=True).stdout)
        for how in ("given back", "kept")
    }
    assert faults["kept"] < faults["given back"] / 10


def test_a_point_that_raises_does_not_cost_its_neighbours(executor: Executor) -> None:
    """The failure has its position and error; the other points have their results, in order."""
    done = answers(executor, Batch(2, points(1, fake_engine.RAISES, 3, rounds=2), runner=fake_engine.RUNNER))[2]
    ((place, failure),) = done.failures
    assert (place, failure.error, failure.kind) == (1, "ValueError: no seed 13 here", "ValueError")
    assert 'raise ValueError(f"no seed {RAISES}' in failure.last_lines
    assert done.results is not None
    assert done.results.values[:, 0, 0].tolist() == [1, 3]
    assert done.results.rounds[:, 0, 0].tolist() == [1, 1, 3, 3]


def test_a_batch_that_kills_its_worker_is_lost_and_the_next_is_not(executor: Executor) -> None:
    """Only the batch of the dead worker is lost; a new worker runs those that follow."""
    batches = [
        Batch(n, points(seed), runner=fake_engine.RUNNER) for n, seed in enumerate((1, fake_engine.DIES, 2, 3), 1)
    ]
    done = answers(executor, *batches)
    ran, lost = BatchStatus.RAN, BatchStatus.LOST
    assert [done[n].status for n in (1, 2, 3, 4)] == [ran, lost, ran, ran]
    assert done[2].failure.error
    assert done[2].failure.kind == {"processes": "SIGKILL", "ray": "WorkerCrashed"}[executor.name]
    assert done[2].node == done[1].node
    assert [d.results.values[0, 0, 0] for n, d in sorted(done.items()) if d.results is not None] == [1, 2, 3]


def test_a_stuck_batch_ends_at_its_limit(executor: Executor) -> None:
    """Its process is killed, even in a loop that Python cannot interrupt."""
    begin = time.monotonic()
    done = answers(executor, Batch(7, points(fake_engine.HANGS), limit_s=0.5, runner=fake_engine.RUNNER))[7]
    assert done.status is BatchStatus.TIMEOUT
    assert 0.4 < time.monotonic() - begin < 20
    assert answers(executor, Batch(8, points(4), limit_s=5, runner=fake_engine.RUNNER))[8].status is BatchStatus.RAN


def ray_processes(ray_tasks: RayTasks) -> list[psutil.Process]:
    assert ray_tasks.driver is not None
    driver = psutil.Process(ray_tasks.driver.process.pid)
    return [driver, *driver.children(recursive=True)]


@pytest.mark.cluster
def test_a_private_ray_listens_on_the_loopback_only(ray_tasks: RayTasks) -> None:
    """All ports of all its processes."""
    answers(ray_tasks, Batch(1, points(1), runner=fake_engine.RUNNER))
    listening = [c for p in ray_processes(ray_tasks) for c in p.net_connections("inet") if c.status == "LISTEN"]
    assert len(listening) >= 4
    assert {connection.laddr.ip.removeprefix("::ffff:") for connection in listening} == {"127.0.0.1"}


@pytest.mark.parametrize(
    "token", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}]
)
@pytest.mark.cluster
def test_ray_refuses_a_client_without_its_token(ray_tasks: RayTasks, token: dict[str, str], tmp_path: Path) -> None:
    """A client needs the token of this session, which is not in a file of the home folder."""
    (gcs,) = [process for process in ray_processes(ray_tasks) if process.name() == "gcs_server"]
    (port,) = [c.laddr.port for c in gcs.net_connections() if c.status == "LISTEN"]
    connect = f"from ray._raylet import GcsClient; GcsClient(address='127.0.0.1:{port}')"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment = clean | token | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", connect], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Authentication token is missing or incorrect" in done.stderr
    right_token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": gcs.environ()["RAY_AUTH_TOKEN"]}
    subprocess.run([sys.executable, "-c", connect], env=clean | right_token, capture_output=True, check=True)


def test_a_pool_leaves_no_process() -> None:
    """Whether it is stopped in the middle of work or before its workers are ready."""
    before = set(psutil.Process().children(recursive=True))
    for wait_s in (0.0, 1.5):
        pool = Processes(2, fake_engine.RUNNER)
        pool.start()
        pool.submit(Batch(1, points(fake_engine.HANGS), runner=fake_engine.RUNNER))
        pool.wait(wait_s)
        pool.stop()
        pool.stop()
        assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.slow
def test_workers_die_with_a_killed_driver() -> None:
    """kill -9 of the driver ends its workers, even in the middle of a loop."""
    driver = (
        "import os, signal\n"
        "from sweep.executors.base import Batch\n"
        "from sweep.executors.processes import Processes\n"
        "from tests.support import fake_engine\n"
        "from tests.sweep.executors.test_executors import points\n"
        "pool = Processes(2, fake_engine.RUNNER)\n"
        "pool.start()\n"
        "pool.submit(Batch(1, points(fake_engine.HANGS), runner=fake_engine.RUNNER))\n"
        "while not pool.is_warm: pool.wait(1)\n"
        "print(*[w.child.process.pid for w in pool._pool], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", driver], cwd=ROOT, capture_output=True, text=True, check=False)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    end = time.monotonic() + 10
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, pids))


def test_a_pool_that_cannot_start_says_so() -> None:
    """A runner that cannot be imported is one error, not a loop of dying workers."""
    pool = Processes(1, "engine.nothing:run_batch")
    pool.start()
    with pytest.raises(SweepFault, match="cannot load the engine"):
        answers(pool, Batch(1, points(1)))
    pool.stop()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "cannot reach the cluster: ConnectionRefusedError"),
        ("nowhere", "not an address; known: auto, HOST:PORT, ray://HOST:PORT"),
        ("http://127.0.0.1:8265", "not an address"),
        ("ray://127.0.0.1:1", "ray://"),
    ],
)
def test_an_unreachable_cluster_is_one_line(address: str, message: str) -> None:
    """Addresses that are wrong or do not answer end the start with a UserError."""
    with pytest.raises(UserError, match=message):
        RayTasks(address).start()


def test_batch_limits() -> None:
    """A batch may take the limits of its points, but no longer than one stuck point explains."""
    assert batch_limit_s(1, 2.0, 0.5) == 2.0
    assert batch_limit_s(3, 2.0, 0.5) == 6.0
    assert batch_limit_s(1000, 2.0, 0.9) == 12.0


def test_batches_travel_read_only() -> None:
    """Read-only arrays, as they arrive from shared memory, are copied for the engine."""
    columns = points(5)
    for values in columns.values():
        values.setflags(write=False)
    assert run_batch(Batch(1, columns, runner=fake_engine.RUNNER)).failures == ()


def test_failure_lines() -> None:
    """The end of a long text, and the start of a long line."""
    assert failure_lines("a\nb\n\n") == "a\nb"
    assert failure_lines("\n".join(map(str, range(100)))).splitlines()[0] == "88"
    assert len(failure_lines("x" * 5000)) == 200


def test_the_stderr_of_a_dying_worker_is_reported(pool: Processes) -> None:
    """Its last lines are in the answer: here faulthandler's traceback of a crash in compiled code."""
    done = answers(pool, Batch(1, points(fake_engine.CRASHES), runner=fake_engine.RUNNER))[1]
    assert (done.status, done.failure.kind) == (BatchStatus.LOST, "SIGSEGV")
    assert "Segmentation fault" in done.failure.last_lines
    assert "fake_engine.py" in done.failure.last_lines


def test_a_worker_killed_for_lack_of_memory_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel's counter of such kills, which has increased since the worker started."""
    count = tmp_path / "vmstat"
    count.write_text("pgfault 9\noom_kill 3\n")
    monkeypatch.setattr("sweep.executors.processes.OOM_COUNTERS", (tmp_path / "none", count))
    pool = Processes(1, fake_engine.RUNNER)
    pool.start()
    try:
        assert answers(pool, Batch(1, points(1), runner=fake_engine.RUNNER))[1].status is BatchStatus.RAN
        count.write_text("pgfault 10\noom_kill 4\n")
        done = answers(pool, Batch(2, points(fake_engine.DIES), runner=fake_engine.RUNNER))[2]
    finally:
        pool.stop()
    assert (done.status, done.failure.kind) == (BatchStatus.LOST, "OutOfMemory")


def test_workers_killed_for_lack_of_memory_at_their_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad input, as fewer workers may do: one line, not a fault of ours."""
    count = tmp_path / "vmstat"
    count.write_text("oom_kill 3\n")
    monkeypatch.setattr("sweep.executors.processes.OOM_COUNTERS", (count,))
    pool = Processes(1, fake_engine.RUNNER)
    pool.start()
    count.write_text("oom_kill 4\n")
    monkeypatch.setattr("sweep.executors.processes.MAX_FAILED_STARTS", 1)
    pool._pool[0].child.process.kill()
    with pytest.raises(UserError, match="out of memory; ask for fewer with -j"):
        answers(pool, Batch(1, points(1), runner=fake_engine.RUNNER))
    pool.stop()


@pytest.mark.parametrize("deaths", ["KILL", "a word"])
def test_workers_that_die_at_their_start(monkeypatch: pytest.MonkeyPatch, deaths: str) -> None:
    """The line says by which signal or with which exit code, and the last line that the worker wrote."""
    code = {"KILL": "import os; os.kill(os.getpid(), 9)", "a word": "import sys; sys.exit('no luck')"}[deaths]
    monkeypatch.setattr("sweep.executors.processes.WORKER_CODE", code)
    pool = Processes(1, fake_engine.RUNNER)
    pool.start()
    said = {"KILL": "worker process died of SIGKILL", "a word": "worker process ended with 1: no luck"}[deaths]
    with pytest.raises(SweepFault, match=f"^worker processes die at their start: {said}$"):
        answers(pool, Batch(1, points(1), runner=fake_engine.RUNNER))
    pool.stop()


def test_a_worker_that_is_not_ready_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed, and one line says so, if no worker has been ready."""
    monkeypatch.setattr("sweep.executors.processes.WORKER_CODE", "import time; time.sleep(600)")
    monkeypatch.setattr("sweep.executors.processes.START_S", 1.0)
    pool = Processes(1, fake_engine.RUNNER)
    pool.start()
    child = pool._pool[0].child.process
    with pytest.raises(UserError, match="a worker process was not ready after 1 s and was killed"):
        answers(pool, Batch(1, points(1), runner=fake_engine.RUNNER))
    assert child.returncode == -signal.SIGKILL
    pool.stop()


def test_a_worker_that_closes_its_pipe_and_does_not_end(pool: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed, and its batch is lost by SIGKILL; the driver does not wait for it without end."""
    monkeypatch.setattr("sweep.executors.processes.STOP_S", 0.2)
    done = answers(pool, Batch(1, points(fake_engine.CLOSES), runner=fake_engine.RUNNER))[1]
    assert (done.status, done.failure.kind) == (BatchStatus.LOST, "SIGKILL")


def test_concatenated_results() -> None:
    """The rows of the batches, in order."""
    parts = [run_batch(Batch(n, points(n), runner=fake_engine.RUNNER)).results for n in (1, 2)]
    assert concatenate([part for part in parts if part is not None]).values[:, 0, 0].tolist() == [1, 2]


def test_failure_of_exit() -> None:
    """A process's death is named by its signal or its exit code."""
    assert failure_of_exit(-9) == Failure("worker process died of SIGKILL", "SIGKILL")
    assert failure_of_exit(3, "bye") == Failure("worker process ended with 3", "Exit", "bye")
    assert len(Batch(1, points(1, 2))) == 2
    assert replace(Done(1), status=BatchStatus.LOST).status.value == "lost"
