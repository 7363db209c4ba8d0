"""Conversations over the port, with a small model that has a chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_cli import write_checkpoint
from helpers_serve import Server, joined, serving

import tinylane

TEMPLATE = (
    "{% for m in messages %}{{ 'swap ' if m.role == 'system' }}{{ m.content }} {% endfor %}"
    "{{ extra or '' }}"
)
TALK = [{"role": "user", "content": "cups ABC"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_checkpoint(tmp_path_factory.mktemp("talk") / "talker", adapter=False, seed=3)
    path = made / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE}))
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    flags = ("--model", folder, "--served-model-name", "mine", "--max-tokens", 6, "--temp", 2)
    with serving(*flags, "--allowed-origins", "https://mine.example") as running:
        yield running


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return tinylane.load(folder)


def said(answer: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in answer["choices"]]


def drawn(model: Any, messages: list[dict[str, str]], **settings: Any) -> list[str]:
    usual = {"lanes": 2, "seed": 4, "max_tokens": 6, "sampler": tinylane.Sampler(temperature=2)}
    return tinylane.generate(model, messages, **{**usual, **settings}).texts


def test_a_chat_is_what_the_library_draws(server: Server, model: Any) -> None:
    """By the server's own defaults: --temp and --max-tokens."""
    answer = server.chat({"messages": TALK, "n": 2, "seed": 4})
    assert said(answer) == drawn(model, TALK) and answer["model"] == "mine"
    assert all(choice["message"]["role"] == "assistant" for choice in answer["choices"])
    shorter = server.chat({"messages": TALK, "n": 2, "seed": 4, "max_completion_tokens": 2})
    assert said(shorter) == drawn(model, TALK, max_tokens=2)


def test_messages_may_have_parts_and_newer_roles(server: Server, model: Any) -> None:
    parts = [{"type": "text", "text": "cups "}, {"type": "text", "text": "ABC"}]
    talk = [{"role": "developer", "content": "1-2"}, {"role": "user", "content": parts}]
    plain = [{"role": "system", "content": "1-2"}, *TALK]
    assert said(server.chat({"messages": talk, "n": 2, "seed": 4})) == drawn(model, plain)
    assert drawn(model, plain) != drawn(model, TALK)
    more = {"messages": TALK, "n": 2, "seed": 4, "chat_template_kwargs": {"extra": "swap 2-3"}}
    told = {"template_args": {"extra": "swap 2-3"}}
    assert said(server.chat(more)) == drawn(model, TALK, template=told) != drawn(model, TALK)


def test_a_stream_begins_with_the_role_and_ends_with_a_reason(server: Server) -> None:
    ask = {"messages": TALK, "n": 2, "seed": 4}
    pieces = list(server.stream("/v1/chat/completions", ask))
    first = [piece["choices"][0]["delta"] for piece in pieces[:2]]
    assert first == [{"role": "assistant", "content": ""}] * 2
    assert joined(pieces, chat=True) == dict(enumerate(said(server.chat(ask))))
    last = {p["choices"][0]["index"]: p["choices"][0]["finish_reason"] for p in pieces}
    assert set(last.values()) <= {"stop", "length"} and None not in last.values()
    assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"}


def test_probabilities_of_a_chat_have_bytes_and_the_likeliest(server: Server) -> None:
    ask = {"messages": TALK, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    (choice,) = server.chat(ask)["choices"]
    for token in choice["logprobs"]["content"]:
        assert bytes(token["bytes"]).decode() == token["token"]
        assert token["top_logprobs"][0]["token"] == token["token"]
        assert len(token["top_logprobs"]) == 2 and token["logprob"] <= 0
    streamed = [
        token
        for piece in server.stream("/v1/chat/completions", ask)
        for token in (piece["choices"][0]["logprobs"] or {}).get("content", [])
    ]
    assert streamed == choice["logprobs"]["content"]


def test_a_name_that_the_template_does_not_read_stays_out_of_the_log(server: Server) -> None:
    """It is ignored, as OpenAI's clients expect; the library warns of it, with the name."""
    before = len(server.log)
    server.chat({"messages": TALK, "max_tokens": 1, "chat_template_kwargs": {"secret\x1b[31m": 1}})
    server.ask("GET", "/v1/models")
    assert len(server.log) > before and "secret" not in "".join(server.log)


def test_a_page_that_is_named_may_ask(server: Server) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    origin = {"Origin": "https://mine.example"}
    connection.request("OPTIONS", "/v1/chat/completions", headers=origin)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 204 and "POST" in answer.headers["access-control-allow-methods"]
    connection.request("GET", "/v1/models", headers=origin)
    answer = connection.getresponse()
    answer.read()
    assert answer.headers["access-control-allow-origin"] == "https://mine.example"
    connection.request("GET", "/v1/models")
    answer = connection.getresponse()
    answer.read()
    assert "access-control-allow-origin" not in answer.headers
    connection.close()


def test_lanes_need_a_method_where_the_model_was_not_trained_for_them(server: Server) -> None:
    status, answer = server.ask(
        "POST", "/v1/chat/completions", {"messages": TALK, "n": 2, "lanes": True}
    )
    assert status == 400 and "not trained for lanes; say which method" in answer["error"]["message"]
    for lanes in ({"method": "joint"}, {"mode": "group_think"}, {"omega": "ntk", "lag": 1}):
        assert len(server.chat({"messages": TALK, "n": 2, "lanes": lanes})["choices"]) == 2
    for lanes, param in (
        ({"visibility": 3}, "lanes.visibility"),
        ({"omega": 3}, "lanes.omega"),
        ({"prompt_lane": 2}, "lanes.prompt_lane"),
        ({"visibility": [[1]]}, "lanes.visibility"),
    ):
        status, answer = server.ask(
            "POST", "/v1/chat/completions", {"messages": TALK, "n": 2, "lanes": lanes}
        )
        assert status == 400 and answer["error"]["param"] == param
