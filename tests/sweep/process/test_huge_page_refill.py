"""Which slots have huge pages, and what RES grows by when freed slots are written."""

import json
import sys

import pytest

from sweep.cli.main import main
from sweep.process import table_census
from sweep.process.huge_page_refill import HugePageVmas, read_huge_page_vmas, refill_bytes
from sweep.process.proc import SmapsEntry, parse_smaps, read_sizes, read_thp_setting
from tests.support.mapper import BASE, HALF_EMPTY, SLOT, mapper

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")

HUGE_SLOTS = """
MADV_HUGEPAGE, MADV_NOHUGEPAGE = 14, 15
libc.madvise(BASE, 32 * SLOT, MADV_HUGEPAGE)
libc.madvise(BASE + 32 * SLOT, 32 * SLOT, MADV_NOHUGEPAGE)
for slot in (0, 1, 2, 32, 33):
    write(slot * SLOT)
libc.madvise(BASE + 2 * SLOT, 4096, 4)
for slot in range(8, 24):
    write(slot * SLOT)
    libc.madvise(BASE + slot * SLOT, SLOT // 2, 4)
    libc.madvise(BASE + slot * SLOT + SLOT // 2, SLOT // 2, 4)
EMPTIED = list(range(8, 24))
"""


def test_slots_with_huge_pages(capsys: pytest.CaptureFixture[str]) -> None:
    """Slots are none, table or huge; writes in 16 freed slots bring as much RES as inspect says."""
    if read_thp_setting() == "never":
        pytest.skip("/sys/kernel/mm/transparent_hugepage/enabled is never, or missing")
    refill = "\n    for slot in EMPTIED: write(slot * SLOT)\n    print(1, flush=True)"
    with mapper(HUGE_SLOTS, size=64 * SLOT, then=refill) as process:
        assert main(["inspect", str(process.pid), "--json"]) == 0
        tables = json.loads(capsys.readouterr().out)
        vmas = {int(vma["start"], 16): vma for vma in tables["thp"]}
        advised, other = vmas[BASE], vmas[BASE + 32 * SLOT]
        if not advised["slots_huge"]:
            pytest.skip("the kernel gave no huge page: PR_SET_THP_DISABLE is set, or memory is fragmented")
        kinds = "slots_none", "slots_table", "slots_huge", "thp_allowed"
        assert [advised[kind] for kind in kinds] == [29, 1, 2, True]
        assert [other[kind] for kind in kinds] == [30, 2, 0, False]
        empty, refilled = (
            next(row for row in tables["summary"] if row["what"] == what)
            for what in ("PTE tables without", "once freed, RES of a write in each")
        )
        assert main(["advise", "--pid", str(process.pid), "--thp", "madvise", "--json"]) == 0
        facts = {fact["what"]: fact for fact in json.loads(capsys.readouterr().out)["facts"]}
        added = facts["thp madvise: RES that writes to the freed slots add"]
        assert added["most"] >> 10 == refilled["at_most"] - 4 * empty["at_most"] >= 16 * (2048 - 4)
        before = read_sizes(process.pid).vm_rss_kib
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        vm_pte_kib, _ = int(process.stdout.readline()), process.stdout.readline()
        if vm_pte_kib == tables["summary"][2]["at_most"]:
            pytest.skip("this kernel has no PT_RECLAIM: the tables stay, and writes bring pages")
        grown = read_sizes(process.pid).vm_rss_kib - before
        assert grown == pytest.approx(16 * SLOT >> 10, abs=1024)
        assert refilled["at_least"] <= grown + 1024
        assert grown <= refilled["at_most"] + 1024 <= (empty["at_most"] * SLOT >> 10) + 1024


def test_where_writes_bring_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """hg and nh of VmFlags, THPeligible and PR_SET_THP_DISABLE decide with the system's setting."""
    entries = [
        SmapsEntry(start, start + 1, frozenset(flags.split()), eligible)
        for start, (flags, eligible) in enumerate((("rd", True), ("hg", True), ("nh", True), ("hg", False)))
    ]
    module = "sweep.process.huge_page_refill."
    monkeypatch.setattr(module + "read_smaps", lambda pid: entries)
    monkeypatch.setattr(module + "read_thp_setting", lambda: "always")
    monkeypatch.setattr(module + "has_thp_disabled", lambda pid: False)

    def allowed(setting: str | None) -> list[int]:
        return sorted(start for start, _ in read_huge_page_vmas(1, setting).ranges)

    assert [allowed(setting) for setting in (None, "always", "madvise", "never")] == [[0, 1], [0, 1, 3], [1, 3], []]
    monkeypatch.setattr(module + "has_thp_disabled", lambda pid: True)
    assert allowed("always") == []


def test_smaps_of_any_kernel() -> None:
    """Names with capitals and colons are no fields; a kernel without THPeligible leaves it to the flags."""
    lines = ["10000-20000 rw-p 0 0:0 0    /a VmFlags: hg", "Size: 64 kB", "VmFlags: rd wr hg"]
    lines += ["ab000-ac000 rw-p 0 0:0 0", "THPeligible:    0", "VmFlags: rd"]
    first, second = parse_smaps(lines)
    assert first == SmapsEntry(0x10000, 0x20000, frozenset({"rd", "wr", "hg"}), True)
    assert second == SmapsEntry(0xAB000, 0xAC000, frozenset({"rd"}), False)


def test_refill_bounds() -> None:
    """Without huge pages each empty table's slot brings a page; where all VMAs allow them the most is a slot each."""
    with mapper(HALF_EMPTY) as process:
        census = table_census.take_census(process.pid)
    least, most = census.empty
    everywhere = frozenset((vma.mapping.start, vma.mapping.end) for vma in census.vmas)
    assert refill_bytes(census, HugePageVmas("never", False, frozenset())) == (least << 12, most << 12)
    assert refill_bytes(census, HugePageVmas("always", False, everywhere))[1] == most * SLOT
