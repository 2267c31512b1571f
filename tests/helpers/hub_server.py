"""A hub on this machine that serves one folder as a repository, as the Hugging Face hub does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Hub(BaseHTTPRequestHandler):
    def __init__(self, *arguments: Any, folder: Path, asked: list[str]) -> None:
        self.folder, self.asked = folder, asked
        super().__init__(*arguments)

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        path = self.path.partition("?")[0]
        names = [str(file.relative_to(self.folder)) for file in sorted(self.folder.rglob("*")) if file.is_file()]
        # Another file makes another commit.
        commit = hashlib.sha1("\n".join(names).encode()).hexdigest()
        if path.startswith("/api/"):
            tree = [{"type": "file", "path": name, "size": 0, "oid": commit} for name in names]
            whole = {"id": "someone/tiny-model", "sha": commit, "siblings": [{"rfilename": name} for name in names]}
            content = json.dumps(tree if "/tree/" in path else whole).encode()
        else:
            name = path.partition(f"/resolve/{commit}/")[2]
            content = (self.folder / name).read_bytes()
            if self.command == "GET":
                self.asked.append(name)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        return content


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The hub's address, and the files that were downloaded so far."""
    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hub, folder=folder, asked=asked)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()
