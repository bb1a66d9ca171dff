"""The page of `sweep report`: what is on it, that it is safe, small, and works in a real browser."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sweep.cli.main import main
from sweep.plot.pareto import Choice, front
from sweep.query.answer_sentence import headline
from sweep.query.database import Database
from sweep.report.html_page import Figure, Page, html
from sweep.report.report_content import report
from sweep.report.row_table import MOST_ROWS
from sweep.store.store import Store
from sweep.tables.result_tables import KernelFacts
from tests.support import browser
from tests.support.launched_store import ONE, ROUNDS, ZAPS, launched
from tests.support.small_stores import FakeGrid, commit, opened

PAPER = (718, 1047)
"""Width and height of A4 inside its margins, in CSS pixels."""
needs_browser = pytest.mark.skipif(bool(browser.why_not()), reason=browser.why_not())
MIB = 1 << 20
HOSTILE = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 2'>&amp;{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return launched(tmp_path_factory.mktemp("store"), ONE, ROUNDS, ZAPS)


def page_of(store: Store, run: str) -> Page:
    return report(store, store.find(run), "published", None)


def figure(page: Page, heading: str) -> Figure:
    (found,) = [figure for figure in page.figures if figure.heading.startswith(heading)]
    return found


def outside_of_scripts(text: str) -> str:
    return re.sub("(?s)<script.*?</script>", "", text)


def data_of(text: str) -> Any:
    """The JSON block of a page."""
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(block)


def test_question_and_answer(store: Store) -> None:
    """The page begins with the grid's question and the sentence that a launch ends with."""
    page = page_of(store, "zaps")
    with Database(store, run="zaps") as database:
        sentences = headline(database).sentences
    assert page.question.startswith("What does each design give back")
    assert page.answer == " ".join(sentences)
    assert "merged" in page.answer
    assert page.notes == ()


def test_pictures_follow_the_axes(store: Store) -> None:
    """A heat map where calls and another field vary, growth where there are rounds, threads where they vary."""
    headings = {run: [figure.heading for figure in page_of(store, run).figures] for run in ("zaps", "rounds", "one")}
    assert headings["zaps"] == [
        "What comes back, by size of a call and cluster",
        "Page tables given back by zap",
        "What it costs",
    ]
    assert headings["rounds"][-2:] == ["How page tables grow", "Threads that make calls at the same time"]
    assert headings["one"] == ["Page tables given back by policy"]


def test_heat_map_has_the_figures_of_its_sql(store: Store) -> None:
    """A cell is what the SQL under it gives; policies with equal figures share a panel."""
    heat = figure(page_of(store, "zaps"), "What comes back")
    with Database(store, run="zaps") as database:
        rows = database.query(heat.sql).to_pylist()
    assert [heading for heading, _ in heat.panels] == ["refcount, async", "second_walk, seed_inline, merged", "munmap"]
    cells = heat.panels[1][1]["data"]["values"]
    of_merged = {(row["zap"], row["cluster"]): row["saved_percent"] for row in rows if row["policy"] == "merged"}
    assert len(cells) == len(of_merged) == 15
    assert sorted(cell["y"] for cell in cells) == pytest.approx(sorted(of_merged.values()))


def test_kernels_beside_the_model(tmp_path: Path) -> None:
    """A run's points are shown beside all rows of the other engine in the store, whichever grid these are of."""
    for name, engine, first, count in (("a", "model", 0, 4), ("b", "model", 4, 2), ("c", "kernel", 0, 5)):
        with opened(tmp_path, f"{name}-0123abcd", engine=engine) as writer:
            kernel = KernelFacts(None, None, "6.99-fake", True) if engine == "kernel" else None
            commit(writer, first, count, engine=engine, policies=("merged",), kernel=kernel)
            writer.finish("ok", {})
    on_kernel = page_of(Store(tmp_path), "c-0123abcd")
    assert ("computed by", "Linux 6.99-fake") in on_kernel.facts
    assert on_kernel.table is not None
    assert "kernel_release" in on_kernel.table.names
    for run in ("a-0123abcd", "c-0123abcd"):
        drawn = figure(page_of(Store(tmp_path), run), "Kernels beside the model")
        assert "4 of 4 agree to the byte" in drawn.note
        assert [heading for heading, _ in drawn.panels] == ["kernel Linux 6.99-fake, merged"]


def test_every_sql_is_a_query(store: Store) -> None:
    """What stands under a picture runs as it is."""
    for run in ("zaps", "rounds", "one"):
        for shown in page_of(store, run).figures:
            with Database(store, run=run) as database:
                assert database.query(shown.sql).num_rows
            assert shown.command == f"sweep query - --run {store.find(run).run_id}"


def test_front() -> None:
    """The front has what is cheapest or saves most, and nothing that another beats in both."""
    a, b, c, d = Choice("none", 0, 0), Choice("merged", 1, 50), Choice("async", 2, 40), Choice("refcount", 3, 90)
    assert front([d, c, b, a]) == [a, b, d]
    assert front([Choice("merged", 1, 50), Choice("seed_inline", 1, 50)]) == [Choice("seed_inline", 1, 50)]
    assert front([]) == []


def test_published_cases(tmp_path: Path) -> None:
    """A run of a published case shows it with a check mark."""
    grid = "schema: sweep/1\nname: arm\npolicies: [none, merged]\nfixed: {arch: arm64-4k, virt: 1GiB, sparsity: 0}\n"
    page = page_of(launched(tmp_path, grid), "last")
    shown = {check.what: (check.published, check.computed, check.agrees) for check in page.checks}
    assert shown == {
        "arm64 series (arm64-4k, VIRT 1 GiB), none": ("2,088 kB", "2,088 kB", True),
        "arm64 series (arm64-4k, VIRT 1 GiB), merged": ("40 kB", "40 kB", True),
    }
    assert "✓" in html(page).decode()


@pytest.mark.parametrize("grid", [ONE, ZAPS, ROUNDS])
def test_without_none(tmp_path: Path, grid: str) -> None:
    """A run without the policy none has a page too, which says what is missing."""
    without = re.sub("(?m)^policies:.*\n", "", grid) + "policies: [merged, refcount]\n"
    page = page_of(launched(tmp_path, without), "last")
    assert page.notes == ("The run has no policy none, so nothing can be compared with it.",)
    assert page.figures
    assert html(page)


def filled(root: Path, points: int, grid: FakeGrid, **how: Any) -> Store:
    with Store(root).open_run(grid, "fake-0123abcd", False, {"version": "0"}) as writer:
        commit(writer, 0, points, **how)
        commit(writer, points, 3, "failed", error=how.get("error", "RuntimeError: not today"))
        writer.finish("failed", {})
    return Store(root)


@pytest.mark.slow
def test_ten_thousand_points(tmp_path: Path) -> None:
    """Below 3 MB: the table shows a sample of points with all their policies, and the page says so above."""
    page = page_of(filled(tmp_path, 10_000, FakeGrid()), "last")
    text = html(page)
    assert len(text) < 3_000_000
    assert page.table is not None
    assert MOST_ROWS / 2 < len(page.table.rows) <= MOST_ROWS * 1.1
    (note,) = [note for note in page.notes if "sample" in note]
    assert re.fullmatch(r"The table of all rows shows a sample, [\d,]+ of 10,000 points; .*", note)
    assert any(note.startswith("3 points failed") and "not today" in note for note in page.notes)


def hostile(root: Path) -> Store:
    """A store whose every free text tries to become markup."""
    grid = FakeGrid(name=f"a{HOSTILE}", about=HOSTILE, derive={"extra": "1"})
    return filled(root, 4, grid, error=HOSTILE, derived={"extra": [HOSTILE] * 4})


def test_texts_of_a_store_are_escaped(tmp_path: Path) -> None:
    """No text of a grid or a store becomes a tag, ends a script, or is taken for a template."""
    text = html(page_of(hostile(tmp_path), "last")).decode()
    assert HOSTILE not in text
    assert "<img" not in outside_of_scripts(text)
    assert text.count("{{ 7 * 7 }}") >= 2
    assert "window.hit = 1</script>" not in text
    assert len(re.findall("<script", text.partition('id="data"')[0])) == 1


def test_json_block_is_escaped() -> None:
    """`</script>` in the data is written in \\u escapes and read back as it was."""
    text = html(Page("t", figures=(Figure("f", "", [("p", {"data": {"values": [{"x": HOSTILE}]}})]),))).decode()
    assert HOSTILE not in text
    assert data_of(text)["panels"][0]["data"]["values"] == [{"x": HOSTILE}]


def test_no_network(store: Store) -> None:
    """Nothing on the page is loaded from elsewhere: no link, source or style with an address."""
    text = html(page_of(store, "zaps")).decode()
    assert re.findall(r"(?:src|href)=[^ >]*", outside_of_scripts(text)) == ['href="data:,"']
    assert "default-src 'none'" in text


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(("size", "dark"), [(browser.WIDE, False), (browser.NARROW, True)], ids=["light", "dark"])
def test_page_in_a_browser(store: Store, tmp_path: Path, size: tuple[int, int], dark: bool) -> None:
    """It renders without a complaint or a request, fits the window, and its filter, order and legend work."""
    path = tmp_path / "page.html"
    path.write_bytes(html(page_of(store, "zaps")))
    with browser.opened(path, size, dark=dark) as driver:
        assert browser.complaints(driver) == []
        assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
        assert driver.execute_script("return document.documentElement.scrollWidth") <= size[0]
        assert len(driver.find_elements("css selector", ".panel svg")) == 7
        background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(20, 23, 27)" if dark else "rgb(246, 247, 249)")

        def column(name: str) -> list[str]:
            names = [th.text.split()[0] for th in driver.find_elements("css selector", "#rows th")]
            cells = f"#rows tbody td:nth-child({names.index(name) + 1})"
            return [cell.text for cell in driver.find_elements("css selector", cells)]

        count = driver.find_element("id", "count")
        assert count.text == "210 of 210 rows"
        box = driver.find_element("id", "filter")
        box.send_keys(f"merged zap>={2 * MIB} sparsity=0.9")
        assert count.text == "9 of 210 rows"
        assert set(column("policy")) == {"merged"}
        assert set(column("sparsity")) == {"0.9"}
        heading = next(th for th in driver.find_elements("css selector", "#rows th") if th.text == "vm_pte_kib_end")
        for sign in (1, -1):
            driver.execute_script("arguments[0].querySelector('button').click()", heading)
            shown = [int(text.replace(",", "")) for text in column("vm_pte_kib_end")]
            assert shown == sorted(shown, reverse=sign < 0)
        box.clear()
        box.send_keys("no such row")
        assert count.text == "0 of 210 rows"


@needs_browser
@pytest.mark.slow
def test_printed_page(store: Store, tmp_path: Path) -> None:
    """On paper no picture and no table is cut off, and what is left out of the table is said."""
    path = tmp_path / "page.html"
    path.write_bytes(html(page_of(store, "zaps")))
    with browser.opened(path, PAPER) as driver:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        right_ends = "[...document.querySelectorAll('table, svg, p')].map((e) => e.getBoundingClientRect().right)"
        assert driver.execute_script(f"return Math.max(...{right_ends})") <= PAPER[0]
        assert driver.find_element("css selector", ".controls").text == "210 of 210 rows, the first 25 are printed"


@needs_browser
@pytest.mark.slow
def test_hostile_page_in_a_browser(tmp_path: Path) -> None:
    """The same texts in a browser: nothing of them runs."""
    path = tmp_path / "page.html"
    path.write_bytes(html(page_of(hostile(tmp_path / "store"), "last")))
    with browser.opened(path) as driver:
        assert browser.complaints(driver) == []
        assert driver.execute_script("return window.hit") is None
        assert driver.find_element("css selector", ".question").text == HOSTILE


def test_command(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """`sweep report` writes RUN.html, or the file of -o; its commands name the store."""
    monkeypatch.chdir(tmp_path)
    results = str(store.root)
    run_id = store.find("zaps").run_id
    assert main(["report", "zaps", "--results", results]) == 0
    assert re.fullmatch(rf"wrote {run_id}.html, [\d.]+ KiB\n", capsys.readouterr().err)
    assert f"--run {run_id} --results {results}" in (tmp_path / f"{run_id}.html").read_text()
    assert main(["report", "one", "-o", "a.HTML", "--results", results]) == 0
    assert (tmp_path / "a.HTML").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["zpas"], "no run 'zpas'"),
        (["-o", "a.pdf"], "-o a.pdf: unknown ending '.pdf'; known: .html, .htm"),
        (["-o", "no/a.html"], "-o no/a.html: no folder no"),
        (["--cost", "x"], "x"),
    ],
)
def test_bad_input(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str], message: str
) -> None:
    """One line, exit code 2, nothing written."""
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words, "--results", str(store.root)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert (err.count("\n"), list(tmp_path.iterdir())) == (1, [])
