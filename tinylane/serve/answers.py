"""What a client is told: the JSON of answers, whole or piece by piece, as OpenAI's has it.

choice k = prompt p, lane m: k = p * n + m
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError
from tinylane.serve.body import BadRequest
from tinylane.serve.engine import Busy

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.core.result import Result, Step
    from tinylane.serve.job import Begun, Ended, Top

IMPOSSIBLE = -9999.0  # JSON has no -inf


class Place:
    """Where the next token begins in a text: how many characters stand before it. Part of a
    character counts where the character is whole."""

    def __init__(self) -> None:
        self.count = 0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def after(self, data: bytes) -> int:
        """Where the token of these bytes begins; it is part of the text then."""
        begin = self.count
        self.count += len(self._decode(data))
        return begin


@dataclass
class ReplyChoice:
    """What was said of one choice so far, for the answer that comes as a whole."""

    text: str = ""
    reason: str | None = None
    ended: str | None = None  # the word of `core.result.Lane`
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)
    place: Place = field(default_factory=Place)  # of the next token to be told


class Reply:
    """One request's answer as it grows. `begun`, `step` and `ended` take what a `Served`
    tells, and return the pieces of a stream; `whole` is all of it.

    id, seed: of this answer. prompts: their token ids. n: choices of each.
    """

    def __init__(
        self,
        model: Model,
        name: str,
        id: str,
        prompts: Sequence[list[int]],
        n: int,
        *,
        chat: bool,
        echo: bool,
        top: int | None,
        seed: int,
    ) -> None:
        self.model, self.name, self.id, self.seed = model, name, id, seed
        self.prompts, self.n, self.chat, self.echo, self.top = prompts, n, chat, echo, top
        self.created = int(time.time())
        self.choices = [ReplyChoice() for _ in range(len(prompts) * n)]
        self.cached = self.written = self.steps = 0

    def begun(self, p: int, told: Begun) -> list[dict[str, Any]]:
        """Prompt p was read: every choice's first piece."""
        self.cached += told.cached
        pieces = []
        for k in range(p * self.n, (p + 1) * self.n):
            if self.chat:
                pieces.append(self._piece(k, "", [], first=True))
                continue
            if not self.echo:
                continue
            ids = self.prompts[p]
            scores = [(None, []), *told.scores] if told.scores else [(None, [])] * len(ids)
            drawn = [(t, lp, top) for t, (lp, top) in zip(ids, scores, strict=True)]
            said = self._say(k, self._decode(ids), drawn)
            pieces.append(self._piece(k, *said))
        return pieces

    def step(self, p: int, step: Step) -> list[dict[str, Any]]:
        """A step of prompt p: a piece for every choice that something is new of."""
        pieces = []
        self.steps += 1
        for m in range(self.n):
            k, token = p * self.n + m, step.tokens[m]
            ended = step.finished.get(m)
            if token is None and ended is None:
                continue
            drawn = []
            if token is not None:
                self.written += 1
                if not (ended == "stop" and self._is_end(token)):
                    drawn = [(token, step.logprobs[m], step.top_logprobs[m])]
            said = self._say(k, step.texts[m], drawn)
            if ended is not None:
                self.choices[k].ended = ended
                self.choices[k].reason = "stop" if ended == "stop" else "length"  # as OpenAI has it
            if said[0] or (drawn and self.top is not None) or ended is not None:
                pieces.append(self._piece(k, *said))
        return pieces

    def ended(self, p: int, told: Ended) -> list[dict[str, Any]]:
        """Prompt p has its answers: a piece for each choice that was cut short."""
        pieces = []
        for m in range(self.n):
            k = p * self.n + m
            choice = self.choices[k]
            if choice.reason is not None:
                continue
            choice.ended, choice.reason = "length" if told.why == "done" else told.why, "length"
            rest = ""
            if told.result is not None:  # what the text was holding back
                whole = (self._decode(self.prompts[p]) if self.echo else "") + told.result.texts[m]
                rest = whole[len(choice.text) :]
            pieces.append(self._piece(k, *self._say(k, rest, [])))
        return pieces

    def usage(self) -> dict[str, Any]:
        """Tokens: of the prompts (each counted once, however many choices), and drawn ones."""
        read = sum(map(len, self.prompts))
        return {
            "prompt_tokens": read,
            "completion_tokens": self.written,
            "total_tokens": read + self.written,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    def whole(self) -> dict[str, Any]:
        """The answer of a request that is no stream."""
        choices = []
        for k, choice in enumerate(self.choices):
            drawn = list(zip(choice.tokens, choice.logprobs, choice.tops, strict=True))
            said = (
                {"message": {"role": "assistant", "content": choice.text, "refusal": None}}
                if self.chat
                else {"text": choice.text}
            )
            probabilities = None if self.top is None else self._probabilities(drawn, Place())
            choices.append(
                {"index": k, **said, "logprobs": probabilities, "finish_reason": choice.reason}
            )
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage(), **self._ours()}

    def last(self) -> dict[str, Any]:
        """The piece that ends a stream with the usage."""
        return {**self._head(self._stream), "choices": [], "usage": self.usage(), **self._ours()}

    # Within.

    @property
    def _stream(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.name,
            "system_fingerprint": f"tinylane-{self.model.identity[:12]}",
        }

    def _ours(self) -> dict[str, Any]:
        """What only this server says: the seed that gives the same again, and how lanes ended."""
        ended = [choice.ended for choice in self.choices]
        return {"tinylane": {"seed": self.seed, "steps": self.steps, "ended": ended}}

    def _say(
        self, k: int, text: str, drawn: list[tuple[int, float | None, Top]]
    ) -> tuple[str, list[tuple[int, float | None, Top]]]:
        choice = self.choices[k]
        choice.text += text
        if self.top is not None:
            drawn = [(token, p, self._with(token, p, top)) for token, p, top in drawn]
            choice.tokens += [token for token, _, _ in drawn]
            choice.logprobs += [logprob for _, logprob, _ in drawn]
            choice.tops += [top for _, _, top in drawn]
        return text, drawn

    def _piece(
        self,
        k: int,
        text: str,
        drawn: list[tuple[int, float | None, Top]],
        first: bool = False,
    ) -> dict[str, Any]:
        choice = self.choices[k]
        one: dict[str, Any] = {"index": k}
        if self.chat:
            said = {"content": text} if text or drawn or first else {}
            one["delta"] = {"role": "assistant", **said} if first else said
        else:
            one["text"] = text
        told = drawn if self.top is not None else []
        one["logprobs"] = self._probabilities(told, choice.place) if told else None
        one["finish_reason"] = choice.reason
        return {**self._head(self._stream), "choices": [one]}

    def _probabilities(
        self, drawn: list[tuple[int, float | None, Top]], place: Place
    ) -> dict[str, Any]:
        """In the older form of /v1/completions, or in that of a chat."""
        if self.chat:
            told = [
                {
                    **self._token(token, logprob),
                    "top_logprobs": [self._token(*one) for one in top[: self.top]],
                }
                for token, logprob, top in drawn
            ]
            return {"content": told, "refusal": None}
        pieces = [self._spelled(token) for token, _, _ in drawn]
        offsets = [place.after(self._piece_of(token)[1]) for token, _, _ in drawn]
        tops = [None if p is None else self._likeliest(top) for _, p, top in drawn]
        return {
            "tokens": pieces,
            "token_logprobs": [_finite(logprob) for _, logprob, _ in drawn],
            "top_logprobs": tops if self.top else None,
            "text_offset": offsets,
        }

    def _with(self, token: int, logprob: float | None, top: Top) -> Top:
        """The likeliest, in the older form with the drawn token among them."""
        if self.chat or logprob is None or any(token == other for other, _ in top):
            return top
        return [*top, (token, logprob)]

    def _likeliest(self, top: Top) -> dict[str, float | None]:
        told: dict[str, float | None] = {}
        for token, logprob in top:
            told.setdefault(self._spelled(token), _finite(logprob))  # the likelier of two
        return told

    def _token(self, token: int, logprob: float | None) -> dict[str, Any]:
        text, data = self._piece_of(token)
        return {"token": text, "logprob": _finite(logprob), "bytes": list(data)}

    def _spelled(self, token: int) -> str:
        """A token's text; part of a character as its bytes, like "bytes:\\xe2"."""
        text, data = self._piece_of(token)
        if "\ufffd" not in text:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _piece_of(self, token: int) -> tuple[str, bytes]:
        return piece(self.model.tokenizer, token)

    def _decode(self, ids: list[int]) -> str:
        tokenizer = self.model.tokenizer
        return "" if tokenizer is None else tokenizer.decode(ids, skip_special=False)

    def _is_end(self, token: int) -> bool:
        tokenizer = self.model.tokenizer
        return tokenizer is None or tokenizer.is_special(token)


class OneAnswer(Reply):
    """The one answer that the lanes of a method work on: it is known when all is written."""

    def __init__(self, *args: Any, method: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self.method = method
        self.lanes: list[dict[str, Any]] = []

    def step(self, p: int, step: Step) -> list[dict[str, Any]]:
        self.steps += 1
        self.written += sum(token is not None for token in step.tokens)
        return []

    def ended(self, p: int, told: Ended) -> list[dict[str, Any]]:
        assert told.result is not None
        text, reason = answer_of(self.method, told.result)
        choice = self.choices[p]
        choice.ended = reason if told.why == "done" else told.why
        cut = choice.ended in ("length", "budget", "time", "closing")
        choice.reason = "length" if cut else "stop"
        lanes = [{"text": x.text, "ended": x.finish_reason} for x in told.result.lanes]
        self.lanes.append({"prompt": p, "lanes": lanes})
        return [self._piece(p, *self._say(p, text, []))]

    def _ours(self) -> dict[str, Any]:
        ours = super()._ours()
        ours["tinylane"] |= {"method": self.method, "lanes": self.lanes}
        return ours


def answer_of(method: str, result: Result) -> tuple[str, str]:
    """The text with which a method answers, and how its lane ended."""
    from tinylane.evaluate.answers import best_of, vote
    from tinylane.methods import method as find

    how = find(method).answer
    if how == "text":
        return "\n".join(result.texts), result.lanes[-1].finish_reason or ""
    lane = result.lanes[-1] if how == "last" else best_of(result)
    if how == "vote" and (voted := vote(result)).lane is not None:
        lane = result.lanes[voted.lane]
    return lane.text, lane.finish_reason or ""


def piece(tokenizer: Any, token: int) -> tuple[str, bytes]:
    """A token's own text and bytes, as it stands within a text (a leading space stays)."""
    if tokenizer is None:
        return str(token), str(token).encode()
    name = tokenizer.core.id_to_token(token) or ""
    if tokenizer.is_special(token):
        return name, name.encode()
    if tokenizer.byte_level:
        data = tokenizer.token_bytes(token)
        return data.decode("utf-8", "replace"), data
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        data = bytes([int(name[3:5], 16)])
        return data.decode("utf-8", "replace"), data
    text = name.replace("\u2581", " ")  # sentencepiece's space
    return text, text.encode()


def error_body(error: BaseException) -> tuple[int, dict[str, Any]]:
    """The status and the JSON that tell an error; in detail only a TinylaneError."""
    status, kind, param, code = 500, "server_error", None, None
    message = "the server failed on this request; its log says how"
    if isinstance(error, TinylaneError):
        status, kind, message = 400, "invalid_request_error", str(error)
    if isinstance(error, Busy):
        status, kind, code = 503, "server_error", "busy"
    if isinstance(error, BadRequest):
        status, param, code = error.status, error.param, error.kind
    if status == 401:
        kind = "authentication_error"
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, IMPOSSIBLE)
