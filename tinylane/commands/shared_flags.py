"""Flags that several commands have, and what their values come to."""

from __future__ import annotations

import argparse
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError, show
from tinylane.files.io import parse_json, read_bytes
from tinylane.files.writing import written

if TYPE_CHECKING:
    import numpy as np

    from tinylane.core.lanes import LaneMask
    from tinylane.core.model import Model
    from tinylane.evaluate.collaboration import Collaboration

BACKENDS = ("auto", "numpy", "mlx")
DTYPES = ("auto", "float32", "float64", "float16", "bfloat16")
OMEGA = (
    "lane rotation: none, group_think, ntk, learned or @file.json "
    "(default: learned if the model has it, else none)"
)
OPS: Any = {
    "choices": ("auto", "plain", "fast"),
    "default": "auto",
    "help": "plain: the operations as decoder.py has them; fast: the backend's faster ones; auto: "
    "plain for small models on a CPU, else fast",
}
# flag -> the field of Sampler that it sets
SAMPLING = {
    "temp": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
}
# LaTeX's commands that begin like an escape
LATEX = (
    "nu nabla neq ne neg not notin nmid natural nearrow nwarrow newline newcommand nleq ngeq nsim "
    "ncong nless ngtr nparallel nsubseteq nsupseteq nexists noindent nonumber normalsize "
    "tau theta thetasym times to tan tanh text textbf textit textrm texttt textsf textstyle tfrac "
    "tilde top triangle triangleq triangleleft triangleright tbinom tag therefore thickapprox "
    "thinspace tiny title today"
)
LARGEST_MATRIX = 32 << 20  # bytes of a JSON file: 1024 x 1024 lanes with room


# The flags.


def model_flags(p: Any, positional: bool = False) -> None:
    """Which model, adapter and revision."""
    names = ("model",) if positional else ("--model",)
    options = {"nargs": "?", "metavar": "MODEL"} if positional else {"metavar": "M"}
    p.add_argument(*names, help="a folder or a hub id; default: the model inside", **options)
    p.add_argument("--adapter-path", metavar="DIR", help="a lane adapter; default: the model's own")
    p.add_argument("--revision", help="branch, tag or commit of a hub id")


def engine_flags(p: Any, every: bool = False, runs: bool = True) -> None:
    """Backend, dtype, operations. every: "all" is a choice too. runs: the command runs a model."""
    more = ("all",) if every else ()
    says = "auto: MLX on Apple silicon, else NumPy"
    says += "; all: both, compared with each other" * every
    p.add_argument("--backend", choices=(*BACKENDS, *more), default="auto", help=says)
    p.add_argument("--dtype", choices=(*DTYPES, *more), default="auto")
    p.add_argument("--ops", **OPS)
    if runs:
        says = "memory that macOS must not page out, for MLX on a Mac's GPU; without a number, "
        says += "what the system recommends; default: none"
        p.add_argument("--wired-limit", type=float, nargs="?", const=0.0, metavar="GIB", help=says)


def prompt_flags(g: Any) -> None:
    """How a prompt is written."""
    g.add_argument(
        "--raw",
        "--ignore-chat-template",
        action=argparse.BooleanOptionalAction,
        help="no chat template; default: as the adapter was trained",
    )
    g.add_argument("--system-prompt", metavar="TEXT", type=text)
    g.add_argument("--prefill-response", metavar="TEXT", type=text, help="how every answer begins")
    g.add_argument("--chat-template-config", metavar="JSON", help='e.g. {"enable_thinking": false}')


def sampling_flags(g: Any) -> None:
    """How tokens are chosen, and which texts end a lane."""
    more = {"action": "extend", "nargs": "+"}
    g.add_argument("--stop", metavar="TEXT", type=text, help="a text that ends a lane", **more)
    g.add_argument(
        "--extra-eos-token", metavar="TOKEN", help="a token that ends a lane; or its id", **more
    )
    g.add_argument("--temp", type=float, metavar="T", help="temperature; 0 is greedy")
    g.add_argument("--top-p", type=float, metavar="P")
    g.add_argument("--top-k", type=int, metavar="K")
    g.add_argument("--min-p", type=float, metavar="P")
    g.add_argument("--repetition-penalty", type=float, metavar="R")
    g.add_argument("--logit-bias", metavar="ID:BIAS", help="or a JSON object", **more)


def rotation_flags(
    g: Any, omega: str = OMEGA, slot: str = "max-tokens", scale: str = "lanes"
) -> None:
    """How lanes are rotated and how late they read. omega: the help; slot, scale: the defaults."""
    g.add_argument("--lag", type=int, metavar="STEPS", help="lanes read each other this much later")
    g.add_argument("--omega", metavar="O", help=omega)
    g.add_argument(
        "--slot", type=float, metavar="S", help=f"positions a lane takes; default: {slot}"
    )
    g.add_argument(
        "--omega-scale", type=float, metavar="S", help=f"with --omega ntk; default: {scale}"
    )
    g.add_argument(
        "--prompt-lane", choices=("own", "0"), help="the lane in which joint lanes see the prompt"
    )


def collaborate_flags(p: Any) -> None:
    """`--collaborate` and what changes it."""
    g = p.add_argument_group("collaboration prompts (for models that were not trained for lanes)")
    g.add_argument(
        "--collaborate",
        nargs="?",
        const="",
        metavar="DIR",
        help="explain the lanes to the model, ask it while it writes whether it repeats others, "
        "and at the end for its answer; DIR: your own system.txt, lane.txt, nudge.txt, finish.txt",
    )
    g.add_argument(
        "--without",
        nargs="+",
        choices=("system", "lane", "nudge", "finish"),
        metavar="PART",
        help="leave out: system, lane, nudge or finish",
    )
    g.add_argument(
        "--nudge-every", type=int, metavar="N", help="tokens between questions; default: 256"
    )
    g.add_argument(
        "--finish-at",
        type=int,
        metavar="N",
        help="tokens of a lane before it is asked for its answer; default: 32 are left for it",
    )


# What their values come to.


def text(word: str) -> str:
    r"""A text of the command line: UTF-8 whatever the locale; `\n` and `\t` as a shell leaves them.

    mlx-lm replaces these two as well. LaTeX commands that begin so stay as they are.

    >>> text(r"a\nb"), text(r"\nu \times 2")
    ('a\nb', '\\nu \\times 2')
    """
    if any("\udc80" <= c <= "\udcff" for c in word):  # bytes that the locale could not read
        try:
            word = os.fsencode(word).decode("utf-8")
        except UnicodeDecodeError as error:
            raise argparse.ArgumentTypeError(f"not UTF-8 text (byte {error.start})") from None
    typed = {"n": "\n", "t": "\t"}
    plain = lambda m: m[0] if m[0][1:] in LATEX.split() else typed[m[1][0]] + m[1][1:]
    return re.sub(r"\\([nt][A-Za-z]*)", plain, word)


def silence(word: str) -> bool:
    """The word behind mlx-lm's `--verbose`: whether to be quiet.

    >>> silence("F"), silence("True")
    (True, False)
    """
    if word.lower() in ("true", "t", "false", "f"):
        return word.lower()[0] == "f"
    raise argparse.ArgumentTypeError(f"{show(word, 40)}: expected True, T, False or F")


def check_numbers(args: Any, least: float, *names: str, most: float | None = None) -> None:
    """Raise TinylaneError where a flag of these names was given a number out of range, or a list
    with one."""
    for name in names:
        value = getattr(args, name)
        for number in value if isinstance(value, list) else [value]:
            if number is None or least <= number <= (math.inf if most is None else most):
                continue
            flag, upto = name.replace("_", "-"), "or more" if most is None else f"to {most}"
            raise TinylaneError(f"--{flag} is {number}; expected {least} {upto}")


def lanes_asked(args: Any) -> bool:
    """Whether a flag says how lanes are rotated or read each other, and no method does."""
    rotation = (args.mode, args.omega, args.slot, args.omega_scale, args.prompt_lane)
    return args.method is None and {*rotation, args.visibility, args.lag} != {None}


def check_omega_numbers(args: Any, *starts: Any) -> None:
    """Raise TinylaneError for --slot and --omega-scale where none of Omega's starts uses them."""
    from tinylane.methods.modes import STARTS

    numbers = {n for start in starts if isinstance(start, str) for n in STARTS.get(start, ())}
    if args.slot is not None and "slot" not in numbers:
        mode = "--mode group_think, " if hasattr(args, "mode") else ""
        raise TinylaneError(f"--slot needs {mode}--omega group_think or --omega ntk")
    if args.omega_scale is not None and "scale" not in numbers:
        raise TinylaneError("--omega-scale needs --omega ntk")


def check_target(flag: str, name: str) -> Path:
    """The path of a file that a flag names. Raises TinylaneError unless it can be written.

    Called before anything is computed, so that no result is lost.
    """
    try:
        folder = written(name).parent  # behind a symbolic link
    except TinylaneError as error:
        raise TinylaneError(f"{flag} {error}") from None
    if os.path.isdir(name):
        raise TinylaneError(f"{flag} {name}: is a folder; expected a file to write")
    if not Path(name).name or (os.path.exists(name) and not os.path.isfile(name)):
        raise TinylaneError(f"{flag} {show(name)}: is no regular file; expected a file to write")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise TinylaneError(f"{flag} {name}: no folder {folder} that can be written to")
    return Path(name)


def template(args: Any) -> dict[str, Any] | None:
    """The prompt flags as keyword arguments of `Tokenizer.prompt_ids`; None where none was given.

    Raises TinylaneError for a --chat-template-config that is not a JSON object.
    """
    given: dict[str, Any] = {} if args.raw is None else {"raw": args.raw}
    if args.system_prompt is not None:
        given["system"] = args.system_prompt
    if args.prefill_response is not None:
        given["prefill"] = args.prefill_response
    if args.chat_template_config is not None:
        config = _bytes(args.chat_template_config)
        given["template_args"] = parse_json(config, "--chat-template-config")
    return given or None


def sampling(args: Any) -> dict[str, Any]:
    """The sampling flags that were given, as fields of `Sampler`. Raises TinylaneError."""
    given: dict[str, Any] = {}
    for flag, field in SAMPLING.items():
        if getattr(args, flag) is not None:
            given[field] = getattr(args, flag)
    if args.logit_bias:
        given["logit_bias"] = _bias(args.logit_bias)
    if "" in (args.stop or ()):
        raise TinylaneError("--stop is empty; expected a text of a character or more")
    if given:
        from tinylane.core.sampling import Sampler

        Sampler(**given)  # refuses values out of range
    return given


def stop(args: Any, model: Model) -> tuple[str | int, ...]:
    """What --stop and --extra-eos-token name. Raises TinylaneError for what is no token."""
    given: list[str | int] = list(args.stop or ())
    for word in args.extra_eos_token or ():
        core = None if model.tokenizer is None else model.tokenizer.core
        number = re.fullmatch("[0-9]{1,12}", word)
        id = int(word) if number else core.token_to_id(word) if core else None
        if id is None or id >= model.config.vocab:
            raise TinylaneError(f"--extra-eos-token {show(word)}: this model has no such token")
        given.append(id)
    return tuple(given)


def _bias(words: list[str]) -> dict[int, float]:
    pairs: list[tuple[Any, Any]] = []
    for word in words:
        if word.lstrip().startswith("{"):
            pairs += parse_json(_bytes(word), "--logit-bias").items()
        else:
            token, _, bias = word.rpartition(":")
            pairs.append((token, bias))
    try:
        return {int(token): float(bias) for token, bias in pairs}
    except (ValueError, TypeError):
        raise TinylaneError(
            f"--logit-bias {show(' '.join(words), 60)}; expected ID:BIAS, like 42:-5"
        ) from None


def collaboration(args: Any) -> Collaboration | None:
    """The collaboration prompts that the flags ask for. Raises TinylaneError for wrong flags."""
    flags = ("without", "nudge_every", "finish_at")
    if args.collaborate is None:
        for flag in flags:
            if getattr(args, flag) is not None:
                raise TinylaneError(f"--{flag.replace('_', '-')} needs --collaborate")
        return None
    from tinylane.evaluate.collaboration import NUDGE_EVERY, read

    check_numbers(args, 1, *flags[1:])
    every = args.nudge_every if args.nudge_every is not None else NUDGE_EVERY
    return read(args.collaborate or None, args.without or (), every, args.finish_at)


def parse_visibility(text: str | None) -> str | LaneMask | None:
    """`--visibility`: a name of `LaneMask.named` as it is, a matrix as a mask without lag, or None.

    Raises TinylaneError for an unknown name and for what is no matrix of booleans.
    """
    if not text:
        return None
    from tinylane.core.lanes import LaneMask

    if text.startswith(("@", "[")):
        return LaneMask(_matrix(text, "--visibility"))
    LaneMask.named(text, 1)  # refuses unknown names
    return text


def parse_omega(text: str | None) -> Any:
    """`--omega`: a name of `modes.STARTS` as it is, the array in an @file.json, or None."""
    if text is None:
        return None
    from tinylane.methods.modes import STARTS

    if text in STARTS:
        return text
    if not text.startswith("@"):
        raise TinylaneError(
            f"--omega is {show(text, 40)}; expected {', '.join(STARTS)} or @file.json"
        )
    return _matrix(text, "--omega")


def _matrix(text: str, flag: str) -> np.ndarray:
    """The JSON in `text`, or in the file that it names after an @, as an array of numbers."""
    import numpy as np

    data, source = _bytes(text), flag
    if text.startswith("@"):
        data, source = read_bytes(text[1:], LARGEST_MATRIX), f"{flag} {text}"
    value = parse_json(data, source, list)
    try:
        array = np.array(value)
    except ValueError:
        raise TinylaneError(f"{source}: rows of different lengths; expected a matrix") from None
    if array.dtype.kind not in "biuf":
        raise TinylaneError(f"{source}: {show(value, 60)}; expected lists of numbers")
    return array


def _bytes(text: str) -> bytes:
    """A word of the command line as it was given."""
    return text.encode("utf-8", "surrogateescape")
