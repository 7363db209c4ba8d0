"""run.json: a finished (or interrupted) decoding, with all that is needed to check it again.

Written whole or not at all; every value is checked when it is read. `tinylane.view.replay`
recomputes every log-probability.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core import __version__
from tinylane.core.errors import TinylaneError, show
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import NEVER, LaneMask, Rotation
from tinylane.core.result import Lane, Result
from tinylane.core.sampling import Sampler
from tinylane.files.io import LARGEST, Fields, read_json
from tinylane.files.writing import replacing
from tinylane.view.again import Spell, Spells, read_matrix, read_rotation, rotations
from tinylane.view.events import check_events

if TYPE_CHECKING:
    from tinylane.core.model import Model

FORMAT = "tinylane run 1"
SPELLS = 1000  # times that pairs begin to read again
MAX_RUN = 16 << 20  # bytes: 64 lanes of 7,500 tokens; as objects they take ten times that
LATER = {"top_logprobs", "spans", "follows"}  # fields of a lane that files need not have
_PLAIN = (1 << 53) - 1  # many readers of JSON round larger integers


@dataclass(frozen=True)
class Run:
    """What a run file holds. result: as it was saved; the rest: its settings, as objects. A replay
    of lanes that were never saved needs the first three only."""

    result: Result
    lane_rope: Rotation
    lane_mask: LaneMask
    sampler: Sampler = field(default_factory=Sampler)
    seed: int = 0
    model_source: str = ""
    identity: str = ""
    backend: str = ""
    dtype: str = ""
    prompt_text: str = ""
    version: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


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
    """Its fields; without those that files need not have and that say nothing."""
    return {k: v for k, v in vars(lane).items() if k not in LATER or v not in (None, [])}


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
    mask = _mask(settings)
    rope = read_rotation(settings, mask.n)
    sampler, seed = _sampler(settings.fields("sampler")), _seed_of(settings)
    settings.items("stop", (str, int))
    told = settings.has("events")
    lanes = [_lane(lane, index, len(ids), told) for index, lane in enumerate(raw.items("lanes"))]
    if not 1 <= len(lanes) <= mask.n:
        raise TinylaneError(f"{len(lanes)} lanes, but visibility is {mask.n} x {mask.n}")
    steps, first = raw.whole("steps"), min(lane.start for lane in lanes)
    for lane in lanes:
        _check_spans(lane, first, steps)
    check_events(settings, lanes, steps)
    ropes = rotations(settings.raw, rope, mask.n)
    arranged = any(event["event"] == "arrange" for event in settings.get("events") or ())
    if arranged and not all(isinstance(one, Hogwild) for one in ropes):
        raise TinylaneError("events arrange lanes, which only the rotation hogwild can")
    checked = {**settings.raw, "seed": seed, "sampler": {**vars(sampler)}}
    seconds = [raw.real(name, least=0, below=1e12) for name in ("prefill_seconds", "seconds")]
    return Run(
        Result(ids, lanes, steps, seconds[0], seconds[1], checked),
        rope,
        mask,
        sampler,
        seed,
        model.text("source"),
        model.text("identity"),
        model.text("backend"),
        model.text("dtype"),
        prompt.text("text"),
        raw.text("tinylane"),
        raw.fields("extra").raw,
    )


def _mask(settings: Fields) -> LaneMask:
    """Who reads whom, and from when on and until when, where that changed."""
    side = read_matrix(settings, "side") if settings.has("side") else None
    mask = LaneMask(read_matrix(settings, "visibility"), settings.whole("lag"), side=side)
    since, until = np.zeros_like(mask.visibility, int), np.full_like(mask.visibility, NEVER, int)
    earlier: list[Spell] = []
    times, told = settings.items("times", list, default=None), set[tuple[int, int]]()
    for pair in times or ():
        whole = len(pair) == 4 and all(type(x) is int and 0 <= x < NEVER for x in pair[:3])
        last = pair[3] if whole and pair[3] is not None else NEVER
        if not whole or type(last) is not int or not pair[2] <= last <= NEVER:
            raise TinylaneError(f"times holds {show(pair)}; expected two lanes, since, and until")
        m, n = pair[:2]
        if max(m, n) >= mask.n or m == n or not mask.visibility[m, n]:
            raise TinylaneError(f"times holds {show(pair)}, of lanes that do not read each other")
        if (m, n) in told:  # it had stopped, and read again
            if until[m, n] > pair[2]:
                raise TinylaneError(f"times holds {show(pair)}; expected one after the time before")
            earlier.append(Spell(m, n, int(since[m, n]), int(until[m, n])))
            if len(earlier) > SPELLS:
                raise TinylaneError(f"times holds more than {SPELLS:,} beginnings; expected fewer")
        told.add((m, n))
        since[m, n], until[m, n] = pair[2], last
    if earlier:
        seen = {"since": since, "until": until, "side": side}
        return Spells(mask.visibility, mask.lag, **seen, earlier=tuple(earlier))
    return replace(mask, since=since, until=until) if times else mask


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


def _lane(value: Any, index: int, prompt: int, told: bool) -> Lane:
    """A lane of a run. told: whether events say how it was forked and dropped (`check_events`)."""
    raw = Fields(value, parent=f"lane {index}")
    if set(value) | LATER != set(Lane.__dataclass_fields__):
        raise TinylaneError(f"{raw.parent} is {show(value)}; expected a lane's fields")
    raw.whole("index", index, index)
    given, tokens = raw.ids("prompt"), raw.ids("tokens")
    start = raw.whole("start", len(given) + prompt)
    spans = raw.items("spans", list, default=None) or []
    if not all(len(span) == 3 and all(type(x) is int for x in span) for span in spans):
        raw.fail("spans", "lists of an index, a position and a step")
    end = prompt if told else start + len(tokens)  # at least there the clock stood in the end
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
        if not (0 <= forked[0] < index and (told or start <= forked[1] <= end)):
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
        [(span[0], span[1], span[2]) for span in spans],
        raw.whole("follows", 0, index - 1, default=None),
    )


def _check_spans(lane: Lane, first: int, steps: int) -> None:
    """Raise TinylaneError unless a run of so many steps can have had them; files that are older
    hold none. first: where the clock stood at the first step."""
    if not lane.spans and lane.tokens:
        lane.spans = [(0, lane.start, lane.start - first)]
        return
    index, place, step = 0, lane.start, 0
    for k, span in enumerate(lane.spans):
        ahead = span[0] - index  # tokens of the span before it
        follows = span[0] == 0 if k == 0 else index < span[0]
        counts_on = place + ahead <= span[1] <= LARGEST and step + ahead <= span[2]
        if not (follows and counts_on and span[0] < len(lane.tokens)):
            raise TinylaneError(
                f"lane {lane.index}.spans holds {show(list(span))}; expected one that counts on "
                "from the one before it"
            )
        index, place, step = span
    if lane.spans and step + len(lane.tokens) - index > steps + 1:  # a step may be interrupted
        raise TinylaneError(f"lane {lane.index}.spans go beyond step {steps}, the last")


def _is_pair(value: Any) -> bool:
    """Whether it is a token id and a log-probability."""
    two = isinstance(value, list) and len(value) == 2
    return two and type(value[0]) is int and value[0] >= 0 and _is_logprob(value[1])


def _is_logprob(value: Any) -> bool:
    return type(value) in (int, float) and value < 1e-3  # rounding may lift a 0
