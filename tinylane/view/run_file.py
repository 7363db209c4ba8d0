"""run.json: a finished (or interrupted) decoding with all that it takes to check it again.

Written whole or not at all; read without believing anything in it. `replay` (from
`tinylane.view.replay`) recomputes every log-probability.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core import __version__
from tinylane.core.decoding import Lane, Result
from tinylane.core.errors import TinylaneError, show
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask, LaneRoPE, Rotation
from tinylane.core.sampling import Sampler
from tinylane.files.io import read_json, replacing

if TYPE_CHECKING:
    from tinylane.core.model import Model

FORMAT = "tinylane run 1"
MAX_RUN = 16 << 20  # bytes: 64 lanes of 7,500 tokens; as objects they take ten times that
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
        "tinylane": __version__,
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
