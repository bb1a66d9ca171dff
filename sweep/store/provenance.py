"""Provenance of a launch: versions, commit, host, kernel, CPU. It is stored in run.json. No environment variable is.

The hashes can be checked with `sha256sum requirements.lock` and, in a checkout, with
`find engine -name "*.py" | LC_ALL=C sort | xargs cat | sha256sum`.
"""

import hashlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import engine
from sweep import __version__
from sweep.common import cost_tables

PACKAGES = ("numpy", "numba", "llvmlite", "ray", "pyarrow", "duckdb")
HERE = Path(__file__).parent


def collect(**extra: Any) -> dict[str, Any]:
    """Facts about this launch as JSON values: first `extra` (engine, executor, ...), then versions and machine."""
    return {
        **extra,
        "version": __version__,
        "model_version": engine.MODEL_VERSION,
        "git_commit": git_commit(HERE),
        "engine_sha256": sha256(*sorted(Path(engine.__file__).parent.rglob("*.py"))),
        "lock_sha256": sha256(HERE.parents[1] / "requirements.lock"),
        "cost_table": {
            "name": cost_tables.DEFAULT,
            "sha256": sha256(cost_tables.SHIPPED / f"{cost_tables.DEFAULT}.json"),
        },
        "host": platform.node(),
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu_model": cpu_model(),
        "cpus": os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
    }


def package_version(name: str) -> str | None:
    """The version of an installed package, without importing it; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def sha256(*paths: Path) -> str | None:
    """SHA-256 of the files' bytes in sequence; None if one is missing, such as requirements.lock after pip install."""
    digest = hashlib.sha256()
    try:
        for path in paths:
            digest.update(path.read_bytes())
    except OSError:
        return None
    return digest.hexdigest()


def git_commit(directory: Path) -> str | None:
    """HEAD of the checkout with this directory, `-dirty` if tracked files have changed; None without a checkout.

    A package that is installed inside another project's checkout is not part of it: git does not track its files.
    """
    tracked = _git(directory, "ls-files", "--error-unmatch", "--", Path(__file__).name)
    commit = _git(directory, "rev-parse", "HEAD") if tracked else None
    if not commit:
        return None
    changed = _git(directory, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def cpu_model() -> str | None:
    """`model name` of /proc/cpuinfo, else the processor according to the platform module; None if unknown."""
    if sys.platform == "linux":
        try:
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        except OSError:
            pass
    return platform.processor() or None


def memory_bytes() -> int | None:
    """Bytes of physical memory; None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _git(directory: Path, *words: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
