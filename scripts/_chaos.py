"""Disturb launches at random moments, launch again, and count lost and doubled rows: a table, one line per kind."""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.support.chaos import Bench, Verdict, trial
from tests.support.chaos_kinds import KINDS, MOUNTS, can_mount, order


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("trials", type=int, nargs="?", default=100, metavar="N", help="number of trials; default 100")
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments; default 1")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind; can be repeated")
    options = parser.parse_args()
    kinds = (
        [options.kind[n % len(options.kind)] for n in range(options.trials)] if options.kind else order(options.trials)
    )
    if not can_mount():
        print(f"scripts/chaos: no tmpfs can be mounted here; left out: {', '.join(MOUNTS)}", file=sys.stderr)
        kinds = [kind for kind in kinds if kind not in MOUNTS]
    verdicts: dict[str, list[Verdict]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="x", dir="/tmp") as folder:  # short: Ray puts sockets there
        bench = Bench(Path(folder))
        print(f"scripts/chaos: an undisturbed launch takes {bench.seconds:.1f} s", file=sys.stderr)
        try:
            for number, kind in enumerate(kinds, 1):
                verdict = trial(bench, kind, KINDS[kind], number, options.seed)
                verdicts[kind].append(verdict)
                result = f"NOT KEPT: {verdict.broken}" if verdict.broken else f"{verdict.seconds:.1f} s to resume"
                print(f"scripts/chaos: {number}/{len(kinds)} {kind}: {result}", file=sys.stderr)
        finally:
            bench.kill_cluster()
    return print_table({kind: verdicts[kind] for kind in KINDS if kind in verdicts})


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
