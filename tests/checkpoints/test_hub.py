"""Folders and hub ids, against a stand-in hub on 127.0.0.1: nothing here leaves the machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import tinylane.checkpoints.hub
from tinylane.checkpoints.hub import resolve
from tinylane.core.errors import TinylaneError

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
                found = json.dumps(tree if "/tree/" in path else info).encode()
                return self.reply(200, found, {"Content-Type": "application/json"})
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


@pytest.fixture
def hub(tmp_path):
    """Call with a source; gives (stdout, stderr line) of `resolve` in a process of its own."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = (
        "import sys\nfrom tinylane.checkpoints.hub import resolve\nfrom tinylane.core.errors import TinylaneError\n"
        "try: print(resolve(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))\n"
        "except TinylaneError as e: print('refused:', e)\n"
    )

    def call(*arguments: str, port: int | None = None) -> str:
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))},
            "HF_ENDPOINT": f"http://127.0.0.1:{port or server.server_port}",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
            "PYTHONPATH": str(Path(tinylane.__file__).parents[1]),
        }
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 1, done.stdout
        return lines[0]

    call.server = server  # type: ignore[attr-defined]
    yield call
    server.shutdown()
    server.server_close()


def dead_port() -> int:
    """A port of this machine that nobody listens on."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as closed:
        return closed.server_port


def test_only_needed_files_come_and_the_cache_serves_them_without_a_network(hub):
    folder = hub("owner/model")
    paths = [os.path.join(d, f) for d, _, files in os.walk(folder) for f in files]
    found = {os.path.relpath(path, folder) for path in paths}
    needed = {"config.json", "model.safetensors", "tokenizer.json", "adapter/adapter_config.json"}
    assert found == needed
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        assert file.read() == WEIGHTS
    assert hub("owner/model", port=dead_port()) == folder
    before = len(hub.server.asked)
    assert hub("owner/model", COMMIT) == folder
    fetched = [path for kind, path, _ in hub.server.asked[before:] if kind == "GET"]
    assert not [path for path in fetched if "/resolve/" in path]


def test_an_interrupted_download_is_continued_not_repeated(hub):
    hub.server.cut = True
    folder = hub("owner/model")
    if folder.startswith("refused: "):  # versions that do not retry by themselves
        assert "run again" in folder
        folder = hub("owner/model")
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        assert file.read() == WEIGHTS
    starts = [r for kind, path, r in hub.server.asked if kind == "GET" and "model.saf" in path]
    assert any(r and not r.startswith("bytes=0-") for r in starts)


def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(hub):
    assert hub("owner/absent") == (
        "refused: owner/absent: no such folder here and no such model on the hub (or it is private)"
    )
    assert "owner/gated is gated: accept its terms" in hub("owner/gated")
    assert "has no revision 'v9'" in hub("owner/model", "v9")


def test_a_hub_that_fails_and_a_repository_without_a_checkpoint_are_one_line(hub):
    line = hub("owner/broken")
    assert line.startswith("refused: owner/broken: ")
    assert "download failed (" in line and "run again, it continues where it stopped" in line
    assert hub("owner/notes") == (
        "refused: owner/notes: the hub has no config.json for it; not a checkpoint"
    )


def test_no_network_and_nothing_in_the_cache_is_one_line(hub):
    line = hub("owner/model", port=dead_port())
    assert line.startswith("refused: owner/model: ") and "no network" in line


def test_a_local_folder_is_itself(tmp_path):
    assert resolve(tmp_path) == tmp_path
    with pytest.raises(TinylaneError, match="local folder and has no revision 'main'"):
        resolve(tmp_path, "main")


MISSING = ["./absent", "/absent/model", "~/absent", "a/b/c", "absent", "a\\b", "../x", "a/.."]
MISSING += ["a" * 5000, "~nobody-here/model"]


@pytest.mark.parametrize("source", MISSING)
def test_a_missing_path_never_asks_the_hub(source, monkeypatch):
    monkeypatch.setattr(
        "tinylane.checkpoints.hub._download", lambda *a: pytest.fail("asked the hub")
    )
    with pytest.raises(TinylaneError, match="no such folder"):
        resolve(source)


def test_a_file_and_an_empty_name_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(TinylaneError, match="is not a folder"):
        resolve(tmp_path / "model.safetensors")
    for empty in ("", " ", "a\0b"):
        with pytest.raises(TinylaneError, match="expected a folder or a hub id"):
            resolve(empty)
