"""Names of kernel releases: their order, and which ones a name begins."""

import re


def release_key(release: str) -> list[tuple[int, str]]:
    """A sort key by the numbers in a release: 6.9 before 6.12, 6.12-rc1 before 6.12."""
    parts = re.findall(r"\d+|[^\d]+", release.replace("~", "-"))
    return [(int(part), "") if part.isdigit() else (-2 if "rc" in part else -1, part) for part in parts] + [(-1, "")]


def begins(release: str, name: str) -> bool:
    """Whether `name` is the beginning of a release, ending between its parts: 6.1 begins 6.1.0-50, not 6.12."""
    rest = release[len(name) :]
    return release.startswith(name) and not (rest[:1].isdigit() and name[-1:].isdigit())
