"""An object store on loopback: moto's S3 behind a proxy with failures that a test chooses."""

import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

BUCKET = "results"
SECRET = "a-secret-that-must-not-be-told"
Fault = Callable[[str, str], str]
"""(method, path) -> failure of this request: none (empty), `503`, `cut` (done, but the answer is lost), `hang`."""


def no_fault(method: str, path: str) -> str:
    return ""


class Proxy:
    """A proxy in front of an S3 server. `stop` and `start` keep the port."""

    def __init__(self, behind: tuple[str, int]) -> None:
        self.behind, self.fault, self.requests = behind, no_fault, 0
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening; open connections get no more answers."""
        self.fault = lambda method, path: "hang"
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: Proxy
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self._body()
        self.owner.requests += 1
        fault = self.owner.fault(self.command, self.path)
        if fault == "503":
            self._send(
                503, [], b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            )
            return
        if fault == "hang":
            time.sleep(0.2)
            self.close_connection = True
            return
        behind = http.client.HTTPConnection(*self.owner.behind)
        behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect", "transfer-encoding", "content-length"):
                behind.putheader(name, value)
        behind.putheader("Content-Length", str(len(body)))
        behind.endheaders(body)
        answer = behind.getresponse()
        data = answer.read()
        behind.close()
        if fault == "cut":
            self.close_connection = True
            return
        self._send(answer.status, answer.getheaders(), data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - http.server's names

    def _body(self) -> bytes:
        """The body of the request, sent as one block or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response(status)
        kept = [
            (name, value)
            for name, value in headers
            if name.lower() not in ("connection", "content-length", "server", "date")
        ]
        length = {name.lower(): value for name, value in headers}.get("content-length", str(len(data)))
        for name, value in kept:
            self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def s3() -> Iterator[Proxy]:
    """An S3 server with one empty bucket; its address and credentials are set in the environment."""
    from pyarrow.fs import S3FileSystem

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    proxy = Proxy((host, port))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        try:
            S3FileSystem(
                endpoint_override=proxy.url.partition("//")[2], scheme="http", allow_bucket_creation=True
            ).create_dir(BUCKET)
            yield proxy
        finally:
            proxy.stop()
            server.stop()
