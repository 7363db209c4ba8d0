"""The routes of `tinylane play`: its page, and sessions that the page steers.

GET  /                             the page; its styles and modules as they lie in the package
GET  /play/about                   the model, and what a session may begin with
POST /play/sessions                begin one: {prompt, lanes, method, visibility, ...}
POST /play/open                    begin one with a saved run; both: ?leaving=ID of the one before
GET  /play/sessions/ID/events      what happens, as server-sent events
GET  /play/sessions/ID/run         the run as a file
POST /play/sessions/ID/DO          do something to it: see OPERATIONS
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tinylane.core.errors import TinylaneError, show
from tinylane.files.io import Fields, parse_json
from tinylane.serve.body import BadRequest
from tinylane.serve.engine import Busy
from tinylane.serve.guard import body_of
from tinylane.serve.inbox import Events, event
from tinylane.serve.opening import Start, begin, reopen
from tinylane.serve.rotations import METHODS
from tinylane.serve.service import Service
from tinylane.serve.session import LEFT, MOST_LANES, PlaySession

SESSIONS = 8  # at once; one that nobody looks at makes room
BEHIND = 256  # things that a page may be behind before it is let go
ALIVE = 15.0  # s between two signs of life of a stream
# Nothing from elsewhere, and no script but the page's own.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'"
POLICY += "; img-src data:"
COLOURS = "view/shared/colours.css"  # made by the palette

Do = Callable[[PlaySession, Fields], Any]
OPERATIONS: dict[str, Do] = {
    "run": lambda s, f: s.run(f.flag("yes"), f.real("pace", None)),
    "pace": lambda s, f: s.set_pace(f.real("pace")),
    "step": lambda s, f: s.step(),
    "fork": lambda s, f: s.fork(f.whole("lane")),
    "what_if": lambda s, f: s.what_if(f.whole("lane"), f.whole("index"), f.whole("token")),
    "give": lambda s, f: s.give(f.whole("lane"), f.text("text")),
    "read": lambda s, f: s.read(f.whole("lane"), f.whole("of"), f.flag("yes")),
    "arrange": lambda s, f: s.arrange(f.text("visibility")),
    "silence": lambda s, f: s.silence(f.whole("lane")),
    "drop": lambda s, f: s.drop(f.whole("lane")),
    "pause": lambda s, f: s.pause(f.whole("lane"), f.flag("yes")),
    "switch": lambda s, f: s.switch(f.text("method")),
    "details": lambda s, f: s.details(f.whole("lane"), f.whole("index")),
}


def routes(service: Service) -> list[BaseRoute]:
    """The routes, and the sessions that they share."""
    sessions: dict[str, PlaySession] = {}

    async def about(request: Request) -> Response:
        return JSONResponse(await in_engine(service, lambda: describe(service)))

    async def start(request: Request) -> Response:
        raw = parse_json(await body_of(request, service.limits), "the request")
        make = lambda: begin(service.model, read_start(raw), service.engine.check)
        return await add(request, make)

    async def reopened(request: Request) -> Response:
        data = await body_of(request, service.limits)
        make = lambda: reopen(service.model, read_run(data), service.engine.check)
        return await add(request, make)

    async def add(request: Request, make: Callable[[], PlaySession]) -> Response:
        session = await in_engine(service, make)
        room(sessions, service, session, request.query_params.get("leaving"))
        session.grow = partial(grow, sessions, service, session)
        service.engine.submit(session)
        name = os.urandom(8).hex()
        sessions[name] = session
        return JSONResponse({"id": name, "state": session.state()}, 201)

    def session_of(request: Request) -> PlaySession:
        name = request.path_params["id"]
        if name not in sessions:
            raise BadRequest(
                f"no session {show(name, 40)}: it may have ended; begin another", None, 404
            )
        return sessions[name]

    async def happens(request: Request) -> Response:
        return listen(service, session_of(request))

    async def run_file(request: Request) -> Response:
        data = await in_engine(service, session_of(request).save)
        headers = {"content-disposition": 'attachment; filename="run.json"'}
        return Response(data, media_type="application/json", headers=headers)

    async def do(request: Request) -> Response:
        session, name = session_of(request), request.path_params["do"]
        if name not in OPERATIONS:
            raise BadRequest(f"no operation {show(name, 40)}; there are {', '.join(OPERATIONS)}")
        body = await body_of(request, service.limits)
        fields = Fields(parse_json(body or b"{}", "the request"))

        def act() -> Any:
            changes, operate = name not in ("details", "step", "run", "pace"), OPERATIONS[name]
            do = lambda: operate(session, fields)
            told = session.by_hand(do) if changes else do()
            service.engine.wake()
            if changes:
                session.tell({"state": session.state()})
            return told

        return JSONResponse(await in_engine(service, act) or {})

    return [
        Route("/", page_file("serve/page/play.html")),
        *[Route(f"/{name}", page_file(name)) for name in page_files()],
        Route("/play/about", about),
        Route("/play/sessions", start, methods=["POST"]),
        Route("/play/open", reopened, methods=["POST"]),
        Route("/play/sessions/{id}/events", happens),
        Route("/play/sessions/{id}/run", run_file),
        Route("/play/sessions/{id}/{do}", do, methods=["POST"]),
    ]


def page_files() -> list[str]:
    """Paths of the page's styles and modules, in the package and behind the server: those that a
    module imports are found by the same relative path in both."""
    package, folders = resources.files("tinylane"), ("view/shared", "serve/page")
    names = [f"{folder}/{x.name}" for folder in folders for x in (package / folder).iterdir()]
    return [COLOURS, *(name for name in names if name.endswith((".css", ".js")))]


def page_file(name: str) -> Callable[[Request], Response]:
    """The route of one of these files, or of the page itself."""
    from tinylane.view.palette import page_css

    kind = {"html": "text/html", "css": "text/css", "js": "text/javascript"}[name.split(".")[-1]]

    def give(request: Request) -> Response:
        data = page_css().encode() if name == COLOURS else package_file(name)
        headers = {"content-security-policy": POLICY, "cache-control": "no-cache"}
        return Response(data, media_type=kind, headers=headers)

    return give


def package_file(name: str) -> bytes:
    return (resources.files("tinylane") / name).read_bytes()


def describe(service: Service) -> dict[str, Any]:
    """The model, and what a session may begin with."""
    from tinylane.evaluate.tasks.shell_game import game_of

    model, game = service.model, game_of(service.model)
    methods = [name for name in METHODS if name != "learned" or model.lane_rope is not None]
    told: dict[str, Any] = {
        "name": service.name,
        "backend": model.backend,
        "dtype": model.dtype,
        "context": model.config.context,
        "methods": methods,
        "trained": model.trained_for_lanes,
        "counts": list(range(1, MOST_LANES + 1)),
        "lanes": 4,
        "prompt": "",
        "max_tokens": 200,
        "temperature": max(float((model.sampling or {}).get("temperature", 0)), 0.0) or 0.7,
        "game": False,
    }
    if game is not None:
        moves = game.draw(1, np.random.default_rng(int.from_bytes(os.urandom(4), "little")))[0]
        told |= {
            "prompt": " ".join(game.moves[k] for k in moves),
            "counts": list(game.lanes),
            "lanes": max((k for k in game.lanes if k <= 4), default=1),
            "max_tokens": max(map(game.steps, game.lanes)) + 1,
            "temperature": 0.0,
            "game": True,
        }
    return told


def read_start(raw: dict[str, Any]) -> Start:
    """What a session begins with. Raises TinylaneError naming the field."""
    fields = Fields(raw)
    if not fields.text("prompt").strip():
        raise TinylaneError("the prompt is empty: write one")
    return Start(
        fields.text("prompt"),
        fields.whole("lanes", 1, MOST_LANES),
        fields.text("method"),
        fields.text("visibility"),
        fields.real("temperature", None, least=0),
        fields.whole("max_tokens", 1),
        fields.whole("seed", default=None, most=2**53),
    )


def read_run(data: bytes) -> Any:
    """A run file, checked."""
    from tinylane.view.run_file import load_run

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        path.write_bytes(data)
        try:
            return load_run(path)
        except TinylaneError as error:
            raise TinylaneError(str(error).replace(str(path), "the file")) from None


def room(
    sessions: dict[str, PlaySession], service: Service, new: PlaySession, leaving: str | None
) -> None:
    """Forget sessions that have ended; those that nobody looks at, where there is no room for
    a new one. leaving: the one that the page leaves for the new one; it goes last. Raises
    BadRequest where that is not enough."""
    for name in [name for name, s in sessions.items() if s.cancelled or s.over]:
        del sessions[name]
    limits = service.limits

    def full() -> bool:
        every = [new, *sessions.values()]
        lanes, nbytes = sum(s.lanes for s in every), sum(s.nbytes for s in every)
        return len(every) > SESSIONS or lanes > limits.lanes or nbytes > limits.memory

    idle = [name for name, s in sessions.items() if not s.listeners]
    if leaving in sessions and len(sessions[leaving].listeners) == 1:
        idle.append(leaving)
    for name in idle:
        if full():
            service.engine.cancel(sessions.pop(name))
    if full():
        raise BadRequest("open sessions leave no room for one more: close one", None, 503)


def grow(
    sessions: dict[str, PlaySession],
    service: Service,
    session: PlaySession,
    lanes: int,
    nbytes: int,
) -> None:
    """As `Engine.grow`; sessions that nobody looks at make room for one more lane, too."""
    for name, other in list(sessions.items()):
        if other is session or other.listeners:
            continue
        with suppress(Busy):
            return service.engine.grow(lanes, nbytes)
        service.engine.cancel(sessions.pop(name))
    service.engine.grow(lanes, nbytes)


async def in_engine(service: Service, do: Callable[[], Any]) -> Any:
    """Call a function in the engine's thread, between two steps; its result or its error."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def call() -> None:
        result, error = None, None
        try:
            result = do()
        except Exception as caught:
            error = caught
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, error)

    service.engine.call(call)
    return await done


def listen(service: Service, session: PlaySession) -> Response:
    """A stream of what happens in a session, from its state now on."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()

    def hear(what: dict[str, Any]) -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(queue.put_nowait, what)

    def begin_to_hear() -> None:
        session.listeners.append(hear)
        session.deadline = float("inf")
        hear({"state": session.state()})

    def stop() -> None:
        def leave() -> None:
            if hear in session.listeners:
                session.listeners.remove(hear)
            if not session.listeners:
                session.run(False)
                session.deadline = time.monotonic() + LEFT

        service.engine.call(leave)

    async def stream() -> AsyncIterator[bytes]:
        while True:
            try:
                what = await asyncio.wait_for(queue.get(), ALIVE)
            except asyncio.TimeoutError:
                yield b": still here\n\n"
                continue
            yield event(what)
            if "gone" in what or queue.qsize() > BEHIND:
                return

    service.engine.call(begin_to_hear)
    return Events(stream(), stop)
