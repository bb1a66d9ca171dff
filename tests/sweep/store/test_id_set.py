"""The set of point ids is a set."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.common.errors import SweepFault
from sweep.store.id_set import IdSet, sort_ids

IDS = st.text("0f", min_size=20, max_size=20)
TAILS = st.builds("{:016x}{}".format, st.integers(0, 2), st.text("0f", min_size=4, max_size=4))


@given(st.lists(st.lists(IDS | TAILS)), st.lists(IDS | TAILS))
def test_it_is_a_set(added: list[list[str]], asked: list[str]) -> None:
    """Whatever is added in whatever portions, it has just that; also ids that share their first 16 digits."""
    ids, plain = IdSet(), set[str]()
    for portion in added:
        fresh = sorted(set(portion) - plain)
        assert not ids.has(sort_ids(fresh)).any()
        ids.add(sort_ids(fresh))
        plain |= set(fresh)
    assert len(ids) == len(plain)
    assert ids.has(sort_ids(asked)).tolist() == [one in plain for one in asked]
    assert ids.has(sort_ids(sorted(plain))).all()


@pytest.mark.parametrize("bad", ["", "abc", "g" * 20, "A" * 20, "é" * 10, "0" * 21])
def test_what_is_no_id_is_a_fault(bad: str) -> None:
    """An id is 20 lower-case hex digits; anything else never gets in."""
    with pytest.raises(SweepFault):
        IdSet().has(sort_ids([bad]))


def test_order_does_not_matter() -> None:
    """Answers come in the order of the questions."""
    ids = IdSet()
    ids.add(sort_ids(["f" * 20, "0" * 20]))
    assert ids.has(sort_ids(["0" * 20, "1" * 20, "f" * 20])).tolist() == [True, False, True]
    assert ids.has(sort_ids([])).tolist() == []


@given(st.lists(IDS | TAILS), st.data())
def test_the_first_of_equal_ids(given_ids: list[str], data: st.DataObject) -> None:
    """Of ids in any order, repeats too: which come first, and any choice of them."""
    every = sort_ids(given_ids)
    assert every.is_first().tolist() == [one not in given_ids[:i] for i, one in enumerate(given_ids)]
    wanted = data.draw(st.lists(st.booleans(), min_size=len(given_ids), max_size=len(given_ids)))
    chosen = [one for one, take in zip(given_ids, wanted, strict=True) if take]
    some, alone = every.select(np.array(wanted, bool)), sort_ids(chosen)
    assert some.is_first().tolist() == alone.is_first().tolist()
    ids = IdSet()
    ids.add(some.select(some.is_first()))
    assert len(ids) == len(set(chosen))
    assert ids.has(every).tolist() == [one in chosen for one in given_ids]
