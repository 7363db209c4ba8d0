"""run.json: a finished (or interrupted) decoding with all that it takes to check it again.

`replay` recomputes every log-probability without sampling, all rows at their coordinates in one
pass (more than fit into memory: in as few as fit), on either backend. A lane that joined late or
was dropped is handled exactly: `_History` is its mask with the times at which rows came and went.

Not handled: a fork of a lane that reads others. Its copied rows hold what the source had read
from where the source stood (`LaneCache.fork`), which no pass over its tokens gives.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import tinylane
from tinylane.decoding import Lane, Result
from tinylane.errors import TinylaneError
from tinylane.files import read_json, replacing, show
from tinylane.hogwild import Hogwild
from tinylane.lanes import SHARED, LaneMask, LaneRoPE, Rotation
from tinylane.sampling import Sampler

if TYPE_CHECKING:
    from tinylane.model import Model

FORMAT = "tinylane run 1"
MAX_RUN = 16 << 20  # bytes: 64 lanes of 7,500 tokens; as objects they take ten times that
# What one pass may take at most: rows, and elements of its logits and of one layer's scores.
ROWS, LOGITS, SCORES = 2048, 1 << 27, 1 << 27
_NEVER = np.iinfo(np.int64).max
_PLAIN = (1 << 53) - 1  # larger numbers are no integers to many readers of JSON


@dataclass(frozen=True)
class Run:
    """What a run file holds. result: as it was saved; the rest: its settings, checked."""

    result: Result
    model_source: str
    identity: str
    backend: str
    dtype: str
    prompt_text: str
    lane_rope: Rotation
    lane_mask: LaneMask
    sampler: Sampler
    seed: int
    version: str
    extra: dict[str, Any]


@dataclass(frozen=True)
class Replay:
    """The recomputed log-probabilities (float64) of every lane's tokens, and how far off they are.

    by_lane: the largest |difference| of each lane (0 for one without tokens). worst: lane and index
    of the token with the largest of all, None if there are no tokens.
    """

    logprobs: list[list[float]]
    by_lane: list[float]
    worst: tuple[int, int] | None

    @property
    def difference(self) -> float:
        """The largest |difference| of all."""
        return max(self.by_lane, default=0.0)


# Saving.


def save_run(
    path: str | os.PathLike[str],
    result: Result,
    model: Model,
    model_source: str = "",
    extra: dict[str, Any] | None = None,
) -> None:
    """Write a run file, whole or not at all.

    model_source: the folder or hub id that loads the model, if known. extra: anything of the
    caller's that is JSON, given back by `load_run`. Raises TinylaneError if it is not, or if the
    file cannot be written.
    """
    settings = json.loads(json.dumps(result.settings, default=dict))
    settings["seed"] = _seed(result.settings["seed"])
    bias = result.settings["sampler"]["logit_bias"]
    settings["sampler"]["logit_bias"] = [
        [int(token), None if value == -math.inf else float(value)]  # null: banned
        for token, value in (bias or {}).items()
    ]
    run = {
        "format": FORMAT,
        "tinylane": tinylane.__version__,
        "model": {
            "source": model_source,
            "identity": model.identity,
            "backend": model.backend,
            "dtype": model.dtype,
        },
        "prompt": {"text": _text(model, result.prompt), "ids": result.prompt},
        "settings": settings,
        "lanes": [vars(lane) for lane in result.lanes],
        "steps": result.steps,
        "prefill_seconds": result.prefill_seconds,
        "seconds": result.seconds,
        "extra": extra or {},
    }
    try:
        lines = [
            f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False, allow_nan=False)}"
            for k, v in run.items()
        ]
    except (TypeError, ValueError) as error:
        raise TinylaneError(f"{os.fspath(path)}: the run is not JSON ({error})") from error
    # Half a surrogate pair, which UTF-8 lacks, becomes the escape that JSON has for it.
    data = ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8", "backslashreplace")
    if len(data) > MAX_RUN:
        warnings.warn(
            f"{os.fspath(path)}: a run of {len(data):,} bytes, more than replay reads "
            f"({MAX_RUN:,}); it is saved all the same",
            stacklevel=2,
        )
    with replacing(path) as file:
        file.write(data)


def _seed(seed: int) -> int | str:
    return seed if seed <= _PLAIN else str(seed)


def _text(model: Model, ids: list[int]) -> str:
    return model.tokenizer.decode(ids, skip_special=False) if model.tokenizer is not None else ""


# Loading: nothing in the file is believed.


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read what `save_run` wrote; raises TinylaneError, naming file and field, for all else."""
    raw = read_json(path, MAX_RUN)
    if raw.get("format") != FORMAT:
        raise TinylaneError(f"{os.fspath(path)}: not a run saved by tinylane (format 1)")
    try:
        return _run(raw)
    except TinylaneError as error:
        raise TinylaneError(f"{os.fspath(path)}: {error}") from None


def _run(raw: dict[str, Any]) -> Run:
    model, prompt = _get(raw, "model", dict), _get(raw, "prompt", dict)
    settings = _get(raw, "settings", dict)
    ids = _ids(prompt, "ids")
    if not ids:
        raise TinylaneError("prompt.ids is empty")
    sampler = dict(_get(settings, "sampler", dict))
    if set(sampler) != set(Sampler.__dataclass_fields__):
        raise TinylaneError(f"sampler has fields {show(sorted(sampler))}")
    sampler["logit_bias"] = _bias(_get(sampler, "logit_bias", list))
    seed = _get(settings, "seed", (int, str))
    if isinstance(seed, str):
        seed = int(seed) if seed.isascii() and seed.isdigit() and len(seed) < 40 else -1
    if not 0 <= seed < 1 << 128:
        raise TinylaneError("seed is not a whole number from 0 to 2**128 - 1")
    rope = _rotation(settings)
    mask = LaneMask(_matrix(settings, "visibility"), _whole(settings, "lag"))
    stop = _get(settings, "stop", list)
    if not all(isinstance(text, str) for text in stop):
        raise TinylaneError("stop is not a list of texts")
    lanes = [_lane(lane, index, len(ids)) for index, lane in enumerate(_get(raw, "lanes", list))]
    if not 1 <= len(lanes) <= mask.n:
        raise TinylaneError(f"{len(lanes)} lanes, but visibility is {mask.n} x {mask.n}")
    checked = Sampler(**sampler)
    given = {**settings, "seed": seed, "sampler": {**vars(checked)}}
    seconds = [_number(raw, name) for name in ("prefill_seconds", "seconds")]
    return Run(
        Result(ids, lanes, _whole(raw, "steps"), seconds[0], seconds[1], given),
        _get(model, "source", str),
        _get(model, "identity", str),
        _get(model, "backend", str),
        _get(model, "dtype", str),
        _get(prompt, "text", str),
        rope,
        mask,
        checked,
        seed,
        _get(raw, "tinylane", str),
        _get(raw, "extra", dict),
    )


def _rotation(settings: dict[str, Any]) -> Rotation:
    """A LaneRoPE, as in every file until there was another, or the one that is named."""
    if "rotation" not in settings:
        return LaneRoPE(_matrix(settings, "omega"), _get(settings, "prompt_lane", (int, str)))
    if settings["rotation"] != "hogwild":
        raise TinylaneError(f"rotation is {show(settings['rotation'])}; expected hogwild")
    return Hogwild()


def _lane(raw: Any, index: int, prompt: int) -> Lane:
    if not isinstance(raw, dict) or set(raw) != set(Lane.__dataclass_fields__):
        raise TinylaneError(f"lane {index} is {show(raw)}; expected a lane's fields")
    if raw["index"] != index or isinstance(raw["index"], bool):
        raise TinylaneError(f"lane {index} has index {show(raw['index'])}")
    own, tokens = _ids(raw, "prompt"), _ids(raw, "tokens")
    start = _whole(raw, "start", len(own) + prompt)
    logprobs = _get(raw, "logprobs", list)
    if len(logprobs) != len(tokens) or not all(
        type(p) in (int, float) and p < 1e-3
        for p in logprobs  # rounding may lift a 0
    ):
        raise TinylaneError(f"lane {index}: logprobs are not {len(tokens)} numbers of 0 or less")
    forked = raw["forked"]
    if forked is not None:
        if not isinstance(forked, list) or [type(x) for x in forked] != [int, int]:
            raise TinylaneError(f"lane {index}: forked is {show(forked)}; expected lane, position")
        if not (0 <= forked[0] < index and start <= forked[1] <= start + len(tokens)):
            raise TinylaneError(f"lane {index} cannot be forked from {show(forked)}")
    end = start + len(tokens)
    reason = raw["finish_reason"]
    return Lane(
        index,
        own,
        start,
        _whole(raw, "max_tokens", 1),
        tokens,
        [float(p) for p in logprobs],
        None if reason is None else _get(raw, "finish_reason", str),
        _get(raw, "text", str),
        None if forked is None else (forked[0], forked[1]),
        None if raw["dropped"] is None else _whole(raw, "dropped", end),
    )


def _get(raw: dict[str, Any], name: str, kind: Any) -> Any:
    value = raw.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = {dict: "an object", list: "a list", str: "a text"}.get(kind, "a number or text")
        raise TinylaneError(f"{name} is {show(value)}; expected {expected}")
    return value


def _whole(raw: dict[str, Any], name: str, least: int = 0) -> int:
    value = raw.get(name)
    if type(value) is not int or not least <= value < 1 << 31:
        raise TinylaneError(f"{name} is {show(value)}; expected a whole number, at least {least}")
    return value


def _number(raw: dict[str, Any], name: str) -> float:
    value: Any = raw.get(name)
    if type(value) not in (int, float) or not 0 <= value < 1e12:
        raise TinylaneError(f"{name} is {show(value)}; expected a number of 0 or more")
    return float(value)


def _ids(raw: dict[str, Any], name: str) -> list[int]:
    value = _get(raw, name, list)
    if not all(type(token) is int and 0 <= token < 1 << 31 for token in value):
        raise TinylaneError(f"{name} is {show(value)}; expected token ids")
    return value


def _matrix(raw: dict[str, Any], name: str) -> np.ndarray:
    """Numbers in one or in equally long lists."""
    value = _get(raw, name, list)
    rows = value if value and all(isinstance(row, list) for row in value) else [value]
    same = len({len(row) for row in rows}) == 1
    if not same or not all(type(x) in (int, float) for row in rows for x in row):
        raise TinylaneError(f"{name} is {show(value)}; expected numbers in equally long lists")
    return np.array(value, dtype=np.float64)


def _bias(raw: list[Any]) -> dict[int, float] | None:
    for pair in raw:
        if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) is not int:
            raise TinylaneError(f"logit_bias holds {show(pair)}; expected pairs of id and number")
    return {token: -math.inf if value is None else value for token, value in raw} or None


# Replaying.


@dataclass(frozen=True, eq=False)
class _History(LaneMask):
    """A mask that knows when rows came and went. A row is fed at the step after it was drawn, and
    not before its lane joined or was forked; a dropped lane's rows are not seen any more."""

    begun: Any = None  # (N,) the position of the clock when the lane came to be
    gone: Any = None  # (N,) when it was dropped

    def visible(
        self,
        positions: np.ndarray,
        lanes: np.ndarray,
        key_positions: np.ndarray,
        key_lanes: np.ndarray,
    ) -> np.ndarray:
        """As `LaneMask.visible`, and another lane's row only while it was in the cache."""
        seen = super().visible(positions, lanes, key_positions, key_lanes)
        asked = self.fed(positions, lanes)[:, None]
        there = (self.fed(key_positions, key_lanes)[None, :] <= asked) & (
            asked < self.gone[key_lanes]
        )
        mine = (key_lanes == SHARED) | (key_lanes[None, :] == lanes[:, None])
        return seen & (mine | there)

    def fed(self, positions: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """The clock at the step that fed each row."""
        return np.where(lanes == SHARED, 0, np.maximum(positions + 1, self.begun[lanes]))


def replay(run: Run, model: Model) -> Replay:
    """Recompute the log-probabilities of every drawn token from all rows at once.

    Raises TinylaneError for a run of another model, and for forks that no pass can give (above).
    """
    if run.identity and model.identity and run.identity != model.identity:
        raise TinylaneError(
            f"the run is of model {show(run.identity)} ({run.model_source}); "
            f"this one is {show(model.identity)}"
        )
    lanes, P = run.result.lanes, len(run.result.prompt)
    for lane in lanes:
        _check_fork(run, lane)
        if max([*lane.prompt, *lane.tokens], default=0) >= model.config.vocab:
            raise TinylaneError(
                f"lane {lane.index} has tokens outside the vocabulary of {model.config.vocab}"
            )
        if lane.start + len(lane.tokens) > model.config.context:
            raise TinylaneError(
                f"lane {lane.index} ends at position {lane.start + len(lane.tokens)}; "
                f"this model's context is {model.config.context}"
            )
    begun, gone = np.zeros(run.lane_mask.n, np.int64), np.full(run.lane_mask.n, _NEVER)
    rows = [(token, i, SHARED) for i, token in enumerate(run.result.prompt)]
    for lane in lanes:
        begun[lane.index] = lane.forked[1] if lane.forked else lane.start
        gone[lane.index] = _NEVER if lane.dropped is None else lane.dropped
        # A last token is the query of nothing, but others saw it: unless it ended its lane.
        unfed = lane.finish_reason == "stop"
        fed = [*lane.prompt, *lane.tokens[: len(lane.tokens) - unfed]]
        rows += [(t, lane.start - len(lane.prompt) + k, lane.index) for k, t in enumerate(fed)]
    history = _History(run.lane_mask.visibility, run.lane_mask.lag, begun, gone)
    asked: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (position, lane) -> lane, index
    for lane in lanes:
        for k in range(len(lane.tokens)):
            at = (lane.start - 1 + k, lane.index) if k or lane.prompt else (P - 1, SHARED)
            asked.setdefault(at, []).append((lane.index, k))
    found = _score(model, run, history, rows, asked)
    logprobs = [[found[lane.index, k] for k in range(len(lane.tokens))] for lane in lanes]
    off = [
        np.abs(np.array(ours) - np.array(lane.logprobs))
        for ours, lane in zip(logprobs, lanes, strict=True)
    ]
    by_lane = [float(x.max(initial=0.0)) for x in off]
    worst = int(np.argmax(by_lane))
    at_worst = (worst, int(off[worst].argmax())) if off[worst].size else None
    return Replay(logprobs, by_lane, at_worst)


def _check_fork(run: Run, lane: Lane) -> None:
    if lane.forked is None:
        return
    source, alone = lane.forked[0], np.eye(run.lane_mask.n, dtype=bool)
    for m in (source, lane.index):
        if (run.lane_mask.visibility & ~alone)[m].any():
            raise TinylaneError(
                f"lane {lane.index} was forked from lane {source}, and lane {m} reads other lanes: "
                "its rows cannot be recomputed from tokens"
            )
    rope = run.lane_rope
    if isinstance(rope, LaneRoPE) and rope.prompt_lane == 0 and rope.omega.any():
        raise TinylaneError(
            f"lane {lane.index} was forked from lane {source}, with the prompt at lane 0: "
            "its rows cannot be recomputed from tokens"
        )


def _score(
    model: Model,
    run: Run,
    history: _History,
    rows: list[tuple[int, int, int]],
    asked: dict[tuple[int, int], list[tuple[int, int]]],
) -> dict[tuple[int, int], float]:
    """(lane, index) -> log-probability, in as few passes as memory allows."""
    tokens, positions, lanes = (np.array(column) for column in zip(*rows, strict=True))
    order = np.lexsort((positions, history.fed(positions, lanes)))
    tokens, positions, lanes = tokens[order], positions[order], lanes[order]
    cache = model.new_cache(run.lane_rope, history)
    c, start = model.config, 0
    limit = max(1, min(ROWS, LOGITS // c.vocab, SCORES // (c.heads * len(order))))
    found: dict[tuple[int, int], float] = {}
    while start < len(order):
        stop = min(start + limit, len(order))
        while stop < len(order) and positions[stop] == positions[stop - 1]:
            stop += 1  # rows of one position may see each other
        part = slice(start, stop)
        places = list(zip(positions[part].tolist(), lanes[part].tolist(), strict=True))
        wanted = [k for k, place in enumerate(places) if place in asked]
        logits = model(
            tokens[part], positions[part], lanes[part], cache=cache, rows=np.array(wanted or [0])
        )
        for row, k in zip(np.asarray(logits), wanted, strict=False):
            wide = row.astype(np.float64) - row.max()
            total = np.log(np.exp(wide).sum())
            for lane, index in asked[places[k]]:
                found[lane, index] = float(wide[run.result.lanes[lane].tokens[index]] - total)
        start = stop
    return found
