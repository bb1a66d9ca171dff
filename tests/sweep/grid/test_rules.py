"""Policies of a grid: names and rules, what identifies them, and messages about rules that cannot be."""

import json

import pytest

from engine.model.policy import ALL, BUILT_IN, POLICIES, Policy
from sweep.common.errors import UserError
from sweep.grid.grid import Grid
from sweep.grid.loader import load_grid, parse_grid
from sweep.grid.point_id import point_ids, run_name
from sweep.grid.rule_text import explain_field, policy_yaml, spelled_fields
from sweep.grid.rules import MAX_POLICIES, read_rules
from tests.paths import DATA, ROOT
from tests.sweep.grid.test_grid_errors import BASE, refused

KNOWN = ", ".join(POLICIES)
FIELDS = "when, least, markers, proof, otherwise, end_break, lock, every"
KIB = 1024


def grid(policies: str) -> Grid:
    return parse_grid(f"{BASE}policies: {policies}\n", "g.yaml")


def rules(text: str) -> dict[str, Policy]:
    return {policy.name: policy for policy in read_rules(text, "r.yaml")}


def test_rules_beside_names() -> None:
    """Rules follow the built-in policies, in the grid's order; `like` may name an earlier rule."""
    own = """
  - {name: small, like: merged, least: 64KiB}
  - merged
  - {name: small_rest, like: small, otherwise: rest}
  - none
  - {name: counted, when: visit, least: 4KiB, markers: look, proof: count, lock: take}
"""
    made = grid(own).policies
    assert [policy.name for policy in made] == ["none", "merged", "small", "small_rest", "counted"]
    merged = BUILT_IN["merged"].effective
    assert made[2].effective == merged | {"least": 64 * KIB}
    assert made[3].effective == merged | {"least": 64 * KIB, "otherwise": "rest"}
    assert made[4].effective == BUILT_IN["refcount"].effective
    assert [(policy.like, policy.rule) for policy in made[2:]] == [
        ("merged", "as merged, with least: 64KiB"),
        ("small", "as small, with otherwise: rest"),
        ("", "when: visit, least: 4KiB, markers: look, proof: count, lock: take"),
    ]


def test_lists_make_one_policy_for_each_combination() -> None:
    """`{field}` in the name stands for the value, spelled as sizes are; the last field varies fastest."""
    made = rules('{name: "r_{least}_{otherwise}", like: merged, least: [4KiB, 0.5MiB, slot], otherwise: [rest, keep]}')
    assert list(made) == [f"r_{least}_{o}" for least in ("4KiB", "512KiB", "slot") for o in ("rest", "keep")]
    assert made["r_512KiB_keep"].effective["least"] == 512 * KIB
    assert made["r_slot_rest"].effective["least"] == "slot"
    one = rules('{name: "every_{every}", like: async, every: 3}')
    assert one["every_3"].effective == {"when": "round", "proof": "scan", "every": 3}


@pytest.mark.parametrize("policy", ALL, ids=POLICIES)
def test_printed_rules_can_be_read(policy: Policy) -> None:
    """A built-in policy as YAML is that policy in a grid; under another name it has the same fields."""
    text = policy_yaml(policy)
    assert read_rules(text, "r.yaml") == (policy,)
    assert parse_grid(f"{BASE}policies:\n{text}", "g.yaml").policies == (policy,)
    (renamed,) = read_rules(text.replace(f"name: {policy.name}", "name: mine"), "r.yaml")
    assert (renamed.name, renamed.effective) == ("mine", policy.effective)
    assert max(map(len, text.splitlines())) <= 80


def test_every_field_is_explained() -> None:
    """Each value of each field of the policies has words."""
    for policy in ALL:
        assert all(explain_field(field, value) for field, value in policy.effective.items())
        assert list(spelled_fields(policy)) == list(policy.effective)


def test_built_in_policies_identify_runs_as_before() -> None:
    """Grids without rules of their own have the content, and so the names of their runs, that they had before."""
    assert load_grid(ROOT / "grids" / "first.yaml").content()["policies"] == list(POLICIES)
    for path in (DATA / "old_store").glob("*/run.json"):
        stored = json.loads(path.read_text())["grid"]
        again = parse_grid(stored["text"], "g.yaml")
        assert json.loads(json.dumps(again.content()))["policies"] == stored["content"]["policies"]
    assert run_name(grid("[merged, none]")) == run_name(grid("[none, merged]"))
    assert run_name(grid(f"[{KNOWN}]")) == run_name(parse_grid(BASE, "g.yaml"))


def test_rules_identify_runs() -> None:
    """A run's name depends on what a rule does and on its name, not on how it is written."""
    small = run_name(grid("[none, {name: small, like: merged, least: 64KiB}]"))
    for same in (
        "[{name: small, least: 65536B, like: merged}, none]",
        "[none, {name: small, like: seed_inline, otherwise: scan, end_break: drop, least: 64K}]",
        "[none, {name: small, when: visit, least: 64KiB, markers: skip, proof: held, otherwise: scan, end_break: drop,"
        " lock: try}]",
    ):
        assert run_name(grid(same)) == small
    for other in (
        "[none, {name: small, like: merged, least: 128KiB}]",
        "[none, {name: smaller, like: merged, least: 64KiB}]",
        "[none, {name: small, like: merged, least: 64KiB, lock: take}]",
        "[none]",
    ):
        assert run_name(grid(other)) != small


def test_point_ids_do_not_depend_on_policies() -> None:
    """A point is a scenario: grids with other policies share it."""
    one, other = grid("none"), grid("[none, {name: small, like: merged, least: 64KiB}]")
    ids = [point_ids(next(made.chunks()).columns).tolist() for made in (one, other)]
    assert ids[0] == ids[1]


BAD = [
    (
        "[none, {name: x, leest: 4KiB}]",
        f"4:28: policies[1]: unknown key 'leest'; did you mean 'least'? known: name, like, {FIELDS}",
    ),
    (
        "[{name: x, like: mergd}]",
        f"4:28: policies[0].like: unknown policy 'mergd'; did you mean 'merged'? known: {KNOWN}",
    ),
    ("[{name: a, like: merged}, {name: b, like: c}]", f"4:53: policies[1].like: unknown policy 'c'; known: {KNOWN}, a"),
    ("[{like: merged}]", "4:12: policies[0]: key 'name' is required"),
    ("[{name: x}]", "4:12: policies[0]: a rule without `like` gives each field that has an effect; when is missing"),
    (
        "[{name: x, when: round}]",
        "4:12: policies[0]: a rule without `like` gives each field that has an effect; proof, every are missing",
    ),
    (
        "[{name: merged, like: merged, least: 4KiB}]",
        "4:19: policies[0].name: merged is built in and has other fields; choose another name",
    ),
    ("[{name: x, like: none}, {name: x, like: merged}]", "4:42: policies[1]: x is listed twice"),
    ("[{name: x, like: none}, x]", "4:35: policies[1]: x is listed twice"),
    (
        "[{name: x, like: none}, {name: X, like: merged}]",
        "4:42: policies[1]: X differs from x in its case only; SQL takes both for one",
    ),
    (
        "[{name: Merged, like: merged}]",
        "4:19: policies[0]: Merged differs from merged in its case only; SQL takes both for one",
    ),
    (
        "[{name: 'a b', like: none}]",
        "4:19: policies[0].name: 'a b' is not a name: a letter, then up to 39 letters, digits and _",
    ),
    ("[{name: zap, like: none}]", "4:19: policies[0].name: 'zap' is a column of the results; choose another name"),
    (
        "[{name: possible, like: none}]",
        "4:19: policies[0].name: 'possible' is a column of the results; choose another name",
    ),
    (
        "[{name: x, like: merged, least: [4KiB, 8KiB]}]",
        "4:19: policies[0].name: the 2 values of `least` make policies of one name; put {least} into the name",
    ),
    ("[{name: x, like: merged, least: [4KiB, 4096B]}]", "4:50: policies[0].least[1]: 4KiB is listed twice"),
    (
        "[{name: x, like: merged, least: []}]",
        "4:43: policies[0].least: an empty list; give one value or more, or leave the key out",
    ),
    (
        "[{name: 'x_{lest}', like: merged, least: [4KiB, 8KiB]}]",
        f"4:19: policies[0].name: unknown field 'lest'; did you mean 'least'? known: {FIELDS}",
    ),
    (
        "[{name: 'x_{every}', like: merged}]",
        "4:19: policies[0].name: {every}: `every` has no effect in x_1",
    ),
    (
        "[{name: x, like: merged, when: call}]",
        "4:12: policies[0]: x: proof: `held` needs the zap's own lock, so it goes with `when: visit`, not call",
    ),
    ("[{name: x, like: merged, every: 3}]", "4:43: policies[0].every: has no effect with when: visit"),
    ("[{name: x, like: second_walk, lock: try}]", "4:47: policies[0].lock: has no effect with when: call"),
    (
        "[{name: 'x_{proof}_{otherwise}', like: merged, proof: [held, scan], otherwise: [scan, rest]}]",
        "4:91: policies[0].otherwise[0]: has no effect with proof: scan (in the policy x_scan_scan)",
    ),
    (
        "[{name: x, like: merged, otherwise: kep}]",
        "4:47: policies[0].otherwise: unknown otherwise 'kep'; did you mean 'keep'? known: scan, rest, outside, keep",
    ),
    (
        "[{name: x, like: merged, least: solt}]",
        "4:43: policies[0].least: 'solt' is neither a size nor `slot`; did you mean 'slot'?",
    ),
    ("[{name: x, like: merged, least: 64}]", "4:43: policies[0].least: '64' has no unit; write 64KiB, 64MiB or 64GiB"),
    (
        "[{name: x, like: merged, least: 0B}]",
        "4:43: policies[0].least: '0B': must be a size from 1B to the largest slot, 512MiB (arm64-64k), or `slot`",
    ),
    (
        "[{name: x, like: merged, least: 1GiB}]",
        "4:43: policies[0].least: '1GiB': must be a size from 1B to the largest slot, 512MiB (arm64-64k), or `slot`",
    ),
    ("[{name: x, like: async, every: 0}]", "4:42: policies[0].every: 0: must be from 1 to 1000000"),
    ("[{name: x, like: merged, least: {pow2: 1}}]", "4:43: policies[0].least: must be a single value"),
    ("[{name: [x], like: merged}]", "4:19: policies[0].name: must be a single value"),
    ("[[none]]", "4:12: policies[0]: must be a policy's name, or a rule {name: ..., like: ...}"),
    ("[]", "4:11: policies: an empty list; leave the key out for all policies"),
    ("{name: x, lik: merged}", f"4:21: policies: unknown key 'lik'; did you mean 'like'? known: name, like, {FIELDS}"),
]


@pytest.mark.parametrize(("policies", "message"), BAD)
def test_bad_rules(policies: str, message: str) -> None:
    """Every bad rule is refused with this message, at this line and column."""
    assert refused(f"{BASE}policies: {policies}\n") == f"g.yaml:{message}"


def test_a_bad_rule_on_the_command_line() -> None:
    """-S takes rules too, and its errors name the option."""
    message = "-S policies: [0].least: '64' has no unit; write 64KiB, 64MiB or 64GiB"
    assert refused(BASE, "policies=[{name: x, like: merged, least: 64}]") == message


def test_limits() -> None:
    """Too many policies, or rows, are refused before anything is built."""
    sizes = ", ".join(f"{n}KiB" for n in range(1, MAX_POLICIES + 2))
    many = f'{{name: "l_{{least}}", like: merged, least: [{sizes}]}}'
    assert refused(f"{BASE}policies: {many}") == f"g.yaml:4:11: policies: more than {MAX_POLICIES:,} policies"
    fields = "otherwise: [scan, rest, outside, keep], markers: [skip, look], lock: [try, take]"
    each = f"{{name: 'l_{{least}}_{{otherwise}}_{{markers}}_{{lock}}', like: merged, least: [{sizes}], {fields}}}"
    assert "more than 1,000 policies" in refused(f"{BASE}policies: {each}")
    text = f"{BASE}policies: {{name: 'l_{{least}}', like: merged, least: [{sizes.partition(', 901KiB')[0]}]}}\n"
    rows = "g.yaml: 120,000 points under 900 policies are 108,000,000 rows; at most 100,000,000"
    assert refused(text + "repeats: 120000") == rows


def test_rules_of_a_file_name_their_place() -> None:
    """A file holds a rule or a list; errors have line and column."""
    assert rules("name: x\nlike: merged\nleast: 4KiB\n")["x"].effective["least"] == 4 * KIB
    with pytest.raises(UserError, match=r"^r.yaml:2:9: \[0\].like: unknown policy 'z'; known: "):
        read_rules("- name: x\n  like: z\n", "r.yaml")
    with pytest.raises(UserError, match=r"r\.yaml: is empty"):
        read_rules("", "r.yaml")
