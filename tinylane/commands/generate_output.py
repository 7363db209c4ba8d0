"""What `tinylane generate` shows of a run: live columns, plain lines, or one JSON document."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.commands import common
from tinylane.evaluate.tasks.shell_game import STAY
from tinylane.files.display import counted, printable

if TYPE_CHECKING:
    from tinylane.commands.terminal import Columns, LaneView, Lines
    from tinylane.core.lanes import LaneMask
    from tinylane.core.model import Model
    from tinylane.core.result import Lane, Result, Step
    from tinylane.core.sampling import Sampler
    from tinylane.evaluate.answers import Answer
    from tinylane.evaluate.collaboration import Dictation
    from tinylane.evaluate.tasks.shell_game import ShellGame
    from tinylane.methods import Setup
    from tinylane.methods.decoding import Decoding

SHELL_GAME_PACE = 0.6  # s a step: its tiny model writes faster than anybody can read
LEAST = 0.12  # share of attention from which on a lane is said to read another's word


class GenerateOutput:
    """Shows a run while it goes (`step`, inside `with`) and its results (`finish`).

    tagged: whether the lanes are those of the shell game, each with its share of the swaps.
    """

    def __init__(self, args: Any, model: Model, work: Any, setup: Setup | None, seed: int) -> None:
        """work: a `generate.Assignment`. setup: what a method makes of the lanes."""
        self.args, self.model, self.seed = args, model, seed
        self.moves, self.prompt = work.moves, work.prompt
        self.game: ShellGame | None = work.game
        self.n = n = work.n if setup is None else setup.lanes
        self.changes = setup is not None and "schedule" in setup.settings  # who reads whom
        self.dictation: Dictation | None = None
        self.reused = 0  # tokens of the prompt that a cache file held
        own_texts = setup is not None and (n != work.n or "lane_prompts" in setup.settings)
        self.tagged = self.game is not None and not own_texts
        tags = self.game.lane_prompts(n) if self.game and self.tagged else range(1, n + 1)
        self.labels = [f"lane {tag}" for tag in tags]
        self.told = 0  # events that have been shown
        self.columns: Columns | None = None
        self.lines: Lines | None = None
        live = sys.stdout.isatty() and not args.plain and not args.json
        if live and (n > 1 or self.game is not None):
            from tinylane.commands.terminal import Columns, LaneView

            pace = 0.0 if self.game is None else SHELL_GAME_PACE
            views = [LaneView(label) for label in self.labels]
            self.columns = Columns(views, pace=pace if args.pace is None else args.pace)
        elif not args.json and self.game is None:
            from tinylane.commands.terminal import Lines

            self.lines = Lines(self.labels, several=args.method is not None)

    def settings(self, sampler: Sampler, given: dict[str, Any], mask: LaneMask) -> None:
        """Print the line about what is run, and the problem."""
        if not self.args.quiet and not self.args.json:
            model = f"{common.name_of(self.args)} ({self.model.backend}, {self.model.dtype})"
            lanes = "1 lane" if self.n == 1 else f"{self.n} lanes"
            if self.n > 1 and not self.changes:
                lanes += f", {describe_mask(mask, self.n)}"
            named = self.args.method or self.args.mode
            lanes += f" ({named})" if named else ""
            chosen = describe_sampler(sampler, given, self.model.sampling)
            print(
                f"{model}; {lanes}\nsampling: {chosen}; seed {self.seed}",
                file=sys.stderr,
                flush=True,
            )
        if self.game is not None and not self.args.json:
            print(self.prompt, flush=True)
            if self.moves is not None and self.game.moves[self.moves[-1]] == STAY:
                common.note(
                    f"{STAY} moves nothing: lists of swaps are filled up to {self.game.swaps}",
                    self.args.quiet,
                )

    def __enter__(self) -> GenerateOutput:
        if self.columns is not None:
            self.columns.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: Any) -> None:
        if self.lines is not None and kind is None:
            self.lines.close()
        if self.columns is not None:
            self.columns.__exit__(kind, *more)

    def step(self, decoding: Decoding, step: Step) -> None:
        """Show what a step gave, and what happened to the lanes before it."""
        self.labels += [f"lane {m + 1}" for m in range(len(self.labels), len(decoding.lanes))]
        if self.lines is not None:
            for event in decoding.events[self.told :]:
                from tinylane.view.events import words

                common.note(words(event), self.args.quiet)
            self.told = len(decoding.events)
            self.lines.add(step.texts, step.finished)
        if self.columns is not None:
            read = {} if self.game is None else reading(decoding)
            self.columns.views[:] = self._views(decoding.lanes, read)
            self.columns.draw()

    def settle(self, decoding: Decoding) -> None:
        """Make the last view show how every lane ended."""
        self.labels += [f"lane {m + 1}" for m in range(len(self.labels), len(decoding.lanes))]
        if self.columns is not None:
            self.columns.views[:] = self._views(decoding.lanes)

    def finish(self, result: Result) -> None:
        """Print the answers, the vote and the statistics; or the JSON document."""
        from tinylane.evaluate.answers import best_of

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
            for view in self._views(result.lanes):
                words = ", ".join(" ".join(line.split()) for line in view.text.split("\n"))
                print(f"{view.label} | {words} | {view.foot}")
        elif self.game is None and voted is not None and self.n > 1:
            for label, lane, answer in zip(self.labels, result.lanes, answers, strict=True):
                shown = printable(answer) if answer is not None else "none"
                print(f"{label}: answer {shown} ({lane.finish_reason})")
        if self.args.method is not None and len(self._judged(result)) == 1 < len(result.lanes):
            (lane,) = self._judged(result)
            nothing = "" if lane.text.strip() else ", which wrote nothing"
            print(f"the answer is that of {self.labels[lane.index]}{nothing}")
        if voted is not None:
            print(self._verdict(voted, truth, len(self._judged(result))))
        if best is not None:
            mean = sum(best.logprobs) / max(len(best.logprobs), 1)
            print(f"likeliest: {self.labels[best.index]}, mean log-probability {mean:.3f}")
        if not self.args.quiet:
            print(self._statistics(result), file=sys.stderr)

    def answer(self, lane: Lane) -> str | None:
        """The answer that a lane gives; None if it gives none."""
        from tinylane.evaluate.answers import extract
        from tinylane.evaluate.tasks.shell_game import last_word

        if self.game is None:
            return extract(lane.text, self.args.answer_pattern)
        return None if lane.finish_reason == "interrupted" else last_word(lane.text)

    def _judged(self, result: Result) -> list[Lane]:
        """The lanes that answer: all, or those that the method says."""
        from tinylane.evaluate.answers import answering

        return result.lanes if self.args.method is None else answering(self.args.method, result)

    def _vote(self, result: Result) -> Answer | None:
        """The majority: of the shell game, if asked for, or if a lane marks its answer."""
        from tinylane.evaluate.answers import Answer, vote
        from tinylane.evaluate.tasks.shell_game import last_word

        if self.game is not None:
            judged = self._judged(result)
            done = [lane for lane in judged if lane.finish_reason != "interrupted"]
            if not done:
                return Answer(None, {}, None, 0)
            return vote(replace(result, lanes=done), extract=last_word)
        wanted = self.args.vote
        if wanted is None:
            marked = any("\\boxed" in lane.text or "####" in lane.text for lane in result.lanes)
            wanted = self.args.answer_pattern is not None or marked
        asked = replace(result, lanes=self._judged(result))
        return vote(asked, self.args.answer_pattern) if wanted else None

    def _verdict(self, voted: Answer, truth: str | None, voters: int) -> str:
        if voted.text is None:
            line = "vote: no lane gave an answer"
        else:
            count = voted.votes[voted.text]
            line = f"vote: {printable(voted.text)}, {count} of {voters} lanes"
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
        held = f", {self.reused} of them from the cache file," if self.reused else ""
        return (
            f"{steps}, {tokens} tokens in {result.seconds:.2f} s{rate}\n"
            f"prompt of {len(result.prompt)} tokens{held} in {result.prefill_seconds:.2f} s; "
            f"peak memory {common.mebibytes(peak)}"
        )

    def _views(
        self, lanes: list[Lane], read: dict[int, tuple[int, int]] | None = None
    ) -> list[LaneView]:
        """What is shown of the lanes now. read: see `reading`; a word that is read has a `>`."""
        from tinylane.commands.terminal import LaneView

        read = read or {}
        marked_words = set(read.values())

        views = []
        for label, lane in zip(self.labels, lanes, strict=True):
            ended = lane.finish_reason
            text, foot = lane.text, f"{len(lane.tokens)} tokens, {ended or 'writing'}"
            if self.game is not None and self.tagged:
                kinds = work(self.game, self.moves, self.n, lane.index)
                words = lane.text.split()
                kinds += ["?"] * (len(words) - len(kinds))
                marks = [" >"[(lane.index, k) in marked_words] for k in range(len(words))]
                rows = zip(kinds[: len(words)], marks, words, strict=True)
                text = "\n".join(f"{kind:<9} {mark}{word}" for kind, mark, word in rows)
                other = read.get(lane.index)
                foot = "writing" if other is None else f"reads lane {other[0] + 1}"
            marked = self.game is not None or "\\boxed" in lane.text or "####" in lane.text
            if ended is not None and marked:
                answer = self.answer(lane)
                if answer is not None:
                    foot = f"answer {answer}" + ("" if ended == "stop" else f" ({ended})")
                else:
                    foot = "interrupted" if ended == "interrupted" else f"no answer, {ended}"
            views.append(LaneView(label, text, foot))
        return views

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
            **common.about(self.args, self.model),
            "prompt": self.prompt,
            "prompt_tokens": len(result.prompt),
            "prompt_tokens_reused": self.reused,
            "mode": self.args.mode,
            "method": self.args.method,
            "settings": result.settings,
            "lanes": [
                {
                    "lane": lane.index,
                    "label": label,
                    "text": lane.text,
                    "answer": answer,
                    "finish_reason": lane.finish_reason,
                    "prompt": lane.prompt,
                    "tokens": lane.tokens,
                    "logprobs": lane.logprobs,
                    "top_logprobs": lane.top_logprobs,
                }
                for label, lane, answer in zip(self.labels, result.lanes, answers, strict=True)
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
            out["collaborate"] = vars(self.dictation.together)
            out["given"] = self.dictation.record()
        if best is not None:
            out["best"] = best.index
        if self.args.method is not None:
            out["answer_lanes"] = [lane.index for lane in self._judged(result)]
        if truth is not None:
            right = voted is not None and voted.text == truth
            out["task"] = {"name": "shell-game", "truth": truth, "correct": right}
        return out


def reading(decoding: Decoding) -> dict[int, tuple[int, int]]:
    """Which word each lane of a shell game read most for what it has just drawn, of other lanes:
    reader -> (lane, index of the word). Who read no word of another lane by LEAST is not in it.

    Attention of the middle layer, the mean of its heads; one more pass over all rows.
    """
    from tinylane.view.attention import attention_weights

    cache, prompt = decoding.cache, len(decoding.prompt)
    tokens = np.concatenate([decoding.prompt, cache.tokens[prompt:]]).astype(np.int64)
    places = cache.positions, cache.lanes
    weights = attention_weights(decoding.model, tokens, *places, cache.lane_rope, cache.lane_mask)
    heard = weights[decoding.model.config.layers // 2].mean(axis=0)
    words = {}
    for row in np.flatnonzero(cache.positions == cache.positions.max()):
        m = int(cache.lanes[row])
        word = cache.positions - prompt - 1  # its index in its lane; the tag is -1
        others = np.where((cache.lanes >= 0) & (cache.lanes != m) & (word >= 0), heard[row], 0.0)
        key = int(others.argmax())
        if others[key] >= LEAST:
            words[m] = int(cache.lanes[key]), int(word[key])
    return words


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
    late = f", {counted(mask.lag, 'step')} late" if mask.lag else ""
    if seen.all():
        return f"each reads all others{late}"
    if np.array_equal(seen, np.eye(n, dtype=bool)):
        return "independent"
    pairs = int(seen.sum()) - n
    return f"{pairs} of {n * (n - 1)} pairs read each other{late}"


def describe_sampler(
    sampler: Sampler, given: dict[str, Any], defaults: dict[str, Any] | None
) -> str:
    """How tokens are chosen, and where each setting comes from."""
    greedy = sampler.temperature == 0
    sampled = bool((defaults or {}).get("do_sample"))  # else the files ask for greedy
    neutral = type(sampler)()
    sources: dict[str, list[str]] = {}
    for name in sampler.__dataclass_fields__:
        value = getattr(sampler, name)
        if name == "temperature":
            shown = "greedy" if greedy else f"temperature {value:g}"
        elif value == getattr(neutral, name) or (greedy and name in ("top_p", "top_k", "min_p")):
            continue  # off, or has no effect
        else:
            shown = (
                f"{name} of {len(value)} tokens" if name == "logit_bias" else f"{name} {value:g}"
            )
        source = "flags" if name in given else "generation_config.json"
        if name == "temperature" and source != "flags" and not sampled:
            source = "the default" if greedy else "so that lanes differ; --temp 0 is greedy"
        sources.setdefault(source, []).append(shown)
    return "; ".join(f"{', '.join(words)} ({source})" for source, words in sources.items())
