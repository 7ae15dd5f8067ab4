"""A hub of models on this machine: as much of its interface as getting and putting a repository takes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


class Hub:
    """Repositories by name, each a dict of files; ``asked`` are the files that were fetched."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.url = ""


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def _send(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _json(self, content: object) -> None:
            self._send(200, json.dumps(content).encode(), Content_Type="application/json")

        def do_GET(self) -> None:
            if found := re.fullmatch(r"/(\w+/[\w-]+)/resolve/([\w.-]+)/(.+)", self.path):
                repository, revision, name = found.groups()
                files = hub.repositories.get(repository)
                if files is None:
                    self._send(401, b"", X_Error_Code="RepoNotFound")
                elif revision not in ("main", COMMIT):
                    self._send(404, b"", X_Error_Code="RevisionNotFound")
                elif name not in files:
                    self._send(404, b"", X_Error_Code="EntryNotFound")
                else:
                    hub.asked.append(name)
                    etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
                    self._send(200, files[name], ETag=etag, X_Repo_Commit=COMMIT)
            elif self.path.startswith("/api/models/"):
                self._json({"id": "org/name", "sha": COMMIT, "siblings": []})
            else:
                self._send(404, b"")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'org'}/{asked['name'].split('/')[-1]}"
                hub.repositories.setdefault(name, {})
                self._json({"url": f"{hub.url}/{name}", "id": name})
            elif "/preupload/" in self.path:
                mode = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                self._json({"files": [{"path": f["path"], **mode} for f in json.loads(body)["files"]]})
            elif found := re.fullmatch(r"/api/models/(\w+/[\w-]+)/commit/main", self.path.split("?")[0]):
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        hub.repositories[found[1]][line["value"]["path"]] = content
                self._json({"commitUrl": f"{hub.url}/{found[1]}/commit/{COMMIT}", "commitOid": COMMIT, "success": True})
            elif self.path.startswith("/api/validate-yaml"):
                self._json({"errors": [], "warnings": []})
            else:
                self._send(404, b"")

    return Handler


@contextmanager
def standing_in() -> Iterator[Hub]:
    """A hub on the loopback interface, gone after the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
