"""A stand-in for the Hugging Face hub on this machine's loopback: the few endpoints that a pull needs.

It speaks real HTTP (Range, ETag, X-Repo-Commit, X-Linked-Etag, X-Error-Code) and can be told to misbehave.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class HubServer(ThreadingHTTPServer):
    """Repositories of one commit each. `requests` is what was asked: (method, path, Range, Authorization)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str, str | None, str | None]] = []
        self.gated: set[str] = set()
        self.cut_after: list[
            int
        ] = []  # for each coming GET of a file: bytes to send before hanging up; -1: 503
        self.corrupt = False  # send other bytes than announced
        self.not_json = False
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repo: str) -> str:
        content = b"".join(name.encode() + data for name, data in sorted(self.repos[repo].items()))
        return hashlib.sha1(content, usedforsecurity=False).hexdigest()

    def downloads(self) -> list[str | None]:
        """The Range header of each GET of a file."""
        return [
            range_ for method, path, range_, _ in self.requests if method == "GET" and "/resolve/" in path
        ]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = self.headers
        self.server.requests.append((self.command, path, headers.get("Range"), headers.get("Authorization")))
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = tree or api or file
        repo = match[1] if match else ""
        if repo in self.server.gated and not headers.get("Authorization"):
            self.reply(401, error="GatedRepo")
        elif repo not in self.server.repos:
            self.reply(404, error="RepoNotFound")
        elif (match[2] or "main") not in ("main", "refs/pr/1", self.server.commit(repo)):
            self.reply(404, error="RevisionNotFound")
        elif self.server.not_json:
            self.reply(200, b"<html>Please log in to the wireless network</html>")
        elif tree:
            self.reply(200, json.dumps(self.list_tree(repo)).encode())
        elif api:
            self.reply(200, json.dumps(self.describe(repo)).encode())
        else:
            self.send_file(repo, file[3])

    def describe(self, repo: str) -> dict[str, Any]:
        """What the hub says of a repository."""
        siblings = [{"rfilename": name} for name in self.server.repos[repo]]
        sha = self.server.commit(repo)
        return {"id": repo, "modelId": repo, "sha": sha, "siblings": siblings, "tags": []}

    def list_tree(self, repo: str) -> list[dict[str, Any]]:
        """What the hub says of the files of a repository."""
        entries = []
        for name, data in self.server.repos[repo].items():
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": git_sha1(data)}
            if is_large(name):
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
            entries.append(entry)
        return entries

    def send_file(self, repo: str, name: str) -> None:
        data = self.server.repos[repo].get(name)
        if data is None:
            self.reply(404, error="EntryNotFound")
            return
        etag = hashlib.sha256(data).hexdigest() if is_large(name) else git_sha1(data)
        extra = {"X-Repo-Commit": self.server.commit(repo), "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if is_large(name):
            extra |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        body = bytes(len(data)) if self.server.corrupt and is_large(name) else data
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        if start:
            extra["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = self.server.cut_after.pop(0) if self.command == "GET" and self.server.cut_after else None
        if cut == -1:
            self.reply(503)
        else:
            self.reply(206 if start else 200, body[start:], extra, cut=cut)

    def reply(
        self,
        status: int,
        body: bytes = b"",
        extra: dict[str, str] | None = None,
        error: str = "",
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in {**(extra or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def is_large(name: str) -> bool:
    """Say whether the hub keeps a file as a large one, known by its SHA-256."""
    return name.endswith((".ckpt", ".safetensors"))


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
