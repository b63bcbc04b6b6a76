"""A Hugging Face hub on loopback: as much of its API as the libraries use to download models and data sets."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """A model or a data set at its one commit, and at those of other branches."""

    commit: str
    files: dict[str, bytes]
    gated: bool = False
    """Files are given to those who send a token only."""
    branches: dict[str, "Repository"] = field(default_factory=dict)
    """By name, such as the one with the hub's conversion to Parquet."""

    def at(self, place: str) -> "Repository":
        """The branch whose name or commit is in the path of a request; this one where there is none."""
        return next((other for name, other in self.branches.items() if name in place or other.commit in place), self)


@dataclass
class Request:
    method: str
    path: str
    range: str
    token: str


@dataclass
class LocalHub:
    """Serves `repositories` (by kind, `models` or `datasets`, and name) while it is entered."""

    repositories: dict[tuple[str, str], Repository]
    requests: list[Request] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    """By file name: so many bytes are sent of it, once, then the connection breaks."""
    refused: set[str] = field(default_factory=set)
    """Names of files that are not given."""
    spoilt: set[str] = field(default_factory=set)
    """Names of files that are sent with other bytes, as many."""
    port: int = 0
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        hub = self

        class Handler(_Handler):
            state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Connections are refused from now on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def downloads(self, name: str) -> list[Request]:
        return [request for request in self.requests if request.method == "GET" and request.path.endswith(f"/{name}")]


class _Handler(BaseHTTPRequestHandler):
    state: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.state.requests.append(Request(self.command, path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
        for (kind, name), repository in self.state.repositories.items():
            prefix = f"/{name}" if kind == "models" else f"/{kind}/{name}"
            if path == f"/api/{kind}/{name}" or path.startswith(f"/api/{kind}/{name}/"):
                return self._api(path.removeprefix(f"/api/{kind}/{name}").strip("/"), name, repository, body)
            if path.startswith(f"{prefix}/resolve/"):
                revision, _, file = path.removeprefix(f"{prefix}/resolve/").partition("/")
                return self._file(repository.at(revision), revision, file)
        return self._refuse(404, "RepoNotFound", "Repository not found")

    def _api(self, rest: str, name: str, repository: Repository, body: bytes) -> None:
        branches, repository = repository.branches, repository.at(rest)
        action, _, revision = rest.partition("/")
        named = next((name for name in branches if name in revision), "")
        revision = repository.commit if named else revision.partition("/")[0] or "main"
        if revision not in ("main", repository.commit):
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        entries = [_entry(path, content) for path, content in repository.files.items()]
        if action in ("", "revision"):
            siblings = [{"rfilename": path} for path in repository.files]
            return self._json({"id": name, "sha": repository.commit, "siblings": siblings, "private": False, "gated": "auto" if repository.gated else False})
        if action == "tree":
            return self._json(entries)
        if action == "paths-info":
            wanted = json.loads(body)["paths"]
            return self._json([entry for entry in entries if entry["path"] in wanted])
        return self._refuse(404, "EntryNotFound", f"no such call: {action}")

    def _file(self, repository: Repository, revision: str, file: str) -> None:
        if repository.gated and not self.headers.get("Authorization"):
            return self._refuse(401, "GatedRepo", "Access to this repository is restricted.")
        if revision not in ("main", repository.commit):
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        if file not in repository.files:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        if file in self.state.refused and self.command == "GET":
            self.close_connection = True
            return None
        content = repository.files[file]
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        part = content[begin:]
        self.send_response(206 if "Range" in self.headers else 200)
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{_etag(file, content)}"', "Content-Length": str(len(part)), "Accept-Ranges": "bytes"}
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if file in self.state.spoilt:
            part = bytes(255 - byte for byte in part)
        if (limit := self.state.cut.pop(file, None)) is not None:
            part = part[:limit]
            self.close_connection = True
        self.wfile.write(part)
        return None

    def _json(self, value: Any) -> None:
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(status, {"X-Error-Code": code, "X-Error-Message": message}, json.dumps({"error": message}).encode())

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(file: str, content: bytes) -> str:
    """Large files have the SHA-256 of their content, as the hub's LFS gives it; others git's name."""
    if file.endswith((".safetensors", ".parquet", ".bin")):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    etag = _etag(path, content)
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": etag}
    if len(etag) == 64:
        entry["lfs"] = {"oid": etag, "size": len(content), "pointerSize": 134}
    return entry
