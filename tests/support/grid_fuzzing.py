"""Generate hostile grids and long texts, and check what the program does with them.

A check raises Violation for a hang, for a message that is not one printable line, and for a grid that is accepted but
cannot be planned; any other exception is a violation too. `scripts/fuzz N` checks N grids, guided by coverage;
test_fuzz.py checks a thousand. tests/support/sql_fuzzing.py does the same for SQL.
"""

import contextlib
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

from sweep.common import units
from sweep.common.errors import UserError, UserErrors
from sweep.grid import axes, field_values, grid, grid_file, loader, rules, sql_expressions, yaml_reader
from sweep.grid.loader import parse_grid
from sweep.run import plan
from tests.paths import ROOT

LIMIT_S = 10
MAX_PLANNED_POINTS = 20_000
GUIDED_MODULES = (axes, field_values, grid, grid_file, loader, plan, rules, sql_expressions, units, yaml_reader)
# fmt: off
WORDS = (
    # sections of a grid
    "schema: sweep/1", "name: a", "fixed: {virt: 64GiB, sparsity: 0.9}", "axes: {zap: [64KiB, 2MiB]}",
    "repeats: 3", "zip: {p: {virt: [1GiB, 2GiB], threads: [1, 8]}}", "include: [{virt: 1GiB, res: 2MiB}]",
    "seed: 9223372036854775807", "exclude: [{threads: 8, zap: 64KiB}]", 'exclude: [{where: "zap < cluster"}]',
    "derive: {a: zap * 2}", "policies: [none]", "policies: [{name: a, like: merged, least: 64KiB}]",
    'policies: {name: "a_{least}", like: merged, least: [4KiB, slot]}', "like", "least", "otherwise", "slot", "{least}",
    # rules
    "{pow2: {from: 4KiB, to: 1GiB}}", "{range: {from: 1, to: 1000000000, step: 1}}",
    "{log: {from: 1, to: 9e9, points: 10000}}",
    # YAML that is refused
    "workload: {trace: x.csv}", "&a [1, 2]", "*a", "<<: *a", "!!python/object/apply:os.system [id]", "%YAML 1.1",
    "---", "...",
    # values
    "-1", "0", "1", "4096", "1e308", "nan", ".nan", ".inf", "017", "0x10", "1_000", "1:30", "no", "~", "null",
    "55TiB", "64kb", "1B",
    # numbers at the limits
    "9" * 400, "0." + "9" * 400, "18446744073709551616", "-9223372036854775809", "1PiB", "0.1", "1.0",
    "0.0000000000000001",
    # syntax and characters
    "[", "]", "{", "}", ":", ": ", ",", "'", '"', "#", "|", ">", "\n", "  ", "\t", "\\", "?", "- ", "\x1b[31m",
    "\u202e", "\x00", "\ufeff",
    # fields
    "virt", "res", "sparsity", "cluster", "zap", "zap_shift", "threads", "rounds", "order", "advice", "arch",
    "seed", "folio", "refault",
    # words
    "random", "sequential", "dontneed", "free", "x86-64", "arm64-64k", "where", "because", "from", "to", "step",
    "points", "trace",
    # SQL
    "(SELECT 1)", "zap / 0", "zap * zap * zap", "repeat('x', 1000000000)", "random()", "now()", "getenv('HOME')",
    "sum(zap)", "a.b", "1=1--", "CAST(zap AS INTEGER)", "zap::VARCHAR", "'x'", "NULL", "TRUE", "1GiB",
    "list_sum(range(1000000000))", "virt ** 99", "ln(0)", "sqrt(-1)",
)
# fmt: on
"""Words and characters that mutations insert."""


class Violation(AssertionError):  # noqa: N818 - of a rule that the program must keep
    """The program did what it must not do."""


@contextlib.contextmanager
def limited(seconds: int = LIMIT_S) -> Iterator[None]:
    """Raise Violation if the block takes more CPU time than `seconds`, or ten times as much wall time."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Violation(f"took longer than {seconds} s")

    before = [signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(10 * seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before[0])
        signal.signal(signal.SIGALRM, before[1])


def memory_mib() -> int:
    """The peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def check_message(error: UserError) -> None:
    """Raise Violation unless each message is one printable line of at most 2,000 characters."""
    for text in map(str, error.errors if isinstance(error, UserErrors) else (error,)):
        if not text or len(text) > 2000 or not text.isprintable():
            raise Violation(f"not one clean line: {text!r}")


def check_grid(text: str) -> bool:
    """Whether the text is accepted as a grid. Raises Violation, also if an accepted grid has no proper plan."""
    try:
        with limited():
            parsed = parse_grid(text, "fuzz.yaml")
    except UserError as error:
        check_message(error)
        return False
    if parsed.raw_points <= MAX_PLANNED_POINTS and not parsed.traces:
        check_plan(parsed)
    return True


def check_plan(parsed: grid.Grid) -> None:
    """Raise Violation unless the plan is refused in one line, or has as many points as it counts."""
    try:
        with limited():
            planned = plan.make_plan(parsed)
    except UserError as error:
        check_message(error)
        return
    with limited():
        points = sum(len(block.ids) for block in planned.chunks())
    if points != planned.account.todo:
        raise Violation(f"{planned.account.todo} points were planned, {points} came")


def corpus() -> list[str]:
    """Grids to start from: the shipped ones, and two that have every section."""
    shipped = [path.read_text() for path in sorted((ROOT / "grids").glob("*.yaml"))]
    readme = (ROOT / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    return [readme, "\n".join(WORDS[:12]), *shipped]


def mutated(text: str, others: list[str], chance: random.Random) -> str:
    """`text` after some random changes: words inserted, parts cut, repeated, moved, or copied from `others`."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 8))):
        start = chance.randrange(len(text) + 1)
        stop = min(len(text), start + chance.choice((0, 1, 1, 2, 4, 8, 16, 64)))
        what = chance.randrange(7)
        if what == 0:
            new = chance.choice(WORDS)
        elif what == 1:
            new = ""
        elif what == 2:
            new = text[start:stop] * chance.choice((2, 3, 30, 300))
        elif what == 3:
            other = chance.choice(others)
            begin = chance.randrange(len(other) + 1)
            new = other[begin : begin + chance.randrange(80)]
        elif what == 4:
            new = chr(chance.choice((chance.randrange(32), chance.randrange(128), chance.randrange(0x110000))))
        else:
            lines = text.split("\n")
            line = chance.randrange(len(lines))
            if what == 5:
                indent = lines[line][: len(lines[line]) - len(lines[line].lstrip())]
                lines[line] = f"{indent}{lines[line].strip().partition(':')[0]}: {chance.choice(WORDS)}"
            else:
                lines.insert(chance.randrange(len(lines)), lines.pop(line))
            text = "\n".join(lines)
            continue
        text = text[:start] + new + text[stop:]
    return text[:6_000]


@dataclass
class Guide:
    """Coverage of GUIDED_MODULES as pairs of consecutive lines. A text that runs a new pair is mutated further."""

    files: frozenset[str] = field(default_factory=lambda: frozenset(str(module.__file__) for module in GUIDED_MODULES))
    pairs: set[tuple[CodeType, int, int]] = field(default_factory=set)
    _new: bool = False

    def run(self, check: Callable[[], object]) -> bool:
        """Call `check`; returns whether a new pair of lines was run."""
        self._new = False
        sys.settrace(self._call)
        try:
            check()
        finally:
            sys.settrace(None)
        return self._new

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self.files:
            return None
        last = 0

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            pair = frame.f_code, last, frame.f_lineno
            last = frame.f_lineno
            if pair not in self.pairs:
                self.pairs.add(pair)
                self._new = True
            return line

        return line


@dataclass
class Tally:
    """Counts of a fuzzing loop: texts checked, accepted, and kept for mutation; pairs of lines; violations."""

    inputs: int = 0
    accepted: int = 0
    kept: int = 0
    pairs: int = 0
    found: list[str] = field(default_factory=list)


def fuzz_grids(inputs: int, seed: int, report: Callable[[Tally], None] = lambda tally: None) -> Tally:
    """Check `inputs` texts: the corpus, then mutations of texts that ran new code. Calls `report` every 1,000 texts."""
    chance, guide, tally = random.Random(seed), Guide(), Tally()
    texts = corpus()
    for number in range(inputs):
        text = texts[number] if number < len(texts) else mutated(_pick(texts, chance), texts, chance)
        accepted: list[bool] = []
        try:
            new = guide.run(lambda text=text, accepted=accepted: accepted.append(check_grid(text)))  # type: ignore[misc]
        except Exception as error:
            tally.found.append(f"{type(error).__name__}: {error}\n{text}")
            continue
        tally.accepted += any(accepted)
        if new and number >= len(texts):
            texts.append(text)
        tally.inputs, tally.kept, tally.pairs = number + 1, len(texts), len(guide.pairs)
        if not tally.inputs % 1000:
            report(tally)
    return tally


def _pick(texts: list[str], chance: random.Random) -> str:
    """A random text, the latest ones more often than the others."""
    if chance.random() < 0.5:
        return texts[-1 - min(len(texts) - 1, int(chance.expovariate(1 / 40)))]
    return chance.choice(texts)


LONG_TEXT_UNITS = (
    *("9", "0", "a", " ", ".", "-", "_", "'", '"', "[", ") "),
    *("1:", ".5", "1_", "1 ", ":59", "1e", "ab ", "<>", "'a'", "f "),
)


def long_texts(
    length: int = 100_000,
    starts: tuple[str, ...] = ("", "-", "0", "0x", "1 "),
    ends: tuple[str, ...] = ("", "x", "KiB"),
) -> list[str]:
    """Texts of about `length` characters of one or two kinds. A pattern that backtracks needs minutes for some."""
    return [start + unit * (length // len(unit)) + end for unit in LONG_TEXT_UNITS for start in starts for end in ends]


def bombs() -> dict[str, str]:
    """Texts that are expensive for careless code; each must be refused or planned soon, in little memory."""
    head = "schema: sweep/1\nname: bomb\nfixed: {virt: 64GiB, sparsity: 0.9}\n"
    aliases = "\n".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]" for i in range(9))
    return {
        "a billion laughs": f"a: &a [lol]\n{aliases}\n",
        "deep brackets": "[" * 100_000,
        "deep mappings": "{a: " * 100_000,
        "deep blocks": "\n".join(" " * i + "a:" for i in range(1000)),
        "a range of 10^9": f"{head}axes: {{zap: {{range: {{from: 1, to: 1000000000, step: 1}}}}}}\n",
        "a product of 10^12": f"{head}axes: {{seed: {{range: {{from: 1, to: 1000000, step: 1}}}},"
        " rounds: {range: {from: 1, to: 1000000, step: 1}}}\n",
        "10^18 repeats": f"{head}repeats: 1000000000000000000\n",
        "a number of a million digits": f"{head}seed: {'9' * 1_000_000}\n",
        "a share of a million digits": f"{head}axes: {{refault: [0.{'1' * 900_000}]}}\n",
        "a word of a million letters": f"{head}about: {'x' * 1_000_000}\n",
        "ten megabytes": head + "# " + "x" * 10_000_000,
        "a list of 150,000": f"{head}axes: {{seed: [{','.join(map(str, range(150_000)))}]}}\n",
        "30,000 rules": f"{head}exclude: [{', '.join(['{threads: 8}'] * 30_000)}]\n",
        "2,000 derived": head + "derive:\n" + "".join(f"  a{i}: zap + {i}\n" for i in range(2_000)),
        "a long condition": f"{head}exclude: [{{where: '{' + '.join(['zap'] * 20_000)} < 3'}}]\n",
        "deep parentheses": f"{head}exclude: [{{where: '{'(' * 20_000}zap < 3{')' * 20_000}'}}]\n",
        "a text of 10^9": f"{head}derive: {{a: \"repeat('x', 1000000000)\"}}\n",
        "a list of 10^10": f'{head}derive: {{a: "list_sum(range(10000000000))"}}\n',
        "a regular expression": f"{head}derive: {{a: \"regexp_matches(repeat('a', 40), '(a|aa)+$')\"}}\n",
        "quotes": head + 'about: "' + "\\x41" * 200_000 + '"\n',
        "tabs and marks": "\ufeff" * 5 + "\t" * 1000 + head,
    }
