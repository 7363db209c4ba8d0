"""`tinylane serve` in a process of its own, and what a client without any library sends it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# Sixteen swaps: a prompt of 23 tokens for the model inside.
GAME = "cups ABCD, swap 1-3 2-4 1-2 3-4 1-3 2-4 1-2 3-4 1-4 2-3 1-4 2-3 1-2 2-3 3-4 1-4: where?"


class Server:
    """A running server. `log`: its lines on stderr so far."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port
        self.log: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON. body: bytes as they are, anything else as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, data, named)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        finally:
            connection.close()

    def text(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of /v1/completions; it must succeed."""
        status, answer = self.ask("POST", "/v1/completions", body)
        assert status == 200, answer
        return answer

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of /v1/chat/completions; it must succeed."""
        status, answer = self.ask("POST", "/v1/chat/completions", body)
        assert status == 200, answer
        return answer

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The pieces of a stream; it must end with [DONE]."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("POST", path, json.dumps({**body, "stream": True}).encode())
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        done = False
        for line in answer:
            if line.strip():
                assert line.startswith(b"data: ") and not done
                done = line == b"data: [DONE]\n"
                if not done:
                    yield json.loads(line[6:])
        assert done
        connection.close()

    def open(self, body: dict[str, Any], path: str = "/v1/completions") -> socket.socket:
        """A connection on which a request was sent, and nothing read."""
        data = json.dumps(body).encode()
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        raw.sendall(head.encode() + data)
        return raw

    def resident(self) -> int:
        """Bytes of memory that the process holds."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError

    def interrupt(self, sent: signal.Signals = signal.SIGINT) -> int:
        """Ctrl-C, or another signal; the exit code."""
        self.process.send_signal(sent)
        code = self.process.wait(60)
        self.reader.join(10)
        return code


@contextmanager
def serving(*flags: object, command: str = "serve") -> Iterator[Server]:
    """A server on a free port while the context lasts."""
    for name in ("starlette", "uvicorn"):
        pytest.importorskip(name)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tinylane", command, "--port", "0", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
    if found is None:
        process.kill()
        raise AssertionError(f"{line}{process.communicate()[1]}")
    server = Server(process, int(found[1]))
    try:
        yield server
    finally:
        if process.poll() is None:
            server.interrupt()
        process.stdout.close()


@pytest.fixture(scope="module")
def inside() -> Iterator[Server]:
    """A server of the model inside, with small blocks, so that a short prompt has some."""
    with serving("--prefill-step-size", 8) as server:
        yield server


def joined(pieces: list[dict[str, Any]], chat: bool = False) -> dict[int, str]:
    """The text of every choice of a stream."""
    texts: dict[int, str] = {}
    for piece in pieces:
        for choice in piece["choices"]:
            said = choice["delta"].get("content", "") if chat else choice["text"]
            texts[choice["index"]] = texts.get(choice["index"], "") + said
    return texts
