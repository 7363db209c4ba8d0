"""What a client asks for: the JSON of `/v1/chat/completions` and `/v1/completions`, checked.

Every field is used, known to change nothing here, or refused by name, as OpenAI's service refuses a
field that it does not know. What would change the text and is not there (tools, penalties by
frequency, other formats) is refused unless it is switched off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from tinylane.core.errors import TinylaneError, reals, show
from tinylane.core.lanes import MAX_LANES, LaneMask
from tinylane.core.modes import MODES
from tinylane.core.sampling import Sampler
from tinylane.files.io import Fields

if TYPE_CHECKING:
    from tinylane.core.lanes import Rotation
    from tinylane.core.model import Model
    from tinylane.methods.method import Setup

# What a method may take of what says how lanes read each other.
DECIDED = ("omega", "slot", "scale", "prompt_lane", "visibility", "lag")
METHODS = f"{', '.join(MODES)}, or another row of `tinylane methods`"
LANES = 3  # of a method, where nothing says how many
TOP = 20  # the most alternatives beside a token
STOPS, LONGEST_STOP = 64, 1000  # how many, and characters of one
BIASES = 1024
LEAST_SEED, MOST_SEED = -(1 << 63), (1 << 64) - 1  # OpenAI's range, and that of 64 bits

_BOTH = {
    "model", "n", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop",
    "stop_token_ids", "stream", "stream_options", "logit_bias", "logprobs", "max_tokens", "lanes",
}  # fmt: skip
CHAT = _BOTH | {"messages", "max_completion_tokens", "top_logprobs", "chat_template_kwargs"}
TEXT = _BOTH | {"prompt", "echo"}
# They say who asks, or how the service is to keep books: no text depends on them.
WITHOUT_EFFECT = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "parallel_tool_calls",
}  # fmt: skip
# Not here: only these values are taken, which ask for nothing.
SWITCHED_OFF: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
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
}
ROLES = {"developer": "system"}  # OpenAI's newer word


class Wrong(TinylaneError):
    """A request that cannot be answered. param: its field; status: HTTP's; kind: OpenAI's."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, kind: str | None = None
    ) -> None:
        super().__init__(message)
        self.param, self.status, self.kind = param, status, kind


class Body(Fields):
    """A request's fields; a message names the field, as `param` does."""

    def fail(self, key: str, expected: str) -> NoReturn:
        try:
            super().fail(key, expected)
        except TinylaneError as error:
            raise Wrong(str(error), self.name(key)) from None

    def object(self, key: str) -> Body:
        """A field that is an object; an empty one if it is absent."""
        value = self.raw.get(key)
        if value is not None and not isinstance(value, dict):
            self.fail(key, "an object")
        return Body(value or {}, parent=self.name(key))


@dataclass(frozen=True)
class Lanes:
    """How the choices read each other. None: as the model was trained.

    method: a mode, whose lanes are the choices; or another row of `tinylane methods`, whose lanes
    work on one answer. omega: a name of `modes.STARTS`, or numbers. prompts: a text for each lane.
    lanes, options: of such a method, how many, and its own.
    """

    method: str | None = None
    visibility: Any = None
    omega: Any = None
    slot: float | None = None
    scale: float | None = None
    prompt_lane: Any = None
    lag: int | None = None
    prompts: list[str] | None = None
    lanes: int | None = None
    options: dict[str, Any] | None = None

    @property
    def joined(self) -> str | None:
        """The method's name if its lanes work on one answer."""
        return None if self.method in (None, *MODES) else self.method

    def setup(self, model: Model, max_tokens: int) -> Setup:
        """What such a method gives a `Decoding`. Raises TinylaneError."""
        from tinylane.methods import prepare

        said = {name: getattr(self, name) for name in DECIDED}
        given = {name: value for name, value in said.items() if value is not None}
        options = {**given, **(self.options or {})}
        return prepare(model, str(self.method), self.lanes or LANES, max_tokens, options)

    def settings(self, model: Model, n: int, max_tokens: int) -> dict[str, Any]:
        """As settings of `Decoding`. Raises TinylaneError for what this model cannot do."""
        rope, mask = self._rotation(model, n, max_tokens)
        prompts = self.prompts or _tags(model, n) or model.lane_prompts(n)
        if len(prompts) != n:
            raise Wrong(f"{len(prompts)} lane prompts for n = {n}", "lanes.prompts")
        return {"lane_rope": rope, "lane_mask": mask, "lane_prompts": prompts}

    def _rotation(
        self, model: Model, n: int, max_tokens: int
    ) -> tuple[Rotation | None, LaneMask | None]:
        from tinylane.core.modes import mode

        name = self.method
        if name is None and self.visibility == "independent":
            name = "independent"
        said = (self.visibility, self.omega, self.slot, self.scale, self.prompt_lane, self.lag)
        if name is None and {*map(type, said)} == {type(None)}:
            if not model.trained_for_lanes:
                raise Wrong(
                    "this model was not trained for lanes; say which method: "
                    '{"method": "joint"}, for example',
                    "lanes",
                )
            return None, None
        seen = self.visibility
        if isinstance(seen, list):
            seen = LaneMask(reals("visibility", seen), model.lag if self.lag is None else self.lag)
            if seen.n < n:
                raise Wrong(f"visibility is {seen.n} x {seen.n}; n is {n}", "lanes.visibility")
        return mode(
            name or "joint",
            model,
            n,
            slot=max_tokens if self.slot is None else self.slot,
            omega=self.omega,
            scale=self.scale,
            prompt_lane=self.prompt_lane,
            visibility=seen,
            lag=self.lag,
        )


def _tags(model: Model, n: int) -> list[str] | None:
    """How the lanes of the model inside begin."""
    if model.task is None:
        return None
    from tinylane.evaluate.tasks.shell_game import game_of

    game = game_of(model)
    return None if game is None else game.lane_prompts(n)


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
    """Check a request's JSON object. Raises Wrong, which names the field."""
    body = Body(raw)
    _known(body, CHAT if chat else TEXT)
    try:
        return _read(body, chat, defaults)
    except Wrong:
        raise
    except TinylaneError as error:  # of a list's items, of the sampler
        param = next((key for key in raw if str(error).startswith((key, f"'{key}"))), None)
        raise Wrong(str(error), param) from None


def _known(body: Body, used: set[str]) -> None:
    for key, value in body.raw.items():
        if key in used or key in WITHOUT_EFFECT or value is None:
            continue
        if key not in SWITCHED_OFF:
            raise Wrong(f"unrecognized request argument: {show(key, 60)}", key[:60])
        same = (*SWITCHED_OFF[key], body.raw.get("n") or 1) if key == "best_of" else None
        if value not in (same or SWITCHED_OFF[key]):
            raise Wrong(f"{key} is {show(value, 40)}; that is not implemented: leave it out", key)


def _read(body: Body, chat: bool, defaults: Defaults) -> Asked:
    options = body.object("stream_options")
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
        lanes=_lanes(body),
        template={} if not chat else body.object("chat_template_kwargs").raw,
        model=body.text("model", None),
    )


def _messages(body: Body) -> list[dict[str, Any]]:
    given = body.items("messages", dict)
    if not given:
        raise Wrong("messages is empty; expected at least one", "messages")
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
            raise Wrong(f"prompt holds {show(one, 40)}; expected texts or token ids", "prompt")
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
        raise Wrong(f"logit_bias has {len(bias):,} tokens; at most {BIASES:,}", "logit_bias")
    try:
        if bias:
            given["logit_bias"] = {int(token): float(value) for token, value in bias.items()}
    except (ValueError, TypeError):
        body.fail("logit_bias", 'token ids and numbers, like {"42": -100}')
    return replace(usual, **given)


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
        raise Wrong(f"{len(texts) + len(ids)} stops; expected at most {STOPS}", "stop")
    if any(len(text) > LONGEST_STOP for text in texts):
        raise Wrong(f"a stop has more than {LONGEST_STOP:,} characters", "stop")
    return [*texts, *ids]


def _top(body: Body, chat: bool) -> int | None:
    if not chat:
        return body.whole("logprobs", 0, TOP, None)
    if not body.flag("logprobs", False):
        if body.get("top_logprobs"):
            raise Wrong("top_logprobs needs logprobs: true", "top_logprobs")
        return None
    return body.whole("top_logprobs", 0, TOP, 0)


def _lanes(body: Body) -> Lanes | None:
    if body.get("lanes") in (None, False):
        return None
    given = Body({} if body.get("lanes") is True else body.object("lanes").raw, parent="lanes")
    known = {"method", "mode", *Lanes.__dataclass_fields__}
    if unknown := [key for key in given.raw if key not in known]:
        raise Wrong(
            f"lanes has {show(unknown[0], 40)}; expected some of {', '.join(sorted(known))}",
            "lanes",
        )
    visibility, omega = given.get("visibility"), given.get("omega")
    if not isinstance(visibility, (str, list, type(None))):
        given.fail("visibility", "a name or a matrix")
    if not isinstance(omega, (str, list, type(None))):
        given.fail("omega", "a name or numbers")
    if isinstance(visibility, list) and len(visibility) > MAX_LANES:
        given.fail("visibility", f"a matrix for at most {MAX_LANES} lanes")
    where = given.get("prompt_lane")
    if isinstance(where, bool) or where not in (None, "own", 0, "0"):
        given.fail("prompt_lane", '"own" or 0')
    method = given.text("method", None) or given.text("mode", None)
    if method is not None and method not in MODES:
        method = _published(given, method)
    one = method is None or method in MODES
    if one and (given.has("lanes") or given.has("options")):
        name = "lanes" if given.has("lanes") else "options"
        raise Wrong(f"lanes.{name} is for methods with one answer; n is the number here", "lanes")
    if not one and (body.get("n") or 1) != 1:
        raise Wrong(f"method {method} gives one answer: leave n out, and give lanes.lanes", "n")
    if not one and (body.get("logprobs") not in (None, False) or body.get("echo")):
        raise Wrong(f"method {method} gives one text without logprobs and echo", "lanes.method")
    if not one and given.get("prompts"):
        raise Wrong(f"method {method} has texts of its own: leave lanes.prompts out", "lanes")
    if "until" in given.object("options").raw and method == "hogwild_steps":
        # A pattern may take for ever, and a server that runs one for a client waits for it.
        raise Wrong("lanes.options.until is a pattern, which a server does not take", "lanes")
    return Lanes(
        method=method,
        visibility=visibility,
        omega=omega,
        slot=given.real("slot", None),
        scale=given.real("scale", None, above=0),
        prompt_lane=where,
        lag=given.whole("lag", default=None),
        prompts=given.items("prompts", str, None),
        lanes=given.whole("lanes", 1, MAX_LANES, None),
        options=given.object("options").raw or None,
    )


def _published(given: Body, name: str) -> str:
    """The name of a row of `tinylane methods` as its file has it."""
    from tinylane.methods import method

    try:
        found = method(name).name
    except TinylaneError:
        given.fail("method" if given.has("method") else "mode", METHODS)
    return "joint" if found == "lanerope" else found
