"""The plan: every raw point is counted once, and the remaining points are in the grid's order."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine import compiled_passes
from engine.compiled_passes import PARTS, PASSES, SLOTS, UNMAP_FLUSHES, WALK
from engine.forecast import forecast
from engine.model.policy import ALL, BUILT_IN, derive_policy
from engine.model.scenario import Scenario, columns_of
from sweep.common.errors import UserError
from sweep.grid import grid as grid_module
from sweep.grid.grid import Grid
from sweep.grid.loader import parse_grid
from sweep.grid.point_id import PointIds, point_ids
from sweep.run import plan
from sweep.run.plan import PlanAccount, make_plan

BASE = "schema: sweep/1\nname: a\nfixed: {virt: 1GiB, sparsity: 0.9}\n"
AXES = BASE + "axes:\n  cluster: [4KiB, 64KiB, 2MiB]\n  zap: [64KiB, 2MiB]\n  threads: [1, 8]\n"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 5 points, so that rules and duplicates extend over several."""
    monkeypatch.setattr(plan, "CHUNK_POINTS", 5)


def grid_of(text: str, *overrides: str) -> Grid:
    return parse_grid(text, "g.yaml", overrides)


def ids_of(grid: Grid) -> list[bytes]:
    return [point_id for chunk in grid.chunks() for point_id in point_ids(chunk.columns)]


def planned_ids(a_plan: plan.Plan) -> list[bytes]:
    return [point_id for chunk in a_plan.chunks() for point_id in chunk.ids]


def total(account: PlanAccount) -> int:
    dropped = sum(count for _, count in account.excluded)
    return dropped + account.where_dropped + account.duplicates + account.done + account.todo


def test_all_points_in_order() -> None:
    """Without rules all points of the grid are planned, in order."""
    grid = grid_of(AXES + "repeats: 2")
    planned = make_plan(grid)
    assert planned_ids(planned) == ids_of(grid)
    assert (planned.account.raw, planned.account.todo, planned.account.warnings) == (24, 24, ())
    expected = sum(float(forecast(chunk.columns).ns.sum()) for chunk in grid.chunks())
    assert planned.account.estimate_ns == pytest.approx(expected)
    assert planned.account.peak_bytes > plan.WORKER_BYTES


def test_estimates_follow_how_pages_lie() -> None:
    """Points of process-55tib that differ only in `cluster` are estimated in proportion to their recorded CPU seconds.

    Points that are alike follow each other: the time left is as wrong as these proportions.
    """
    recorded = {"4KiB": 1.33, "64KiB": 0.85, "2MiB": 0.66, "64MiB": 1.98}
    fixed = "{virt: 55TiB, res: 590GiB, zap: 2MiB, rounds: 10}"
    text = f"schema: sweep/1\nname: a\nfixed: {fixed}\naxes: {{cluster: [{', '.join(recorded)}]}}\n"
    estimated = forecast(next(iter(parse_grid(text, "a.yaml").chunks())).columns).ns / 1e9
    shares = np.array([*recorded.values()]) / estimated
    assert shares.max() / shares.min() < 1.25


@pytest.mark.parametrize(
    ("compiled", "sparsities", "expected"),
    [
        ((), 1, {WALK}),
        ((WALK,), 1, {WALK}),
        ((SLOTS, PARTS), 1, {SLOTS, PARTS}),
        ((SLOTS,), 1, {SLOTS, PARTS}),
        ((), 400, {SLOTS, PARTS}),
    ],
)
def test_little_work_compiles_one_pass(
    compiled: tuple[int, ...], sparsities: int, expected: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few points of two passes are left to the general one, unless it would have as much to compile.

    The flushes of munmap have a pass of their own in any case.
    """
    monkeypatch.setattr(compiled_passes, "is_compiled", lambda name: name in [PASSES[n].name for n in compiled])
    values = [i / 1000 for i in range(sparsities)]
    axes = f"axes: {{sparsity: {values}, zap: [64KiB, 2MiB]}}\n"
    grid = grid_of("schema: sweep/1\nname: a\nfixed: {virt: 64GiB}\n" + axes)
    account = make_plan(grid).account
    assert account.passes == expected | {UNMAP_FLUSHES}
    assert account.is_general == (expected == {WALK})


def test_rules_cost_time() -> None:
    """More rules, and rules that read after small calls, raise the estimate of each pass that they take part in."""
    columns = columns_of([Scenario(virt=64 << 30, sparsity=0.9, zap=zap << 10) for zap in (64, 96)])
    small = [derive_policy(BUILT_IN["merged"], f"small_{n}", {"least": n * 4096}) for n in (1, 2, 3)]
    seven, eight, ten = (forecast(columns, [*ALL, *small[:n]]) for n in (0, 1, 3))
    assert (eight.ns > seven.ns).all()
    assert ten.ns[1] > eight.ns[1]
    assert {WALK, PARTS} <= ten.passes == seven.passes


def test_rules_are_counted_in_their_order() -> None:
    """A point that two rules match counts for the first; a rule that drops nothing gives a warning with its place."""
    text = AXES + (
        "exclude:\n  - {threads: 8, zap: [64KiB, 4KiB]}\n  - where: zap < cluster\n    because: x\n"
        "  - {order: random}\n  - {threads: 8, cluster: 2MiB, zap: 64KiB}\n"
    )
    account = make_plan(grid_of(text)).account
    assert account.excluded == (
        ("threads=8 zap=64KiB,4KiB", 3),
        ("zap < cluster", 1),
        ("order=random", 0),
        ("threads=8 cluster=2MiB zap=64KiB", 0),
    )
    assert account.warnings == (
        "g.yaml:12:5: exclude[2]: the rule drops nothing: order=random",
        "g.yaml:13:5: exclude[3]: the rule drops nothing: threads=8 cluster=2MiB zap=64KiB; earlier rules dropped the 1"
        " it matches",
    )
    assert total(account) == account.raw == 12


def test_where_selects_points() -> None:
    """--where may use derived columns; points that a rule dropped do not count as dropped by it too."""
    grid = grid_of(AXES + "exclude: [{zap: 64KiB}]\nderive: {twice: threads * 2, four: twice * 2}\n")
    account = make_plan(grid, "four = 4").account
    assert (account.where_dropped, account.todo) == (3, 3)


def test_duplicates_run_once() -> None:
    """1 MiB and 1024 KiB are the same point; an include row may repeat a point of the axes."""
    grid = grid_of(
        BASE + "axes: {zap: [1MiB, 2MiB, 1024KiB], rounds: [1, 2, 1]}\ninclude: [{zap: 2MiB}, {zap: 4MiB}]\n"
    )
    planned = make_plan(grid)
    assert (planned.account.raw, planned.account.duplicates, planned.account.todo) == (11, 6, 5)
    assert planned_ids(planned) == list(dict.fromkeys(ids_of(grid)))


@given(st.lists(st.integers(0, 23), unique=True))
@settings(deadline=None, max_examples=20)
def test_done_points_are_left_out(done: list[int]) -> None:
    """Points that are done are left out, the others are planned in order."""
    grid = grid_of(AXES + "repeats: 2")
    ids = ids_of(grid)
    finished = {ids[i] for i in done}

    def is_done(wanted: PointIds) -> NDArray[np.bool_]:
        return np.array([point_id in finished for point_id in wanted], bool)

    planned = make_plan(grid, None, is_done)
    assert (planned.account.done, planned.account.todo) == (len(done), 24 - len(done))
    assert planned_ids(planned) == [point_id for point_id in ids if point_id not in finished]


def test_chunks_have_columns_repeats_and_derived_values() -> None:
    """Ids, columns, repeats and derived columns of a chunk are of the same points, in the same order."""
    planned = make_plan(
        grid_of(AXES + "exclude: [{threads: 8}]\nrepeats: 2\nderive: {pages: zap / 4096, way: order}\n")
    )
    for chunk in planned.chunks():
        assert point_ids(chunk.columns).tolist() == chunk.ids.tolist()
        assert (chunk.columns["seed"] == chunk.repeat).all()
        assert chunk.derived["pages"].to_pylist() == (chunk.columns["zap"] / 4096).tolist()
        assert chunk.derived["way"].to_pylist() == ["sequential"] * len(chunk.ids)
        assert len(chunk.ids) <= 5


def test_impossible_points_may_be_excluded() -> None:
    """A rule may drop points that no address space can have; all others must be possible."""
    text = "schema: sweep/1\nname: a\naxes: {virt: [1GiB, 4GiB], res: [1MiB, 2GiB]}\n"
    assert make_plan(grid_of(text + "exclude: [{where: res > virt}]")).account.todo == 3
    with pytest.raises(UserError) as error:
        make_plan(grid_of(text))
    assert str(error.value) == (
        "g.yaml:3:40: axes.res[1]: 2147483648 bytes is not between 0 and virt (1073741824)"
        " (in the point virt=1GiB res=2GiB)"
    )


def test_match_on_sparsity_of_points_given_res() -> None:
    """A rule on sparsity compares 1 - res / virt for points given by res, as SQL does; an absent res never matches."""
    text = "schema: sweep/1\nname: a\nfixed: {virt: 1GiB}\naxes: {res: [256MiB, 512MiB]}\ninclude: [{sparsity: 0.75}]\n"
    account = make_plan(grid_of(text + "exclude: [{sparsity: 0.75}, {res: 512MiB}]")).account
    assert [count for _, count in account.excluded] == [2, 1]


def test_everything_done() -> None:
    """A plan whose points are all done has no chunks and an estimate of 0."""
    planned = make_plan(grid_of(AXES), is_done=lambda ids: np.ones(len(ids), dtype=bool))
    assert (planned.account.todo, planned.account.estimate_ns, list(planned.chunks())) == (0, 0.0, [])


@pytest.mark.parametrize(
    ("section", "where", "place"),
    [
        (
            "exclude:\n  - where: zapp < cluster\n",
            None,
            "g.yaml:9:12: exclude[0].where: unknown column 'zapp'; did you mean",
        ),
        (
            "derive:\n  one: zap\n  two: zapp + one\n",
            None,
            "g.yaml:10:8: derive.two: unknown column 'zapp'; did you mean",
        ),
        ("derive: {policy: zap}\n", None, "g.yaml:8:18: derive.policy: there is a column of this name already"),
        ("", "zapp = 3", "--where: unknown column 'zapp'; did you mean 'zap'?"),
        ("", "", "--where: "),
        ("exclude: [{where: zap + 1}]\n", None, "g.yaml:8:19: exclude[0].where: gives BIGINT, not true or false"),
    ],
)
def test_sql_errors_name_their_place(section: str, where: str | None, place: str) -> None:
    """SQL is checked before points are expanded; the error begins with the place of the faulty expression."""
    with pytest.raises(UserError) as error:
        make_plan(grid_of(AXES + section), where)
    assert str(error.value).startswith(place)


def test_the_chunk_size_does_not_change_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Account and points are the same for any chunk size."""
    grid = grid_of(AXES + "exclude: [{where: zap < cluster}]\nrepeats: 3\ninclude: [{threads: 8}]\n")
    planned = make_plan(grid)
    points = planned_ids(planned)
    monkeypatch.setattr(plan, "CHUNK_POINTS", grid_module.CHUNK_POINTS)
    other = make_plan(grid)
    assert planned_ids(other) == points
    assert other.account.estimate_ns == pytest.approx(planned.account.estimate_ns)
    assert replace(other.account, estimate_ns=0) == replace(planned.account, estimate_ns=0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("derive: {fine: zap, bad: seed * zap}", "g.yaml:5:26: derive.bad: Out of Range"),
        ("exclude: [{where: seed * zap < 3}]", "g.yaml:5:19: exclude[0].where: Out of Range"),
        ('exclude: [{where: "bad < 3"}]\nderive: {bad: seed * zap}', "g.yaml:6:15: derive.bad: Out of Range"),
    ],
)
def test_a_value_that_cannot_be_computed_fails_the_plan(more: str, message: str) -> None:
    """SQL that is valid but fails for some point is an error of the plan, with file, line and name."""
    text = "schema: sweep/1\nname: over\nfixed: {virt: 64GiB, sparsity: 0.9}\naxes: {seed: [1, 9000000000000000000]}\n"
    with pytest.raises(UserError) as caught:
        make_plan(parse_grid(text + more, "g.yaml"))
    assert str(caught.value).startswith(message)


def test_a_long_point_of_many_policies_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """More policies than a pass takes: no point is divided among workers, which matters only for long ones."""
    monkeypatch.setattr(plan, "POLICIES_PER_PASS", 6)
    monkeypatch.setattr(plan, "LONG_POINT_NS", 1e9)
    large = grid_of(BASE.replace("1GiB", "55TiB") + "axes: {zap: [64KiB]}\n")
    (warning,) = make_plan(large).account.warnings
    assert warning.startswith(
        "g.yaml:1:1: 7 policies are more than 6, so each point runs on one worker, the longest for "
    )
    assert make_plan(grid_of(BASE)).account.warnings == ()
