"""Colours of series: one fixed colour for each built-in policy.

The palette is that of Okabe and Ito (Color Universal Design, 2008), which people with any kind of colour vision can
tell apart, without black and yellow, which vanish on a dark and on a light page; grey stands for `none`.
"""

from collections.abc import Sequence

from engine.model.policy import POLICIES

OF_POLICY = {
    "none": "#868e96",
    "refcount": "#cc79a7",
    "async": "#56b4e9",
    "second_walk": "#e69f00",
    "seed_inline": "#009e73",
    "merged": "#0072b2",
    "munmap": "#d55e00",
}
OTHERS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#868e96")
"""For series that are no policies, in this order."""
OWN_RULES = ("#6a3d9a", "#8c6d31", "#17a2a2", "#b3365b", "#5b8c2a", "#3d4fb3", "#a05195")
"""For policies of a grid's own: other hues than those of the built-in ones."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
"""Marks differ in shape too, for print without colour."""


def colours_of(names: Sequence[str], are_policies: bool) -> list[str]:
    """A colour for each series. Beyond a palette's end colours repeat."""
    if not are_policies:
        return [OTHERS[i % len(OTHERS)] for i in range(len(names))]
    own = [name for name in names if name not in OF_POLICY]
    return [OF_POLICY.get(name) or OWN_RULES[own.index(name) % len(OWN_RULES)] for name in names]


def policy_order(name: str) -> tuple[int, str]:
    """Sort key: built-in policies in the order of their proposal, then own rules by name."""
    return (POLICIES.index(name) if name in POLICIES else len(POLICIES), name)
