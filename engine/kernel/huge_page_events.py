"""What a kernel did with huge pages, from /proc/vmstat, and points that its own work on huge pages disturbed.

The model has neither faults that find no free memory of 2 MiB, nor khugepaged, nor the shrinker that splits huge pages
with many zero pages (docs/method.md, section 8).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from engine.kernel.feasibility import RefusedError
from engine.kernel.outcome import Observation, huge_page_columns
from engine.kernel.script import Script

TRIES = 3


class HugePageEvents(NamedTuple):
    """Counters of /proc/vmstat since boot, by their names there without `thp_`; 0 where a kernel lacks one."""

    fault_alloc: int
    split_pmd: int
    fault_fallback: int
    collapse_alloc: int
    underused_split_page: int  #: Linux 6.12

    @property
    def disturbances(self) -> tuple[int, int, int]:
        """Numbers of faults that got no huge page, of collapses, and of splits by the shrinker."""
        return self.fault_fallback, self.collapse_alloc, self.underused_split_page


def parse_events(vmstat: str) -> HugePageEvents:
    """The counters in the text of a file /proc/vmstat."""
    counts = dict(line.split() for line in vmstat.splitlines())
    return HugePageEvents(*(int(counts.get(f"thp_{name}", 0)) for name in HugePageEvents._fields))


def read_events() -> HugePageEvents:
    """Read the counters of the running kernel, which are those of all processes."""
    return parse_events(Path("/proc/vmstat").read_text())


def run_undisturbed(
    point: Script, run: Callable[[], Observation], read: Callable[[], HugePageEvents], counts_point: bool = False
) -> Observation:
    """Run a point with `run`, again if huge pages were disturbed meanwhile. Raises as `run`, and RefusedError.

    counts_point: nothing else runs on that kernel, so that the counters are the point's own
    """
    for _ in range(TRIES):
        before = read()
        observation = run()
        after = read()
        if after.disturbances == before.disturbances:
            break
    else:
        raise RefusedError(
            "not comparable: thp_fault_fallback, thp_collapse_alloc or thp_underused_split_page of /proc/vmstat moved, "
            f"{TRIES} times"
        )
    if not counts_point:
        return observation
    faults, splits = after.fault_alloc - before.fault_alloc, after.split_pmd - before.split_pmd
    return replace(observation, values=observation.values | huge_page_columns(point, observation, faults, splits))
