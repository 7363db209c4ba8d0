"""`tinylane generate`: decode lanes jointly and show them; without arguments, a shell game.

Everything that can be wrong with the flags is found before a model is loaded. What was asked for
goes to stdout (the lanes, their answers, the vote), everything about the run to stderr.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tinylane.commands import beams, common, lanes
from tinylane.commands.generate_output import Report
from tinylane.core.decoding import Decoding, Result
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import MAX_LANES, LaneMask
from tinylane.core.model import Model
from tinylane.core.prompt import Prompt
from tinylane.core.sampling import Sampler
from tinylane.evaluate import collaboration
from tinylane.evaluate.collaboration import Dictation
from tinylane.evaluate.tasks.shell_game import ShellGame
from tutorials.study.score_one import game_of


def run(args: Any) -> int:
    """Run the command; the exit code."""
    given = check(args)
    together = common.parse_collaboration(args)
    seed = args.seed if args.seed is not None else int.from_bytes(os.urandom(4), "little")
    prompt = _prompt(args)
    model = common.load(args, lanes=_count(args) or 1, max_tokens=args.max_tokens or 256)
    game = None if args.raw else game_of(model)
    moves = None
    if game is not None:
        if together is not None:
            raise TinylaneError(
                "--collaborate: this model was trained on the shell game alone; give --model"
            )
        moves = _moves(game, prompt, seed)
        prompt = game.prompt(moves)
    elif prompt is None:
        raise TinylaneError('--prompt is missing; give a text, or "-" to read standard input')
    n = _lanes(args, game)
    max_tokens = args.max_tokens
    if max_tokens is None:
        max_tokens = 256 if game is None else game.steps(n) + 1  # and the end token
    sampler = Sampler(**{**_fields(Sampler.from_config(model.sampling)), **given})
    lane_prompts = args.lane_prompt
    if game is not None and lane_prompts is None:
        lane_prompts = game.lane_prompts(n)
    if args.beams is not None:
        truth = None if game is None or moves is None else game.answer(moves)
        if game is not None:
            prompt = f"{prompt} {game.lane_prompts(1)[0]}"  # alone: the tag of the only lane
        return beams.search(args, model, prompt, max_tokens, common.template(args), truth)
    report = Report(args, model, game, moves, n, seed, prompt)
    asked: Prompt = prompt
    template = common.template(args)
    if together is not None:
        asked, template = collaboration.with_system(together, model, prompt, n, template)
        lane_prompts = lane_prompts or collaboration.lane_prompts(together, n)
    rope, mask = lanes.settings(args, model, n, max_tokens, args.mode)
    report.settings(sampler, given, mask or model.mask(n))
    _notes(args, model, n, mask or model.mask(n), sampler, lane_prompts)
    decoding = Decoding(
        model,
        asked,
        n,
        max_tokens=max_tokens,
        total_tokens=args.total_tokens,
        sampler=sampler,
        lane_rope=rope,
        lane_mask=mask,
        lane_prompts=lane_prompts,
        seed=seed,
        stop=args.stop or (),
        template=template,
    )
    if together is not None:
        report.dictation = collaboration.dictate(together, decoding)
        common.note(together.describe(), args.quiet)
    interrupted = decode(decoding, report)
    result = decoding.result()
    failure = _save(args, result, model, report.dictation)
    report.finish(result)
    if failure is not None:
        raise failure
    return 130 if interrupted else 0


def decode(decoding: Decoding, report: Report) -> bool:
    """Run to the end, or to Ctrl-C; whether it was interrupted.

    The first Ctrl-C lets the step finish, so that every lane's tokens and log-probabilities agree;
    a second one does not wait, and the token that has none is taken back.
    """
    with _asked_to_stop() as asked, report:
        try:
            for step in decoding:
                report.step(decoding, step)
                if asked():
                    break
        except KeyboardInterrupt:
            pass
        left = decoding.live
        for lane in left:
            del lane.tokens[len(lane.logprobs) :]
            decoding.finish(lane.index)
        report.settle(decoding)
        return bool(left)


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Ctrl-C as a question that can be asked between steps; the second time, as an exception."""
    asked: list[bool] = []

    def on_signal(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    if threading.current_thread() is not threading.main_thread():  # no signals to be had
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


# The flags.


def check(args: Any) -> dict[str, Any]:
    """Raise TinylaneError for flags that cannot be right; what was said about sampling."""
    if args.lanes is not None and not 1 <= args.lanes <= MAX_LANES:
        raise TinylaneError(f"--lanes is {args.lanes}; expected 1 to {MAX_LANES}")
    for flag in ("max_tokens", "total_tokens"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise TinylaneError(f"--{flag.replace('_', '-')} is {value}; expected 1 or more")
    if args.seed is not None and not 0 <= args.seed < 1 << 128:
        raise TinylaneError(f"--seed is {args.seed}; expected 0 or more, below 2**128")
    if args.pace is not None and not 0 <= args.pace <= 60:
        raise TinylaneError(f"--pace is {args.pace}; expected 0 to 60 seconds")
    if any(not text for text in args.stop or ()):
        raise TinylaneError("--stop is empty; expected a text of a character or more")
    if args.lane_prompt and args.lanes not in (None, len(args.lane_prompt)):
        raise TinylaneError(
            f"{len(args.lane_prompt)} lane prompts for {args.lanes} lanes; expected one a lane"
        )
    if args.beams is not None:
        beams.check(args)
    if args.json and args.plain:
        raise TinylaneError("--json and --plain are both given; expected one of them")
    lanes.check(args, _count(args), args.mode)
    if args.answer_pattern is not None:
        from tinylane.evaluate.answers import extract

        extract("", args.answer_pattern)
    if args.save is not None:
        _check_target(Path(args.save))
    common.template(args)
    return common.sampling(args)


def _check_target(path: Path) -> None:
    """Refuse a file that cannot be written while nothing has been computed yet."""
    folder = path.parent
    if path.is_dir():
        raise TinylaneError(f"--save {path}: is a folder; expected a file to write")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise TinylaneError(f"--save {path}: no folder {folder} that can be written to")


def _count(args: Any) -> int | None:
    """The number of lanes, as far as the flags say."""
    if args.lanes is not None:
        return args.lanes
    return len(args.lane_prompt) if args.lane_prompt else None


def _lanes(args: Any, game: ShellGame | None) -> int:
    n = _count(args)
    if n is None and args.visibility and args.visibility.startswith(("@", "[")):
        n = common.parse_mask(args.visibility, None, 0).n
    if game is None:
        return n or 1
    if n is None:
        n = 1 if args.beams else max((k for k in game.lanes if k <= 4), default=1)
    game.lane_prompts(n)  # refuses other numbers
    return n


def _prompt(args: Any) -> str | None:
    if args.prompt != "-":
        return args.prompt
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise TinylaneError(f"--prompt -: not UTF-8 text (byte {error.start})") from None


def _fields(sampler: Sampler) -> dict[str, Any]:
    return {name: getattr(sampler, name) for name in sampler.__dataclass_fields__}


def _moves(game: ShellGame, prompt: str | None, seed: int) -> np.ndarray:
    """The user's swaps, or some drawn from the seed."""
    if prompt is not None:
        return game.parse(prompt)
    return game.draw(1, np.random.default_rng(seed))[0]


# What to expect.


def _notes(
    args: Any,
    model: Model,
    n: int,
    mask: LaneMask,
    sampler: Sampler,
    lane_prompts: list[str] | None,
) -> None:
    """Say once what the user may not expect."""
    alone = not (mask.visibility[:n, :n] & ~np.eye(n, dtype=bool)).any()
    alike = not lane_prompts or len(set(lane_prompts)) == 1
    if n > 1 and not model.trained_for_lanes:
        untrained = "this model was not trained to listen to other lanes"
        if args.visibility is None and args.mode is None:
            common.note(
                f"{untrained}; lanes run independently; --visibility joint lets them read each "
                "other, expect degraded or corrupt text",
                args.quiet,
            )
        elif not alone:
            common.note(f"{untrained}; expect degraded or corrupt text", args.quiet)
    if n > 1 and alone and alike and sampler.temperature == 0:
        common.note(
            f"greedy and independent: all {n} lanes will be identical; give --temp", args.quiet
        )
    if sampler.temperature == 0:
        idle = [f"--{f.replace('_', '-')}" for f in ("top_p", "top_k", "min_p") if getattr(args, f)]
        if idle:
            common.note(f"{', '.join(idle)}: no effect when greedy; give --temp", args.quiet)


def _save(args: Any, result: Result, model: Model, dictation: Dictation | None) -> Exception | None:
    """Write the run; an error waits until what there is has been shown."""
    if args.save is None:
        return None
    from tinylane.view.run_file import save_run

    try:
        extra = {"adapter_path": args.adapter_path, "revision": args.revision, "mode": args.mode}
        if dictation is not None:  # which tokens the model did not choose
            extra |= {"collaborate": dictation.together.as_dict(), "given": dictation.record()}
        save_run(args.save, result, model, args.model or "", extra)
    except (TinylaneError, OSError) as error:
        return error
    return None
