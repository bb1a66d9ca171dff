"""Point ids are as documented, stable, and equal whether computed one by one or many at once."""

import json
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import MODEL_VERSION
from engine.model.scenario import Scenario, columns_of
from sweep.grid import point_id as identity
from sweep.grid.loader import parse_grid
from sweep.grid.point_id import canonical_json, canonical_scenario, id_strings, point_id, point_ids, run_name

shares = st.integers(0, 10**6).map(lambda n: n / 10**6)
pages = st.integers(1, 1 << 20).map(lambda n: n * 65536)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Most scenarios that an address space can have."""
    virt = draw(pages)
    given_res = draw(st.booleans())
    values: dict[str, Any] = {"res": draw(st.integers(0, virt))} if given_res else {"sparsity": draw(shares)}
    return Scenario(
        virt=virt,
        cluster=draw(st.none() | pages),
        zap=draw(st.none() | pages),
        coverage=draw(shares),
        order=draw(st.sampled_from(["sequential", "random"])),
        rounds=draw(st.integers(1, 9)),
        pinned=draw(shares),
        arch=draw(st.sampled_from(["x86-64", "arm64-64k"])),
        seed=draw(st.integers(0, (1 << 63) - 1)),
        **values,
    )


@given(st.lists(scenarios(), max_size=8))
@settings(deadline=None)
def test_fast_ids_are_the_documented_ones(rows: list[Scenario]) -> None:
    """Whatever columns vary, point_ids hashes the canonical JSON of each row."""
    columns = columns_of(rows)
    canonical_texts = [canonical_json(columns, i) for i in range(len(rows))]
    assert id_strings(point_ids(columns)) == [point_id(text) for text in canonical_texts]
    for i, text in enumerate(canonical_texts):
        assert json.loads(text) == canonical_scenario(columns, i) | {"model_version": MODEL_VERSION}


def test_an_id_by_hand() -> None:
    """The canonical JSON and the id of one scenario are these; a change would orphan every store."""
    columns = columns_of([Scenario(virt=1 << 30, sparsity=0.9, zap=65536, seed=1)])
    text = canonical_json(columns, 0, model_version=1)
    assert text == (
        '{"advice":"dontneed","arch":"x86-64","cluster":4096,"coverage":1.0,"folio":4096,"model_version":1,'
        '"order":"sequential","partition":"blocked","pinned":0.0,"refault":0.0,"rounds":1,"seed":1,"sparsity":0.9,'
        '"threads":1,"virt":1073741824,"zap":65536,"zap_shift":0}'
    )
    assert point_id(text) == blake2b(text.encode(), digest_size=10).hexdigest() == "bdab0ed30c477063d4f0"


def test_absent_res_or_sparsity_is_left_out() -> None:
    """The same residency given as res and as sparsity makes two points, as only one of them is exact."""
    columns = columns_of([Scenario(virt=1 << 30, sparsity=0.5), Scenario(virt=1 << 30, res=1 << 29)])
    assert "res" not in canonical_scenario(columns, 0)
    assert "sparsity" not in canonical_scenario(columns, 1)
    assert len(set(point_ids(columns))) == 2


def test_model_version_is_part_of_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of the model gives other ids."""
    columns = columns_of([Scenario(virt=1 << 30, sparsity=0.5)])
    before = point_ids(columns)
    monkeypatch.setattr(identity, "MODEL_VERSION", MODEL_VERSION + 1)
    assert point_ids(columns).tolist() != before.tolist()


def test_an_id_does_not_depend_on_the_chunk() -> None:
    """An id depends only on its row, not on the chunk."""
    grid = parse_grid(
        "schema: sweep/1\nname: a\nfixed: {virt: 1GiB, sparsity: 0.9}\naxes: {zap: [4K, 8K], threads: [1, 2]}\n", "g"
    )
    together = [point_id for chunk in grid.chunks(100) for point_id in point_ids(chunk.columns)]
    assert together == [point_id for chunk in grid.chunks(1) for point_id in point_ids(chunk.columns)]
    columns, _ = grid.columns_at(np.array([3, 0]))
    assert point_ids(columns).tolist() == [together[3], together[0]]


def test_run_name() -> None:
    """A run's name is the grid's name and eight digits that depend on its content, not on how it is written."""
    text = "schema: sweep/1\nname: a-b\nfixed: {virt: 1GiB, sparsity: 0.9}\n"
    name = run_name(parse_grid(text, "g"))
    assert name.startswith("a-b-")
    assert len(name) == len("a-b-") + 8
    assert run_name(parse_grid(text.replace("1GiB", "1024MiB") + "about: the same\n", "h")) == name
    assert run_name(parse_grid(text + "repeats: 2\n", "g")) != name
