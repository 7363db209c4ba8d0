"""Labelled transcripts of what lanes wrote, for `tinylane train sft` and `kto` to learn from.

A sample is one run of N lanes on one problem. Sample 0 is what `tinylane eval` with the same
settings gets. A line holds the prompt, what the lanes wrote, and whether that was good:

    {"problem": id, "sample": s, "prompt": text, "lanes": [text, ...], "finished": [true, ...],
     "label": true, ...}

as `tinylane.train.data` reads it. Text is kept as ids too ("prompt_ids", "lane_ids") where encoding
it would not give the ids that the model saw: a prompt from a chat template; a lane with half a
character, a special token inside, a stop string, or words drawn in unusual pieces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError, show
from tinylane.evaluate import runner
from tinylane.evaluate.tasks.task import Problem, Task
from tinylane.methods.prompt import encode_lane_prompt

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.evaluate.runner import Cell, Conditions
    from tinylane.methods.decoding import Decoding

LABELS = ("majority", "any", "all", "lane")
MAX_SAMPLES = 1 << 24


def fields(label_by: str) -> tuple[str, ...]:
    """The fields that tell a transcript from the others of its run."""
    return ("problem", "sample", "lane") if label_by == "lane" else ("problem", "sample")


def end_token(model: Model) -> int | None:
    """The token that ends a text: the tokenizer's, else the first in config.json, else None."""
    tok = model.tokenizer
    named = tok.core.token_to_id(tok.names.get("eos_token", "")) if tok is not None else None
    if named is not None:
        return named
    return next(iter(model.config.eos_ids or sorted(model.end_ids)), None)


def check(label_by: str, samples: int, cell: Cell, conditions: Conditions) -> None:
    """Raise TinylaneError for settings that make no useful transcripts."""
    if label_by not in LABELS:
        raise TinylaneError(f"label by {show(label_by, 40)}; expected {', '.join(LABELS)}")
    if not 1 <= samples <= MAX_SAMPLES:
        raise TinylaneError(f"--samples is {samples}; expected 1 to {MAX_SAMPLES:,}")
    if label_by == "lane" and cell.mode != "independent":
        raise TinylaneError(
            f"--label-by lane makes a transcript of every lane; in mode {cell.mode} they read each "
            "other and belong together: give --mode independent, or another --label-by"
        )
    if samples > 1 and conditions.sampler is not None and conditions.sampler.temperature == 0:
        raise TinylaneError(f"--samples {samples}, but greedy: all would be the same; give --temp")


def sample(
    model: Model,
    task: Task,
    problem: Problem,
    index: int,
    cell: Cell,
    conditions: Conditions,
    number: int,
    label_by: str = "majority",
) -> list[dict[str, Any]]:
    """Sample `number` of a problem: its transcript, or with label_by="lane" one of each lane.

    label_by: a transcript is good if the answer of the majority, of any lane, or of all lanes is
    right; with "lane" if the lane's own is. The random numbers of a sample depend only on the seed,
    the problem and the number.
    """
    # Above the seeds that `runner.problem_seed` makes of the command line's, which are below 2**64.
    apart = replace(conditions, seed=conditions.seed + (number << 64))
    record, decoding = runner.decode(model, task, problem, index, cell, apart)
    lane_prompts = runner.prompts_of_lanes(model, task, conditions, cell.lanes)
    whole = {"problem": problem.id, "sample": number}
    whole |= _transcript(model, problem, record, decoding, lane_prompts, conditions)
    right = [bool(lane["correct"]) for lane in record["lane"]]
    if label_by == "lane":
        return [_alone(whole, m, right[m]) for m in range(cell.lanes)]
    label = {"majority": record["correct"], "any": any(right), "all": all(right)}[label_by]
    return [{**whole, "label": bool(label)}]


PER_LANE = ("lanes", "finished", "lane_prompts", "lane_ids", "answers", "correct", "given")


def _alone(whole: dict[str, Any], m: int, right: bool) -> dict[str, Any]:
    """Lane m as a transcript of its own."""
    mine = {name: [value[m]] if name in PER_LANE else value for name, value in whole.items()}
    return {**mine, "lane": m, "answer": mine["answers"][0], "label": right}


def _transcript(
    model: Model,
    problem: Problem,
    record: dict[str, Any],
    decoding: Decoding,
    lane_prompts: list[str],
    conditions: Conditions,
) -> dict[str, Any]:
    """What the lanes wrote, without a label."""
    ends, lanes = model.end_ids, decoding.lanes
    finished = [bool(lane.tokens) and lane.tokens[-1] in ends for lane in lanes]
    asked = problem.prompt
    row: dict[str, Any] = {"prompt" if isinstance(asked, str) else "messages": asked}
    chat = model.tokenizer is not None and model.tokenizer.chat_template is not None
    if chat or conditions.together is not None or conditions.template:  # it saw more than that
        row["prompt_ids"] = list(decoding.prompt)
    if any(lane_prompts):
        row["lane_prompts"] = lane_prompts
    row |= {"lanes": [lane.text for lane in lanes], "finished": finished}
    if any(
        spelled(model, lane.text, done) != lane.tokens
        for lane, done in zip(lanes, finished, strict=True)
    ):
        row["lane_ids"] = [list(lane.tokens) for lane in lanes]
    row |= {"answer": record["answer"], "truth": problem.truth}
    row["answers"] = [lane["answer"] for lane in record["lane"]]
    row["correct"] = [bool(lane["correct"]) for lane in record["lane"]]
    row["unreadable"] = sum(not group["readable"] for group in record["groups"])
    row |= {"mode": record["mode"], "steps": record["steps"], "seconds": record["seconds"]}
    if "given" in record:
        row["given"] = record["given"]
    return row


def spelled(model: Model, text: str, finished: bool) -> list[int] | None:
    """The ids that a reader makes of a lane's text: its own, and the checkpoint's end token if the
    lane ended by itself. None where it cannot."""
    try:
        ids = encode_lane_prompt(model, text)
    except TinylaneError:
        return None
    return [*ids, end_token(model)] if finished else ids  # type: ignore[list-item]


def summary(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Counts over transcripts: of them, good ones, their lanes, lanes without an answer, answers
    that could not be read, and transcripts that keep their lanes' ids.

    Raises TinylaneError for a row that is no transcript: the file may have been edited.
    """
    names = ("transcripts", "good", "lanes", "silent", "unreadable", "kept_ids")
    counts = Counter(dict.fromkeys(names, 0))
    for number, row in enumerate(rows, 1):
        try:
            counts.update(
                transcripts=1,
                good=bool(row["label"]),
                lanes=len(row["lanes"]),
                silent=sum(answer is None for answer in row["answers"]),
                unreadable=int(row["unreadable"]),
                kept_ids="lane_ids" in row,
            )
        except (KeyError, TypeError, ValueError) as error:
            what = f"{type(error).__name__} {show(str(error), 40)}"
            raise TinylaneError(
                f"result {number} is not a transcript of tinylane collect ({what})"
            ) from None
    return counts
