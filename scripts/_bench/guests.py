"""Kernels in guests: a boot, small points in one boot, and what a second kernel adds to the launching process."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from _bench.bench import Bench
from _bench.figure import Figure, Reach, figure, wall_s
from engine.guest.runner import GuestRunner
from engine.kernel.script import script_of
from sweep.common.errors import UserError
from sweep.grid.grid import Grid
from sweep.grid.loader import load_grid
from sweep.kernel.kernel_driver import LocalSession
from sweep.kernel.open_kernels import open_guest
from sweep.kernel.targets import targets_of
from sweep.kernel_images.kernel_cache import KernelChoice, choose_kernels
from sweep.run.plan import make_plan

SECTION = "guests"
RELEASES = ("6.12", "7.3")
GRID = """schema: sweep/1
name: guests
policies: [none, merged]
fixed: {{virt: {virt}, sparsity: {sparsity}}}
axes: {{zap: [64KiB, 2MiB], seed: {{range: {{from: 1, to: {seeds}, step: 1}}}}}}
"""
SMALL, LARGE = ("8MiB", 0.9), ("4GiB", 0.999)
"""virt and sparsity."""
BOOT_S, POINTS_S = 10, 60
"""Bounds, for two cores."""


def section(bench: Bench) -> Iterator[Figure]:
    try:
        choices = choose_kernels(RELEASES, ("x86-64",))
    except UserError as error:
        bench.say(f"  left out: {error}")
        return
    with ExitStack() as stack:
        try:
            guests = [stack.enter_context(open_guest(choice)) for choice in choices]
        except UserError as error:
            bench.say(f"  left out: {error}")
            return
        for choice, guest in list(zip(choices, guests, strict=True))[: 1 if bench.quick else None]:
            yield boot(bench, choice, guest.accel)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-")))
        small = grid(folder, *SMALL, seeds=1 if bench.quick else 100)
        for guest in guests:
            yield small_points(bench, guest, small)
        yield from second_kernel(bench, guests, grid(folder, *LARGE, seeds=1 if bench.quick else 10))


def boot(bench: Bench, choice: KernelChoice, accel: str) -> Figure:
    """From the start of QEMU until the guest has answered a first point, and its end."""

    def once() -> None:
        with open_guest(choice):
            pass

    bound = Reach(at_most=BOOT_S, of="value")
    run = bench.in_turn(once)
    return figure(SECTION, f"boot Linux {choice.label} ({accel})", run, unit="wall s", of=wall_s, reach=bound)


def small_points(bench: Bench, guest: GuestRunner, points: Grid) -> Figure:
    work = runs(points, [guest])
    name = f"{make_plan(points, None).account.todo} points of 8 MiB on Linux {guest.machine.release} ({guest.accel})"
    bound = Reach(at_most=POINTS_S, of="value")
    return figure(SECTION, name, bench.in_turn(work), unit="wall s", of=wall_s, reach=bound)


def second_kernel(bench: Bench, guests: list[GuestRunner], points: Grid) -> Iterator[Figure]:
    """CPU time of this process, without the guests', and how often it computed which pages a point touches."""
    both, number = runs(points, guests), make_plan(points, None).account.todo
    name = f"{number} points of 4 GiB on two kernels: CPU time of the launching process"
    run = bench.in_turn(both, runs(points, guests[:1]))
    yield figure(SECTION, name, run, yardstick="on one kernel")
    script_of.cache_clear()
    both()
    yield Figure(
        section=SECTION,
        name=f"{number} points of 4 GiB on two kernels: computed per point",
        unit="times",
        values=(script_of.cache_info().misses / number,),
        reach=Reach(at_most=1, of="value"),
    )


def runs(points: Grid, guests: list[GuestRunner]) -> Callable[[], None]:
    """What runs all points on the guests, as a launch does."""
    session, plan = LocalSession(points, targets_of(guests, points)), make_plan(points, None)

    def run() -> None:
        for point in session.run(plan):
            if point is not None and point.failure is not None:
                raise RuntimeError(point.failure.error)

    return run


def grid(folder: Path, virt: str, sparsity: float, seeds: int) -> Grid:
    file = folder / f"{virt}.yaml"
    file.write_text(GRID.format(virt=virt, sparsity=sparsity, seeds=seeds))
    return load_grid(file, ())
