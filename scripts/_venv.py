"""Make .venv from requirements.lock. _venv.sh calls this when .venv/.ready does not hold the stamp it asks for.

Standard library only, any Python from 3.11. Packages come from wherever the user's uv or pip is set up to find them;
each must have a hash that requirements.lock lists. Killed at any moment, it is started again by the next call; two at
once wait for each other.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO, NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
READY = VENV / ".ready"
LOCK_FILE = ROOT / "requirements.lock"

PROMISE = "about 300 MB to download; a minute on a fast line, once"
PIP_ELSEWHERE = {"index-url", "no-index", "proxy", "client-cert"}
TAIL_LINES = 12

# The command as pip would write it, but with no path of the checkout in it: a moved checkout goes on working.
COMMAND = """\
#!/bin/sh
'''exec' "$(dirname -- "$(readlink -f -- "$0")")/python" "$0" "$@"
' '''
import sys

if __name__ == "__main__":
    from sweep.cli.main import main

    sys.exit(main())
"""


class InstallError(Exception):
    """An installer failed; the text is the end of what it printed."""


class Installer:
    """Runs the steps. Each child inherits the lock, so that an orphan of a killed set-up keeps the next one waiting."""

    def __init__(self, lock: BinaryIO) -> None:
        self.lock = lock
        # PIP_USER=0: with `user = true` in pip.conf pip would refuse to install into a venv.
        self.env = os.environ | {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        for name in ("PIP_TARGET", "PIP_PREFIX", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            self.env.pop(name, None)

    def run(self, *command: str | Path) -> str:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=(self.lock.fileno(),),
        )
        if done.returncode:
            end = done.stdout.strip().splitlines()[-TAIL_LINES:]
            raise InstallError("\n".join(end) or f"{command[0]} failed without a word")
        return done.stdout

    def make(self) -> None:
        """An empty .venv on the real interpreter: a link to `python3` would break with the system's next Python."""
        self.run(Path(sys.executable).resolve(), "-m", "venv", "--clear", "--without-pip", VENV)

    def pip(self, *words: str | Path) -> str:
        if not list(VENV.glob("lib/python*/site-packages/pip/__main__.py")):
            self.run(PYTHON, "-m", "ensurepip")
        return self.run(PYTHON, "-m", "pip", *words)

    def pip_install(self, requirements: Path) -> None:
        self.pip("install", "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", requirements)

    def uv_from_pip(self) -> str | None:
        """uv as locked, put into .venv by pip; None where pip is set up in a way that uv would not know of."""
        uv = VENV / "bin" / "uv"
        settings = dict(re.findall(r"^\S*?\.([\w-]+)='(.*)'$", self.pip("config", "list"), re.MULTILINE))
        pinned = re.search(r"^uv==.*\n(?:[ ].*\n)*", LOCK_FILE.read_text(), re.MULTILINE)
        if settings.keys() & PIP_ELSEWHERE or pinned is None:
            return None
        if "cert" in settings:
            self.env.setdefault("SSL_CERT_FILE", settings["cert"])
        if not uv.exists():
            with tempfile.TemporaryDirectory() as folder:
                requirements = Path(folder, "uv.txt")
                requirements.write_text(pinned.group())
                try:
                    self.pip_install(requirements)
                except InstallError:
                    return None
        return str(uv)

    def install(self) -> None:
        """uv if there is one, else uv from pip, else pip, which takes several times as long."""
        uv = shutil.which("uv") or self.uv_from_pip()
        if uv is not None:
            options = ["--python", str(PYTHON), "--require-hashes", "--only-binary", ":all:", "--compile-bytecode"]
            try:
                self.run(uv, "pip", "sync", *options, LOCK_FILE)
                return
            except InstallError as failed:
                say(f"uv could not install ({str(failed).splitlines()[-1].strip()}); trying pip, which is slower")
        self.pip_install(LOCK_FILE)


def put_on_path() -> None:
    """`import engine, sweep` and .venv/bin/sweep, without a build. A .pth line is relative to its own folder."""
    for packages in VENV.glob("lib/python*/site-packages"):
        (packages / "ptsweep.pth").write_text("../../../..\n")
    command = VENV / "bin" / "sweep"
    command.write_text(COMMAND)
    command.chmod(0o755)


def say(words: str) -> None:
    print(f"ptsweep: {words}", file=sys.stderr, flush=True)


def is_ready(asked: str) -> bool:
    return PYTHON.exists() and READY.exists() and READY.read_text().strip() == asked


def set_up(asked: str, lock: BinaryIO) -> None:
    """A finished .venv is brought up to date; anything else is made anew."""
    started = time.monotonic()
    installer = Installer(lock)
    if PYTHON.exists() and READY.exists():
        say(".venv is behind requirements.lock: bringing it up to date")
        READY.unlink()
    else:
        say(f"making .venv from requirements.lock ({PROMISE})")
        installer.make()
    installer.install()
    put_on_path()
    written = READY.with_suffix(".tmp")
    written.write_text(asked + "\n")
    written.replace(READY)
    say(f".venv is ready after {time.monotonic() - started:.0f} s")


def stop(signal_number: int, frame: object) -> NoReturn:
    """A kill is an interrupt: the child is stopped with us."""
    raise KeyboardInterrupt


def main(asked: str) -> int:
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    try:
        # This file is the lock: no lock file is left behind, and the kernel lets go of it whatever happens to us.
        with Path(__file__).open("r+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another set-up of .venv is under way; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_ready(asked):
                set_up(asked, lock)
    except KeyboardInterrupt:
        say("set-up interrupted; the next command starts it again")
        return 3
    except InstallError as failed:
        for line in str(failed).splitlines():
            print(f"  {line}", file=sys.stderr)
        say("could not make .venv: the installer's last words are above; PYTHON=/path/to/python tries another Python")
        return 4
    except OSError as error:
        say(f"could not make .venv: {error.strerror}: {error.filename}")
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
