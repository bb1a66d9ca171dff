"""Several processes: worst first; those that end, and cgroups."""

import json
import sys
from pathlib import Path

import pytest

from sweep.cli.main import main
from sweep.common.errors import UserError
from sweep.process import several, table_census
from tests.support.mapper import HALF_EMPTY, mapper

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")


def test_several_processes(capsys: pytest.CaptureFixture[str]) -> None:
    """Several pids, or all that may be read, get a line each; the one with the most empty tables comes first."""
    with mapper(HALF_EMPTY) as worst, mapper("EMPTIED = []") as other:
        for words in ((other.pid, worst.pid), ("--all",)):
            assert main(["inspect", *map(str, words), "--json"]) == 0
            rows = json.loads(capsys.readouterr().out)
            ranks = [row["pid"] for row in rows if row["pid"] in (worst.pid, other.pid)]
            assert ranks == [worst.pid, other.pid]
            assert all(row["empty_kib_least"] <= row["empty_kib_most"] <= row["vm_pte_kib"] for row in rows)
        census = table_census.take_census(worst.pid)
        row = next(row for row in rows if row["pid"] == worst.pid)
        assert (row["vm_pte_kib"], row["tables_with_entry"]) == (census.sizes.vm_pte_kib, census.needed)


def test_a_process_that_ends_meanwhile(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One of several that ends before it is read is left out; one that never was there is an error."""
    read = table_census.take_census
    with mapper("EMPTIED = []") as ends, mapper("EMPTIED = []") as stays:

        def and_end(pid: int) -> table_census.TableCensus:
            ends.kill()
            ends.wait()
            return read(pid)

        monkeypatch.setattr(several, "take_census", and_end)
        assert main(["inspect", str(ends.pid), str(stays.pid), "--json"]) == 0
        out, err = capsys.readouterr()
        assert [row["pid"] for row in json.loads(out)] == [stays.pid]
        assert "1 process left out: it does not exist, or it ended while it was read" in err
        assert main(["inspect", str(stays.pid), "4194304"]) == 2
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize("hierarchy", ["", "unified", "memory"])
def test_cgroups_of_both_versions(hierarchy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of a cgroup and of those below it, in version 2 and in hierarchies of version 1."""
    monkeypatch.setattr(several, "CGROUPS", tmp_path)
    for name, pids in (("a.slice", "12\n7\n0\n"), ("a.slice/b.service", "9\n")):
        (tmp_path / hierarchy / name).mkdir(parents=True)
        (tmp_path / hierarchy / name / "cgroup.procs").write_text(pids)
    assert several.cgroup_pids("a.slice") == several.cgroup_pids(f"{tmp_path}/a.slice/") == [7, 9, 12]
    with pytest.raises(UserError, match=r"--cgroup b\.slice: no cgroup "):
        several.cgroup_pids("b.slice")
