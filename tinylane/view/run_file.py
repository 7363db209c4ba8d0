"""run.json: a finished (or interrupted) decoding, with all that is needed to check it again.

Written whole or not at all; every value is checked when it is read. `tinylane.view.replay`
recomputes every log-probability.
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
from tinylane.core.errors import TinylaneError, show
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask, LaneRoPE, Rotation
from tinylane.core.result import Lane, Result
from tinylane.core.sampling import Sampler
from tinylane.files.io import Fields, read_json, replacing

if TYPE_CHECKING:
    from tinylane.core.model import Model

FORMAT = "tinylane run 1"
MAX_RUN = 16 << 20  # bytes: 64 lanes of 7,500 tokens; as objects they take ten times that
LATER = {"top_logprobs"}  # fields of a lane that files need not have
_PLAIN = (1 << 53) - 1  # many readers of JSON round larger integers


@dataclass(frozen=True)
class Run:
    """What a run file holds. result: as it was saved; the rest: its settings, as objects."""

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

    model_source: the folder or hub id that loads the model, if known. extra: any JSON values of the
    caller's; `load_run` gives them back. Raises TinylaneError if they are not JSON, or if the file
    cannot be written.
    """
    settings = json.loads(json.dumps(result.settings, default=dict))
    if settings["seed"] > _PLAIN:
        settings["seed"] = str(settings["seed"])
    bias, tokenizer = result.settings["sampler"]["logit_bias"], model.tokenizer
    text = "" if tokenizer is None else tokenizer.decode(result.prompt, skip_special=False)
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
        "prompt": {"text": text, "ids": result.prompt},
        "settings": settings,
        "lanes": [_saved(lane) for lane in result.lanes],
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
    # UTF-8 cannot hold half a surrogate pair; JSON's escape can.
    data = ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8", "backslashreplace")
    if len(data) > MAX_RUN:
        warnings.warn(
            f"{os.fspath(path)}: a run of {len(data):,} bytes, more than replay reads "
            f"({MAX_RUN:,}); it is saved, but cannot be loaded",
            stacklevel=2,
        )
    with replacing(path) as file:
        file.write(data)


def _saved(lane: Lane) -> dict[str, Any]:
    """Its fields; without the likeliest tokens where nobody asked for them."""
    return {k: v for k, v in vars(lane).items() if k not in LATER or v}


# Loading: every value is checked before it is used.


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read what `save_run` wrote; raises TinylaneError, naming file and field, for all else."""
    raw = read_json(path, MAX_RUN)
    if raw.get("format") != FORMAT:
        raise TinylaneError(f"{os.fspath(path)}: not a run saved by tinylane (format 1)")
    try:
        return _run(raw)
    except TinylaneError as error:
        raise TinylaneError(f"{os.fspath(path)}: {error}") from None


def _run(file: dict[str, Any]) -> Run:
    raw = Fields(file)
    model, prompt, settings = (raw.fields(name) for name in ("model", "prompt", "settings"))
    ids = prompt.ids("ids")
    if not ids:
        raise TinylaneError("prompt.ids is empty; expected at least one token id")
    rope = _rotation(settings)
    mask = LaneMask(_matrix(settings, "visibility"), settings.whole("lag"))
    sampler, seed = _sampler(settings.fields("sampler")), _seed_of(settings)
    settings.items("stop", (str, int))
    lanes = [_lane(lane, index, len(ids)) for index, lane in enumerate(raw.items("lanes"))]
    if not 1 <= len(lanes) <= mask.n:
        raise TinylaneError(f"{len(lanes)} lanes, but visibility is {mask.n} x {mask.n}")
    checked = {**settings.raw, "seed": seed, "sampler": {**vars(sampler)}}
    seconds = [raw.real(name, least=0, below=1e12) for name in ("prefill_seconds", "seconds")]
    return Run(
        Result(ids, lanes, raw.whole("steps"), seconds[0], seconds[1], checked),
        model.text("source"),
        model.text("identity"),
        model.text("backend"),
        model.text("dtype"),
        prompt.text("text"),
        rope,
        mask,
        sampler,
        seed,
        raw.text("tinylane"),
        raw.fields("extra").raw,
    )


def _rotation(settings: Fields) -> Rotation:
    """The rotation that is named; a LaneRoPE where none is."""
    if "rotation" not in settings.raw:
        return LaneRoPE(_matrix(settings, "omega"), settings.get("prompt_lane"))
    if settings.get("rotation") != "hogwild":
        settings.fail("rotation", "hogwild")
    return Hogwild()


def _sampler(raw: Fields) -> Sampler:
    if set(raw.raw) != set(Sampler.__dataclass_fields__):
        raise TinylaneError(f"{raw.parent} has fields {show(sorted(raw.raw))}")
    pairs = raw.items("logit_bias", list)
    for pair in pairs:
        if len(pair) != 2 or type(pair[0]) is not int:
            raise TinylaneError(f"logit_bias holds {show(pair)}; expected pairs of id and number")
    bias = {token: -math.inf if value is None else value for token, value in pairs}
    return Sampler(**{**raw.raw, "logit_bias": bias or None})


def _seed_of(settings: Fields) -> int:
    """A number, or a text of digits where the number is large."""
    seed = settings.get("seed")
    if isinstance(seed, str) and seed.isascii() and seed.isdigit() and len(seed) < 40:
        seed = int(seed)
    if type(seed) is not int or not 0 <= seed < 1 << 128:
        settings.fail("seed", "a whole number from 0 to 2**128 - 1")
    return seed


def _lane(value: Any, index: int, prompt: int) -> Lane:
    raw = Fields(value, parent=f"lane {index}")
    if set(value) | LATER != set(Lane.__dataclass_fields__):
        raise TinylaneError(f"{raw.parent} is {show(value)}; expected a lane's fields")
    raw.whole("index", index, index)
    given, tokens = raw.ids("prompt"), raw.ids("tokens")
    start = raw.whole("start", len(given) + prompt)
    end = start + len(tokens)
    logprobs = raw.items("logprobs")
    if len(logprobs) != len(tokens) or not all(map(_is_logprob, logprobs)):
        raw.fail("logprobs", f"{len(tokens)} numbers of 0 or less")
    tops = raw.items("top_logprobs", list, default=None) or []
    pairs = [pair for top in tops for pair in top]
    if len(tops) not in (0, len(tokens)) or not all(map(_is_pair, pairs)):
        raw.fail("top_logprobs", f"{len(tokens)} lists of pairs: a token id, a number of 0 or less")
    forked = raw.items("forked", int, default=None)
    if forked is not None:
        if len(forked) != 2:
            raw.fail("forked", "lane and position")
        if not (0 <= forked[0] < index and start <= forked[1] <= end):
            raise TinylaneError(f"lane {index} cannot be forked from {show(forked)}")
    return Lane(
        index,
        given,
        start,
        raw.whole("max_tokens", 1),
        tokens,
        [float(p) for p in logprobs],
        raw.text("finish_reason", default=None),
        raw.text("text"),
        None if forked is None else (forked[0], forked[1]),
        raw.whole("dropped", end, default=None),
        [[(token, float(p)) for token, p in top] for top in tops],
    )


def _is_pair(value: Any) -> bool:
    """Whether it is a token id and a log-probability."""
    two = isinstance(value, list) and len(value) == 2
    return two and type(value[0]) is int and value[0] >= 0 and _is_logprob(value[1])


def _is_logprob(value: Any) -> bool:
    return type(value) in (int, float) and value < 1e-3  # rounding may lift a 0


def _matrix(raw: Fields, name: str) -> np.ndarray:
    """Numbers in one or in equally long lists."""
    value = raw.items(name)
    rows = value if value and all(isinstance(row, list) for row in value) else [value]
    same = len({len(row) for row in rows}) == 1
    if not same or not all(type(x) in (int, float) for row in rows for x in row):
        raw.fail(name, "numbers in equally long lists")
    return np.array(value, dtype=np.float64)
