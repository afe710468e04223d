"""A web server on this machine that can misbehave in the ways that servers do."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections import Counter
from collections.abc import Callable, Iterator


class Server:
    """Serves ``files`` by path; ``faults`` maps a path to what its first requests meet.

    A fault is a status (403), ``(status, headers)``, ``("drop", bytes)`` to close the connection
    after so many bytes, ``("lie", content)`` to serve other bytes, or ``"whole"`` to ignore ranges.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.count: Counter[str] = Counter()
        self.base = ""


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.requests.append((self.path, self.headers.get("Range")))
            server.count[self.path] += 1
            faults = server.faults.get(self.path, [])
            fault = faults.pop(0) if faults else None
            if isinstance(fault, int):
                fault = (fault, {})
            if isinstance(fault, tuple) and isinstance(fault[0], int):
                self._answer(fault[0], b"", fault[1])
            elif self.path not in server.files:
                self._answer(404, b"", {})
            else:
                self._serve(server.files[self.path], fault)

        def _serve(self, content: bytes, fault) -> None:
            kind, value = fault if isinstance(fault, tuple) else (fault, None)
            content = value if kind == "lie" else content
            etag = f'"{hash(content)}"'
            start = 0
            ranges = self.headers.get("Range")
            if ranges and kind != "whole" and self.headers.get("If-Range") == etag:
                start = int(ranges.removeprefix("bytes=").rstrip("-"))
            if start and start >= len(content):
                self._answer(416, b"", {})
                return
            headers = {"ETag": etag}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            limit = value if kind == "drop" else None
            self._answer(206 if start else 200, content[start:], headers, limit)

        def _answer(self, status: int, body: bytes, headers: dict, limit: int | None = None):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if limit is None else body[:limit])
            if limit is not None:
                self.wfile.flush()
                self.close_connection = True

        def log_message(self, *args) -> None:
            """Say nothing."""

    return Handler


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Run a server on 127.0.0.1 for a while."""
    server = Server()
    handler: Callable = _handler(server)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
        server.base = f"http://127.0.0.1:{listener.server_port}"
        try:
            yield server
        finally:
            listener.shutdown()
