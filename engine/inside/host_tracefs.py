"""tracefs of the running kernel: who may use it, and the probes in it, for one process at a time."""

import fcntl
import os
import platform
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.inside.probes import PROBES, TRACEFS, Probes

KALLSYMS = Path("/proc/kallsyms")


class NoTracefsError(Exception):
    """Nothing can be counted inside this kernel. The message is one line that says why."""


class HostTracefs:
    """A context manager that sets the probes of the running kernel, and removes them at its end.

    folder: where tracefs is mounted

    Only one process can have them, by a lock that ends with it. Probes that a killed process left are removed first.
    """

    def __init__(self, folder: Path = Path(TRACEFS)) -> None:
        self._folder, self._lock = folder, -1

    def __enter__(self) -> Self:
        """Raises NoTracefsError."""
        reason = why_not(self._folder)
        if reason:
            raise NoTracefsError(reason)
        self._lock = os.open(self._folder / "kprobe_events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise NoTracefsError("another sweep counts inside this kernel; only one can at a time") from None
        self._remove_probes()
        self.probes = Probes(self._write, lambda path: Path(path).read_text(), str(self._folder))
        if not self.probes.columns:
            self.__exit__(None, None, None)
            raise NoTracefsError(
                f"{_kernel()} takes no probe; CONFIG_KPROBE_EVENTS and CONFIG_HIST_TRIGGERS are needed"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove_probes()
        os.close(self._lock)

    def _remove_probes(self) -> None:
        """Remove the triggers, which hold the probes, and then these."""
        for name in PROBES:
            event = self._folder / "events/sweep" / name
            if event.is_dir():
                if (event / "trigger").exists():
                    (event / "trigger").write_text("")  # opened with O_TRUNC, the kernel removes the triggers
                self._write(f"{self._folder}/kprobe_events", f"-:sweep/{name}\n")

    def _write(self, path: str, text: str) -> bool:
        """Add to a file. Returns whether the kernel took it."""
        try:
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)  # without O_TRUNC, which removes all probes
        except OSError:
            return False
        try:
            return os.write(file, text.encode()) == len(text)
        except OSError:
            return False
        finally:
            os.close(file)


def why_not(folder: Path) -> str:
    """Why this process can set no probes in the running kernel, empty if it can. folder: where tracefs is mounted."""
    if os.geteuid() != 0:
        return "counting inside the running kernel needs root"
    if (folder / "kprobe_events").exists():
        return ""
    if (folder / "events").exists() or not _has_kprobes():
        return f"{_kernel()} was built without CONFIG_KPROBES or CONFIG_KPROBE_EVENTS: nothing can be counted inside it"
    return f"tracefs is not mounted: mount -t tracefs tracefs {folder}"


def _has_kprobes() -> bool:
    """Whether the kernel has kprobes. Their option selects CONFIG_KALLSYMS."""
    try:
        return " register_kprobe\n" in KALLSYMS.read_text()
    except OSError:
        return False


def _kernel() -> str:
    return f"Linux {platform.release()}"
