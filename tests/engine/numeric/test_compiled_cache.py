"""Compiled passes: compiled once per machine, only when needed, and only from current sources in private folders."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.numeric import compiled_cache
from engine.numeric.compiled_cache import ENGINE, digest_of_sources
from tests.paths import ROOT

LOADS = """
from engine.model.policy import BUILT_IN
from engine.model.scenario import Scenario, columns_of
from engine.compiled_passes import PASSES, load, load_compiled
load_compiled(range(len(PASSES)))
print(*(int(one_pass.is_ready) for one_pass in PASSES))
load(columns_of([Scenario(virt=1 << 24, sparsity=0.5, zap=1 << 22)]), [BUILT_IN["merged"]])
print(*(int(one_pass.is_ready) for one_pass in PASSES))
print(sum(sum(one_pass.function.stats.cache_misses.values()) for one_pass in PASSES))
"""


@pytest.mark.slow
def test_concurrent_processes_compile_a_pass_once(tmp_path: Path) -> None:
    """Of two processes one compiles the pass that the point needs, and no other; a third loads it."""
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", LOADS], env=env, stdout=subprocess.PIPE, text=True)

    nothing, one = "0 0 0 0 0", "0 1 0 0 0"
    outputs = [process.communicate()[0].splitlines() for process in (start(), start())]
    assert [ready for *ready, _ in outputs] == [[nothing, one]] * 2
    assert sorted(misses for *_, misses in outputs) == ["0", "1"]
    assert start().communicate()[0].splitlines() == [one, one, "0"]


def test_the_folder_is_named_after_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Docstrings, comments and blank lines do not count; any change of code does, in whatever file."""
    shutil.copytree(ENGINE, tmp_path / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(compiled_cache, "ENGINE", tmp_path / "engine")
    before = digest_of_sources()
    file = tmp_path / "engine" / "random" / "quantile.py"
    text = file.read_text()
    file.write_text(text.replace('"""', '"""Other words. ', 1).replace("@inner", "\n# a comment\n@inner", 1))
    assert digest_of_sources() == before
    file.write_text(text.replace("size >> 1", "size >> 2"))
    assert digest_of_sources() != before


@pytest.mark.parametrize("open_mode", [0o777, 0o757, 0o770])
def test_a_cache_that_another_user_could_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_mode: int
) -> None:
    """Whether it is the folder itself, one above it, or where a link leads. Another is used, and one line says so."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(compiled_cache, "_is_own_group", lambda group: False)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "below").mkdir(parents=True)
    for folder in ("mine", "mine/below", "mine/new", "link"):
        given = tmp_path / folder
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(given))
        monkeypatch.setattr(compiled_cache, "refused", "")
        (tmp_path / "mine").chmod(0o700)
        compiled_cache.choose_cache()
        assert (compiled_cache.cache_folder().parent, compiled_cache.refused) == (given, "")
        (tmp_path / "mine").chmod(open_mode)
        compiled_cache.choose_cache()
        used = tmp_path / f"ptsweep-numba-{os.getuid()}"
        assert compiled_cache.cache_folder().parent == used
        refusal = f"{given}: another user could write there; compiled code is kept in {used} instead"
        assert compiled_cache.refused == refusal


def test_the_temporary_cache_is_this_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's folder of that name, one that others can write, and a link are passed over."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    usual = tmp_path / f"ptsweep-numba-{os.getuid()}"
    assert compiled_cache._temporary_folder() == usual
    usual.chmod(0o777)
    assert compiled_cache._temporary_folder() != usual
    usual.rmdir()
    usual.symlink_to(tmp_path)
    assert compiled_cache._temporary_folder() != usual


def test_without_a_writable_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock and the note are left out where nothing can be written, and the work is done all the same."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "folder"))
    ran = []
    with compiled_cache.compiling("walk"):
        ran.append(1)
    assert ran == [1]
    assert not compiled_cache.is_compiled("walk")
