"""Texts with tags that open, close and join paths: read as lanes, and written back without loss.

Three ways of writing the same thing (their papers: `tinylane methods NAME`):

    <Parallel> ... <Path> a </Path> <Path> b </Path> <Conclusion> c          Multiverse, Parallel-R1
    <think 1> a </think 1> <think 2> b </think 2> <summary> c                ParaThinker
    <Parallel> ... <Thread> a </Thread> <Thread> b </Thread> </Parallel> c   ThreadWeaver

Every path is a lane. So is the text before the paths, and what follows them up to the next paths.
The paths of a block begin at one position and read the text before them; what follows stands one
behind the longest and reads all. The tag that opens a lane is its prompt; all else is its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple, NoReturn

from tinylane.core.errors import TinylaneError, of_kind, show
from tinylane.core.lanes import MAX_LANES, LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.core.result import Lane, Result
from tinylane.core.sampling import Sampler
from tinylane.methods.prompt import Prompt, encode_prompt
from tinylane.methods.times import joined
from tinylane.view.replay import replay
from tinylane.view.run_file import Run

NAMES = r"Path|Thread|think(?: \d+)?"
TAG = re.compile(rf"</?(?:{NAMES})>")
SPACE = re.compile(r"\s*")  # behind a path: its own
FIRST = re.compile(r"</?[A-Za-z][^<>\s]*(?: \d+)?>")  # a tag at the beginning of a lane


class Piece(NamedTuple):
    """The text of a lane, with the tag that opens it. block: 0 outside of paths, else which."""

    text: str
    block: int


def pieces(text: str) -> list[Piece]:
    """The text in order, outside and inside of paths; joined, the pieces are the text.

    Raises TinylaneError for a path that does not close, or that stands inside another.
    """
    tags = list(TAG.finditer(of_kind("text", text, str, "a text")))
    last = {tag.group(): tag.start() for tag in tags}  # where a tag stands for the last time
    parts, at, block = [Piece("", 0)], 0, 0
    for opens, closes in zip(tags[::2], [*tags[1::2], None], strict=False):
        close = f"</{opens.group()[1:]}"
        if closes is None or last.get(close, -1) < opens.start():
            _refuse(opens)
        if closes.group() != close:
            _refuse(closes)
        outside = text[at : opens.start()]
        if outside or at == 0:
            parts.append(Piece(outside, 0))
            block += 1
        at = SPACE.match(text, closes.end()).end()  # type: ignore[union-attr]
        parts.append(Piece(text[opens.start() : at], block))
    return [piece for piece in [*parts, Piece(text[at:], 0)] if piece.text]


def _refuse(tag: re.Match[str]) -> NoReturn:
    raise TinylaneError(
        f"{tag.group()} at character {tag.start()} is not closed, not opened, or stands "
        "inside another path"
    )


def read_tags(text: str, model: Model, prompt: Prompt, template: dict | None = None) -> Result:
    """The text as a run of `model`, which gives the log-probabilities: one pass over all lanes.

    The run can be saved (`save_run`), replayed and viewed. Raises TinylaneError as `pieces` does,
    for a text that the tokenizer does not give back, and for one that is longer than the context.
    """
    if model.tokenizer is None:
        raise TinylaneError("this checkpoint has no tokenizer.json; a text with tags needs one")
    ids = encode_prompt(model, prompt, template)
    parts = pieces(text)
    if not parts or len(parts) > MAX_LANES:
        raise TinylaneError(f"the text has {len(parts)} lanes; expected 1 to {MAX_LANES}")
    lanes, events, mask = _placed(parts, model, len(ids))
    rope = LaneRoPE.none(model.theta)
    settings: dict[str, Any] = {
        "seed": 0,
        "sampler": asdict(Sampler()),
        **rope.settings(),
        "visibility": mask.visibility.astype(int).tolist(),
        "lag": 0,
        "stop": [],
        "events": events,
    }
    steps = max(lane.steps[-1] + 1 for lane in lanes if lane.tokens)
    result = Result(ids, lanes, steps, 0.0, 0.0, settings)
    replayed = replay(Run(result, rope, mask), model)
    for lane, logprobs in zip(lanes, replayed.logprobs, strict=True):
        lane.logprobs = logprobs
    return result


def write_tags(result: Result, tokenizer: Any) -> str:
    """The text of a run that `read_tags` made, to the character."""
    ids = [[*lane.prompt, *lane.tokens] for lane in result.lanes]
    return "".join(tokenizer.decode(each, skip_special=False) for each in ids)


def _placed(
    parts: list[Piece], model: Model, P: int
) -> tuple[list[Lane], list[dict[str, Any]], LaneMask]:
    """The lanes at their positions, the events by which they join, and who reads whom."""
    lanes: list[Lane] = []
    events: list[dict[str, Any]] = []
    before: list[int] = []  # lanes that are joined: what the next ones read
    begin, step, first = P, 0, parts[0].block
    opening = sum(part.block == first for part in parts) if first else 1
    mask = LaneMask.independent(opening)
    for group in _groups(parts):
        new = []
        for part in group:
            prompt, tokens = _ids(part.text, model, bool(lanes or part.block))
            m, start = len(lanes), begin + len(prompt)
            lane = Lane(m, prompt, start, max(len(tokens), 1), tokens, [0.0] * len(tokens))
            lane.spans = [(0, start, step)] if tokens else []
            lane.finish_reason, lane.text = "closed", model.tokenizer.decode(tokens)
            if m >= opening:
                mask = joined(mask, m, before, {})
                told = {"event": "join", "lane": m, "step": step, "clock": begin}
                events.append({**told, "sees": list(before), "at": begin})
            lanes.append(lane)
            new.append(lane)
        before = [*before, *(lane.index for lane in new)]
        begin = max(lane.start + len(lane.tokens) for lane in new)
        step += max(len(lane.tokens) for lane in new)
    if begin > model.config.context:
        raise TinylaneError(
            f"the text ends at position {begin}; this model's context is {model.config.context}"
        )
    return lanes, events, mask


def _groups(parts: list[Piece]) -> Iterator[list[Piece]]:
    """Pieces that begin together: the paths of a block, or one piece outside."""
    k = 0
    while k < len(parts):
        same = [part for part in parts[k:] if parts[k].block and part.block == parts[k].block]
        yield same or [parts[k]]
        k += max(len(same), 1)


def _ids(text: str, model: Model, opens: bool) -> tuple[list[int], list[int]]:
    """A lane's prompt (its first tag, or its first token) and its other tokens."""
    tok = model.tokenizer
    tag = FIRST.match(text) if opens else None
    head = tag.group() if tag else ""
    prompt, tokens = tok.encode(head) if head else [], tok.encode(text[len(head) :])
    if opens and not prompt:
        prompt, tokens = tokens[:1], tokens[1:]
    back = tok.decode([*prompt, *tokens], skip_special=False)
    if back != text:
        raise TinylaneError(f"the tokenizer gives {show(back, 60)} back for {show(text, 60)}")
    return prompt, tokens
