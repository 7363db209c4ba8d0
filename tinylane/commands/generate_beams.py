"""`tinylane generate --beams N`: beam search, the baseline that lanes are compared with."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

from tinylane.commands import common
from tinylane.core.errors import TinylaneError
from tinylane.core.model import Model
from tinylane.evaluate.tasks.shell_game import last_word
from tinylane.files.display import printable

# Beams neither sample, nor read each other, nor stop at strings: they do not use these flags.
UNUSED = (
    "collaborate", "lanes", "lane_prompt", "mode", "visibility", "lag", "omega", "slot",
    "omega_scale", "prompt_lane", "temp", "top_p", "top_k", "min_p", "repetition_penalty",
    "logit_bias", "total_tokens", "stop", "extra_eos_token", "vote", "answer_pattern", "best_of",
    "pace", "prompt_cache_file", "top_logprobs",
)  # fmt: skip


def check(args: Any, asked: str = "--beams") -> None:
    """Raise TinylaneError for flags that beam search does not use. asked: the flag that asks for
    it."""
    for name in UNUSED:
        if getattr(args, name) not in (None, False):
            flag = f"--{name.replace('_', '-')}"
            raise TinylaneError(f"{asked} does not use {flag}; leave {flag} out")


def search(args: Any, model: Model, work: Any, template: Any) -> int:
    """Search and print the finished beams, best first. work: a `generate.Assignment`.

    Returns the exit code.
    """
    from tinylane.methods.beam_search import as_result, beam_search

    prompt, truth = work.prompt, None
    if work.game is not None:
        truth = work.game.answer(work.moves)
        prompt = f"{prompt} {work.game.lane_prompts(1)[0]}"  # one lane, with its tag
    began = time.perf_counter()
    with common.told_if_slow("searching: every beam goes on token by token", args.quiet):
        beams = beam_search(model, prompt, args.beams, work.max_tokens, template=template)
    seconds = time.perf_counter() - began
    answer = last_word(beams[0].text) if truth is not None and beams else None
    if args.json:
        document: dict[str, Any] = {
            **common.about(args, model),
            "prompt": prompt,
            "beams": [{"text": x.text, "tokens": x.tokens, "score": x.score} for x in beams],
            "seconds": seconds,
            "peak_memory_bytes": common.peak_memory(model.backend),
        }
        if truth is not None:
            document["task"] = {"name": "shell-game", "truth": truth, "correct": answer == truth}
        common.print_json(document)
    else:
        for k, one in enumerate(beams, 1):
            print(f"beam {k}, score {one.score:.3f} | {printable(one.text)}")
        if truth is not None:
            verdict = "correct" if answer == truth else "wrong"
            print(f"best: {printable(answer or 'none')}; the truth: {truth}; {verdict}")
    if not args.json and not args.quiet:
        peak = common.mebibytes(common.peak_memory(model.backend))
        print(f"{args.beams} beams, {seconds:.2f} s; peak memory {peak}", file=sys.stderr)
    if args.save is not None:
        from tinylane.view.run_file import save_run

        result = replace(as_result(model, prompt, beams, template), seconds=seconds)
        told = {"adapter_path": args.adapter_path, "revision": args.revision, "method": "beam"}
        told |= {"scores": [x.score for x in beams]}
        save_run(args.save, result, model, args.model or "", told)
    return 0
