"""Disturb launches at random moments, launch again, and count what is lost or doubled: a table, a line a kind."""

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
    parser.add_argument("trials", type=int, nargs="?", default=100, metavar="N", help="how many; default 100")
    parser.add_argument("--seed", type=int, default=1, help="of the moments; default 1")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these")
    options = parser.parse_args()
    kinds = (
        [options.kind[n % len(options.kind)] for n in range(options.trials)] if options.kind else order(options.trials)
    )
    if not can_mount():
        print(f"scripts/chaos: no tmpfs can be mounted here; left out: {', '.join(MOUNTS)}", file=sys.stderr)
        kinds = [kind for kind in kinds if kind not in MOUNTS]
    found: dict[str, list[Verdict]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="x", dir="/tmp") as folder:  # short: Ray puts sockets there
        bench = Bench(Path(folder))
        print(f"scripts/chaos: an undisturbed launch takes {bench.seconds:.1f} s", file=sys.stderr)
        try:
            for number, kind in enumerate(kinds, 1):
                verdict = trial(bench, kind, KINDS[kind], number, options.seed)
                found[kind].append(verdict)
                told = f"NOT KEPT: {verdict.broken}" if verdict.broken else f"{verdict.seconds:.1f} s to resume"
                print(f"scripts/chaos: {number}/{len(kinds)} {kind}: {told}", file=sys.stderr)
        finally:
            bench.kill_cluster()
    return show({kind: found[kind] for kind in KINDS if kind in found})


def show(found: dict[str, list[Verdict]]) -> int:
    print("| what happened | moments tried | rows lost | rows doubled | promises broken | s to resume, median | max |")
    print("|---|---|---|---|---|---|---|")
    everything = [one for verdicts in found.values() for one in verdicts]
    for kind, verdicts in [*found.items(), ("all", everything)]:
        seconds = [one.seconds for one in verdicts]
        lost, doubled = sum(one.lost for one in verdicts), sum(one.doubled for one in verdicts)
        broken = sum(bool(one.broken) for one in verdicts)
        times = f"{statistics.median(seconds):.1f} | {max(seconds):.1f}"
        print(f"| {kind} | {len(verdicts)} | {lost} | {doubled} | {broken} | {times} |")
    return int(any(one.lost or one.doubled or one.broken for one in everything))


if __name__ == "__main__":
    sys.exit(main())
