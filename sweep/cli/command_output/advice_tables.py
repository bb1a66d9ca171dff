"""The tables of `sweep advise`: facts with their sources, kernels that free tables, settings of allocators."""

from collections.abc import Iterable, Iterator
from dataclasses import astuple
from typing import TYPE_CHECKING, Any, NamedTuple

from sweep.cli import output_formats

if TYPE_CHECKING:
    from sweep.process.advice import Fact
    from sweep.process.allocator_settings import AllocatorSetting

FACT_COLUMNS = ("topic", "what", "least", "most", "unit", "from")
KERNEL_COLUMNS = ("policy", "in", "from")
KNOB_COLUMNS = ("allocator", "knob", "default", "effect", "from")


class OutputTable(NamedTuple):
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def _kernel_rows() -> Iterator[tuple[str, str, str]]:
    from sweep.process.advice import REFERENCE
    from sweep.process.kernels import KERNELS_WITH_POLICY, running_kernel

    for policy, releases in KERNELS_WITH_POLICY:
        yield policy, releases, REFERENCE
    yield "this kernel", running_kernel(), "this machine"


def _knob_rows(settings: "Iterable[AllocatorSetting]") -> Iterator[tuple[str, ...]]:
    for setting in settings:
        source = f"documentation: {setting.source}"
        yield setting.allocator, setting.setting, setting.default, setting.effect, source


def print_tables(tables: dict[str, OutputTable], form: str) -> None:
    """Print tables one below the other."""
    for number, (name, table) in enumerate(tables.items()):
        if number:
            output_formats.print_line()
        if name == "knobs" and form == "table":
            _print_knobs(table.rows)
        else:
            rows = map(_with_units, table.rows) if name == "facts" and form == "table" else table.rows
            output_formats.print_rows(table.columns, rows, form)


def _with_units(fact: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row of facts with bytes as sizes and shares as per cent, for people."""
    from sweep.common.units import format_size, human_size

    topic, what, least, most, unit, source = fact
    if unit == "bytes":
        size = format_size if topic == "calls" else human_size
        return topic, what, size(least), size(most), "", source
    if unit.startswith("share"):
        percents = (None if share is None else f"{share:.1%}" for share in (least, most))
        return topic, what, *percents, unit.removeprefix("share "), source
    return fact


def _print_knobs(rows: list[tuple[Any, ...]]) -> None:
    """Print a paragraph per setting: its sentences would make a table too wide."""
    for allocator, knob, default, effect, source in rows:
        output_formats.print_paragraph(f"{allocator}: {knob} (default: {default})", " " * 4)
        for text in (effect, source):
            output_formats.print_paragraph(f"    {text}", " " * 4)


def advice_tables(facts: "Iterable[Fact]", settings: "Iterable[AllocatorSetting]") -> dict[str, OutputTable]:
    """The tables by name, as --by has it."""
    return {
        "facts": OutputTable(FACT_COLUMNS, [astuple(fact) for fact in facts]),
        "kernels": OutputTable(KERNEL_COLUMNS, list(_kernel_rows())),
        "knobs": OutputTable(KNOB_COLUMNS, list(_knob_rows(settings))),
    }
