"""PMD and PUD tables under munmap."""

from typing import Any

from engine.numeric.jit import inner


@inner
def upper_of_munmap(per: Any, peak: Any, end: Any, touched: Any, mapped: Any) -> None:
    """One PMD or PUD table under munmap: there once touched, gone when nothing under it is mapped. Resets the flags."""
    there = False
    for r in range(touched.size):
        there = there or touched[r]
        per[r, peak] += there
        there = there and mapped[r]
        per[r, end] += there
        touched[r] = False
        mapped[r] = False
