"""The command line: what it imports, one line for every error, and the exit codes."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from engine.model.policy import POLICIES
from sweep import __version__
from sweep.cli import main as cli_main
from sweep.cli import page
from sweep.cli.command_output.launch_summary import summary_lines
from sweep.cli.main import COMMANDS, Command, main
from sweep.grid.loader import load_grid
from sweep.grid.point_id import point_ids, run_name
from sweep.query import address_space
from sweep.query.named_queries import named_query
from sweep.run.launch import LaunchSummary
from sweep.store.store import Store
from sweep.tables import result_tables
from tests.paths import ROOT

HEAVY = ("ray", "numba", "duckdb", "pyarrow", "numpy", "rich", "pydantic", "yaml", "psutil")
GRID = """schema: sweep/1
name: small
about: What does a small grid say?
fixed: {virt: 64MiB}
axes: {sparsity: [0.9, 0.99], zap: [64KiB, 2MiB]}
"""


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    path = tmp_path / "small.yaml"
    path.write_text(GRID)
    return path


def in_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy_and_no_command() -> None:
    """`sweep --help` is fast: it lists the commands without importing one of them, or any large package."""
    code = "import sys; from sweep.cli.main import main; main(['--help']); "
    code += f"print([m for m in {HEAVY} if m in sys.modules])"
    done = in_process(code + "; print([m for m in sys.modules if m.startswith('sweep.cli.commands')])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"]
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    """The help of a command imports no package that only running the command needs."""
    code = f"import sys; from sweep.cli.main import main; print(main([{command!r}, '--help']))"
    done = in_process(f"{code}; print([m for m in ('ray', 'numba', 'duckdb', 'pyarrow') if m in sys.modules])")
    assert done.stdout.splitlines()[-2:] == ["0", "[]"], done.stdout + done.stderr
    assert f"Usage: sweep {command} " in done.stdout


def test_results_in_the_folder_of_a_ray_job_are_refused(
    grid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the folder of a Ray job the default store is refused, with advice; a store elsewhere is accepted."""
    job = grid.parent / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    job.mkdir(parents=True)
    monkeypatch.chdir(job)
    launch = ["launch", str(grid), "--executor", "inline", "-q"]
    assert main(launch) == 2
    assert "--results results: is in the Ray job's own folder, which Ray removes; give" in capsys.readouterr().err
    assert not list(job.iterdir())
    assert main([*launch, "--results", str(grid.parent / "kept")]) == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the version and nothing else."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sweep {__version__}\n"


def test_no_command_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command the help goes to stderr, and the exit code is 2."""
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "launch" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lanch"], "sweep: unknown command 'lanch'; did you mean 'launch'? known: grids, "),
        (["launch", "--fres", "g.yaml"], "did you mean '--fresh'? see sweep launch --help"),
        (["--bogus"], "sweep: no such option: --bogus; see sweep --help"),
        (["launch"], "sweep: launch: missing argument 'GRID' (or --like RUN); see sweep launch --help"),
        (["launch", "-j", "two", "g.yaml"], "sweep: launch: invalid value for '-j' / '--jobs': "),
        (["launch", "no.yaml"], "no.yaml"),
        (["query", "savings", "--format", "xml"], "invalid value for '--format': 'xml' is not one of 'table', 'csv'"),
        (["launch", "small.yaml", "-j", "0"], "sweep: -j 0: must be above 0"),
        (["launch", "small.yaml", "--timeout", "-1"], "sweep: --timeout -1.0: must be above 0"),
        (["launch", "small.yaml", "--rerun", "all"], "sweep: --rerun: unknown choice 'all'; known: failed"),
        (["launch", "small.yaml", "--executor", "rya"], "unknown executor 'rya'; did you mean 'ray'?"),
        (["launch", "small.yaml", "--executor", "inline", "--address", "auto"], "sweep: --address auto: needs"),
        (
            ["launch", "small.yaml", "--executor", "inline", "--timeout", "3"],
            "sweep: --timeout needs --executor processes",
        ),
        (["launch", "small.yaml", "--engine", "kernle"], "unknown engine 'kernle'; did you mean 'kernel'?"),
        (["launch", "small.yaml", "--engine", "kernel", "-j", "2"], "sweep: -j: not with --engine kernel"),
        (["launch", "small.yaml", "--where", "zapp > 1"], "sweep: --where: "),
        (["launch", "small.yaml", "-S", "fixed.vrit=1GiB"], "virt"),
        (["launch", "small.yaml", "--results", "ftp://host/x"], "sweep: --results: unknown scheme 'ftp'; known: "),
    ],
)
def test_bad_usage_is_one_line(grid: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    """Bad options give exit code 2 and one line on stderr, start no run, and are refused by a dry run too."""
    for given in (words, [*words, "--dry-run"]) if words[0] == "launch" else (words,):
        assert main(given) == 2
        out, err = capsys.readouterr()
        assert not out
        assert message in err
        assert len(err.splitlines()) == 1
        assert not list(grid.parent.glob("results/*"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nothing can be made")
def test_a_store_that_cannot_be_created(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory that nobody can create, not even root, gives exit code 2 and one line."""
    assert main(["launch", "small.yaml", "--executor", "inline", "--results", "/proc/none"]) == 2
    assert capsys.readouterr() == (
        "",
        "sweep: /proc/none: no directory can be made there; choose another with --results\n",
    )


def test_launch_summarises(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """launch prints what ran, the answer, the figures of each policy, a chart and three commands, at 80 columns."""
    assert main(["launch", "small.yaml", "--executor", "inline"]) == 0
    out, err = capsys.readouterr()
    run = next(Path("results").iterdir()).name
    lines = out.splitlines()
    assert lines[0].startswith(f"{run}: ok; points: 4 ok; ")
    assert lines[1].startswith("merged (Linux 6.14+) gives back ")
    assert lines[-3] == f"sweep query by_zap --run {run}  # more of this"
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "SELECT" not in out
    assert f"sweep: {run}: 4 points in this process\n" in err
    assert "\x1b" not in out + err
    for command in lines[-3:]:
        assert main(shlex.split(command, comments=True)[1:]) == 0


def test_costs_below_zero_are_explained(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After many rounds calls are cheaper under a policy that has freed the tables; the summary says why."""
    words = ["-S", "fixed.rounds=50", "-S", "axes={sparsity: [0.9999], zap: [2MiB]}", "--executor", "inline"]
    assert main(["launch", "small.yaml", *words]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^seed_inline, merged .* -[\d,]+ ns +-[\d,]+ ns$", out, re.MULTILINE)
    assert "\nbelow 0: a call is done sooner where the tables are gone" in out


def test_launch_prints_its_sql(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--sql adds the SQL of the named query that has these figures."""
    assert main(["launch", "small.yaml", "--executor", "inline", "--sql"]) == 0
    assert capsys.readouterr().out.endswith(f"\n\n{named_query('savings').sql.strip()}\n")


def test_launch_as_json_and_quiet(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--json --quiet prints JSON on stdout and nothing on stderr."""
    assert main(["launch", "small.yaml", "--executor", "inline", "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert (facts["status"], facts["points"], facts["planned"]) == ("ok", {"ok": 4}, 4)
    saved = {row["policy"]: row["saved_percent"] for row in facts["policies"]}
    assert list(saved) == list(POLICIES)
    assert saved["none"] == 0 < saved["merged"] < saved["refcount"]
    assert not err


def test_dry_run_is_plan(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--dry-run prints what plan prints and, on stderr, where it would run; nothing is written."""
    assert main(["launch", "small.yaml", "--dry-run"]) == 0
    dry, where = capsys.readouterr()
    assert main(["plan", "small.yaml"]) == 0
    assert capsys.readouterr().out == dry
    assert where.startswith("sweep: would run on ")
    assert not Path("results").exists()


def test_dry_run_uses_the_other_options(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--dry-run counts all points with --fresh, and the failed ones with --rerun failed."""
    loaded = load_grid(grid)
    chunk = next(loaded.chunks())
    ids = point_ids(chunk.columns)
    with Store(Path("results")).open_run(loaded, run_name(loaded), False, {"version": "0"}) as writer:
        for i, status in enumerate(("ok", "failed")):
            columns = {name: values[i : i + 1] for name, values in chunk.columns.items()}
            rows = result_tables.point_table(
                writer.run_id, ids[i : i + 1], chunk.repeat[i : i + 1], columns, status=status
            )
            writer.commit(None, None, rows)
        writer.finish("failed", {})

    def todo(*words: str) -> int:
        assert main(["launch", "small.yaml", "--dry-run", "--json", "-q", *words]) == 0
        facts: dict[str, int] = json.loads(capsys.readouterr().out)
        return facts["todo"]

    assert (todo(), todo("--rerun", "failed"), todo("--fresh")) == (2, 3, 4)
    assert len(list(Path("results").iterdir())) == 1


def test_suggested_commands_name_the_store(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Suggested commands have the --results of the command that was given, quoted for a shell."""
    assert main(["launch", "small.yaml", "--executor", "inline", "--results", "my runs"]) == 0
    run = next(Path("my runs").iterdir()).name
    assert f"\nsweep query cost --run {run} --results 'my runs'" in capsys.readouterr().out
    assert main(["ls", "--results", "no runs"]) == 2
    assert "sweep launch GRID --results 'no runs'" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--install-completion", "--show-completion"])
def test_completion_for_another_shell(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a shell without completion the message names those that have it."""
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("sh", "/bin/sh"))
    assert main([option]) == 2
    message = f"sweep: {option}: the shell is sh; call it from bash, zsh, fish or PowerShell\n"
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_chart_fits_a_narrow_page(
    columns: int, grid: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chart's bars are as long as the page allows; both policies are shown, below each other where it is narrow."""
    monkeypatch.setattr(page, "PLAIN_WIDTH", columns)
    assert main(["launch", "small.yaml", "--executor", "inline"]) == 0
    lines = capsys.readouterr().out.splitlines()
    chart = lines[next(row for row, line in enumerate(lines) if line.startswith("calls of  ")) : -4]
    assert max(map(len, chart)) <= columns
    heads = " ".join(line for line in chart if line.startswith("calls of  "))
    assert "merged gives back" in heads
    assert "refcount gives back" in heads
    assert chart.count("") == (columns == 40)


def test_summary_without_points() -> None:
    """The summary distinguishes a launch without points to run from one that finished none."""
    summary = LaunchSummary("a-1", "interrupted", False, "inline", 1, planned=9, done_before=0)
    assert summary_lines(summary, "results") == [
        "a-1: interrupted; points: none finished of 9; 0.0 s (inline, 1 worker)"
    ]
    (line,) = summary_lines(replace(summary, status="ok", planned=0, workers=0, done_before=9), "results")
    assert line == "a-1: ok; points: none to run, 9 were done; 0.0 s"


@pytest.mark.parametrize("words", [["launch", "small.yaml", "--executor", "inline"], ["ls"], ["--help"]])
@pytest.mark.parametrize("streams", [("stdout",), ("stdout", "stderr")])
@pytest.mark.slow
def test_a_closed_pipe_is_no_error(grid: Path, words: list[str], streams: tuple[str, ...]) -> None:
    """If the reader of stdout or stderr has gone (`sweep ... | head -1`), the command does its work and ends with 0."""
    read, write = os.pipe()
    os.close(read)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from sweep.cli.main import main; sys.exit(main({words!r}))"
    gone = dict.fromkeys(streams, write)
    done = subprocess.run([sys.executable, "-c", code], cwd=grid.parent, check=False, **{"stderr": -1, **gone})  # type: ignore[call-overload]
    os.close(write)
    err = done.stderr or b""
    assert done.returncode == 0
    if words == ["ls"] and done.stderr:
        place = str(grid.parent.resolve() / "results").encode()
        assert err.startswith(b"no store yet at " + place + b" (--results DIR names another); the next command: ")
    elif "launch" not in words:
        assert not err
    if "launch" in words:
        assert b"Traceback" not in err
        assert Store(Path("results")).runs()[0].status == "ok"


def test_a_full_disk_is_no_internal_error(grid: Path) -> None:
    """A full disk behind stdout gives exit code 2 and one line."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from sweep.cli.main import main; sys.exit(main(['grids']))"
    for unbuffered in ("", "1"):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-c", code],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
                check=False,
            )
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].endswith(": No space left on device")


def test_arguments_are_text(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments that are not UTF-8, paths or SQL, are refused with one line."""
    for words in (["plan", "\udcff.yaml"], ["query", "SELECT '\udcff'"], ["ls", "--results", "r\udcff"]):
        assert main(words) == 2
        assert "not UTF-8 text" in capsys.readouterr().err


def test_an_internal_error_is_one_line(
    grid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An internal error gives exit code 4 and one line; --debug, at any place, adds the traceback."""
    monkeypatch.setitem(COMMANDS, "launch", Command("nothing", "help"))
    assert main(["launch", "small.yaml"]) == 4
    err = capsys.readouterr().err
    assert err.startswith("sweep: internal error: ModuleNotFoundError: ")
    assert err.endswith("; run with --debug\n")
    assert len(err.splitlines()) == 1
    for words in (["--debug", "launch", "small.yaml"], ["launch", "small.yaml", "--debug"]):
        assert main(words) == 4
        assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_anywhere_is_3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C in any command gives exit code 3 and one line."""

    def interrupt(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_main, "_run", interrupt)
    assert main(["plan"]) == 3
    assert capsys.readouterr().err == "sweep: interrupted\n"


def test_too_little_memory_for_sql_costs_the_summary_only(
    grid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """DuckDB ends the process where `ulimit -v` is low, so it is not started; the exit code is the points'."""
    monkeypatch.setattr(address_space, "left_bytes", lambda: 100 << 20)
    assert main(["launch", str(grid), "--executor", "inline"]) == 0
    printed, said = capsys.readouterr()
    assert "ok; points: 4 ok" in printed
    assert "rows are stored, but no summary could be made: SQL: ulimit -v leaves 100 MiB" in said
    assert "sweep query savings --run small-" in said
    assert main(["launch", str(grid), "--executor", "inline", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policies"] is None
    assert main(["query", "savings"]) == 2
    assert capsys.readouterr().err.startswith("sweep: SQL: ulimit -v leaves 100 MiB, and a query needs ")


def test_a_query_runs_within_ulimit(grid: Path) -> None:
    """One thread and a smaller buffer: with all of a machine's threads DuckDB would need many times as much."""
    assert main(["launch", str(grid), "--executor", "inline", "-q"]) == 0
    code = (
        "import resource; from sweep.cli.main import main; from sweep.query import address_space as a, database; "
        "limit = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + a.SQL_BYTES + (16 << 20); "
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); "
        "raise SystemExit(main(['query', 'savings', '--results', r'%s']))" % (grid.parent / "results")
    )
    done = in_process(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "merged" in done.stdout
