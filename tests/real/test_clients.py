"""`tinylane serve` with the programs that people point at such a server, and a real model.

Each is used as its own documentation shows it: a few calls, and what they must give.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers_real
import pytest
from helpers_serve import Server, joined, serving

smollm2 = helpers_real.smollm2  # a fixture
pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real clients")]
ASK = [{"role": "user", "content": "Name three rivers in Europe."}]
NAME = "SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def server(smollm2: Path) -> Iterator[Server]:
    with serving("--model", smollm2, "--backend", "numpy") as running:
        yield running


# openai


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as connected:
        yield connected


def test_openai_gets_n_samples_that_its_seed_repeats(client: Any) -> None:
    usual = {"model": NAME, "messages": ASK, "n": 3, "seed": 11, "max_completion_tokens": 12}
    first = client.chat.completions.create(**usual)
    said = [choice.message.content for choice in first.choices]
    assert len(set(said)) == 3 and [choice.index for choice in first.choices] == [0, 1, 2]
    again = client.chat.completions.create(**usual)
    assert [choice.message.content for choice in again.choices] == said
    assert first.usage.prompt_tokens == again.usage.prompt_tokens > 0
    assert first.usage.completion_tokens <= 36
    assert first.system_fingerprint == again.system_fingerprint


def test_openai_streams_choices_side_by_side(client: Any) -> None:
    usual = {"model": NAME, "messages": ASK, "n": 2, "seed": 11, "max_tokens": 10}
    whole = client.chat.completions.create(**usual)
    pieces = [
        piece.model_dump()
        for piece in client.chat.completions.create(
            **usual, stream=True, stream_options={"include_usage": True}
        )
    ]
    assert pieces[0]["choices"][0]["delta"]["role"] == "assistant"
    texts = joined([{"choices": [_said(c) for c in p["choices"]]} for p in pieces], chat=True)
    assert texts == {c.index: c.message.content for c in whole.choices}
    assert pieces[-1]["usage"]["completion_tokens"] == whole.usage.completion_tokens


def _said(choice: dict[str, Any]) -> dict[str, Any]:
    return {**choice, "delta": {"content": choice["delta"]["content"] or ""}}


def test_openai_gets_probabilities_and_the_likeliest_tokens(client: Any) -> None:
    """Greedy: the drawn token is the likeliest, and their texts make the answer."""
    answer = client.chat.completions.create(
        model=NAME, messages=ASK, temperature=0, max_tokens=8, logprobs=True, top_logprobs=3
    )
    told = answer.choices[0].logprobs.content
    assert b"".join(bytes(t.bytes) for t in told).decode() == answer.choices[0].message.content
    for token in told:
        assert len(token.top_logprobs) == 3 and token.top_logprobs[0].token == token.token
        assert token.top_logprobs[0].logprob == token.logprob <= 0


def test_openai_asks_for_lanes_in_its_extra_body(client: Any) -> None:
    usual = {"model": NAME, "messages": ASK, "n": 2, "seed": 3, "max_tokens": 12}
    alone = client.chat.completions.create(**usual)
    lanes = {"method": "joint", "visibility": "joint", "omega": "ntk"}
    joint = client.chat.completions.create(**usual, extra_body={"lanes": lanes})
    said = lambda answer: [choice.message.content for choice in answer.choices]
    assert said(joint) != said(alone)
    blind = {"method": "independent"}
    assert said(client.chat.completions.create(**usual, extra_body={"lanes": blind})) == said(alone)


def test_every_field_of_openai_s_client_is_used_ignored_or_refused_by_name() -> None:
    """None of them is unknown here, in the client's version of today."""
    pytest.importorskip("openai")
    from openai.types import completion_create_params as text
    from openai.types.chat import completion_create_params as chat

    from tinylane.serve.asked import CHAT, SWITCHED_OFF, TEXT, WITHOUT_EFFECT

    for params, used in ((chat, CHAT), (text, TEXT)):
        fields = {*params.CompletionCreateParamsBase.__annotations__}
        assert {"model", "logit_bias"} <= fields  # they are fields
        assert fields <= used | WITHOUT_EFFECT | {*SWITCHED_OFF}


def test_openai_raises_its_own_errors(client: Any) -> None:
    import openai

    with pytest.raises(openai.BadRequestError, match="n is 0; expected a whole number") as bad:
        client.chat.completions.create(model=NAME, messages=ASK, n=0)
    assert bad.value.param == "n"
    with pytest.raises(openai.BadRequestError, match="lanes; this server runs at most 64"):
        client.chat.completions.create(model=NAME, messages=ASK, n=10_000)
    with pytest.raises(openai.NotFoundError, match=f"this server has '{NAME}'"):
        client.chat.completions.create(model="gpt-4o", messages=ASK)
    with pytest.raises(openai.BadRequestError, match="that is not implemented"):
        client.chat.completions.create(
            model=NAME, messages=ASK, response_format={"type": "json_object"}
        )


def test_a_second_turn_reads_only_what_is_new(client: Any) -> None:
    """Whole blocks of 64: of a first turn of 200 tokens, 128 or more."""
    first = [{"role": "user", "content": helpers_real.PROMPTS["code"][0]["content"] * 3}]
    answer = client.chat.completions.create(model=NAME, messages=first, max_tokens=5, seed=1)
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    said = {"role": "assistant", "content": answer.choices[0].message.content}
    second = [*first, said, {"role": "user", "content": "And then?"}]
    more = client.chat.completions.create(model=NAME, messages=second, max_tokens=5, seed=1)
    cached = more.usage.prompt_tokens_details.cached_tokens
    assert cached == (answer.usage.prompt_tokens - 1) // 64 * 64 >= 128


# llm: three lines of its YAML


def test_llm_talks_to_it_by_three_lines_of_yaml(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("llm")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: mine\n  model_name: {NAME}\n  api_base: {server.url}/v1\n"
    )
    env = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}

    def llm(*words: str) -> str:
        command = [sys.executable, "-m", "llm", *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    words = ("-m", "mine", "-o", "temperature", "0", "-o", "max_tokens", "12", "-o", "seed", "1")
    said = llm(*words, "Name three rivers in Europe.")
    expected = server.chat({"messages": ASK, "temperature": 0, "max_tokens": 12})
    assert said == expected["choices"][0]["message"]["content"].strip() != ""
    assert llm(*words, "--no-stream", "Name three rivers in Europe.") == said


# lm-eval


def instances(kind: str, asked: list[Any]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [
        Instance(kind, {}, arguments, k, metadata=("a task", k, 1))
        for k, arguments in enumerate(asked)
    ]


QUESTIONS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " Berlin, on the river Spree"),
    ("Two and two make", " four"),
    ("def square(x):\n    return", " x * x"),
    ("日本の首都は", "東京です"),
]  # fmt: skip


def test_lm_eval_measures_the_likelihoods_of_its_own_hf_backend(
    server: Server, smollm2: Path
) -> None:
    """To 1e-4, and finds the same continuations greedy."""
    pytest.importorskip("lm_eval")
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    over = LocalCompletionsAPI(
        model=NAME, base_url=f"{server.url}/v1/completions", tokenizer=str(smollm2),
        tokenizer_backend="huggingface",
    )  # fmt: skip
    asked = instances("loglikelihood", QUESTIONS)
    ours = over.loglikelihood(asked, disable_tqdm=True)
    theirs = HFLM(
        pretrained=str(smollm2), dtype=torch.float32, device="cpu", batch_size=1
    ).loglikelihood(asked, disable_tqdm=True)
    for (got, greedy), (expected, best) in zip(ours, theirs, strict=True):
        assert abs(got - expected) <= 1e-4 and greedy == best
    assert {greedy for _, greedy in ours} == {True, False}


def test_lm_eval_generates_by_text_and_by_chat(server: Server, smollm2: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.models.api_models import JsonChatStr
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    until = {"until": ["\n"], "max_gen_toks": 12, "temperature": 0}
    over = LocalCompletionsAPI(
        model=NAME, base_url=f"{server.url}/v1/completions", tokenizer=str(smollm2),
        tokenizer_backend="huggingface",
    )  # fmt: skip
    asked = instances("generate_until", [("The capital of France is", dict(until))])
    plain = server.text(
        {"prompt": "The capital of France is", "temperature": 0, "max_tokens": 12, "stop": "\n"}
    )
    assert over.generate_until(asked, disable_tqdm=True) == [plain["choices"][0]["text"]]
    chat = LocalChatCompletion(model=NAME, base_url=f"{server.url}/v1/chat/completions")
    asked = instances("generate_until", [(JsonChatStr(json.dumps(ASK)), dict(until))])
    expected = server.chat({"messages": ASK, "temperature": 0, "max_tokens": 12, "stop": "\n"})
    assert chat.generate_until(asked, disable_tqdm=True) == [
        expected["choices"][0]["message"]["content"]
    ]


# curl


def test_curl_as_the_page_shows_it(server: Server) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    body = json.dumps({"messages": ASK, "n": 2, "max_tokens": 8, "seed": 1, "stream": True})
    command = ["curl", "-sN", f"{server.url}/v1/chat/completions", "-d", body]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stdout.split("\n") if line]
    assert done.returncode == 0 and lines[-1] == "data: [DONE]"
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    whole = server.chat({"messages": ASK, "n": 2, "max_tokens": 8, "seed": 1})
    assert joined(pieces, chat=True) == {
        c["index"]: c["message"]["content"] for c in whole["choices"]
    }


def test_the_python_of_the_page_runs(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai")
    page = (helpers_real.ROOT / "tutorials/site/how-to/serve.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    known: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:8080", server.url), known)
    assert len(capsys.readouterr().out.strip().split("\n")) >= 4
    said = [choice.message.content for choice in known["joint"].choices]
    assert len(said) == 4 and said != [c.message.content for c in known["answer"].choices]
