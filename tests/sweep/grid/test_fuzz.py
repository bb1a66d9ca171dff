"""Hostile input: a thousand generated grids, expensive texts, SQL, names. `scripts/fuzz` tries a hundred thousand."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.model.scenario import FIELD
from sweep.common.errors import UserError, printable
from sweep.grid import sql_expressions, yaml_reader
from sweep.grid.grid_file import TOP_KEYS
from sweep.grid.loader import parse_grid
from sweep.store import run_directory
from sweep.store.store import open_store
from tests.paths import ROOT
from tests.support.grid_fuzzing import (
    WORDS,
    Guide,
    Violation,
    bombs,
    check_grid,
    check_message,
    corpus,
    fuzz_grids,
    limited,
    long_texts,
    memory_mib,
    mutated,
)
from tests.support.small_stores import filled
from tests.support.sql_fuzzing import FuzzedStore, fuzz_sql

KEYS = [*FIELD, "where", "pow2", "range", "from", "to", "step"]
LEAVES = st.one_of(
    st.sampled_from([*WORDS, *FIELD]), st.integers().map(str), st.floats().map(str), st.text(max_size=20)
)
NODES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(
            st.sampled_from([*FIELD, "where", "pow2", "range", "from", "to", "step"]), inner, max_size=4
        ).map(lambda entries: "{" + ", ".join(f"{key}: {value}" for key, value in entries.items()) + "}"),
    ),
    max_leaves=12,
)
GRIDS = st.dictionaries(st.sampled_from([*TOP_KEYS, "zap"]), NODES, max_size=6).map(
    lambda entries: "".join(
        f"{key}: {value}\n"
        for key, value in ({"schema": "sweep/1", "name": "a", "fixed": "{virt: 1GiB, res: 1MiB}"} | entries).items()
    )
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(GRIDS)
@pytest.mark.slow
def test_grids_of_any_shape(text: str) -> None:
    """A text with the shape of a grid is planned, or refused in one printable line."""
    check_grid(text)


@pytest.mark.slow
def test_a_thousand_grids_guided_by_coverage() -> None:
    """No text makes a traceback, a hang or an unprintable message, or is accepted and then cannot be planned."""
    tally = fuzz_grids(1000, seed=7)
    assert tally.found == []
    assert tally.accepted > 20
    assert tally.kept > 20


FORMER_VIOLATIONS = {
    "a tag without end": f"schema: !!python/object/apply:{'os.' * 1000} [id]\n",
    "an anchor without end": f"schema: &{'a' * 5000} x\n",
    "a trace's name": "schema: sweep/1\nname: a\nworkload: {trace: [\U00036401.csv]}\n",
    "a rare letter in a key": "schema: sweep/1\nname: a\nfixed: {vir\U000750e8, GiB}\n",
}
"""Texts found by scripts/fuzz whose messages were not one printable line."""


@pytest.mark.parametrize("name", sorted(FORMER_VIOLATIONS))
def test_former_violations_are_refused(name: str) -> None:
    """Each is refused in one printable line."""
    assert not check_grid(FORMER_VIOLATIONS[name])


@pytest.mark.parametrize("name", sorted(bombs()))
@pytest.mark.slow
def test_bombs(name: str) -> None:
    """An expensive text is refused or planned within seconds, in less than 400 MiB."""
    before = memory_mib()
    check_grid(bombs()[name])
    assert memory_mib() - before < 400


@pytest.mark.slow
def test_long_texts_are_read_in_linear_time() -> None:
    """A value of 100,000 characters, in the file or in -S, is read or refused in one short line, and soon."""
    for text in long_texts():
        with limited():
            yaml_reader.yaml_11_trap(text)
        with limited(), pytest.raises(UserError, match="longer than 2,000 characters"):
            sql_expressions.to_duckdb_sql(text)
    for text in long_texts(starts=("",), ends=("",)):
        assert not check_grid(f"schema: sweep/1\nname: a\nfixed: {{virt: 1GiB, sparsity: {text}x}}\n")
        for override in (f"seed=0{text}", f"{text}=1", f"axes.{text}=1"):
            try:
                with limited():
                    parse_grid("schema: sweep/1\nname: a\nfixed: {virt: 1GiB, sparsity: 0.5}\n", "g.yaml", [override])
            except UserError as error:
                check_message(error)


@pytest.mark.slow
def test_hostile_sql(tmp_path: Path) -> None:
    """Statements, conditions and derived columns read no file, write none, set nothing, and end."""
    tally = fuzz_sql(300, seed=7, folder=tmp_path)
    assert tally.found == []
    assert tally.accepted > 20


def forever() -> None:
    while True:
        pass


def test_the_checks_notice_violations(tmp_path: Path) -> None:
    """The checks report a file that was read, one that was written, an unprintable message, and an endless loop."""
    fuzzed = FuzzedStore(tmp_path)
    with pytest.raises(Violation, match="contains the canary"):
        fuzzed.judge_query("SELECT 'canary-' || '7f3a'")
    (tmp_path / "new").touch()
    with pytest.raises(Violation, match="files appeared"):
        fuzzed.check_unchanged()
    with pytest.raises(Violation, match="not one clean line"):
        check_message(UserError("a\x1b[31m"))
    with pytest.raises(Violation, match="took longer"), limited(1):
        forever()
    guide = Guide()
    assert guide.run(lambda: check_grid("schema: sweep/1"))
    assert not guide.run(lambda: check_grid("schema: sweep/1"))
    assert mutated("a: 1", corpus(), random.Random(1)) == mutated("a: 1", corpus(), random.Random(1))


@pytest.mark.slow
def test_a_query_that_ignores_interrupts_is_abandoned(tmp_path: Path) -> None:
    """The command ends after --timeout with one line and exit code 2 even if DuckDB ignores the interrupt."""
    filled(tmp_path)
    sql = "SELECT sum(levenshtein(repeat('a', 300000 + range::INT), repeat('b', 300000))) FROM range(2000)"
    words = ["query", sql, "--timeout", "1", "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "sweep.cli", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (2, "sweep: SQL: took longer than 1 s; raise --timeout, or ask for less\n")


@pytest.mark.parametrize("name", ["..", "../x", "/etc", ".", "a/b", "a\\b", "x\0y", "\x1b[31m", "-rf", "a" * 5000, ""])
def test_no_name_leads_out_of_the_store(name: str, tmp_path: Path) -> None:
    """A run's or a grid's name that is not a plain name is refused, and no file outside of the store is touched."""
    outside = tmp_path / "x"
    outside.mkdir()
    (outside / "run.json").write_text("{}")
    store = filled(tmp_path / "results")
    for refused in (store.find, store.find_name, store.remove):
        with pytest.raises(UserError, match="no run"):
            refused(name)
    assert not run_directory.RUN_NAME.fullmatch(name) or len(name) > 100
    with pytest.raises(UserError):
        parse_grid(f"schema: sweep/1\nname: {name!r}\nfixed: {{virt: 1GiB, sparsity: 0.5}}\n", "g.yaml")
    assert (outside / "run.json").exists()


@pytest.mark.parametrize("place", ["ftp://host/x", "s3://", "s3:///key", "://x", "S3://b/../../c"])
def test_uris_that_name_no_store(place: str) -> None:
    """A URI that cannot name a store is refused in one line."""
    with pytest.raises(UserError) as caught:
        open_store(place)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_control_characters_are_escaped(tmp_path: Path) -> None:
    """No escape sequence in the name of a file, a column or a command reaches the terminal."""
    assert printable("a\x1b[31m\u202e\n") == "a\\u001b[31m\\u202e\\n"
    commands = (["plan", str(tmp_path / "a\x1b[31m.yaml")], ["query", 'SELECT 1 AS "a\x1b[31m"'], ["a\x1b[31m"])
    for words in commands:
        command = [sys.executable, "-m", "sweep.cli", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert b"\x1b" not in done.stdout + done.stderr
        assert done.stdout + done.stderr
