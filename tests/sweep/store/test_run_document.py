"""A run.json with wrong values, or written to drive a terminal, is one problem of one run."""

import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from engine.model.policy import BUILT_IN, derive_policy
from sweep.cli.main import main
from sweep.cli.output_streams import VisibleStream
from sweep.common.errors import printable_lines
from sweep.store.store import Store
from tests.support.small_stores import commit, opened, point_id

HUGE = "<1e400>"
EVIL = "a\x1b[31mb\x07c\x9bd\u202ee\nfault\r"
VALUES: tuple[Any, ...] = (
    *(None, True, 5, -1, 1 << 63, 10**400, 0.5, float("nan"), HUGE),
    *("", "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z", EVIL),
    *([], [EVIL, 5], {}, {EVIL: EVIL, "b": 5}, {"text": 5}),
)
STORE_COMMANDS = (
    ("ls", "--json"),
    ("query", "SELECT * FROM runs"),
    ("query", "SELECT run_id, count(*) FROM latest GROUP BY ALL", "--format", "csv"),
    ("compare", "first-00000001", "second-00000002"),
    ("why", point_id(1)),
    ("show", "last"),
)
"""Commands on the whole store, which a bad run beside the good ones must not end."""
RUN_COMMANDS = (
    ("show", "RUN"),
    ("show", "--json", "RUN"),
    ("show", "--grid", "RUN"),
    ("launch", "--dry-run", "--like", "RUN"),
    ("query", "--run", "RUN", "SELECT * FROM points"),
    ("compare", "first-00000001", "RUN"),
)
"""Commands on the bad run, which may refuse it."""


def paths(tree: Any, *above: str | int) -> Iterator[tuple[str | int, ...]]:
    """The paths of all values of a JSON tree; of the declared columns, which nobody reads, only the whole."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*above, key)
        if key != "columns":
            yield from paths(value, *above, key)


def tree() -> dict[str, Any]:
    """A run.json as a launch writes it."""
    facts = {"host": "a", "kernel": "6.14", "cpu_model": "b", "git_commit": None, "packages": {"numpy": "2"}}
    return {
        "schema": "sweep-run/2",
        "engine": "model",
        "model_version": 3,
        "status": "ok",
        "created": "2026-01-01T00:00:00+00:00",
        "updated": "2026-01-01T00:00:00+00:00",
        "counts": {"points": 3, "ok": 3, "failed": 0, "todo": 0},
        "grid": {
            "name": "bad",
            "about": "Why?",
            "source": "bad.yaml",
            "repeats": 1,
            "seed": 0,
            "content": {"name": "bad"},
            "text": "schema: sweep/1\nname: bad\nfixed: {virt: 1MiB, sparsity: 0.5}\n",
            "overrides": [],
        },
        "launches": [{"at": "2026-01-01T00:00:00+00:00", "version": "0", "where": None, "overrides": [], **facts}],
        "policies": [asdict(derive_policy(BUILT_IN["merged"], "own", {"least": 4096}))],
        "columns": {},
        "derived": {"pages": "virt / 4096"},
    }


KEYS = list(paths(tree()))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good runs, and one with bad values for each of VALUES."""
    root = tmp_path_factory.mktemp("store")
    for name in ("bad-00", "second-00000002", "first-00000001"):
        with opened(root, name) as writer:
            commit(writer, 0, 3)
            writer.finish("ok", {})
    for i in range(1, len(VALUES)):
        shutil.copytree(root / "bad-00", root / f"bad-{i:02}")
    return root


def write_edited(run: Path, path: tuple[str | int, ...], value: Any) -> None:
    """A run.json in which the value at `path` is another."""
    document: Any = tree()
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (run / "run.json").write_text(json.dumps(document).replace(f'"{HUGE}"', "1e400"))


def check(words: tuple[str, ...], root: Path, capsys: pytest.CaptureFixture[str], codes: tuple[int, ...]) -> None:
    code = main([*words, "--results", str(root)])
    out, err = capsys.readouterr()
    assert code in codes, err
    assert "internal error" not in err
    assert all(c.isprintable() or c in "\n\t" for c in out + err), out + err


@pytest.mark.parametrize("path", KEYS, ids=lambda path: ".".join(map(str, path)))
def test_a_wrong_value_is_one_problem_beside_the_good_runs(
    store: Path, capsys: pytest.CaptureFixture[str], path: tuple[str | int, ...]
) -> None:
    """Whatever value a key has, commands on the store go on, and commands on the run end in a line."""
    for i, value in enumerate(VALUES):
        write_edited(store / f"bad-{i:02}", path, value)
    survey = Store(store).survey()
    assert {"first-00000001", "second-00000002"} <= {run.run_id for run in survey.runs}
    assert len(survey.runs) + len(survey.problems) == 2 + len(VALUES)
    turn = KEYS.index(path)
    for words in ("ls",), STORE_COMMANDS[turn % len(STORE_COMMANDS)]:
        check(words, store, capsys, (0,))
    for i in range(turn % 2, len(VALUES), 2):  # half of them: a command takes 20 ms
        words = RUN_COMMANDS[(i + turn) % len(RUN_COMMANDS)]
        check(tuple(f"bad-{i:02}" if word == "RUN" else word for word in words), store, capsys, (0, 2, 5))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"schema": ' + "[" * 100_000,
        "",
        "null",
        "5",
        "[]",
        '"a"',
        '{"schema": "sweep-run/1"}',
        '{"schema": "\\u001b[31m"}',
        '{"schema": "sweep-run/2"}',
        '{"schema": "sweep-run/2", "grid": "\\ud800"}',
        "\ufeff{}",
        "1" * 100_000,
        b"\xff\xfe",
        b"\x00" * 1000,
    ],
    ids=range(15),
)
def test_a_file_that_is_no_run_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | bytes) -> None:
    """Deep nesting, other JSON and no JSON at all are listed as problems; rm deletes such a run."""
    with opened(tmp_path, "good-00000001") as writer:
        commit(writer, 0, 2)
        writer.finish("ok", {})
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    for words in (("ls",), ("query", "SELECT * FROM runs"), ("why", point_id(1)), ("show", "good")):
        check(words, tmp_path, capsys, (0,))
    check(("show", "bad"), tmp_path, capsys, (2,))
    opened(tmp_path, "another-00000002").close()
    assert len(Store(tmp_path).survey().problems) == 1
    check(("rm", "--yes", "bad"), tmp_path, capsys, (0,))
    assert Store(tmp_path).survey().problems == []


def test_a_run_json_that_is_no_regular_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A named pipe without a writer, an endless device and a folder are refused at once."""
    for name in ("pipe", "device", "folder"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "run.json")
    (tmp_path / "device" / "run.json").symlink_to("/dev/zero")
    (tmp_path / "folder" / "run.json").mkdir()
    assert main(["ls", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().err.count("warning") == 3


def test_the_next_launch_of_a_bad_run_names_the_file(tmp_path: Path) -> None:
    """It does not write to a run that it cannot read, and other grids are not concerned."""
    for name in ("first-0123abcd", "second-0123abcd"):
        opened(tmp_path, name).close()
    write_edited(tmp_path / "first-0123abcd", ("counts",), 5)
    with pytest.raises(Exception, match=r"first-0123abcd/run\.json: counts: "):
        opened(tmp_path)
    opened(tmp_path, "second-0123abcd").close()
    opened(tmp_path, fresh=True).close()


def test_control_characters_are_spelled_out() -> None:
    """What a terminal obeys is spelled as in JSON, so that JSON stays JSON; lines, tabs and letters stay."""
    assert printable_lines("a\tb\nü\u00a0") == "a\tb\nü\u00a0"
    assert printable_lines("\x1b\x9b\u202e\ud800\U000e0041") == "\\u001b\\u009b\\u202e\\ud800\\udb40\\udc41"
    below = io.StringIO()
    stream = VisibleStream(below)
    stream.write(json.dumps(EVIL, ensure_ascii=False))
    assert json.loads(below.getvalue()) == EVIL
    stream.writelines(["\x07", "\n"])
    assert below.getvalue().endswith('"\\u0007\n')
    assert not stream.isatty()
