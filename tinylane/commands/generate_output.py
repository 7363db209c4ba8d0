"""What `tinylane generate` shows of a run: live columns, plain lines, or one JSON document."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from tinylane.commands import common
from tinylane.commands.terminal import Cell, Columns, Lines
from tinylane.core import __version__
from tinylane.core.decoding import Decoding, Lane, Result, Step
from tinylane.core.lanes import LaneMask
from tinylane.core.model import Model
from tinylane.core.sampling import Sampler
from tinylane.evaluate.answers import Answer, best_of, extract, vote
from tinylane.evaluate.collaboration import Dictation
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.files.display import printable
from tutorials.study.score_one import last_word

SHELL_GAME_PACE = 0.1  # s a step: its tiny model writes faster than anybody can read
NEUTRAL = Sampler()


class Report:
    """Shows a run while it goes (`step`, inside `with`) and its outcome (`finish`)."""

    def __init__(
        self,
        args: Any,
        model: Model,
        game: ShellGame | None,
        moves: np.ndarray | None,
        n: int,
        seed: int,
        prompt: str,
    ) -> None:
        self.args, self.model, self.game, self.moves = args, model, game, moves
        self.n, self.seed, self.prompt = n, seed, prompt
        self.dictation: Dictation | None = None
        own = game.lane_prompts(n) if game is not None else [str(m) for m in range(n)]
        self.cells = [Cell(f"lane {name}") for name in own]
        live = sys.stdout.isatty() and not args.plain and not args.json
        self.columns: Columns | None = None
        self.lines: Lines | None = None
        if live and (n > 1 or game is not None):
            pace = args.pace
            if pace is None:
                pace = SHELL_GAME_PACE if game is not None else 0.0
            self.columns = Columns(self.cells, pace=pace)
        elif not args.json and game is None:
            self.lines = Lines([cell.label for cell in self.cells])
        self._stack = ExitStack()

    def settings(self, sampler: Sampler, given: dict[str, Any], mask: LaneMask) -> None:
        """The line about what is run, and the problem."""
        if not self.args.quiet and not self.args.json:
            model = f"{common.name_of(self.args)} ({self.model.backend}, {self.model.dtype})"
            lanes = "1 lane" if self.n == 1 else f"{self.n} lanes, {describe_mask(mask, self.n)}"
            lanes += f" ({self.args.mode})" if self.args.mode else ""
            chosen = describe_sampler(sampler, given, self.model.sampling)
            print(
                f"{model}; {lanes}\nsampling: {chosen}; seed {self.seed}",
                file=sys.stderr,
                flush=True,
            )
        if self.game is not None and not self.args.json:
            print(self.prompt, flush=True)

    def __enter__(self) -> Report:
        self._stack.__enter__()
        if self.columns is not None:
            self._stack.enter_context(self.columns)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self.lines is not None and kind is None:
            self.lines.close()
        self._stack.__exit__(kind, error, at)

    def step(self, decoding: Decoding, step: Step) -> None:
        """Show what a step gave."""
        if self.lines is not None:
            self.lines.add(step.texts, step.finished)
        if self.columns is not None:
            self._fill(decoding.lanes)
            self.columns.draw()

    def settle(self, decoding: Decoding) -> None:
        """Let the last view say how every lane ended."""
        self._fill(decoding.lanes)

    def finish(self, result: Result) -> None:
        """The answers, the vote, the statistics; or the JSON document."""
        answers = [self.answer(lane) for lane in result.lanes]
        voted = self._vote(result)
        best = best_of(result) if self.args.best_of else None
        truth = None
        if self.game is not None and self.moves is not None:
            truth = self.game.answer(self.moves)
        if self.args.json:
            common.print_json(self._document(result, answers, voted, best, truth))
            return
        if self.game is not None and self.columns is None:
            self._fill(result.lanes)
            for cell in self.cells:
                words = ", ".join(" ".join(line.split()) for line in cell.text.split("\n"))
                print(f"{cell.label} | {words} | {cell.foot}")
        elif self.game is None and voted is not None and self.n > 1:
            for cell, lane, answer in zip(self.cells, result.lanes, answers, strict=True):
                said = printable(answer) if answer is not None else "none"
                print(f"{cell.label}: answer {said} ({lane.finish_reason})")
        if voted is not None:
            print(self._verdict(voted, truth))
        if best is not None:
            mean = sum(best.logprobs) / max(len(best.logprobs), 1)
            print(f"likeliest: {self.cells[best.index].label}, mean log-probability {mean:.3f}")
        if not self.args.quiet:
            print(self._statistics(result), file=sys.stderr)

    def answer(self, lane: Lane) -> str | None:
        """The answer that a lane gives, if it does."""
        if self.game is None:
            return extract(lane.text, self.args.answer_pattern)
        return None if lane.finish_reason == "interrupted" else last_word(lane.text)

    def _vote(self, result: Result) -> Answer | None:
        """The majority, where one is wanted: asked for, a task, or answers that are marked."""
        if self.game is not None:
            done = [lane for lane in result.lanes if lane.finish_reason != "interrupted"]
            if not done:
                return Answer(None, {}, None, 0)
            return vote(replace(result, lanes=done), extract=last_word)
        wanted = self.args.vote
        if wanted is None:
            marked = any("\\boxed" in lane.text or "####" in lane.text for lane in result.lanes)
            wanted = self.args.answer_pattern is not None or marked
        return vote(result, self.args.answer_pattern) if wanted else None

    def _verdict(self, voted: Answer, truth: str | None) -> str:
        if voted.text is None:
            line = "vote: no lane gave an answer"
        else:
            count = voted.votes[voted.text]
            line = f"vote: {printable(voted.text)}, {count} of {self.n} lanes"
            others = [f"{printable(a)} {c}" for a, c in voted.votes.items() if a != voted.text]
            if others:
                line += f" (others: {', '.join(others)})"
        if truth is not None:
            line += f"; the truth: {truth}"
            if voted.text is not None:
                line += f"; {'correct' if voted.text == truth else 'wrong'}"
        return line

    def _statistics(self, result: Result) -> str:
        tokens = sum(len(lane.tokens) for lane in result.lanes)
        steps = f"{result.steps} steps"
        if self.game is not None and self.n > 1:
            steps += f" (one lane alone needs {self.game.steps(1) + 1})"
        rate = f", {tokens / result.seconds:,.0f} tokens/s" if result.seconds > 0 else ""
        peak = common.peak_memory(self.model.backend)
        return (
            f"{steps}, {tokens} tokens in {result.seconds:.2f} s{rate}\n"
            f"prompt of {len(result.prompt)} tokens in {result.prefill_seconds:.2f} s; "
            f"peak memory {common.mebibytes(peak)}"
        )

    def _fill(self, lanes: list[Lane]) -> None:
        """What the cells show of the lanes now."""
        for cell, lane in zip(self.cells, lanes, strict=True):
            if self.game is None:
                cell.text = lane.text
                cell.foot = f"{len(lane.tokens)} tokens, {lane.finish_reason or 'writing'}"
            else:
                labels = work(self.game, self.moves, self.n, lane.index)
                words = lane.text.split()
                labels += ["?"] * (len(words) - len(labels))
                pairs = zip(labels[: len(words)], words, strict=True)
                cell.text = "\n".join(f"{label:<9}  {word}" for label, word in pairs)
                cell.foot = "writing"
            if lane.finish_reason is not None and (
                self.game is not None or "\\boxed" in lane.text or "####" in lane.text
            ):
                answer = self.answer(lane)
                end = "" if lane.finish_reason == "stop" else f" ({lane.finish_reason})"
                cell.foot = f"answer {answer}{end}"
                if answer is None:
                    cell.foot = f"no answer, {lane.finish_reason}"
                if lane.finish_reason == "interrupted" and answer is None:
                    cell.foot = "interrupted"

    def _document(
        self,
        result: Result,
        answers: list[str | None],
        voted: Answer | None,
        best: Lane | None,
        truth: str | None,
    ) -> dict[str, Any]:
        tokens = sum(len(lane.tokens) for lane in result.lanes)
        out: dict[str, Any] = {
            "tinylane": __version__,
            "model": self.args.model,
            "identity": self.model.identity,
            "backend": self.model.backend,
            "dtype": self.model.dtype,
            "prompt": self.prompt,
            "prompt_tokens": len(result.prompt),
            "mode": self.args.mode,
            "settings": result.settings,
            "lanes": [
                {
                    "lane": lane.index,
                    "label": cell.label,
                    "text": lane.text,
                    "answer": answer,
                    "finish_reason": lane.finish_reason,
                    "prompt": lane.prompt,
                    "tokens": lane.tokens,
                    "logprobs": lane.logprobs,
                }
                for cell, lane, answer in zip(self.cells, result.lanes, answers, strict=True)
            ],
            "vote": None
            if voted is None
            else {
                "answer": voted.text,
                "votes": voted.votes,
                "lane": voted.lane,
                "margin": voted.margin,
            },
            "steps": result.steps,
            "tokens": tokens,
            "seconds": result.seconds,
            "prefill_seconds": result.prefill_seconds,
            "tokens_per_second": tokens / result.seconds if result.seconds > 0 else None,
            "peak_memory_bytes": common.peak_memory(self.model.backend),
            "interrupted": any(x.finish_reason == "interrupted" for x in result.lanes),
        }
        if self.dictation is not None:
            out["collaborate"] = self.dictation.together.as_dict()
            out["given"] = self.dictation.record()
        if best is not None:
            out["best"] = best.index
        if truth is not None:
            right = voted is not None and voted.text == truth
            out["task"] = {"name": "shell-game", "truth": truth, "correct": right}
        return out


def work(game: ShellGame, moves: Any, n: int, lane: int) -> list[str]:
    """What each word of a lane is for: its share of the swaps, then the lanes that it covers."""
    share = game.swaps // n
    labels = [game.moves[k] for k in moves[lane * share : (lane + 1) * share]]
    width = 2
    while width <= n:
        first = lane // width * width + 1
        labels.append("all lanes" if width == n else f"lanes {first}-{first + width - 1}")
        width *= 2
    return labels


def describe_mask(mask: LaneMask, n: int) -> str:
    """Who reads whom, in words."""
    seen = mask.visibility[:n, :n] | np.eye(n, dtype=bool)
    late = f", {mask.lag} steps late" if mask.lag else ""
    if seen.all():
        return f"each reads all others{late}"
    if np.array_equal(seen, np.eye(n, dtype=bool)):
        return "independent"
    pairs = int(seen.sum()) - n
    return f"{pairs} of {n * (n - 1)} pairs read each other{late}"


def describe_sampler(
    sampler: Sampler, given: dict[str, Any], defaults: dict[str, Any] | None
) -> str:
    """How tokens are chosen, and where that was said."""
    greedy = sampler.temperature == 0
    sampled = bool((defaults or {}).get("do_sample"))  # else greedy is what the files amount to
    sources: dict[str, list[str]] = {}
    for name in sampler.__dataclass_fields__:
        value = getattr(sampler, name)
        if name == "temperature":
            shown = "greedy" if greedy else f"temperature {value:g}"
        elif value == getattr(NEUTRAL, name) or (greedy and name in ("top_p", "top_k", "min_p")):
            continue  # off, or without effect
        else:
            shown = (
                f"{name} of {len(value)} tokens" if name == "logit_bias" else f"{name} {value:g}"
            )
        source = "flags" if name in given else "generation_config.json"
        if name == "temperature" and source != "flags" and not sampled:
            source = "the default"
        sources.setdefault(source, []).append(shown)
    return "; ".join(f"{', '.join(words)} ({source})" for source, words in sources.items())
