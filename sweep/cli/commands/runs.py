"""sweep ls, show, rm: list, show and delete the runs of a store."""

import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep.cli import messages, output_formats
from sweep.cli.options import STORE, AsJson, JsonFormat, OutputFormat, Results, missing_store, results_option
from sweep.cli.tables.value_text import readable
from sweep.common.errors import UserError

if TYPE_CHECKING:
    from sweep.store.store import RunInfo, Store

LISTED_COLUMNS = ("run_id", "status", "ok", "failed", "todo", "engine", "updated")
MOST_FAILURES = 5


def ls(
    format: OutputFormat = "table",  # noqa: A002
    as_json: JsonFormat = False,
    results: Results = STORE,
) -> int:
    """List the runs of a store, the latest launch last.

    A store that --results names must exist; the default one need not yet.

    Example: sweep ls --json
    """
    from sweep.common import schema
    from sweep.store.store import open_store

    store = open_store(results)
    is_missing = store.is_local and not store.exists  # an empty prefix may be a store
    if is_missing and results != STORE:
        raise UserError(missing_store(store.place, results))
    survey = store.survey()
    form = "json" if as_json else format
    names = LISTED_COLUMNS if form in ("table", "md") else tuple(column.name for column in schema.RUNS)
    if survey.runs or form != "table":
        output_formats.print_rows(names, ([run.row[name] for name in names] for run in survey.runs), form)
    for problem in survey.problems:
        messages.print_note(f"warning: {problem}")
    if not survey.runs:
        where = "no store yet at" if is_missing else "no run in"
        command = f"sweep launch GRID{results_option(results)}"
        messages.print_note(f"{where} {store.place} (--results DIR names another); the next command: {command}")
    return 0


def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run: its id, the start of its id, or last.")] = "last",
    grid: Annotated[
        bool, typer.Option("--grid", help="Print the text of the run's grid file, with its -S options as a comment.")
    ] = False,
    as_json: AsJson = False,
    results: Results = STORE,
) -> int:
    """Show one run: its points, its failures, and the program and machine that made it.

    Example: sweep show last --grid
    """
    from sweep.store.store import open_store

    store = open_store(results)
    info = store.find(run)
    facts = _run_facts(info)
    if grid:
        output_formats.print_text(info.document["grid"]["text"])
        if facts["overrides"]:
            output_formats.print_line(f"# launched with {_set_options(facts['overrides'])}")
        return 0
    failures = _failures(store, info) if info.failed else []
    if as_json:
        output_formats.print_json({**facts, "failures": failures, "document": info.document})
        return 0
    for name, text in (*_run_lines(facts), *_failure_lines(facts["run_id"], failures, results)):
        output_formats.print_paragraph(f"{name:10} {readable(text)}", " " * 11)
    return 0


def rm(
    run: Annotated[list[str], typer.Argument(metavar="RUN", help="Runs: their ids, starts of ids, or last.")],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Delete without asking.")] = False,
    as_json: AsJson = False,
    results: Results = STORE,
) -> int:
    """Delete runs with all their rows.

    Example: sweep rm first-f8eea1dd --yes
    """
    from sweep.store.store import open_store

    store = open_store(results)
    names = list(dict.fromkeys(store.find_name(wanted) for wanted in run))
    if not yes and not _confirm_deletion(names):
        messages.print_note("nothing deleted")
        return 2
    for name in names:
        kept = store.remove(name)
        links = f"; kept what its links name: {', '.join(kept)}" if kept else ""
        messages.print_note(f"deleted {name}{links}")
    if as_json:
        output_formats.print_json({"deleted": names})
    return 0


def _confirm_deletion(names: list[str]) -> bool:
    if not sys.stdin.isatty():
        raise UserError(f"rm would delete {', '.join(names)}; add --yes to delete without being asked")
    return output_formats.confirm(f"delete {', '.join(names)} permanently?")


def _run_facts(info: "RunInfo") -> dict[str, Any]:
    """The run's row of the view `runs`, and what its document and its files add."""
    from sweep.store.parts import read_layout

    layout = read_layout(info.path)
    launches, grid = info.document["launches"], info.document["grid"]
    last = launches[-1] if launches else {}
    return {
        **info.row,
        "source": grid.get("source"),
        "overrides": grid.get("overrides", []),
        "launches": len(launches),
        "like": last.get("like"),
        "packages": last.get("packages", {}),
        "policies": [{name: row[name] for name in row if name != "run_id"} for row in info.policy_rows],
        "derived": info.document.get("derived", {}),
        "files": sum(len(layout.of(table)) for table in layout.files),
        "bytes": sum(layout.bytes_of(part) for part in layout.parts),
    }


def _failures(store: "Store", info: "RunInfo") -> list[dict[str, Any]]:
    """Rows of the named query `failures`: each error of the run, how many points have it, and one of these points."""
    from sweep.query.database import Database
    from sweep.query.named_queries import named_query

    with Database(store, run=info.run_id) as database:
        rows: list[dict[str, Any]] = database.query(named_query("failures").sql).to_pylist()
        return rows


def _set_options(overrides: list[str]) -> str:
    """Overrides as command-line options on one line: `-S fixed.virt=4GiB`."""
    return " ".join(f"-S {shlex.quote(' '.join(override.split()))}" for override in overrides)


def _run_lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, text) of each line that describes a run."""
    from sweep.common.units import human_size

    todo = "" if facts["todo"] is None else f", {facts['todo']:,} to run"
    commit = f", commit {facts['git_commit']}" if facts["git_commit"] else ""
    created, updated = map(readable, (facts["created"], facts["updated"]))
    yield "run", facts["run_id"]
    yield "grid", " ".join(filter(None, (facts["grid"], f"({facts['source']})" if facts["source"] else "")))
    if facts["overrides"]:
        yield "with", _set_options(facts["overrides"])
    if facts["like"]:
        yield "repeats", facts["like"]
    if facts["about"]:
        yield "about", facts["about"]
    if any(not policy["built_in"] for policy in facts["policies"]):
        rules = (p["policy"] + ("" if p["built_in"] else f" ({p['rule']})") for p in facts["policies"])
        yield "policies", ", ".join(rules)
    yield "status", f"{facts['status']}: {facts['ok']:,} points ok, {facts['failed']:,} failed{todo}"
    yield "created", f"{created} UTC, updated {updated}; launches: {facts['launches']}"
    yield "engine", f"{facts['engine']}, model version {facts['model_version']}, ptsweep {facts['version']}{commit}"
    yield "seed", f"{facts['seed']}, repeats {facts['repeats']}"
    yield "host", f"{facts['host']}, Linux {facts['kernel']}, {facts['cpu_model'] or 'CPU unknown'}"
    yield "packages", ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    for name, sql in facts["derived"].items():
        yield "derived", f"{name} = {sql}"
    yield "files", f"{facts['files']:,}, {human_size(facts['bytes'])}"


def _failure_lines(run_id: str, failures: list[dict[str, Any]], results: str) -> Iterator[tuple[str, str]]:
    """(status, text) of the most frequent errors, and the command that lists all."""
    for failure in failures[:MOST_FAILURES]:
        error = readable(failure["error"])
        yield failure["status"], f"{failure['points']:,} points: {error} (such as {failure['example']})"
    if len(failures) > MOST_FAILURES:
        command = f"sweep query failures --run {run_id}{results_option(results)}"
        yield "", f"and {len(failures) - MOST_FAILURES} more errors: {command}"
