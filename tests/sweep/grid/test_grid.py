"""Grid files: what they mean, which points they hold in which order, and what is said of bad ones."""

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
from sweep.grid.field_values import canonical_value
from sweep.grid.grid import Grid
from sweep.grid.loader import load_grid, parse_grid

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
    because: a purge smaller than what was allocated is another question
derive: {resident_pages: "virt * (1 - sparsity) / 4096"}
repeats: 3
seed: 1
"""


def rows(grid: Grid, *names: str, size: int = 7) -> list[tuple[Any, ...]]:
    """The named fields of all points, canonical; None for what is absent."""
    out: list[tuple[Any, ...]] = []
    for chunk in grid.chunks(size):
        for i in range(len(chunk.repeat)):
            values = [chunk.columns[name][i].item() for name in names]
            absent = [v != v or (n == "res" and v == ABSENT) for n, v in zip(names, values, strict=True)]
            row = [None if a else canonical_value(FIELD[n], v) for n, v, a in zip(names, values, absent, strict=True)]
            out.append(tuple(row))
    return out


def test_example_of_the_design() -> None:
    """The grid of DESIGN.md: 3 x 3 x 11 x 2 combinations and an include row, three repeats each."""
    grid = parse_grid(EXAMPLE, "grids/first.yaml")
    assert grid.raw_points == (3 * 3 * 11 * 2 + 1) * 3 == len(rows(grid, "seed"))
    assert grid.policies == ("none", "second_walk", "merged")
    assert grid.varying_columns == ("sparsity", "cluster", "zap", "threads", "virt", "res")
    assert rows(grid, "sparsity", "cluster", "zap", "threads", "seed")[:4] == [
        (0.9, 4096, 65536, 1, 1), (0.9, 4096, 65536, 1, 2), (0.9, 4096, 65536, 1, 3), (0.9, 4096, 65536, 8, 1),
    ]  # fmt: skip
    assert rows(grid, "virt", "sparsity", "res", "seed")[-1] == (55 << 40, None, 590 << 30, 3)
    assert [(rule.label, rule.because) for rule in grid.excludes] == [
        ("threads=8 zap=64MiB", None),
        ("zap < cluster", "a purge smaller than what was allocated is another question"),
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
    """A zip group is one axis, after the axes."""
    grid = parse_grid(
        HEAD + "axes: {threads: [1, 2]}\nzip:\n  process: {virt: [1TiB, 55TiB], res: [10GiB, 590GiB]}\n", "g.yaml"
    )
    assert rows(grid, "threads", "virt", "res") == [
        (1, 1 << 40, 10 << 30), (1, 55 << 40, 590 << 30), (2, 1 << 40, 10 << 30), (2, 55 << 40, 590 << 30),
    ]  # fmt: skip


def test_include_rows() -> None:
    """A row takes fixed values for what it does not name, res drops a fixed sparsity, axes do not enter."""
    text = BASE + "axes: {threads: [4]}\ninclude: [{res: 1MiB, seed: 9}, {arch: arm64-64k, sparsity: 0.5}]\nseed: 2\n"
    assert rows(parse_grid(text, "g.yaml"), "virt", "sparsity", "res", "threads", "cluster", "seed") == [
        (1 << 30, 0.9, None, 4, 4096, 2),
        (1 << 30, None, 1 << 20, 1, 4096, 9),
        (1 << 30, 0.5, None, 1, 65536, 2),
    ]


def test_only_include_rows() -> None:
    """Without axes and zip the include rows are all there is; without them too, the fixed values are one point."""
    assert rows(parse_grid(BASE + "include: [{threads: 2}, {threads: 3}]", "g.yaml"), "threads") == [(2,), (3,)]
    assert rows(parse_grid(BASE, "g.yaml"), "threads") == [(1,)]


def test_seed_of_the_point_wins() -> None:
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
    """pow2, range and log, ends inclusive; shares are the decimals one would write."""
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
    """Match values are canonical, codes for choices; a list means any of them."""
    text = BASE + "exclude:\n  - {order: random, zap: [64K, 0.0625MiB, 1MiB], where: threads > 1}\n"
    (rule,) = parse_grid(text, "g.yaml").excludes
    assert rule.match == {"order": (1,), "zap": (65536, 65536, 1 << 20)}
    assert (rule.where, rule.label) == ("threads > 1", "order=random zap=64KiB,64KiB,1MiB threads > 1")


def test_content_is_canonical() -> None:
    """Spelling, comments, order of keys and `about` are no part of the content; a value is."""
    one = parse_grid(
        HEAD + "about: x\nfixed: {virt: 1024MiB, sparsity: 0.90}\naxes: {zap: {pow2: {from: 4K, to: 8K}}}", "g.yaml"
    )
    two = parse_grid(HEAD + "axes: {zap: [4KiB, 8KiB]}  # two\nfixed: {sparsity: 0.9, virt: 1GiB}", "h.yaml")
    three = parse_grid(HEAD + "axes: {zap: [4KiB, 8KiB]}\nfixed: {sparsity: 0.9, virt: 2GiB}", "h.yaml")
    assert one.content() == two.content() != three.content()


def test_long_axes_are_hashed() -> None:
    """The content of a million values is a few bytes."""
    grid = parse_grid(BASE, "g.yaml", ["axes.rounds={range: {from: 1, to: 1000000, step: 1}}"])
    assert set(grid.content()["axes"]["rounds"]) == {"count", "blake2b"}


def test_overrides() -> None:
    """-S puts values into the file's tree, making what is missing on the way."""
    grid = parse_grid(
        EXAMPLE, "g.yaml", ["axes.zap=[64KiB, 2MiB]", "include=[]", "repeats=1", "seed=7", "zip.p.rounds=[1,2]"]
    )
    assert grid.raw_points == 3 * 3 * 2 * 2 * 2
    assert {seed for (seed,) in rows(grid, "seed")} == {7}
    assert grid.policies == ("none", "second_walk", "merged")
    assert parse_grid(HEAD, "g.yaml", ["fixed={virt: 4GiB, res: 1MiB}"]).policies == POLICIES


def test_unchecked_chunks_hold_impossible_points() -> None:
    """A plan drops points by its rules before it asks whether an address space can have them."""
    grid = parse_grid(HEAD + "fixed: {virt: 1GiB}\naxes: {res: [1MiB, 2GiB]}", "g.yaml")
    with pytest.raises(UserError):
        list(grid.chunks())
    assert sum(len(chunk.repeat) for chunk in grid.chunks(checked=False)) == 2


def test_files(tmp_path: Path) -> None:
    """Missing, odd and broken files are named; a byte order mark and CRLF are let through."""
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
