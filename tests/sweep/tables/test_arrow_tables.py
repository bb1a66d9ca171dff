"""Arrow tables from results, and Parquet files from tables."""

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.model.policy import POLICIES
from engine.model.results import COLUMNS, ROUND_COLUMNS, STATE, WORK
from engine.model.scenario import FIELDS, row
from sweep.common import schema
from sweep.common.errors import DamagedError, SweepFault, UserError
from sweep.tables import arrow_tables, parquet, result_tables
from tests.support.small_stores import point_id, results, scenarios

COUNT = 5
IDS = [point_id(i) for i in range(COUNT)]
REPEAT = np.arange(COUNT, dtype=np.int64)


def test_a_row_a_point_and_policy() -> None:
    """outcome_table gives the rows that a plain loop gives."""
    columns, made = scenarios(COUNT), results(COUNT)
    rows = result_tables.outcome_table("r", IDS, REPEAT, columns, made).to_pylist()
    expected = [
        {"run_id": "r", "point_id": IDS[i], "repeat": i, "policy": policy, "engine": "model"}
        | {name: int(made.values[i, p, c]) for c, name in enumerate(COLUMNS)}
        for i in range(COUNT)
        for p, policy in enumerate(POLICIES)
    ]
    assert [{name: got[name] for name in expected[0]} for got in rows] == expected


def test_scenarios_are_stored_as_people_say_them() -> None:
    """Choices are stored as text, sparsity always has a value, res is NULL where it was not given."""
    columns = scenarios(COUNT)
    rows = result_tables.point_table("r", IDS, REPEAT, columns).to_pylist()
    for i, got in enumerate(rows):
        scenario = row(columns, i)
        for field in FIELDS:
            if field.name != "sparsity":
                assert got[field.name] == getattr(scenario, field.name)
        assert got["sparsity"] == pytest.approx(float(1 - scenario.installed_share))
    stored = result_tables.scenario_table(columns)
    assert stored.schema.names == [*(field.name for field in FIELDS), *(column.name for column in schema.TRACE)]
    assert all(stored.column(column.name).null_count == COUNT for column in schema.TRACE)


def test_only_the_policies_asked_for() -> None:
    """There are rows for the policies of the grid only, in the grid's order."""
    wanted = ("none", "merged")
    made = results(COUNT, policies=wanted)
    table = result_tables.outcome_table("r", IDS, REPEAT, scenarios(COUNT), made, wanted)
    assert table.column("policy").to_pylist() == list(wanted) * COUNT
    merged = made.values[:, 1, COLUMNS.index("ipis")]
    assert table.column("ipis").to_pylist()[1::2] == merged.tolist()


def test_rounds_count_from_one() -> None:
    """There is one row for each point, round and policy, with the figures of that round."""
    made = results(2, 3, ("none", "munmap"))
    rows = result_tables.round_table("r", IDS[:2], made, ("none", "munmap")).to_pylist()
    assert [(r["point_id"], r["round"], r["policy"]) for r in rows] == [
        (IDS[i], number, policy) for i in range(2) for number in (1, 2, 3) for policy in ("none", "munmap")
    ]
    last = made.rounds[5, 1].tolist()
    assert [rows[-1][name] for name in ROUND_COLUMNS] == last


def test_a_single_round_stands_in_outcomes_alone() -> None:
    """Points of one round have no rows in rounds."""
    both = ("none", "munmap")
    made = replace(results(2), rounds=results(3, 1, both).rounds, round_counts=np.array([1, 2]))
    rows = result_tables.round_table("r", IDS[:2], made, both).to_pylist()
    assert [(r["point_id"], r["round"]) for r in rows] == [(IDS[1], 1), (IDS[1], 1), (IDS[1], 2), (IDS[1], 2)]
    assert rows[0]["res_bytes_peak"] == made.rounds[1, 0, 0]
    assert parquet.to_bytes_if_any(result_tables.round_table("r", IDS[:2], results(2, rounds=1))) == b""


def test_the_model_measures_nothing_and_the_kernel_shows_little() -> None:
    """Counters that an engine cannot know are NULL, never 0."""
    model = result_tables.outcome_table("r", IDS, REPEAT, scenarios(COUNT), results(COUNT))
    for column in schema.KERNEL:
        assert model.column(column.name).null_count == model.num_rows
    times = np.arange(COUNT, dtype=np.int64).reshape(COUNT, 1)
    facts = result_tables.KernelFacts(times, times * 2, "6.18.1", True)
    seen = replace(results(COUNT, policies=["merged"]), known=(*STATE, "zap_calls"))
    kernel = result_tables.outcome_table(
        "r", IDS, REPEAT, scenarios(COUNT), seen, ("merged",), engine="kernel", kernel=facts
    )
    assert kernel.column("zap_ns").to_pylist() == [0, 2, 4, 6, 8]
    assert kernel.column("pt_reclaim").to_pylist() == [True] * COUNT
    unseen = {name for name in WORK if kernel.column(name).null_count == COUNT}
    assert unseen == set(WORK) - {"zap_calls"}


def test_points_tell_how_they_went() -> None:
    """Status, attempt, error, node and time are given once or for each row; derived columns come last."""
    table = result_tables.point_table(
        "r",
        IDS,
        REPEAT,
        scenarios(COUNT),
        {"pages": [1, 2, 3, 4, 5], "unknown": [None] * COUNT},
        status=["ok", "failed", "ok", "lost", "ok"],
        attempt=[1, 2, 1, 1, 1],
        error=[None, "it broke", None, "node gone", None],
        node="a",
    )
    assert table.schema.names == [*(column.name for column in schema.POINTS), "pages", "unknown"]
    assert table.column("error").to_pylist()[1] == "it broke"
    assert table.column("cpu_ns").null_count == COUNT
    assert table.schema.field("unknown").type == pa.float64()
    with pytest.raises(SweepFault, match="status"):
        result_tables.point_table("r", IDS, REPEAT, scenarios(COUNT), status="fine")


def test_results_of_other_points_are_a_fault() -> None:
    """Results of another number of points are a fault."""
    with pytest.raises(SweepFault):
        result_tables.outcome_table("r", IDS[:2], REPEAT[:2], scenarios(2), results(3))
    with pytest.raises(SweepFault):
        result_tables.round_table("r", IDS[:2], results(3))


def test_an_undeclared_column_is_a_fault() -> None:
    """A column that schema.py does not declare is a fault."""
    with pytest.raises(SweepFault, match="undeclared columns: secret"):
        arrow_tables.declared(schema.ROUNDS, {"secret": pa.array([1])}, 1)


def test_a_part_comes_back() -> None:
    """A Parquet file has the table's rows, its units, and the given metadata."""
    table = result_tables.outcome_table("r", IDS, REPEAT, scenarios(COUNT), results(COUNT))
    data = parquet.to_bytes(table, {"rounds": "abc"})
    back = parquet.read_table(data, "part")
    assert back.equals(table.select(back.column_names))
    left_out = [table.column(name) for name in table.column_names if name not in back.column_names]
    assert len(left_out) >= len(schema.TRACE + schema.KERNEL)
    assert all(column.null_count == len(table) for column in left_out)
    assert parquet.read_metadata(data, "part") == {"rounds": "abc"}
    assert pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0).column(0).compression == "LZ4"
    assert back.schema.field("virt").metadata[b"unit"] == b"bytes"
    assert parquet.to_bytes_if_any(table) == parquet.to_bytes(table)
    assert parquet.to_bytes_if_any(table.slice(0, 0)) == b""


def test_a_file_with_too_many_rows_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressed file may be small and yet fill all memory."""
    data = parquet.to_bytes(result_tables.round_table("r", IDS, results(COUNT)))
    monkeypatch.setattr(parquet, "MAX_ROWS", 1)
    with pytest.raises(DamagedError, match=r"part: .* rows; a part has at most 1"):
        parquet.read_table(data, "part")


def test_parts_become_one(tmp_path: Path) -> None:
    """Merging keeps order and units, fills missing columns with NULL, and widens types or refuses."""
    low = result_tables.point_table("r", IDS, REPEAT, scenarios(COUNT), {"pages": [None] * COUNT})
    high = result_tables.point_table("r", IDS, REPEAT, scenarios(COUNT), {"pages": [1] * COUNT, "more": ["x"] * COUNT})
    text = result_tables.point_table("r", IDS, REPEAT, scenarios(COUNT), {"pages": ["x"] * COUNT})
    for name, table in {"low": low, "high": high, "text": text}.items():
        (tmp_path / name).write_bytes(parquet.to_bytes(table))
    assert "pages" in parquet.read_table(tmp_path / "low", "low").column_names  # nothing else tells of it
    wide = parquet.merge([tmp_path / "low", tmp_path / "high"], {"rounds": "abc"})
    back = parquet.read_table(wide, "wide")
    assert back.column("point_id").to_pylist() == IDS * 2
    assert back.column("pages").to_pylist() == [None] * COUNT + [1.0] * COUNT
    assert back.column("more").to_pylist() == [None] * COUNT + ["x"] * COUNT
    assert back.schema.field("virt").metadata[b"unit"] == b"bytes"
    assert parquet.read_metadata(wide, "wide") == {"rounds": "abc"}
    with pytest.raises(UserError, match="do not fit together"):
        parquet.merge([tmp_path / "high", tmp_path / "text"])


def test_only_columns_with_gaps_are_nullable(tmp_path: Path) -> None:
    """A column of a merged file is nullable if it has a NULL in one of the files, or is missing there."""
    whole = result_tables.outcome_table("r", IDS, REPEAT, scenarios(COUNT), results(COUNT))
    assert {field.name for field in whole.schema if field.nullable} == {
        column.name for column in (*schema.TRACE, *schema.KERNEL)
    } | {"res"}
    seen = replace(results(COUNT), known=(*STATE, "zap_calls"))
    part = result_tables.outcome_table("r", IDS, REPEAT, scenarios(COUNT), seen)
    for name, table in {"whole": whole, "part": part}.items():
        (tmp_path / name).write_bytes(parquet.to_bytes(table))
    for order in (["whole", "part"], ["part", "whole"]):
        back = parquet.read_table(parquet.merge([tmp_path / name for name in order]), "wide")
        assert back.column("ipis").null_count == part.num_rows
        assert back.schema.field("ipis").nullable
        assert not back.schema.field("zap_calls").nullable
    (tmp_path / "old").write_bytes(parquet.to_bytes(whole.drop_columns(["zap_calls"])))
    for order in (["whole", "old"], ["old", "whole"]):
        back = parquet.read_table(parquet.merge([tmp_path / name for name in order]), "wide")
        assert back.column("zap_calls").null_count == whole.num_rows


def test_a_truncated_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreadable file is one line with its name; missing permissions are not reported as damage."""
    path = tmp_path / "part-000001.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DamagedError, match=r"part-000001\.parquet: not a whole Parquet file") as told:
        parquet.read_table(path, str(path))
    assert "\n" not in str(told.value)
    with pytest.raises(DamagedError, match="gone"):
        parquet.read_table(tmp_path / "none", "none")

    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(pq, "ParquetFile", forbidden)
    with pytest.raises(UserError, match="part: Permission denied; change its permissions: the run needs it") as other:
        parquet.read_table(path, "part")
    assert not isinstance(other.value, DamagedError)


def test_wide_sums_are_narrowed() -> None:
    """DuckDB's 128-bit sums become int64 if they fit, and stay exact if not."""
    wide = pa.table({"a": pa.array([1, None], pa.decimal128(38, 0)), "b": pa.array([2**70, 1], pa.decimal128(38, 0))})
    narrow = arrow_tables.decimals_as_int64(wide)
    assert narrow.schema.types == [pa.int64(), pa.decimal128(38, 0)]
    assert narrow.column("a").to_pylist() == [1, None]
