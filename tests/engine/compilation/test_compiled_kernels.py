"""Compiled kernels: compiled once per machine, only when needed, outside of measured time, from current sources."""

import ast
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest

from engine.compilation import cache, native_code
from engine.numeric.compiled_cache import kept, sources_of
from engine.compilation.native_code import Kernel, leaves, maker, shipped, unpacked
from engine.model.scenario import Scenario, columns_of
from engine.portable_code import taken
from engine.run import COMPILED, KERNELS, arguments, blank, call, run_batch
from engine.reclaim.encode import encode
from sweep.executors.base import Batch
from sweep.executors.worker import run_batch as run_in_worker
from tests.paths import ROOT
from tests.support.planted_modules import PlantedModules

LOADS = """
from engine.compilation import native_code
from engine.run import COMPILED, load, load_compiled
from engine.model.scenario import Scenario, columns_of
made, compiled = [], native_code._compiled
native_code._compiled = lambda portable: made.append(1) or compiled(portable)
load_compiled(range(4))
print(*(int(kernel.is_ready) for kernel in COMPILED))
load(columns_of([Scenario(virt=1 << 24, sparsity=0.5, zap=1 << 22)]))
print(*(int(kernel.is_ready) for kernel in COMPILED))
print(len(made))
"""
ONE = columns_of([Scenario(virt=1 << 21, sparsity=0.5)])


def test_concurrent_processes_compile_a_kernel_once(tmp_path: Path) -> None:
    """Of two processes only one compiles each kernel, and only walk_slots and fill_cdf, which the point needs."""
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", LOADS], env=env, stdout=subprocess.PIPE, text=True)

    nothing, both = "0 0 0 0 0", "0 1 0 0 1"
    outputs = [process.communicate()[0].splitlines() for process in (start(), start())]
    assert [ready for *ready, _ in outputs] == [[nothing, both]] * 2
    assert sum(int(compiled) for *_, compiled in outputs) == 2
    assert start().communicate()[0].splitlines() == [both, both, "0"]


def test_without_a_writable_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel is compiled although its code cannot be stored."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "folder"))
    fresh = Kernel(KERNELS[1].function, KERNELS[1].room_for)
    fresh.ready()
    assert not fresh.is_compiled
    call_for_no_point(fresh)


@pytest.mark.parametrize("kernel", COMPILED, ids=[kernel.name for kernel in COMPILED])
def test_portable_code_is_current(kernel: Kernel) -> None:
    """The portable code that ships was made from the current sources, and names no path of the machine."""
    assert shipped(kernel).exists(), "run scripts/portable"
    ships = unpacked(shipped(kernel).read_bytes())
    assert ships.arguments == [[array.dtype.str, array.ndim] for array in leaves(taken(kernel))]
    code = str(llvm.parse_bitcode(ships.bits))
    assert kernel.entry in code
    assert not re.search(r"\.py|/engine|site-packages", code)


@pytest.mark.slow
def test_portable_code_can_be_reproduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba makes the shipped code of the smallest kernel again, bit by bit; the others are made the same way.

    Its process imports nothing from the current folder and reads no settings there.
    """
    kernel = KERNELS[1]
    ships = unpacked(shipped(kernel).read_bytes())
    if ships.maker != maker():
        pytest.skip(f"the shipped code was made by {ships.maker}; this is {maker()}")
    planted = PlantedModules(tmp_path)
    (planted.folder / ".numba_config.yaml").write_text("disable_jit: 1")
    monkeypatch.chdir(planted.folder)
    assert unpacked(native_code.lowered(kernel)) == ships
    assert planted.imported() == []


def test_sources_include_all_imports() -> None:
    """sources_of, which searches by regular expression, misses no import that Python's parser finds."""
    for kernel in COMPILED:
        module = kernel.function.py_func.__module__
        for source in sources_of(module):
            for node in ast.walk(ast.parse(source.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or "", *(f"{node.module}.{name}" for name in names)]
                files = [ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith("engine.")]
                for path in (path for path in files if path.exists()):
                    assert path in sources_of(module)


@pytest.mark.parametrize("damage", ["", "cut", "flipped", "other"])
def test_a_damaged_cache_file_is_replaced(tmp_path: Path, damage: str) -> None:
    """A truncated or changed cache file is created again; loading it would crash the process."""
    path, good = tmp_path / "code", bytes(range(256)) * 9
    assert kept(path, lambda: good) == good
    data = path.read_bytes()
    flipped = data[:999] + bytes([data[999] ^ 4]) + data[1000:]
    path.write_bytes({"": b"", "cut": data[:-100], "flipped": flipped, "other": b"\0" * len(data)}[damage])
    calls: list[int] = []
    assert kept(path, lambda: calls.append(1) or good) == good  # type: ignore[func-returns-value]
    assert calls == [1]
    assert path.read_bytes() == data
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["code", "code.lock"]


@pytest.mark.parametrize("open_mode", [0o777, 0o757, 0o770])
def test_a_cache_that_another_user_could_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_mode: int
) -> None:
    """A cache folder is refused, in one line, if others can write to it, a folder above it, or a link's target."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(cache, "_is_own_group", lambda group: False)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "below").mkdir(parents=True)
    for folder in ("mine", "mine/below", "mine/new", "link"):
        given = tmp_path / folder
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(given))
        monkeypatch.setattr(cache, "refused", "")
        (tmp_path / "mine").chmod(0o700)
        cache.choose_cache()
        assert (cache.cache_folder().parent, cache.refused) == (given, "")
        (tmp_path / "mine").chmod(open_mode)
        cache.choose_cache()
        used = tmp_path / f"ptsweep-numba-{os.getuid()}"
        assert cache.cache_folder().parent == used
        assert cache.refused == f"{given}: another user could write there; compiled code is kept in {used} instead"


def test_the_temporary_cache_folder_belongs_to_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary cache folder that others can write, or that is a link, is not used."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    usual = tmp_path / f"ptsweep-numba-{os.getuid()}"
    assert cache._temporary_folder() == usual
    usual.chmod(0o777)
    assert cache._temporary_folder() != usual
    usual.rmdir()
    usual.symlink_to(tmp_path)
    assert cache._temporary_folder() != usual


def test_a_changed_source_changes_the_name_of_portable_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The name depends on the kernel's own file and on all files that it imports, directly or not."""
    names = [source.stem for source in sources_of("engine.shortcuts.slots")]
    assert {"slots", "residency", "quantile", "splitmix", "columns", "jit"} <= set(names)
    assert not {"parts", "run", "native_code", "encode"} & set(names)
    before = shipped(KERNELS[1])
    for source in sources_of("engine.shortcuts.slots"):
        copy = tmp_path / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes() + b"#" * (source.stem == "quantile"))
    monkeypatch.setattr("engine.numeric.compiled_cache.ENGINE", tmp_path / "engine")
    assert shipped(KERNELS[1]).name != before.name


@pytest.mark.slow
def test_numba_compiles_where_nothing_ships(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On another architecture Numba compiles the kernel; the rows are the same, and the code is stored."""
    columns = columns_of([Scenario(virt=1 << 30, sparsity=0.99, zap=1 << 22, rounds=3, seed=8)])
    before = run_batch(columns)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("engine.compilation.native_code.SHIPS_FOR", "another machine")
    monkeypatch.setattr("engine.run.KERNELS", [Kernel(kernel.function, kernel.room_for) for kernel in KERNELS])
    np.testing.assert_array_equal(run_batch(columns).values, before.values)
    assert [path.name.partition("-")[0] for path in tmp_path.glob("*.xz-*-*[!k]")] == ["walk_slots"]


def test_a_kernel_checks_its_arguments() -> None:
    """Missing, non-contiguous or wrongly typed arrays are refused: compiled code gets only addresses."""
    kernel = KERNELS[0]
    kernel.ready()
    points = encode(ONE)
    good = arguments(kernel, points, points.par, np.zeros(0, np.int64), blank(points))
    for bad in (good[:-1], (*good[:-1], good[-1].astype(np.int32)), (*good[:-1], good[-1][:, ::-1])):
        with pytest.raises(TypeError, match="walk takes contiguous arrays"):
            kernel(*bad)


def test_kernels_are_loaded_before_the_clock_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU time of a batch does not include loading its kernels."""
    calls: list[str] = []

    def clock() -> int:
        calls.append("clock")
        return 0

    monkeypatch.setattr("engine.run.load", lambda columns: calls.append(f"load {len(columns['virt'])}"))
    monkeypatch.setattr("time.thread_time_ns", clock)
    run_in_worker(Batch(1, columns_of([Scenario(virt=1 << 21, sparsity=0.5)] * 3)))
    assert calls == ["load 3", "clock", "clock"]


def test_a_failed_compilation_is_a_failure_of_each_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a kernel cannot be compiled, each point of the batch fails with the reason."""

    def fails(kernel: Kernel) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(Kernel, "ready", fails)
    done = run_in_worker(Batch(1, columns_of([Scenario(virt=1 << 21, sparsity=0.5)] * 2)))
    assert [(i, why.error) for i, why in done.failures] == [(i, "RuntimeError: no compiler") for i in range(2)]


def call_for_no_point(kernel: Kernel) -> None:
    """Call a kernel for none of a batch's points, and check that it writes no tally."""
    one = encode(columns_of([Scenario(virt=1 << 46, sparsity=0.5)]))
    tally = blank(one)
    arrays = [getattr(tally, field.name) for field in fields(tally)]
    for array in arrays:
        array.fill(7)
    call(kernel, one, one.par, np.zeros(0, np.int64), tally)
    assert all((array == 7).all() for array in arrays)


@pytest.mark.parametrize("kernel", KERNELS, ids=[kernel.name for kernel in KERNELS])
def test_every_kernel_can_be_called_for_no_point(kernel: Kernel) -> None:
    """A kernel that is called for no point writes nothing."""
    call_for_no_point(kernel)
