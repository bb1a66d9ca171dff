"""Disturb launches at random moments, launch again, and count lost and doubled rows: a table, one line per kind."""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.support.chaos import Reference, Verdict, run_trial
from tests.support.chaos_disturbances import DISTURBANCES, NEED_MOUNT, can_mount, schedule


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("trials", type=int, nargs="?", default=100, metavar="N", help="number of trials; default 100")
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments; default 1")
    parser.add_argument("--kind", choices=DISTURBANCES, action="append", help="only this kind; can be repeated")
    options = parser.parse_args()
    kinds = (
        [options.kind[n % len(options.kind)] for n in range(options.trials)]
        if options.kind
        else schedule(options.trials)
    )
    if not can_mount():
        print(f"scripts/chaos: no tmpfs can be mounted here; left out: {', '.join(NEED_MOUNT)}", file=sys.stderr)
        kinds = [kind for kind in kinds if kind not in NEED_MOUNT]
    verdicts: dict[str, list[Verdict]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="x", dir="/tmp") as folder:  # short: Ray puts sockets there
        reference = Reference(Path(folder))
        print(f"scripts/chaos: an undisturbed launch takes {reference.seconds:.1f} s", file=sys.stderr)
        try:
            for number, kind in enumerate(kinds, 1):
                verdict = run_trial(reference, kind, DISTURBANCES[kind], number, options.seed)
                verdicts[kind].append(verdict)
                result = f"NOT KEPT: {verdict.broken}" if verdict.broken else f"{verdict.seconds:.1f} s to resume"
                print(f"scripts/chaos: {number}/{len(kinds)} {kind}: {result}", file=sys.stderr)
        finally:
            reference.kill_cluster()
    return print_table({kind: verdicts[kind] for kind in DISTURBANCES if kind in verdicts})


def print_table(verdicts_of: dict[str, list[Verdict]]) -> int:
    """Print a line per kind and one for all; return 1 if a row was lost or doubled or a promise broken, else 0."""
    print("| what happened | moments tried | rows lost | rows doubled | promises broken | s to resume, median | max |")
    print("|---|---|---|---|---|---|---|")
    everything = [verdict for verdicts in verdicts_of.values() for verdict in verdicts]
    for kind, verdicts in [*verdicts_of.items(), ("all", everything)]:
        seconds = [verdict.seconds for verdict in verdicts]
        lost, doubled = sum(v.lost for v in verdicts), sum(v.doubled for v in verdicts)
        broken = sum(bool(verdict.broken) for verdict in verdicts)
        times = f"{statistics.median(seconds):.1f} | {max(seconds):.1f}"
        print(f"| {kind} | {len(verdicts)} | {lost} | {doubled} | {broken} | {times} |")
    return int(any(verdict.lost or verdict.doubled or verdict.broken for verdict in everything))


if __name__ == "__main__":
    sys.exit(main())
