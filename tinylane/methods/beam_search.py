"""Beam search, a baseline that runs on lanes: beams are independent lanes of one prompt.

The prompt is cached once. The first continuation of a beam stays in its lane, any other is forked
into the lane of a beam that was dropped. Scores and
stopping follow transformers' `generate(num_beams=...)`, version 5; there is no sampling, no
constraint and no group.

    B beams   V vocab
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from tinylane.core.cache import LaneCache
from tinylane.core.errors import TinylaneError, of_kind, reals, show, whole
from tinylane.core.lanes import MAX_LANES, SHARED, LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.core.result import Lane, Result
from tinylane.core.sampling import Sampler
from tinylane.methods.prompt import Prompt, encode_prompt

CHUNK = 512  # rows of a prefill pass


@dataclass(frozen=True)
class Hypothesis:
    """A finished beam. tokens: an end token included. score: the sum of its tokens' log-probability
    over len(tokens) ** length_penalty. text: without end token, "" without a tokenizer. logprobs:
    of every token."""

    text: str
    tokens: list[int]
    score: float
    logprobs: list[float] = field(default_factory=list)


class _Beam(NamedTuple):
    logprobs: list[float]  # of every token
    score: float  # their sum
    tokens: list[int]
    lane: int


def beam_search(
    model: Model,
    prompt: Prompt,
    beams: int = 4,
    max_tokens: int = 256,
    *,
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
    template: dict[str, Any] | None = None,
) -> list[Hypothesis]:
    """The best finished beams, at most `beams`, best first.

    length_penalty: above 0 favours long texts, below 0 short ones. early_stopping: True stops as
    soon as `beams` beams are finished; False when also no running beam, at its present length,
    scores better than the worst of them; "never" when no running beam could still become better.
    template: as in `Decoding`. Raises TinylaneError for settings out of range and what
    `encode_prompt` refuses.
    """
    of_kind("model", model, Model, "a model: tinylane.load gives one")
    beams = whole("beams", beams, 1, MAX_LANES)
    max_tokens = whole("max_tokens", max_tokens, 1, 1 << 31)
    length_penalty = float(reals("length_penalty", length_penalty, single=True))
    if not np.isfinite(length_penalty):
        raise TinylaneError(f"length_penalty is {length_penalty}; expected a finite number")
    if not isinstance(early_stopping, (bool, str)) or early_stopping not in (True, False, "never"):
        raise TinylaneError(
            f"early_stopping is {show(early_stopping)}; expected True, False, 'never'"
        )
    ids = encode_prompt(model, prompt, template)
    ends, context = model.end_ids, model.config.context
    if len(ids) >= context:
        raise TinylaneError(f"the prompt has {len(ids)} tokens; this model's context is {context}")
    longest = min(max_tokens, context - len(ids))
    model = _one_lane(model, beams)
    keep = max(2, 1 + len(ends)) * beams  # enough that `beams` of them have no end token
    cache = model.new_cache(LaneRoPE.none(model.theta), LaneMask.independent(beams))
    logprobs = _prefill(model, cache, ids)
    running, finished = [_Beam([], 0.0, [], 0)], list[Hypothesis]()
    for length in range(1, longest + 1):
        parents = np.array([beam.score for beam in running])
        longer = _continuations(running, logprobs + parents[:, None], keep)
        running = []
        for rank, beam in enumerate(longer):
            if beam.tokens[-1] not in ends and length < longest:
                running.append(beam)
            elif rank < beams and not (early_stopping is True and len(finished) == beams):
                finished.append(_finish(model, beam, beam.score / length**length_penalty, ends))
        running = running[:beams]
        finished = sorted(finished, key=lambda done: -done.score)[:beams]
        if not running or (early_stopping is True and len(finished) == beams):
            break
        reach = longest if early_stopping == "never" and length_penalty > 0 else length
        best = running[0].score / reach**length_penalty
        if len(finished) == beams and best <= finished[-1].score:
            break
        running = _place(cache, running, beams)
        last, at = [beam.tokens[-1] for beam in running], len(ids) + length - 1
        lanes = [beam.lane for beam in running]
        logprobs = _feed(model, cache, last, [at] * len(running), lanes)
    return finished


def as_result(
    model: Model, prompt: Prompt, beams: list[Hypothesis], template: dict[str, Any] | None = None
) -> Result:
    """The beams as lanes that read nobody, the best first: a run that can be saved and replayed.

    How the search came to them is not in it. Raises TinylaneError for a model with embeddings of
    lanes, of which every beam has the first.
    """
    if len(beams) > 1 and _one_lane(model, len(beams)) is not model:
        raise TinylaneError(
            "this model has embeddings of lanes, and every beam has the first lane's: "
            "as lanes of one run they would have others"
        )
    ids, ends = encode_prompt(model, prompt, template), model.end_ids
    lanes = []
    for m, x in enumerate(beams):
        why = "stop" if x.tokens[-1] in ends else "length"
        lanes.append(Lane(m, [], len(ids), len(x.tokens), x.tokens, x.logprobs, why, x.text))
    settings = {
        "seed": 0,
        "sampler": asdict(Sampler(temperature=0.0)),
        **LaneRoPE.none(model.theta).settings(),
        **LaneMask.independent(len(beams)).settings(),
        "stop": [],
    }
    return Result(ids, lanes, max(len(x.tokens) for x in beams), 0.0, 0.0, settings)


def _one_lane(model: Model, beams: int) -> Model:
    """The model with the first lane's row for every beam: a beam is a run of one lane, whichever
    lane holds it."""
    tables = {
        name: w[model.array(np.minimum(np.arange(beams + 1), 1).astype(np.int32))]
        for name, w in model.params.items()
        if name.endswith(("lane_embed.weight", "lane_kv.weight"))
    }
    return replace(model, params={**model.params, **tables}) if tables else model


def _continuations(running: list[_Beam], scores: np.ndarray, keep: int) -> list[_Beam]:
    """The best beams that are one token longer, in their parents' lanes; scores (B, V)."""
    flat, V, keep = scores.reshape(-1), scores.shape[1], min(keep, scores.size)
    top = np.argpartition(-flat, keep - 1)[:keep]
    longer = []
    for k in top[np.argsort(-flat[top], kind="stable")]:
        parent, score = running[k // V], float(flat[k])
        logprobs = [*parent.logprobs, score - parent.score]
        longer.append(_Beam(logprobs, score, [*parent.tokens, int(k % V)], parent.lane))
    return longer


def _place(cache: LaneCache, running: list[_Beam], beams: int) -> list[_Beam]:
    """A lane for every beam, with the rows of its parent."""
    parents = {beam.lane for beam in running}
    free, placed = sorted(set(range(beams)) - parents), []
    for lane in free:
        cache.drop(lane)
    for beam in running:
        if beam.lane in parents:
            parents.remove(beam.lane)
            placed.append(beam)
        else:
            cache.fork(beam.lane, free[0])
            placed.append(beam._replace(lane=free.pop(0)))
    return placed


def _feed(model: Model, cache: LaneCache, tokens: Any, positions: Any, lanes: Any) -> np.ndarray:
    """Rows into the cache -> their log-probabilities (T, V), in float64."""
    logits = np.asarray(model(tokens, positions, lanes, cache=cache)).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def _prefill(model: Model, cache: LaneCache, ids: list[int]) -> np.ndarray:
    """The prompt into the cache -> log-probabilities (1, V) after it."""
    for start in range(0, len(ids) - 1, CHUNK):
        rows = range(start, min(start + CHUNK, len(ids) - 1))
        model(ids[start : rows.stop], rows, [SHARED] * len(rows), cache=cache, rows=[0])
    return _feed(model, cache, ids[-1:], [len(ids) - 1], [SHARED])


def _finish(model: Model, beam: _Beam, score: float, ends: frozenset[int]) -> Hypothesis:
    said = [token for token in beam.tokens if token not in ends]
    text = model.tokenizer.decode(said) if model.tokenizer else ""
    return Hypothesis(text, beam.tokens, score, beam.logprobs)
