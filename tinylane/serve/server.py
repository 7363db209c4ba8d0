"""A server that runs until Ctrl-C: a socket, uvicorn, the engine's thread."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from tinylane.core.errors import TinylaneError
from tinylane.serve.engine import Engine

GRACE = 5  # s that answers may take to be sent after Ctrl-C


def need(*names: str) -> None:
    """Raise TinylaneError where a package of the extra is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise TinylaneError(f"{name} is not installed: pip install 'tinylane[serve]'")


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises TinylaneError for a port that is in use, or a host
    that is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise TinylaneError(f"--host {host}: {error.strerror or error}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except (OSError, OverflowError) as error:
        bound.close()
        why = getattr(error, "strerror", None) or str(error)
        raise TinylaneError(f"--port {port}: {why}; give another, or 0 for any free one") from error
    return bound


def run(app: Any, engine: Engine, bound: socket.socket, ready: Callable[[], Any]) -> None:
    """Answer requests until Ctrl-C or SIGTERM; those that run then end with what they have.

    Raises KeyboardInterrupt after Ctrl-C.
    """
    import h11
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Connection(H11Protocol):
        """Is closed where the headers of a request do not come in time."""

        late: asyncio.TimerHandle

        def wait(self) -> None:
            self.late = self.loop.call_later(engine.limits.stall, self.transport.close)

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:  # the headers are complete
                self.late.cancel()
            elif self.late.cancelled():
                self.wait()

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            """The engine first: its requests' answers are sent while uvicorn waits."""
            engine.close(timeout=0)
            super().handle_exit(sig, frame)

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            ready()

    config = uvicorn.Config(
        app,
        http=Connection,
        log_level="error",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        h11_max_incomplete_event_size=1 << 16,
        limit_concurrency=1024,
        ws="none",
    )
    engine.start()
    try:
        Server(config).run(sockets=[bound])
    finally:
        engine.close()
        bound.close()
        sys.stderr.flush()
