"""The command policy: a list, and rules as YAML that a grid takes."""

import json
from pathlib import Path

import pytest

from engine.model.policy import ALL, POLICIES, Policy
from sweep.cli.main import main
from sweep.grid.loader import parse_grid

HEAD = "schema: sweep/1\nname: g\nfixed: {virt: 1GiB, sparsity: 0.9}\n"
OWN = HEAD + "policies: [none, {name: 'own_{least}', like: merged, least: [4KiB, slot], otherwise: rest}]\n"


def out(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    """ls has each policy with its sentence and its source, in 80 columns."""
    lines = out(capsys, "policy", "ls").splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(POLICIES)
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for policy in ALL:
        assert f"{policy.name} {policy.rule} {policy.source}" in text


@pytest.mark.parametrize("policy", ALL, ids=POLICIES)
def test_shown_rules_can_be_pasted(capsys: pytest.CaptureFixture[str], policy: Policy) -> None:
    """What show prints is an item of the list `policies:`, also under another name."""
    printed = out(capsys, "policy", "show", policy.name)
    assert parse_grid(f"{HEAD}policies:\n{printed}", "g.yaml").policies == (policy,)
    renamed = printed.replace(f"- name: {policy.name}", "- name: own")
    (own,) = parse_grid(f"{HEAD}policies:\n{renamed}", "g.yaml").policies
    assert own.effective == policy.effective
    assert max(map(len, printed.splitlines())) <= 80


def test_rules_of_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--grid adds the rules of a grid; JSON has the columns of the view `policies`."""
    path = tmp_path / "g.yaml"
    path.write_text(OWN)
    assert "own_slot  as merged, with otherwise: rest\n" in out(capsys, "policy", "ls", "--grid", str(path))
    printed = out(capsys, "policy", "show", "own_4KiB", "--grid", str(path))
    assert parse_grid(f"{HEAD}policies:\n{printed}", "g.yaml").policies[0].effective["least"] == 4096
    row = json.loads(out(capsys, "policy", "show", "own_4KiB", "--grid", str(path), "--json"))
    assert (row["like"], row["least"], row["least_bytes"], row["every"]) == ("merged", "4KiB", 4096, None)
    assert [row["policy"] for row in json.loads(out(capsys, "policy", "ls", "--json"))] == list(POLICIES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show",), "policy show: missing argument 'NAME'; sweep policy ls lists the policies"),
        (("show", "mergd"), "unknown policy 'mergd'; did you mean 'merged'? known: "),
        (("ls", "-S", "policies=none"), "policy: -S changes a grid; name it with --grid"),
        (("ls", "merged"), "policy ls: takes no name; sweep policy show merged"),
        (("lst",), "policy: invalid value for 'ls|show': 'lst' is not one of 'ls', 'show'; see sweep policy --help"),
        (("ls", "--grid", "no.yaml"), "no.yaml: no such file; "),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    """Bad input is one line and exit code 2."""
    assert main(["policy", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"sweep: {message}")
    assert printed.err.count("\n") == 1
