"""What writes in slots whose empty tables were freed bring to RES: huge pages where the process may have them.

The first write in a slot without a table brings a huge page if the slot is wholly in one VMA that allows it; in an
empty table it brings one page (Linux 6.18, __handle_mm_fault). docs/method.md, section 8, has all rules.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sweep.process.advice import Fact, Footprint
from sweep.process.proc import Mapping, SmapsEntry, has_thp_disabled, read_smaps, read_thp_setting
from sweep.process.table_census import TableCensus


@dataclass(frozen=True, slots=True)
class HugePageVmas:
    """The VMAs of a process that allow huge pages, as (start, end) in bytes.

    `setting`: the system's, always, madvise or never. `is_disabled`: PR_SET_THP_DISABLE, which overrides it.
    """

    setting: str
    is_disabled: bool
    ranges: frozenset[tuple[int, int]]

    def allow(self, mapping: Mapping) -> bool:
        return mapping.is_anonymous and (mapping.start, mapping.end) in self.ranges


def read_huge_page_vmas(pid: int, setting: str | None = None) -> HugePageVmas:
    """Read which VMAs of a process allow huge pages. Raises UserError if it cannot be read.

    setting: the one to assume for the system; None: its own
    """
    assumed, is_disabled = setting or read_thp_setting(), has_thp_disabled(pid)
    if is_disabled or assumed == "never":
        return HugePageVmas(assumed, is_disabled, frozenset())
    chosen = _allowing(read_smaps(pid), assumed, is_own=setting is None)
    return HugePageVmas(assumed, is_disabled, frozenset((entry.start, entry.end) for entry in chosen))


def _allowing(entries: list[SmapsEntry], setting: str, *, is_own: bool) -> Iterator[SmapsEntry]:
    """Yield the VMAs that allow huge pages under `setting`.

    is_own: the setting is the system's, so the kernel's THPeligible must agree
    """
    for entry in entries:
        is_allowed = "hg" in entry.flags or (setting == "always" and "nh" not in entry.flags)
        if is_allowed and (entry.thp_eligible or not is_own):
            yield entry


def refill_bytes(census: TableCensus, vmas: HugePageVmas) -> tuple[int, int]:
    """Return the least and most RES, in bytes, that one write to each slot of a freed empty table brings.

    Which slots these are is unknown. For the least, as many as possible are where no huge page is allowed.
    """
    least, most = census.empty
    allowed = sum(vma.whole_without_entry for vma in census.vmas if vmas.allow(vma.mapping))
    elsewhere = census.slots_without_entry - allowed
    return _res(census, least, max(0, least - elsewhere)), _res(census, most, min(most, allowed))


@dataclass(frozen=True, slots=True)
class AddedRes:
    """Least and most RES, in bytes, that reclaim adds: writes in slots with an empty table bring a page in any case.

    `setting`: the system's setting of huge pages that is assumed.
    """

    setting: str
    least: int
    most: int
    source: str

    @property
    def fact(self) -> Fact:
        what = f"thp {self.setting}: RES that writes to the freed slots add"
        return Fact("bounds", what, self.least, self.most, "bytes", self.source)


def added_res_of_process(census: TableCensus, vmas: HugePageVmas) -> AddedRes:
    kept = [tables * census.arch.page_bytes for tables in census.empty]
    least, most = (after - before for after, before in zip(refill_bytes(census, vmas), kept, strict=True))
    return AddedRes(vmas.setting, least, most, "process: VmPTE, page map and smaps")


def added_res_of_sizes(footprint: Footprint, setting: str) -> AddedRes:
    """At most a huge page for each empty table, and no more RES than VIRT."""
    per_slot = footprint.arch.span_bytes - footprint.arch.page_bytes
    most = 0 if setting == "never" else min(footprint.empty[1] * per_slot, footprint.virt - footprint.res)
    return AddedRes(setting, 0, most, "engine: arithmetic on VIRT, RES and VmPTE")


def _res(census: TableCensus, slots: int, huge: int) -> int:
    return huge * census.arch.span_bytes + (slots - huge) * census.arch.page_bytes
