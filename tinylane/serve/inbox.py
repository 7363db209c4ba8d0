"""From the engine's thread to a client: what the jobs of a request tell, whole or as a stream.

A client that goes away is noticed while it waits; its lanes are freed before their next step.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse

from tinylane.core.errors import TinylaneError
from tinylane.core.result import Step
from tinylane.files.memory import forecast_rows
from tinylane.serve.answers import Reply, error_body
from tinylane.serve.asked import Asked
from tinylane.serve.job import Begun, Ended, Served, Wanted
from tinylane.serve.service import Service


class Inbox:
    """What the jobs of one request tell, handed from the engine's thread to the event loop."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.jobs: list[Served] = []
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self.put = self.taken = 0  # one is counted by the engine's thread, one by the loop's

    def submit(self, p: int, work: Wanted) -> None:
        """Queue a job. Raises Busy or TinylaneError."""
        model, engine = self.service.model, self.service.engine

        def tell(what: Any) -> None:
            self.put += 1
            with suppress(RuntimeError):  # the loop has ended
                self.loop.call_soon_threadsafe(self.queue.put_nowait, (p, what))

        behind = lambda: self.put - self.taken
        job = Served(model, work, self.service.prefixes, tell, behind, engine.check)
        tokens = work.settings["max_tokens"]
        needs = forecast_rows(model, work.lanes, len(work.prompt), tokens)
        job.nbytes, job.row = needs.total, needs.kv_per_token
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


async def pieces_of(
    inbox: Inbox, answer: Reply, gone: asyncio.Task[None]
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


async def goes_away(request: Request) -> None:
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


async def events_of(
    asked: Asked,
    answer: Reply,
    first: list[dict[str, Any]] | None,
    pieces: AsyncIterator[list[dict[str, Any]]],
) -> AsyncIterator[bytes]:
    """The answer as server-sent events; `usage`, where asked for, is null until the last."""
    more = {"usage": None} if asked.usage else {}
    try:
        for piece in first or []:
            yield event(piece | more)
        async for some in pieces:
            for piece in some:
                yield event(piece | more)
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
