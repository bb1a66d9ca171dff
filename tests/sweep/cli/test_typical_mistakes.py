"""What people mistype, command by command: one line that helps, exit code 2, nothing written."""

import shlex
from pathlib import Path

import pytest

from sweep.cli.main import main
from tests.support.launched_store import ONE, ZAPS, launched

CASES = {
    "plan": "plan: missing argument 'GRID'; see sweep plan --help",
    "plan frist": "frist: no such file; did you mean 'first'? grids that ship: allocators, ",
    "plan /": "/: cannot read: Is a directory",
    "plan g.yaml --wher x": "plan: no such option: --wher; did you mean '--where'? see sweep plan --help",
    "plan g.yaml --where 'zap ='": "--where: unfinished at '='",
    "plan g.yaml --where 'zap = 1'": "--where: true for none of the 30 points: zap = 1; sweep plan zaps --points lists",
    "plan g.yaml -S fixed.virt=55": "-S fixed.virt: '55' has no unit; write 55KiB, 55MiB or 55GiB",
    "plan g.yaml -S fixed.virt=55q": "-S fixed.virt: '55q': unknown unit 'q'; known: B, KiB, ",
    "plan g.yaml -S fixed.vrt=55GiB": "-S fixed.vrt: unknown key 'vrt'; did you mean 'virt'?",
    "plan g.yaml -S novalue": "-S novalue: write key=value",
    "plan g.yaml --json --format csv": "--json: not with --format csv; leave one of them out",
    "plan g.yaml --results g.yaml": "g.yaml: not a directory",
    "launch g.yaml --where 'zap = 1'": "--where: true for none of the 30 points: zap = 1; ",
    "launch g.yaml -j x": "launch: invalid value for '-j' / '--jobs': not a whole number; see sweep launch --help",
    "launch g.yaml --executor inline -j 3": "-j 3: needs --executor processes or ray; inline has no workers",
    "launch g.yaml --fresh --rerun failed": "--rerun failed: --fresh runs all points; leave one of them out",
    "launch g.yaml --fail-fast --max-failures 3": "--max-failures 3: --fail-fast stops at the first; leave one",
    "launch g.yaml --kernel running": "--kernel running: needs --engine kernel",
    "launch --like nosuch": "no run 'nosuch' in ",
    "launch g.yaml --like one": "launch --like: GRID: is taken from the run; leave it out",
    "ls --results nosuch": "no store there; check --results, or launch a grid: sweep launch GRID --results nosuch",
    "ls --json --format md": "--json: not with --format md; leave one of them out",
    "ls extra": "ls: got unexpected extra argument(s) (extra); see sweep ls --help",
    "watch nosuch": "no run 'nosuch' in ",
    "watch last --results nosuch": "nosuch yet; check --results, or launch a grid: sweep launch GRID",
    "show nosuch": "known: one-",
    "show last --results nosuch": "nosuch yet; check --results, or launch a grid: sweep launch GRID",
    "why": "why: missing argument 'POINT'; see sweep why --help",
    "why zz": "'zz' is not a point id: up to 20 of 0-9, a-f",
    "rm": "rm: missing argument 'RUN'; see sweep rm --help",
    "rm nosuch --yes": "no run 'nosuch' in ",
    "policy lss": "policy: invalid value for 'ls|show': 'lss' is not one of 'ls', 'show'",
    "policy show": "policy show: missing argument 'NAME'; sweep policy ls lists the policies",
    "policy show mergd": "unknown policy 'mergd'; did you mean 'merged'?",
    "policy ls merged": "policy ls: takes no name; sweep policy show merged",
    "query 'SELECT x FROM lates'": "SQL: unknown view 'lates'; did you mean 'latest'?",
    "query 'SELECT zapp FROM latest'": 'SQL: Referenced column "zapp" not found',
    "query nosuch.sql": "nosuch.sql: No such file or directory",
    "query savings --run nosuch": "no run 'nosuch' in ",
    "query savings --json --format csv": "--json: not with --format csv; leave one of them out",
    "query savings -o a.xml": "-o a.xml: the ending '.xml' is not known; known: .csv, ",
    "query savings -o nosuch/a.csv": "nosuch/a.csv: No such file or directory",
    "query savings --cost nosuch": "unknown cost table 'nosuch'; known: published; sweep calibrate measures",
    "query savings --rows -1": "query: invalid value for '--rows': must be at least 0; see sweep query --help",
    "query savings --timeout x": "query: invalid value for '--timeout': not a number; see sweep query --help",
    "report nosuch": "no run 'nosuch' in ",
    "report -o a.txt": "-o a.txt: unknown ending '.txt'; known: .html, .htm",
    "report -o nosuch/a.html": "-o nosuch/a.html: no folder nosuch",
    "plot --y ''": "--y: unknown column ''; known: saved_percent, ",
    "plot --x zap --facet zap": "--facet zap: is --x already; name another column",
    "plot --query cost --y extra": "--y: unknown column 'extra'; did you mean 'extra_ms'?",
    "plot -o a.gif": "-o a.gif: unknown ending '.gif'; known: .svg, .png, .pdf, .html",
    "compare": "compare: missing argument 'A'; see sweep compare --help",
    "compare one": "compare: missing argument 'B'; see sweep compare --help",
    "compare one one": "; give two runs",
    "compare one nosuch": "no run 'nosuch' in ",
    "compare one@6.12 zaps": "no such kernel in the run; it is a run of the model",
    "calibrate x": "calibrate: got unexpected extra argument(s) (x); see sweep calibrate --help",
    "validate": "validate: give a grid file, or --random N",
    "validate g.yaml --random 3": "validate: give a grid file, or --random N",
    "validate g.yaml --where 'zap = 1'": "--where: true for none of the 30 points: zap = 1; ",
    "validate --random 0": "validate: invalid value for '--random': must be at least 1; see sweep validate --help",
    "kernel": "kernel: missing argument 'get|ls|rm|check'. Choose from: get, ls, rm, check; see sweep kernel --help",
    "kernel check nosuch": "kernel check: takes no RELEASE, got 'nosuch'",
    "record": "record: give either -- PROGRAM [ARG...] or --pid PID",
    "record -o a.rec -- nosuchprogram": "nosuchprogram: no such program",
    "replay nosuch": "nosuch: No such file or directory",
    "replay g.yaml --policy mergd": "--policy: unknown policy 'mergd'; did you mean 'merged'?",
    "advise": "advise: needs --virt, --res and --vmpte, or --pid, or --trace; see sweep advise --help",
    "advise --virt 55t": "advise: --res and --vmpte missing; --virt, --res and --vmpte go together",
    "advise --virt 55t --res 590g --vmpte 110": "--vmpte: '110' has no unit; write 110m, 110g, 110t, or 110kB",
    "advise --virt 1g --res 590g --vmpte 110g": "--res 590GiB is more than --virt 1GiB",
    "advise --virt 55t --res 590g --vmpte 110g --shared 5g": "advise: --processes N and --shared SIZE go together",
    "advise --allocator jemaloc": "--allocator: unknown allocator 'jemaloc'; did you mean 'jemalloc'?",
    "advise --pid 1 --virt 55t --res 1g --vmpte 1g": "advise: give --pid, or --virt, --res and --vmpte, not both",
    "inspect": "inspect: which process? give a PID or several, --all, or --cgroup NAME",
    "inspect x": "inspect: invalid value for 'PID': not a whole number; see sweep inspect --help",
    "inspect 2 --by nosuch": "inspect: invalid value for '--by': 'nosuch' is not one of 'summary', ",
    "lauch": "unknown command 'lauch'; did you mean 'launch'?",
    "--debg": "no such option: --debg; did you mean '--debug'? see sweep --help",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a grid and the store of two runs."""
    root = tmp_path_factory.mktemp("mistakes")
    launched(root / "results", ZAPS, ONE)
    (root / "g.yaml").write_text(ZAPS)
    return root


@pytest.mark.parametrize("line", CASES)
def test_a_mistake_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    """It says where it is, what is wrong and what is allowed; stdout is empty, and no file is new."""
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    code = main(shlex.split(line))
    out, err = capsys.readouterr()
    assert CASES[line] in err
    assert (code, out, err.count("\n"), err[:7]) == (2, "", 1, "sweep: ")
    assert sorted(folder.rglob("*")) == before
