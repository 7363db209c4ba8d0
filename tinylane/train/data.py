"""Lane transcripts for training: a JSONL file, read as token ids at coordinates.

A line is one transcript: a prompt, and what its lanes wrote.

    {"prompt": text, "lanes": [text, ...], "label": true}

"prompt" may also be a list of token ids; a chat is given as "messages" instead. "label" says
whether the transcript is good. These fields are optional, with one entry for each lane:

    lane_prompts   a text that only this lane was given, at its beginning
    finished       false if the lane was cut off: then no end token follows its text. Default true
    given          ranges of its tokens, [start, stop] or [kind, start, stop], that it was given and
                   did not draw. The other lanes see them, and no loss is on them
    lane_ids       the ids that the lane drew, end token included. They are needed where the text
                   would be encoded as other ids. (Also "lane_prompt_ids", and "prompt_ids".)

Other fields are ignored. The coordinates are those of decoding (`tinylane.core.decoding`): the
prompt begins at 0, all lane prompts end at the same position, and an end token is drawn but never
fed.

    P prompt tokens   T rows of a transcript   R rows that predict a lane's token   N lanes
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinylane.checkpoints.adapter import fill_all
from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import MAX_LANES, SHARED
from tinylane.evaluate.collect import end_token
from tinylane.files import jsonl
from tinylane.files.io import Fields
from tinylane.methods.prompt import encode_lane_prompt, encode_prompt

if TYPE_CHECKING:
    from tinylane.core.model import Model

MAX_LINE = 16 << 20  # bytes
FORM = '{"prompt": text or "messages": [...], "lanes": [text, ...]}'


@dataclass(frozen=True)
class Transcript:
    """One prompt and what its lanes drew, as token ids.

    lanes: the tokens of each lane. ended: whether a lane's last token was drawn but never fed (an
    end token, or the end of a stop string). label: good, bad, or None if the file does not say.
    given: for each lane the indices of the tokens that it did not draw; the loss is on all others.
    """

    prompt: list[int]
    lane_prompts: list[list[int]]
    lanes: list[list[int]]
    ended: list[bool]
    label: bool | None = None
    given: list[list[int]] | None = None

    @property
    def targets(self) -> int:
        """How many tokens the loss is on."""
        return sum(map(len, self.lanes)) - sum(map(len, self.given or []))

    @property
    def clock(self) -> int:
        """The position of the first token that the lanes draw."""
        return len(self.prompt) + max(map(len, self.lane_prompts))

    @property
    def length(self) -> int:
        """How many positions it takes."""
        return self.clock + max(map(len, self.lanes))


class TranscriptRows(NamedTuple):
    """The T rows of a transcript, and its R targets."""

    tokens: np.ndarray  # (T,)
    positions: np.ndarray  # (T,)
    lanes: np.ndarray  # (T,)
    sources: np.ndarray  # (R,) the row that predicts each target
    follows: np.ndarray  # (R,) the token to predict

    @property
    def shape(self) -> tuple[bytes, bytes, bytes]:
        """Equal for transcripts with the same coordinates and the same predicting rows."""
        return self.positions.tobytes(), self.lanes.tobytes(), self.sources.tobytes()

    def by_position(self) -> TranscriptRows:
        """The same with its rows in order of position: what a row sees is mostly before it."""
        order = np.lexsort((self.lanes, self.positions))
        tokens, positions, lanes = (x[order] for x in self[:3])
        return TranscriptRows(tokens, positions, lanes, np.argsort(order)[self.sources], self[4])


def rows(t: Transcript) -> TranscriptRows:
    """All rows of a transcript at the coordinates of decoding: the prompt, then lane by lane.

    A lane's first token is predicted by the last row of its lane prompt, or of the shared prompt if
    it has none. Every token is fed but a drawn end, which no row sees.
    """
    P = len(t.prompt)
    tokens, positions, lanes = list(t.prompt), list(range(P)), [SHARED] * P
    targets: list[tuple[int, int]] = []
    for m, (prompt, drawn) in enumerate(zip(t.lane_prompts, t.lanes, strict=True)):
        fed = [*prompt, *(drawn[:-1] if t.ended[m] else drawn)]
        first = len(tokens) + len(prompt)  # the row of the first token drawn
        before = first - 1 if prompt else P - 1
        tokens += fed
        positions += range(t.clock - len(prompt), t.clock - len(prompt) + len(fed))
        lanes += [m] * len(fed)
        given = set(t.given[m]) if t.given else ()
        for k, token in enumerate(drawn):
            if k not in given:
                targets.append((before if k == 0 else first + k - 1, token))
    columns = np.array(targets, dtype=np.int64).reshape(-1, 2).T
    return TranscriptRows(*map(np.array, (tokens, positions, lanes)), *columns)


def mismatched(x: Transcript, y: Transcript, context: int) -> Transcript:
    """KTO's pair (x, y'): the prompt of x, lane prompts and lanes of y, cut to the context."""
    room = max(context - len(x.prompt) - max(map(len, y.lane_prompts)), 0)
    lanes = [drawn[:room] for drawn in y.lanes]
    ended = [e and len(drawn) <= room for e, drawn in zip(y.ended, y.lanes, strict=True)]
    given = [[k for k in lane if k < room] for lane in y.given] if y.given else None
    return replace(y, prompt=x.prompt, lanes=lanes, ended=ended, given=given)


@dataclass(frozen=True)
class Data:
    """A file of transcripts. digest: SHA-256 of their ids, labels and given tokens. left_out: how
    many were left out because they are labelled false, which `sft` does not learn from.
    lane_prompt: how all lanes begin, a text for `tinylane.checkpoints.adapter.fill`; "" if there is
    no such text."""

    transcripts: list[Transcript]
    digest: str
    left_out: int = 0
    lane_prompt: str = ""

    @property
    def counts(self) -> list[int]:
        """The numbers of lanes that occur."""
        return sorted({len(t.lanes) for t in self.transcripts})


def read_transcripts(
    path: str | os.PathLike[str],
    model: Model,
    *,
    labels: bool = False,
    lanes: Sequence[int] | None = None,
    template: dict[str, Any] | None = None,
    told: Callable[[], None] = lambda: None,
) -> Data:
    """Read and check a file of transcripts for a model.

    labels: every line must have a label (KTO); otherwise lines labelled false are left out. lanes:
    the numbers of lanes that may occur; None: all lines must have as many as the first. template:
    keyword arguments of `Tokenizer.prompt_ids`. told: called after each line, for a progress
    bar. Raises TinylaneError, with file and line, for a line that is not JSON, missing or wrong
    fields, another number of lanes, a transcript longer than the context, and a file without
    anything to learn from.
    """
    allowed = set(lanes or ())
    if any(not 1 <= n <= MAX_LANES for n in allowed):
        raise TinylaneError(f"--lanes {show(sorted(allowed))}; expected 1 to {MAX_LANES}")
    digest, transcripts, left_out = hashlib.sha256(), [], 0
    begins: set[str] = set()
    for number, raw in jsonl.read(path, limit=MAX_LINE):
        where = f"{os.fspath(path)}, line {number}"
        try:
            one = _transcript(Fields(raw, where), model, template)
        except TinylaneError as error:
            text = str(error)
            raise TinylaneError(text if text.startswith(where) else f"{where}: {text}") from None
        if labels and one.label is None:
            raise TinylaneError(f'{where}: no "label"; kto needs true or false on every line')
        content: tuple[Any, ...] = (one.prompt, one.lane_prompts, one.lanes, one.ended, one.label)
        content += () if one.given is None else (one.given,)
        digest.update(repr(content).encode())
        n = len(one.lanes)
        if lanes is None and not allowed:
            allowed = {n}
        if n not in allowed:
            raise TinylaneError(
                f"{where}: {n} lanes where {', '.join(map(str, sorted(allowed)))} are expected; "
                f"give --lanes {' '.join(map(str, sorted({*allowed, n})))} if that is meant"
            )
        if not labels and one.label is False:
            left_out += 1
        else:
            transcripts.append(one)
            begins.add(_common(raw.get("lane_prompts")))
        told()
    if not transcripts:
        why = f"all {left_out} are labelled false" if left_out else "expected one a line"
        raise TinylaneError(f"{os.fspath(path)}: no transcripts to learn from ({why})")
    return Data(transcripts, digest.hexdigest(), left_out, begins.pop() if len(begins) == 1 else "")


def _common(prompts: Any) -> str:
    """The text that gives these lane prompts when `{lane}` and `{lanes}` in it are filled in, ""
    if none is found."""
    if isinstance(prompts, list) and prompts and isinstance(prompts[0], str):
        first, n = prompts[0], len(prompts)
        tag = first.replace(f"1/{n}", "{lane}/{lanes}")
        for text in (tag, first.replace("1", "{lane}"), first):
            if fill_all(text, n) == prompts:
                return text
    return ""


def _transcript(raw: Fields, model: Model, template: dict[str, Any] | None) -> Transcript:
    where = raw.source
    if not raw.has("lanes"):
        raise TinylaneError(f'{where}: no "lanes"; expected {FORM}')
    lanes = raw.items("lanes", (str, list))
    if not lanes:
        raise TinylaneError(f'{where}: "lanes" is empty; expected the text of one lane or more')
    n = len(lanes)
    ids = _per_lane(raw, "lane_ids", n, list)
    prompts = _per_lane(raw, "lane_prompt_ids", n, list)
    prompts = prompts or _per_lane(raw, "lane_prompts", n, (str, list)) or [[]] * n
    finished = _per_lane(raw, "finished", n, bool) or [True] * n
    label = raw.flag("label", None)
    ends = model.end_ids
    drawn, ended = [], []
    for m in range(n):
        tokens = encode_lane_prompt(model, ids[m] if ids else lanes[m])
        stopped = bool(ids) and _spells_more(model, tokens, lanes[m], where, m)
        text = not ids and isinstance(lanes[m], str)  # ids have their end token, if any, already
        if text and finished[m] and ends.isdisjoint(tokens[-1:]):
            end = end_token(model)
            if end is None:
                raise TinylaneError(
                    f'{where}: this model names no end token; give "finished": false'
                )
            tokens = [*tokens, end]
        if any(token in ends for token in tokens[:-1]):
            raise TinylaneError(f"{where}: lane {m} goes on after an end token; cut it there")
        drawn.append(tokens)
        ended.append(stopped or not ends.isdisjoint(tokens[-1:]))
    one = Transcript(
        _prompt(raw, model, template),
        [encode_lane_prompt(model, p) for p in prompts],
        drawn,
        ended,
        label,
        _given(raw, drawn),
    )
    if one.targets == 0:
        raise TinylaneError(f"{where}: its lanes wrote nothing; expected a token or more")
    if one.length > model.config.context:
        raise TinylaneError(
            f"{where}: takes {one.length:,} positions, prompt and lanes; this model's context is "
            f"{model.config.context:,}. Shorten it or leave it out"
        )
    return one


def _prompt(raw: Fields, model: Model, template: dict[str, Any] | None) -> list[int]:
    if raw.has("prompt_ids"):
        prompt: Any = raw.items("prompt_ids", int)
    elif raw.has("prompt"):
        prompt = raw.get("prompt")
        if not isinstance(prompt, (str, list)):
            raw.fail("prompt", "a text")
    elif raw.has("messages"):
        prompt = raw.items("messages", dict)
    else:
        raise TinylaneError(f'{raw.source}: no "prompt" and no "messages"; expected {FORM}')
    return encode_prompt(model, prompt, template)


def _per_lane(raw: Fields, key: str, n: int, kind: Any) -> list[Any] | None:
    values = raw.items(key, kind, default=None)
    if values is not None and len(values) != n:
        raise TinylaneError(
            f'{raw.source}: {len(values)} "{key}" for {n} lanes; expected one a lane'
        )
    return values


def _given(raw: Fields, drawn: list[list[int]]) -> list[list[int]] | None:
    """The indices that the ranges of "given" cover, for each lane; None if there are none."""
    where, ranges = raw.source, _per_lane(raw, "given", len(drawn), list)
    given: list[list[int]] = []
    for tokens, lane in zip(drawn, ranges or [], strict=False):
        indices: set[int] = set()
        for one in lane:
            ends = one[-2:] if isinstance(one, list) else []
            if len(ends) != 2 or any(type(k) is not int for k in ends):
                raise TinylaneError(
                    f'{where}: "given" holds {show(one, 40)}; expected [start, stop]'
                )
            if not 0 <= ends[0] <= ends[1] <= len(tokens):
                raise TinylaneError(
                    f'{where}: "given" holds {ends}; expected a range of its {len(tokens)} tokens'
                )
            indices |= set(range(*ends))
        given.append(sorted(indices))
    return given if any(given) else None


def _spells_more(model: Model, ids: list[int], text: Any, where: str, m: int) -> bool:
    """Whether a lane's ids spell more than its text. Then a stop string ended the lane: it is not
    part of the text, and its last token was never fed. Raises TinylaneError for ids that do not
    begin with the text."""
    if model.tokenizer is None or not isinstance(text, str):
        return False
    spelled, text = (t.rstrip("\ufffd") for t in (model.tokenizer.decode(ids), text))
    if not spelled.startswith(text):
        raise TinylaneError(
            f'{where}: "lane_ids" of lane {m} spell {show(spelled, 40)} with this tokenizer, its '
            f"text is {show(text, 40)}; leave the ids out, or take the tokenizer that made them"
        )
    return spelled != text
