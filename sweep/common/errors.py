"""The two ways to fail: the user can mend the input (UserError), or we must mend the program (SweepFault)."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. `str(error)` is one line: where, what, what is allowed. The command prints it and exits with 2."""


class DamagedError(UserError):
    """A file of the store that does not hold what was written: cut short, overwritten, or gone."""


class SweepFault(Exception):  # noqa: N818 - a fault is ours, an error the user's
    """A fault of ours: something that cannot happen did. The command exits with 4."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name most like `word`, else nothing."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower()[:80], names, n=1, cutoff=0.6)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


def unknown_name(what: str, word: str, known: Iterable[str]) -> str:
    """`unknown policy 'mergd'; did you mean 'merged'? known: none, merged`."""
    names = list(known)
    hint = did_you_mean(word, names) or ";"
    return f"unknown {what} {one_line(word)!r}{hint} known: {', '.join(names)}"


def printable(text: str) -> str:
    """Text as a terminal may have it: what it would obey, or not show, is spelled out (`\\x1b`)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def one_line(text: str, longest: int = 60) -> str:
    """Text of the user's fit for a message: one line, not too long."""
    flat = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    return flat if len(flat) <= longest else flat[: longest - 3] + "..."
