"""What a client asks for: the JSON of `/v1/chat/completions` and `/v1/completions`, checked.

Every field is used, known to change nothing here, or refused by name, as OpenAI's service refuses a
field that it does not know. What would change the text and is not there (tools, other formats) is
refused unless it is switched off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tinylane.core.errors import TinylaneError, show
from tinylane.core.sampling import Sampler
from tinylane.serve.asked_lanes import Lanes, read_lanes
from tinylane.serve.body import BadRequest, Body
from tinylane.serve.penalties import MOST, Penalised

TOP = 20  # the most alternatives beside a token
STOPS, LONGEST_STOP = 64, 1000  # how many, and characters of one
BIASES = 1024
LEAST_SEED, MOST_SEED = -(1 << 63), (1 << 64) - 1  # OpenAI's range, and that of 64 bits

_BOTH = {
    "model", "n", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop",
    "stop_token_ids", "stream", "stream_options", "logit_bias", "logprobs", "max_tokens", "lanes",
    "frequency_penalty", "presence_penalty",
}  # fmt: skip
CHAT = _BOTH | {"messages", "max_completion_tokens", "top_logprobs", "chat_template_kwargs"}
TEXT = _BOTH | {"prompt", "echo"}
# They say who asks, or how the service is to keep books: no text depends on them.
WITHOUT_EFFECT = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prompt_cache_options", "parallel_tool_calls",
}  # fmt: skip
# Not here: only these values are taken, which ask for nothing.
SWITCHED_OFF: dict[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "reasoning_effort": (),
    "verbosity": (),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "suffix": ("",),
    "best_of": (),
    "moderation": (),
}
STREAM = {"include_usage", "include_obfuscation"}  # of stream_options; the second has no effect
ROLES = {"developer": "system"}  # OpenAI's newer word


@dataclass(frozen=True)
class Defaults:
    """What holds where a request does not say otherwise."""

    sampler: Sampler
    chat_tokens: int = 512
    text_tokens: int = 16  # as OpenAI's /v1/completions has it


@dataclass(frozen=True)
class Asked:
    """One request. prompts: one conversation, or texts or token ids, each answered n times."""

    chat: bool
    prompts: list[Any]
    n: int
    max_tokens: int
    sampler: Sampler
    seed: int | None
    stop: list[str | int]
    top: int | None  # how many alternatives are told beside each token; None: no probabilities
    echo: bool
    stream: bool
    usage: bool  # at the end of a stream
    lanes: Lanes | None
    template: dict[str, Any]
    model: str | None


def read(raw: dict[str, Any], chat: bool, defaults: Defaults) -> Asked:
    """Check a request's JSON object. Raises BadRequest, which names the field."""
    body = Body(raw)
    _known(body, CHAT if chat else TEXT)
    try:
        return _read(body, chat, defaults)
    except BadRequest:
        raise
    except TinylaneError as error:  # of a list's items, of the sampler
        param = next((key for key in raw if str(error).startswith((key, f"'{key}"))), None)
        raise BadRequest(str(error), param) from None


def _known(body: Body, used: set[str]) -> None:
    for key, value in body.raw.items():
        if key in used or key in WITHOUT_EFFECT or value is None:
            continue
        if key not in SWITCHED_OFF:
            raise BadRequest(f"unrecognized request argument: {show(key, 60)}", key[:60])
        same = (*SWITCHED_OFF[key], body.raw.get("n") or 1) if key == "best_of" else None
        if value not in (same or SWITCHED_OFF[key]):
            raise BadRequest(
                f"{key} is {show(value, 40)}; that is not implemented: leave it out", key
            )


def _read(body: Body, chat: bool, defaults: Defaults) -> Asked:
    options = body.object("stream_options")
    if unknown := sorted(options.raw.keys() - STREAM):
        name = show(f"stream_options.{unknown[0]}", 60)
        raise BadRequest(f"unrecognized request argument: {name}", "stream_options")
    return Asked(
        chat=chat,
        prompts=[_messages(body)] if chat else _prompts(body),
        n=body.whole("n", 1, default=1),
        max_tokens=_max_tokens(body, chat, defaults),
        sampler=_sampler(body, defaults.sampler),
        seed=_seed(body),
        stop=_stop(body),
        top=_top(body, chat),
        echo=False if chat else body.flag("echo", False),
        stream=body.flag("stream", False),
        usage=options.flag("include_usage", False),
        lanes=read_lanes(body),
        template={} if not chat else body.object("chat_template_kwargs").raw,
        model=body.text("model", None),
    )


def _messages(body: Body) -> list[dict[str, Any]]:
    given = body.items("messages", dict)
    if not given:
        raise BadRequest("messages is empty; expected at least one", "messages")
    return [_message(Body(one, parent=f"messages[{k}]")) for k, one in enumerate(given)]


def _message(one: Body) -> dict[str, Any]:
    """A message as chat templates read it: its parts of text as one text."""
    content, role = one.get("content"), one.text("role")
    if isinstance(content, list):
        parts = [Body(part, parent=one.name("content")) for part in content]
        for part in parts:
            if part.get("type", "text") != "text":
                part.fail("type", "text: there is no model here that sees or hears")
        content = "".join(part.text("text") for part in parts)
    elif not isinstance(content, str) and not (content is None and role == "assistant"):
        one.fail("content", "a text")
    return {**one.raw, "role": ROLES.get(role, role), "content": content}


def _prompts(body: Body) -> list[Any]:
    """A text, token ids, or a list of either."""
    given = body.get("prompt")
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        body.fail("prompt", "a text, token ids, or a list of them")
    if all(type(one) is int for one in given):
        return [given]
    for one in given:
        ids = isinstance(one, list) and one and all(type(token) is int for token in one)
        if not (isinstance(one, str) or ids):
            raise BadRequest(f"prompt holds {show(one, 40)}; expected texts or token ids", "prompt")
    return list(given)


def _max_tokens(body: Body, chat: bool, defaults: Defaults) -> int:
    """0 where only the prompt's probabilities are asked for."""
    least = 0 if not chat and body.get("echo") is True else 1
    name = "max_completion_tokens" if chat and body.has("max_completion_tokens") else "max_tokens"
    usual = defaults.chat_tokens if chat else defaults.text_tokens
    return body.whole(name, least, default=usual)


def _sampler(body: Body, usual: Sampler) -> Sampler:
    given = {
        name: body.get(name)
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        if body.has(name)
    }
    for name in given:
        body.real(name)
    if given.get("top_p") == 0:  # the likeliest token alone
        given["top_p"] = 1e-9
    if given.get("top_k") == -1:  # some clients' word for all
        given["top_k"] = 0
    bias = body.object("logit_bias").raw
    if len(bias) > BIASES:
        raise BadRequest(f"logit_bias has {len(bias):,} tokens; at most {BIASES:,}", "logit_bias")
    for token, value in bias.items():  # int() would take "1_0" for 10, and float() "3" for 3
        known = token.isascii() and token.isdigit() and len(token) < 20
        if not known or type(value) not in (int, float):
            body.fail("logit_bias", 'token ids and numbers, like {"42": -100}')
    if bias:
        given["logit_bias"] = {int(token): float(value) for token, value in bias.items()}
    sampler = replace(usual, **given)
    often, once = (
        body.real(name, 0.0, least=-MOST, most=MOST)
        for name in ("frequency_penalty", "presence_penalty")
    )
    if not often and not once:
        return sampler
    return Penalised(**vars(sampler), frequency_penalty=often, presence_penalty=once)


def _seed(body: Body) -> int | None:
    if not body.has("seed"):
        return None
    return body.whole("seed", LEAST_SEED, MOST_SEED) % (1 << 64)


def _stop(body: Body) -> list[str | int]:
    given = body.get("stop")
    texts = [given] if isinstance(given, str) else given or []
    ids = body.get("stop_token_ids") or []
    if not isinstance(texts, list) or not all(isinstance(one, str) and one for one in texts):
        body.fail("stop", "a text, or a list of texts that are not empty")
    if not isinstance(ids, list) or not all(type(one) is int for one in ids):
        body.fail("stop_token_ids", "a list of token ids")
    if len(texts) + len(ids) > STOPS:
        raise BadRequest(f"{len(texts) + len(ids)} stops; expected at most {STOPS}", "stop")
    if any(len(text) > LONGEST_STOP for text in texts):
        raise BadRequest(f"a stop has more than {LONGEST_STOP:,} characters", "stop")
    return [*texts, *ids]


def _top(body: Body, chat: bool) -> int | None:
    if not chat:
        return body.whole("logprobs", 0, TOP, None)
    if not body.flag("logprobs", False):
        if body.get("top_logprobs"):
            raise BadRequest("top_logprobs needs logprobs: true", "top_logprobs")
        return None
    return body.whole("top_logprobs", 0, TOP, 0)
