"""A web server on this machine, for the tests of downloads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """A web server of `pages`. Each word of `faults` spoils one request, in order.

    With `marked`, it sends an entity tag, and answers a request for a part of a page.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.parts: list[str] = []
        self.logins: list[str] = []
        self.faults: list[str] = []
        self.marked = False
        self.released = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(self.path)
        wanted = self.headers.get("Range", "")
        server.parts.append(wanted)
        server.logins.append(self.headers.get("Authorization", ""))
        fault = server.faults.pop(0) if server.faults else ""
        page = server.pages.get(self.path)
        if page is None:
            self.send_error(404)
            return
        if fault == "unavailable":
            self.send_error(503)
            return
        tag, start = f'"{hash(page)}"', 0
        if server.marked and wanted and self.headers.get("If-Range", tag) == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            start += fault == "shifted"
        self.send_response(206 if start else 200)
        if server.marked:
            self.send_header("ETag", tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(page) - 1}/{len(page)}")
        rest = page[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: len(rest) // 2] if fault in ("cut", "hang") else rest)
        if fault == "hang":
            self.server.released.wait(60)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a server in a thread."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()
