"""A small server that speaks as much of the Hugging Face Hub's API as the real client needs to fetch a file."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass
class Repository:
    """One model repository: revision -> commit, and the files at each commit."""

    revisions: dict[str, str]
    files: dict[str, dict[str, bytes]]
    gated: bool = False
    token: str | None = None
    """Needed to see it at all."""


@dataclass
class FakeHub:
    """What the server knows, and the requests it has seen."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    broken: bool = False
    odd: dict[str, Callable[[Handler], None]] = field(default_factory=dict)
    """Path of an API call or a file -> what answers in its place."""
    seen: list[str] = field(default_factory=list)
    endpoint: str = ""

    def add(self, repo: str, files: dict[str, Any], *, commit: str = "a" * 40, **options: Any) -> Repository:
        raw = {name: value if isinstance(value, bytes) else json.dumps(value).encode() for name, value in files.items()}
        repository = Repository({"main": commit, commit: commit}, {commit: raw}, **options)
        self.repositories[repo] = repository
        return repository


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, json.dumps({"error": code}).encode(), X_Error_Code=code, X_Error_Message=code)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.hub.seen.append(f"{self.command} {path}")
        if self.hub.broken:
            self.answer(500)
            return
        if path in self.hub.odd:
            with suppress(OSError):  # who asked has had enough
                self.hub.odd[path](self)
            self.close_connection = True
            return
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if api else parts[:2])
        if repo in self.hub.moved:
            self.answer(307, Location=self.path.replace(repo, self.hub.moved[repo]))
            return
        repository = self.hub.repositories.get(repo)
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository is None or (repository.token is not None and repository.token != sent):
            self.refuse(401 if not sent else 404, "RepoNotFound")
            return
        revision = parts[5] if api and len(parts) > 5 else "main" if api else parts[3]
        commit = repository.revisions.get(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound")
        elif api:
            siblings = [{"rfilename": name} for name in repository.files[commit]]
            body = json.dumps({"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}).encode()
            self.answer(200, body, Content_Type="application/json")
        elif repository.gated:
            self.refuse(403, "GatedRepo")
        else:
            self.file(repository.files[commit].get("/".join(parts[4:])), commit)

    def file(self, body: bytes | None, commit: str) -> None:
        if body is None:
            self.refuse(404, "EntryNotFound")
            return
        etag = f'"{hashlib.sha1(body).hexdigest()}"'
        self.answer(200, body, ETag=etag, X_Repo_Commit=commit, Content_Type="application/octet-stream")


def sends(body: bytes, status: int = 200, **headers: str) -> Callable[[Handler], None]:
    """Sends these bytes, whatever was asked for."""
    return lambda handler: handler.answer(status, body, **headers)


def without_end(handler: Handler) -> None:
    """Sends a body that does not end, without saying how long it is."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 1_000_000)


def drips(in_headers: bool) -> Callable[[Handler], None]:
    """Sends a byte now and then, for a minute: never so seldom that a read would time out."""

    def drip(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"X-Slow: " if in_headers else b"Content-Length: 9999\r\n\r\n"))
        for _ in range(600):
            handler.wfile.write(b"1")
            handler.wfile.flush()
            time.sleep(0.1)

    return drip


@contextmanager
def serve_hub() -> Iterator[FakeHub]:
    """A FakeHub at `endpoint`, until the block ends."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
