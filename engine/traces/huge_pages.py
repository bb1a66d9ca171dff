"""Which mappings of a process may have transparent huge pages (thp_vma_allowable_order, Linux 6.18)."""

from dataclasses import dataclass

from engine.traces.geometry import X86
from engine.traces.vmas import ANONYMOUS, Vma

SETTINGS = ("madvise", "always", "never")
"""/sys/kernel/mm/transparent_hugepage/enabled"""


@dataclass(slots=True)
class HugePages:
    """The setting of the system, and what the process chose with prctl(PR_SET_THP_DISABLE).

    slot: bytes of a huge page
    disabled: `` (not), `all`, or `unadvised` (PR_THP_DISABLE_EXCEPT_ADVISED: all but mappings under MADV_HUGEPAGE)
    """

    setting: str = "madvise"
    disabled: str = ""
    slot: int = X86.slot

    def allows_fault(self, vma: Vma) -> bool:
        """Whether a page fault may bring a huge page."""
        if vma.backing > ANONYMOUS or vma.advice == "nohugepage" or self.disabled == "all":
            return False
        if vma.advice == "hugepage":
            return self.setting != "never"
        return self.setting == "always" and not self.disabled

    def allows_collapse(self, vma: Vma) -> bool:
        """Whether MADV_COLLAPSE may make huge pages. It disregards the setting of the system."""
        if vma.backing > ANONYMOUS or vma.advice == "nohugepage" or self.disabled == "all":
            return False
        has_whole_slot = -(-vma.start // self.slot) < vma.end // self.slot
        return bool(vma.anon) and has_whole_slot
