"""Policies: rules for freeing empty PTE tables, as data. ALL holds the seven built-in ones."""

from dataclasses import dataclass, fields, replace

from engine.model.arch import KIB

SLOT = "slot"
"""Value of the field `least`: the rule acts only after a piece that covers its whole slot."""

MEANINGS: dict[str, dict[str, str]] = {
    "when": {
        "never": "tables are never checked",
        "visit": "while a piece of a call is cleared, under the call's locks",
        "call": "in a second walk after the call",
        "round": "in a scan of all tables at the end of a round",
        "unmap": "calls unmap their range, which frees tables without a check",
    },
    "least": {
        SLOT: "only if the piece covers the whole slot",
        "size": "only if the piece is at least this large",
    },
    "markers": {
        "skip": "not if the call passed over a guard marker",
        "look": "even if the call passed over a guard marker",
    },
    "proof": {
        "count": "empty if a counter of the table's entries is 0",
        "held": "empty if its slot was zapped under one hold of the PTE lock",
        "scan": "empty if its entries are read and all are none",
    },
    "otherwise": {
        "scan": "else the whole table is read",
        "rest": "else entries not cleared during the last hold are read",
        "outside": "else entries outside the piece are read if the lock was held",
        "keep": "else the table stays",
    },
    "end_break": {
        "drop": "a force break on the last entry counts as dropping the lock",
        "held": "a force break on the last entry does not count as that",
    },
    "lock": {
        "try": "the PMD lock is taken with spin_trylock",
        "take": "the PMD lock is taken with spin_lock",
    },
    "every": {"rounds": "rounds between two scans"},
}
"""What each value of each rule field means. `size` and `rounds` stand for any size and any number of rounds."""
CHOICES = {field: tuple(values) for field, values in MEANINGS.items() if field not in ("least", "every")}
"""Allowed values of each rule field that is a choice. Of the others, `least` is a size or SLOT and `every` a count."""
FIELD_MEANINGS = {
    "when": "when a table is checked for emptiness",
    "least": "the smallest piece of a call after which the table is checked: bytes, or SLOT",
    "markers": "whether a table is checked if the call passed over a guard marker in its piece",
    "proof": "how the policy establishes that a table is empty",
    "otherwise": "the fallback where `held` proves nothing",
    "end_break": "whether a force break on the piece's last entry counts as dropping the PTE lock",
    "lock": "how the PMD lock is taken where no lock has to be dropped first",
    "every": "number of rounds between two scans of `when: round`",
}
RULE_FIELDS = tuple(FIELD_MEANINGS)
MAX_EVERY = 1_000_000


class RuleError(ValueError):
    """An invalid rule. `field` is the name of the wrong field, `message` the reason in one line."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


@dataclass(frozen=True, slots=True)
class Policy:
    """A named rule. FIELD_MEANINGS and MEANINGS say what its fields and their values mean.

    docs/method.md, section 4, defines the effect and the cost of each. Beside the fields of the rule:
    like: name of the policy that this one was derived from; empty if none
    rule: the rule in a sentence
    source: the kernel release, commit or mail that the rule comes from
    """

    name: str
    when: str = "never"
    least: int | str = SLOT
    markers: str = "look"
    proof: str = "scan"
    otherwise: str = "scan"
    end_break: str = "drop"
    lock: str = "take"
    every: int = 1
    like: str = ""
    rule: str = ""
    source: str = ""

    @property
    def effective(self) -> dict[str, int | str]:
        """Names and values of the fields that have an effect. Policies with equal `effective` give equal outcomes."""
        names = ["when"]
        if self.when in ("visit", "call"):
            names += ["least", "markers", "proof"]
            if self.proof == "held":
                names += ["otherwise", "end_break"]
            if self.when == "visit" and self.proof != "scan":
                names += ["lock"]
        elif self.when == "round":
            names += ["proof", "every"]
        return {name: getattr(self, name) for name in names}

    @property
    def counts_entries(self) -> bool:
        """Whether each table has a counter of its entries, at the cost of one atomic operation per change."""
        return self.effective.get("proof") == "count"


def check_rule(policy: Policy) -> None:
    """Raise RuleError if a field has a value that is not allowed, or if two fields exclude each other."""
    for field, allowed in CHOICES.items():
        if getattr(policy, field) not in allowed:
            raise RuleError(field, f"unknown {getattr(policy, field)!r}; known: {', '.join(allowed)}")
    if policy.least != SLOT and not (isinstance(policy.least, int) and policy.least > 0):
        raise RuleError("least", f"{policy.least!r} is neither a size above 0 nor `{SLOT}`")
    if not 1 <= policy.every <= MAX_EVERY:
        raise RuleError("every", f"{policy.every} is not a number of rounds from 1 to {MAX_EVERY}")
    if policy.proof == "held" and policy.when in ("call", "round"):
        raise RuleError("proof", f"`held` needs the zap's own lock, so it goes with `when: visit`, not {policy.when}")


def derive_policy(base: Policy, name: str, changes: dict[str, int | str]) -> Policy:
    """Return a copy of `base` with `changes` and the given name; `like` is the name of `base`.

    Raises RuleError for an invalid rule, and for a changed field that has no effect.
    """
    policy = replace(base, name=name, like=base.name, rule="", source="", **changes)  # type: ignore[arg-type]
    check_rule(policy)
    for field in changes:
        if field not in policy.effective:
            raise RuleError(field, f"has no effect with {_reason_without_effect(policy, field)}")
    return policy


def _reason_without_effect(policy: Policy, field: str) -> str:
    """The setting of `policy` because of which `field` has no effect: `proof: scan`."""
    depends_on_proof = field in ("otherwise", "end_break") or (field == "lock" and policy.when == "visit")
    if depends_on_proof and policy.when in ("visit", "call"):
        return f"proof: {policy.proof}"
    return f"when: {policy.when}"


ALL = (
    Policy(
        "none",
        rule="a call never frees a table",
        source="Linux before 6.14, or CONFIG_PT_RECLAIM=n",
    ),
    Policy(
        "refcount",
        when="visit",
        least=4 * KIB,
        proof="count",
        rule="a table goes when its last entry is cleared",
        source="Free user PTE page table pages, 2021",
    ),
    Policy(
        "async",
        when="round",
        rule="a scan of all tables frees the empty ones after each round",
        source="RFC, June 2024",
    ),
    Policy(
        "second_walk",
        when="call",
        rule="a second walk after the call scans every wholly covered table",
        source="synchronously scan and reclaim empty user PTE pages, RFC v2, August 2024",
    ),
    Policy(
        "seed_inline",
        when="visit",
        markers="skip",
        proof="held",
        otherwise="rest",
        end_break="held",
        lock="try",
        rule="freed inside zap_pte_range under the same lock; re-checks only what an earlier hold cleared",
        source="Hildenbrand's reply to RFC v2, August 2024",
    ),
    Policy(
        "merged",
        when="visit",
        markers="skip",
        proof="held",
        lock="try",
        rule="freed inside zap_pte_range under the same lock, else re-scanned",
        source="Linux 6.14, 6375e95f381e with f39edcf6349a",
    ),
    Policy(
        "munmap",
        when="unmap",
        rule="tables are freed with the address range",
        source="free_pgtables, every Linux",
    ),
)
POLICIES = tuple(p.name for p in ALL)
BUILT_IN = {p.name: p for p in ALL}

assert {field.name for field in fields(Policy)} == {"name", *RULE_FIELDS, "like", "rule", "source"}
