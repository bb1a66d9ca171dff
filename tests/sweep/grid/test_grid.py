"""Grid files: what the sections mean, and which points they give in which order."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.policy import POLICIES
from engine.model.scenario import ABSENT, FIELD
from sweep.common.errors import UserError
from sweep.grid.grid import Grid
from sweep.grid.loader import load_grid, parse_grid
from sweep.grid.value_formats import canonical_value

HEAD = "schema: sweep/1\nname: a\n"
BASE = HEAD + "fixed: {virt: 1GiB, sparsity: 0.9}\n"

EXAMPLE = """\
schema: sweep/1                       # required
name: first
about: What does each design give back?
policies: [merged, none, second_walk]
fixed:  {virt: 64GiB}
axes:
  sparsity: [0.9, 0.99, 0.999]
  cluster: [4KiB, 64KiB, 2MiB]
  zap:     {pow2: {from: 64KiB, to: 64MiB}}
  threads: [1, 8]
include: [{virt: 55TiB, res: 590GiB, cluster: 2MiB, zap: 2MiB, threads: 1}]
exclude:
  - {threads: 8, zap: 64MiB}
  - where: "zap < cluster"
    because: a call smaller than what was allocated is another question
derive: {resident_pages: "virt * (1 - sparsity) / 4096"}
repeats: 3
seed: 1
"""


def rows(grid: Grid, *names: str, size: int = 7) -> list[tuple[Any, ...]]:
    """The canonical values of the named fields of all points; None for an absent res or sparsity."""
    out: list[tuple[Any, ...]] = []
    for chunk in grid.chunks(size):
        for i in range(len(chunk.repeat)):
            values = [chunk.columns[name][i].item() for name in names]
            absent = [v != v or (n == "res" and v == ABSENT) for n, v in zip(names, values, strict=True)]
            row = [None if a else canonical_value(FIELD[n], v) for n, v, a in zip(names, values, absent, strict=True)]
            out.append(tuple(row))
    return out


def test_a_grid_with_all_sections() -> None:
    """3 x 3 x 11 x 2 combinations and an include row, three repeats each, in the documented order."""
    grid = parse_grid(EXAMPLE, "grids/first.yaml")
    assert grid.raw_points == (3 * 3 * 11 * 2 + 1) * 3 == len(rows(grid, "seed"))
    assert grid.policy_names == ("none", "second_walk", "merged")
    assert grid.varying_columns == ("sparsity", "cluster", "zap", "threads", "virt", "res")
    assert rows(grid, "sparsity", "cluster", "zap", "threads", "seed")[:4] == [
        (0.9, 4096, 65536, 1, 1), (0.9, 4096, 65536, 1, 2), (0.9, 4096, 65536, 1, 3), (0.9, 4096, 65536, 8, 1),
    ]  # fmt: skip
    assert rows(grid, "virt", "sparsity", "res", "seed")[-1] == (55 << 40, None, 590 << 30, 3)
    assert [(rule.label, rule.because) for rule in grid.excludes] == [
        ("threads=8 zap=64MiB", None),
        ("zap < cluster", "a call smaller than what was allocated is another question"),
    ]
    assert grid.derive == {"resident_pages": "virt * (1 - sparsity) / 4096"}


AXES: dict[str, list[Any]] = {
    "threads": [1, 2, 8],
    "rounds": [1, 2],
    "order": ["sequential", "random"],
    "zap": ["64KiB", "2MiB"],
}


@given(
    st.permutations(sorted(AXES)).flatmap(lambda names: st.lists(st.sampled_from(names), unique=True)),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(1, 50),
)
@settings(deadline=None)
def test_order_length_and_index(names: list[str], includes: int, repeats: int, size: int) -> None:
    """Chunks hold itertools.product in the order written, then the include rows, repeats innermost; any size of chunk
    gives the same, and columns_at finds a point by its number."""
    axes = "".join(f"  {name}: {AXES[name]}\n".replace("'", "") for name in names)
    include = "".join(f"  - {{threads: {i + 3}}}\n" for i in range(includes))
    text = BASE + (f"axes:\n{axes}" if axes else "") + (f"include:\n{include}" if include else "")
    grid = parse_grid(f"{text}repeats: {repeats}\nseed: 5\n", "g.yaml")
    default: dict[str, Any] = {"threads": 1, "rounds": 1, "order": "sequential", "zap": "2MiB"}
    expected = [
        default | dict(zip(names, values, strict=True)) for values in itertools.product(*(AXES[n] for n in names))
    ]
    expected = [] if includes and not names else expected
    expected += [default | {"threads": i + 3} for i in range(includes)]
    bytes_of = {"64KiB": 65536, "2MiB": 2 << 20}
    points = [
        (p["threads"], p["rounds"], p["order"], bytes_of[p["zap"]], 5 + repeat)
        for p in expected
        for repeat in range(repeats)
    ]
    assert rows(grid, "threads", "rounds", "order", "zap", "seed", size=size) == points
    assert grid.raw_points == len(points)
    assert [chunk.start for chunk in grid.chunks(size)] == list(range(0, len(points), size))
    index = np.arange(len(points))[::-1].copy()
    columns, repeat = grid.columns_at(index)
    assert columns["seed"].tolist() == [point[-1] for point in points[::-1]]
    assert (repeat == index % repeats).all()


def test_zip_members_move_together() -> None:
    """A zip group varies as one axis, after the axes."""
    grid = parse_grid(
        HEAD + "axes: {threads: [1, 2]}\nzip:\n  process: {virt: [1TiB, 55TiB], res: [10GiB, 590GiB]}\n", "g.yaml"
    )
    assert rows(grid, "threads", "virt", "res") == [
        (1, 1 << 40, 10 << 30), (1, 55 << 40, 590 << 30), (2, 1 << 40, 10 << 30), (2, 55 << 40, 590 << 30),
    ]  # fmt: skip


def test_include_rows() -> None:
    """A row takes the fixed values of fields that it does not give; res drops a fixed sparsity; axes are ignored."""
    text = BASE + "axes: {threads: [4]}\ninclude: [{res: 1MiB, seed: 9}, {arch: arm64-64k, sparsity: 0.5}]\nseed: 2\n"
    assert rows(parse_grid(text, "g.yaml"), "virt", "sparsity", "res", "threads", "cluster", "seed") == [
        (1 << 30, 0.9, None, 4, 4096, 2),
        (1 << 30, None, 1 << 20, 1, 4096, 9),
        (1 << 30, 0.5, None, 1, 65536, 2),
    ]


def test_only_include_rows() -> None:
    """Without axes and zip the include rows are all points; without rows too, the fixed values are one point."""
    assert rows(parse_grid(BASE + "include: [{threads: 2}, {threads: 3}]", "g.yaml"), "threads") == [(2,), (3,)]
    assert rows(parse_grid(BASE, "g.yaml"), "threads") == [(1,)]


def test_a_point_has_its_own_seed() -> None:
    """A fixed seed or an axis of seeds replaces the grid's; repeats add to either."""
    assert rows(parse_grid(BASE + "axes: {seed: [10, 20]}\nseed: 3\nrepeats: 2", "g.yaml"), "seed") == [
        (10,),
        (11,),
        (20,),
        (21,),
    ]
    assert rows(parse_grid(BASE, "g.yaml", ["fixed.seed=4", "repeats=2"]), "seed") == [(4,), (5,)]


def axis(field: str, rule: str) -> list[Any]:
    fixed = (
        "{sparsity: 0.5}"
        if field == "virt"
        else "{virt: 1TiB}"
        if field == "sparsity"
        else "{virt: 1TiB, sparsity: 0.5}"
    )
    return [
        value for (value,) in rows(parse_grid(f"{HEAD}fixed: {fixed}\naxes: {{{field}: {{{rule}}}}}", "g.yaml"), field)
    ]


def test_rules_of_values() -> None:
    """pow2, range and log include both ends; shares are exact decimals."""
    assert axis("zap", "pow2: {from: 64KiB, to: 256K}") == [65536, 131072, 262144]
    assert axis("threads", "pow2: {from: 1, to: 8}") == [1, 2, 4, 8]
    assert axis("zap", "range: {from: 4KiB, to: 15KiB, step: 4KiB}") == [4096, 8192, 12288]
    assert axis("threads", "range: {from: 1, to: 9, step: 4}") == [1, 5, 9]
    assert axis("sparsity", "range: {from: 0.1, to: 0.7, step: 0.1}") == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert axis("sparsity", "range: {from: 0, to: 1, step: 0.25}") == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert axis("zap", "log: {from: 4KiB, to: 4MiB, points: 3}") == [4096, 131072, 4 << 20]
    assert axis("virt", "log: {from: 4KiB, to: 16KiB, points: 9}") == [4096, 8192, 12288, 16384]
    assert axis("threads", "log: {from: 1, to: 100, points: 5}") == [1, 3, 10, 32, 100]
    assert axis("pinned", "log: {from: 0.0001, to: 0.1, points: 7}") == [
        0.0001,
        0.000316228,
        0.001,
        0.00316228,
        0.01,
        0.0316228,
        0.1,
    ]


def test_exclude_rules() -> None:
    """The values of `match` are as in columns, choices as codes; a list means any of its values."""
    text = BASE + "exclude:\n  - {order: random, zap: [64K, 0.0625MiB, 1MiB], where: threads > 1}\n"
    (rule,) = parse_grid(text, "g.yaml").excludes
    assert rule.match == {"order": (1,), "zap": (65536, 65536, 1 << 20)}
    assert (rule.where, rule.label) == ("threads > 1", "order=random zap=64KiB,64KiB,1MiB threads > 1")


def test_content_is_canonical() -> None:
    """The content does not depend on how values are written, on comments, key order and `about`; it does on values."""
    one = parse_grid(
        HEAD + "about: x\nfixed: {virt: 1024MiB, sparsity: 0.90}\naxes: {zap: {pow2: {from: 4K, to: 8K}}}", "g.yaml"
    )
    two = parse_grid(HEAD + "axes: {zap: [4KiB, 8KiB]}  # two\nfixed: {sparsity: 0.9, virt: 1GiB}", "h.yaml")
    three = parse_grid(HEAD + "axes: {zap: [4KiB, 8KiB]}\nfixed: {sparsity: 0.9, virt: 2GiB}", "h.yaml")
    assert one.content() == two.content() != three.content()


def test_long_axes_are_hashed() -> None:
    """An axis of a million values is represented by its length and a hash."""
    grid = parse_grid(BASE, "g.yaml", ["axes.rounds={range: {from: 1, to: 1000000, step: 1}}"])
    assert set(grid.content()["axes"]["rounds"]) == {"count", "blake2b"}


def test_overrides() -> None:
    """-S replaces or adds values anywhere in the file."""
    grid = parse_grid(
        EXAMPLE, "g.yaml", ["axes.zap=[64KiB, 2MiB]", "include=[]", "repeats=1", "seed=7", "zip.p.rounds=[1,2]"]
    )
    assert grid.raw_points == 3 * 3 * 2 * 2 * 2
    assert {seed for (seed,) in rows(grid, "seed")} == {7}
    assert grid.policy_names == ("none", "second_walk", "merged")
    assert parse_grid(HEAD, "g.yaml", ["fixed={virt: 4GiB, res: 1MiB}"]).policy_names == POLICIES


def test_unchecked_chunks_hold_impossible_points() -> None:
    """Unchecked chunks contain points that no address space can have; checked ones raise an error."""
    grid = parse_grid(HEAD + "fixed: {virt: 1GiB}\naxes: {res: [1MiB, 2GiB]}", "g.yaml")
    with pytest.raises(UserError):
        list(grid.chunks())
    assert sum(len(chunk.repeat) for chunk in grid.chunks(checked=False)) == 2


def test_files(tmp_path: Path) -> None:
    """Missing and broken files are refused by name; a byte order mark and CRLF are accepted."""
    path = tmp_path / "g.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode())
    assert load_grid(path).raw_points == 1
    for data, message in (
        (b"a: \xff\n", ":1: byte 0xff is not UTF-8"),
        (b"# " + b"x" * (1 << 20), ": longer than 1048576 bytes"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError) as error:
            load_grid(path)
        assert str(error.value) == f"{path}{message}"
    for missing, message in ((tmp_path / "no.yaml", "no such file"), (tmp_path, "cannot read: Is a directory")):
        with pytest.raises(UserError, match=f"^{missing}: {message}"):
            load_grid(missing)


@pytest.mark.parametrize(
    ("section", "has"),
    [
        ("", False),
        ("axes: {thp: [never]}\n", False),
        ("axes: {thp: [never, always]}\n", True),
        ("zip: {a: {thp: [always, never], rounds: [1, 2]}}\n", True),
        ("include: [{virt: 1GiB, thp: always}]\n", True),
    ],
)
def test_which_grids_have_huge_pages(section: str, has: bool) -> None:
    """A launch of these says what the model leaves out of huge pages."""
    assert parse_grid(BASE + section, "a.yaml").has_huge_pages is has
