"""How to start another Python interpreter that never imports from the current folder.

`python -c` puts the current folder first on sys.path, and so does an empty entry of PYTHONPATH. A file json.py in the
folder from which a user launches would then run in our child processes.
"""

import os
import sys
from pathlib import Path

SAFE_FOLDER = "/"
"""Working folder of child processes: Numba reads settings from the current folder. Only root can write here."""


def isolated_command(code: str, *arguments: str, prefix: str = sys.prefix) -> list[str]:
    """A command that runs `code` with sys.argv[1:] = arguments and sys.path = import_path().

    To be started in SAFE_FOLDER with isolated_environment(). Not `-I`, which would ignore PYTHONHASHSEED and others.
    `prefix`: another path of the directory sys.prefix, by which the interpreter and its packages are then found.
    """

    def moved(path: str) -> str:
        return prefix + path.removeprefix(sys.prefix) if path.startswith(sys.prefix + os.sep) else path

    boot = f"import sys; sys.path[:] = {[moved(entry) for entry in import_path()]!r}; {code}"
    return [moved(sys.executable), "-P", "-s", "-c", boot, *arguments]


def isolated_environment(**changes: str) -> dict[str, str]:
    """This process's environment without PYTHONPATH, with `changes`."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | changes


def import_path() -> list[str]:
    """The absolute entries of this process's sys.path, and the folder of our packages if it is not among them.

    Relative and empty entries stand for the current folder and are left out.
    """
    ours = str(Path(__file__).parents[1])
    absolute = [entry for entry in sys.path if Path(entry).is_absolute()]
    return absolute if ours in absolute else [*absolute, ours]
