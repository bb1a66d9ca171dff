"""The gallery: for each shipped question its grid, its answer, a picture, and the commands that make it."""

import hashlib
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sweep
from sweep.api.picture import Picture

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURES = ROOT / "docs" / "gallery.md", ROOT / "docs" / "pictures"
STORE = ROOT / "results" / "gallery"
WIDTH = 110
THP = ("always", "never")
HEADER = """\
# Gallery

Questions that come with ptsweep, each with a grid, a query and a picture. `scripts/gallery` makes this page; the
bold sentence is computed from the run. `sweep report RUN` puts all pictures of a run and its rows on one page.
"""


def headline(run: sweep.Run) -> str:
    return run.answer


def gather_answer(run: sweep.Run) -> str:
    rows = run.sql("gather").to_pylist()
    silent = max(
        row["zap_kib"] for row in rows if all(r["merged"] == 0 for r in rows if r["zap_kib"] <= row["zap_kib"])
    )
    most = max(rows, key=lambda row: row["merged"])
    return (
        f"Calls up to {silent / 1024:,.0f} MiB: neither reads an entry again."
        f" Calls of {most['zap_kib'] / 1024:,.0f} MiB at sparsity {most['sparsity']:g}: merged reads"
        f" {most['merged']:,} entries again, seed_inline"
        f" {most['seed_inline']:,}."
    )


def threads_answer(run: sweep.Run) -> str:
    rows = [row for row in run.sql("threads") if row["policy"] == "merged"]
    one, most = (f(rows, key=lambda row: (row["threads"], row["failed_percent"])) for f in (min, max))
    return (
        f"With {one['threads']} thread merged loses {one['failed_percent']:.0f} % of its trylocks, with"
        f" {most['threads']} ({most['partition']}) {most['failed_percent']:.0f} %, and every call sends"
        f" {most['ipis_a_call']:.0f} interrupts."
    )


def peak_answer(run: sweep.Run) -> str:
    rows = [row for row in run.sql("at_peak") if row["policy"] == "merged"]
    least, most = (f(rows, key=lambda row: row["saved_percent"]) for f in (min, max))

    def where(row: dict[str, Any]) -> str:
        gib = row["none_gib"] - row["vm_pte_gib"]
        extent = f"extents of {row['cluster_kib']:,.0f} KiB and {row['rounds']:,} round{'s' * (row['rounds'] != 1)}"
        return f"{gib:,.1f} GiB of {row['none_gib']:,.1f} GiB with {extent}"

    return (
        "It depends on how pages lie and how often they moved: with calls of 2 MiB merged gives back"
        f" {where(least)}, and {where(most)}."
    )


def thp_answer(run: sweep.Run) -> str:
    rows = run.sql("thp").to_pylist()
    dense = max(row["sparsity"] for row in rows)
    huge, small = (
        {row["zap_kib"]: row for row in rows if row["sparsity"] == dense and row["thp"] == thp} for thp in THP
    )
    most = max(zap for zap, row in huge.items() if row["merged"] < row["refcount"])
    row = huge[most]
    return (
        f"Yes: after calls of {most / 1024:,.0f} MiB the next writes, one page a slot, bring {row['refcount']:,.0f} MiB"
        f" under refcount, which freed the tables, and {row['merged']:,.0f} MiB under merged, which kept them;"
        f" without huge pages {small[most]['merged']:,.1f} MiB under both. Calls of {max(huge) / 1024:,.0f} MiB take"
        " the huge pages and their tables away under every design."
    )


def kernels_answer(run: sweep.Run) -> str:
    rows = run.sql(
        "SELECT kernel_release, min(zap) FILTER (vm_pte_kib_end < vm_pte_kib_peak) AS zap FROM latest"
        " WHERE policy <> 'munmap' GROUP BY kernel_release ORDER BY kernel_release"
    )
    phrases = (
        f"Linux {row['kernel_release'].partition('+')[0]} "
        + (f"frees tables with calls of {row['zap'] >> 20} MiB or more" if row["zap"] else "frees none in madvise")
        for row in rows
    )
    return "; ".join(phrases) + "."


@dataclass(frozen=True, slots=True)
class Question:
    """A picture of a run of `grid`, drawn with these options of `sweep plot`.

    `query`: a named query to read the numbers in. `answer`: the sentence that is computed from the run. `is_long`:
    takes more than some seconds, or guests.
    """

    name: str
    grid: str
    heading: str
    title: str
    x: str | None = None
    y: tuple[str, ...] = ()
    by: str | None = None
    facet: str | None = None
    drawn_query: str | None = None
    query: str = "savings"
    answer: Callable[[sweep.Run], str] = headline
    engine: str = "model"
    is_long: bool = False

    @property
    def path(self) -> Path:
        return PICTURES / f"{self.name}.svg"

    def picture(self, run: sweep.Run) -> Picture:
        return run.plot(x=self.x, y=self.y, by=self.by, facet=self.facet, query=self.drawn_query, title=self.title)

    @property
    def plot_command(self) -> str:
        options = [("--query", self.drawn_query), ("--x", self.x), ("--y", ",".join(self.y)), ("--by", self.by)]
        options += [("--facet", self.facet), ("-o", f"{self.name}.svg")]
        words = [word for name, value in options if value for word in (name, value)]
        return shlex.join(["sweep", "plot", self.grid, *words])


QUESTIONS = (
    Question(
        "first",
        "first",
        "What does each design give back?",
        "Page tables given back, by the size of one madvise call",
        x="zap",
        y=("saved_percent",),
        query="by_zap",
    ),
    Question(
        "allocators",
        "allocators",
        "Which size and alignment of a call frees tables?",
        "Page tables given back, by the size of a call and its shift from a 2 MiB boundary",
        x="zap",
        y=("saved_percent",),
        facet="zap_shift",
        query="by_shift",
    ),
    Question(
        "filters",
        "filters",
        "Does it help to look at smaller pieces of a call?",
        "Page tables given back by rules of the grid's own, by the size of a call",
        x="zap",
        y=("saved_percent",),
        facet="sparsity",
        query="filters",
    ),
    Question(
        "gather",
        "gather",
        "What tells seed_inline from merged?",
        "Page table entries read again, by the size of a call",
        facet="sparsity",
        drawn_query="gather",
        query="gather",
        answer=gather_answer,
    ),
    Question(
        "threads",
        "threads",
        "What do threads cost each other?",
        "Page table entries read again, by the number of threads that make calls",
        x="threads",
        y=("ptes_rescanned",),
        facet="partition",
        query="threads",
        answer=threads_answer,
    ),
    Question(
        "thp",
        "thp",
        "Does freeing tables cost memory where huge pages are allowed?",
        "Resident memory after the last writes, by the size of a call",
        x="zap",
        y=("res_bytes_peak",),
        facet="thp",
        query="thp",
        answer=thp_answer,
    ),
    Question(
        "kernels",
        "kernels",
        "Which kernels free page tables?",
        "VmPTE after the last calls, by the size of a call, on three kernels",
        x="zap",
        y=("vm_pte_kib_end",),
        facet="kernel_release",
        query="kernels",
        answer=kernels_answer,
        engine="kernel",
        is_long=True,
    ),
    Question(
        "process-55tib",
        "process-55tib",
        "A process with VIRT 55t, RES 590g, VmPTE 110g: does reclaim help?",
        "Page tables given back while the process has all its memory, by rounds of moving pages",
        x="rounds",
        y=("saved_percent_peak",),
        facet="cluster",
        query="at_peak",
        answer=peak_answer,
        is_long=True,
    ),
)


def digest(picture: Picture) -> str:
    """What a picture shows, as a hash: its text also depends on the fonts of the machine that drew it."""
    return hashlib.sha256(json.dumps(picture.spec, sort_keys=True).encode()).hexdigest()


def svg_of(picture: Picture) -> str:
    return f"{picture.svg()}\n<!-- specification {digest(picture)} -->\n"


def section(question: Question, run: sweep.Run) -> str:
    """The question's part of the page."""
    lines = [
        f"## {question.heading}",
        "",
        *_wrapped(run.about),
        "",
        *_wrapped(f"**{question.answer(run)}**"),
        "",
        f"![{question.title}](pictures/{question.name}.svg)",
        "",
        "```sh",
        f"sweep launch {question.grid}{' --engine kernel' if question.engine == 'kernel' else ''}",
        question.plot_command,
        f"sweep query {question.query} --run {question.grid}",
        "```",
    ]
    return "\n".join(lines) + "\n"


def launched(question: Question, store: Path) -> sweep.Run:
    return sweep.launch(question.grid, results=store, engine=question.engine)


def main(names: list[str]) -> int:
    """Draw the named questions, or all, and then write the page."""
    unknown = set(names) - {question.name for question in QUESTIONS}
    if unknown:
        print(f"gallery: unknown {', '.join(sorted(unknown))}; known: {', '.join(q.name for q in QUESTIONS)}")
        return 2
    PICTURES.mkdir(exist_ok=True)
    for question in QUESTIONS:
        if not names or question.name in names:
            run = launched(question, STORE)
            question.path.write_text(svg_of(question.picture(run)))
            print(f"{question.path.relative_to(ROOT)}: {run}", flush=True)
    if not names:
        sections = [section(question, launched(question, STORE)) for question in QUESTIONS]
        PAGE.write_text("\n".join([HEADER, *sections]))
    return 0


def _wrapped(text: str) -> list[str]:
    from textwrap import wrap

    return wrap(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
