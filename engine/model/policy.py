"""The designs for freeing empty PTE tables, in the order in which they were proposed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """One design: its name, its rule in a sentence, and where it comes from."""

    name: str
    rule: str
    source: str


ALL = (
    Policy("none", "a zap never frees a table", "Linux before 6.14, or CONFIG_PT_RECLAIM=n"),
    Policy("refcount", "a table goes when its last entry is cleared", "Free user PTE page table pages, 2021"),
    Policy("async", "a scan of all tables frees the empty ones after each round", "RFC, June 2024"),
    Policy(
        "second_walk",
        "a second walk after the zap scans every wholly covered table",
        "synchronously scan and reclaim empty user PTE pages, RFC v2, August 2024",
    ),
    Policy(
        "seed_inline",
        "freed inside zap_pte_range under the same lock; re-checks only what an earlier hold cleared",
        "Hildenbrand's reply to RFC v2, August 2024",
    ),
    Policy(
        "merged",
        "freed inside zap_pte_range under the same lock, else re-scanned",
        "Linux 6.14, 6375e95f381e with f39edcf6349a",
    ),
    Policy("munmap", "tables go with the address range", "free_pgtables, every Linux"),
)
POLICIES = tuple(p.name for p in ALL)
