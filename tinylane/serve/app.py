"""The HTTP side: OpenAI's routes on Starlette.

    GET  /v1/models, /v1/models/{id}     POST /v1/chat/completions     POST /v1/completions
    GET  /health: how many lanes run, how many requests wait

A bad request gets one line that says why; it never ends the server. No text of a client or of a
model reaches the log. A client that goes away is noticed while it waits, and its lanes are freed
before their next step.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import LaneMask
from tinylane.files.io import parse_json
from tinylane.methods.prompt import encode_lane_prompt, encode_prompt
from tinylane.serve.answers import OneAnswer, Reply
from tinylane.serve.asked import Asked, read
from tinylane.serve.asked_lanes import LANES, Lanes
from tinylane.serve.body import BadRequest
from tinylane.serve.guard import Guarded, body_of, told_error
from tinylane.serve.inbox import Events, Inbox, events_of, goes_away, pieces_of
from tinylane.serve.job import Wanted
from tinylane.serve.service import Service

if TYPE_CHECKING:
    from tinylane.core.model import Model


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
        exception_handlers=dict.fromkeys([TinylaneError, HTTPException, Exception], told_error),
    )
    return Guarded(app, service)


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
        raise BadRequest(
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


async def _answer(service: Service, request: Request, asked: Asked) -> Response:
    """Queue a request's jobs; answer when the first has begun, or when all have ended."""
    async with service.encoding:  # one at a time, beside the engine's thread
        works = await asyncio.to_thread(_works, service, asked)
    seed = works[0].settings.get("seed", 0)
    kind = "chatcmpl" if asked.chat else "cmpl"
    joined = None if asked.lanes is None else asked.lanes.joined
    answer = (Reply if joined is None else partial(OneAnswer, method=joined))(
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
        gone = asyncio.create_task(goes_away(request))
        pieces = pieces_of(inbox, answer, gone)
        first = await anext(pieces, None)  # an error before it is an answer of its own
    except BaseException:
        inbox.close()
        raise
    if asked.stream:

        def close() -> None:
            inbox.close()
            gone.cancel()
            _tell(request, asked, answer)

        return Events(events_of(asked, answer, first, pieces), close)
    try:
        async for _ in pieces:
            pass
    finally:
        inbox.close()
        gone.cancel()
    _tell(request, asked, answer)
    return JSONResponse(answer.whole())


def _works(service: Service, asked: Asked) -> list[Wanted]:
    """The jobs of a request. Raises TinylaneError for what this model cannot do."""
    model, n, works = service.model, asked.n, []
    seed = int.from_bytes(os.urandom(6), "little") if asked.seed is None else asked.seed
    for given in asked.prompts:
        ids = _encode(model, given, asked)
        room = model.config.context - len(ids)
        if room < 0 or (room == 0 and asked.max_tokens):
            raise BadRequest(
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
                raise BadRequest(
                    "prompt and lane prompts are longer than the context", "lanes.prompts"
                )
        score = asked.top if asked.echo and asked.top is not None else None
        works.append(Wanted(ids, n, settings, score, draw=asked.max_tokens > 0))
    return works


def _joined(service: Service, lanes: Lanes, ids: list[int], settings: dict[str, Any]) -> Wanted:
    """The job of a method whose lanes work on one answer."""
    setup = lanes.setup(service.model, settings["max_tokens"])
    count = max(setup.lanes, lanes.lanes or LANES)
    service.engine.check(count)
    for name in ("lane_mask", "lane_prompts", "top_logprobs"):  # the method's business
        del settings[name]
    return Wanted(ids, count, settings, setup=setup)


def _encode(model: Model, given: Any, asked: Asked) -> list[int]:
    if asked.chat and (model.tokenizer is None or not model.tokenizer.templates):
        raise BadRequest(
            "this model has no chat template: POST to /v1/completions, with the prompt as text",
            "messages",
        )
    template: dict[str, Any] = {"raw": not asked.chat}
    if asked.template:
        template["template_args"] = asked.template
    try:
        return encode_prompt(model, given, template)
    except TinylaneError as error:
        raise BadRequest(str(error), "messages" if asked.chat else "prompt") from None


def _tell(request: Request, asked: Asked, answer: Reply) -> None:
    """Numbers for the log."""
    usage = answer.usage()
    request.scope.setdefault("state", {})["told"] = (
        f", n {asked.n}, prompt {usage['prompt_tokens']} ({answer.cached} cached), "
        f"written {answer.written}"
    )
