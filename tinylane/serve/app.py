"""The HTTP side: OpenAI's routes on Starlette, and who may ask.

    GET  /v1/models, /v1/models/{id}     POST /v1/chat/completions     POST /v1/completions
    GET  /health: how many lanes run, how many requests wait

A bad request gets one line that says why; it never ends the server. No text of a client or of a
model reaches the log. A client that goes away is noticed while it waits, and its lanes are freed
before their next step.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import LaneMask
from tinylane.core.prompt import encode_lane_prompt, encode_prompt
from tinylane.core.result import Step
from tinylane.files.io import parse_json
from tinylane.files.memory import forecast
from tinylane.serve.answers import Answer, OneAnswer, error_body
from tinylane.serve.asked import LANES, Asked, Defaults, Lanes, Wrong, read
from tinylane.serve.engine import Busy, Engine, Limits
from tinylane.serve.job import Begun, Ended, Job, Work
from tinylane.serve.prefixes import Prefixes

if TYPE_CHECKING:
    from tinylane.core.model import Model

LOCAL = {"localhost", "127.0.0.1", "::1"}


@dataclass
class Service:
    """What the routes share. name: of the model. key: None where none is needed. origins: web pages
    that may ask. local: whether it listens on the loopback alone."""

    model: Model
    name: str
    engine: Engine
    prefixes: Prefixes
    defaults: Defaults
    key: str | None = None
    origins: tuple[str, ...] = ()
    local: bool = True
    say: Callable[[str], Any] = lambda line: None
    encoding: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def limits(self) -> Limits:
        """The engine's."""
        return self.engine.limits


def make_app(service: Service, more: list[BaseRoute] | None = None) -> Any:
    """The ASGI application. more: routes beside OpenAI's, for pages."""
    routes: list[BaseRoute] = [
        Route("/health", lambda request: _health(service)),
        Route("/v1/models", lambda request: _models(service)),
        Route("/v1/models/{id:path}", lambda request: _model(service, request)),
        Route("/v1/chat/completions", _answering(service, chat=True), methods=["POST"]),
        Route("/v1/completions", _answering(service, chat=False), methods=["POST"]),
        *(more or []),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={TinylaneError: _told, HTTPException: _told, Exception: _told},
    )
    return Guarded(app, service)


class Guarded:
    """Around the application: who may ask, clients that do not read, and the log.

    A web page of another host can reach a server on the reader's own machine. Its browser says so
    in `Origin`, and in `Host` after a change of the host's address: both are checked.
    """

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        service, request, began = self.service, Request(scope), time.monotonic()
        status = 0
        origin = request.headers.get("origin")
        allowed = origin is not None and bool({origin, "*"} & {*service.origins})

        async def patient(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if origin is not None and allowed:
                    message["headers"] += [
                        (b"access-control-allow-origin", origin.encode("latin-1", "replace")),
                        (b"vary", b"origin"),
                    ]
            try:
                await asyncio.wait_for(send(message), service.limits.stall)
            except asyncio.TimeoutError:
                service.say(f"a client did not read for {service.limits.stall:g} s; let go")
                raise ClientDisconnect from None

        try:
            if allowed and request.method == "OPTIONS":
                await _preflight(request)(scope, receive, patient)
                return
            try:
                _may_ask(service, request, allowed)
            except Wrong as error:
                await _told(request, error)(scope, receive, patient)
                return
            with suppress(ClientDisconnect):
                await self.app(scope, receive, patient)
        except Exception as error:  # the client was told that the server failed
            service.say(f"a request failed: {type(error).__name__}: {error}")
        finally:
            told = scope.get("state", {}).get("told", "")
            line = f"{request.method} {scope['path'][:60]} {status or 'gone'}"
            service.say(f"{line}{told}, {time.monotonic() - began:.2f} s")


def _may_ask(service: Service, request: Request, allowed: bool) -> None:
    """Raise Wrong for a request that is not to be answered."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if service.local and service.key is None and _name(host) not in LOCAL:
        raise Wrong(f"host {show(host, 60)} is not this machine's own name", None, 403)
    if origin is not None and not allowed and origin.partition("://")[2] != host:
        raise Wrong(
            f"pages of {show(origin, 60)} may not ask; --allowed-origins names those that may",
            None,
            403,
        )
    if service.key is None or not request.url.path.startswith(("/v1/", "/play/")):
        return
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), service.key.encode()):
        raise Wrong("a key is needed: Authorization: Bearer KEY", None, 401, "invalid_api_key")


def _name(host: str) -> str | None:
    """The name in a `Host` header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _preflight(request: Request) -> Response:
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": "GET, POST",
            "access-control-allow-headers": request.headers.get(
                "access-control-request-headers", "content-type, authorization"
            ),
            "access-control-max-age": "600",
        },
    )


def _told(request: Request, error: Exception) -> Response:
    """An error as JSON."""
    if isinstance(error, HTTPException):
        what = f"{request.method} {show(request.url.path, 60)}: {error.detail}"
        error = Wrong(what, None, error.status_code)
    status, body = error_body(error)
    headers = {"retry-after": "1"} if isinstance(error, Busy) else None
    return JSONResponse(body, status, headers)


# The routes.


def _health(service: Service) -> Response:
    engine = service.engine
    lanes = sum(task.lanes for task in list(engine.running))
    return JSONResponse({"status": "ok", "lanes": lanes, "waiting": len(engine.waiting)})


def _card(service: Service) -> dict[str, Any]:
    return {
        "id": service.name,
        "object": "model",
        "created": 0,
        "owned_by": "tinylane",
        "context_length": service.model.config.context,
        "trained_for_lanes": service.model.trained_for_lanes,
    }


def _models(service: Service) -> Response:
    return JSONResponse({"object": "list", "data": [_card(service)]})


def _model(service: Service, request: Request) -> Response:
    _check_name(service, request.path_params["id"])
    return JSONResponse(_card(service))


def _check_name(service: Service, name: str | None) -> None:
    if name not in (None, service.name):
        raise Wrong(
            f"no model {show(name, 80)} here; this server has {show(service.name, 200)}",
            "model",
            404,
            "model_not_found",
        )


def _answering(service: Service, chat: bool) -> Any:
    async def route(request: Request) -> Response:
        raw = parse_json(await body_of(request, service.limits), "the request")
        asked = read(raw, chat, service.defaults)
        _check_name(service, asked.model)
        service.engine.check(asked.n * len(asked.prompts))
        return await _answer(service, request, asked)

    return route


async def body_of(request: Request, limits: Limits) -> bytes:
    """A request's body. Raises Wrong for one that is too large or comes too slowly."""
    size = request.headers.get("content-length", "0")
    over = Wrong(f"the request is larger than {limits.body:,} bytes", None, 413)
    if size.isascii() and size.isdigit() and int(size[:12]) > limits.body:
        raise over
    data, pieces = bytearray(), request.stream()
    try:
        while True:
            piece = await asyncio.wait_for(anext(pieces), limits.stall)
            data += piece
            if len(data) > limits.body:
                raise over
    except StopAsyncIteration:
        return bytes(data)
    except asyncio.TimeoutError:
        raise Wrong("the request's body does not come", None, 408) from None


async def _answer(service: Service, request: Request, asked: Asked) -> Response:
    """Queue a request's jobs; answer when the first has begun, or when all have ended."""
    async with service.encoding:  # one at a time, beside the engine's thread
        works = await asyncio.to_thread(_works, service, asked)
    seed = works[0].settings.get("seed", 0)
    kind = "chatcmpl" if asked.chat else "cmpl"
    joined = None if asked.lanes is None else asked.lanes.joined
    answer = (Answer if joined is None else partial(OneAnswer, method=joined))(
        service.model,
        service.name,
        f"{kind}-{os.urandom(12).hex()}",
        [work.prompt for work in works],
        asked.n,
        chat=asked.chat,
        echo=asked.echo,
        top=asked.top,
        seed=seed,
    )
    inbox = Inbox(service)
    try:
        for p, work in enumerate(works):
            inbox.submit(p, work)
        gone = asyncio.create_task(_goes_away(request))
        pieces = _pieces(inbox, answer, gone)
        first = await anext(pieces, None)  # an error before it is an answer of its own
    except BaseException:
        inbox.close()
        raise
    if asked.stream:

        def close() -> None:
            inbox.close()
            gone.cancel()
            _tell(request, asked, answer)

        return Events(_events(asked, answer, first, pieces), close)
    try:
        async for _ in pieces:
            pass
    finally:
        inbox.close()
        gone.cancel()
    _tell(request, asked, answer)
    return JSONResponse(answer.whole())


def _works(service: Service, asked: Asked) -> list[Work]:
    """The jobs of a request. Raises TinylaneError for what this model cannot do."""
    model, n, works = service.model, asked.n, []
    seed = int.from_bytes(os.urandom(6), "little") if asked.seed is None else asked.seed
    for given in asked.prompts:
        ids = _encode(model, given, asked)
        room = model.config.context - len(ids)
        if room < 0 or (room == 0 and asked.max_tokens):
            raise Wrong(
                f"the prompt has {len(ids):,} tokens; this model's context is "
                f"{model.config.context:,}, prompt and answer together",
                "messages" if asked.chat else "prompt",
                kind="context_length_exceeded",
            )
        max_tokens = max(1, min(asked.max_tokens, room))
        settings: dict[str, Any] = {
            "max_tokens": max_tokens,
            "seed": seed,
            "sampler": asked.sampler,
            "stop": asked.stop,
            "top_logprobs": asked.top or 0,
            "lane_mask": LaneMask.independent(n),
            "lane_prompts": [""] * n,
        }
        if asked.lanes is not None and asked.lanes.joined:
            works.append(_joined(service, asked.lanes, ids, settings))
            continue
        if asked.lanes is not None:
            settings |= asked.lanes.settings(model, n, max_tokens)
            longest = max(len(encode_lane_prompt(model, text)) for text in settings["lane_prompts"])
            if longest > room:
                raise Wrong("prompt and lane prompts are longer than the context", "lanes.prompts")
        score = asked.top if asked.echo and asked.top is not None else None
        works.append(Work(ids, n, settings, score, draw=asked.max_tokens > 0))
    return works


def _joined(service: Service, lanes: Lanes, ids: list[int], settings: dict[str, Any]) -> Work:
    """The job of a method whose lanes work on one answer."""
    setup = lanes.setup(service.model, settings["max_tokens"])
    count = max(setup.lanes, lanes.lanes or LANES)
    service.engine.check(count)
    for name in ("lane_mask", "lane_prompts", "top_logprobs"):  # the method's business
        del settings[name]
    return Work(ids, count, settings, setup=setup)


def _encode(model: Model, given: Any, asked: Asked) -> list[int]:
    if asked.chat and (model.tokenizer is None or not model.tokenizer.templates):
        raise Wrong(
            "this model has no chat template: POST to /v1/completions, with the prompt as text",
            "messages",
        )
    template: dict[str, Any] = {"raw": not asked.chat}
    if asked.template:
        template["template_args"] = asked.template
    try:
        return encode_prompt(model, given, template)
    except TinylaneError as error:
        raise Wrong(str(error), "messages" if asked.chat else "prompt") from None


class Inbox:
    """What the jobs of one request tell, handed from the engine's thread to the event loop."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.jobs: list[Job] = []
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self.put = self.taken = 0  # one is counted by the engine's thread, one by the loop's

    def submit(self, p: int, work: Work) -> None:
        """Queue a job. Raises Busy or TinylaneError."""
        model, engine = self.service.model, self.service.engine

        def tell(what: Any) -> None:
            self.put += 1
            with suppress(RuntimeError):  # the loop has ended
                self.loop.call_soon_threadsafe(self.queue.put_nowait, (p, what))

        job = Job(model, work, self.service.prefixes, tell, lambda: self.put - self.taken)
        tokens = work.settings["max_tokens"]
        needs = forecast(model.config, model.dtype, work.lanes, len(work.prompt), tokens, 0)
        job.nbytes = needs.total
        job.deadline = time.monotonic() + engine.limits.seconds
        engine.submit(job)
        self.jobs.append(job)

    async def get(self) -> tuple[int, Any]:
        """The next thing told, by the job of prompt p."""
        told = await self.queue.get()
        self.taken += 1
        if self.put - self.taken <= 1:
            self.service.engine.wake()
        return told

    def close(self) -> None:
        """Nobody waits any more."""
        for job in self.jobs:
            self.service.engine.cancel(job)
        self.jobs.clear()


async def _pieces(
    inbox: Inbox, answer: Answer, gone: asyncio.Task[None]
) -> AsyncIterator[list[dict[str, Any]]]:
    """What the jobs tell, as pieces of the answer. Raises their errors, and ClientDisconnect."""
    left = len(inbox.jobs)  # it is closed by whoever asked for the pieces
    while left:
        told = asyncio.ensure_future(inbox.get())
        try:
            await asyncio.wait({told, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not told.done():
                raise ClientDisconnect
        finally:
            told.cancel()  # nothing, if it is done
        p, what = told.result()
        if isinstance(what, Step):
            yield answer.step(p, what)
        elif isinstance(what, Begun):
            yield answer.begun(p, what)
        elif isinstance(what, Ended):
            left -= 1
            yield answer.ended(p, what)
        else:
            raise what


async def _goes_away(request: Request) -> None:
    """Ends when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Events(StreamingResponse):
    """Server-sent events. `close` is called when they end, however that is."""

    def __init__(self, content: AsyncIterator[bytes], close: Callable[[], Any]) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self.close = close

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.close()


async def _events(
    asked: Asked,
    answer: Answer,
    first: list[dict[str, Any]] | None,
    pieces: AsyncIterator[list[dict[str, Any]]],
) -> AsyncIterator[bytes]:
    """The answer as server-sent events."""
    try:
        for piece in first or []:
            yield event(piece)
        async for some in pieces:
            for piece in some:
                yield event(piece)
        if asked.usage:
            yield event(answer.last())
        yield b"data: [DONE]\n\n"
    except ClientDisconnect:
        raise
    except Exception as error:
        yield event(error_body(error)[1])
        if not isinstance(error, TinylaneError):
            raise


def event(what: dict[str, Any]) -> bytes:
    """One server-sent event. ASCII, so that no text ends a line."""
    return b"data: " + json.dumps(what).encode("ascii") + b"\n\n"


def _tell(request: Request, asked: Asked, answer: Answer) -> None:
    """Numbers for the log."""
    usage = answer.usage()
    request.scope.setdefault("state", {})["told"] = (
        f", n {asked.n}, prompt {usage['prompt_tokens']} ({answer.cached} cached), "
        f"written {answer.written}"
    )
