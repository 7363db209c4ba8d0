"""`tinylane serve`: a model behind a port, for OpenAI's clients."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane.commands import common, shared_flags
from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import MAX_LANES
from tinylane.serve import server

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.core.sampling import Sampler
    from tinylane.serve.service import Service

KEY = "TINYLANE_API_KEY"  # in the environment, where other users' `ps` does not show it
BLOCK = 64  # rows of a prefill pass, and of what is kept of a prompt


def flags(p: Any) -> None:
    """Add the command's flags."""
    shared_flags.model_flags(p)
    shared_flags.engine_flags(p)
    address_flags(p)
    g = p.add_argument_group("where a request does not say otherwise")
    g.add_argument(
        "--max-tokens", type=int, default=512, metavar="N", help="of a choice, in a chat; 512"
    )
    g.add_argument("--temp", type=float, metavar="T", help="temperature; 0 is greedy")
    g.add_argument("--top-p", type=float, metavar="P")
    g.add_argument("--min-p", type=float, metavar="P")
    g.add_argument("--top-k", type=int, metavar="K")
    g.add_argument("--repetition-penalty", type=float, metavar="R")
    limit_flags(p)


def address_flags(p: Any, port: int = 8080) -> None:
    """Where to listen, and who may ask."""
    g = p.add_argument_group("who may ask")
    g.add_argument("--host", default="127.0.0.1", help="default: this machine alone, 127.0.0.1")
    g.add_argument("--port", type=int, default=port, help=f"default: {port}; 0: any free one")
    g.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"the key that clients must give (or {KEY} in the environment, which other users do "
        "not see); needed for other hosts than 127.0.0.1",
    )
    g.add_argument(
        "--allowed-origins", nargs="+", default=[], metavar="URL", help="web pages that may ask"
    )
    g.add_argument(
        "--served-model-name", metavar="NAME", help="default: the folder's name or the hub id"
    )


def limit_flags(p: Any) -> None:
    """How much the server takes on."""
    g = p.add_argument_group("limits")
    g.add_argument("--max-lanes", type=int, default=64, metavar="N", help="that run at once; 64")
    g.add_argument("--max-queue", type=int, default=64, metavar="N", help="requests that wait; 64")
    g.add_argument(
        "--max-memory",
        type=float,
        metavar="GIB",
        help="for keys and values of what runs; default: half of what is free after loading",
    )
    g.add_argument(
        "--prompt-cache-bytes",
        type=int,
        default=1 << 30,
        metavar="N",
        help="for keys and values of earlier prompts; default: 1 GiB; 0: none are kept",
    )
    g.add_argument(
        "--prefill-step-size",
        type=int,
        default=BLOCK,
        metavar="N",
        help=f"rows of a prompt's pass, and of what is kept of it; default: {BLOCK}",
    )
    g.add_argument(
        "--timeout", type=float, default=600, metavar="S", help="seconds for a request; 600"
    )
    g.add_argument(
        "--stall-timeout",
        type=float,
        default=30,
        metavar="S",
        help="seconds in which a client must read or send something; 30",
    )
    g.add_argument(
        "--max-body", type=int, default=4 << 20, metavar="N", help="bytes of a request; 4 MiB"
    )
    g.add_argument("--quiet", action="store_true", help="no line for every request")
    p.set_defaults(logit_bias=None, stop=None)  # a request says these


def run(args: Any) -> int:
    """Run the command; it ends by Ctrl-C."""
    serve(args)
    return 0


def serve(args: Any, page: bool = False) -> None:
    """Check the flags, load the model, and answer until Ctrl-C. page: with that of `play`."""
    key = check(args)
    server.need("starlette", "uvicorn")
    from tinylane.serve import app

    bound = server.listen(args.host, args.port)  # before the model: a port in use costs no wait
    try:
        model = common.load(args, lanes=1)
        service = make_service(args, model, key)
        warnings.simplefilter("ignore", UserWarning)  # of requests: they may hold a client's words
        host = f"[{args.host}]" if ":" in args.host else args.host
        address = f"http://{host}:{bound.getsockname()[1]}"

        def ready() -> None:
            shown = f"{address}/{'' if key is None or not page else '#key=' + key}"
            where = shown if page else f"{address}/v1"
            common.say(
                f"{service.name} ({model.backend}, {model.dtype}) at {where}; Ctrl-C ends it",
                flush=True,
            )
            if page and args.open:
                import webbrowser

                webbrowser.open(shown)

        more = None
        if page:
            from tinylane.serve.routes import routes

            more = routes(service)
        server.run(app.make_app(service, more), service.engine, bound, ready)
    finally:
        bound.close()


def check(args: Any) -> str | None:
    """Check the flags; returns the key. Raises TinylaneError."""
    shared_flags.check_numbers(args, 1, "max_tokens", "prefill_step_size")
    shared_flags.check_numbers(args, 1, "max_lanes", most=MAX_LANES)
    shared_flags.check_numbers(args, 0, "max_queue", "prompt_cache_bytes")
    shared_flags.check_numbers(args, 1024, "max_body")
    shared_flags.check_numbers(args, 0.01, "timeout", "stall_timeout", "max_memory")
    shared_flags.check_numbers(args, 0, "port", most=65535)
    shared_flags.sampling(args)
    for origin in args.allowed_origins:
        if origin != "*" and not re.fullmatch(r"https?://[\w.:\[\]-]+", origin):
            raise TinylaneError(
                f"--allowed-origins {show(origin, 60)}; expected https://host, or * for all"
            )
    key = args.api_key or os.environ.get(KEY) or None
    if not is_local(args.host) and key is None:
        raise TinylaneError(
            f"--host {args.host}: other machines could use this; give --api-key, or set {KEY}"
        )
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key):
        raise TinylaneError("the key has characters that no header can hold; use ASCII letters")
    return key


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def make_service(args: Any, model: Model, key: str | None) -> Service:
    """What the routes need, of the flags and the model."""
    from tinylane.files.memory import available_memory
    from tinylane.serve.asked import Defaults
    from tinylane.serve.engine import Engine, ServerLimits, warn
    from tinylane.serve.prefixes import Prefixes
    from tinylane.serve.service import Service

    memory = args.max_memory and int(args.max_memory * 2**30)
    limits = ServerLimits(
        lanes=args.max_lanes,
        memory=memory or (available_memory() or 8 << 30) // 2,
        queue=args.max_queue,
        seconds=args.timeout,
        body=args.max_body,
        stall=args.stall_timeout,
    )
    say = (lambda line: None) if args.quiet else warn
    return Service(
        model,
        args.served_model_name or name_of(args),
        Engine(limits, warn),
        Prefixes(args.prefill_step_size, args.prompt_cache_bytes),
        Defaults(usual_sampler(args, model), args.max_tokens),
        key,
        tuple(args.allowed_origins),
        is_local(args.host),
        say,
    )


def usual_sampler(args: Any, model: Model) -> Sampler:
    """How tokens are drawn where a request does not say: by the flags, else as the checkpoint
    samples, else as OpenAI's service does, at temperature 1."""
    from tinylane.core.sampling import Sampler

    samples = model.sampling is not None and model.sampling.get("do_sample")
    usual = Sampler.from_config(model.sampling) if samples else Sampler()
    return replace(usual, **shared_flags.sampling(args))


def name_of(args: Any) -> str:
    """The model's name for clients."""
    if args.model is None:
        return "shell-game"
    folder = Path(args.model)
    return folder.resolve().name if folder.exists() else str(args.model)
