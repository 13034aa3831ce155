"""A local server that speaks the hub's protocol for uploads: repositories, LFS batches and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_local"


class Hub(ThreadingHTTPServer):
    """What was pushed: files by repository and path, and which repositories are private."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.commits: list[tuple[str, str]] = []
        self.refuse_after: int | None = None  # commits

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def answer(self, value: Any, status: int = 200) -> None:
        raw = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        if status >= 400:
            self.send_header("X-Error-Message", value["error"])
        self.end_headers()
        self.wfile.write(raw)

    def body(self) -> bytes:
        """What was sent, in one piece or in chunks of stated length."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_PUT(self) -> None:
        data, oid = self.body(), self.path.rsplit("/", 1)[1]
        assert hashlib.sha256(data).hexdigest() == oid
        self.server.objects[oid] = data
        self.answer({})

    def do_POST(self) -> None:
        raw, hub, path = self.body(), self.server, self.path.partition("?")[0]
        if path != "/api/validate-yaml" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid username or password."}, 401)
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            asked = json.loads(raw)
            name = f"{asked['organization']}/{asked['name']}"
            address = {"url": f"{hub.address}/{name}"}
            if name in hub.files:
                self.answer(address | {"error": "You already created this model repo"}, 409)
            else:
                hub.files[name], hub.private[name] = (
                    {},
                    bool(asked.get("private")) or asked.get("visibility") == "private",
                )
                self.answer(address)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = json.loads(raw)["files"]
            modes = {each["path"]: "lfs" if each["path"].endswith(".safetensors") else "regular" for each in files}
            said = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            self.answer({"files": said})
        elif path.endswith(".git/info/lfs/objects/batch"):
            wanted = json.loads(raw)["objects"]
            upload = {each["oid"]: {"upload": {"href": f"{hub.address}/lfs/{each['oid']}"}} for each in wanted}
            self.answer({"transfer": "basic", "objects": [{**each, "actions": upload[each["oid"]]} for each in wanted]})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self.commit(found[1], [json.loads(line) for line in raw.splitlines()])
        else:
            self.answer({"error": f"unknown: {path}"}, 404)

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        hub = self.server
        if hub.refuse_after is not None and len(hub.commits) >= hub.refuse_after:
            self.answer({"error": "You have exceeded your storage limit"}, 403)
            return
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                hub.commits.append((name, value["summary"]))
            elif line["key"] == "file":
                hub.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                hub.files[name][value["path"]] = hub.objects[value["oid"]]
        self.answer({"commitUrl": f"{hub.address}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40})


@contextmanager
def local_hub() -> Iterator[Hub]:
    """Run a hub in a thread."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
