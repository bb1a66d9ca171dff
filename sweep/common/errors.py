"""The two ways to fail: the user can mend the input (UserError), or we must mend the program (SweepFault)."""

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. `str(error)` is one line: where, what, what is allowed. The command prints it and exits with 2."""


class DamagedError(UserError):
    """A file of the store that does not hold what was written: cut short, overwritten, or gone."""


class SweepFault(Exception):  # noqa: N818 - a fault is ours, an error the user's
    """A fault of ours: something that cannot happen did. The command exits with 4."""


_TERMINAL_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
"""What a terminal obeys or does not show, but for line ends and tabs: controls, direction marks, lone surrogates."""


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


def printable_lines(text: str) -> str:
    """Text of several lines as a terminal may have it: control characters are spelled out as in JSON (`\\u001b`)."""
    return _TERMINAL_COMMANDS.sub(_spell_as_json, text)


def _spell_as_json(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))


def one_line(text: str, longest: int = 60) -> str:
    """Text of the user's fit for a message: one line, not too long."""
    flat = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    return flat if len(flat) <= longest else flat[: longest - 3] + "..."
