"""The command line: names the commands, imports one when it is called, and turns every end into an exit code.

0 all ok; 1 some points failed; 2 bad usage, grid or input; 3 interrupted; 4 a fault of ours; 5 regression found.
"""

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from sweep import __version__
from sweep.cli.output_streams import visible_control_characters
from sweep.common.errors import UserError, did_you_mean, one_line, printable, unknown_name

COMMANDS = {
    "grids": ("grids", "List the grids that ship, with their questions."),
    "plan": ("plan", "What a launch would run: points, exclusions, duplicates, time, memory."),
    "launch": ("launch", "Run what is missing of a grid, write Parquet, summarise."),
    "ls": ("runs", "List the runs of a store."),
    "show": ("runs", "One run: its points, failures, provenance."),
    "why": ("why", "One point's identity: which values make its id."),
    "rm": ("runs", "Delete a run."),
    "query": ("query", "SQL over the results: text, file or named query."),
    "compare": ("compare", "Two runs: what differs in the second, and whether it is worse."),
    "calibrate": ("calibrate", "Measure this machine's costs, and write a cost table."),
    "validate": ("validate", "The same points on the model and on the live kernel, side by side."),
    "replay": ("replay", "Traces under every policy: VmPTE step by step, and what the calls cover."),
    "advise": ("advise", "What reclaim can give back for a VIRT, RES, VmPTE, and what to change in the allocator."),
    "inspect": ("inspect", "A live process: its tables, how many are empty, what each policy would give back."),
}
"""Name: module in sweep.cli.commands (its function has the command's name), help."""

USAGE, INTERRUPTED, FAULT = 2, 3, 4
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a disk says when it takes no more: no fault of ours, wherever it happens."""


class Lazy(TyperGroup):
    """A group whose help needs no command's module."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, help_line = COMMANDS[cmd_name]
        function = getattr(importlib.import_module(f"sweep.cli.commands.{module}"), cmd_name)
        app = _app(context_settings={"help_option_names": ["-h", "--help"]})
        app.command(name=cmd_name, help=function.__doc__ or help_line)(function)
        return get_command(app)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UserError(unknown_name("command", args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])


def _app(**settings: Any) -> typer.Typer:
    return typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, **settings)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"sweep {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """What each design for freeing empty page tables saves and costs: grids in, Parquet and SQL out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. The console script passes it to sys.exit."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - as long as we live
    with visible_control_characters():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in options
    if debug:
        words.remove("--debug")
    try:
        _must_be_text(words)
        code, said = _call(words), ""
    except (Exception, KeyboardInterrupt) as error:
        code, said = _told(error, debug)
        if debug and said:
            traceback.print_exc()
    refused = getattr(sys.modules.get("engine.compilation.cache"), "refused", "")
    if refused:
        with suppress(OSError):
            print(f"sweep: {printable(refused)}", file=sys.stderr)
    gone = _flush(sys.stdout)
    if gone and not said:
        code, said = USAGE, f"stdout: {gone}"
    if said:
        with suppress(OSError):
            print(f"sweep: {printable(said)}", file=sys.stderr)
    _flush(sys.stderr)
    return code


def _told(error: BaseException, debug: bool) -> tuple[int, str]:
    """The exit code for what ended a command, and the line that says it."""
    if isinstance(error, BrokenPipeError):
        return 0, ""  # the reader has what it wanted
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, UserError):
        return USAGE, str(error)
    if isinstance(error, TyperException):
        return USAGE, _usage(error)
    if isinstance(error, OSError) and error.errno in FULL:
        return USAGE, f"{error.filename or 'output'}: {error.strerror}"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return FAULT, f"fault of ours: {what}" + ("" if debug else "; run with --debug")


def _must_be_text(words: list[str]) -> None:
    """Bytes that are not UTF-8 come in as lone surrogates, which neither SQL nor JSON nor Parquet can hold."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(f"{one_line(ascii(word))}: not UTF-8 text; rename the file, or write it as UTF-8") from None


def _flush(stream: TextIO) -> str:
    """Why the stream takes no more, if that is not only a reader who has gone. Then what is left goes nowhere."""
    try:
        stream.flush()
    except OSError as error:
        # Python flushes once more at its end, and would end with 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return "" if isinstance(error, BrokenPipeError) else error.strerror or str(error)
    return ""


def _call(words: list[str]) -> int:
    app = _app(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
    app.callback()(_root)
    group = get_command(app)
    if not words:
        with group.make_context("sweep", ["--help"], resilient_parsing=True) as context:
            print(group.get_help(context), file=sys.stderr)
        return USAGE
    try:
        with group.make_context("sweep", words) as context:
            code = group.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return code if isinstance(code, int) else 0


def _usage(error: TyperException) -> str:
    """`launch: no such option: --fres; did you mean '--fresh'? see sweep launch --help`, one line."""
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "sweep"
    told = " ".join(error.format_message().split()).rstrip(".").replace(": Value error, ", ": ")
    option, parameters = getattr(error, "option_name", None), getattr(getattr(context, "command", None), "params", ())
    hint = did_you_mean(option, [name for p in parameters for name in p.opts]) if option else ""
    command = path.removeprefix("sweep").strip()
    told = told[:1].lower() + told[1:]
    return f"{command + ': ' if command else ''}{told}{hint or ';'} see {path} --help"


if __name__ == "__main__":
    sys.exit(main())
