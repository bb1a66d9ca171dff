"""Counters from the text of hist triggers."""

from engine.inside.probes import PROBES, TRACEFS, Probes

EMPTY = "# event histogram\n\nTotals:\n    Hits: 0\n    Entries: 0\n    Dropped: 0\n"
FLUSHES = """{ end-start:    3108864, shift:         12 } hitcount:          2
{ end-start:     135168, shift:         12 } hitcount:          1
{ end-start:    2101248, shift:         21 } hitcount:          4

Totals:
    Hits: 7
    Entries: 3
    Dropped: 0
"""


def probes(texts: dict[str, str], absent: tuple[str, ...] = ()) -> Probes:
    """Probes of a kernel whose histograms are `texts`, by probe, and that lacks the functions of `absent`."""

    def write(path: str, text: str) -> bool:
        return not any(PROBES[name].function in text for name in absent)

    return Probes(write, lambda path: texts.get(path.removeprefix(f"{TRACEFS}/events/sweep/").split("/")[0], EMPTY))


def test_flushes_are_counted_by_their_range() -> None:
    """More than 33 units of the stride are a full flush; else each unit begun is one invalidation."""
    values, _ = probes({"flush": FLUSHES}).take()
    assert values["tlb_flushes_full"] == 2
    assert values["tlb_invlpgs"] == 1 * 33 + 4 * 2


def test_counters_are_those_since_the_last_call() -> None:
    """Histograms go on counting; each point gets the difference."""
    texts = {"trylock": EMPTY}
    counted = probes(texts)
    texts["trylock"] = "{ ret:          1 } hitcount:    42\n{ ret:    0 } hitcount:   3\n" + EMPTY
    values, _ = counted.take()
    assert (values["fast_paths"], values["pmd_trylocks_failed"], values["pmd_trylocks"]) == (42, 3, 45)
    assert counted.take()[0]["fast_paths"] == 0


def test_what_a_kernel_does_not_show_is_absent() -> None:
    """A function that it lacks, and a histogram that ran over, give no column, and not 0."""
    counted = probes({"flush": FLUSHES.replace("Dropped: 0", "Dropped: 9")}, absent=("trylock", "slow_path"))
    assert not {"fast_paths", "slow_paths", "pmd_trylocks"} & set(counted.columns)
    values, _ = counted.take()
    assert "tlb_flushes_full" not in values
    assert values["force_breaks"] == 0


def test_preemptions_are_counted_apart() -> None:
    """Only those that a thread did not ask for."""
    text = "{ preempt:          1 } hitcount:    5\n{ preempt:          0 } hitcount:    7\n" + EMPTY
    assert probes({"reschedule": text}).take()[1] == 5
