"""The set of point ids is a set."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.errors import SweepFault
from sweep.idset import IdSet
from sweep.tables import id_bytes

IDS = st.text("0f", min_size=20, max_size=20)
TAILS = st.builds("{:016x}{}".format, st.integers(0, 2), st.text("0f", min_size=4, max_size=4))


@given(st.lists(st.lists(IDS | TAILS)), st.lists(IDS | TAILS))
def test_it_is_a_set(added: list[list[str]], asked: list[str]) -> None:
    """Whatever is added in whatever portions, it has just that; also ids that share their first 16 digits."""
    ids, plain = IdSet(), set[str]()
    for portion in added:
        fresh = sorted(set(portion) - plain)
        assert not ids.has(id_bytes(fresh)).any()
        ids.add(id_bytes(fresh))
        plain |= set(fresh)
    assert len(ids) == len(plain)
    assert ids.has(id_bytes(asked)).tolist() == [one in plain for one in asked]
    assert ids.has(id_bytes(sorted(plain))).all()


def test_many_small_portions_stay_few_arrays() -> None:
    """A thousand commits cost a few merges each, not a thousand look-ups."""
    ids = IdSet()
    for i in range(1000):
        ids.add(id_bytes([f"{i:020x}"]))
    assert len(ids) == 1000
    assert len(ids._levels) <= 11


@pytest.mark.parametrize("bad", ["", "abc", "g" * 20, "A" * 20, "é" * 10, "0" * 21])
def test_what_is_no_id_is_a_fault(bad: str) -> None:
    """An id is 20 lower-case hex digits; anything else never gets in."""
    with pytest.raises(SweepFault):
        IdSet().has(id_bytes([bad]))


def test_order_does_not_matter() -> None:
    """Answers come in the order of the questions."""
    ids = IdSet()
    ids.add(id_bytes(["f" * 20, "0" * 20]))
    assert ids.has(id_bytes(["0" * 20, "1" * 20, "f" * 20])).tolist() == [True, False, True]
    assert ids.has(np.empty((0, 20), np.uint8)).tolist() == []
