"""The two kinds of failure, UserError (bad input) and SweepFault (a bug), and helpers for their one-line messages."""

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. `str(error)` is one line: where, what, what is allowed. The command prints it and exits with 2."""


class UserErrors(UserError):  # noqa: N818 - several errors
    """Several mistakes at once. `str(error)` has a line for each."""

    def __init__(self, errors: Iterable[UserError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(map(str, self.errors)))


class DamagedError(UserError):
    """A file of the store does not hold what was written: it is cut short, overwritten, or missing."""


class SweepFault(Exception):  # noqa: N818 - a fault is a bug of the program; an error is bad input
    """A bug: a state that must not occur. The command exits with 4."""


_TERMINAL_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
"""Characters that a terminal obeys or does not show, except line ends and tabs: control characters, direction marks,
lone surrogates."""


_SHORT_SPELLINGS = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ASCII_COMMANDS = bytes(code for code in range(128) if _TERMINAL_COMMANDS.match(chr(code)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the known name most similar to `word`, or an empty string if none is similar."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower()[:80], names, n=1, cutoff=0.6)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


def unknown_name(what: str, word: str, known: Iterable[str]) -> str:
    """The message for a name that is not in `known`: `unknown policy 'mergd'; did you mean 'merged'? known: none, ...`.

    `what` is what the name names, here `policy`.
    """
    names = list(known)
    hint = did_you_mean(word, names) or ";"
    return f"unknown {what} {one_line(word)!r}{hint} known: {', '.join(names)}"


def printable(text: str) -> str:
    """`text` with every unprintable character, line ends too, written as in JSON: `\\u001b`, `\\n`."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _spell_as_json(c) for c in text)


def printable_lines(text: str) -> str:
    """`text` of several lines with control characters written as in JSON (`\\u001b`); line ends and tabs stay."""
    if text.isascii() and len(text.encode().translate(None, _ASCII_COMMANDS)) == len(text):  # a hundred times faster
        return text
    return _TERMINAL_COMMANDS.sub(lambda match: _spell_as_json(match[0]), text)


def _spell_as_json(character: str) -> str:
    if character in _SHORT_SPELLINGS:
        return _SHORT_SPELLINGS[character]
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))


def one_line(text: str, longest: int = 60) -> str:
    """`text` for a message: one line of at most `longest` characters, unprintable ones replaced by U+FFFD."""
    flat = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    return flat if len(flat) <= longest else flat[: longest - 3] + "..."
