"""A run's folder in which something else stands where a file or folder belongs: one line, or handled."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.cli.main import main
from sweep.store.store import Store
from tests.support.launched_store import ONE, launched

COMMANDS = (["ls"], ["launch", "GRID", "--executor", "inline", "-q"], ["plan", "GRID"], ["query", "savings"], ["show"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "one.yaml").write_text(ONE)
    launched(folder / "results", ONE)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the run in a copy of that store, which is the current folder's."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("results", Store(Path("results")).find("last").run_id)


def socket_file(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


MAKERS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.touch(),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "socket": socket_file,
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", ["points", "outcomes", "damaged", "run.json", ".lock", "points/part-000002.parquet"])
def test_commands_on_odd_entries(run: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str) -> None:
    """Each command answers, or ends with exit code 2 and one line; nothing waits for a pipe, and rm deletes the run.

    Where `damaged` is a file the run's only part is damaged too, so that a launch sets it aside.
    """
    place = run / name
    if name == "damaged":
        for part in run.glob("outcomes/*"):
            part.write_bytes(part.read_bytes()[:-1])
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    MAKERS[kind](place)
    for words in COMMANDS:
        code = main([word.replace("GRID", "one.yaml") for word in words])
        errors = capsys.readouterr().err
        assert code in (0, 2), errors
        assert "fault" not in errors
        if code:
            assert errors.startswith(f"sweep: {run}/"), errors
            assert errors.count("\n") == 1
            assert "File exists" not in errors
    if name == ".lock" and kind != "file":
        place.rmdir() if kind == "folder" else place.unlink()
    assert main(["rm", run.name, "--yes"]) == 0
    assert not run.exists()


def test_a_file_in_the_place_of_a_folder_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line says what is in the way, and what to do."""
    for part in run.glob("outcomes/*"):
        part.write_bytes(b"")
    (run / "damaged").touch()
    assert main(["launch", "one.yaml", "--executor", "inline", "-q"]) == 2
    line = "Not a directory; the store needs a directory there: move what stands in its place away"
    assert capsys.readouterr().err == f"sweep: {run}/damaged: {line}\n"


def test_rm_deletes_links_and_keeps_what_they_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run whose points are on another disk: its link goes, the rows there stay, and the line says so."""
    there = Path("elsewhere").absolute()
    (run / "points").rename(there)
    (run / "points").symlink_to(there)
    assert main(["launch", "one.yaml", "--executor", "inline", "-q"]) == 0
    capsys.readouterr()
    assert main(["rm", run.name, "--yes"]) == 0
    assert capsys.readouterr().err == f"deleted {run.name}; kept what its links name: {there}\n"
    assert not run.exists()
    assert len(list(there.iterdir())) == 1


def test_a_lock_file_with_another_name_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A lock file is overwritten; it may be a hard link to somebody's file."""
    precious = Path("precious")
    precious.write_text("years of work")
    (run / ".lock").unlink(missing_ok=True)
    os.link(precious, run / ".lock")
    assert main(["launch", "one.yaml", "--executor", "inline", "-q", "--fresh"]) == 0
    assert main(["rm", run.name, "--yes"]) == 2
    assert "a file with another name, which no lock file is; delete it" in capsys.readouterr().err
    assert precious.read_text() == "years of work"


@pytest.mark.parametrize("name", ["two\nlines.parquet", b"latin-\xe9.parquet".decode("utf-8", "surrogateescape")])
def test_foreign_files_in_a_run_are_ignored(run: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Names that are no part's, also those that no terminal shows, change no answer."""
    for folder in (run.parent, run, run / "points", run / "outcomes"):
        (folder / name).touch()
    for words in COMMANDS:
        assert main([word.replace("GRID", "one.yaml") for word in words]) == 0
    assert "warning" not in capsys.readouterr().err
