"""The laws applied to a model; a `Chooser` picks the rest (a shift, a lane).

`LAWS` are those of the method, section 5: laws 1 to 13 are here, the others in `segment_checks` and
`additions`.
`EXTRA` are further checks of what the laws do not cover: the definition itself, the cache's
operations, and decoding against the uncached generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.testing import laws
from tinylane.testing.additions import ADDITIONS
from tinylane.testing.laws import LawViolation, Report, assert_equal, nothing_to_compare
from tinylane.testing.reference import (
    reference,
    same_step_by_definition,
    visible_by_definition,
)
from tinylane.testing.samples import Chooser, Sample
from tinylane.testing.segment_checks import SEGMENT_LAWS
from tinylane.testing.subjects import Law, bound, feeder, in_float64, plain, some_lane


def check(name: str, model: Model, sample: Sample, choose: Chooser) -> Report:
    """Check one law of `LAWS` or `EXTRA` on a model; raises LawViolation, or KeyError."""
    return {**LAWS, **EXTRA}[name].check(model, sample, choose)


def _token_shift(model: Model, sample: Sample, choose: Chooser) -> Report:
    room = getattr(model, "context", 1 << 20) - int(sample.positions.max(initial=0))
    shift = choose.pick([c for c in (1, 7, 100, 100_000) if c < room])
    return laws.assert_token_shift(bound(model, sample), sample, shift, dtype=model.dtype)


def _lane_shift(model: Model, sample: Sample, choose: Chooser) -> Report:
    sample = sample.with_rope(prompt_lane="own")
    shift = choose.integer(1, 5)
    return laws.assert_lane_shift(bound(model, sample), sample, shift, dtype=model.dtype)


def _storage_order(model: Model, sample: Sample, choose: Chooser) -> Report:
    order = np.random.default_rng(choose.integer(0, 999)).permutation(len(sample.tokens))
    return laws.assert_storage_order(bound(model, sample), sample, order, dtype=model.dtype)


def _causality(model: Model, sample: Sample, choose: Chooser) -> Report:
    row, by = choose.integer(0, len(sample.tokens) - 1), choose.integer(1, sample.vocab - 1)
    return laws.assert_causality(bound(model, sample), sample, row, by)


def _isolation(model: Model, sample: Sample, choose: Chooser) -> Report:
    lane, by = some_lane(sample, choose), choose.integer(1, sample.vocab - 1)
    return laws.assert_isolation(bound(model, sample), sample, lane, by)


def _one_lane(model: Model, sample: Sample, choose: Chooser) -> Report:
    any_lane = getattr(sample.rope, "prompt_lane", "own") == "own"
    lane = some_lane(sample, choose) if any_lane else 0
    return laws.assert_one_lane(bound(model, sample), plain(model), sample, lane, dtype=model.dtype)


def _independent(model: Model, sample: Sample, choose: Chooser) -> Report:
    mask = LaneMask(np.eye(sample.mask.n, dtype=bool), sample.mask.lag)
    sample = sample.with_rope(prompt_lane="own").with_mask(mask)
    return laws.assert_independent(bound(model, sample), plain(model), sample, dtype=model.dtype)


def _steps(model: Model, sample: Sample, choose: Chooser) -> Report:
    count = len(sample.tokens)
    step_by_step = choose.pick((True, False))
    some = [choose.integer(1, count) for _ in range(choose.integer(0, 4))]
    return steps(model, sample, range(1, count) if step_by_step else some)


def steps(model: Model, sample: Sample, cuts: Sequence[int]) -> Report:
    """Law 8, with the pieces that `cuts` makes."""
    start = lambda: feeder(model, sample)
    return laws.assert_steps(bound(model, sample), start, sample, cuts, dtype=model.dtype)


def _shared_prompt(model: Model, sample: Sample, choose: Chooser) -> Report:
    sample = sample.with_rope(prompt_lane="own")
    return laws.assert_shared_prompt(bound(model, sample), sample, dtype=model.dtype)


def _periodicity(model: Model, sample: Sample, choose: Chooser) -> Report:
    rng = np.random.default_rng(choose.integer(0, 999))
    turns = rng.integers(-3, 3, sample.rope.omega.shape, endpoint=True)
    return laws.assert_periodicity(bound(model, sample), sample, turns, dtype=model.dtype)


def _group_think(model: Model, sample: Sample, choose: Chooser) -> Report:
    slot, f = choose.pick((1, 2, 7, 500)), bound(model, sample)
    return laws.assert_group_think(f, plain(model), sample, model.theta, slot, dtype=model.dtype)


def _backends(model: Model, sample: Sample, choose: Chooser) -> Report:
    models = {f"{model.backend} {model.dtype}": bound(model, sample)}
    return laws.assert_backends(models, in_float64(model, sample), sample)


def _company(model: Model, sample: Sample, choose: Chooser) -> Report:
    lane = some_lane(sample, choose)
    sample = sample.with_mask(sample.mask.silence(lane))
    return laws.assert_company(bound(model, sample), sample, lane, dtype=model.dtype)


_LAWS = (
    Law(1, "token shift", "adding c to every position changes no logits", _token_shift),
    Law(2, "lane shift", "adding c to every lane index changes no logits", _lane_shift),
    Law(3, "storage order", "permuting rows permutes the logits", _storage_order),
    Law(4, "causality", "a token changes exactly nothing before it", _causality),
    Law(5, "isolation", "a lane that is not reached changes exactly nothing", _isolation),
    Law(6, "one lane", "one lane is the unmodified model, for any Omega", _one_lane),
    Law(7, "independent", "independent lanes are separate runs", _independent),
    Law(8, "steps", "pieces through the cache equal one pass", _steps),
    Law(9, "shared prompt", "the shared prompt equals a copy per lane", _shared_prompt),
    Law(10, "periodicity", "Omega + 2 pi k equals Omega", _periodicity),
    Law(11, "group think", "group_think is the plain model at i + m * slot", _group_think),
    Law(12, "backends", "every backend and dtype agrees with NumPy float64", _backends),
    Law(13, "company", "a lane that nobody sees changes nobody", _company),
)
_ALL = sorted((*_LAWS, *SEGMENT_LAWS, *ADDITIONS), key=lambda law: law.number)
LAWS = {law.name: law for law in _ALL}


# What the laws do not cover.


def exact(model: Model, sample: Sample, noise: float = 0.0) -> np.ndarray:
    """The sample's logits by definition, in float64, from the model's own weights."""
    at = sample.positions, sample.lanes, sample.mask
    visible, across = (visible_by_definition(*at, across) for across in (False, True))
    side: Any = {"same": same_step_by_definition(*at), "across": across}
    return reference(model.config, model.params, *sample.rows, sample.rope, visible, noise, **side)


def _definition(model: Model, sample: Sample, choose: Chooser) -> Report:
    got, expected = bound(model, sample)(*sample.rows), exact(model, sample)
    return assert_equal("definition", got, expected, sample, dtype=model.dtype)


def _permutation(model: Model, sample: Sample, choose: Chooser) -> Report:
    """Other labels for the lanes change nothing where only Omega could tell lanes apart."""
    sample = sample.with_rope(LaneRoPE.none(model.theta, sample.rope.prompt_lane))
    sample = sample.with_mask(LaneMask.joint(sample.mask.n, sample.mask.lag))
    rng = np.random.default_rng(choose.integer(0, 999))
    label = np.append(rng.permutation(sample.mask.n), SHARED)  # label[-1] is SHARED's
    f, detail = bound(model, sample), f"labels {label.tolist()}"
    got, expected = f(sample.tokens, sample.positions, label[sample.lanes]), f(*sample.rows)
    return assert_equal("permutation", got, expected, sample, dtype=model.dtype, detail=detail)


def _same_rows(law: str, model: Model, sample: Sample, cache: Any, rows: Sample) -> Report:
    """The cache holds `rows`: a further token of every lane gets the logits that a pass without a
    cache gives, over `rows` and these tokens."""
    i = int(sample.positions.max()) + 1 + sample.mask.lag
    lanes = np.arange(sample.mask.n)
    further = (lanes % sample.vocab, np.full(len(lanes), i), lanes)
    got = model(*further, cache=cache)
    whole = bound(model, sample)(*rows.followed_by(*further).rows)
    expected = np.asarray(whole)[len(rows.tokens) :]
    return assert_equal(law, got, expected, sample, dtype=model.dtype)


def _filled(model: Model, sample: Sample) -> Any:
    cache = model.new_cache(sample.rope, sample.mask)
    model(*sample.rows, cache=cache)
    return cache


def _fork(model: Model, sample: Sample, choose: Chooser) -> Report:
    """Law 8 for a forked lane: keys that are copied and turned are those of rows of the new lane.

    With joint lanes it holds for one layer only, whose keys depend on the token alone. Deeper rows
    of the source were computed in its lane, at other distances from the other lanes.
    """
    if model.config.layers > 1:
        sample = sample.with_mask(LaneMask.independent(sample.mask.n))
        sample = sample.with_rope(prompt_lane="own")
    source = some_lane(sample, choose)
    target = (source + choose.integer(1, 3)) % sample.mask.n
    sample = sample.select(sample.lanes != target)
    if target == source or len(sample.tokens) == 0:
        return nothing_to_compare("fork")
    cache = _filled(model, sample)
    cache.fork(source, target)
    tokens, positions, lanes = sample.select(sample.lanes == source).rows
    forked = sample.followed_by(tokens, positions, np.full_like(lanes, target))
    return _same_rows("fork", model, sample, cache, forked)


def _drop(model: Model, sample: Sample, choose: Chooser) -> Report:
    """The rows of a dropped lane are gone, in whatever order the cache got them.

    Independent lanes only: rows of other lanes that read the dropped lane keep its influence.
    """
    sample = sample.with_mask(LaneMask.independent(sample.mask.n))
    lane = some_lane(sample, choose)
    cache = _filled(model, sample)
    cache.drop(lane)
    return _same_rows("drop", model, sample, cache, sample.select(sample.lanes != lane))


def _trim(model: Model, sample: Sample, choose: Chooser) -> Report:
    """After `trim` the cache holds the rows before a position, and nothing of later ones."""
    cache = _filled(model, sample)
    position = choose.integer(int(sample.positions.min()), int(sample.positions.max()) + 1)
    cache.trim(position)
    kept = sample.select(sample.positions < position)
    return _same_rows("trim", model, sample, cache, kept)


def _copy(model: Model, sample: Sample, choose: Chooser) -> Report:
    """A copied cache does not share rows: what the original is fed does not appear in the copy."""
    cache = _filled(model, sample)
    twin = cache.copy()
    span = int(np.ptp(sample.positions)) + 1
    more = replace(sample, positions=sample.positions + span)
    other = more.change(slice(None))
    for held, rows in ((twin, more), (cache, other)):
        model(*rows.rows, cache=held)
    both = sample.followed_by(*more.rows)
    return _same_rows("copy", model, both, twin, both)


def _decoding(model: Model, sample: Sample, choose: Chooser) -> Report:
    """The fast generator writes what the uncached one writes, token for token in float64."""
    from tinylane.core.oracle import naive
    from tinylane.core.sampling import Sampler
    from tinylane.methods.decoding import Decoding

    rng = np.random.default_rng(choose.integer(0, 999))
    n, vocab = sample.mask.n, sample.vocab
    prompt = rng.integers(vocab, size=choose.integer(1, 4)).tolist()
    lane_prompts = [rng.integers(vocab, size=choose.integer(0, 3)).tolist() for _ in range(n)]
    sampler = Sampler(
        temperature=choose.pick((1.0, 0.7, 0.0)),
        top_p=choose.pick((1.0, 0.9)),
        repetition_penalty=choose.pick((1.0, 1.3)),
    )
    seed, count = choose.integer(0, 999), choose.integer(1, 5)
    fast = Decoding(
        model, prompt, n, max_tokens=count, sampler=sampler, lane_rope=sample.rope,
        lane_mask=sample.mask, lane_prompts=lane_prompts, seed=seed, chunk=choose.integer(1, 5),
    )  # fmt: skip
    for _ in fast:
        pass
    slow = naive(model, prompt, lane_prompts, count, sampler, sample.rope, sample.mask, seed)
    worst, compared = 0.0, 0
    for a, b in zip(fast.lanes, slow, strict=True):
        same = a.tokens == b.tokens and a.finish_reason == b.finish_reason
        error = np.abs(np.array(a.logprobs) - np.array(b.logprobs)).max() if same else np.inf
        worst, compared = max(worst, float(error)), compared + len(a.tokens)
        report = Report("decoding", worst, 1e-9, compared, a.index)
        if not worst <= report.allowed:
            detail = f"lane {a.index} wrote {a.tokens} ({a.finish_reason}), the oracle "
            detail += f"{b.tokens} ({b.finish_reason}); prompt {prompt}, {lane_prompts=}"
            raise LawViolation(report, sample, detail)
    return report


_EXTRA = (
    Law(0, "definition", "the logits are those of a decoder in complex numbers", _definition),
    Law(0, "permutation", "Omega = 0 cannot tell joint lanes apart", _permutation),
    Law(0, "fork", "a forked lane has the keys of its own lane", _fork),
    Law(0, "drop", "a dropped lane leaves no rows", _drop),
    Law(0, "trim", "trimming leaves what was before", _trim),
    Law(0, "copy", "a copied cache does not share rows", _copy),
    Law(0, "decoding", "the cached generator writes what the uncached one writes", _decoding),
)
EXTRA = {law.name: law for law in _EXTRA}
