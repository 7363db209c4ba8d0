"""A stand-in hub on 127.0.0.1: one model, a gated one, a broken one and one without a model."""

from __future__ import annotations

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + "0" * 34
WEIGHTS = bytes(range(256)) * 100_000  # clients keep what they got in steps of 10 MiB
FILES = {
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "adapter/adapter_config.json": b"{}",
    "README.md": b"not needed",
    "consolidated.safetensors": b"not needed",
    "original/model.safetensors": b"not needed",
    "pytorch_model.bin": b"not needed",
}


class Hub(BaseHTTPRequestHandler):
    """The few endpoints of the hub that a snapshot takes."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", headers: dict | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server: Server = self.server  # type: ignore[assignment]
        path = self.path.partition("?")[0]
        server.asked.append((self.command, path, self.headers.get("Range")))
        if "/owner/gated" in path:
            return self.reply(403, b"{}", {"X-Error-Code": "GatedRepo"})
        for name, file in (("owner/broken", "config.json"), ("owner/notes", "README.md")):
            if name in path and "/resolve/" not in path:
                tree = [{"type": "file", "path": file, "size": 2, "oid": "0" * 40}]
                info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file}]}
                body = json.dumps(tree if "/tree/" in path else info).encode()
                return self.reply(200, body, {"Content-Type": "application/json"})
            if name in path and self.command == "HEAD":
                return self.reply(200, b"{}", {"ETag": '"0"', "X-Repo-Commit": COMMIT})
            if name in path:
                return self.reply(501, b"{}")
        if "/owner/model" not in path:
            return self.reply(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if path.startswith("/api/models/owner/model/tree/"):
            tree = [
                {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                for n, b in FILES.items()
            ]
            return self.reply(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        if path.startswith("/api/models/owner/model"):
            revision = path.partition("/revision/")[2] or "main"
            if revision not in ("main", COMMIT):
                return self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            info = {
                "id": "owner/model",
                "sha": COMMIT,
                "siblings": [{"rfilename": n} for n in FILES],
            }
            return self.reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
        body = FILES[path.partition(f"/resolve/{COMMIT}/")[2]]
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        headers["Accept-Ranges"] = "bytes"
        if self.command == "GET" and body is WEIGHTS and server.cut:
            server.cut = False  # half a file, then the line is dead
            self.send_response(200)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            return None
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start and self.command == "GET":
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return self.reply(206, body[start:], headers)
        return self.reply(200, body, headers)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.asked: list[tuple[str, str, str | None]] = []
        self.cut = False
