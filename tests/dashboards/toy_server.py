"""The smallest server that W&B's own client takes for one: runs, their history, and artifacts; in memory.

It answers the queries of wandb 0.31, by their names. A run that exists can be resumed or refused by the client; an
artifact with the digest of one that is known is that one.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "team"


class Server:
    """What arrived, by run.

    Attributes:
        runs: id → ``upsert`` (what the run was opened with), ``history`` (rows), ``summary``, ``exit_code``.
        artifacts: (name, digest) → id.
        used, made: (run, artifact's name).
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[tuple[str, str], str] = {}
        self.used: list[tuple[str, str]] = []
        self.made: list[tuple[str, str]] = []
        self.url = ""

    def stream(self, run_id: str, body: dict[str, Any]) -> None:
        """Lines of history and summary."""
        run = self._run(run_id)
        files = body.get("files") or {}
        run["history"] += [json.loads(line) for line in files.get("wandb-history.jsonl", {}).get("content", [])]
        for line in files.get("wandb-summary.json", {}).get("content", []):
            run["summary"] = json.loads(line)
        if "exitcode" in body:
            run["exit_code"] = body["exitcode"]

    def _run(self, run_id: str) -> dict[str, Any]:
        return self.runs.setdefault(run_id, {"upsert": {}, "history": [], "summary": {}, "exit_code": None})

    def answer(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """The ``data`` of a GraphQL answer; an unknown question is answered with nothing."""
        handler = getattr(self, f"_{name}", None)
        return handler(values.get("input") or values) if handler else {}

    def _Viewer(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "u", "entity": ENTITY, "username": "me", "flags": "{}", "teams": {"edges": []}}}

    def _ArtifactType(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"project": None}

    def _InputFields(self, values: dict[str, Any]) -> dict[str, Any]:
        names = ("clientID", "sequenceClientID", "enableDigestDeduplication", "artifactCollectionName", "tags")
        return {"TypeInfo": {"name": "x", "inputFields": [{"name": name} for name in names], "fields": []}}

    def _RunResumeStatus(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(values["name"])
        bucket = run and {
            "id": values["name"],
            "name": values["name"],
            "displayName": "x",
            "summaryMetrics": "{}",
            "config": "{}",
            "logLineCount": 0,
            "historyLineCount": len(run["history"]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "historyTail": json.dumps([json.dumps(row) for row in run["history"][-1:]]),
            "tags": [],
            "wandbConfig": '{"t": 1}',
        }
        return {"model": {"id": "m", "name": "p", "entity": {"id": "e", "name": ENTITY}, "bucket": bucket}}

    def _UpsertBucket(self, values: dict[str, Any]) -> dict[str, Any]:
        new = values["name"] not in self.runs
        self._run(values["name"])["upsert"] |= {k: v for k, v in values.items() if v is not None}
        project = {"id": "p", "name": values["project"], "entity": {"id": "e", "name": ENTITY}}
        bucket = {
            "id": values["name"],
            "name": values["name"],
            "displayName": values.get("displayName"),
            "description": None,
            "config": None,
            "sweepName": None,
            "historyLineCount": 0,
            "project": project,
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def _CreateArtifact(self, values: dict[str, Any]) -> dict[str, Any]:
        name, known = values["artifactCollectionName"], (values["artifactCollectionName"], values["digest"])
        state = "COMMITTED" if known in self.artifacts else "PENDING"
        found = self.artifacts.setdefault(known, f"{name}@{len(self.artifacts)}")
        if values.get("runName"):
            self.made.append((values["runName"], name))
        latest = {"id": f"sequence-{name}", "latestArtifact": {"id": found, "versionIndex": 0}}
        return {"createArtifact": {"artifact": {"id": found, "state": state, "artifactSequence": latest}}}

    def _CreateArtifactManifest(self, values: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "f", "name": "m", "displayName": "m", "uploadUrl": f"{self.url}/upload", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _CommitArtifact(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"commitArtifact": {"artifact": {"id": values["artifactID"], "digest": "d"}}}

    def _UseArtifact(self, values: dict[str, Any]) -> dict[str, Any]:
        self.used.append((values["runName"], values["artifactID"].split("@")[0]))
        return {
            "useArtifact": {
                "artifact": {
                    "id": values["artifactID"],
                    "digest": "d",
                    "description": None,
                    "state": "COMMITTED",
                    "createdAt": "2026-01-01T00:00:00",
                    "metadata": "{}",
                }
            }
        }

    def _CreateRunFiles(self, values: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in values.get("files", [])]
        return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def _body(self) -> bytes:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

        def _send(self, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self._send({})

        def do_PUT(self) -> None:
            self._body()
            self._send({})

        def do_POST(self) -> None:
            data = self._body()
            stream = re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
            if stream:
                server.stream(stream[1], json.loads(data))
            elif self.path.startswith("/graphql"):
                asked = json.loads(data)
                name = asked.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])[1]
                name = "InputFields" if "__type" in asked["query"] else name
                return self._send({"data": server.answer(name, asked.get("variables") or {})})
            self._send({})

    return Handler


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are normal."""


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    """A server on this machine, while the block lasts."""
    server = Server()
    http = _Quiet(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
