"""A stand-in for the Hugging Face Hub: a local server with the few calls that our use makes."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_for_the_tests"


class Hub(ThreadingHTTPServer):
    """A server of repositories: by name, the files of each commit, the newest last.

    `private` are the names of the repositories that were made as private ones.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: list[str] = []
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        commits = self.repositories.setdefault(repository, {})
        oid = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits[oid] = files
        return oid


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        for pattern, function in ROUTES:
            if match := re.fullmatch(pattern, path):
                function(self, body, *match.groups())
                return
        self.send(404, b"")

    def send(
        self, code: int, content: bytes, kind: str = "application/json", **headers: str
    ) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, data: Any) -> None:
        self.send(200, json.dumps(data).encode())

    def files(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.server.repositories.get(repository)
        if commits is None:
            self.send(404, b"", X_Error_Code="RepoNotFound")
            return None
        oid = [*commits][-1] if revision == "main" else revision
        if oid not in commits:
            self.send(404, b"", X_Error_Code="RevisionNotFound")
            return None
        return oid, commits[oid]

    def about(self, _: bytes, repository: str, revision: str | None) -> None:
        if state := self.files(repository, revision or "main"):
            siblings = [{"rfilename": name} for name in state[1]]
            self.send_json({"id": repository, "sha": state[0], "siblings": siblings})

    def tree(self, _: bytes, repository: str, revision: str) -> None:
        if state := self.files(repository, revision):
            self.send_json(
                [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                    }
                    for name, content in state[1].items()
                ]
            )

    def resolve(self, _: bytes, repository: str, revision: str, name: str) -> None:
        if state := self.files(repository, revision):
            content = state[1][name]
            self.send(200, content, "application/octet-stream", ETag=f'"{hash(content)}"')

    def create(self, body: bytes) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send(401, b'{"error": "Invalid username or password."}')
            return
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if asked.get("private") or asked.get("visibility") == "private":
            self.server.private.append(name)
        self.server.repositories.setdefault(name, {})
        self.send_json({"url": f"{self.server.url}/{name}", "name": name})

    def validate(self, body: bytes) -> None:
        assert json.loads(body)["content"].startswith("---\n")
        self.send_json({"errors": [], "warnings": []})

    def modes(self, body: bytes, *_: str) -> None:
        files = [file["path"] for file in json.loads(body)["files"]]
        self.send_json(
            {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]}
        )

    def receive(self, body: bytes, repository: str, _: str) -> None:
        files = {}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        oid = self.server.commit(repository, files)
        url = f"{self.server.url}/{repository}/commit/{oid}"
        self.send_json({"success": True, "commitOid": oid, "commitUrl": url})

    def log_message(self, format: str, *args: object) -> None:
        pass


NAME = "([^/]+/[^/]+)"
ROUTES: list[tuple[str, Any]] = [
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (rf"/api/models/{NAME}/preupload/(\w+)", Handler.modes),
    (rf"/api/models/{NAME}/commit/(\w+)", Handler.receive),
    (rf"/api/models/{NAME}/tree/(\w+)", Handler.tree),
    (rf"/api/models/{NAME}(?:/revision/(\w+))?", Handler.about),
    (rf"/{NAME}/resolve/(\w+)/(.+)", Handler.resolve),
]


@contextmanager
def running_hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()
