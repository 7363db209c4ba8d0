"""Laws 19 to 21: what a checkpoint may add for lanes (method, section 6.1).

As in `laws`, each is an assertion about callables, `f(tokens, positions, lanes) -> logits (T, V)`
with the mask and the rotation of the sample. The checks below ask a `tinylane.Model`: one that has
no such parameters is given some.

    T rows   N lanes   V vocab
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from tinylane.checkpoints import extras
from tinylane.checkpoints.side import BRIDGE, Side
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.testing.laws import (
    Logits,
    Report,
    assert_equal,
    nothing_to_compare,
    worst_of,
)
from tinylane.testing.samples import Chooser, Sample, random_extras
from tinylane.testing.subjects import Law, bound, plain, some_lane

EMBEDDING = "model.embed_tokens.weight"


def assert_identity(f: Logits, untrained: Logits, sample: Sample) -> Report:
    """Law 19: with parameters for lanes that add zero (`untrained`) the logits are f's, to the
    bit."""
    return assert_equal("identity", untrained(*sample.rows), f(*sample.rows), sample, dtype=None)


def assert_bridge_order(
    f: Logits, sample: Sample, order: Sequence[int], *, dtype: str = "float64"
) -> Report:
    """Law 20, first part: a bridge does not tell lanes apart (Omega = 0).

    order: (N,) the new index of each lane; the mask must stay what it is. Raises TinylaneError
    where it does not.
    """
    label = np.append(np.asarray(order), SHARED)
    moved = np.ix_(label[:-1], label[:-1])
    for seen in (sample.mask.visibility, sample.mask.side):
        if seen is not None and not np.array_equal(seen[moved], seen):
            raise TinylaneError(f"bridge: order {list(order)} changes who sees whom")
    got = f(sample.tokens, sample.positions, label[sample.lanes])
    detail = f"order {list(order)}"
    return assert_equal("bridge", got, f(*sample.rows), sample, dtype=dtype, detail=detail)


def assert_bridge_alone(
    f: Logits, rowwise: Logits, sample: Sample, lane: int, *, dtype: str = "float64"
) -> Report:
    """Law 20, second part: one lane alone still adds W_o W_v norm(x), row by row.

    rowwise: `rowwise(tokens, positions)`, the model with that map in the bridge's place. Shared
    rows that come late are left out.
    """
    sample = sample.prompt_first()
    one = sample.select((sample.lanes == SHARED) | (sample.lanes == lane))
    if len(one.tokens) == 0:
        return nothing_to_compare("bridge")
    expected = rowwise(one.tokens, one.positions)
    return assert_equal("bridge", f(*one.rows), expected, one, dtype=dtype, detail="one lane")


def assert_bridge_finished(
    feed: Logits, forgot: Logits, further: Sample, *, dtype: str = "float64"
) -> Report:
    """Law 20, third part: a lane that has ended changes nobody, where no lane reads its rows.

    feed, forgot: both have been fed the same rows, and `forgot` has dropped a lane since. further:
    rows of the other lanes, with the mask.
    """
    expected = feed(*further.rows)
    detail = "a finished lane was dropped"
    return assert_equal(
        "bridge", forgot(*further.rows), expected, further, dtype=dtype, detail=detail
    )


def assert_bridge_history(f: Logits, sample: Sample, row: int, by: int = 1) -> Report:
    """Law 20, fourth part: across a bridge nothing older than this step is heard.

    Another token in `row` changes exactly nothing but the rows that hear of it: those that the mask
    lets read it, those beside it in its step, and so on from these. by: 1 .. V - 1.
    """
    tokens, positions, lanes = sample.rows
    hears = sample.mask.visible(positions, lanes, positions, lanes)
    hears = hears | beside(sample)
    for via in range(len(tokens)):
        hears |= hears[:, via : via + 1] & hears[via : via + 1, :]
    changed, kept = f(*sample.change([row], by).rows), f(*sample.rows)
    how: dict[str, Any] = {"rows": ~hears[:, row], "detail": f"token of row {row} changed"}
    return assert_equal("bridge", changed, kept, sample, dtype=None, **how)


def beside(sample: Sample) -> np.ndarray:
    """(T, T) booleans: rows of lanes in one step that may read each other across a bridge."""
    _, i, m = sample.rows
    of_lanes = (m[:, None] != SHARED) & (m != SHARED)
    side = sample.mask.side
    reads = sample.mask.visibility & (sample.mask.lag == 0) if side is None else side
    return of_lanes & (i[:, None] == i) & reads[m[:, None], m]


def assert_multi_stream(
    f: Logits, plain: Logits, sample: Sample, row: int, by: int = 1, *, dtype: str = "float64"
) -> Report:
    """Law 21: Multi-Stream without its embedding is joint lanes with lag 1 and no Omega.

    A row sees what stands at an earlier position, in any stream, and itself (the words of its
    code); f's mask and rotation are `joint`, lag 1, and none. And another token in `row` changes
    exactly nothing in the other rows of its step. Shared rows that come late are left out before.
    """
    tokens, positions, _ = sample.rows
    seen = (positions < positions[:, None]) | np.eye(len(positions), dtype=bool)
    got, kept = f(*sample.rows), plain(tokens, positions, seen)
    first = assert_equal("multi stream", got, kept, sample, dtype=dtype)
    others = (positions == positions[row]) & (np.arange(len(tokens)) != row)
    changed, detail = f(*sample.change([row], by).rows), f"token of row {row} changed"
    how: dict[str, Any] = {"dtype": None, "rows": others, "detail": detail}
    return worst_of([first, assert_equal("multi stream", changed, got, sample, **how)])


# The checks of a model.


def given(model: Model, params: Mapping[str, np.ndarray]) -> Model:
    """The model with more parameters, which are as the decoder takes them."""
    more = dict(model.params)
    in_file = {name: extras.turned(name, value) for name, value in params.items()}
    extras.put(more, in_file, model.backend, model.dtype)
    return replace(model, params=more, side=Side)


def without(model: Model, *kinds: str) -> Model:
    """The model without its parameters of these kinds."""
    kept = {k: v for k, v in model.params.items() if not {*extras.kinds_of([k])} & {*kinds}}
    return replace(model, params=kept) if len(kept) < len(model.params) else model


def _identity(model: Model, sample: Sample, choose: Chooser) -> Report:
    """Law 19 for all kinds that the model has not, and for an Omega of zeros in every layer."""
    if EMBEDDING not in model.params:  # a model of another library: there is no place for them
        return nothing_to_compare("identity")
    kinds = [kind for kind in extras.KINDS if kind not in extras.kinds_of(model.params)]
    more = given(model, extras.start(model.config, kinds, sample.mask.n))
    f, none = bound(model, sample), LaneRoPE.none(model.theta)
    zero = LaneRoPE(np.zeros((model.config.layers, len(model.theta))))
    turned = assert_identity(partial(f, lane_rope=none), partial(f, lane_rope=zero), sample)
    return worst_of([assert_identity(f, bound(more, sample), sample), turned])


def bridge(model: Model, sample: Sample, lane: int, order: Sequence[int], by: int) -> Report:
    """Law 20 in its four parts, for the model's bridge or a random one. lane: which is alone, and
    which ends."""
    if EMBEDDING not in model.params:
        return nothing_to_compare("bridge")
    model, n = without(model, "lane_embed", "lane_kv", "lace"), sample.mask.n
    if BRIDGE not in model.params:
        model = given(model, random_extras(model.config, ("bridge",), n, by))
    sample = sample.with_rope(LaneRoPE.none(model.theta)).with_mask(LaneMask.bridge(n))
    f, how = bound(model, sample), {"dtype": model.dtype}
    reports = [
        assert_bridge_order(f, sample, order, **how),
        assert_bridge_alone(f, plain(model), sample, lane, **how),
        assert_bridge_history(f, sample, len(sample.tokens) // 2, by),
    ]
    others = np.delete(np.arange(n), lane)
    if len(others):
        further = np.full(len(others), int(sample.positions.max()) + 1)
        rows = replace(sample, tokens=others % sample.vocab, positions=further, lanes=others)
        caches = [model.new_cache(sample.rope, sample.mask) for _ in range(2)]
        for cache in caches:
            model(*sample.rows, cache=cache)
        caches[1].drop(lane)
        feed, forgot = (partial(model, cache=cache) for cache in caches)
        reports.append(assert_bridge_finished(feed, forgot, rows, **how))
    return worst_of(reports)


def _multi_stream(model: Model, sample: Sample, choose: Chooser) -> Report:
    """Law 21 for any row of the sample."""
    back, by = choose.integer(0, 99), choose.integer(1, sample.vocab - 1)
    model = without(model, "lane_embed", "lane_kv")
    sample = sample.prompt_first().with_rope(LaneRoPE.none(model.theta))
    sample = sample.with_mask(LaneMask.joint(sample.mask.n, lag=1))
    if len(sample.tokens) == 0:
        return nothing_to_compare("multi stream")
    row = len(sample.tokens) - 1 - back % len(sample.tokens)
    f, how = bound(model, sample), {"dtype": model.dtype}
    return assert_multi_stream(f, plain(model), sample, row, by, **how)


def _bridge(model: Model, sample: Sample, choose: Chooser) -> Report:
    rng = np.random.default_rng(choose.integer(0, 999))
    order, by = rng.permutation(sample.mask.n), choose.integer(1, sample.vocab - 1)
    return bridge(model, sample, some_lane(sample, choose), order.tolist(), by)


ADDITIONS = (
    Law(19, "identity", "what adds zero for lanes changes no bit", _identity),
    Law(20, "bridge", "a bridge knows no lanes, and nothing older than a step", _bridge),
    Law(21, "multi stream", "Multi-Stream without embeddings is lag 1", _multi_stream),
)
