"""Tables fit the page whatever is in them, and what was taken out of them is said above."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.cli.tables.table_layout import lay_out
from sweep.cli.tables.text_wrapping import text_width
from sweep.cli.tables.value_text import readable

NAMES = ("run_id", "policy", "zap", "vm_pte_kib_end", "cost_ns", "a_very_long_name_of_a_column_that_nobody_wants", "x")
VALUES = st.one_of(
    st.none(),
    st.integers(-(10**15), 10**15),
    st.floats(allow_nan=True, allow_infinity=True),
    st.booleans(),
    st.text(max_size=50),
    st.sampled_from(["first-448e2e03", "merged", "表" * 30, "/a/" + "very/" * 30]),
)


def printed(
    names: list[str], rows: Sequence[Sequence[Any]], width: int | None = 80, *, is_ours: bool = True
) -> list[str]:
    return list(lay_out(names, rows, readable, width, is_ours=is_ours))


@settings(deadline=None, max_examples=150)
@given(st.data(), st.integers(30, 120), st.booleans(), st.lists(st.sampled_from(NAMES), min_size=1, max_size=12))
def test_no_line_is_wider_than_the_page(data: st.DataObject, width: int, is_ours: bool, names: list[str]) -> None:
    """Whatever the columns, values and width; wide characters count twice."""
    rows = data.draw(st.lists(st.tuples(*[VALUES] * len(names)), max_size=3))
    assert [line for line in printed(names, rows, width, is_ours=is_ours) if text_width(line) > width] == []


def test_a_table_that_fits_is_left_alone() -> None:
    """A query that fits shows what was asked for, even if a column has one value and two are equal."""
    lines = printed(["run_id", "a", "b"], [("r", 1, 1), ("r", 200000, 200000)], is_ours=False)
    assert lines == [
        "run_id        a        b",
        "------  -------  -------",
        "r             1        1",
        "r       200,000  200,000",
    ]


def test_policies_share_rows() -> None:
    """Policies with equal figures share a row, also if they are not neighbours; a run's id is said above."""
    rows = [("r", "none", 0), ("r", "async", 7), ("r", "munmap", 3), ("r", "refcount", 7)]
    assert printed(["run_id", "policy", "freed"], rows) == [
        "run_id r",
        "policy           freed",
        "---------------  -----",
        "none                 0",
        "async, refcount      7",
        "munmap               3",
    ]


def test_what_is_taken_out_is_said() -> None:
    """Too wide a table loses columns with one value, then columns that equal another; both are named above."""
    names = [f"column_number_{i}" for i in range(6)]
    rows = [(5, i * 10**7, i * 10**7, "text", i + 0.25, i) for i in range(3)]
    assert printed(names, rows, 60, is_ours=False)[:4] == [
        "in all rows: column_number_0 5, column_number_3 text",
        "equal columns: column_number_2 = column_number_1",
        "column_number_1  column_number_4  column_number_5",
        "---------------  ---------------  ---------------",
    ]


def test_scales() -> None:
    """Numbers that do not fit are scaled; the header has the unit, and a line the letters."""
    names = ["vm_pte_kib_end", "zap", "locks", "cost_ns"]
    rows = [(2**31, 65536, 123456789, 2.5e12), (2**30, 2 << 20, 0, None)]
    assert printed(names, rows, 42, is_ours=False) == [
        "M: million",
        "vm_pte_gib_end    zap  locks (M)  cost_s",
        "--------------  -----  ---------  ------",
        "         2,048  64KiB      123.5   2,500",
        "         1,024   2MiB          0       -",
    ]


def test_runs_have_their_own_tables() -> None:
    """Where one table for all runs is too wide, each run gets one, so that its id takes no column."""
    rows = [(run, "x" * 20, i) for run in ("first-0123abcd", "second-0123abcd") for i in range(2)]
    lines = printed(["run_id", "text", "n"], rows, 30)
    assert [line for line in lines if line.startswith("run_id")] == ["run_id first-0123abcd", "run_id second-0123abcd"]


def test_records_are_exact() -> None:
    """What does not fit becomes a block for each row, with numbers as they are."""
    names = [f"n{i}" for i in range(30)]
    lines = printed(names, [[i * 123456789 + j for j in range(30)] for i in (1, 2)], 40)
    assert lines[:2] == ["n0   123,456,789", "n1   123,456,790"]
    assert lines.count("") == 1
    assert len(lines) == 2 * 30 + 1


@pytest.mark.parametrize("is_ours", [True, False])
def test_wide(is_ours: bool) -> None:
    """Without a width nothing is taken out, shared or scaled."""
    lines = printed(["run_id", "policy", "n"], [("r", "a", 10**12), ("r", "b", 10**12)], None, is_ours=is_ours)
    assert lines[2:] == ["r       a       1,000,000,000,000", "r       b       1,000,000,000,000"]
