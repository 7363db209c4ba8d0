"""Bad requests, bad clients and other accidents: one line says why, and the server goes on."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import helpers_serve
import pytest
from helpers_cli import write_checkpoint
from helpers_serve import GAME, ROOT, Server, serving

inside = helpers_serve.inside  # a fixture
ASK: dict[str, Any] = {"prompt": GAME, "max_tokens": 2}
LONG = {"prompt": GAME, "n": 8, "max_tokens": 400, "logit_bias": {"1": -100}, "stream": True}
CHAT = {"messages": [{"role": "user", "content": "hello"}]}
BYTES = "\u00e9".encode()

BAD: list[tuple[Any, int, str | None, str]] = [
    (b"{", 400, None, "the request: not valid JSON"),
    (b"", 400, None, "the request: not valid JSON"),
    (b"[1]", 400, None, "the request: expected a JSON object, found [1]"),
    (b'{"prompt": "' + BYTES[:1] + b'"}', 400, None, "the request: not UTF-8 text (byte 12)"),
    (b'{"n": 1, "n": 2}', 400, None, "key 'n' occurs twice"),
    (b'{"n": NaN}', 400, None, "NaN is not a JSON number"),
    (b"[" * 100_000, 400, None, "nested too deeply"),
    ({"prompt": "\ud83d"}, 400, "prompt", "half a surrogate pair"),
    ({**ASK, "n": 10_000}, 400, None, "10000 lanes; this server runs at most 64"),
    ({"prompt": ["a"] * 65}, 400, None, "65 lanes; this server runs at most 64"),
    ({**ASK, "n": 0}, 400, "n", "n is 0; expected a whole number from 1"),
    ({**ASK, "n": True}, 400, "n", "n is True; expected a whole number"),
    ({**ASK, "seed": 2**200}, 400, None, "has more than 20 digits"),
    ({**ASK, "seed": 2**65}, 400, "seed", "seed is 36893488147419103232; expected"),
    ({**ASK, "seed": 1.5}, 400, "seed", "seed is 1.5; expected a whole number"),
    ({**ASK, "temperature": -1}, 400, "temperature", "temperature -1: expected a number in"),
    ({**ASK, "temperature": "hot"}, 400, "temperature", "temperature is 'hot'; expected a number"),
    ({**ASK, "top_p": 2}, 400, "top_p", "top_p 2: expected a number in (0, 1]"),
    ({**ASK, "max_tokens": 0}, 400, "max_tokens", "max_tokens is 0; expected"),
    ({**ASK, "stop": [""]}, 400, "stop", "texts that are not empty"),
    ({**ASK, "stop": ["x"] * 65}, 400, "stop", "65 stops; expected at most 64"),
    ({**ASK, "stop": "x" * 1001}, 400, "stop", "a stop has more than 1,000 characters"),
    ({**ASK, "logit_bias": dict.fromkeys(map(str, range(1025)), 1)}, 400, "logit_bias", "1,025"),
    ({**ASK, "logit_bias": {"x": 1}}, 400, "logit_bias", "expected token ids and numbers"),
    ({**ASK, "logit_bias": {"1_0": 1}}, 400, "logit_bias", "expected token ids and numbers"),
    ({**ASK, "logit_bias": {"9" * 5000: 1}}, 400, "logit_bias", "expected token ids and numbers"),
    ({**ASK, "logit_bias": {"1": True}}, 400, "logit_bias", "expected token ids and numbers"),
    ({**ASK, "logit_bias": {"1": "3"}}, 400, "logit_bias", "expected token ids and numbers"),
    ({**ASK, "stream_options": {"x": 1}}, 400, "stream_options", "argument: 'stream_options.x'"),
    ({**ASK, "moderation": {}}, 400, "moderation", "that is not implemented"),
    ({**ASK, "logit_bias": {"999": 1}}, 400, None, "logit_bias token 999: expected an id below"),
    ({**ASK, "logprobs": 21}, 400, "logprobs", "logprobs is 21; expected a whole number from 0"),
    ({**ASK, "frequency_penalty": 3}, 400, "frequency_penalty", "is 3; expected a number at"),
    ({**ASK, "presence_penalty": "x"}, 400, "presence_penalty", "is 'x'; expected a number"),
    ({**ASK, "best_of": 3}, 400, "best_of", "that is not implemented"),
    ({**ASK, "colour": "red"}, 400, "colour", "unrecognized request argument: 'colour'"),
    ({**ASK, "lanes": {"speed": 3}}, 400, "lanes", "lanes has 'speed'; expected some of"),
    ({**ASK, "lanes": {"method": "psychic"}}, 400, "lanes.method", "is 'psychic'; expected indepe"),
    ({**ASK, "lanes": {"method": "joint", "lanes": 2}}, 400, "lanes", "n is the number here"),
    ({**ASK, "n": 2, "lanes": {"method": "parathinker"}}, 400, "n", "gives one answer: leave n"),
    ({**ASK, "logprobs": 1, "lanes": {"method": "apr"}}, 400, "lanes.method", "without logprobs"),
    ({**ASK, "lanes": {"method": "apr", "lanes": 65}}, 400, None, "65 lanes; this server runs"),
    ({**ASK, "lanes": {"method": "apr", "options": {"x": 1}}}, 400, None, "apr has no 'x'"),
    ({**ASK, "lanes": {"method": "lace", "omega": "ntk", "options": {"omega": "none"}}}, 400,
     "lanes.options", "omega is in lanes and in lanes.options: give it once"),
    ({**ASK, "n": 2, "lanes": {"visibility": [[1, 0], [1]]}}, 400, None, "visibility"),
    ({**ASK, "n": 3, "lanes": True}, 400, None, "3 lanes"),
    ({**ASK, "n": 2, "lanes": {"prompts": ["1/2"]}}, 400, "lanes.prompts", "1 lane prompts for n"),
    ({"prompt": []}, 400, "prompt", "prompt is []; expected a text, token ids"),
    ({"prompt": [54]}, 400, "prompt", "token 54 is outside the vocabulary of 54"),
    ({"prompt": [-1]}, 400, "prompt", "token -1 is outside the vocabulary"),
    ({"prompt": [["a"]]}, 400, "prompt", "expected texts or token ids"),
    ({"prompt": [3] * 600}, 400, "prompt", "the prompt has 600 tokens; this model"),
    ({}, 400, "prompt", "prompt is missing; expected a text"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "param", "says"), BAD, ids=lambda x: str(x)[:40])
def test_a_bad_request_is_refused_in_a_line(
    inside: Server, body: Any, status: int, param: str | None, says: str
) -> None:
    """And the server answers the next one."""
    got, answer = inside.ask("POST", "/v1/completions", body)
    error = answer["error"]
    assert got == status and says in error["message"] and "\n" not in error["message"]
    assert error["param"] == param and error["type"] == "invalid_request_error"
    assert inside.ask("GET", "/health")[0] == 200 and inside.process.poll() is None


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"messages": []}, "messages", "messages is empty"),
        ({"messages": "hello"}, "messages", "expected a list of objects"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "role is missing"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "content is missing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content.type",
            "no model here that sees",
        ),
        ({"tools": [{"type": "function"}]}, "tools", "that is not implemented"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not implemented"),
        ({"top_logprobs": 3}, "top_logprobs", "top_logprobs needs logprobs"),
        ({"prompt": "x"}, "prompt", "unrecognized request argument"),
        ({"chat_template_kwargs": 3}, "chat_template_kwargs", "expected an object"),
        ({}, "messages", "this model has no chat template: POST to /v1/completions"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_a_bad_chat_is_refused_in_a_line(
    inside: Server, change: dict[str, Any], param: str, says: str
) -> None:
    status, answer = inside.ask("POST", "/v1/chat/completions", {**CHAT, **change})
    assert status == 400 and answer["error"]["param"] == param
    assert says in answer["error"]["message"]


def test_no_path_and_no_method_of_another_kind(inside: Server) -> None:
    assert inside.ask("GET", "/v1/nothing")[0] == 404
    assert inside.ask("GET", "/v1/completions")[0] == 405
    assert "Not Found" in inside.ask("GET", "/%0aforged")[1]["error"]["message"]


def test_the_log_has_no_text_of_clients(inside: Server) -> None:
    """Neither prompts nor names nor paths can begin a line or reach a terminal as they are."""
    red = "\x1b[31mred\nforged: line"
    inside.ask("POST", "/v1/completions", {**ASK, "prompt": red, red: 1})
    inside.ask("GET", "/v1/models/%1b%5b31mred%0aforged")
    inside.ask("GET", "/health")
    said = "".join(inside.log)
    assert "\x1b" not in said and "\nforged" not in said
    assert all(line.startswith("tinylane: ") for line in inside.log)


def test_a_body_that_is_too_large_is_not_read() -> None:
    with serving("--max-body", 2000) as server:
        status, answer = server.ask("POST", "/v1/completions", {"prompt": "x" * 3000})
        assert status == 413 and "larger than 2,000 bytes" in answer["error"]["message"]
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"  # of no told length
            raw.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            raw.sendall(b"".join(b"3e8\r\n" + b"x" * 1000 + b"\r\n" for _ in range(3)))
            assert b" 413 " in raw.recv(100)
        assert server.ask("GET", "/health")[0] == 200


def running(server: Server) -> int:
    """How many lanes the server has, by what it says of itself."""
    return server.ask("GET", "/health")[1]["lanes"]


def until(what: Any, seconds: float = 20) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_lanes(inside: Server, stream: bool) -> None:
    raw = inside.open({**LONG, "stream": stream})
    until(lambda: running(inside) == 8)
    raw.close()
    began = time.monotonic()
    until(lambda: running(inside) == 0)
    alone = time.monotonic() - began
    assert alone < 5  # all its steps take longer: see the load test


@pytest.mark.parametrize("bytes_each_time", [0, 1])
def test_a_client_that_does_not_read_is_let_go(bytes_each_time: int) -> None:
    """Nor one that reads a byte now and then. Its lanes wait for it, others go on, and after
    --stall-timeout it is dropped."""
    with serving("--stall-timeout", 1) as server:
        ask = {**LONG, "n": 64, "max_tokens": 480, "logprobs": 20}
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", server.port))
        data = json.dumps(ask).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}"
        raw.sendall(head.encode() + b"\r\n\r\n" + data)

        def dropped() -> bool:
            if bytes_each_time:
                time.sleep(0.3)
                raw.recv(bytes_each_time)
            return any("did not read" in line for line in server.log)

        until(dropped, 150)
        until(lambda: running(server) == 0)
        assert server.text(ASK)["choices"]
        raw.close()


@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_headers_that_do_not_come_are_given_up(before: bytes) -> None:
    """Not even if a line comes now and then; on a connection that had a request, too."""
    with serving("--stall-timeout", 1) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
            raw.sendall(before)
            answer = raw.recv(4096) if before else b""
            assert b"200 OK" in answer or not before
            raw.settimeout(0.3)
            raw.sendall(b"POST /v1/completions HTTP/1.1\r\n")
            end, closed = time.monotonic() + 20, False
            while not closed and time.monotonic() < end:
                try:
                    raw.sendall(b"X: y\r\n")
                    closed = raw.recv(4096) == b""
                except TimeoutError:
                    continue
                except OSError:
                    closed = True
            assert closed
        assert server.text(ASK)["choices"]


def test_a_body_that_does_not_come_is_given_up() -> None:
    with serving("--stall-timeout", 0.5) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
            head = (
                "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
            )
            raw.sendall(head.encode())
            assert b" 408 " in raw.recv(100)
        assert server.ask("GET", "/health")[0] == 200


def test_a_body_that_comes_byte_by_byte_is_given_up_in_the_end() -> None:
    """No wait is longer than --stall-timeout, but all together are longer than --timeout."""
    with serving("--stall-timeout", 5, "--timeout", 1) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000"
            raw.sendall(head.encode() + b"\r\n\r\n")
            raw.settimeout(0.2)
            answer, end = b"", time.monotonic() + 20
            while not answer and time.monotonic() < end:
                raw.sendall(b" ")
                with suppress(TimeoutError):
                    answer = raw.recv(100)
            assert b" 408 " in answer
        assert server.ask("GET", "/health")[0] == 200


def test_beyond_the_queue_a_request_is_told_to_come_later() -> None:
    with serving("--max-lanes", 8, "--max-queue", 1) as server:
        first, second = server.open(LONG), None
        until(lambda: running(server) == 8)
        second = server.open(LONG)
        until(lambda: server.ask("GET", "/health")[1]["waiting"] == 1)
        third = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        third.request("POST", "/v1/completions", json.dumps(ASK))
        answer = third.getresponse()
        assert answer.status == 503 and answer.getheader("retry-after") == "1"
        assert b"wait already; try again later" in answer.read()
        third.close()
        first.close()
        second.close()
        until(lambda: running(server) == 0)
        assert server.text(ASK)["choices"]


def test_a_request_that_takes_too_long_ends_with_what_it_has() -> None:
    with serving("--timeout", 0.6) as server:
        answer = server.text({**LONG, "stream": False})
        assert {*answer["tinylane"]["ended"]} == {"time"}
        assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
        assert all(choice["text"] for choice in answer["choices"])


def test_more_memory_than_the_server_gives_is_refused_before_anything_is_computed() -> None:
    with serving("--max-memory", 0.01) as server:
        status, answer = server.ask("POST", "/v1/completions", {**LONG, "n": 64})
        assert status == 400 and "this server gives them at most" in answer["error"]["message"]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_ctrl_c_ends_requests_with_what_they_have(sent: signal.Signals, code: int) -> None:
    with serving() as server:
        raw = server.open(LONG)
        until(lambda: running(server) == 8)
        assert server.interrupt(sent) == code
        data = b""
        while more := raw.recv(1 << 16):
            data += more
        assert b"data: [DONE]" in data and data.count(b'"finish_reason": "length"') == 8
        assert ("error: interrupted" in server.log[-1]) == (sent is signal.SIGINT)
        assert "Traceback" not in "".join(server.log)


def command(*flags: object) -> subprocess.CompletedProcess[str]:
    """`tinylane serve`, which is to refuse to begin."""
    pytest.importorskip("starlette")
    return subprocess.run(
        [sys.executable, "-m", "tinylane", "serve", *map(str, flags)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )


def test_a_port_in_use_is_an_error_line(inside: Server) -> None:
    done = command("--port", inside.port)
    assert done.returncode == 2 and "Address already in use; give another" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--host", "0.0.0.0"), "other machines could use this; give --api-key"),
        (("--host", "no.such.host.invalid", "--api-key", "k"), "--host no.such.host.invalid: "),
        (("--port", "70000"), "--port is 70000; expected 0 to 65535"),
        (("--api-key", "\u00fc"), "characters that no header can hold"),
        (("--allowed-origins", "example.org"), "expected https://host"),
        (("--temp", "-1"), "temperature -1.0: expected a number in [0, 1e6]"),
        (("--max-lanes", "0"), "--max-lanes is 0; expected 1 to 1024"),
    ],
)
def test_flags_are_checked_before_a_model_is_loaded(flags: tuple[str, ...], says: str) -> None:
    done = command(*flags, "--model", "/no/such/folder")
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["starlette", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(name: str) -> None:
    code = f"import sys; sys.modules['{name}'] = None; from tinylane.commands.cli import main"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit(main(['serve', '--port', '0']))"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{name} is not installed: pip install 'tinylane[serve]'" in done.stderr


def test_with_a_key_only_its_holders_are_answered() -> None:
    """On another address than the loopback too: any host's name will do then."""
    with serving("--api-key", "sesame", "--host", "127.0.0.1") as server:
        for headers in (
            {},
            {"Authorization": "Bearer sesam"},
            {"Authorization": "sesame\u00e9"},
            {"Authorization": "sesame"},
            {"Authorization": "Basic sesame"},
        ):
            status, answer = server.ask("POST", "/v1/completions", ASK, **headers)
            assert status == 401 and answer["error"]["code"] == "invalid_api_key"
        for scheme in ("Bearer", "bearer"):  # as HTTP has it, in any case
            named = {"Authorization": f"{scheme} sesame"}
            assert server.ask("POST", "/v1/completions", ASK, **named)[0] == 200


def test_web_pages_of_others_may_not_ask() -> None:
    """Neither by their own address nor by one that they let point here (DNS rebinding)."""
    with serving("--allowed-origins", "https://mine.example") as server:
        evil = {"Origin": "https://evil.example"}
        assert server.ask("POST", "/v1/completions", ASK, **evil)[0] == 403
        assert server.ask("GET", "/v1/models", Host="evil.example")[0] == 403
        for odd in ("[", "", "localhost.evil.example", "127.0.0.1@evil.example"):
            assert server.ask("GET", "/v1/models", Host=odd)[0] == 403
        for odd in ("null", "http://[", "", f"http://evil.example@127.0.0.1:{server.port}"):
            assert server.ask("GET", "/v1/models", Origin=odd)[0] == 403
        assert server.ask("GET", "/v1/models", Host=f"localhost:{server.port}")[0] == 200
        assert server.ask("GET", "/v1/models", Origin=server.url)[0] == 200
        mine = {"Origin": "https://mine.example"}
        assert server.ask("POST", "/v1/completions", ASK, **mine)[0] == 200


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_a_folder_that_changes_while_it_serves_changes_nothing(
    tmp_path: Path, backend: str
) -> None:
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    folder = write_checkpoint(tmp_path / "game", adapter=False)
    ask = {"prompt": "cups ABC", "max_tokens": 5, "temperature": 0}
    with serving("--model", folder, "--backend", backend) as server:
        before = server.text(ask)["choices"]
        (folder / "config.json").write_text("{")
        with (folder / "model.safetensors").open("r+b") as file:
            file.truncate(100)
        assert server.text(ask)["choices"] == before
        shutil.rmtree(folder)
        assert server.text(ask)["choices"] == before
