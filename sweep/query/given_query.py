"""The query that a user gives: the name of a shipped one, SQL text, or a file that holds SQL."""

import sys

from sweep.common.errors import UserError
from sweep.common.text_lines import STDIN, open_regular_file
from sweep.query.named_queries import NamedQuery, named_query


def find_query(text: str) -> NamedQuery:
    """The query of an argument: a named query, or one without a name from a file, from stdin, or the text itself."""
    word = text.strip()
    if word.replace("_", "").replace("-", "").isalnum():
        return named_query(word)
    is_file = text.endswith(".sql") and not any(letter.isspace() for letter in word)
    return NamedQuery("", "", _read_text(text) if text == "-" or is_file else text)


def _read_text(source: str) -> str:
    """The text of a regular file, or of stdin for `-`. Raises UserError."""
    try:
        if source == STDIN:
            return sys.stdin.read()
        with open_regular_file(source) as file:
            return file.read().decode()
    except OSError as error:
        raise UserError(f"{source}: {error.strerror or 'cannot be read'}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{'stdin' if source == '-' else source}: byte {error.start} is not UTF-8 text") from error
