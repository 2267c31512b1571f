"""Tracking servers that fail, and a way through to one that does not."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Mode = Literal["hangs", "answers 500", "passes on", "loses answers"]


class Server(ThreadingHTTPServer):
    """A server on a free port.

    Attributes:
        mode: "hangs": no answer until `release` is set, and none then; "passes on": everything goes to `upstream`;
            "loses answers": that too, but the first answer of each address does not come back.
        lost: those addresses.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, mode: Mode, upstream: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode = mode
        self.upstream = upstream
        self.release = threading.Event()
        self.lost: set[str] = set()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def answer(self) -> None:
        server = self.server
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        self.close_connection = True
        if server.mode == "hangs":
            server.release.wait()
        elif server.mode == "answers 500":
            self.send_error(500)
        else:
            address = self.path.partition("?")[0]
            lost = server.mode == "loses answers" and address not in server.lost
            server.lost.add(address)
            connection = http.client.HTTPConnection("127.0.0.1", server.upstream, timeout=60)
            connection.request(self.command, self.path, body, {**self.headers, "Connection": "close"})
            with connection.getresponse() as reply:
                content = reply.read()
            connection.close()
            if not lost:
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.headers.get("Content-Type", "application/json"))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


@contextmanager
def serve(mode: Mode, upstream: int = 0) -> Iterator[Server]:
    """A server that runs inside the block."""
    server = Server(mode, upstream)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
