"""The environment and paths of processes in which Ray runs."""

import os
import re
import sys
from pathlib import Path

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would ship the working directory and build another venv
    # Else a private Ray waits for all its workers before its start is over, for a minute if one is killed meanwhile.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_register_timeout_seconds": "20",  # until another worker is started in place of one that was killed
    "RAY_task_oom_retries": "0",  # endless otherwise, whatever max_retries says
}
RAY_PATHS = ("RAY_AUTH_TOKEN_PATH", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")


def absolute_paths() -> dict[str, str]:
    """Paths in Ray's settings, made absolute, as the driver process has another working folder."""
    return {name: str(Path(os.environ[name]).absolute()) for name in RAY_PATHS if os.environ.get(name)}


def worker_pythonpath() -> str:
    """PYTHONPATH for Ray's workers, which do not inherit sys.path: ours, and the folder of our packages.

    The latter only if they are not installed. Empty and relative entries stand for the current folder and are left out.
    """
    source = str(Path(__file__).parents[2])
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(entry).is_absolute()]
    return os.pathsep.join([*entries, *([] if "site-packages" in source else [source])])


def safe_prefix(session_dir: Path) -> str:
    """A path of sys.prefix without blanks and quotes: Ray starts its workers by a shell, and does not quote it."""
    if re.fullmatch(r"[\w./+@%:,-]+", sys.prefix):
        return sys.prefix
    link = session_dir / "python"
    link.symlink_to(sys.prefix)
    return str(link)
