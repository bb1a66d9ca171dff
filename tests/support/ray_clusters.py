"""Ray clusters for tests: real nodes, each with processes of its own, on this machine or on hosts that are namespaces.

`ray stop` would end every Ray of the machine, other people's too; here each node's own processes are killed.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PATIENCE_S = 90.0
STORE_BYTES = 75 << 20  # the least that Ray takes


@dataclass
class Node:
    """One node: `ray start --block`, and what it has started."""

    process: subprocess.Popen[bytes]
    _family: set[psutil.Process] = field(default_factory=set)

    def family(self) -> set[psutil.Process]:
        """All processes ever seen of this node."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family |= {psutil.Process(self.process.pid)}
        for process in list(self._family):
            with contextlib.suppress(psutil.NoSuchProcess):
                self._family |= set(process.children(recursive=True))
        return self._family

    def named(self, name: str) -> list[psutil.Process]:
        """Its living processes of this name: raylet, gcs_server."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if process.name() == name and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kill(self) -> None:
        """kill -9 of all of it."""
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(self._family, timeout=10)
        self.process.wait()


class Cluster:
    """A head and more nodes. `address` is what --address takes; `environment` lets a driver in."""

    def __init__(self, nodes: int = 3, cpus: int = 1, python: str = sys.executable, **environment: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))  # short: Ray puts sockets there
        self.python, self.cpus = python, cpus
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment = clean | self.token | {"RAY_USAGE_STATS_ENABLED": "0", "HOME": str(self.folder)} | environment
        self.address = f"{self.head_host()}:{free_port()}"
        self.nodes: list[Node] = []
        try:
            for number in range(nodes):  # one after another: at once, some do not find themselves in the head's list
                self.add(number)
        except BaseException:
            self.stop()
            raise

    def head_host(self) -> str:
        return "127.0.0.1"

    def prefix(self, number: int) -> list[str]:
        """What puts a command on a node's host."""
        return []

    def options(self, number: int) -> list[str]:
        """More options of `ray start` for a node."""
        return []

    def add(self, number: int) -> Node:
        """Start one more node; number 0 is the head."""
        port = self.address.rpartition(":")[2]
        joins = [f"--address={self.address}"] if number else ["--head", f"--port={port}", "--include-dashboard=false"]
        command = [
            *self.prefix(number),
            *(self.python, "-c", "from ray.scripts.scripts import main; main()", "start", "--block", *joins),
            *(f"--num-cpus={self.cpus}", f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats"),
            *([] if number else [f"--temp-dir={self.folder / 'r'}"]),
            *self.options(number),
        ]
        said = self.folder / f"node-{len(self.nodes)}.log"
        with said.open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.nodes.append(Node(process))
        end = time.monotonic() + PATIENCE_S
        while "Ray runtime started" not in said.read_text():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < end, said.read_text()
            time.sleep(0.1)
        self.nodes[-1].family()
        return self.nodes[-1]

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


HOST = """hostname "$0"
mkdir -p "$1/$0" "$1/r"
mount --bind "$1/$0" "$1/r"
echo up
exec sleep infinity
"""


class Hosts(Cluster):
    """Nodes on hosts of their own: addresses on a bridge, names, process tables, and a folder for Ray's sockets."""

    def __init__(self, nodes: int = 3, **environment: str) -> None:
        self._mark = f"pt{os.getpid()}"
        self._hosts = [f"{self._mark}h{number}" for number in range(nodes + 1)]
        self._holders: list[subprocess.Popen[str]] = []
        try:
            _ip("netns", "add", self._mark)
            _ip("-n", self._mark, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._mark, "link", "set", "bridge", "up")
            for number, host in enumerate(self._hosts):
                port = f"port{number}"
                _ip("netns", "add", host)
                _ip("-n", host, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self._mark)
                _ip("-n", self._mark, "link", "set", port, "master", "bridge", "up")
                _ip("-n", host, "addr", "add", f"{self._address(number)}/24", "dev", "eth0")
                _ip("-n", host, "link", "set", "eth0", "up")
                _ip("-n", host, "link", "set", "lo", "up")
                _ip("-n", host, "route", "add", "default", "via", self._address(0 if number else 1))  # Ray asks for one
            super().__init__(nodes, 1, sys.executable, **environment)
        except BaseException:
            self._remove()
            raise

    def head_host(self) -> str:
        return self._address(0)

    def prefix(self, number: int) -> list[str]:
        """The last host is no node."""
        while len(self._holders) <= number:
            self._hold(len(self._holders))
        (inside,) = psutil.Process(self._holders[number].pid).children()
        return ["nsenter", "--target", str(inside.pid), "--net", "--uts", "--mount", "--pid"]

    def options(self, number: int) -> list[str]:
        return [f"--node-ip-address={self._address(number)}"]

    def stop(self) -> None:
        super().stop()
        self._remove()

    def _hold(self, number: int) -> None:
        """Something that keeps a host's namespaces: its first process."""
        apart = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        enter, name = ["ip", "netns", "exec", self._hosts[number]], f"host{number}"
        words = [*enter, *apart, "sh", "-c", HOST, name, str(self.folder)]
        self._holders.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        said = self._holders[-1].stdout
        assert said is not None
        assert said.readline() == "up\n"

    def _address(self, number: int) -> str:
        return f"10.77.0.{number + 1}"

    def _remove(self) -> None:
        for holder in self._holders:
            holder.kill()
            holder.communicate()
        for name in (*self._hosts, self._mark):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)


def why_no_hosts() -> str:
    """What keeps `Hosts` from being made here; empty if nothing does."""
    name = f"pt{os.getpid()}try"
    try:
        _ip("netns", "add", name)
        try:
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
            _ip("-n", name, "link", "add", "bridge", "type", "bridge")
            apart = ["unshare", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "hostname", "x"]
            subprocess.run(["ip", "netns", "exec", name, *apart], check=True, capture_output=True)
        finally:
            _ip("netns", "delete", name)
    except FileNotFoundError:
        return "ip or unshare is not there"
    except subprocess.CalledProcessError as error:
        return f"no network namespaces: {error.stderr.decode().strip()}"
    return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
