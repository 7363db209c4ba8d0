"""Results: one problem, answered once by N lanes. A result is a line of results.jsonl.

A result says for every lane at which of its tokens its answer changed. So what the lanes had
answered after any number of steps, of tokens in all, or of seconds is a pure function of it:

    state(row, s)    every lane's answer after s steps, and its mean log-probability until then

This is what a run with `max_tokens=s` would have ended with (`max_tokens` decides nothing else,
unless Omega's slot follows it). A lane that has not ended by itself has the answer that its text so
far has marked, or none (`answer_of` of `tinylane.evaluate.tasks.task`). "After b tokens in all"
means after the last step at which the lanes have written at most b tokens together, as with
`total_tokens=b`. One thing depends on the whole budget: the finish of the collaboration prompts.

Answers of one problem are put into groups that `Task.right` calls the same, so that reading a
result needs neither the task nor math-verify.

    S steps of the run   N lanes
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinylane.core.errors import TinylaneError, show
from tinylane.core.result import Result
from tinylane.evaluate.tasks.task import Problem, Task

COMPARED = 64  # different answers of a problem that are compared as more than text
FLOOR = -1e9  # stands for a log-probability of minus infinity


class Groups:
    """The different answers of one problem, in groups that count as the same."""

    def __init__(self, task: Task, truth: str) -> None:
        self.task, self.truth = task, truth
        self.listed: list[dict[str, Any]] = []
        self._known: dict[str, int] = {}

    def number(self, answer: str) -> int:
        """The number of the first group whose answer `right` calls the same, or of a new one.

        After COMPARED different texts (of a model that writes nothing but boxes) the rest is
        compared as text.
        """
        if answer in self._known:
            return self._known[answer]
        few = len(self._known) < COMPARED
        readable = few and self.task.readable(answer)
        k = len(self.listed)
        if readable:
            same = (
                j
                for j, group in enumerate(self.listed)
                if group["readable"] and self.task.right(answer, group["answer"])
            )
            k = next(same, k)
        if k == len(self.listed):
            right = self.task.right(answer, self.truth) if few else answer == self.truth
            group = {"answer": answer, "correct": bool(right), "readable": bool(readable)}
            self.listed.append(group)
        self._known[answer] = k
        return k


class Watch:
    """Follows a decoding and notes when the lanes' answers change. `step` after every step."""

    def __init__(self, groups: Groups, lanes: int) -> None:
        self.groups = groups
        self.texts = [""] * lanes
        self.answers: list[list[list[int | None]]] = [[] for _ in range(lanes)]
        self.clock: list[float] = []

    def step(self, step: Any, seconds: float) -> None:
        """step: what `Decoding.step` gave. seconds: since the prompt was first read."""
        self.clock.append(round(seconds, 4))
        for m in range(len(self.texts)):
            ended = step.finished.get(m)
            if step.tokens[m] is None or not (step.texts[m] or ended):
                continue
            self.texts[m] += step.texts[m]
            answer = self.groups.task.extract(self.texts[m], ended == "stop")
            now = None if answer is None else self.groups.number(answer)
            changes = self.answers[m]
            if (changes[-1][1] if changes else None) != now:
                changes.append([step.index + 1, now])


def make(
    problem: Problem, index: int, mode: str, seed: int, result: Result, watch: Watch
) -> dict[str, Any]:
    """The result of a finished decoding, plain JSON values. index: of the problem. mode: a label.

    answers: of every lane [step, group] where its answer changed, group None for none. clock: the
    seconds at which every step was done. Log-probabilities keep six digits.
    """
    groups = watch.groups.listed
    lanes = []
    for lane, answers in zip(result.lanes, watch.answers, strict=True):
        last = answers[-1][1] if answers else None
        logprobs = [_six(x) for x in lane.logprobs]
        lanes.append(
            {
                "lane": lane.index,
                "finish_reason": lane.finish_reason,
                "answer": None if last is None else groups[last]["answer"],
                "correct": last is not None and groups[last]["correct"],
                "answers": answers,
                "logprob": _six(math.fsum(logprobs)),
                "text": lane.text,
                "tokens": [int(t) for t in lane.tokens],
                "logprobs": logprobs,
            }
        )
    record = {
        "problem": problem.id,
        "index": index,
        "mode": mode,
        "lanes": len(lanes),
        "seed": seed,
        "truth": problem.truth,
        "prompt_tokens": len(result.prompt),
        "steps": result.steps,
        "tokens": sum(len(lane.tokens) for lane in result.lanes),
        "seconds": round(result.prefill_seconds + result.seconds, 4),
        "prefill_seconds": round(result.prefill_seconds, 4),
        "groups": groups,
        "lane": lanes,
        "clock": watch.clock,
    }
    winner = int(winners(*state(read(record, "this result"), result.steps)))
    record["answer"] = None if winner < 0 else groups[winner]["answer"]
    record["correct"] = winner >= 0 and groups[winner]["correct"]
    return record


def _six(x: float) -> float:
    return float(f"{max(float(x), FLOOR):.6g}") if x == x else FLOOR


@dataclass(frozen=True)
class AnswerRow:
    """What the measures need of a result.

    lengths: (N,) tokens of every lane. cut: whether a lane was ended by its limit of tokens.
    answers: of every lane the (steps, groups) at which its answer changed; -1 is no answer.
    logprobs: of every lane the sums after 0, 1, ... tokens. correct, readable: of every group.
    clock: (S,) seconds. copied: see `copied`. twins: whether two lanes wrote the same tokens.
    shares, numbers: what the task counted (`Scores`).
    """

    problem: str
    mode: str
    lanes: int
    steps: int
    tokens: int
    seconds: float
    lengths: np.ndarray
    cut: bool
    answers: tuple[tuple[np.ndarray, np.ndarray], ...]
    logprobs: tuple[np.ndarray, ...]
    correct: np.ndarray
    readable: np.ndarray
    clock: np.ndarray
    copied: float
    twins: bool
    shares: dict[str, float] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)


NGRAM = 4  # tokens


def read(
    record: dict[str, Any],
    where: str,
    limits: Mapping[tuple[str, int], int] | None = None,
) -> AnswerRow:
    """A result as read from a file.

    where: file and line, for messages. limits: max_tokens of each cell of the run, by mode and
    number of lanes; a lane that reached it was cut.

    Raises TinylaneError, naming `where`, for what is no result: the file may have been edited.
    """
    try:
        return _read(record, limits or {})
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"{type(error).__name__} {show(str(error), 60)}"
        raise TinylaneError(f"{where}: is not a result of tinylane eval ({what})") from None


def _read(record: dict[str, Any], limits: Mapping[tuple[str, int], int]) -> AnswerRow:
    lanes, groups = record["lane"], record["groups"]
    n, steps = _whole(record["lanes"]), _whole(record["steps"])
    limit = limits.get((str(record["mode"]), n))
    _need(len(lanes) == n >= 1, "as many lanes as it says")
    answers: list[tuple[np.ndarray, np.ndarray]] = []
    logprobs: list[np.ndarray] = []
    lengths: list[int] = []
    cut = False
    for lane in lanes:
        written = len(lane["tokens"])
        _need(written == len(lane["logprobs"]) <= steps, "a log-probability for every token")
        at = [_whole(step) for step, _ in lane["answers"]]
        what = [-1 if group is None else _whole(group) for _, group in lane["answers"]]
        _need(at == sorted(set(at)) and all(1 <= s <= steps for s in at), "answers in order")
        _need(all(k < len(groups) for k in what), "answers that are listed")
        answers.append((np.array(at, int), np.array(what, int)))
        with np.errstate(over="ignore"):  # infinity is refused in words
            sums = np.cumsum([0.0, *map(float, lane["logprobs"])])
        _need(bool(np.isfinite(sums).all()), "finite log-probabilities")
        logprobs.append(sums.astype(np.float32))
        lengths.append(written)
        cut = cut or (lane["finish_reason"] != "stop" and (limit is None or written >= limit))
    clock = np.array(record["clock"], float)
    _need(clock.shape == (steps,) and bool(np.isfinite(clock).all()), "a time for every step")
    tokens = [tuple(_whole(t) for t in lane["tokens"]) for lane in lanes]
    given = [
        [(min(_whole(a), steps), min(_whole(b), steps)) for _, a, b in ranges]
        for ranges in record.get("given") or [[]] * n
    ]
    scores = record.get("scores") or {}
    shares, numbers = (
        {str(name): float(x) for name, x in (scores.get(kind) or {}).items()}
        for kind in ("shares", "numbers")
    )
    _need(all(0 <= x <= 1 for x in shares.values()), "shares from 0 to 1")
    _need(all(math.isfinite(x) for x in numbers.values()), "finite scores")
    return AnswerRow(
        problem=str(record["problem"]),
        mode=str(record["mode"]),
        lanes=n,
        steps=steps,
        tokens=sum(lengths),
        seconds=float(record["seconds"]),
        lengths=np.array(lengths),
        cut=cut,
        answers=tuple(answers),
        logprobs=tuple(logprobs),
        correct=np.array([bool(group["correct"]) for group in groups], bool),
        readable=np.array([bool(group["readable"]) for group in groups], bool),
        clock=clock,
        copied=copied(tokens, given=given),
        twins=len(set(tokens)) < n,
        shares=shares,
        numbers=numbers,
    )


def _need(so: bool, what: str) -> None:
    if not so:
        raise ValueError(f"expected {what}")


def _whole(value: Any) -> int:
    _need(type(value) is int and value >= 0, "whole numbers")
    return value


def copied(
    tokens: Sequence[Sequence[int]], given: Sequence[Sequence[tuple[int, int]]] | None = None
) -> float:
    """The share of the lanes' n-grams of NGRAM tokens that at least one other lane has too.

    Counted with repetition, over all lanes that are long enough. NaN for one lane or no n-grams.
    given: for every lane the ranges of tokens that collaboration prompts gave it; they are the same
    in all lanes, so n-grams that touch them do not count.
    """
    told = [{k for a, b in lane for k in range(a, b)} for lane in given or [()] * len(tokens)]
    n = NGRAM
    grams = [
        [tuple(t[k : k + n]) for k in range(len(t) - n + 1) if skip.isdisjoint(range(k, k + n))]
        for t, skip in zip(tokens, told, strict=True)
    ]
    lanes = Counter(gram for mine in grams for gram in set(mine))
    total = sum(map(len, grams))
    if len(tokens) < 2 or not total:
        return math.nan
    return sum(lanes[gram] > 1 for mine in grams for gram in mine) / total


def state(row: AnswerRow, step: int) -> tuple[np.ndarray, np.ndarray]:
    """After `step` steps: (N,) groups, -1 for no answer, and (N,) mean log-probabilities."""
    groups, means = states(row, np.array([step]))
    return groups[0], means[0]


def states(row: AnswerRow, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`state` after each of `steps` (S,): (S, N) groups, and (S, N) mean log-probabilities."""
    groups = np.empty((len(steps), row.lanes), int)
    means = np.full(groups.shape, -np.inf)
    for m, (at, what) in enumerate(row.answers):
        groups[:, m] = np.append(what, -1)[np.searchsorted(at, steps, side="right") - 1]
        written = np.minimum(steps, row.lengths[m])
        some = written > 0
        sums = row.logprobs[m][written[some]]
        means[some, m] = sums / written[some].astype(sums.dtype)
    return groups, means


def winners(groups: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The group that most lanes gave, (.., N) -> (..); -1 where there is no answer. As
    `tinylane.vote` decides: among equals the group with the likeliest lane, then the one with the
    lowest lane."""
    answered = groups >= 0
    votes = (groups[..., None] == groups[..., None, :]).sum(axis=-1) * answered
    leads = answered & (votes == votes.max(axis=-1, keepdims=True))
    ranks = np.where(leads, np.maximum(means, np.finfo(float).min), -np.inf)
    lane = ranks.argmax(axis=-1)[..., None]  # the lowest of equals
    return np.take_along_axis(groups, lane, axis=-1)[..., 0]
