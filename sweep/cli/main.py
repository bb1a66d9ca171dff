"""The command line: imports the module of the command that was named, runs it, and returns the exit code.

Exit codes: 0 all ok; 1 some points failed, or the live kernel differs; 2 bad usage, grid or input; 3 interrupted;
4 an internal error; 5 `sweep compare` found a regression.
"""

import errno
import functools
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, TextIO

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from sweep import __version__
from sweep.cli import page
from sweep.cli.messages import print_error
from sweep.cli.options import Wide
from sweep.cli.output_streams import visible_control_characters
from sweep.cli.program_name import remember_program
from sweep.cli.signals import INTERRUPTED, LINE
from sweep.common.errors import UserError, UserErrors, did_you_mean, one_line, unknown_name
from sweep.executors import ray_session_dir


class Command(NamedTuple):
    """An entry of COMMANDS: `module` in sweep.cli.commands has a function of the command's name."""

    module: str
    summary: str


COMMANDS = {
    "grids": Command("grids", "List the grids that ship, with their questions."),
    "plan": Command("plan", "Count the points that a launch would run; estimate time and memory."),
    "launch": Command("launch", "Run the missing points of a grid and store the results."),
    "ls": Command("runs", "List the runs of a store."),
    "watch": Command("watch", "Show the progress of a run that was launched elsewhere."),
    "show": Command("runs", "Show one run: its points, failures and provenance."),
    "why": Command("why", "Show the values that make up the id of a point."),
    "rm": Command("runs", "Delete runs."),
    "policy": Command("policy", "List the policies, or show the rule of one as YAML for a grid."),
    "query": Command("query", "Query the results with SQL: text, a file or a named query."),
    "report": Command("report", "Write a page about a run: question, answer, pictures, tables."),
    "plot": Command("plot", "Draw a run: a picture file, or bars in the terminal."),
    "compare": Command("compare", "Compare two runs: what differs, and whether it is worse."),
    "calibrate": Command("calibrate", "Measure the costs of this machine; write a cost table."),
    "validate": Command("validate", "Compare the model with the live kernel, point by point."),
    "kernel": Command("kernel", "Download and list kernels that run in guests; check what a guest needs."),
    "record": Command("record", "Record what a program does with its memory."),
    "replay": Command("replay", "Replay traces under every policy."),
    "advise": Command("advise", "Estimate what reclaim can give back; list allocator settings."),
    "inspect": Command("inspect", "Count the empty page tables of a live process."),
}

BAD_USAGE, INTERNAL_ERROR = 2, 4
OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a full or failing disk. They are reported as such wherever they occur, not as internal errors."""
NO_ROOM = "failed to map segment from shared object"
"""In the ImportError of a library for which `ulimit -v` leaves too little memory."""
COMPLETION = "_SWEEP_COMPLETE"
"""Set by the script that --install-completion writes, when a shell asks what may follow."""
COMPLETION_OPTIONS = ("--install-completion", "--show-completion")
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
"""Shells for which Typer has a script of completion."""
PLAIN_TEXTS = {
    "Input should be a valid integer, unable to parse string as an integer": "not a whole number",
    "Input should be a valid number, unable to parse string as a number": "not a number",
    "Input should be greater than or equal to ": "must be at least ",
}
"""What Typer's messages say of values that are no numbers, in our words."""
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class LazyGroup(TyperGroup):
    """The group of all commands. Imports a command's module only when that command is called.

    The docstring of a command is its help; the last paragraph, `Example: ...`, is printed after the options.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"sweep.cli.commands.{COMMANDS[cmd_name].module}")
        function = getattr(module, cmd_name)
        text, _, example = (inspect.getdoc(function) or "").rpartition("\n\nExample: ")
        app = _typer_app(context_settings=HELP_OPTIONS)
        app.command(name=cmd_name, help=text, epilog=f"Example: {example}")(_with_wide(function))
        return get_command(app)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UserError(unknown_name("command", args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])


def _with_wide(function: Callable[..., int]) -> Callable[..., int]:
    """The command with the option --wide, which concerns all that is printed and not what a command does."""

    @functools.wraps(function)
    def command(*, wide: bool, **arguments: Any) -> int:
        page.set_wide(wide)
        form = arguments.get("format")
        if arguments.get("as_json") and form not in (None, "table", "json"):
            raise UserError(f"--json: not with --format {form}; leave one of them out")
        return function(**arguments)

    signature = inspect.signature(function, eval_str=True)
    wide = inspect.Parameter("wide", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Wide)
    command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), wide])  # type: ignore[attr-defined]
    return command


def _typer_app(*, add_completion: bool = False, **settings: Any) -> typer.Typer:
    return typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=add_completion, **settings)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"sweep {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
) -> None:
    """Measure what each design for freeing empty page tables saves and costs.

    Grids of scenarios go in; results come out as Parquet files and SQL tables.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `arguments`: sys.argv without the program, by default.

    Errors become one line on stderr; with --debug, anywhere among the arguments, also a traceback.
    """
    _open_closed_streams()
    if arguments is None:
        remember_program(COMMANDS)
    with visible_control_characters():
        return _main(list(sys.argv[1:] if arguments is None else arguments))


def _main(words: list[str]) -> int:
    options = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in options
    if debug:
        words.remove("--debug")
    try:
        _check_utf8(words)
        ray_session_dir.remove_abandoned()
        code, messages = _run(words), list[str]()
    except (Exception, KeyboardInterrupt) as error:
        code, messages = _code_and_messages(error, debug)
        if debug and messages:
            traceback.print_exc()
    cache_warning = getattr(sys.modules.get("engine.numeric.compiled_cache"), "refused", "")
    if cache_warning:
        print_error(cache_warning)
    output_error = _flush(sys.stdout)
    if output_error and not messages:
        code, messages = BAD_USAGE, [f"stdout: {output_error}"]
    for message in messages:
        print_error(message)
    _flush(sys.stderr)
    return code


def _open_closed_streams() -> None:
    """Send output to /dev/null where the caller closed a standard stream (`>&-`): Python then has None there."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - open until exit


def _check_utf8(words: list[str]) -> None:
    """Raise UserError for an argument that is not UTF-8: its lone surrogates fit neither SQL nor JSON nor Parquet."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(f"{one_line(ascii(word))}: not UTF-8 text; rename the file, or write it as UTF-8") from None


def _run(words: list[str]) -> int:
    """Parse the arguments, run the command and return its exit code."""
    app = _typer_app(cls=LazyGroup, context_settings=HELP_OPTIONS, add_completion=True)
    app.callback()(_root)
    group = get_command(app)
    if COMPLETION in os.environ:
        group.main(words, prog_name="sweep")  # prints what may follow, and ends this process
    if not words:
        with group.make_context("sweep", ["--help"], resilient_parsing=True) as context:
            print(group.get_help(context), file=sys.stderr)
        return BAD_USAGE
    if words[0] in COMPLETION_OPTIONS:
        _check_shell(words[0])
    try:
        with group.make_context("sweep", words) as context:
            code = group.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return code if isinstance(code, int) else 0


def _check_shell(option: str) -> None:
    """Raise UserError where Typer would have no script for the shell from which this is called."""
    import shellingham

    try:
        shell = shellingham.detect_shell()[0]
    except shellingham.ShellDetectionError:
        shell = "not known"
    if shell not in SHELLS:
        raise UserError(f"{option}: the shell is {shell}; call it from bash, zsh, fish or PowerShell")


def _code_and_messages(error: BaseException, debug: bool) -> tuple[int, list[str]]:
    """The exit code for an exception, and the lines to print: none for a reader that closed the pipe."""
    if isinstance(error, BrokenPipeError):
        return 0, []
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, [LINE]
    if isinstance(error, UserErrors):
        return BAD_USAGE, [str(one) for one in error.errors]
    if isinstance(error, UserError):
        return BAD_USAGE, [str(error)]
    if isinstance(error, TyperException):
        return BAD_USAGE, [_usage_message(error)]
    if isinstance(error, OSError) and error.errno in OUTPUT_ERRORS:
        return BAD_USAGE, [f"{error.filename or 'output'}: {error.strerror}"]
    if isinstance(error, MemoryError) or NO_ROOM in str(error):
        return BAD_USAGE, ["out of memory: the limit of this process (ulimit -v, -d) or machine is too low"]
    description = " ".join(f"{type(error).__name__}: {error}".split())
    return INTERNAL_ERROR, [f"internal error: {description}" + ("" if debug else "; run with --debug")]


def _usage_message(error: TyperException) -> str:
    """`launch: no such option: --fres; did you mean '--fresh'? see sweep launch --help`, one line."""
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "sweep"
    message = " ".join(error.format_message().split()).rstrip(".").replace(": Value error, ", ": ")
    message = re.sub(r" \(Possible options?: .*\)$", "", message)  # of these the nearest is named below
    for pydantic, plain in PLAIN_TEXTS.items():
        message = message.replace(pydantic, plain)
    message = message[:1].lower() + message[1:]
    option, parameters = getattr(error, "option_name", None), getattr(getattr(context, "command", None), "params", ())
    hint = did_you_mean(option, [name for parameter in parameters for name in parameter.opts]) if option else ""
    command = path.removeprefix("sweep").strip()
    return f"{command + ': ' if command else ''}{message}{hint or ';'} see {path} --help"


def _flush(stream: TextIO) -> str:
    """Flush a stream. Returns the reason if that failed, except for a closed pipe; the rest then goes to /dev/null."""
    try:
        stream.flush()
    except OSError as error:
        # Otherwise Python's own flush at exit would fail too, with exit code 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return "" if isinstance(error, BrokenPipeError) else error.strerror or str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main())
