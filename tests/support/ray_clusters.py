"""Ray clusters for tests. Nodes are real `ray start` processes, on this machine or in network namespaces as hosts.

`ray stop` would end every Ray of the machine, those of other users too. So each node's own processes are killed.
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
    """A node: the process `ray start --block` and its descendants."""

    process: subprocess.Popen[bytes]
    _processes: set[psutil.Process] = field(default_factory=set)

    def processes(self) -> set[psutil.Process]:
        """All processes of this node that were ever seen."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._processes |= {psutil.Process(self.process.pid)}
        for process in list(self._processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                self._processes |= set(process.children(recursive=True))
        return self._processes

    def named(self, name: str) -> list[psutil.Process]:
        """Its living processes of this name, such as raylet or gcs_server."""
        living = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.name() == name and process.status() != psutil.STATUS_ZOMBIE:
                    living.append(process)
        return living

    def kill(self) -> None:
        """Kill all its processes (SIGKILL)."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(self._processes, timeout=10)
        self.process.wait()


class Cluster:
    """A head and more nodes. address: for --address; environment: what a driver needs to be let in."""

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
        """Words before a command that run it on the host of a node."""
        return []

    def options(self, number: int) -> list[str]:
        """Further options of `ray start` for a node."""
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
        log_path = self.folder / f"node-{len(self.nodes)}.log"
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.nodes.append(Node(process))
        end = time.monotonic() + PATIENCE_S
        while "Ray runtime started" not in log_path.read_text():
            assert process.poll() is None, log_path.read_text()
            assert time.monotonic() < end, log_path.read_text()
            time.sleep(0.1)
        self.nodes[-1].processes()
        return self.nodes[-1]

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """A port of the loopback that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


HOST = """hostname "$0"
mkdir -p "$1/$0" "$1/r"
mount --bind "$1/$0" "$1/r"
echo up
exec sleep infinity
"""


class Hosts(Cluster):
    """A cluster whose nodes are hosts: each has its own address on a bridge, name, process table and socket folder."""

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
        """For the host `number`. The last host has no node."""
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
        """Start the first process of a host, which keeps its namespaces."""
        unshare = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        enter, name = ["ip", "netns", "exec", self._hosts[number]], f"host{number}"
        words = [*enter, *unshare, "sh", "-c", HOST, name, str(self.folder)]
        self._holders.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        stdout = self._holders[-1].stdout
        assert stdout is not None
        assert stdout.readline() == "up\n"

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
    """Why `Hosts` cannot be created on this machine, empty if they can."""
    name = f"pt{os.getpid()}try"
    try:
        _ip("netns", "add", name)
        try:
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
            _ip("-n", name, "link", "add", "bridge", "type", "bridge")
            unshare = ["unshare", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "hostname", "x"]
            subprocess.run(["ip", "netns", "exec", name, *unshare], check=True, capture_output=True)
        finally:
            _ip("netns", "delete", name)
    except FileNotFoundError:
        return "ip or unshare is not there"
    except subprocess.CalledProcessError as error:
        return f"no network namespaces: {error.stderr.decode().strip()}"
    return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
