"""Collaboration prompts: they let an untuned checkpoint make use of the other lanes.

Four texts, each a file that anyone can edit (`tinylane/evaluate/prompts`): a system text that
explains the lanes, how every lane begins, a nudge ("am I repeating others?") every so many tokens,
and a finish that asks each lane for its answer while the budget still has room for one. After
Hogwild! (arXiv:2504.06261), whose authors saw such prompts help large reasoning models, but not
models of 1.7B parameters and fewer.

Nudge and finish are tokens that the model did not choose. `Dictation` is a sampler that says them:
it replaces the decoding's sampler and, where a token is given, returns that token with its
log-probability under the model's logits. So the decoding, its laws and the replay of a saved run do
not change: a given token is fed at the lane's next position like any other. It takes a step and the
random number that a drawn token would have taken; the numbers of other lanes do not change.

Not handled: lanes of unequal length. The finish is timed as if all lanes shared a budget equally.

    N lanes   T rows of a pass   V vocab
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.checkpoints.adapter import fill, fill_all
from tinylane.core.errors import TinylaneError, show
from tinylane.core.sampling import Array, History, Sampler
from tinylane.files.io import read_text
from tinylane.methods.prompt import Prompt, encode_lane_prompt

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.core.result import Lane
    from tinylane.methods.decoding import Decoding

FOLDER = Path(__file__).parent / "prompts"
PARTS = ("system", "lane", "nudge", "finish")
LARGEST = 1 << 16  # bytes of one text
NUDGE_EVERY = 256  # tokens of a lane; Hogwild! asks every 256 to 1024
ANSWER_ROOM = 32  # tokens that the default finish leaves for the answer, or a quarter of the budget
CERTAIN = 1e30  # a logit bias that no logit beats, and float32 holds


@dataclass(frozen=True)
class Collaboration:
    """The four texts ("" is off) and when they are said. `{lanes}` and `{lane}` (from 1) in a text
    are filled in; the system text is for all lanes and has no `{lane}`.

    nudge_every: tokens of a lane from its beginning, or from its last nudge, to the next. A nudge
    that is due waits for the end of a line, a quarter of that time at most. finish_at: how many
    tokens a lane has written when the finish is said; None: as late as leaves ANSWER_ROOM for the
    answer. All of it counts as the lane's tokens, within max_tokens.
    """

    system: str = ""
    lane: str = ""
    nudge: str = ""
    finish: str = ""
    nudge_every: int = NUDGE_EVERY
    finish_at: int | None = None

    def __post_init__(self) -> None:
        for name in ("nudge_every", "finish_at"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if not whole and (name, value) != ("finish_at", None):
                raise TinylaneError(f"{name} is {value!r}; expected a whole number of tokens >= 1")

    def describe(self) -> str:
        """What is said and when, in words."""
        late = f"as late as leaves {ANSWER_ROOM} tokens" if self.finish_at is None else ""
        when = {
            "nudge": f" every {self.nudge_every} tokens",
            "finish": f" {late or f'at {self.finish_at} tokens'}",
        }
        parts = [part + when.get(part, "") for part in PARTS if getattr(self, part)]
        return f"collaboration prompts: {', '.join(parts) or 'none'}"


def read(
    folder: str | Path | None = None,
    without: Sequence[str] = (),
    nudge_every: int = NUDGE_EVERY,
    finish_at: int | None = None,
) -> Collaboration:
    """The texts in a folder: system.txt, lane.txt, nudge.txt, finish.txt. None: those inside.

    A file that is missing or empty turns its part off, as does its name in `without`. One line
    break at a file's end is not part of the text. Raises TinylaneError for a folder with none of
    the four, files that are no UTF-8 text or larger than LARGEST, an unknown name in `without`,
    and numbers out of range.
    """
    place = FOLDER if folder is None else Path(folder)
    if unknown := set(without) - set(PARTS):
        raise TinylaneError(f"no part {show(min(unknown))}; expected {', '.join(PARTS)}")
    texts = {name: place / f"{name}.txt" for name in PARTS}
    if not any(path.is_file() for path in texts.values()):
        raise TinylaneError(
            f"{place}: no collaboration prompts ({', '.join(p.name for p in texts.values())}); "
            f"begin with a copy of {FOLDER}"
        )
    given = {
        name: read_text(path, LARGEST).replace("\r\n", "\n").removesuffix("\n")
        for name, path in texts.items()
        if name not in without and path.exists()  # a folder of this name is an error
    }
    return Collaboration(**given, nudge_every=nudge_every, finish_at=finish_at)


# How it begins: the system text and the lanes' own prompts.


def with_system(
    together: Collaboration,
    model: Model,
    prompt: Prompt,
    n: int,
    template: dict[str, Any] | None = None,
) -> tuple[Prompt, dict[str, Any] | None]:
    """The prompt and the template's arguments (`Decoding`'s) with the system text in them.

    It goes before the system text that there is, if any. Where there is no chat template, or it has
    no place for a system text, it goes before the prompt. Raises TinylaneError for a prompt of
    token ids, to which no text can be added.
    """
    text = fill(together.system, n)
    if not text:
        return prompt, template
    messages = not isinstance(prompt, str)
    if messages and not (len(prompt) and isinstance(prompt[0], dict)):
        raise TinylaneError("a prompt of token ids takes no system text: switch it off, or add it")
    if takes_system(model, template):
        if messages and prompt[0].get("role") == "system":  # type: ignore[union-attr, index]
            return _before(text, prompt, 0), template
        before = (template or {}).get("system")
        return prompt, {**(template or {}), "system": "\n\n".join(filter(None, [text, before]))}
    if not messages:
        return f"{text}\n\n{prompt}", template
    roles = [message.get("role") for message in prompt]  # type: ignore[union-attr]
    return _before(text, prompt, roles.index("user") if "user" in roles else 0), template


def takes_system(model: Model, template: dict[str, Any] | None = None) -> bool:
    """Whether there is a chat template with a place for a system text. Renders it to find out."""
    tok = model.tokenizer
    if tok is None or tok.chat_template is None or (template or {}).get("raw"):
        return False
    try:
        tok.prompt_ids("?", **{**(template or {}), "system": "?!"})
    except TinylaneError:  # or it takes nothing at all: then the decoding says so
        return False
    return True


def _before(text: str, prompt: Any, k: int) -> list[dict]:
    """Messages, with `text` before the content of number k."""
    first = {**prompt[k], "content": f"{text}\n\n{prompt[k].get('content', '')}"}
    return [*prompt[:k], first, *prompt[k + 1 :]]


def lane_prompts(together: Collaboration, n: int) -> list[str] | None:
    """How every lane begins, None if there is no such text."""
    return fill_all(together.lane, n) if together.lane else None


# What is said on the way.


@dataclass(frozen=True)
class Given:
    """Tokens of a lane that it was given: its tokens[start : start + len(ids)], as far as they
    got. kind: "nudge" or "finish"."""

    kind: str
    start: int
    ids: tuple[int, ...]

    @property
    def stop(self) -> int:
        """The index after its last token."""
        return self.start + len(self.ids)


class Dictation(Sampler):
    """A decoding's sampler that gives some tokens instead of drawing them.

    What is given depends only on what the lane has written, so a step that was interrupted gives
    the same again. given: of every lane, in order, what it was given.
    """

    together: Collaboration
    decoding: Decoding
    given: dict[int, list[Given]]
    _encoded: dict[str, tuple[int, ...]]

    def __init__(self, together: Collaboration, decoding: Decoding) -> None:
        super().__init__(**{k: getattr(decoding.sampler, k) for k in Sampler.__dataclass_fields__})
        # A Sampler is frozen; these are no fields of it.
        vars(self).update(together=together, decoding=decoding, given={}, _encoded={})
        for lane in decoding.lanes:  # a text that cannot be said is an error before the first step
            self._finish(lane)
            if together.nudge:
                self._ids("nudge", together.nudge, lane)

    def __call__(self, logits: Array, uniforms: Any, history: History) -> tuple[Array, Array]:
        """As `Sampler.__call__` for the decoding's live lanes, (N, V) logits; NumPy arrays."""
        drawn, probable = super().__call__(logits, uniforms, history)
        tokens, logprobs = drawn.tolist(), probable.tolist()
        for k, lane in enumerate(self.decoding.live):
            token = self._next(lane)
            if token is not None:
                only = Sampler(temperature=0.0, logit_bias={token: CERTAIN})
                row, logprob = only(logits[k : k + 1], uniforms[k : k + 1], ())
                tokens[k], logprobs[k] = int(row[0]), float(logprob[0])
        return np.array(tokens), np.array(logprobs)

    def record(self) -> list[list[list[Any]]]:
        """For every lane [kind, start, stop] of each range of its tokens that it was given."""
        return [
            [
                [g.kind, g.start, min(g.stop, len(lane.tokens))]
                for g in self._plan(lane)
                if g.start < len(lane.tokens)
            ]
            for lane in self.decoding.lanes
        ]

    def _plan(self, lane: Lane) -> list[Given]:
        if lane.index not in self.given:
            source = self.given.get(lane.forked[0], []) if lane.forked else []
            self.given[lane.index] = [g for g in source if g.start <= len(lane.tokens)]
        return self.given[lane.index]

    def _next(self, lane: Lane) -> int | None:
        """The token that the lane is given now, None if it may draw one."""
        plan, index = self._plan(lane), len(lane.tokens)
        if not plan or index >= plan[-1].stop:
            due = self._due(lane, plan[-1] if plan else None)
            if due is None:
                return None
            plan.append(due)
        return plan[-1].ids[index - plan[-1].start]

    def _due(self, lane: Lane, last: Given | None) -> Given | None:
        """What begins at the lane's next token."""
        if last is not None and last.kind == "finish":
            return None
        index, (at, finish) = len(lane.tokens), self._finish(lane)
        if finish and index >= at:
            return Given("finish", index, finish)
        together = self.together
        passed = index - (last.stop if last is not None else 0)
        if not together.nudge or passed < together.nudge_every:
            return None
        open_line = lane.text and not lane.text.endswith("\n")
        if open_line and passed < together.nudge_every + together.nudge_every // 4:
            return None
        ids = self._ids("nudge", together.nudge, lane)
        return Given("nudge", index, ids) if index + len(ids) < at else None  # too late for one

    def _finish(self, lane: Lane) -> tuple[int, tuple[int, ...]]:
        """How many tokens the lane has when its finish begins, and the finish; () if it has none,
        and then when its budget ends."""
        decoding, together = self.decoding, self.together
        room = decoding.model.config.context - decoding.position(lane.index)
        limit = min(lane.max_tokens, max(len(lane.tokens) + room, 1))
        if decoding.total_tokens is not None:
            limit = min(limit, decoding.total_tokens // len(decoding.lanes))
        if not together.finish:
            return limit, ()
        ids = self._ids("finish", together.finish, lane)
        at = together.finish_at
        if at is None:
            at = limit - len(ids) - max(1, min(ANSWER_ROOM, limit // 4))
        if at < 0 or at + len(ids) >= limit:
            raise TinylaneError(
                f"the finish takes {len(ids)} tokens and then an answer, which do not fit: lane "
                f"{lane.index} has {limit} in all"
                + (f", and finish_at is {at}" if together.finish_at is not None else "")
                + "; allow more tokens, or do without the finish"
            )
        return at, ids

    def _ids(self, kind: str, text: str, lane: Lane) -> tuple[int, ...]:
        """The text's tokens. One that ends the lane would end it."""
        decoding = self.decoding
        text = fill(text, len(decoding.lanes), lane.index)
        if text not in self._encoded:
            ids = tuple(encode_lane_prompt(decoding.model, text))
            if not ids:
                raise TinylaneError(f"the {kind} has no tokens: {show(text)}")
            stops = [x for x in decoding.stop if isinstance(x, str) and x in text]
            if stops or decoding.ends & set(ids):
                what = f"the stop text {show(stops[0])}" if stops else "an end token"
                raise TinylaneError(f"the {kind} holds {what}, which ends a lane: {show(text)}")
            self._encoded[text] = ids
        return self._encoded[text]


def dictate(together: Collaboration, decoding: Decoding) -> Dictation:
    """Make a decoding say the nudges and the finish; it may be new or have begun.

    Raises TinylaneError for a model without a tokenizer, a finish that leaves no room for an
    answer, and a text that holds an end token or a stop text.
    """
    dictation = Dictation(together, decoding)
    decoding.sampler = dictation
    return dictation
