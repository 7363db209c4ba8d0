"""`tinylane generate`: decode lanes jointly and show them; without arguments, a shell game.

All flags are checked before a model is loaded. The results (the lanes, their answers, the vote) go
to stdout, everything about the run to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinylane.commands import common, shared_flags
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import MAX_LANES, LaneMask

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.core.sampling import Sampler
    from tinylane.evaluate.tasks.shell_game import ShellGame
    from tinylane.methods import Setup
    from tinylane.methods.decoding import Decoding

TEMPERATURE = 0.7  # of lanes that would be the same text without one
METHOD_LANES = 3  # of a method, where nothing says how many
MODES = ("independent", "joint", "group_think", "hogwild")  # those of methods.modes


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.description += (
        " Without arguments: a random shell game, solved by four lanes of the model inside."
    )
    shared_flags.model_flags(p)
    shared_flags.engine_flags(p)
    g = p.add_argument_group("prompt")
    g.add_argument(
        "--prompt",
        "-p",
        metavar="TEXT",
        type=shared_flags.text,
        help=r"\n and \t are a newline and a tab, as in mlx-lm; LaTeX commands (\nu, \times) stay; "
        "- reads standard input as it is",
    )
    shared_flags.prompt_flags(g)
    g.add_argument(
        "--prompt-cache-file",
        metavar="FILE",
        help="keys and values of an earlier run: only what the prompt does not share with it is "
        "computed; read if it is there, written at the end",
    )
    g.add_argument(
        "--prefill-step-size",
        type=int,
        default=512,
        metavar="N",
        help="tokens of the prompt in a pass; fewer need less memory; default: 512",
    )
    g.add_argument(
        "--lane-prompt",
        metavar="TEXT",
        type=shared_flags.text,
        action="extend",
        nargs="+",
        help="one text a lane, after the prompt that all share",
    )
    g = p.add_argument_group("lanes")
    g.add_argument("--lanes", type=int, metavar="N", help="default: 1; of the shell game: 4")
    g.add_argument(
        "--method",
        metavar="NAME",
        help="how the lanes work together: a row of `tinylane methods`",
    )
    g.add_argument(
        "--method-config",
        metavar="JSON",
        help="the method's own options, such as '{\"first_finish\": false}'",
    )
    g.add_argument(
        "--mode",
        choices=MODES,
        help="four of the methods by their older flag: independent; joint; group_think; "
        "hogwild, where every lane reads one text, its own part last",
    )
    g.add_argument(
        "--visibility",
        metavar="V",
        help="who reads whom: joint, independent, star, bridge, neighbours:K, a JSON matrix, "
        "@file.json (default: as the model was trained; independent if it was not)",
    )
    shared_flags.rotation_flags(g)
    g = p.add_argument_group("length and sampling (defaults: the model's generation_config)")
    g.add_argument("--max-tokens", "-m", type=int, metavar="N", help="of each lane; default: 256")
    g.add_argument("--total-tokens", type=int, metavar="N", help="of all lanes together")
    shared_flags.sampling_flags(g)
    g.add_argument("--seed", type=int, metavar="S", help="default: a new one, which is shown")
    shared_flags.collaborate_flags(p)
    g = p.add_argument_group("answers")
    g.add_argument(
        "--vote",
        action=argparse.BooleanOptionalAction,
        help=r"take the majority (default: if a lane marks its answer by \boxed{} or ####)",
    )
    g.add_argument(
        "--answer-pattern", metavar="RE", help="what an answer looks like; turns --vote on"
    )
    g.add_argument("--best-of", action="store_true", help="name the likeliest lane")
    g.add_argument("--beams", type=int, metavar="N", help="beam search instead, as a baseline")
    g = p.add_argument_group("output")
    g.add_argument("--save", metavar="FILE", help="write the run, for tinylane replay and view")
    g.add_argument("--json", action="store_true", help="one JSON document on standard output")
    g.add_argument("--plain", action="store_true", help="lines, in a terminal too")
    g.add_argument(
        "--top-logprobs",
        type=int,
        metavar="K",
        help="the K likeliest tokens beside each drawn one, for --json and --save",
    )
    g.add_argument("--quiet", action="store_true", help="no notes and no statistics")
    g.add_argument(
        "--verbose",
        type=shared_flags.silence,
        dest="quiet",
        metavar="BOOL",
        help="as in mlx-lm: False is --quiet, True (the default) is not",
    )
    g.add_argument(
        "--pace",
        type=float,
        metavar="S",
        help="seconds that a step stays on the screen at least; default: 0, shell game: 0.6",
    )


class Assignment(NamedTuple):
    """What the lanes are given. game, moves: the shell game and its swaps, where it is one."""

    prompt: str
    n: int
    lane_prompts: list[str] | None  # how each begins; None: as the model was trained
    max_tokens: int
    game: ShellGame | None = None
    moves: np.ndarray | None = None


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    given, lanes_asked = parse_flags(args), shared_flags.lanes_asked(args)
    if lanes_asked:
        from tinylane.commands import lane_flags

        lane_flags.check(args)
    together, template = shared_flags.collaboration(args), shared_flags.template(args)
    seed = args.seed if args.seed is not None else int.from_bytes(os.urandom(4), "little")
    prompt = _standard_input() if args.prompt == "-" else args.prompt
    lanes = args.lanes or len(args.lane_prompt or ()) or 1
    model = common.load(args, lanes=lanes, max_tokens=args.max_tokens or 256)
    work = assign(args, model, prompt, seed)
    if args.beams is not None:
        from tinylane.commands import generate_beams

        return generate_beams.search(args, model, work, template)

    from tinylane.commands.generate_output import GenerateOutput
    from tinylane.core.sampling import Sampler

    sampler = Sampler.from_config(model.sampling)
    if given:
        sampler = replace(sampler, **given)
    n, lane_prompts = work.n, work.lane_prompts
    full_prompt: Any = work.prompt
    if together is not None:
        from tinylane.evaluate import collaboration

        full_prompt, template = collaboration.with_system(together, model, full_prompt, n, template)
        lane_prompts = lane_prompts or collaboration.lane_prompts(together, n)
    lane_prompts = model.lane_prompts(n) if lane_prompts is None else lane_prompts
    rope = mask = setup = None
    if lanes_asked:
        rope, mask = lane_flags.settings(args, model, n, work.max_tokens)
    if args.method is not None:
        from tinylane.commands import generate_method

        setup = generate_method.setup(args, model, n, work.max_tokens)
        rope, mask = setup.settings["lane_rope"], setup.settings["lane_mask"]
    reads = mask or model.mask(n)
    if setup is None:
        same = same_texts(reads, n, lane_prompts)
    else:
        same = generate_method.same_texts(args, model, setup, lane_prompts)
    if same and sampler.temperature == 0 and args.temp is None:
        sampler = replace(sampler, temperature=TEMPERATURE)
    output = GenerateOutput(args, model, work, setup, seed)
    output.settings(sampler, given, reads)
    _notes(args, model, output.n, reads, sampler, same)
    decoding = begin(
        args,
        model,
        full_prompt,
        n,
        setup,
        max_tokens=work.max_tokens,
        sampler=sampler,
        lane_rope=rope,
        lane_mask=mask,
        lane_prompts=lane_prompts,
        seed=seed,
        template=template,
    )
    output.reused = decoding.reused
    if together is not None:
        output.dictation = collaboration.dictate(together, decoding)
        common.note(together.describe(), args.quiet)
    from tinylane.commands import generate_loop

    return generate_loop.to_the_end(args, decoding, output)


def assign(args: Any, model: Model, prompt: str | None, seed: int) -> Assignment:
    """A shell game for a model that was trained on it, else the user's prompt."""
    n = args.lanes or (len(args.lane_prompt) if args.lane_prompt else None)
    if n is None and isinstance(args.visibility, LaneMask):
        n = args.visibility.n
    game = None
    if model.task is not None and not args.raw:
        from tinylane.evaluate.tasks.shell_game import game_of

        game = game_of(model)
    if game is None:
        if prompt is None:
            raise TinylaneError('--prompt is missing; give a text, or "-" to read standard input')
        most = min(args.max_tokens or 256, model.config.context)
        n = n or (1 if args.method is None else METHOD_LANES)
        return Assignment(prompt, n, args.lane_prompt, most)
    if args.collaborate is not None:
        raise TinylaneError(
            "--collaborate: this model was trained on the shell game alone; give --model"
        )
    if n is None:
        n = 1 if args.beams else max((k for k in game.lanes if k <= 4), default=1)
    if prompt is not None:
        moves = game.parse(prompt)
    else:
        moves = game.draw(1, np.random.default_rng(seed))[0]
    tags = game.lane_prompts(n)  # refuses other numbers of lanes
    most = args.max_tokens or game.steps(n) + 1  # and the end token
    return Assignment(game.prompt(moves), n, args.lane_prompt or tags, most, game, moves)


def begin(
    args: Any, model: Model, prompt: Any, n: int, setup: Setup | None, **settings: Any
) -> Decoding:
    """Read the prompt; the decoding of n lanes, or of the lanes of a method (`setup`)."""
    from tinylane.methods.decoding import Decoding

    settings |= {
        "total_tokens": args.total_tokens,
        "stop": shared_flags.stop(args, model),
        "top_logprobs": args.top_logprobs or 0,
        "chunk": args.prefill_step_size,
    }
    if args.prompt_cache_file is not None and os.path.exists(args.prompt_cache_file):
        from tinylane.core.cache import LaneCache

        reads = settings["lane_mask"] or model.mask(n)
        rope = model.rope(settings["lane_rope"], reads)
        settings["cache"] = LaneCache.load(args.prompt_cache_file, model, rope, reads)
    with common.told_if_slow("reading the prompt", args.quiet):
        if setup is None:
            decoding = Decoding(model, prompt, n, **settings)
        else:
            from tinylane.methods import start

            decoding = start(model, prompt, setup, **settings)
    room = max(model.config.context - decoding.clock, 1)
    if args.max_tokens is not None and args.max_tokens > room:
        common.note(
            f"--max-tokens is {args.max_tokens:,}; cut to {room:,}: the context ends there, at "
            f"{model.config.context:,}",
            args.quiet,
        )
    return decoding


# The flags.


def parse_flags(args: Any) -> dict[str, Any]:
    """Check the flags and return those of sampling. Raises TinylaneError for what is wrong."""
    shared_flags.check_numbers(args, 1, "lanes", most=MAX_LANES)
    shared_flags.check_numbers(args, 1, "max_tokens", "total_tokens", "beams", "prefill_step_size")
    shared_flags.check_numbers(args, 0, "seed", "top_logprobs")
    if args.top_logprobs and not (args.json or args.save):
        raise TinylaneError("--top-logprobs needs --json or --save, which hold them")
    shared_flags.check_numbers(args, 0, "pace", most=60)
    if args.lane_prompt and args.lanes not in (None, len(args.lane_prompt)):
        raise TinylaneError(
            f"{len(args.lane_prompt)} lane prompts for {args.lanes} lanes; expected one a lane"
        )
    if args.method is not None or args.method_config is not None:
        from tinylane.commands import generate_method

        generate_method.check(args)
    asked = "--beams" if args.method is None else f"--method {args.method}"
    if args.method == "beam":
        args.beams, args.method, args.lanes = args.lanes or METHOD_LANES, None, None
    if args.beams is not None:
        from tinylane.commands import generate_beams

        generate_beams.check(args, asked)
    if args.json and args.plain:
        raise TinylaneError("--json and --plain are both given; expected one of them")
    if args.answer_pattern is not None:
        from tinylane.evaluate.answers import extract

        extract("", args.answer_pattern)
    for flag, name in (("--save", args.save), ("--prompt-cache-file", args.prompt_cache_file)):
        if name is not None:
            shared_flags.check_target(flag, name)
    return shared_flags.sampling(args)


def _standard_input() -> str:
    if sys.stdin is None:
        raise TinylaneError("--prompt -: standard input is closed")
    if hasattr(sys.stdin, "reconfigure"):  # whatever the locale says
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise TinylaneError(f"--prompt -: not UTF-8 text (byte {error.start})") from None


# What to expect.


def same_texts(mask: LaneMask, n: int, lane_prompts: list[str]) -> bool:
    """Whether greedy lanes would all write the same: none reads another, all begin alike."""
    alone = not (mask.visibility[:n, :n] & ~np.eye(n, dtype=bool)).any()
    return n > 1 and alone and len(set(map(str, lane_prompts))) == 1


def _notes(
    args: Any,
    model: Model,
    n: int,
    mask: LaneMask,
    sampler: Sampler,
    same: bool,
) -> None:
    """Print once what the user may not expect."""
    alone = not (mask.visibility[:n, :n] & ~np.eye(n, dtype=bool)).any()
    if args.method is not None:
        from tinylane.commands import generate_method

        generate_method.note(args, model)
    elif n > 1 and not model.trained_for_lanes:
        untrained = "this model was not trained to listen to other lanes"
        if args.visibility is None and args.mode is None:
            common.note(
                f"{untrained}; lanes run independently; --visibility joint lets them read each "
                "other, expect degraded or corrupt text",
                args.quiet,
            )
        elif not alone:
            common.note(f"{untrained}; expect degraded or corrupt text", args.quiet)
    if sampler.temperature == 0:
        if same:
            common.note("greedy: lanes will be identical; give --temp", args.quiet)
        given = {"--top-p": args.top_p, "--top-k": args.top_k, "--min-p": args.min_p}
        if any(given.values()):
            names = ", ".join(flag for flag, value in given.items() if value)
            common.note(f"{names}: no effect when greedy; give --temp", args.quiet)
