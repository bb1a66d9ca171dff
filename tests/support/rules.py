"""Random rules for freeing page tables."""

from hypothesis import strategies as st

from engine.model.policy import CHOICES, SLOT, Policy

KIB = 1024


@st.composite
def rules(draw: st.DrawFn) -> Policy:
    """A rule of any kind, `unmap` aside: each field has any value that goes with the others."""
    when = draw(st.sampled_from(("visit", "visit", "visit", "call", "round", "never")))
    proof = draw(st.sampled_from(CHOICES["proof"] if when == "visit" else ("count", "scan")))
    any_size: st.SearchStrategy[int | str] = st.integers(1, 4 << 20)
    sizes: st.SearchStrategy[int | str] = st.sampled_from(
        (SLOT, SLOT, 4 * KIB, 16 * KIB, 64 * KIB, 512 * KIB, 2048 * KIB)
    )
    return Policy(
        "drawn",
        when=when,
        least=draw(st.one_of(sizes, any_size)),
        markers=draw(st.sampled_from(CHOICES["markers"])),
        proof=proof,
        otherwise=draw(st.sampled_from(CHOICES["otherwise"])),
        end_break=draw(st.sampled_from(CHOICES["end_break"])),
        lock=draw(st.sampled_from(CHOICES["lock"])),
        every=draw(st.integers(1, 3)),
    )
