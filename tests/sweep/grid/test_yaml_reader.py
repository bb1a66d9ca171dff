"""YAML text to nodes: positions are right, traps of YAML 1.1 are refused, and hostile text ends soon."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.common.errors import UserError
from sweep.grid import yaml_reader
from sweep.grid.yaml_nodes import Mapping, Node, Scalar, Sequence
from sweep.grid.yaml_reader import MAX_BYTES, parse_yaml
from tests.support.grid_fuzzing import limited


def plain(node: Node) -> object:
    """The nodes as dicts, lists and texts."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.entries.items()}
    return [plain(item) for item in node.items] if isinstance(node, Sequence) else node.text


def refused(text: str) -> str:
    with pytest.raises(UserError) as error:
        parse_yaml(text, "g.yaml")
    return str(error.value)


def test_scalars_stay_text_with_their_position() -> None:
    """A scalar has its text, whether it was quoted, and line and column from 1."""
    tree = parse_yaml("a: 64KiB\nb:\n  - '1'\n  - 0.50\n", "g.yaml")
    assert plain(tree) == {"a": "64KiB", "b": ["1", "0.50"]}
    assert isinstance(tree, Mapping)
    b = tree.entries["b"]
    assert isinstance(b, Sequence)
    first, second = b.items
    assert isinstance(first, Scalar)
    assert isinstance(second, Scalar)
    assert (first.quoted, second.quoted) == (True, False)
    assert (str(first.position), str(second.position), str(tree.key_positions["b"])) == (
        "g.yaml:3:5",
        "g.yaml:4:5",
        "g.yaml:2:1",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: no", "g.yaml:1:4: a: no: YAML makes it false; write 'no' in quotes if the word is meant"),
        ("a: [1, on]", "g.yaml:1:8: a[1]: on: YAML makes it true; write 'on' in quotes if the word is meant"),
        ("a: y", "g.yaml:1:4: a: y: YAML makes it true; write 'y' in quotes if the word is meant"),
        ("a: 1:30", "g.yaml:1:4: a: 1:30: YAML 1.1 makes it 90; write 90, or '1:30' in quotes if text is meant"),
        ("a: 017", "g.yaml:1:4: a: 017: YAML 1.1 makes it 15; write 15, or 17"),
        ("a: 08", "g.yaml:1:4: a: 08: YAML 1.1 makes it text, not a number; write 8"),
        ("a: 1e3", "g.yaml:1:4: a: 1e3: YAML 1.1 makes it text, not a number; write 1000"),
        ("a: 1.0e+3", "g.yaml:1:4: a: 1.0e+3: YAML 1.1 makes it 1000.0; write 1000"),
        ("a: 0x10", "g.yaml:1:4: a: 0x10: YAML 1.1 makes it 16; write 16"),
        ("a: 1_000", "g.yaml:1:4: a: 1_000: YAML 1.1 makes it 1000; write 1000"),
        ("a: .inf", "g.yaml:1:4: a: .inf: YAML makes it inf; no field takes it"),
        ("a: .NaN", "g.yaml:1:4: a: .NaN: YAML makes it nan; no field takes it"),
        ("a: ~", "g.yaml:1:4: a: ~: YAML makes it null; write a value"),
        ("a:\nb: 1", "g.yaml:1:3: a: no value (YAML makes it null); write one"),
        ("{a:1}", "g.yaml:1:5: a:1: no value (YAML makes it null); write one (a colon needs a space after it: a: 1)"),
        ("a: 2024-01-01", "g.yaml:1:4: a: 2024-01-01: YAML makes it a date; write '2024-01-01' in quotes"),
        ("on: 1", "g.yaml:1:1: key on: YAML makes it true; write 'on' in quotes if the word is meant"),
        ("a: &x 1", "g.yaml:1:4: a: anchor &x is not allowed; write the value out"),
        ("a: *x", "g.yaml:1:4: a: alias *x is not allowed; write the value out"),
        ("<<: {a: b}", "g.yaml:1:1: merge key << is not allowed; write the values out"),
        ("a: !!int '1'", "g.yaml:1:4: a: tag tag:yaml.org,2002:int is not allowed; the field says what a value is"),
        ("%YAML 1.1\n---\na: 1", "g.yaml:1:1: a % directive is not allowed"),
        ("--- a\n--- b", "g.yaml:2:1: a second document; a file holds one"),
        ("a: 1\nb: 2\na: 3", "g.yaml:3:1: key 'a' is given twice, first at line 1"),
        ("? [a]\n: b", "g.yaml:1:3: a key must be one word, not a list or mapping"),
        ("a: \x07", "g.yaml:1:4: character U+0007 is not allowed"),
        ('a: "\\e[31m"', "g.yaml:1:4: a: character U+001B is not allowed"),
        ("a: b\n# \u202e", "g.yaml:2:3: character U+202E is not allowed"),
        ("a: [1, 2\nb: 3", "g.yaml:2:2: a[2]: expected ',' or ']', but got ':'"),
        ("a:\n\t- b", "g.yaml:2:1: a: found character '\\t' that cannot start any token"),
        ("", "g.yaml: is empty"),
        ("[" * 21, "g.yaml:1:21: " + "[0]" * 20 + ": nested deeper than 20"),
        ("x" * (MAX_BYTES + 1), "g.yaml: longer than 1048576 bytes"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    """YAML's traps and features that no grid needs are refused in one line with the position."""
    assert refused(text) == message


def test_number_of_values_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists, mappings and scalars count towards the limit."""
    monkeypatch.setattr(yaml_reader, "MAX_NODES", 5)
    assert plain(parse_yaml("[a, a, a, a]", "g.yaml")) == ["a"] * 4
    assert refused("[a, a, a, a, a]") == "g.yaml:1:14: [4]: more than 5 values"


@pytest.mark.parametrize(
    "word", ["12", "0.5", "-3", "0.001", "64KiB", "x86-64", "zap < cluster", "'no'", '"1:30"', "'~'"]
)
def test_plain_forms_pass(word: str) -> None:
    """Plain decimals, words, and anything in quotes are accepted as their text."""
    assert plain(parse_yaml(f"a: {word}", "g.yaml")) == {"a": word.strip("'\"")}


@given(st.text(alphabet="abn0179 :,-[]{}\n'\"#&*!|>%~.e_\t", max_size=40))
@settings(max_examples=300)
def test_agrees_with_pyyaml_or_refuses(text: str) -> None:
    """Any text gives one line of error, or the tree that PyYAML reads with all scalars as text."""
    try:
        tree = parse_yaml(text, "g.yaml")
    except UserError as error:
        lines = str(error).splitlines()
    else:
        lines = [""]
        assert plain(tree) == yaml.load(text, Loader=yaml.BaseLoader)
    assert len(lines) == 1


@pytest.mark.parametrize(
    "text", ["[" * 500_000, "a: " + "{a: " * 100_000, "- " * 300_000, "'" * 999_999, "x: " * 200_000]
)
def test_hostile_text_ends_soon(text: str) -> None:
    """Deep and long texts are refused without deep recursion and without long work."""
    with limited():
        refused(text)
