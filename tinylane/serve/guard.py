"""Before the routes: who may ask, how much, and what the log says of it.

No text of a client or of a model reaches the log.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from tinylane.core.errors import show
from tinylane.serve.answers import error_body
from tinylane.serve.body import BadRequest
from tinylane.serve.engine import Busy, ServerLimits
from tinylane.serve.service import Service

LOCAL = {"localhost", "127.0.0.1", "::1"}


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
            except BadRequest as error:
                await told_error(request, error)(scope, receive, patient)
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
    """Raise BadRequest for a request that is not to be answered."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if service.local and service.key is None and _name(host) not in LOCAL:
        raise BadRequest(f"host {show(host, 60)} is not this machine's own name", None, 403)
    if origin is not None and not allowed and origin.partition("://")[2] != host:
        raise BadRequest(
            f"pages of {show(origin, 60)} may not ask; --allowed-origins names those that may",
            None,
            403,
        )
    if service.key is None or not request.url.path.startswith(("/v1/", "/play/")):
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), service.key.encode()):
        raise BadRequest("a key is needed: Authorization: Bearer KEY", None, 401, "invalid_api_key")


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


def told_error(request: Request, error: Exception) -> Response:
    """An error as JSON."""
    if isinstance(error, HTTPException):
        what = f"{request.method} {show(request.url.path, 60)}: {error.detail}"
        error = BadRequest(what, None, error.status_code)
    status, body = error_body(error)
    headers = {"retry-after": "1"} if isinstance(error, Busy) else None
    return JSONResponse(body, status, headers)


async def body_of(request: Request, limits: ServerLimits) -> bytes:
    """A request's body. Raises BadRequest for one that is too large or comes too slowly."""
    size = request.headers.get("content-length", "0")
    over = BadRequest(f"the request is larger than {limits.body:,} bytes", None, 413)
    if size.isascii() and size.isdigit() and int(size[:12]) > limits.body:
        raise over
    data, pieces, end = bytearray(), request.stream(), time.monotonic() + limits.seconds
    try:
        while True:
            patience = min(limits.stall, end - time.monotonic())  # a byte a minute is too slow, too
            piece = await asyncio.wait_for(anext(pieces), patience)
            data += piece
            if len(data) > limits.body:
                raise over
    except StopAsyncIteration:
        return bytes(data)
    except asyncio.TimeoutError:
        raise BadRequest("the request's body does not come", None, 408) from None
