"""sweep ls, show, rm: the runs of a store."""

import json
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep.cli.options import STORE, AsJson, Facts, HowToPrint, Results, elsewhere
from sweep.common.errors import UserError, printable

if TYPE_CHECKING:
    from sweep.store.store import RunInfo

LISTED = ("run_id", "status", "ok", "failed", "todo", "engine", "updated")
FAILURES_SHOWN = 5


def ls(
    format: HowToPrint = "table",  # noqa: A002
    as_json: AsJson = False,
    results: Results = STORE,
) -> int:
    """List the runs of a store, the last launched one last."""
    from sweep.cli import output_formats
    from sweep.common import schema
    from sweep.store.store import open_store

    store = open_store(results)
    survey = store.survey()
    form = "json" if as_json else format
    names = LISTED if form in ("table", "md") else tuple(column.name for column in schema.RUNS)
    output_formats.write(names, ([run.row[name] for name in names] for run in survey.runs), form, sys.stdout)
    for problem in survey.problems:
        print(f"warning: {printable(problem)}", file=sys.stderr)
    if not survey.runs:
        print(f"no run in {store.root}; the next command: sweep launch GRID{elsewhere(results)}", file=sys.stderr)
    return 0


def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the start of one, or last.")] = "last",
    grid: Annotated[
        bool, typer.Option("--grid", help="Print the grid as it was written, its -S as a comment.")
    ] = False,
    as_json: Facts = False,
    results: Results = STORE,
) -> int:
    """One run: its points, failures, provenance."""
    from sweep.store.store import open_store

    store = open_store(results)
    info = store.find(run)
    facts = _facts(info)
    if grid:
        print(info.document["grid"]["text"].rstrip("\n"))
        if facts["overrides"]:
            print(f"# launched with {spelled(facts['overrides'])}")
        return 0
    failures = _failures(results, info) if info.failed else []
    if as_json:
        from sweep.cli.output_formats import plain

        facts = {**facts, "failures": failures, "document": info.document}
        print(json.dumps(plain(facts), indent=1, ensure_ascii=False))
        return 0
    _show(facts, failures, results)
    return 0


def rm(
    run: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids, starts of ids, or last.")],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    as_json: Facts = False,
    results: Results = STORE,
) -> int:
    """Delete runs, with all their rows."""
    from sweep.store.store import open_store

    store = open_store(results)
    names = list(dict.fromkeys(store.find_name(wanted) for wanted in run))
    if not yes and not _agreed(names):
        print("nothing deleted", file=sys.stderr)
        return 2
    for name in names:
        store.remove(name)
        print(f"deleted {name}", file=sys.stderr)
    if as_json:
        print(json.dumps({"deleted": names}))
    return 0


def _agreed(names: list[str]) -> bool:
    if not sys.stdin.isatty():
        raise UserError(f"rm would delete {', '.join(names)}; add --yes to do it without being asked")
    print(f"delete {', '.join(names)} for good? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _facts(info: "RunInfo") -> dict[str, Any]:
    """The row of `runs`, and what else describes a run."""
    from sweep.store.parts import look

    layout = look(info.path)
    launches, of_grid = info.document["launches"], info.document["grid"]
    return {
        **info.row,
        "source": of_grid.get("source"),
        "overrides": of_grid.get("overrides", []),
        "launches": len(launches),
        "like": (launches[-1] if launches else {}).get("like"),
        "packages": (launches[-1] if launches else {}).get("packages", {}),
        "derived": info.document.get("derived", {}),
        "files": sum(len(layout.of(table)) for table in layout.files),
        "bytes": sum(layout.bytes_of(part) for part in layout.parts),
    }


def _failures(results: str, info: "RunInfo") -> list[dict[str, Any]]:
    """What went wrong, how often, and one point to look at."""
    from sweep.query.database import Database
    from sweep.query.named_queries import named_query
    from sweep.store.store import open_store

    with Database(open_store(results), run=info.run_id) as database:
        rows: list[dict[str, Any]] = database.query(named_query("failures").sql).to_pylist()
        return rows


def spelled(overrides: list[str]) -> str:
    """`-S fixed.virt=4GiB`, as it would be typed, on one line."""
    return " ".join(f"-S {shlex.quote(' '.join(override.split()))}" for override in overrides)


def _show(facts: dict[str, Any], failures: list[dict[str, Any]], results: str) -> None:
    from sweep.cli.output_formats import shown
    from sweep.common.units import human_size

    def line(name: str, text: str) -> None:
        print(f"{printable(name):10} {printable(text)}")

    left = "" if facts["todo"] is None else f", {facts['todo']:,} to run"
    line("run", facts["run_id"])
    line("grid", " ".join(filter(None, (facts["grid"], f"({facts['source']})" if facts["source"] else ""))))
    if facts["overrides"]:
        line("with", shown(spelled(facts["overrides"])))
    if facts["like"]:
        line("repeats", facts["like"])
    if facts["about"]:
        line("about", shown(facts["about"]))
    line("status", f"{facts['status']}: {facts['ok']:,} points ok, {facts['failed']:,} failed{left}")
    line("created", f"{shown(facts['created'])} UTC, updated {shown(facts['updated'])}; launches: {facts['launches']}")
    commit = f", commit {facts['git_commit']}" if facts["git_commit"] else ""
    line("engine", f"{facts['engine']}, model version {facts['model_version']}, ptsweep {facts['version']}{commit}")
    line("seed", f"{facts['seed']}, repeats {facts['repeats']}")
    line("host", f"{facts['host']}, Linux {facts['kernel']}, {facts['cpu_model'] or 'CPU unknown'}")
    line("packages", ", ".join(f"{name} {version}" for name, version in facts["packages"].items()))
    for name, sql in facts["derived"].items():
        line("derived", f"{name} = {shown(sql)}")
    line("files", f"{facts['files']:,}, {human_size(facts['bytes'])}")
    for failure in failures[:FAILURES_SHOWN]:
        error = shown(failure["error"])
        line(failure["status"], f"{failure['points']:,} points: {error} (such as {failure['example']})")
    if len(failures) > FAILURES_SHOWN:
        ask = f"sweep query failures --run {facts['run_id']}{elsewhere(results)}"
        line("", f"and {len(failures) - FAILURES_SHOWN} more kinds: {ask}")
