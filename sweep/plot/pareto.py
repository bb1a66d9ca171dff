"""Cost added against memory saved: a point for each policy, and the front that no other policy beats in both."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sweep.plot.colours import SHAPES, colours_of, policy_order
from sweep.plot.scales import number_text
from sweep.plot.vega_lite import CONFIG, SCHEMA, Spec

COST, SAVED = "added_percent", "saved_percent"
_FRONT = "#868e96"


class Choice(NamedTuple):
    """A policy, or several with the same figures: per cent of cost added, and of page tables saved."""

    policy: str
    cost: float
    saved: float


def front(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that no other beats: none that costs as little saves more. Ordered by cost."""
    best: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.cost, -c.saved, policy_order(c.policy))):
        if not best or choice.saved > best[-1].saved:
            best.append(choice)
    return best


def merge_equal(choices: Sequence[Choice], leader: str) -> list[tuple[str, str, Choice]]:
    """(names, leader, choice): policies with the same two figures as one. The leader gives its colour."""
    groups: dict[tuple[str, str], list[Choice]] = {}
    for choice in sorted(choices, key=lambda c: policy_order(c.policy)):
        groups.setdefault((f"{choice.cost:.9g}", f"{choice.saved:.9g}"), []).append(choice)
    named = [[choice.policy for choice in group] for group in groups.values()]
    return [
        (", ".join(names), leader if leader in names else names[-1], group[0])
        for names, group in zip(named, groups.values(), strict=True)
    ]


def panel(whole: Sequence[tuple[str, str, Choice]], parts: Sequence[Choice], height: int = 340) -> Spec:
    """The picture of the policies over a whole run (merge_equal), and, small, of each at each value of an axis."""
    names, leaders = [name for name, _, _ in whole], [leader for _, leader, _ in whole]
    label_of = {policy: name for name in names for policy in name.split(", ")}
    by: Spec = {"field": "by", "type": "nominal", "legend": None}
    picked = {"condition": {"test": "!picked || datum.by == picked", "value": 1}, "value": 0.1}
    encoding = {
        "color": by | {"scale": {"domain": names, "range": colours_of(leaders, are_policies=True)}},
        "shape": by | {"scale": {"domain": names, "range": shapes_of(names)}},
        "tooltip": [{"field": field, "type": "nominal", "title": title} for field, title in _TOOLTIP],
        "opacity": picked,
    }
    points = [_values(name, choice) for name, _, choice in whole]
    small = [_values(label_of[choice.policy], choice) for choice in parts]
    steps = [{"x": choice.cost, "y": choice.saved} for choice in front([choice for _, _, choice in whole])]
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "params": [{"name": "picked", "value": None}],
        "encoding": {
            "x": _axis("x", "cost added, % of the cost without reclaim"),
            "y": _axis("y", "page tables given back, %"),
        },
        "layer": [
            {
                "data": {"values": steps},
                "mark": {"type": "line", "interpolate": "step-after", "color": _FRONT, "strokeDash": [5, 4]},
            },
            {
                "data": {"values": small},
                "mark": {"type": "point", "filled": True, "size": 28, "fillOpacity": 0.45},
                "encoding": encoding,
            },
            {"data": {"values": points}, "mark": {"type": "point", "filled": True, "size": 190}, "encoding": encoding},
        ],
        "config": CONFIG,
    }


def shapes_of(names: Sequence[str]) -> list[str]:
    return [SHAPES[i % len(SHAPES)] for i in range(len(names))]


_TOOLTIP = (("by", "policy"), ("x_text", "cost added"), ("y_text", "given back"))


def _axis(field: str, title: str) -> Spec:
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"zero": True, "nice": False, "padding": 14},
        "axis": {"grid": True, "tickCount": 6},
    }


def _values(name: str, choice: Choice) -> dict[str, Any]:
    texts = {"x_text": f"{number_text(choice.cost)} %", "y_text": f"{number_text(choice.saved)} %"}
    return {"by": name, "x": choice.cost, "y": choice.saved, **texts}
