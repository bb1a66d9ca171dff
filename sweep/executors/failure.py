"""Why a point or a batch has no results. Imports nothing, as Ray's driver process loads it too."""

from dataclasses import dataclass

ERROR_LENGTH = 300
LAST_LINES, LINE_LENGTH = 12, 200


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a point has no results, or a batch no answer. `kind`: class of the exception, or name of the signal."""

    error: str = ""
    kind: str = ""
    last_lines: str = ""


def failure_lines(text: str) -> str:
    """The last LAST_LINES lines of a text, each cut to LINE_LENGTH characters."""
    lines = text.rstrip().splitlines()[-LAST_LINES:]
    return "\n".join(line if len(line) <= LINE_LENGTH else line[: LINE_LENGTH - 3] + "..." for line in lines)


def describe(error: BaseException) -> str:
    """`ValueError: message` in one line of at most ERROR_LENGTH characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    return text if len(text) <= ERROR_LENGTH else text[: ERROR_LENGTH - 3] + "..."
