"""Traces as points of a grid: their identity, that they run like any point, and which sections do not go with them."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine import MODEL_VERSION
from engine.model.policy import POLICIES
from engine.model.results import STATE, WORK
from engine.model.scenario import FIELD
from engine.traces.replay import Replay
from sweep.cli.main import main
from sweep.common.errors import UserError
from sweep.common.text_lines import TextLines
from sweep.executors.base import TRACE_RUNNER
from sweep.grid.grid import Grid
from sweep.grid.loader import load_grid, parse_grid
from sweep.grid.point_id import id_strings, point_id, point_ids, run_name
from sweep.kernel import kernel_driver
from sweep.kernel.kernel_replay import OUTCOME_COLUMNS
from sweep.trace_readers.trace_reader import read_kernel_steps
from sweep.traces import trace_points
from tests.paths import DATA
from tests.support.live_kernel import why_not

HEAD = "schema: sweep/1\nname: t\n"
BASIC, RICH = DATA / "kernel/basic-0000.csv", DATA / "kernel/rich-1000.csv"


def written(folder: Path, workload: str, more: str = "") -> Path:
    path = folder / "t.yaml"
    path.write_text(f"{HEAD}workload: {workload}\n{more}")
    return path


def ids(grid: Grid) -> list[str]:
    return [point for chunk in grid.chunks() for point in id_strings(point_ids(chunk.columns))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two kernel traces, strace output and an allocator trace."""
    for path in (BASIC, RICH, DATA / "allocator/threads.strace", DATA / "allocator/tcmalloc_large.csv.gz"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_a_trace_is_identified_by_its_text(folder: Path) -> None:
    """Path, name and compression are not part of a point's id; `touch` and every byte of the text are."""
    (folder / "same.csv.gz").write_bytes(gzip.compress(BASIC.read_bytes()))
    (folder / "other.csv").write_bytes(BASIC.read_bytes() + b"\n")
    one, same, other = (
        load_grid(written(folder, f"{{trace: {name}}}")) for name in ("basic-0000.csv", "same.csv.gz", "other.csv")
    )
    assert ids(one) == ids(same) != ids(other)
    assert run_name(one) == run_name(same) != run_name(other)
    assert ids(load_grid(written(folder, "{trace: basic-0000.csv, touch: all}"))) != ids(one)


def test_files_count_from_the_grid_and_on_the_command_line_from_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path in the grid counts from the grid's folder, a path of -S from the working directory."""
    (folder / "there").mkdir()
    monkeypatch.chdir(folder / "there")
    path = written(folder, "{trace: basic-0000.csv}")
    assert load_grid(path).traces[0].rows == 42
    assert [trace.name for trace in load_grid(path, ["workload.trace=../rich-1000.csv"]).traces] == ["rich-1000"]


def test_every_executor_gives_what_replay_gives(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stored rows are the replay's figures; a scenario's fields and columns that no trace determines are NULL."""
    path = written(folder, "{trace: [basic-0000.csv, rich-1000.csv]}", "policies: [none, merged, munmap]\n")
    columns = ", ".join((*STATE, *trace_points.DETERMINED))
    unknown = [f'"{name}" IS NULL' for name in (*FIELD, *set(WORK) - set(trace_points.DETERMINED), "install_ns")]
    sql = f"SELECT trace, policy, {columns} FROM latest WHERE {' AND '.join(unknown)} ORDER BY trace, policy"
    answers = []
    for executor in ("inline", "processes"):
        store = str(folder / executor)
        assert main(["launch", str(path), "-q", "--executor", executor, "--results", store]) == 0
        capsys.readouterr()
        assert main(["query", sql, "--json", "--results", store]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1] == expected()


def test_rules_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rule in a grid of traces has the figures of a built-in policy with the same fields."""
    rules = "[none, async, merged, {name: alike, like: merged}, {name: scanned, like: async, every: 1}]"
    path = written(folder, "{trace: [basic-0000.csv, rich-1000.csv]}", f"policies: {rules}\n")
    assert main(["launch", str(path), "-q", "--executor", "inline"]) == 0
    capsys.readouterr()
    columns = ", ".join((*STATE, *trace_points.DETERMINED))
    assert (
        main(["query", f"SELECT policy, trace, {columns} FROM latest ORDER BY policy::policies, trace", "--json"]) == 0
    )
    by_policy: dict[str, list[dict[str, object]]] = {}
    for row in json.loads(capsys.readouterr().out):
        by_policy.setdefault(row.pop("policy"), []).append(row)
    assert by_policy["alike"] == by_policy["merged"] != by_policy["none"]
    assert by_policy["scanned"] == by_policy["async"] != by_policy["merged"]


def expected() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for trace in (BASIC, RICH):
        replay, zap_calls = Replay(), 0
        with TextLines(str(trace)) as lines:
            next(iter(lines))
            for step in read_kernel_steps(lines):
                replay.apply(step.operation)
                zap_calls += step.operation.op in ("dontneed", "dontneed_locked", "free")
        for policy in ("merged", "munmap", "none"):
            known = replay.outcome(policy) | {"zap_calls": zap_calls}
            rows.append(
                {"trace": trace.stem, "policy": policy} | {c: known[c] for c in (*STATE, *trace_points.DETERMINED)}
            )
    return rows


def output_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(words) == 0
    return capsys.readouterr().out


def test_traces_in_plan_launch_query_and_why(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A launch skips traces that are done, and `why` shows where the grid names a trace."""
    more = 'policies: [none, merged]\nderive: {kind: "left(trace, 4)"}\n'
    path = str(written(folder, "{trace: [basic-0000.csv, rich-1000.csv]}", more))
    store = ("--results", str(folder / "results"))
    listed = json.loads(output_of(capsys, "plan", path, "--points", "--format", "json", *store))
    assert [(row["trace"], row["touch"], row["trace_rows"], row["kind"]) for row in listed] == [
        ("basic-0000", "recorded", 42, "basi"),
        ("rich-1000", "recorded", 42, "rich"),
    ]
    launch = ("launch", path, "-q", "--json", "--executor", "inline", *store)
    first = json.loads(output_of(capsys, *launch, "--where", "trace = 'rich-1000'"))
    second = json.loads(output_of(capsys, *launch))
    assert (first["points"], second["points"], second["done_before"]) == ({"ok": 1}, {"ok": 1}, 1)
    answer = json.loads(output_of(capsys, "query", "by_trace", "--json", *store))
    assert [(row["trace"], row["none_kib"]) for row in answer] == [("basic-0000", 72), ("rich-1000", 120)]
    for words in ((), (path,)):
        facts = json.loads(output_of(capsys, "why", listed[1]["point_id"], *words, "--json", *store))
        assert facts["agrees"]
        assert facts["scenario"] == {"touch": "recorded", "trace": listed[1]["trace_hash"]}
    assert facts["grid"]["places"]["trace"].endswith("workload.trace[1]")


def test_each_process_is_a_point(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows are those of `replay --process`, in however many tasks; a file with one process keeps its id."""
    shutil.copy(DATA / "recordings/fork.strace", folder)
    path, store = (
        str(written(folder, "{trace: [threads.strace, fork.strace], touch: all}", "policies: [none, merged]\n")),
        ("--results", str(folder / "results")),
    )
    assert main(["launch", path, "-q", "--executor", "inline", "--where", "trace_process = '4003'", *store]) == 0
    assert main(["launch", path, "-q", "--executor", "inline", *store]) == 0
    columns = "trace, trace_process AS process, policy, vm_pte_kib_end, res_bytes_end // 1024 AS res"
    rows = json.loads(output_of(capsys, "query", f"SELECT {columns} FROM latest ORDER BY ALL", "--json", *store))
    replayed = json.loads(
        output_of(capsys, "replay", str(folder / "fork.strace"), "--touch", "all", "--policy", "none,merged", "--json")
    )
    assert [tuple(row.values()) for row in rows if row["process"]] == sorted(
        (row["trace"], row["process"], row["policy"], row["vm_pte_kib_end"], row["res_kib_end"])
        for row in replayed
        if row["process"] != "sum"
    )
    assert [row["process"] for row in rows].count(None) == 2
    grid = load_grid(Path(path))
    assert (json.loads(output_of(capsys, "why", ids(grid)[2], path, "--json", *store)))["scenario"] == {
        "process": "4002",
        "touch": "all",
        "trace": grid.traces[2].digest,
    }
    alone = {"model_version": MODEL_VERSION, "touch": "all", "trace": grid.traces[0].digest}
    assert ids(grid)[0] == point_id(json.dumps(alone, sort_keys=True, separators=(",", ":")))
    answer = json.loads(output_of(capsys, "query", "by_trace", "--json", *store))
    assert [(row["trace"], row["trace_process"]) for row in answer] == [
        *(("fork", pid) for pid in ("4001", "4002", "4003")),
        ("threads", None),
    ]


def test_the_setting_of_huge_pages(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`thp` of a workload is the system's setting, part of the point. Without it a remark says which is assumed."""
    rows = "step,op,start,length,stride\n0,mmap,17592186044416,2097152,\n1,hugepage,17592186044416,2097152,\n"
    (folder / "huge.csv").write_text(rows + "2,write,17592186044416,4096,4096\n")
    store = ("--results", str(folder / "results"))
    for setting in ("", ", thp: madvise", ", thp: never"):
        path = str(written(folder, f"{{trace: huge.csv{setting}}}", "policies: none\n"))
        output_of(capsys, "launch", path, "-q", "--executor", "inline", *store)
    sql = "SELECT thp, res_bytes_end // 1024 AS kib FROM outcomes"
    found = json.loads(output_of(capsys, "query", sql, "--json", *store))
    assert sorted((row["thp"] or "", row["kib"]) for row in found) == [("", 2048), ("madvise", 2048), ("never", 4)]
    points = json.loads(output_of(capsys, "query", "SELECT point_id, thp, remarks FROM points", "--json", *store))
    assert {row["thp"]: "madvise is assumed" in (row["remarks"] or "") for row in points} == {
        None: True,
        "madvise": False,
        "never": False,
    }
    for row in points:
        assert json.loads(output_of(capsys, "why", row["point_id"], "--json", *store))["agrees"]


def test_skipped_rows_are_remarks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Skipped rows are a remark of the point; a broken trace is one failed point, with the row at fault."""
    (folder / "cut.csv").write_bytes(BASIC.read_bytes()[:300] + b"\n")
    path = written(folder, "{trace: [cut.csv, threads.strace, tcmalloc_large.csv.gz], touch: all}", "policies: none\n")
    store = ("--results", str(folder / "results"))
    assert main(["launch", str(path), "--executor", "inline", *store]) == 1
    assert "warning: tcmalloc_large: 629 rows skipped" in capsys.readouterr().err
    points = json.loads(
        output_of(capsys, "query", "SELECT trace, status, error, remarks FROM points", "--json", *store)
    )
    outcomes = {row["trace"]: (row["status"], row["error"], row["remarks"]) for row in points}
    assert outcomes["cut"][0] == "failed"
    assert "cut: row 9: " in outcomes["cut"][1]
    assert outcomes["threads"][:2] == ("ok", None)
    assert "which threads share memory is a guess" in outcomes["threads"][2]
    assert "counts as mapped" in outcomes["tcmalloc_large"][2]


def test_a_file_that_changes_after_planning_is_refused(folder: Path) -> None:
    """A trace's content must be the one that its id names."""
    trace = load_grid(written(folder, "{trace: basic-0000.csv}")).traces[0]
    assert gzip.decompress(trace.content()) == BASIC.read_bytes()
    (folder / "basic-0000.csv").write_bytes(RICH.read_bytes())
    with pytest.raises(UserError, match="has changed since the grid was read"):
        trace.content()


def test_a_batch_equals_its_points_alone() -> None:
    """The other traces of a batch change no figure of a trace."""
    columns = {
        "trace": np.array(["a", "b"], object),
        "trace_process": np.array([None, None], object),
        "touch": np.array(["recorded", "all"], object),
        "thp": np.array(["", "always"], object),
        "content": np.array([BASIC.read_bytes(), RICH.read_bytes()], object),
    }
    both = trace_points.run_batch(columns).values
    for i in range(2):
        alone = trace_points.run_batch({name: values[i : i + 1] for name, values in columns.items()})
        assert np.array_equal(alone.values[0], both[i])
    assert both.shape[1] == len(POLICIES)
    assert f"{trace_points.__name__}:run_batch" == TRACE_RUNNER


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workload: {trace: nope.csv}", "t.yaml:3:19: workload.trace: "),
        ("workload: {trace: [basic-0000.csv, nope.csv]}", "t.yaml:3:36: workload.trace[1]: "),
        ("workload: {trace: []}", "t.yaml:3:19: workload.trace: an empty list"),
        ("workload: {trace: t.yaml}", "a trace starts with step,op,start,length,stride"),
        ("workload: {}", "t.yaml:3:11: workload: key 'trace' is required"),
        ("workload: {trcae: a.csv}", "t.yaml:3:12: workload: unknown key 'trcae'; did you mean 'trace'?"),
        ("workload: {trace: basic-0000.csv, touch: al}", "workload.touch: unknown touch 'al'; did you mean 'all'?"),
        (
            "workload: {trace: basic-0000.csv, thp: allways}",
            "workload.thp: unknown setting of huge pages 'allways'; did you mean 'always'?",
        ),
        ("workload: {trace: threads.strace}", "3:19: workload.trace: threads records no touches; add `touch: all`"),
        (
            "workload: {trace: basic-0000.csv}\naxes: {sparsity: [0.5]}",
            "t.yaml:4:1: 'axes' does not go with `workload`",
        ),
        ("workload: {trace: basic-0000.csv}\nfixed: {virt: 1GiB}", "t.yaml:4:1: 'fixed' does not go with `workload`"),
        ("workload: {trace: basic-0000.csv}\nrepeats: 2", "t.yaml:4:1: 'repeats' does not go"),
        ("workload: {trace: basic-0000.csv}\nexclude: [{zap: 2MiB}]", "t.yaml:4:17: exclude[0].zap: a trace has none"),
        ("workload: {trace: basic-0000.csv}\nderive: {touch: '1'}", "t.yaml:4:10: derive: 'touch'"),
    ],
)
def test_grids_of_traces_that_are_refused(folder: Path, text: str, message: str) -> None:
    """Each is refused with its place in the grid."""
    path = folder / "t.yaml"
    path.write_text(f"{HEAD}{text}\n")
    with pytest.raises(UserError) as error:
        load_grid(path)
    assert message in str(error.value)


@pytest.mark.skipif(bool(why_not()), reason=f"no live kernel: {why_not()}")
@pytest.mark.live
@pytest.mark.slow
def test_the_live_kernel_shows_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --engine kernel the columns that /proc shows equal the model's, the others are NULL; ids are the same."""
    path, store = (
        str(written(folder, "{trace: [basic-0000.csv, rich-1000.csv]}")),
        ("--results", str(folder / "results")),
    )
    output_of(capsys, "launch", path, "-q", "--executor", "inline", *store)
    output_of(capsys, "launch", path, "-q", "--engine", "kernel", *store)
    unseen = [name for name in (*STATE, *WORK, "install_ns", "zap_ns") if name not in OUTCOME_COLUMNS]
    sql = (
        "SELECT count(*) AS rows FROM outcomes AS live JOIN outcomes AS model USING (point_id, policy) "
        "WHERE live.engine = 'kernel' AND model.engine = 'model' AND "
        + " AND ".join([f"live.{c} = model.{c}" for c in OUTCOME_COLUMNS] + [f"live.{c} IS NULL" for c in unseen])
    )
    assert json.loads(output_of(capsys, "query", sql, "--json", *store)) == [{"rows": 2}]
    assert main(["launch", path, "-q", "--engine", "kernel", "-S", "workload.touch=all", *store]) == 1
    failures = output_of(capsys, "query", "SELECT DISTINCT status, error FROM failures", "--format", "csv", *store)
    assert "refused,a kernel plays what is recorded: no `touch: all`" in failures


def test_validate_refuses_traces(folder: Path) -> None:
    """The message names the command that compares a trace with the kernel step by step."""
    with pytest.raises(UserError, match="sweep replay --engine kernel"):
        kernel_driver.check_no_traces(load_grid(written(folder, "{trace: basic-0000.csv}")))
    kernel_driver.check_no_traces(parse_grid(f"{HEAD}fixed: {{virt: 2MiB, sparsity: 0.5}}\n", "g"))
