"""`tinylane generate`: decode lanes jointly and show them; without arguments, a shell game.

All flags are checked before a model is loaded. The results (the lanes, their answers, the vote) go
to stdout, everything about the run to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.checkpoints import extras
from tinylane.commands import common, generate_method, shared_flags
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import MAX_LANES, LaneMask

if TYPE_CHECKING:
    from tinylane.core.lanes import Rotation
    from tinylane.core.model import Model
    from tinylane.core.sampling import Sampler

TEMPERATURE = 0.7  # of lanes that would be the same text without one
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
    generate_method.flags(g)
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


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    given, lanes_given = parse_flags(args), parse_lane_flags(args)
    together = shared_flags.collaboration(args)
    template = shared_flags.template(args)
    seed = args.seed if args.seed is not None else int.from_bytes(os.urandom(4), "little")
    prompt = _standard_input() if args.prompt == "-" else args.prompt
    n = args.lanes
    if n is None and args.lane_prompt:
        n = len(args.lane_prompt)
    model = common.load(args, lanes=n or 1, max_tokens=args.max_tokens or 256)
    if n is None and isinstance(args.visibility, LaneMask):
        n = args.visibility.n
    game = moves = truth = None
    max_tokens, lane_prompts = min(args.max_tokens or 256, model.config.context), args.lane_prompt
    if model.task is not None and not args.raw:
        from tinylane.evaluate.tasks.shell_game import game_of

        game = game_of(model)
    if game is not None:
        if together is not None:
            raise TinylaneError(
                "--collaborate: this model was trained on the shell game alone; give --model"
            )
        if n is None:
            n = 1 if args.beams else max((k for k in game.lanes if k <= 4), default=1)
        if prompt is not None:
            moves = game.parse(prompt)
        else:
            moves = game.draw(1, np.random.default_rng(seed))[0]
        prompt = game.prompt(moves)
        tags = game.lane_prompts(n)  # refuses other numbers of lanes
        lane_prompts = lane_prompts or tags
        max_tokens = args.max_tokens or game.steps(n) + 1  # and the end token
    elif prompt is None:
        raise TinylaneError('--prompt is missing; give a text, or "-" to read standard input')
    n = n or (1 if args.method is None else generate_method.LANES)
    if args.beams is not None:
        from tinylane.commands import generate_beams

        if game is not None and moves is not None:
            truth = game.answer(moves)
            prompt = f"{prompt} {game.lane_prompts(1)[0]}"  # one lane, with its tag
        return generate_beams.search(args, model, prompt, max_tokens, template, truth)

    from tinylane.commands.generate_output import GenerateOutput
    from tinylane.core.decoding import Decoding
    from tinylane.core.sampling import Sampler

    sampler = Sampler.from_config(model.sampling)
    if given:
        sampler = replace(sampler, **given)
    full_prompt: Any = prompt
    if together is not None:
        from tinylane.evaluate import collaboration

        full_prompt, template = collaboration.with_system(together, model, prompt, n, template)
        lane_prompts = lane_prompts or collaboration.lane_prompts(together, n)
    lane_prompts = model.lane_prompts(n) if lane_prompts is None else lane_prompts
    rope = mask = None
    if lanes_given:
        rope, mask = lane_settings(args, model, n, max_tokens)
    setup = None
    if args.method is not None:
        setup = generate_method.setup(args, model, n, max_tokens)
        rope, mask = setup.settings["lane_rope"], setup.settings["lane_mask"]
        if args.lane_prompt and ("lane_prompts" in setup.settings or setup.lanes != n):
            raise TinylaneError(
                f"method {args.method} has texts of its own; leave out --lane-prompt"
            )
    reads = mask or model.mask(n)
    greedy = sampler.temperature == 0 and args.temp is None and setup is None
    if greedy and same_texts(reads, n, lane_prompts):
        sampler = replace(sampler, temperature=TEMPERATURE)
    tagged = game is not None and generate_method.tagged(setup, n)
    shown = n if setup is None else setup.lanes
    output = GenerateOutput(args, model, game, moves, shown, seed, prompt, tagged)
    output.settings(sampler, given, reads)
    _notes(args, model, shown, reads, sampler, lane_prompts)
    cache = None
    if args.prompt_cache_file is not None and os.path.exists(args.prompt_cache_file):
        from tinylane.core.cache import LaneCache

        cache = LaneCache.load(args.prompt_cache_file, model, model.rope(rope, reads), reads)
    settings: dict[str, Any] = {
        "max_tokens": max_tokens,
        "total_tokens": args.total_tokens,
        "sampler": sampler,
        "lane_rope": rope,
        "lane_mask": mask,
        "lane_prompts": lane_prompts,
        "seed": seed,
        "stop": shared_flags.stop(args, model),
        "template": template,
        "top_logprobs": args.top_logprobs or 0,
        "chunk": args.prefill_step_size,
        "cache": cache,
    }
    with common.told_if_slow("reading the prompt", args.quiet):
        if setup is None:
            decoding = Decoding(model, full_prompt, n, **settings)
        else:
            from tinylane.methods import start

            decoding = start(model, full_prompt, setup, **settings)
    room = max(model.config.context - decoding.clock, 1)
    if args.max_tokens is not None and args.max_tokens > room:
        common.note(
            f"--max-tokens is {args.max_tokens:,}; cut to {room:,}: the context ends there, at "
            f"{model.config.context:,}",
            args.quiet,
        )
    output.reused = decoding.reused
    if together is not None:
        output.dictation = collaboration.dictate(together, decoding)
        common.note(together.describe(), args.quiet)
    from tinylane.commands import generate_loop

    interrupted, failed = generate_loop.decode(decoding, output)
    result = decoding.result()
    failures = [
        failed,
        generate_loop.save(args, result, model, output.dictation),
        generate_loop.save_cache(args, result, decoding),
    ]
    output.finish(result)
    for failure in failures:
        if failure is not None:
            raise failure
    return 130 if interrupted else 0


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
    generate_method.check(args)
    asked = "--beams" if args.method is None else f"--method {args.method}"
    if args.method == "beam":
        args.beams, args.method, args.lanes = args.lanes or generate_method.LANES, None, None
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


def parse_lane_flags(args: Any) -> bool:
    """Check how lanes are rotated and read each other; --visibility and --omega become values.

    Returns whether a flag says it. Raises TinylaneError for what is wrong or contradicts a mode.
    """
    rotation = (args.mode, args.omega, args.slot, args.omega_scale, args.prompt_lane)
    if {*rotation, args.visibility, args.lag} == {None} or args.method is not None:
        return False
    LaneMask.joint(1, args.lag or 0)  # refuses a lag out of range
    args.visibility = shared_flags.parse_visibility(args.visibility)
    args.omega = shared_flags.parse_omega(args.omega)
    if args.mode is not None:
        from tinylane.methods.modes import check_mode

        check_mode(
            args.mode,
            omega=args.omega,
            scale=args.omega_scale,
            prompt_lane=args.prompt_lane,
            visibility=args.visibility,
        )
    shared_flags.check_omega_numbers(
        args, args.mode, args.omega
    )  # group_think is a mode and a start
    return True


def lane_settings(
    args: Any, model: Model, n: int, max_tokens: int
) -> tuple[Rotation | None, LaneMask | None]:
    """The rotation and mask that the flags ask for; None is the model's own.

    A lane's slot is max_tokens unless --slot says otherwise.
    """
    from tinylane.methods.modes import lane_rope, mode

    slot = max_tokens if args.slot is None else args.slot
    visibility, lag = args.visibility, args.lag
    if isinstance(visibility, LaneMask) and visibility.n < n:
        raise TinylaneError(
            f"--visibility is {visibility.n} x {visibility.n}; expected {n} x {n}, for {n} lanes"
        )
    if args.mode is not None:
        if isinstance(visibility, LaneMask):
            visibility = replace(visibility, lag=model.lag if lag is None else lag)
        return mode(
            args.mode,
            model,
            n,
            slot=slot,
            omega=args.omega,
            scale=args.omega_scale,
            prompt_lane=args.prompt_lane,
            visibility=visibility,
            lag=lag,
        )
    mask = None
    if visibility is not None or lag is not None:
        reads = model.mask(n) if visibility is None else visibility
        reads = LaneMask.named(reads, n) if isinstance(reads, str) else reads
        mask = replace(reads, lag=lag or 0)
        if visibility == "bridge" and not {"bridge", "lace"} & {*extras.kinds_of(model.params)}:
            raise TinylaneError("--visibility bridge, but this model has no bridge and no lace")
    if args.omega is None and args.prompt_lane is None:
        return None, mask
    return lane_rope(model, n, args.omega, slot, args.omega_scale, args.prompt_lane), mask


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
    lane_prompts: list[str],
) -> None:
    """Print once what the user may not expect."""
    alone = not (mask.visibility[:n, :n] & ~np.eye(n, dtype=bool)).any()
    if args.method is not None:
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
        if same_texts(mask, n, lane_prompts):
            common.note(
                f"greedy and independent: all {n} lanes will be identical; give --temp", args.quiet
            )
        given = {"--top-p": args.top_p, "--top-k": args.top_k, "--min-p": args.min_p}
        if any(given.values()):
            names = ", ".join(flag for flag, value in given.items() if value)
            common.note(f"{names}: no effect when greedy; give --temp", args.quiet)
