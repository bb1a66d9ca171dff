"""sweep kernel: the kernels that can be run in guests: download, list, delete, and check what a guest needs."""

from typing import Annotated, Literal

import typer

from sweep.cli import messages, output_formats
from sweep.cli.options import AsJson, Quiet
from sweep.cli.program_name import as_called
from sweep.common.errors import UserError

LIST_COLUMNS = ("release", "arch", "page_kib", "size_mib", "file")
CHECK_COLUMNS = ("needed", "for", "ok", "found")


def kernel(
    action: Annotated[
        Literal["get", "ls", "rm", "check"],
        typer.Argument(metavar="get|ls|rm|check", help="What to do.", show_default=False),
    ],
    releases: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RELEASE",
            help="get, rm: the beginnings of releases, such as 6.12. get takes the newest of each.",
            show_default=False,
        ),
    ] = None,
    arch: Annotated[
        Literal["x86-64", "arm64"] | None,
        typer.Option("--arch", help="get, check: the architecture; default: this machine's; check: both."),
    ] = None,
    page: Annotated[
        str, typer.Option("--page", metavar="SIZE", help="get: the page size of arm64: 4KiB, 16KiB or 64KiB.")
    ] = "4KiB",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Download, list and delete kernels to run in guests, or check what guests need on this machine.

    get downloads the distribution's packages (Debian, Ubuntu) with apt, which checks their signatures, and installs
    nothing. check boots a guest. Where the distribution has no such packages, --kernel takes the file of a kernel.

    Example: sweep kernel get 6.12 7.3
    """
    names = releases or []
    if action in ("get", "rm") and not names:
        raise UserError(f"kernel {action}: missing argument 'RELEASE'; see sweep kernel --help")
    if "" in names:
        raise UserError(f"kernel {action}: an empty RELEASE; give the beginning of one, such as 6.12")
    if action in ("ls", "check") and names:
        raise UserError(f"kernel {action}: takes no RELEASE, got {names[0]!r}")
    if action == "get":
        return _get(names, arch, page, quiet)
    if action == "rm":
        return _rm(names, quiet)
    return _check(arch, as_json) if action == "check" else _ls(as_json)


def _get(names: list[str], arch: str | None, page: str, quiet: bool) -> int:
    from sweep.kernel_images.packaged_kernels import get_kernels

    get_kernels(names, _scenario_arch(arch, page), lambda line: None if quiet else messages.print_note(line))
    return 0


def _scenario_arch(arch: str | None, page: str) -> str:
    """Scenario.arch of --arch and --page. Raises UserError."""
    import platform

    from engine.guest.image import ARM
    from engine.kernel.host import ARCH_OF
    from engine.model.arch import KIB
    from sweep.common.units import parse_size

    if arch is None:
        arch = "arm64" if platform.machine() == ARM else "x86-64"
    try:
        size = parse_size(page)
    except UserError as error:
        raise UserError(f"--page: {error}") from None
    known = {pages: name for (_, pages), name in ARCH_OF.items() if name.startswith(arch)}
    if size not in known:
        sizes = ", ".join(f"{pages // KIB}KiB" for pages in known)
        raise UserError(f"--page {page}: not a page size of {arch}; known: {sizes}")
    return known[size]


def _ls(as_json: bool) -> int:
    from engine.model.arch import KIB, MIB
    from sweep.kernel_images.kernel_cache import cached_kernels

    rows = [
        (i.release, i.arch, i.page_bytes // KIB, round(i.path.stat().st_size / MIB), str(i.path))
        for i in cached_kernels()
    ]
    if as_json:
        output_formats.print_json([dict(zip(LIST_COLUMNS, row, strict=True)) for row in rows])
    elif rows:
        output_formats.print_rows(LIST_COLUMNS[:-1], [row[:-1] for row in rows], "table")
    else:
        messages.print_note("no kernels; sweep kernel get 6.12 downloads one")
    return 0


def _rm(names: list[str], quiet: bool) -> int:
    from sweep.kernel_images.kernel_cache import remove_kernels

    for image in remove_kernels(names):
        if not quiet:
            messages.print_note(f"{image.release}: deleted")
    return 0


def _check(arch: str | None, as_json: bool) -> int:
    """Print what guests need and have on this machine. Returns 1 if no guest of an asked architecture boots."""
    from engine.guest.image import ARM, MACHINES, X86
    from sweep.kernel_images.guest_check import check_machine
    from sweep.kernel_images.kernel_cache import cached_kernels

    images = cached_kernels()
    machines = MACHINES if arch is None else (ARM if arch == "arm64" else X86,)
    checks = [check for machine in machines for check in check_machine(machine, images)]
    rows = [(c.what, c.machine, bool(c.found), c.found or as_called(c.advice)) for c in checks]
    if as_json:
        output_formats.print_json([dict(zip(CHECK_COLUMNS, row, strict=True)) for row in rows])
    else:
        output_formats.print_rows(CHECK_COLUMNS, rows, "table")
    booted = {c.machine for c in checks if c.what.startswith("boot") and c.found}
    return 0 if booted and (arch is None or booted >= set(machines)) else 1
