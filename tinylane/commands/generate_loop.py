"""What `tinylane generate` does when all is set up: decode to the end or to Ctrl-C, then save.

An error of saving is returned and not raised: what the lanes wrote is shown first.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from tinylane.core.errors import TinylaneError

if TYPE_CHECKING:
    from tinylane.commands.generate_output import GenerateOutput
    from tinylane.core.model import Model
    from tinylane.core.result import Result, Step
    from tinylane.evaluate.collaboration import Dictation
    from tinylane.methods.decoding import Decoding


class Shows(Protocol):
    """What shows the lanes while they write: on a terminal, as lines, or as JSON at the end."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *exception: Any) -> Any: ...
    def step(self, decoding: Decoding, step: Step) -> None:
        """One step was decoded."""

    def settle(self, decoding: Decoding) -> None:
        """There will be no more steps."""


def to_the_end(args: Any, decoding: Decoding, output: GenerateOutput) -> int:
    """Decode, save, and show the results; returns the exit code."""
    interrupted, failed = decode(decoding, output)
    result = decoding.result()
    failures = [
        failed,
        save(args, result, decoding.model, output.dictation),
        save_cache(args, result, decoding),
    ]
    output.finish(result)
    for failure in failures:
        if failure is not None:
            raise failure
    return 130 if interrupted else 0


def decode(decoding: Decoding, output: Shows) -> tuple[bool, TinylaneError | None]:
    """Run to the end, or to Ctrl-C; returns whether it was interrupted, and why a schedule could
    not go on: what was written is shown and saved all the same.

    The first Ctrl-C lets the step finish, so that every lane's tokens and log-probabilities agree;
    a second one does not wait, and a token without a log-probability (or, where they are asked for,
    its likeliest tokens) is removed.
    """
    failed: TinylaneError | None = None
    with interrupts() as interrupted, output:
        try:
            for step in decoding:
                output.step(decoding, step)
                if interrupted():
                    break
        except KeyboardInterrupt:
            pass
        except TinylaneError as error:
            if decoding.steps == 0:
                raise
            failed = error
        unfinished = decoding.live
        for lane in unfinished:
            lists: tuple[list[Any], ...] = (lane.tokens, lane.logprobs, lane.top_logprobs)
            held = min(map(len, lists if decoding.top_logprobs else lists[:2]))
            for each in lists:
                del each[held:]
            lane.spans = [span for span in lane.spans if span[0] < held]
            decoding.finish(lane.index)
        output.settle(decoding)
        return bool(unfinished) and failed is None, failed


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed; the second Ctrl-C is an exception."""
    pressed: list[bool] = []

    def on_signal(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    if threading.current_thread() is not threading.main_thread():  # only that one gets signals
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def save(args: Any, result: Result, model: Model, dictation: Dictation | None) -> Exception | None:
    """Write the run, if --save asks for it; returns what went wrong."""
    if args.save is None:
        return None
    from tinylane.view.run_file import save_run

    try:
        extra = {"adapter_path": args.adapter_path, "revision": args.revision, "mode": args.mode}
        if args.method is not None:
            extra |= {"method": args.method, "method_config": args.method_config}
        if dictation is not None:  # which tokens the model did not choose
            extra |= {"collaborate": vars(dictation.together), "given": dictation.record()}
        save_run(args.save, result, model, args.model or "", extra)
    except (TinylaneError, OSError) as error:
        return error
    return None


def save_cache(args: Any, result: Result, decoding: Decoding) -> Exception | None:
    """Write the prompt's rows, and those of the one lane or of the best one if it was asked for.

    Returns what went wrong.
    """
    if args.prompt_cache_file is None:
        return None
    from tinylane.evaluate.answers import best_of

    chosen = [0] if len(result.lanes) == 1 else [best_of(result).index] if args.best_of else []
    try:
        decoding.cache.copy(lanes=chosen).save(args.prompt_cache_file)
    except (TinylaneError, OSError) as error:
        return error
    return None
