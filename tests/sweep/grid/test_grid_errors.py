"""Messages about bad grids: one line with the place, what is wrong, what is allowed and the nearest right name."""

import pytest

from engine.model.scenario import FIELD
from sweep.common.errors import UserError, UserErrors
from sweep.grid.loader import parse_grid
from tests.support.grid_fuzzing import limited

HEAD = "schema: sweep/1\nname: a\n"
BASE = HEAD + "fixed: {virt: 1GiB, sparsity: 0.9}\n"
FIELDS = "known: " + ", ".join(FIELD)
TOP = (
    "known: schema, name, about, policies, kernels, workload, fixed, axes, zip, include, exclude, derive, repeats, seed"
)


def refused(text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        for _ in parse_grid(text, "g.yaml", overrides).chunks():
            pass
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


BAD = [
    ("- a", "g.yaml:1:1: a grid is a mapping that starts with `schema: sweep/1`"),
    ("name: a\n", "g.yaml:1:1: key 'schema' is required"),
    ("schema: sweep/2\nname: a\n", "g.yaml:1:9: schema: unknown 'sweep/2'; this program reads sweep/1"),
    ("schema: sweep/1\nnmae: a\n", f"g.yaml:2:1: unknown key 'nmae'; did you mean 'name'? {TOP}"),
    (HEAD + "policyy: [none]", f"g.yaml:3:1: unknown key 'policyy'; did you mean 'policies'? {TOP}"),
    (
        "schema: sweep/1\nname: First\n",
        "g.yaml:2:7: name: 'First' is not a name: a letter a-z, then up to 39 of a-z, 0-9, _ and -",
    ),
    (
        BASE + "policies: [none, mergd]",
        "g.yaml:4:18: policies[1]: unknown policy 'mergd'; did you mean 'merged'? known: none, refcount, async,"
        " second_walk, seed_inline, merged, munmap",
    ),
    (BASE + "policies: [none, none]", "g.yaml:4:18: policies[1]: none is listed twice"),
    (BASE + "axes:\n  zpa: [4KiB]", f"g.yaml:5:3: axes: unknown key 'zpa'; did you mean 'zap'? {FIELDS}"),
    (
        BASE + "axes:\n  policy: [none]",
        f"g.yaml:5:3: axes: unknown key 'policy'; {FIELDS}"
        " (every point is judged by all policies; choose them with `policies:` at the top)",
    ),
    (BASE + "axes: [zap]", "g.yaml:4:7: axes: must be a mapping (key: value)"),
    (BASE + "axes: {zap: [[4KiB]]}", "g.yaml:4:14: axes.zap[0]: must be a single value"),
    (BASE + "axes: {zap: []}", "g.yaml:4:13: axes.zap: an empty list; give one value or more, or leave the key out"),
    (HEAD + "fixed: {virt: [1GiB]}", "g.yaml:3:15: fixed.virt: must be a single value; lists and ranges go under axes"),
    (
        BASE + "axes: {zap: [64KB]}",
        "g.yaml:4:14: axes.zap[0]: '64KB': KB may mean powers of 1000 or 1024; write 64KiB (1024)",
    ),
    (BASE + "axes: {zap: [4KiB, 65536]}", "g.yaml:4:20: axes.zap[1]: '65536' has no unit; write 65536B or 64KiB"),
    (BASE + "axes: {zap: [5000B]}", "g.yaml:4:14: axes.zap[0]: 5000 bytes is not whole pages of 4096 bytes (5000B)"),
    (BASE + "axes: {zap: [0B]}", "g.yaml:4:14: axes.zap[0]: 0 bytes: must be one page or more (0B)"),
    (
        HEAD + "fixed: {virt: 1PiB, sparsity: 0.9}",
        "g.yaml:3:15: fixed.virt: 1125899906842624 bytes is more than the 140737488355328 a process can map (1PiB)",
    ),
    (HEAD + "fixed: {virt: 1GiB, sparsity: 1.5}", "g.yaml:3:31: fixed.sparsity: '1.5' is not a share from 0 to 1"),
    (
        HEAD + "fixed: {virt: 1GiB, sparsity: 90%}",
        "g.yaml:3:31: fixed.sparsity: '90%' is not a share, a plain number from 0 to 1; write 0.9",
    ),
    (BASE + "axes: {threads: [1, 1.5]}", "g.yaml:4:21: axes.threads[1]: '1.5' is not a whole number"),
    (BASE + "axes: {threads: [0]}", "g.yaml:4:18: axes.threads[0]: 0: must be from 1 to 65536 (0)"),
    (
        BASE + "axes: {order: [randm]}",
        "g.yaml:4:16: axes.order[0]: unknown order 'randm'; did you mean 'random'? known: sequential, random",
    ),
    (
        BASE + "axes: {order: [no]}",
        "g.yaml:4:16: axes.order[0]: no: YAML makes it false; write 'no' in quotes if the word is meant",
    ),
    (
        BASE + "axes: {order: {pow2: {from: 1, to: 2}}}",
        "g.yaml:4:15: axes.order: no rule makes names; list them ([sequential, random])",
    ),
    (
        BASE + "axes: {folio: [4MiB]}",
        "g.yaml:4:16: axes.folio[0]: 4194304 bytes is not a power of two up to 2 MiB (4MiB)",
    ),
    (
        BASE + "axes:\n  zap: {pow3: {from: 4K, to: 8K}}",
        "g.yaml:5:9: axes.zap: unknown key 'pow3'; did you mean 'pow2'? known: pow2, range, log",
    ),
    (
        BASE + "axes: {zap: {pow2: {from: 4K, too: 8K}}}",
        "g.yaml:4:31: axes.zap.pow2: unknown key 'too'; did you mean 'to'? known: from, to",
    ),
    (BASE + "axes: {zap: {pow2: {from: 4K}}}", "g.yaml:4:20: axes.zap.pow2: key 'to' is required"),
    (BASE + "axes: {zap: {}}", "g.yaml:4:13: axes.zap: give exactly one of pow2, range, log"),
    (
        BASE + "axes: {zap: {pow2: {from: 4K, to: 8K}, log: {from: 4K, to: 8K, points: 2}}}",
        "g.yaml:4:13: axes.zap: give exactly one of pow2, range, log",
    ),
    (
        BASE + "axes: {zap: {pow2: {from: 96KiB, to: 8MiB}}}",
        "g.yaml:4:27: axes.zap.pow2.from: 96KiB is not a power of two; near it: 64KiB or 128KiB",
    ),
    (BASE + "axes: {zap: {pow2: {from: 8K, to: 4K}}}", "g.yaml:4:35: axes.zap.pow2.to: 4K is below `from`, 8K"),
    (
        BASE + "axes: {pinned: {pow2: {from: 0, to: 1}}}",
        "g.yaml:4:16: axes.pinned.pow2: pow2 is for sizes and counts; use range or log, or a list",
    ),
    (
        BASE + "axes: {zap: {pow2: {from: 1K, to: 8K}}}",
        "g.yaml:4:27: axes.zap.pow2: value 1: 1024 bytes is not whole pages of 4096 bytes",
    ),
    (
        BASE + "axes: {zap: {range: {from: 4K, to: 8K, step: 0B}}}",
        "g.yaml:4:46: axes.zap.range.step: 0B: a step must be above 0",
    ),
    (
        BASE + "axes: {pinned: {log: {from: 0, to: 1, points: 3}}}",
        "g.yaml:4:29: axes.pinned.log.from: 0: a log scale starts above 0",
    ),
    (
        BASE + "axes: {pinned: {log: {from: 0.1, to: 1, points: 1}}}",
        "g.yaml:4:49: axes.pinned.log.points: 1: must be from 2 to 10000",
    ),
    (
        BASE + "axes: {rounds: {range: {from: 1, to: 1000000000, step: 1}}}",
        "g.yaml: 1,000,000,000 points (axes.rounds 1,000,000,000); at most 10,000,000",
    ),
    (
        BASE
        + "axes:\n  rounds: {range: {from: 1, to: 10000, step: 1}}\n  threads: {range: {from: 1, to: 400, step: 1}}\n"
        + "repeats: 3",
        "g.yaml: 12,000,000 points (axes.rounds 10,000, axes.threads 400, repeats 3); at most 10,000,000",
    ),
    (
        BASE + "axes:\n  virt: [1GiB]",
        "g.yaml:5:3: axes.virt: is also given at g.yaml:3:9 (fixed.virt); give it once",
    ),
    (
        BASE + "zip:\n  p: {res: [1MiB], threads: [1]}",
        "g.yaml:5:7: zip.p.res: sparsity is given at g.yaml:3:21 (fixed.sparsity); give one of the two",
    ),
    (
        BASE + "zip:\n  p: {zap: [4K, 8K], threads: [1]}",
        "g.yaml:5:6: zip.p: members move together and need one length; here: zap 2, threads 1",
    ),
    (BASE + "zip: {p: {}}", "g.yaml:4:10: zip.p: an empty group; name two fields or more"),
    (HEAD + "axes: {zap: [4K]}", "g.yaml:1:1: virt is required; give it in fixed, axes or zip"),
    (HEAD + "fixed: {virt: 1GiB}", "g.yaml:1:1: sparsity (or res) is required; give it in fixed, axes or zip"),
    (
        HEAD + "include: [{virt: 1GiB}]",
        "g.yaml:3:11: include[0]: sparsity (or res) is required; give it in the row or in fixed",
    ),
    (BASE + "include: [{}]", "g.yaml:4:11: include[0]: an empty row; name a field"),
    (
        BASE + "include: [{res: 1MiB, sparsity: 0.5}]",
        "g.yaml:4:17: include[0].res: sparsity is given too; give one of the two",
    ),
    (
        BASE + "include: [{zap: [4K]}]",
        "g.yaml:4:17: include[0].zap: must be a single value; lists and ranges go under axes",
    ),
    (
        BASE + "exclude: [{}]",
        "g.yaml:4:11: exclude[0]: a rule needs a field to match or a `where`; this one would drop all points",
    ),
    (
        BASE + "exclude: [{zpa: 4K}]",
        f"g.yaml:4:12: exclude[0]: unknown key 'zpa'; did you mean 'zap'? {FIELDS}, where, because",
    ),
    (BASE + "exclude: [{where: ['a']}]", "g.yaml:4:19: exclude[0].where: must be a single value"),
    (
        BASE + "derive: {1st: virt}",
        "g.yaml:4:10: derive: '1st' is not a column name: a letter a-z, then up to 62 of a-z, 0-9 and _",
    ),
    (BASE + "derive: {zap: virt}", "g.yaml:4:10: derive: 'zap' is a scenario field; choose another name"),
    (BASE + "derive: {x: ''}", "g.yaml:4:13: derive.x: is empty; write a SQL expression"),
    (BASE + "repeats: 0", "g.yaml:4:10: repeats: 0: must be 1 or more"),
    (BASE + "repeats: three", "g.yaml:4:10: repeats: 'three' is not a whole number"),
    (
        BASE + "seed: 9223372036854775807\nrepeats: 2",
        "g.yaml: seed 9223372036854775807 plus 2 repeats is above 9223372036854775807",
    ),
    (
        HEAD + "fixed: {virt: 1GiB}\naxes:\n  res: [1MiB, 2GiB]",
        "g.yaml:5:15: axes.res[1]: 2147483648 bytes is not between 0 and virt (1073741824)"
        " (in the point virt=1GiB res=2GiB)",
    ),
    (
        BASE + "axes: {zap: {pow2: {from: 32K, to: 64K}}, arch: [x86-64, arm64-64k]}",
        "g.yaml:4:13: axes.zap: 32768 bytes is not whole pages of 65536 bytes"
        " (in the point virt=1GiB sparsity=0.9 zap=32KiB arch=arm64-64k)",
    ),
    (
        BASE + "include: [{zap: 4K, arch: arm64-16k}]",
        "g.yaml:4:17: include[0].zap: 4096 bytes is not whole pages of 16384 bytes"
        " (in the point virt=1GiB sparsity=0.9 zap=4KiB arch=arm64-16k)",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_grids(text: str, message: str) -> None:
    """Every bad grid is refused with this message."""
    assert refused(text) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("virt=4GiB", "-S virt: unknown key 'virt'; did you mean 'fixed.virt' or 'axes.virt'?"),
        (
            "fixed.virt",
            "-S fixed.virt: write key=value, the key dotted, such as fixed.virt=4GiB or axes.zap=[64KiB,2MiB]",
        ),
        ("fixed.virt=4GB", "-S fixed.virt: '4GB': GB may mean powers of 1000 or 1024; write 4GiB (1024)"),
        ("axes.zap=[4K, 5]", "-S axes.zap: [1]: '5' has no unit; write 5KiB, 5MiB or 5GiB"),
        ("axs.zap=4K", f"-S axs.zap: unknown key 'axs'; did you mean 'axes'? {TOP}"),
        ("axes.zpa=4K", f"-S axes.zpa: unknown key 'zpa'; did you mean 'zap'? {FIELDS}"),
        ("axes.order=[on]", "-S axes.order: [0]: on: YAML makes it true; write 'on' in quotes if the word is meant"),
        ("axes.virt=[1GiB]", "-S axes.virt: is also given at g.yaml:3:9 (fixed.virt); give it once"),
        (
            "axes.zap={pow2: {from: 3K, to: 4K}}",
            "-S axes.zap: pow2.from: 3K is not a power of two; near it: 2KiB or 4KiB",
        ),
        ("fixed.res=1MiB", "-S fixed.res: sparsity is given at g.yaml:3:21 (fixed.sparsity); give one of the two"),
        ("fixed.virt=", "-S fixed.virt: is empty"),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    """A bad override is named as it was typed."""
    assert refused(BASE, override) == message


def test_huge_grids_are_refused_at_once() -> None:
    """Too many points are refused before any value is made."""
    axes = ", ".join(f"{name}: {{range: {{from: 1, to: 60000, step: 1}}}}" for name in ("rounds", "threads", "seed"))
    with limited():
        assert "216,000,000,000,000 points" in refused(f"{BASE}axes: {{{axes}}}")
        assert "at most 10,000,000" in refused(BASE + "axes: {zap: {range: {from: 4K, to: 128TiB, step: 4K}}}")


def test_every_mistake_is_shown() -> None:
    """A grid with several mistakes shows all of them, in their order, and nothing that only follows from them."""
    text = """schema: sweep/1
name: bad
policies: [none, mergd]
fixed: {virt: 64GB, coverag: 0.9}
axes:
  sparsity: [0.9, 1.5]
  zap: {pow2: {from: 64KiB, too: 8MiB}}
repeats: 0
"""
    with pytest.raises(UserErrors) as caught:
        parse_grid(text, "g.yaml")
    lines = str(caught.value).splitlines()
    starts = ("3:18: policies[1]", "4:15: fixed.virt", "4:21: fixed", "6:19: axes.sparsity[1]", "7:29: axes.zap.pow2")
    assert [line.split(": ")[:2] for line in lines] == [
        [f"g.yaml:{place}", what] for place, what in (s.split(": ") for s in (*starts, "8:10: repeats"))
    ]
